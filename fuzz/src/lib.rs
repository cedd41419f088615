//! What the targets share: a verifier with a key of each kind, and the only tokens that it accepts.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tower_gate::verifier::jwt::{Algorithm, JwtVerifier, JwtVerifierBuilder, KeySet, VerifyingKey};
use tower_gate::verifier::{VerifyError, VerifyRequest};
use tower_gate::{BearerToken, Principal, TokenVerifier};

pub const ISSUER: &str = "https://issuer.example";
pub const AUDIENCE: &str = "https://api.example";
pub const SECRET: &[u8] = b"the secret of the fuzzing targets";

/// Seconds since 1970 at which all is verified: the tokens were issued a moment before.
pub const NOW: u64 = 1_700_000_100;

/// The keys that signed these, but for [`SECRET`], are gone. The twin is the ES256 token with `n - s`
/// in the place of `s`, which ECDSA makes as good as the original.
pub const TOKENS: [&str; 5] = [
    include_str!("../fixtures/hs256.jwt"),
    include_str!("../fixtures/rs256.jwt"),
    include_str!("../fixtures/es256.jwt"),
    include_str!("../fixtures/es256-twin.jwt"),
    include_str!("../fixtures/eddsa.jwt"),
];

static VERIFIER: LazyLock<JwtVerifier> = LazyLock::new(|| {
    let secret = VerifyingKey::hmac(Algorithm::HS256, SECRET).unwrap().with_kid("hs256");
    let keys = KeySet::from_jwks(include_str!("../fixtures/jwks.json")).unwrap();
    let verifier = builder().with_key(secret).with_keys(keys).build().unwrap();
    for token in TOKENS {
        assert!(ask(&verifier, token).unwrap().is_ok(), "a valid token is refused: {token}");
    }
    verifier
});

pub fn builder() -> JwtVerifierBuilder {
    JwtVerifier::builder().issuer(ISSUER).audience(AUDIENCE)
}

/// What the verifier says; `None` of a text that no request could carry as its token.
pub fn verify(token: &str) -> Option<Result<Principal, VerifyError>> {
    ask(&VERIFIER, token)
}

pub fn ask(verifier: &JwtVerifier, token: &str) -> Option<Result<Principal, VerifyError>> {
    let token = BearerToken::parse(token).ok()?;
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(NOW);
    let answer = verifier.try_verify(&VerifyRequest::new(token, now));
    Some(answer.expect("keys that are given never have to be waited for"))
}

/// Fails when the verifier accepts anything but one of [`TOKENS`], byte for byte.
pub fn only_the_originals_are_accepted(token: &str) {
    if let Some(Ok(principal)) = verify(token) {
        assert!(TOKENS.contains(&token), "accepted as {principal:?}: {token}");
    }
}

/// What was accepted, parsed anew.
pub fn object(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).expect("what is accepted is an object")
}

/// Fails when a principal has a name, a scope or a role that the claims do not give.
pub fn only_what_is_said(claims: &Map<String, Value>, who: &Principal) {
    assert_eq!(Some(who.subject()), claims["sub"].as_str());
    assert!(!who.subject().is_empty());
    let scopes = claims.get("scope").and_then(Value::as_str).unwrap_or_default();
    for scope in who.scopes().iter() {
        assert!(scopes.split(' ').any(|name| name == scope), "{scope:?} was not granted");
    }
    let roles = claims.get("roles").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for role in who.roles() {
        assert!(roles.iter().any(|name| *name == *role), "{role:?} was not granted");
    }
}
