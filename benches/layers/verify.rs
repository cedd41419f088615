//! Tokens never seen before, beside the check of their signature alone.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, ParsedPublicKey,
    RsaEncoding, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tower_gate::verifier::VerifyRequest;
use tower_gate::verifier::jwt::{Algorithm, JwtVerifier, VerifyingKey};
use tower_gate::{BearerToken, TokenVerifier};

use crate::harness::Subject;

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "https://api.example";

/// A key pair: what signs, and what the two sides of the comparison check with.
struct Pair {
    sign: Box<dyn Fn(&[u8]) -> Vec<u8>>,
    check: Box<dyn Fn(&[u8], &[u8]) -> bool>,
    key: VerifyingKey,
}

/// For each algorithm, the signature alone and the whole verification.
pub(crate) fn subjects() -> Vec<Vec<Subject>> {
    vec![
        both(hmac()),
        both(rsa(Algorithm::RS256, &signature::RSA_PKCS1_SHA256)),
        both(rsa(Algorithm::PS256, &signature::RSA_PSS_SHA256)),
        both(ecdsa(Algorithm::ES256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING)),
        both(ecdsa(Algorithm::ES384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING)),
        both(ed25519()),
    ]
}

fn both(pair: Pair) -> Vec<Subject> {
    let Pair { sign, check, key } = pair;
    let algorithm = key.algorithm();
    let now = SystemTime::now();
    let signed = unsigned_token(algorithm, now);
    let signature = sign(signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&signature));
    let request = VerifyRequest::new(BearerToken::parse(&token).unwrap(), now);
    let verifier = JwtVerifier::builder()
        .issuer(ISSUER)
        .audience(AUDIENCE)
        .with_key(key.with_kid("2024-05"))
        .build()
        .unwrap();
    vec![
        Subject::new(format!("{algorithm}, the signature alone"), move || {
            assert!(check(signed.as_bytes(), &signature));
        }),
        Subject::new(format!("{algorithm}, JwtVerifier, {} bytes", token.len()), move || {
            verifier.try_verify(&request).unwrap().unwrap()
        }),
    ]
}

/// Header and claims of RFC 9068, base64url with a dot between.
fn unsigned_token(algorithm: Algorithm, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = json!({ "typ": "at+jwt", "alg": algorithm.as_str(), "kid": "2024-05" });
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "5ba552d67e6b43edb18b6d1a0a4a5b6e",
        "client_id": "web",
        "iat": now,
        "exp": now + 3600,
        "jti": "dbe39bf3a3ba4238a513f51d6e1691c4",
        "scope": "openid read:reports write:reports",
        "roles": ["editor", "viewer"],
    });
    [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
}

fn hmac() -> Pair {
    let secret = [7; 32];
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let signing = key.clone();
    Pair {
        sign: Box::new(move |message| hmac::sign(&signing, message).as_ref().to_vec()),
        check: Box::new(move |message, signature| hmac::verify(&key, message, signature).is_ok()),
        key: VerifyingKey::hmac(Algorithm::HS256, &secret).unwrap(),
    }
}

fn rsa(algorithm: Algorithm, encoding: &'static dyn RsaEncoding) -> Pair {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let parameters = match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        _ => &signature::RSA_PSS_2048_8192_SHA256,
    };
    let check = check(parameters, pair.public_key().as_ref());
    let key = from_spki(algorithm, pair.public_key());
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    Pair { sign: Box::new(sign), check, key }
}

fn ecdsa(algorithm: Algorithm, signing: &'static EcdsaSigningAlgorithm) -> Pair {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let curve = match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        _ => &signature::ECDSA_P384_SHA384_FIXED,
    };
    let check = check(curve, pair.public_key().as_ref());
    let key = from_spki(algorithm, pair.public_key());
    let sign =
        move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    Pair { sign: Box::new(sign), check, key }
}

fn ed25519() -> Pair {
    let pair = Ed25519KeyPair::generate().unwrap();
    let check = check(&signature::ED25519, pair.public_key().as_ref());
    let key = from_spki(Algorithm::EdDSA, pair.public_key());
    Pair { sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()), check, key }
}

/// aws-lc-rs with a key that is parsed once.
fn check(
    algorithm: &'static dyn VerificationAlgorithm,
    public: &[u8],
) -> Box<dyn Fn(&[u8], &[u8]) -> bool> {
    let key = ParsedPublicKey::new(algorithm, public).unwrap();
    Box::new(move |message, signature| key.verify_sig(message, signature).is_ok())
}

fn from_spki(algorithm: Algorithm, public: &impl AsDer<PublicKeyX509Der<'static>>) -> VerifyingKey {
    let der = STANDARD.encode(&*public.as_der().unwrap());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
    VerifyingKey::from_pem(algorithm, pem.as_bytes()).unwrap()
}
