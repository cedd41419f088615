#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tower_gate::Principal;
use tower_gate_fuzz::{AUDIENCE, ISSUER, NOW, SECRET, object, only_what_is_said, verify};

static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, SECRET));

// The first line is the header of a token, the rest its claims. The signature is always good.
fuzz_target!(|data: &str| {
    let (header, claims) = data.split_once('\n').unwrap_or((data, ""));
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&KEY, signed.as_bytes()));
    if let Some(Ok(principal)) = verify(&format!("{signed}.{signature}")) {
        may_be_accepted(&object(header), &object(claims), &principal);
    }
});

/// Every rule that a reader of the RFCs would check again, on values that were parsed anew.
fn may_be_accepted(header: &Map<String, Value>, claims: &Map<String, Value>, who: &Principal) {
    assert_eq!(header["alg"], "HS256");
    let typ = header["typ"].as_str().unwrap().to_ascii_lowercase();
    assert!(typ == "at+jwt" || typ == "application/at+jwt", "typ {typ}");
    assert!(!header.contains_key("crit") && !header.contains_key("b64"));

    assert_eq!(claims["iss"], ISSUER);
    let for_us = |audience: &Value| audience == AUDIENCE;
    let audience = &claims["aud"];
    assert!(for_us(audience) || audience.as_array().is_some_and(|all| all.iter().any(for_us)));
    assert!(["client_id", "jti"].iter().all(|&name| claims[name].is_string()));
    assert!(!claims.contains_key("cnf"));

    let time = |name: &str| claims.get(name).map(|value| value.as_f64().expect("a number"));
    let (now, leeway) = (NOW as f64, 30.0);
    let (expires_at, issued_at) = (time("exp").unwrap(), time("iat").unwrap());
    assert!(now < expires_at + leeway, "expired");
    assert!(issued_at - leeway <= now, "from the future");
    assert!(expires_at - issued_at <= 86_400.0, "for ever");
    assert!(time("nbf").is_none_or(|not_before| not_before - leeway <= now), "too early");

    only_what_is_said(claims, who);
}
