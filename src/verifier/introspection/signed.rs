//! Answers that are signed (RFC 9701).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::MapAccess;
use serde_json::value::RawValue;

use crate::claims::{ClaimNames, MAX_MEMBERS, RegisteredClaims, system_time};
use crate::json::{Members, read_object};
use crate::verifier::introspection::answer::Policy;
use crate::verifier::introspection::endpoint::AskError;
use crate::verifier::jwks::Jwks;
use crate::verifier::jwt::{KeySet, KeySource, open};

/// The subtype of the media type of signed answers, which is their `typ` as well.
const SUBTYPE: &str = "token-introspection+jwt";

/// How old an answer may be when it comes (OPAQUE-52).
const MAX_AGE: Duration = Duration::from_secs(60);

/// The keys that an issuer signs its answers with: a [`KeySet`], or a [`Jwks`] that keeps them
/// fresh.
#[derive(Clone)]
pub struct AnswerKeys(pub(super) Arc<dyn KeySource>);

impl From<KeySet> for AnswerKeys {
    fn from(keys: KeySet) -> Self {
        Self(Arc::new(Arc::new(keys)))
    }
}

impl From<&Jwks> for AnswerKeys {
    fn from(jwks: &Jwks) -> Self {
        Self(jwks.source())
    }
}

impl fmt::Debug for AnswerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnswerKeys").field(&self.0.keys()).finish()
    }
}

/// What a signed answer must be like.
pub(super) struct SignedAnswers {
    pub(super) keys: Arc<dyn KeySource>,
    /// What the issuer calls this API in the `aud` of its answers.
    pub(super) name: Box<str>,
}

impl SignedAnswers {
    /// The answer inside, once it is known that the issuer made it, for us, just now.
    ///
    /// Two answers of one issuer are not told apart by what they are signed over, so this stands
    /// beside TLS and not in its place.
    pub(super) async fn open(
        &self,
        body: &[u8],
        policy: &Policy,
        now: SystemTime,
        timeout: Duration,
    ) -> Result<Vec<u8>, AskError> {
        let text = std::str::from_utf8(body).map_err(|_| AskError::Encoding)?;
        let payload = open(text, SUBTYPE, &*self.keys).await.map_err(AskError::Signature)?;
        let claims =
            RegisteredClaims::parse(&payload, &ClaimNames::default()).map_err(AskError::at)?;
        if claims.issuer.as_deref() != Some(&*policy.issuer) {
            return Err(AskError::Claim("iss"));
        }
        if !claims.audience.iter().any(|name| **name == *self.name) {
            return Err(AskError::Claim("aud"));
        }
        let leeway = policy.times.leeway;
        // The answer was made after the question, at which `now` is.
        let fresh = claims.issued_at.and_then(system_time).is_some_and(|made_at| {
            match made_at.duration_since(now) {
                Ok(ahead) => ahead <= leeway + timeout,
                Err(behind) => behind.duration() <= leeway + MAX_AGE,
            }
        });
        if !fresh {
            return Err(AskError::Claim("iat"));
        }
        let mut envelope = Envelope::default();
        read_object(&payload, MAX_MEMBERS, &mut envelope).map_err(AskError::at)?;
        let answer = envelope.answer.ok_or(AskError::Claim("token_introspection"))?;
        Ok(answer.get().as_bytes().to_vec())
    }
}

#[derive(Default)]
struct Envelope<'a> {
    answer: Option<&'a RawValue>,
}

impl<'de> Members<'de> for Envelope<'de> {
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        if name != "token_introspection" {
            return Ok(false);
        }
        self.answer = Some(map.next_value()?);
        Ok(true)
    }
}
