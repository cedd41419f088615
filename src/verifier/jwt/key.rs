//! Keys, checked and parsed as they are given.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::trace;
use crate::verifier::jwt::Algorithm;
use crate::verifier::jwt::crypto::{MAX_RSA_BITS, SignatureKey};
use crate::verifier::jwt::header::Header;
use crate::verifier::jwt::thumbprint::thumbprint;

/// The most keys of a set that are read.
const MAX_KEYS: usize = 64;

/// The longest header that is kept, in bytes of base64url.
const MAX_SEEN_HEADER: usize = 512;

/// A key that checks signatures of exactly one algorithm (RFC 8725 §3.1), or where an RSA key of a set
/// names none, of every one for RSA (RFC 7517 §4.4).
pub struct VerifyingKey {
    pub(super) kid: Option<Arc<str>>,
    /// The key as each of its algorithms needs it.
    forms: Box<[(Algorithm, SignatureKey)]>,
    /// A hash of the key, to tell whether a set still has it.
    print: u64,
    thumbprint: Option<Box<str>>,
    /// The header of the first token that it has verified: that of most others too.
    header: OnceLock<SeenHeader>,
}

/// A header as it stands in a token, and what that says.
struct SeenHeader {
    text: Box<str>,
    header: Header<'static>,
}

/// Why a key, or a set of them, cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The key is of another kind than the algorithm asks for, broken, or not on its curve.
    #[error("the key does not fit {0}: check the algorithm, and that the key is a public key")]
    Mismatch(Algorithm),
    /// A secret that a search finds: RFC 7518 §3.2 asks for one as long as the hash.
    #[error("a secret for {algorithm} needs at least {at_least} random bytes")]
    ShortSecret {
        /// The algorithm.
        algorithm: Algorithm,
        /// The bytes that it needs.
        at_least: usize,
    },
    /// A public key given as a secret: whoever has it, everybody, could sign.
    #[error("the secret is a key in PEM or JSON: use from_pem or from_jwk, or pass raw bytes")]
    SecretIsAKey,
    /// An RSA key that is too easy to break, or too slow to use.
    #[error("an RSA key must have 2048 to {} bits", MAX_RSA_BITS)]
    RsaSize,
    /// An Ed25519 key for which anybody can make signatures.
    #[error("the Ed25519 key is of small order, so that anybody could sign: replace it")]
    SmallOrder,
    /// The text is no JSON object with the members of a key (RFC 7517 §4).
    #[error("the text is not a JSON Web Key: {0}")]
    NotAJwk(String),
    /// The key is meant for something else than checking signatures, or is a private one.
    #[error("the key is not for checking signatures: {0}")]
    NotForVerifying(&'static str),
    /// The text is no JSON object with an array `keys` (RFC 7517 §5).
    #[error("the text is not a JWK set: it must be an object with an array `keys`")]
    NotASet,
    /// No key of the set can be used, for the reason that the first of them has.
    #[error("the set has no key that can be used; its first: {0}")]
    UselessSet(Box<InvalidKey>),
    /// The set is empty.
    #[error("the set has no key")]
    EmptySet,
    /// The set is too large.
    #[error("a set may have at most 64 keys")]
    TooManyKeys,
}

impl VerifyingKey {
    /// A shared secret. Whoever has it can sign tokens as well as check them.
    ///
    /// # Errors
    ///
    /// When the algorithm is not an HMAC, the secret is too short, or it is the text of a key.
    pub fn hmac(algorithm: Algorithm, secret: &[u8]) -> Result<Self, InvalidKey> {
        let at_least = algorithm.min_secret().ok_or(InvalidKey::Mismatch(algorithm))?;
        if secret.len() < at_least {
            return Err(InvalidKey::ShortSecret { algorithm, at_least });
        }
        if looks_like_a_key(secret) {
            return Err(InvalidKey::SecretIsAKey);
        }
        Self::new(&[algorithm], &DecodingKey::from_secret(secret))
    }

    /// A public key in PEM: `PUBLIC KEY` or `RSA PUBLIC KEY`.
    ///
    /// # Errors
    ///
    /// When the text is no such key, or the key does not fit the algorithm or is too weak.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, InvalidKey> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY") {
            return Err(InvalidKey::NotForVerifying("it is a private key; keep it at the issuer"));
        }
        if text.contains("CERTIFICATE") {
            return Err(InvalidKey::NotForVerifying(
                "it is a certificate, whose dates nobody would check; extract its public key",
            ));
        }
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => DecodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
            rsa if rsa.is_rsa() => DecodingKey::from_rsa_pem(pem),
            _ => return Err(InvalidKey::Mismatch(algorithm)),
        };
        Self::new(&[algorithm], &key.map_err(|_| InvalidKey::Mismatch(algorithm))?)
    }

    /// A JSON Web Key (RFC 7517). Its `kid` is kept. Without `alg` it is bound to the one that its
    /// kind has most use of: RS256, ES256, ES384, ES512 or EdDSA; a secret must name its own.
    ///
    /// # Errors
    ///
    /// When the text is no key, or the key is not one for checking signatures or too weak.
    pub fn from_jwk(json: &str) -> Result<Self, InvalidKey> {
        let value: Value =
            serde_json::from_str(json).map_err(|error| InvalidKey::NotAJwk(error.to_string()))?;
        Self::from_value(value, false)
    }

    /// The name by which tokens choose this key. A key without one is tried for tokens that name
    /// none that is known.
    #[must_use]
    pub fn with_kid(self, kid: &str) -> Self {
        Self { kid: Some(kid.into()), ..self }
    }

    /// The algorithm whose signatures it checks.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        // Every key has at least one form.
        self.forms[0].0
    }

    /// Whether it checks signatures of this algorithm.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.form(algorithm).is_some()
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.form(algorithm).is_some_and(|key| key.verify(message, signature))
    }

    fn form(&self, algorithm: Algorithm) -> Option<&SignatureKey> {
        self.forms.iter().find(|(name, _)| *name == algorithm).map(|(_, key)| key)
    }

    /// The name that the key has by itself, whatever else it is called: its thumbprint (RFC 7638) with
    /// SHA-256. A secret has none.
    ///
    /// ```
    /// use tower_gate::verifier::jwt::VerifyingKey;
    ///
    /// let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    /// let key = VerifyingKey::from_jwk(jwk)?;
    /// assert_eq!(key.thumbprint(), Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"));
    /// # Ok::<(), tower_gate::verifier::jwt::InvalidKey>(())
    /// ```
    #[must_use]
    pub fn thumbprint(&self) -> Option<&str> {
        self.thumbprint.as_deref()
    }

    fn from_value(value: Value, of_set: bool) -> Result<Self, InvalidKey> {
        let Value::Object(mut members) = value else {
            return Err(InvalidKey::NotAJwk("it is not an object".to_owned()));
        };
        // Some issuers write what they do not say as null.
        for name in ["use", "alg", "key_ops"] {
            if members.get(name).is_some_and(Value::is_null) {
                members.remove(name);
            }
        }
        check_purpose(&members)?;
        // Names that jsonwebtoken does not know would be lost in it.
        let named = match members.remove("alg") {
            None => None,
            Some(Value::String(name)) => Some(
                Algorithm::from_name(&name)
                    .ok_or(InvalidKey::NotForVerifying("its `alg` is no signature algorithm"))?,
            ),
            Some(_) => return Err(InvalidKey::NotAJwk("`alg` is not a string".to_owned())),
        };
        let jwk: Jwk = serde_json::from_value(Value::Object(members))
            .map_err(|error| InvalidKey::NotAJwk(error.to_string()))?;
        let algorithm = named.or_else(|| usual_algorithm(&jwk)).ok_or(
            InvalidKey::NotForVerifying("no algorithm is known for its kind; name one in `alg`"),
        )?;
        let is_open = of_set && named.is_none() && algorithm.is_rsa();
        let algorithms = if is_open { &Algorithm::RSA[..] } else { &[algorithm] };
        let mismatch = InvalidKey::Mismatch(algorithm);
        if !fits(algorithm, &jwk) {
            return Err(mismatch);
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| mismatch)?;
        let verifying = match algorithm.min_secret() {
            Some(_) => Self::hmac(algorithm, key.try_get_as_bytes().unwrap_or_default())?,
            None => Self::new(algorithms, &key)?,
        };
        Ok(Self { kid: jwk.common.key_id.map(Into::into), ..verifying })
    }

    /// The algorithms are of one kind.
    fn new(algorithms: &[Algorithm], key: &DecodingKey) -> Result<Self, InvalidKey> {
        let algorithm = algorithms[0];
        if algorithm.is_rsa() {
            let (modulus, exponent) = rsa_numbers(key).ok_or(InvalidKey::Mismatch(algorithm))?;
            if !(2048..=MAX_RSA_BITS).contains(&bits(modulus)) {
                return Err(InvalidKey::RsaSize);
            }
            // With an exponent of 1, the padded digest is its own signature.
            if !(2..=33).contains(&bits(exponent)) || [modulus, exponent].into_iter().any(is_even) {
                return Err(InvalidKey::Mismatch(algorithm));
            }
        }
        if algorithm == Algorithm::EdDSA {
            match key.try_get_as_bytes().map(TryInto::try_into) {
                Ok(Ok(point)) if !is_small_order(point) => {}
                Ok(Ok(_)) => return Err(InvalidKey::SmallOrder),
                _ => return Err(InvalidKey::Mismatch(algorithm)),
            }
        }
        let (print, thumbprint) = (print_of(key), thumbprint(algorithm, key));
        let forms = algorithms.iter().map(|&name| Some((name, SignatureKey::new(name, key)?)));
        let forms = forms.collect::<Option<_>>().ok_or(InvalidKey::Mismatch(algorithm))?;
        Ok(Self { kid: None, forms, print, thumbprint, header: OnceLock::new() })
    }

    /// Keeps the header of a token that this key has verified, unless it has one already.
    pub(super) fn has_verified(&self, text: &str, header: &Header<'_>) {
        if text.len() <= MAX_SEEN_HEADER {
            self.header.get_or_init(|| SeenHeader { text: text.into(), header: header.to_owned() });
        }
    }
}

/// Shows the algorithm and the name, never the key.
impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("algorithm", &self.algorithm())
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    pub(super) keys: Vec<VerifyingKey>,
}

impl KeySet {
    /// The usable keys of a JWK set (RFC 7517 §5).
    ///
    /// A key that is broken, weak, private, symmetric or meant for something else is skipped with
    /// a warning in the log, and the others work; one for encryption (`"use": "enc"`), which many
    /// issuers publish, without a warning. An RSA key that names no `alg` is for RS256, RS384,
    /// RS512, PS256, PS384 and PS512 (RFC 7517 §4.4); with one, for that alone.
    ///
    /// # Errors
    ///
    /// When the text is no set, has more than 64 keys, or has none that can be used.
    pub fn from_jwks(json: &str) -> Result<Self, InvalidKey> {
        Self::read(json, true)
    }

    /// The same, and nothing in the log where it is no news.
    pub(crate) fn read(json: &str, is_news: bool) -> Result<Self, InvalidKey> {
        let set: Value = serde_json::from_str(json).map_err(|_| InvalidKey::NotASet)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(InvalidKey::NotASet)?;
        if keys.len() > MAX_KEYS {
            return Err(InvalidKey::TooManyKeys);
        }
        let mut set = Self::default();
        let mut first_error = None;
        for (index, value) in keys.iter().enumerate() {
            match Self::public_key(value) {
                Ok(key) => set.keys.push(key),
                Err(error) => {
                    if is_news && value["use"] == "enc" {
                        trace::key_for_encryption(index);
                    } else if is_news {
                        trace::key_skipped(index, &error);
                    }
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            _ if !set.keys.is_empty() => Ok(set),
            Some(error) => Err(InvalidKey::UselessSet(Box::new(error))),
            None => Err(InvalidKey::EmptySet),
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys of this algorithm that a token's `kid` leaves: those of that name, or, when none has
    /// it, those without a name. A token without `kid` leaves all.
    pub(super) fn candidates(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
    ) -> impl Iterator<Item = &VerifyingKey> {
        let named = kid.filter(|kid| self.names(kid));
        self.keys.iter().filter(move |key| {
            key.is_for(algorithm)
                && match (kid, named) {
                    (None, _) => true,
                    (Some(_), None) => key.kid.is_none(),
                    (Some(_), Some(named)) => key.kid.as_deref() == Some(named),
                }
        })
    }

    /// What this text says, where a key has verified a token with it.
    pub(super) fn seen_header(&self, text: &str) -> Option<&Header<'static>> {
        let seen = self.keys.iter().filter_map(|key| key.header.get());
        seen.filter(|seen| *seen.text == *text).map(|seen| &seen.header).next()
    }

    /// Whether a key has this name.
    pub(crate) fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Whether a key is for this algorithm.
    pub(super) fn has(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.is_for(algorithm))
    }

    /// Whether the other set has every one of these keys, for the same algorithms at least and under
    /// the same name.
    #[must_use]
    pub fn is_part_of(&self, other: &Self) -> bool {
        self.keys.iter().all(|key| {
            other.keys.iter().any(|other| {
                (key.print, &key.kid) == (other.print, &other.kid)
                    && key.forms.iter().all(|(algorithm, _)| other.is_for(*algorithm))
            })
        })
    }

    /// A published set holds no secrets: one that does has lost them (JWT-54).
    fn public_key(value: &Value) -> Result<VerifyingKey, InvalidKey> {
        if value.get("kty").and_then(Value::as_str) == Some("oct") {
            return Err(InvalidKey::NotForVerifying("a secret in a published set is no secret"));
        }
        VerifyingKey::from_value(value.clone(), true)
    }
}

/// `use`, `key_ops` and private members (RFC 7517 §4.2, §4.3).
fn check_purpose(members: &Map<String, Value>) -> Result<(), InvalidKey> {
    if members.get("use").is_some_and(|value| value != "sig") {
        return Err(InvalidKey::NotForVerifying("its `use` is not `sig`"));
    }
    if let Some(operations) = members.get("key_ops") {
        let operations = operations.as_array().map(Vec::as_slice).unwrap_or_default();
        if !operations.iter().any(|operation| operation == "verify") {
            return Err(InvalidKey::NotForVerifying("its `key_ops` lack `verify`"));
        }
        let of_signatures = |operation| operation == "sign" || operation == "verify";
        if members.contains_key("use") && !operations.iter().all(of_signatures) {
            return Err(InvalidKey::NotForVerifying("its `use` and its `key_ops` disagree"));
        }
    }
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"]
        .iter()
        .any(|&name| members.contains_key(name))
    {
        return Err(InvalidKey::NotForVerifying("it is a private key; keep it at the issuer"));
    }
    Ok(())
}

fn usual_algorithm(jwk: &Jwk) -> Option<Algorithm> {
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(Algorithm::ES256),
            EllipticCurve::P384 => Some(Algorithm::ES384),
            EllipticCurve::P521 => Some(Algorithm::ES512),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Some(Algorithm::EdDSA)
        }
        _ => None,
    }
}

/// Whether kind, curve and sizes are those of the algorithm (RFC 7518 §6, RFC 8037 §2).
fn fits(algorithm: Algorithm, jwk: &Jwk) -> bool {
    let is_long = |text: &str, len| {
        URL_SAFE_NO_PAD.decode_to_vec(text).is_ok_and(|coordinate| coordinate.len() == len)
    };
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => algorithm.is_rsa(),
        AlgorithmParameters::OctetKey(_) => algorithm.min_secret().is_some(),
        AlgorithmParameters::OctetKeyPair(key) => {
            algorithm == Algorithm::EdDSA
                && key.curve == EllipticCurve::Ed25519
                && is_long(&key.x, 32)
        }
        AlgorithmParameters::EllipticCurve(key) => {
            let len = match (algorithm, &key.curve) {
                (Algorithm::ES256, EllipticCurve::P256) => 32,
                (Algorithm::ES384, EllipticCurve::P384) => 48,
                (Algorithm::ES512, EllipticCurve::P521) => 66,
                _ => return false,
            };
            is_long(&key.x, len) && is_long(&key.y, len)
        }
        _ => false,
    }
}

/// A PEM file, a JSON Web Key or a set of them, whatever stands before it (attack 2).
fn looks_like_a_key(secret: &[u8]) -> bool {
    let has = |text: &[u8]| secret.windows(text.len()).any(|window| window == text);
    has(b"-----BEGIN") || has(b"\"kty\"")
}

fn print_of(key: &DecodingKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => (n, e).hash(&mut hasher),
        DecodingKeyKind::SecretOrDer(bytes) => bytes.hash(&mut hasher),
    }
    hasher.finish()
}

/// Modulus and exponent of an RSA key; `None` where there are none to be found.
pub(super) fn rsa_numbers(key: &DecodingKey) -> Option<(&[u8], &[u8])> {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => Some((n, e)),
        DecodingKeyKind::SecretOrDer(der) => {
            // The two INTEGERs of an `RSAPublicKey` SEQUENCE (RFC 8017 §A.1.1).
            let (sequence, _) = der_value(der, 0x30)?;
            let (modulus, rest) = der_value(sequence, 0x02)?;
            Some((modulus, der_value(rest, 0x02)?.0))
        }
    }
}

/// How many bits a big-endian number has.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|&&octet| octet == 0).count();
    number.get(zeros).map_or(0, |first| (number.len() - zeros) * 8 - first.leading_zeros() as usize)
}

fn is_even(number: &[u8]) -> bool {
    number.last().is_none_or(|octet| octet & 1 == 0)
}

/// The value of the DER element at the start, if it has this tag, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (len, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (len.iter().fold(0, |len, &byte| len << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

/// The encodings of the points of order 1, 2, 4 and 8, canonical or not, without the sign bit. With
/// such a key, one signature is good for every message in eight.
fn is_small_order(point: &[u8; 32]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = *point;
    y[31] &= 0x7F;
    // 0 and 1, then p - 1, p and p + 1 for p = 2^255 - 19.
    let low = y[0] <= 1 && y[1..].iter().all(|&byte| byte == 0);
    let near_p =
        matches!(y[0], 0xEC..=0xEE) && y[31] == 0x7F && y[1..31].iter().all(|&byte| byte == 0xFF);
    low || near_p || ORDER_8.contains(&y)
}
