use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;

use crate::verifier::jwt::Algorithm;
use crate::verifier::jwt::crypto::sha256;
use crate::verifier::jwt::key::rsa_numbers;

/// What a public key is called by what it is (RFC 7638; RFC 8037 §2). `None` of a secret, which a
/// digest would help to guess (RFC 7638 §7).
pub(super) fn thumbprint(algorithm: Algorithm, key: &DecodingKey) -> Option<Box<str>> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode_to_string(bytes);
    let ec = |curve| {
        // Any other octet begins a point that is written without its `y`.
        let (4, point) = key.try_get_as_bytes().ok()?.split_first()? else {
            return None;
        };
        let (x, y) = point.split_at(point.len() / 2);
        let [x, y] = [x, y].map(encode);
        Some(format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#))
    };
    // The members that there must be, in the order of their names, and nothing between them.
    let members = match algorithm {
        Algorithm::ES256 => ec("P-256")?,
        Algorithm::ES384 => ec("P-384")?,
        Algorithm::ES512 => ec("P-521")?,
        Algorithm::EdDSA => {
            let x = encode(key.try_get_as_bytes().ok()?);
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)
        }
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return None,
        _ => {
            let (n, e) = rsa_numbers(key)?;
            let [n, e] = [n, e].map(|number| encode(without_leading_zeros(number)));
            format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
        }
    };
    Some(encode(sha256(members.as_bytes()).as_ref()).into())
}

/// Some issuers write numbers with the sign octet that RFC 7518 §6.3.1 forbids (JWT-53).
pub(super) fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&octet| octet == 0).count();
    &number[zeros..]
}
