use std::fmt;

use subtle::ConstantTimeEq;

use crate::principal::{Principal, TokenKind};
use crate::token::{BearerToken, MalformedCredentials};
use crate::verifier::{TokenVerifier, VerifyError, VerifyErrorKind, VerifyRequest};

/// A verifier that knows a few tokens by heart: for tests, and for tools whose tokens are part of
/// the configuration. Without any, it is the null verifier, which accepts nothing.
///
/// Every token is compared with all that are known, each in constant time. The tokens stay in
/// memory as they are; for tokens that users get, keep digests instead.
///
/// ```
/// use tower_gate::{AuthenticateLayer, FixedVerifier, Principal};
///
/// let deploy = Principal::builder("https://tools.example", "deploy").scopes("deploy").build();
/// let verifier = FixedVerifier::new().with("the-token-of-the-deploy-tool", deploy)?;
/// let layer = AuthenticateLayer::new(verifier);
/// # let _ = layer;
/// # Ok::<(), tower_gate::MalformedCredentials>(())
/// ```
#[derive(Clone, Default)]
pub struct FixedVerifier {
    known: Vec<(BearerToken, Principal)>,
}

impl FixedVerifier {
    /// Knows no token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows this token as well.
    ///
    /// # Errors
    ///
    /// When the text could not arrive as a bearer token (RFC 6750 §2.1).
    pub fn with(mut self, token: &str, principal: Principal) -> Result<Self, MalformedCredentials> {
        self.known.push((BearerToken::parse(token)?, principal.of_kind(TokenKind::Fixed)));
        Ok(self)
    }
}

impl TokenVerifier for FixedVerifier {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let token = request.token.as_bytes();
        let mut found = None;
        for (known, principal) in &self.known {
            if are_equal(known.as_bytes(), token) {
                found = Some(principal);
            }
        }
        let Some(principal) = found.cloned() else {
            return Some(Err(VerifyErrorKind::UnknownToken.into()));
        };
        if principal.expires_at().is_some_and(|end| request.now >= end) {
            return Some(
                Err(VerifyError::from(VerifyErrorKind::Expired).with_principal(principal)),
            );
        }
        Some(Ok(principal))
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self.try_verify(request).unwrap_or_else(|| Err(VerifyErrorKind::UnknownToken.into()))
    }
}

/// Takes the same time wherever two texts of one length differ. Eight bytes at a time, because one
/// by one a long token would cost more than all layers do.
fn are_equal(known: &[u8], token: &[u8]) -> bool {
    let (known, known_rest) = known.as_chunks();
    let (token, token_rest) = token.as_chunks();
    let words = known.iter().zip(token);
    let difference = words.fold(0, |difference, (&known, &token)| {
        difference | u64::from_le_bytes(known) ^ u64::from_le_bytes(token)
    });
    let same_length = known.len() == token.len();
    same_length && bool::from(difference.ct_eq(&0) & known_rest.ct_eq(token_rest))
}

impl fmt::Debug for FixedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedVerifier").field("known", &self.known.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_one_byte_or_in_length_are_not_equal() {
        let known: Vec<u8> = (b'a'..=b'z').collect();
        for len in 0..known.len() {
            assert!(are_equal(&known[..len], &known[..len]), "{len} bytes");
            assert!(!are_equal(&known, &known[..len]) && !are_equal(&known[..len], &known));
            let mut other = known.clone();
            other[len] ^= 1;
            assert!(!are_equal(&known, &other), "byte {len}");
        }
    }
}
