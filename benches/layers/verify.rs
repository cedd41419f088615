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
const KEY_ID: &str = "2024-05";

pub(crate) fn hs256() -> Vec<Subject> {
    let secret = [7; 32];
    let raw = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let key = VerifyingKey::hmac(Algorithm::HS256, &secret).unwrap();
    let sign = |message: &[u8]| hmac::sign(&raw, message).as_ref().to_vec();
    let token = Token::new(Algorithm::HS256, sign);
    token.subjects(key, move |message, signature| hmac::verify(&raw, message, signature).is_ok())
}

pub(crate) fn rs256() -> Vec<Subject> {
    rsa(Algorithm::RS256, &signature::RSA_PKCS1_SHA256)
}

pub(crate) fn ps256() -> Vec<Subject> {
    rsa(Algorithm::PS256, &signature::RSA_PSS_SHA256)
}

pub(crate) fn es256() -> Vec<Subject> {
    ecdsa(Algorithm::ES256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
}

pub(crate) fn es384() -> Vec<Subject> {
    ecdsa(Algorithm::ES384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING)
}

pub(crate) fn eddsa() -> Vec<Subject> {
    let pair = Ed25519KeyPair::generate().unwrap();
    let token = Token::new(Algorithm::EdDSA, |message| pair.sign(message).as_ref().to_vec());
    token.public_key_subjects(&signature::ED25519, pair.public_key())
}

fn rsa(algorithm: Algorithm, encoding: &'static dyn RsaEncoding) -> Vec<Subject> {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let parameters = match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        _ => &signature::RSA_PSS_2048_8192_SHA256,
    };
    let token = Token::new(algorithm, |message| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    });
    token.public_key_subjects(parameters, pair.public_key())
}

fn ecdsa(algorithm: Algorithm, signing: &'static EcdsaSigningAlgorithm) -> Vec<Subject> {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let curve = match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        _ => &signature::ECDSA_P384_SHA384_FIXED,
    };
    let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap();
    let token = Token::new(algorithm, |message| sign(message).as_ref().to_vec());
    token.public_key_subjects(curve, pair.public_key())
}

/// An access token that was just issued.
struct Token {
    algorithm: Algorithm,
    issued_at: SystemTime,
    signed: String,
    signature: Vec<u8>,
}

impl Token {
    fn new(algorithm: Algorithm, sign: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let issued_at = SystemTime::now();
        let signed = unsigned_token(algorithm, issued_at);
        let signature = sign(signed.as_bytes());
        Self { algorithm, issued_at, signed, signature }
    }

    /// With public keys that are parsed once on either side.
    fn public_key_subjects<K>(
        self,
        verification: &'static dyn VerificationAlgorithm,
        public: &K,
    ) -> Vec<Subject>
    where
        K: AsRef<[u8]> + AsDer<PublicKeyX509Der<'static>>,
    {
        let raw = ParsedPublicKey::new(verification, public.as_ref()).unwrap();
        let der = STANDARD.encode(&*public.as_der().unwrap());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
        let key = VerifyingKey::from_pem(self.algorithm, pem.as_bytes()).unwrap();
        self.subjects(key, move |message, signature| raw.verify_sig(message, signature).is_ok())
    }

    fn subjects(
        self,
        key: VerifyingKey,
        check: impl Fn(&[u8], &[u8]) -> bool + 'static,
    ) -> Vec<Subject> {
        let Self { algorithm, issued_at, signed, signature } = self;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&signature));
        let request = VerifyRequest::new(BearerToken::parse(&token).unwrap(), issued_at);
        let verifier = JwtVerifier::builder()
            .issuer(ISSUER)
            .audience(AUDIENCE)
            .with_key(key.with_kid(KEY_ID))
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
}

/// Header and claims of RFC 9068, base64url with a dot between.
fn unsigned_token(algorithm: Algorithm, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = json!({ "typ": "at+jwt", "alg": algorithm.as_str(), "kid": KEY_ID });
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
