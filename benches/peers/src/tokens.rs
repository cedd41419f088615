//! Tokens for each algorithm, and their key in the forms that the crates ask for.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "https://api.example";
const KEY_ID: &str = "2024-05";
const SECRET: &str = "a secret of thirty-two bytes, 256 bits";

/// So many that a processor does not learn the way through the check of each signature, as it does
/// where one is checked again and again.
const COUNT: usize = 64;

/// Tokens that were just issued, and the key that checks them.
pub(crate) struct Tokens {
    pub(crate) algorithm: &'static str,
    pub(crate) texts: Vec<String>,
    pub(crate) jwk: Value,
    /// A public key in PEM, or the secret.
    pub(crate) key: String,
    /// The check of the signature alone of one after the other, with the key parsed already.
    pub(crate) check: Box<dyn FnMut() -> bool>,
}

/// For HS256, RS256, ES256 and EdDSA.
pub(crate) fn all() -> [Tokens; 4] {
    [hs256(), rs256(), es256(), eddsa()]
}

fn hs256() -> Tokens {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = Signed::all("HS256", |message| hmac::sign(&key, message).as_ref().to_vec());
    Tokens {
        algorithm: "HS256",
        texts: signed.iter().map(Signed::text).collect(),
        jwk: named("HS256", json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) })),
        key: SECRET.to_owned(),
        check: in_turn(signed, move |message, signature| {
            hmac::verify(&key, message, signature).is_ok()
        }),
    }
}

fn rs256() -> Tokens {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let sign = |message: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    let number = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
    let n = pair.public_key().modulus().big_endian_without_leading_zero();
    let e = pair.public_key().exponent().big_endian_without_leading_zero();
    let jwk = json!({ "kty": "RSA", "n": number(n), "e": number(e) });
    public("RS256", &RSA_PKCS1_2048_8192_SHA256, pair.public_key(), jwk, sign)
}

fn es256() -> Tokens {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    let point = pair.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|number| URL_SAFE_NO_PAD.encode(number));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    public("ES256", &ECDSA_P256_SHA256_FIXED, pair.public_key(), jwk, sign)
}

fn eddsa() -> Tokens {
    let pair = Ed25519KeyPair::generate().unwrap();
    let sign = |message: &[u8]| pair.sign(message).as_ref().to_vec();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
    public("EdDSA", &ED25519, pair.public_key(), jwk, sign)
}

fn public<K>(
    algorithm: &'static str,
    verification: &'static dyn VerificationAlgorithm,
    public: &K,
    jwk: Value,
    sign: impl Fn(&[u8]) -> Vec<u8>,
) -> Tokens
where
    K: AsRef<[u8]> + AsDer<PublicKeyX509Der<'static>>,
{
    let signed = Signed::all(algorithm, sign);
    let parsed = ParsedPublicKey::new(verification, public.as_ref()).unwrap();
    let der = STANDARD.encode(&*public.as_der().unwrap());
    let lines: Vec<&str> =
        der.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    Tokens {
        algorithm,
        texts: signed.iter().map(Signed::text).collect(),
        jwk: named(algorithm, jwk),
        key: format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        ),
        check: in_turn(signed, move |message, signature| {
            parsed.verify_sig(message, signature).is_ok()
        }),
    }
}

/// What is signed, and the signature.
struct Signed {
    message: String,
    signature: Vec<u8>,
}

impl Signed {
    fn all(algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Self> {
        let messages = (0..COUNT).map(|number| unsigned(algorithm, number));
        messages.map(|message| Self { signature: sign(message.as_bytes()), message }).collect()
    }

    fn text(&self) -> String {
        format!("{}.{}", self.message, URL_SAFE_NO_PAD.encode(&self.signature))
    }
}

fn in_turn(
    signed: Vec<Signed>,
    check: impl Fn(&[u8], &[u8]) -> bool + 'static,
) -> Box<dyn FnMut() -> bool> {
    let mut turn = 0;
    Box::new(move || {
        turn = (turn + 1) % COUNT;
        check(signed[turn].message.as_bytes(), &signed[turn].signature)
    })
}

fn named(algorithm: &str, mut jwk: Value) -> Value {
    jwk["alg"] = algorithm.into();
    jwk["kid"] = KEY_ID.into();
    jwk
}

/// Header and claims of RFC 9068, base64url with a dot between.
fn unsigned(algorithm: &str, number: usize) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = json!({ "typ": "at+jwt", "alg": algorithm, "kid": KEY_ID });
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "5ba552d67e6b43edb18b6d1a0a4a5b6e",
        "client_id": "web",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "jti": format!("dbe39bf3a3ba4238a513f51d6e{number:06}"),
        "scope": "openid read:reports write:reports",
        "roles": ["editor", "viewer"],
    });
    [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
}
