use aws_lc_rs::digest;
use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA384, HMAC_SHA512};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};

use crate::verifier::jwt::Algorithm;
use crate::verifier::jwt::thumbprint::without_leading_zeros;

/// The largest RSA modulus that is checked with.
pub(crate) const MAX_RSA_BITS: usize = 8192;

/// A key parsed once, which then checks signatures without allocating.
pub(crate) enum SignatureKey {
    Secret(Box<hmac::Key>),
    Public(Box<ParsedPublicKey>),
}

impl SignatureKey {
    /// `None` when the key does not fit the algorithm, or is no point on its curve.
    pub(crate) fn new(algorithm: Algorithm, key: &DecodingKey) -> Option<Self> {
        let bytes = || key.try_get_as_bytes().ok();
        let secret = |hash| Some(Self::Secret(Box::new(hmac::Key::new(hash, bytes()?))));
        let public = |parsed: Option<ParsedPublicKey>| Some(Self::Public(Box::new(parsed?)));
        match algorithm {
            Algorithm::HS256 => secret(HMAC_SHA256),
            Algorithm::HS384 => secret(HMAC_SHA384),
            Algorithm::HS512 => secret(HMAC_SHA512),
            Algorithm::RS256 => public(rsa(&RSA_PKCS1_2048_8192_SHA256, key)),
            Algorithm::RS384 => public(rsa(&RSA_PKCS1_2048_8192_SHA384, key)),
            Algorithm::RS512 => public(rsa(&RSA_PKCS1_2048_8192_SHA512, key)),
            Algorithm::PS256 => public(rsa(&RSA_PSS_2048_8192_SHA256, key)),
            Algorithm::PS384 => public(rsa(&RSA_PSS_2048_8192_SHA384, key)),
            Algorithm::PS512 => public(rsa(&RSA_PSS_2048_8192_SHA512, key)),
            Algorithm::ES256 => public(point(&ECDSA_P256_SHA256_FIXED, bytes()?)),
            Algorithm::ES384 => public(point(&ECDSA_P384_SHA384_FIXED, bytes()?)),
            Algorithm::ES512 => public(point(&ECDSA_P521_SHA512_FIXED, bytes()?)),
            Algorithm::EdDSA => public(point(&ED25519, bytes()?)),
        }
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

fn point(curve: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Option<ParsedPublicKey> {
    ParsedPublicKey::new(curve, bytes).ok()
}

fn rsa(parameters: &'static RsaParameters, key: &DecodingKey) -> Option<ParsedPublicKey> {
    match key.kind() {
        DecodingKeyKind::SecretOrDer(der) => ParsedPublicKey::new(parameters, der).ok(),
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let [n, e] = [n, e].map(|number| without_leading_zeros(number));
            RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters).ok()
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> impl AsRef<[u8]> {
    digest::digest(&digest::SHA256, bytes)
}
