//! Tokens that have broken others, and what each comes to.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::gate::{NOW, claims};
use crate::signer::{Signer, base64url};

/// What each of these tokens comes to: the status, the word in the body, and the reason in the
/// audit trail.
pub(super) type Cases = Vec<(&'static str, String, (u16, &'static str, &'static str))>;

const MALFORMED: (u16, &str, &str) = (401, "invalid_token", "malformed_token");
const UNSUPPORTED: (u16, &str, &str) = (401, "invalid_token", "unsupported_algorithm");
const BAD_SIGNATURE: (u16, &str, &str) = (401, "invalid_token", "bad_signature");
pub(super) const UNKNOWN_KEY: (u16, &str, &str) = (401, "invalid_token", "unknown_key");
const INVALID_CLAIMS: (u16, &str, &str) = (401, "invalid_token", "invalid_claims");
const MISSING_CLAIM: (u16, &str, &str) = (401, "invalid_token", "missing_claim");
const WRONG_AUDIENCE: (u16, &str, &str) = (401, "invalid_token", "wrong_audience");
const WRONG_TYPE: (u16, &str, &str) = (401, "invalid_token", "wrong_type");

/// The keys of an issuer, and its name.
pub(super) struct Keys {
    pub(super) name: String,
    pub(super) ed: Signer,
    pub(super) ec: Signer,
    pub(super) rsa: Signer,
}

impl Keys {
    /// Every one of them; `elsewhere` is an address that nobody must ask at.
    pub(super) fn cases(&self, elsewhere: &str) -> Cases {
        [
            unsigned(self),
            signed_by_what_is_public(self),
            psychic(self),
            with_keys_of_its_own(self, elsewhere),
            with_names_that_inject(self),
            malformed_headers(self),
            other_serialisations(self),
            claims_that_are_read_in_two_ways(self),
            signed_for_something_else(self),
        ]
        .concat()
    }

    pub(super) fn claims(&self) -> Value {
        claims(&self.name, "user-1")
    }

    /// Good claims with this member, whatever it is, and as often as it is there then.
    fn with_text(&self, member: impl AsRef<[u8]>) -> String {
        let good = self.claims().to_string();
        let claims = [&good.as_bytes()[..good.len() - 1], b",", member.as_ref(), b"}"].concat();
        self.ed.sign_bytes(HEADER, claims)
    }

    /// Good claims with this member in the place of the one of its name.
    fn with(&self, name: &str, text: &str) -> String {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        let good = claims.to_string();
        let claims = format!("{},\"{name}\":{text}}}", &good[..good.len() - 1]);
        self.ed.sign_bytes(HEADER, claims)
    }

    fn without(&self, name: &str) -> String {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        self.ed.token(&claims)
    }
}

const HEADER: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}"#;

pub(super) fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(signature))
}

pub(super) fn without_signature(token: &str) -> &str {
    token.rsplit_once('.').unwrap().0
}

fn unsigned(keys: &Keys) -> Cases {
    let mut cases = Cases::new();
    for none in ["none", "None", "NONE", "nOnE", "noNE", "NoNe", "nonE", "NOne"] {
        let header = json!({ "alg": none, "typ": "at+jwt" }).to_string();
        let token = format!("{}.{}", base64url(header), base64url(keys.claims().to_string()));
        cases.push(("attack 1: none", format!("{token}."), UNSUPPORTED));
        cases.push(("attack 1: none, and no dot", token, MALFORMED));
    }
    let good = keys.ed.token(&keys.claims());
    let cut = without_signature(&good).to_owned();
    cases.push(("attack 1: no signature", format!("{cut}."), BAD_SIGNATURE));
    cases
}

fn signed_by_what_is_public(keys: &Keys) -> Cases {
    let der = keys.rsa.public_der();
    let begin_and_end = |label| format!("-----{label} PUBLIC KEY-----");
    let (begin, end) = (begin_and_end("BEGIN"), begin_and_end("END"));
    let pem = format!("{begin}\n{}\n{end}\n", STANDARD.encode(&der));
    let secrets = [
        format!("{pem}\n ").into_bytes(),
        format!("\u{feff}{pem}").into_bytes(),
        pem.into_bytes(),
        keys.rsa.jwk().to_string().into_bytes(),
        der,
        // Attack 4: and by nothing at all.
        Vec::new(),
        vec![0; 32],
    ];
    let header = json!({ "alg": "HS256", "typ": "at+jwt", "kid": "rsa" });
    let sign = |secret: Vec<u8>| hs256(&secret, &header, &keys.claims());
    secrets.map(|secret| ("attack 2, attack 4", sign(secret), UNSUPPORTED)).into()
}

fn psychic(keys: &Keys) -> Cases {
    let good = keys.ec.token(&keys.claims());
    let signed = without_signature(&good);
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> =
        (0..32).map(|n| u8::from_str_radix(&order[2 * n..2 * n + 2], 16).unwrap()).collect();
    let [zero, one] = [0, 1].map(|last| [&[0; 31][..], &[last]].concat());
    let signatures = [
        [&*zero, &*zero].concat(),
        [&*zero, &*one].concat(),
        [&*one, &*zero].concat(),
        [&*one, &*one].concat(),
        [&*order, &*order].concat(),
        vec![0xFF; 64],
        vec![0; 63],
        vec![0; 65],
        vec![0; 128],
        // 0 and 0 in DER.
        vec![0x30, 6, 2, 1, 0, 2, 1, 0],
        Vec::new(),
    ];
    let token = |signature| format!("{signed}.{}", base64url(signature));
    signatures.map(|signature| ("attack 3", token(signature), BAD_SIGNATURE)).into()
}

/// Keys that the token itself brings or names.
fn with_keys_of_its_own(keys: &Keys, elsewhere: &str) -> Cases {
    let (known, unknown) = (Signer::new("ed"), Signer::new("evil"));
    let mut cases = Cases::new();
    for member in [
        json!({ "jku": elsewhere }),
        json!({ "x5u": elsewhere }),
        json!({ "jwk": known.jwk() }),
        json!({ "jwk": unknown.jwk(), "jku": elsewhere, "x5u": elsewhere }),
        json!({ "x5c": [STANDARD.encode(known.public_der())] }),
    ] {
        let mut header = member;
        header["typ"] = "at+jwt".into();
        cases.push(("attack 5: known", known.sign(&header, &keys.claims()), BAD_SIGNATURE));
        cases.push(("attack 5: unknown", unknown.sign(&header, &keys.claims()), UNKNOWN_KEY));
    }
    cases
}

fn with_names_that_inject(keys: &Keys) -> Cases {
    let long = "k".repeat(300);
    let kids = [
        ("../../dev/null", UNKNOWN_KEY),
        ("' OR 1=1 --", UNKNOWN_KEY),
        ("ed'; DROP TABLE keys; --", UNKNOWN_KEY),
        ("ed\r\n{\"outcome\":\"allowed\"}", UNKNOWN_KEY),
        ("ed\n", UNKNOWN_KEY),
        ("ed\0", UNKNOWN_KEY),
        ("${jndi:ldap://127.0.0.1/a}", UNKNOWN_KEY),
        (&long, MALFORMED),
    ];
    kids.map(|(kid, expected)| ("attack 6", Signer::new(kid).token(&keys.claims()), expected))
        .into()
}

fn malformed_headers(keys: &Keys) -> Cases {
    let claims = keys.claims().to_string();
    let sign = |member: &str| {
        let header = format!("{},{member}}}", &HEADER[..HEADER.len() - 1]);
        keys.ed.sign_bytes(header, &claims)
    };
    let crits = [
        r#""crit":["x"]"#,
        r#""crit":["x"],"x":1"#,
        r#""crit":[]"#,
        r#""crit":"exp""#,
        r#""crit":["exp"],"exp":1"#,
        r#""crit":null"#,
        r#""b64":false,"crit":["b64"]"#,
    ];
    let twice = [r#""alg":"none""#, r#""kid":"ed""#, r#""\u0061lg":"EdDSA""#];
    let crits = crits.map(|member| ("attack 7", sign(member), MALFORMED));
    let twice = twice.map(|member| ("attack 9: header", sign(member), MALFORMED));
    crits.into_iter().chain(twice).collect()
}

fn other_serialisations(keys: &Keys) -> Cases {
    let good = keys.ed.token(&keys.claims());
    let parts: Vec<_> = good.split('.').collect();
    let json =
        json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] }).to_string();
    let broken = (400, "invalid_request", "broken_header");
    vec![
        ("attack 8: JSON", json.clone(), broken),
        ("attack 8: braces", format!("{{{good}}}"), broken),
        ("attack 8: JSON inside", base64url(&json), MALFORMED),
        ("attack 8: two parts", parts[..2].join("."), MALFORMED),
        ("attack 8: four parts", format!("{good}.{}", parts[2]), BAD_SIGNATURE),
        ("attack 8: five parts", format!("{good}.AAAA.AAAA"), BAD_SIGNATURE),
        ("attack 11: dots", ".".repeat(8192), MALFORMED),
        ("attack 11: a longer token", ".".repeat(100_000), MALFORMED),
    ]
}

fn claims_that_are_read_in_two_ways(keys: &Keys) -> Cases {
    let mut cases = Cases::new();
    for member in [
        &br#""sub":"admin""#[..],
        br#""s\u0075b":"admin""#,
        br#""exp":9999999999"#,
        br#""x":{"a":1,"a":2}"#,
        b"\"x\":\"\xc0\xaf\"",
        b"\"x\":\"\xed\xa0\x80\"",
        b"\"x\":\"\xff\"",
    ] {
        cases.push(("attack 9", keys.with_text(member), INVALID_CLAIMS));
    }
    for (name, text) in [
        ("exp", "\"9999999999\""),
        ("exp", "null"),
        ("exp", "[9999999999]"),
        ("exp", "true"),
        ("exp", "{}"),
        ("exp", "1e400"),
        ("exp", "NaN"),
        ("nbf", "\"0\""),
        ("iat", "\"0\""),
        ("sub", "7"),
        ("iss", "[]"),
        ("aud", "{}"),
    ] {
        cases.push(("attack 10", keys.with(name, text), INVALID_CLAIMS));
    }
    cases.push((
        "attack 10: a negative end",
        keys.with("exp", "-1"),
        (401, "token_expired", "expired"),
    ));
    cases
}

fn signed_for_something_else(keys: &Keys) -> Cases {
    let mut cases = Cases::new();
    for typ in ["JWT", "refresh+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", ""] {
        let token = keys.ed.sign(&json!({ "typ": typ }), &keys.claims());
        cases.push(("attack 13", token, WRONG_TYPE));
    }
    cases.push(("attack 13: no type", keys.ed.sign(&json!({}), &keys.claims()), WRONG_TYPE));
    let century = 100 * 365 * 86_400;
    for (name, end, expected) in [
        ("exp", NOW + century, INVALID_CLAIMS),
        ("iat", NOW + 3_000, INVALID_CLAIMS),
        ("exp", NOW - 31, (401, "token_expired", "expired")),
        ("nbf", NOW + 31, (401, "token_not_active", "not_active")),
    ] {
        cases.push(("attack 14", keys.with(name, &end.to_string()), expected));
    }
    cases.push(("attack 14: no end", keys.without("exp"), MISSING_CLAIM));
    for audience in [
        "\"https://api.evil\"",
        "[\"a\",\"b\"]",
        "\"https://api.exampl\"",
        "\"https://api.example/\"",
        "\"https://api.example.evil\"",
        "\"HTTPS://API.EXAMPLE\"",
        "\"https://api.evil https://api.example\"",
        "\"\"",
    ] {
        cases.push(("attack 15", keys.with("aud", audience), WRONG_AUDIENCE));
    }
    cases.push(("attack 15: nobody", keys.with("aud", "[]"), MISSING_CLAIM));
    cases.push(("attack 15: no audience", keys.without("aud"), MISSING_CLAIM));
    cases
}
