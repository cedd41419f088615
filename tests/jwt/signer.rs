//! Keys that sign, for every algorithm.

use std::fmt::Display;
use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tower_gate::verifier::jwt::{Algorithm, VerifyingKey};

use crate::object::Object;

/// The algorithms of the implementation that is tested.
pub(crate) fn algorithms() -> impl Iterator<Item = Algorithm> {
    use Algorithm::*;
    let all =
        [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA];
    all.into_iter().filter(|&algorithm| algorithm != ES512 || cfg!(feature = "jwt"))
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a member of a JSON Web Key.
pub(crate) fn octets(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// A DER element.
pub(crate) fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap();
    let long: &[u8] = if len >= 0x80 { &[0x81] } else { &[] };
    [&[tag], long, &[len], value].concat()
}

/// A PEM block.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// One key of an issuer.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    secret: Secret,
}

enum Secret {
    Mac(hmac::Algorithm, Vec<u8>),
    Rsa(&'static RsaKeyPair, &'static dyn RsaEncoding),
    Ec(&'static str, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// RSA keys take long to make: those of all algorithms and all tests are these two.
static RSA: LazyLock<[RsaKeyPair; 2]> =
    LazyLock::new(|| [(); 2].map(|()| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));

impl Signer {
    /// A new key, but for RSA, where it is the first of two.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self::with_rsa(algorithm, &RSA[0])
    }

    /// A key that differs from the one of [`new`](Self::new).
    pub(crate) fn other(algorithm: Algorithm) -> Self {
        Self::with_rsa(algorithm, &RSA[1])
    }

    /// A shared secret.
    pub(crate) fn of_secret(algorithm: Algorithm, secret: &[u8]) -> Self {
        let hash = match algorithm {
            Algorithm::HS256 => hmac::HMAC_SHA256,
            Algorithm::HS384 => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        Self { algorithm, secret: Secret::Mac(hash, secret.to_vec()) }
    }

    fn with_rsa(algorithm: Algorithm, pair: &'static RsaKeyPair) -> Self {
        let ec = |curve, signing: &'static EcdsaSigningAlgorithm| {
            Secret::Ec(curve, EcdsaKeyPair::generate(signing).unwrap())
        };
        let secret = match algorithm {
            Algorithm::RS256 => Secret::Rsa(pair, &RSA_PKCS1_SHA256),
            Algorithm::RS384 => Secret::Rsa(pair, &RSA_PKCS1_SHA384),
            Algorithm::RS512 => Secret::Rsa(pair, &RSA_PKCS1_SHA512),
            Algorithm::PS256 => Secret::Rsa(pair, &RSA_PSS_SHA256),
            Algorithm::PS384 => Secret::Rsa(pair, &RSA_PSS_SHA384),
            Algorithm::PS512 => Secret::Rsa(pair, &RSA_PSS_SHA512),
            Algorithm::ES256 => ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ec("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::ES512 => ec("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::EdDSA => Secret::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => {
                let mut secret = [0; 64];
                rand::fill(&mut secret).unwrap();
                return Self::of_secret(algorithm, &secret);
            }
        };
        Self { algorithm, secret }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.secret {
            Secret::Mac(hash, secret) => {
                hmac::sign(&hmac::Key::new(*hash, secret), message).as_ref().to_vec()
            }
            Secret::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, message, &mut signature).unwrap();
                signature
            }
            Secret::Ec(_, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Secret::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// Signs these two texts, whatever they are.
    pub(crate) fn token(&self, header: impl Display, claims: impl Display) -> String {
        self.token_of(header.to_string(), claims.to_string())
    }

    /// Signs these two byte strings, whatever they are.
    pub(crate) fn token_of(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        self.token_of_parts(&base64url(header), &base64url(claims))
    }

    /// Signs these two parts, in whatever encoding they are.
    pub(crate) fn token_of_parts(&self, header: &str, claims: &str) -> String {
        let signed = format!("{header}.{claims}");
        let signature = base64url(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A token with this key's algorithm and these claims.
    pub(crate) fn claims(&self, claims: impl Display) -> String {
        self.token(Object::header(self.algorithm.as_str()), claims)
    }

    /// A good token.
    pub(crate) fn good(&self) -> String {
        self.claims(Object::claims())
    }

    /// The key that checks its signatures.
    pub(crate) fn key(&self) -> VerifyingKey {
        VerifyingKey::from_jwk(&self.jwk().to_string()).unwrap()
    }

    /// The key that checks its signatures, bound to this algorithm, as a JSON Web Key.
    pub(crate) fn jwk(&self) -> Object {
        self.bare_jwk().text("alg", self.algorithm.as_str())
    }

    /// A JSON Web Key with what its kind demands and no more.
    pub(crate) fn bare_jwk(&self) -> Object {
        let key = Object::new();
        match &self.secret {
            Secret::Mac(_, secret) => key.text("kty", "oct").text("k", &base64url(secret)),
            Secret::Rsa(pair, _) => {
                let public = pair.public_key();
                key.text("kty", "RSA")
                    .text("n", &base64url(public.modulus().big_endian_without_leading_zero()))
                    .text("e", &base64url(public.exponent().big_endian_without_leading_zero()))
            }
            Secret::Ec(curve, pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                key.text("kty", "EC")
                    .text("crv", curve)
                    .text("x", &base64url(x))
                    .text("y", &base64url(y))
            }
            Secret::Ed(pair) => key
                .text("kty", "OKP")
                .text("crv", "Ed25519")
                .text("x", &base64url(pair.public_key())),
        }
    }

    /// The public key as a SubjectPublicKeyInfo.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &self.secret {
            Secret::Mac(..) => panic!("a secret has no public half"),
            Secret::Rsa(pair, _) => pair.public_key().as_der().unwrap(),
            Secret::Ec(_, pair) => pair.public_key().as_der().unwrap(),
            Secret::Ed(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(crate) fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }
}
