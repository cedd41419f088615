//! What is read of a document, and what is left out.

use serde_json::{Value, json};

use crate::gate::{Gate, claims, verifier};
use crate::issuer::{Issuer, JWKS, Reply};
use crate::signer::{Signer, base64url, jwks};

/// What an API answers to these tokens when its issuer publishes these keys.
async fn answers<const N: usize>(keys: &[Value], tokens: [(&Signer, Value); N]) -> [String; N] {
    let issuer = Issuer::with_keys(&json!({ "keys": keys, "other": [1] })).await;
    let name = issuer.name();
    let fetched = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(&name, &fetched));
    let mut texts = Vec::new();
    for (signer, header) in tokens {
        texts.push(gate.get(&signer.sign(&header, &claims(&name, "user-1"))).await.text);
    }
    texts.try_into().unwrap()
}

fn access() -> Value {
    json!({ "typ": "at+jwt" })
}

#[tokio::test]
async fn a_key_that_cannot_be_read_loses_no_other() {
    let (ed, ec, good) = (Signer::new("odd"), Signer::ec("odd"), Signer::new("good"));
    let short_x = base64url([7; 31]);
    let small = base64url([0xC3; 128]);
    for odd in [
        json!({}),
        json!(7),
        json!("key"),
        json!({ "kty": "FOO", "kid": "odd" }),
        json!({ "kty": 1 }),
        json!({ "kty": "AKP", "alg": "ML-DSA-65", "kid": "odd", "pub": "AAAA" }),
        json!({ "kty": "RSA", "kid": "odd", "e": "AQAB" }),
        json!({ "kty": "RSA", "kid": "odd", "e": "AQAB", "n": small }),
        json!({ "kty": "RSA", "kid": "odd", "e": "AQAB", "n": "!!" }),
        ec.jwk_with(&json!({ "x": short_x })),
        ec.jwk_with(&json!({ "x": base64url([1; 32]) })),
        ec.jwk_with(&json!({ "crv": "p-256" })),
        ec.jwk_with(&json!({ "crv": "P-384", "alg": "ES384" })),
        ec.jwk_with(&json!({ "alg": "ES384" })),
        ed.jwk_with(&json!({ "crv": "X25519" })),
        ed.jwk_with(&json!({ "x": base64url([0; 32]) })),
        ed.jwk_with(&json!({ "alg": ["EdDSA"] })),
    ] {
        let answers = answers(&[odd.clone(), good.jwk()], [(&good, access())]).await;
        assert_eq!(answers, ["200 user-1"], "JWT-51, JWT-53: {odd}");
    }
}

#[tokio::test]
async fn a_key_that_is_meant_for_something_else_is_left_out() {
    let (odd, good) = (Signer::new("odd"), Signer::new("good"));
    for (members, is_used) in [
        (json!({}), true),
        (json!({ "key_ops": ["verify"] }), true),
        (json!({ "alg": "Ed25519" }), true),
        // Some issuers write what they do not say as null.
        (json!({ "use": null }), true),
        (json!({ "alg": null }), true),
        (json!({ "key_ops": null }), true),
        (json!({ "use": null, "alg": null, "key_ops": null }), true),
        (json!({ "use": null, "key_ops": ["verify", "deriveKey"] }), true),
        (json!({ "use": "enc", "key_ops": null }), false),
        (json!({ "use": null, "key_ops": [null] }), false),
        (json!({ "d": null }), false),
        (json!({ "use": "enc" }), false),
        (json!({ "use": ["sig"] }), false),
        (json!({ "use": "SIG" }), false),
        (json!({ "key_ops": ["sign"] }), false),
        (json!({ "key_ops": [] }), false),
        (json!({ "key_ops": "verify" }), false),
        (json!({ "alg": "RS256" }), false),
        (json!({ "alg": "ECDH-ES" }), false),
        (json!({ "d": base64url([7; 32]) }), false),
        (json!({ "use": "enc", "key_ops": ["verify"] }), false),
    ] {
        let keys = [odd.jwk_with(&members), good.jwk()];
        let [odd_answer, good_answer] = answers(&keys, [(&odd, access()), (&good, access())]).await;
        let expected = if is_used { "200 user-1" } else { "401 unknown_key" };
        assert_eq!(odd_answer, expected, "JWT-52, JWT-54, attack 20: {members}");
        assert_eq!(good_answer, "200 user-1", "JWT-51: {members}");
    }
}

/// A secret that is published is one that everybody can sign with.
#[tokio::test]
async fn a_published_secret_verifies_nothing() {
    let good = Signer::new("good");
    let secret = json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": base64url([7; 32]) });
    let issuer = Issuer::with_keys(&json!({ "keys": [secret, good.jwk()] })).await;
    let name = issuer.name();
    let fetched = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(&name, &fetched));
    let header = json!({ "alg": "HS256", "kid": "s", "typ": "at+jwt" }).to_string();
    let signed = format!("{}.{}", base64url(header), base64url(claims(&name, "x").to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    let mac = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    let answer = gate.get(&format!("{signed}.{}", base64url(mac))).await;
    assert_eq!(answer.text, "401 unsupported_algorithm", "JWT-54, attack 20");
    let answer = gate.get(&good.token(&claims(&name, "user-1"))).await;
    assert_eq!(answer.text, "200 user-1", "JWT-54");
}

#[tokio::test]
async fn keys_of_one_name_are_all_tried() {
    let (rsa, ec, ed, ed2) =
        (Signer::rsa("one"), Signer::ec("one"), Signer::new("one"), Signer::new("one"));
    let keys = [rsa.jwk(), ec.jwk(), ed.jwk(), ed2.jwk()];
    let tokens = [&rsa, &ec, &ed, &ed2].map(|signer| (signer, access()));
    assert_eq!(answers(&keys, tokens).await, ["200 user-1"; 4], "JWT-55, attack 20");
}

#[tokio::test]
async fn the_media_type_of_the_document_does_not_matter() {
    let signer = Signer::new("a");
    let document = jwks(&[&signer]).to_string();
    for media_type in [
        "application/jwk-set+json",
        "application/json; charset=utf-8",
        "text/plain",
        "application/octet-stream",
    ] {
        let issuer = Issuer::start().await;
        issuer.serve(JWKS, Reply::text(200, media_type, &document));
        let fetched = issuer.jwks().start().unwrap();
        let gate = Gate::new(verifier(&issuer.name(), &fetched));
        let answer = gate.get(&signer.token(&claims(&issuer.name(), "user-1"))).await;
        assert_eq!(answer.text, "200 user-1", "JWT-56: {media_type}");
    }
}

/// A token names an issuer, and the keys of that one alone are asked (JWT-41).
#[tokio::test]
async fn the_key_of_one_issuer_signs_nothing_for_another() {
    use tower_gate::verifier::RoutedVerifier;

    let (ours, theirs) = (Signer::new("same"), Signer::new("same"));
    let a = Issuer::with_keys(&jwks(&[&ours])).await;
    let b = Issuer::with_keys(&jwks(&[&theirs])).await;
    let (a_keys, b_keys) = (a.jwks().start().unwrap(), b.jwks().start().unwrap());
    let verifier = RoutedVerifier::new()
        .with_issuer(&a.name(), verifier(&a.name(), &a_keys))
        .with_issuer(&b.name(), verifier(&b.name(), &b_keys));
    let api = Gate::new(verifier).serve().await;
    for (signer, issuer, expected) in [
        (&ours, a.name(), "200 user-1"),
        (&theirs, b.name(), "200 user-1"),
        (&ours, b.name(), "401 bad_signature"),
        (&theirs, a.name(), "401 bad_signature"),
        (&ours, format!("{}/", a.name()), "401 wrong_issuer"),
        (&ours, a.name().to_uppercase(), "401 wrong_issuer"),
        (&ours, String::new(), "401 wrong_issuer"),
    ] {
        let answer = api.get(&signer.token(&claims(&issuer, "user-1"))).await;
        assert_eq!(answer.text, expected, "JWT-41, attack 16: {issuer}");
    }
}
