//! An issuer that signs access tokens, for tests and for trying things out.
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::AuthenticateLayer;
//! use tower_gate::test_util::TestIssuer;
//!
//! let issuer = TestIssuer::new("https://issuer.example", "https://api.example");
//! let layer = AuthenticateLayer::new(issuer.verifier());
//! let token = issuer.token("user-1").scopes("read:reports").roles(["editor"]).sign();
//! let header = format!("Bearer {token}");
//! # let _ = (layer, header);
//! ```
//!
//! # Security
//!
//! The key is made when the issuer is, and never leaves it: its tokens are good in this process
//! alone. Do not sign tokens for production with it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64_simd::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::verifier::jwt::{JwtVerifier, JwtVerifierBuilder, VerifyingKey};

/// The `kid` of the one key.
const KEY_ID: &str = "test";

/// An issuer with an Ed25519 key of its own.
pub struct TestIssuer {
    name: String,
    audience: String,
    key: Ed25519KeyPair,
}

impl TestIssuer {
    /// An issuer of this name, whose tokens are for this audience.
    ///
    /// # Panics
    ///
    /// When the machine has no randomness for a key.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test without a key cannot go on")]
    pub fn new(name: &str, audience: &str) -> Self {
        let key = Ed25519KeyPair::generate().expect("random bytes for a key");
        Self { name: name.to_owned(), audience: audience.to_owned(), key }
    }

    /// The public key as a JWKS document.
    #[must_use]
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// A verifier of this issuer's tokens.
    ///
    /// # Panics
    ///
    /// When the issuer's name or its audience is empty.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test without a verifier cannot go on")]
    pub fn verifier(&self) -> JwtVerifier {
        self.verifier_builder().build().expect("a name and an audience")
    }

    /// The same verifier, before it is built, to configure it further.
    #[expect(clippy::expect_used, reason = "a test without a verifier cannot go on")]
    pub fn verifier_builder(&self) -> JwtVerifierBuilder {
        let key = VerifyingKey::from_jwk(&self.jwk().to_string()).expect("a key just made");
        JwtVerifier::builder().issuer(&self.name).audience(&self.audience).with_key(key)
    }

    /// Starts a token for this subject, issued now, good for an hour, without scopes, for the
    /// client `test`.
    pub fn token(&self, subject: &str) -> TestToken<'_> {
        let claims = Map::from_iter([
            ("iss".to_owned(), self.name.as_str().into()),
            ("sub".to_owned(), subject.into()),
            ("aud".to_owned(), self.audience.as_str().into()),
            ("client_id".to_owned(), "test".into()),
            ("jti".to_owned(), format!("test-{subject}").into()),
        ]);
        let (issued_at, lifetime) = (SystemTime::now(), Duration::from_secs(3600));
        TestToken { issuer: self, issued_at, lifetime, claims }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode_to_string(self.key.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": KEY_ID, "x": x })
    }
}

/// Shows the name, never the key.
impl fmt::Debug for TestIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestIssuer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A token of a [`TestIssuer`] that is not signed yet.
#[derive(Debug)]
#[must_use = "a token is nothing until it is signed"]
pub struct TestToken<'a> {
    issuer: &'a TestIssuer,
    issued_at: SystemTime,
    lifetime: Duration,
    claims: Map<String, Value>,
}

impl TestToken<'_> {
    /// The application that the token is given to.
    pub fn client(self, client: &str) -> Self {
        self.claim("client_id", client)
    }

    /// The scopes, as one text with spaces between.
    pub fn scopes(self, scopes: &str) -> Self {
        self.claim("scope", scopes)
    }

    /// The roles.
    pub fn roles<'r>(self, roles: impl IntoIterator<Item = &'r str>) -> Self {
        self.claim("roles", roles.into_iter().collect::<Vec<_>>())
    }

    /// When the token was issued. Default: now.
    pub fn issued_at(self, issued_at: SystemTime) -> Self {
        Self { issued_at, ..self }
    }

    /// How long it is good for. Default: an hour.
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Any claim, in place of the one that there was; `null` takes it away.
    ///
    /// # Panics
    ///
    /// When the value cannot be JSON.
    #[expect(clippy::expect_used, reason = "a test without its claims cannot go on")]
    pub fn claim(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("a claim is JSON");
        self.claims.insert(name.to_owned(), value);
        self
    }

    /// The token as it goes into an `Authorization` header.
    #[must_use]
    pub fn sign(mut self) -> String {
        let since_1970 = self.issued_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        for (name, time) in [("iat", since_1970), ("exp", since_1970 + self.lifetime)] {
            self.claims.entry(name).or_insert_with(|| time.as_secs().into());
        }
        self.claims.retain(|_, value| !value.is_null());
        let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": KEY_ID });
        let [header, claims] = [header, Value::Object(self.claims)]
            .map(|part| URL_SAFE_NO_PAD.encode_to_string(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode_to_string(self.issuer.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}
