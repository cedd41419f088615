//! Ready tokens for trying things out, under a key that is made at start.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::Error;
use crate::flags::Flags;

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "https://api.example";

pub(crate) struct Demo {
    pub(crate) secret: [u8; 32],
    /// Names and tokens.
    pub(crate) tokens: Vec<(&'static str, String)>,
}

impl Demo {
    /// With the names that the flags give.
    pub(crate) fn new(flags: &Flags) -> Result<Self, Error> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| "the machine has no random bytes for a key")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let reader = "read:reports";
        let writer = "read:reports write:reports payouts:read";
        let tokens = [
            ("viewer", reader, now + 3600),
            ("editor", writer, now + 3600),
            ("admin", writer, now + 3600),
            ("partner", reader, now + 3600),
            ("internal", reader, now + 3600),
            ("expired", reader, now - 3600),
        ];
        let tokens = tokens.map(|(name, scopes, end)| {
            let claims = json!({
                "iss": flags.issuer, "aud": flags.audiences, "sub": name, "client_id": "demo",
                "jti": format!("demo-{name}"), "iat": end - 3600, "exp": end,
                "scope": scopes, "roles": [name], "acr": "mfa", "auth_time": now,
            });
            (name, sign(&secret, &claims))
        });
        Ok(Self { secret, tokens: tokens.into() })
    }
}

fn sign(secret: &[u8], claims: &Value) -> String {
    let header = json!({ "typ": "at+jwt", "alg": "HS256" });
    let [header, claims] = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}
