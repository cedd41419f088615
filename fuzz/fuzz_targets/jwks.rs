#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tower_gate::verifier::jwt::KeySet;
use tower_gate_fuzz::{AUDIENCE, ISSUER, NOW, TOKENS, ask, builder};

fuzz_target!(|json: &str| {
    let Ok(keys) = KeySet::from_jwks(json) else {
        return;
    };
    let document: Value = serde_json::from_str(json).expect("a set is JSON");
    let listed = document["keys"].as_array().expect("a set has keys");
    assert!((1..=listed.len().min(64)).contains(&keys.len()), "{} keys", keys.len());
    let secrets = listed.iter().filter(|key| key["kty"] == "oct").count();
    assert!(keys.len() <= listed.len() - secrets, "a published secret was taken");

    let verifier = builder().with_keys(keys).build().expect("a set that was read can be used");
    assert!(ask(&verifier, TOKENS[0]).unwrap().is_err(), "no set has a secret");
    for token in FORGERIES.iter() {
        assert!(ask(&verifier, token).unwrap().is_err(), "anybody can sign for a key: {token}");
    }
});

/// Signatures that need no private key where a public one is degenerate.
static FORGERIES: LazyLock<Vec<String>> = LazyLock::new(|| {
    // With an exponent of 1, a signature is the padded hash itself (RFC 8017 §9.2).
    let padded_hash = |signed: &str| {
        let info = b"\0\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\0\x04\x20";
        let hash = digest(&SHA256, signed.as_bytes());
        let padding = vec![0xFF; 256 - 2 - info.len() - hash.as_ref().len()];
        [b"\0\x01", &padding[..], info, hash.as_ref()].concat()
    };
    // With a key of small order, R = 1 and S = 0 are good for one message in eight or more.
    let neutral = [&[1][..], &[0; 63]].concat();
    let mut tokens = vec![forge("RS256", 0, padded_hash)];
    tokens.extend((0..32).map(|number| forge("EdDSA", number, |_| neutral.clone())));
    for (algorithm, len) in [("RS256", 256), ("PS256", 256), ("ES256", 64), ("ES384", 96)] {
        tokens.push(forge(algorithm, 0, |_| vec![0; len]));
    }
    tokens
});

fn forge(algorithm: &str, number: u32, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let header = json!({ "typ": "at+jwt", "alg": algorithm });
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "root",
        "client_id": "web",
        "iat": NOW,
        "exp": NOW + 60,
        "jti": number.to_string(),
    });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(sign(&signed));
    format!("{signed}.{signature}")
}
