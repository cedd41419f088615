use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm as Name, AlgorithmFamily, DecodingKey};
use sha2::{Digest, Sha256};

use crate::verifier::jwt::Algorithm;
use crate::verifier::jwt::key::rsa_numbers;
use crate::verifier::jwt::thumbprint::without_leading_zeros;

/// The largest RSA modulus that is checked with.
pub(crate) const MAX_RSA_BITS: usize = 4096;

/// A key that is parsed for every signature: the parsed form cannot be shared between threads.
pub(crate) struct SignatureKey {
    name: Name,
    key: DecodingKey,
}

impl SignatureKey {
    /// `None` when the key does not fit the algorithm, or is no point on its curve.
    pub(crate) fn new(algorithm: Algorithm, key: &DecodingKey) -> Option<Self> {
        let name = match algorithm {
            Algorithm::HS256 => Name::HS256,
            Algorithm::HS384 => Name::HS384,
            Algorithm::HS512 => Name::HS512,
            Algorithm::RS256 => Name::RS256,
            Algorithm::RS384 => Name::RS384,
            Algorithm::RS512 => Name::RS512,
            Algorithm::PS256 => Name::PS256,
            Algorithm::PS384 => Name::PS384,
            Algorithm::PS512 => Name::PS512,
            Algorithm::ES256 => Name::ES256,
            Algorithm::ES384 => Name::ES384,
            Algorithm::ES512 => return None,
            Algorithm::EdDSA => Name::EdDSA,
        };
        let key = Self { name, key: key.clone() };
        key.parsed().map(|_| ()).map(|()| key)
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.is_in_range(signature)
            && self.parsed().is_some_and(|key| key.verify(message, &signature.to_vec()).is_ok())
    }

    /// The `rsa` crate takes a signature modulo the modulus, and would accept it in two spellings
    /// where RFC 8017 §5.2.2 has one.
    fn is_in_range(&self, signature: &[u8]) -> bool {
        if self.name.family() != AlgorithmFamily::Rsa {
            return true;
        }
        rsa_numbers(&self.key).is_some_and(|(modulus, _)| {
            // The crate refuses any other length, so the first octet that differs decides.
            signature < without_leading_zeros(modulus)
        })
    }

    /// The provider is called directly: the process-wide one panics when two are compiled in.
    fn parsed(&self) -> Option<Box<dyn JwtVerifier>> {
        (DEFAULT_PROVIDER.verifier_factory)(&self.name, &self.key).ok()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> impl AsRef<[u8]> {
    Sha256::digest(bytes)
}
