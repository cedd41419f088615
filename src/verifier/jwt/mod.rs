//! Signed JSON Web Tokens as access tokens (RFC 9068, RFC 8725).
//!
//! A [`JwtVerifier`] accepts a token when a key that it was given signed it with that key's own
//! algorithm, the issuer is byte for byte the configured one, the audience is one of the configured
//! ones, its type is `at+jwt`, and its times are right. Whatever else a token says about keys
//! (`jwk`, `jku`, `x5u`, `x5c`) is never looked at.
//!
//! ```
//! use tower_gate::AuthenticateLayer;
//! use tower_gate::verifier::jwt::{Algorithm, JwtVerifier, VerifyingKey};
//!
//! # let secret = [7; 32];
//! let verifier = JwtVerifier::builder()
//!     .issuer("https://issuer.example")
//!     .audience("https://api.example")
//!     .with_key(VerifyingKey::hmac(Algorithm::HS256, &secret)?)
//!     .build()?;
//! let layer = AuthenticateLayer::new(verifier);
//! # let _ = layer;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For Auth0, Okta, Keycloak, Entra ID, Cognito and Google, start with a [`preset`]. Another issuer
//! that predates RFC 9068, with keys from a JWKS document and tighter times:
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::verifier::jwt::{JwtVerifier, KeySet};
//!
//! # let jwks = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
//! let verifier = JwtVerifier::builder()
//!     .issuer("https://issuer.example")
//!     .audience("https://api.example")
//!     .with_audience("https://api.example/v1")
//!     .with_keys(KeySet::from_jwks(jwks)?)
//!     .with_leeway(Duration::from_secs(5))
//!     .with_max_lifetime(Duration::from_secs(3600))
//!     .accept_plain_jwt()
//!     .build()?;
//! # let _ = verifier;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! | what | limit |
//! |---|---|
//! | token | 8 KiB, which the layer sets; 64 KiB at most |
//! | members of the header | 32 |
//! | depth of header and claims | 16 |
//! | members of the claims, at each level | 1024 |
//! | `kid` | 256 bytes |
//! | RSA keys | 2048 to 8192 bits; to 4096 with `rust-crypto` alone |
//! | keys in one verifier | 64 |
//! | keys tried for one token | 8 |
//!
//! # Security
//!
//! A token's parts have one spelling each: base64url without padding and without spare bits. Two
//! members of one name are refused at every level. ECDSA signatures keep their malleability
//! (RFC 7518 §3.4), so a token's text must not be the key under which it is revoked; `jti` is.
//! A token with `cnf` is refused: it is worth nothing without the proof that it asks for.

mod algorithm;
mod builder;
mod crypto;
mod header;
mod key;
pub mod preset;
mod source;
mod thumbprint;
mod verify;

pub use self::algorithm::Algorithm;
pub use self::builder::{AudienceWanted, InvalidConfig, IssuerWanted, JwtVerifierBuilder};
pub use self::key::{InvalidKey, KeySet, VerifyingKey};
pub use self::verify::JwtVerifier;

#[cfg(feature = "jwks")]
pub(crate) use self::source::{KeySource, NewerKeys};
#[cfg(feature = "introspection")]
pub(crate) use self::{
    builder::{MAX_LEEWAY, check_issuer, check_names, to_path},
    verify::open,
};
