use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64_simd::{AsOut, URL_SAFE_NO_PAD};

use crate::claims::{ClaimNames, RegisteredClaims, TimeError, TimeRules, system_time};
use crate::principal::{Principal, PrincipalBuilder, TokenKind};
use crate::verifier::jwt::header::Header;
use crate::verifier::jwt::source::KeySource;
use crate::verifier::jwt::{IssuerWanted, KeySet, VerifyingKey};
use crate::verifier::{TokenVerifier, VerifyError, VerifyErrorKind, VerifyRequest};

/// The longest token that is looked at, whatever the layer lets through.
const MAX_TOKEN: usize = 64 * 1024;

/// The most keys that are tried for a token that does not name its own (JWT-18).
const MAX_TRIES: usize = 8;

/// A verifier of signed access tokens; see the [module](crate::verifier::jwt).
pub struct JwtVerifier {
    pub(super) keys: Arc<dyn KeySource>,
    pub(super) policy: Policy,
}

/// What a token must be like, beside signed.
pub(super) struct Policy {
    pub(super) issuer: Arc<str>,
    pub(super) audiences: Vec<String>,
    pub(super) times: TimeRules,
    pub(super) names: ClaimNames,
    pub(super) kind: Kind,
}

/// How an access token is told from other signed tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    /// A `typ` of `JWT`, or none, will do.
    pub(super) plain: bool,
    /// It is the client that is one of the audiences, because the issuer sends no `aud`.
    pub(super) audience_is_client: bool,
    /// The client must be named, because the issuer's ID tokens do not name it.
    pub(super) client_required: bool,
}

/// Why a token is not accepted, or not yet.
enum Failure {
    Refused(VerifyError),
    /// No key has the name that the token gives.
    UnknownKey {
        kid: Box<str>,
        kind: VerifyErrorKind,
    },
}

impl JwtVerifier {
    /// Starts a verifier, which needs an issuer, then an audience, then keys.
    pub fn builder() -> IssuerWanted {
        IssuerWanted::new()
    }
}

impl TokenVerifier for JwtVerifier {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let keys = self.keys.keys()?;
        let answer = self.policy.check(request.token.as_str(), &keys, request.now);
        let may_change = match &answer {
            Err(Failure::UnknownKey { kid, .. }) => self.keys.may_bring(kid),
            _ => Ok(false),
        };
        match may_change {
            Ok(true) => None,
            Ok(false) => Some(final_answer(&*self.keys, answer)),
            Err(error) => Some(Err(error)),
        }
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let token = request.token.as_str();
        if self.keys.keys().is_none() {
            // Garbage does not wait for keys.
            self.policy.check_form(token)?;
        }
        with_keys(&*self.keys, |keys| self.policy.check(token, keys, request.now)).await
    }

    fn generation(&self) -> u64 {
        self.keys.generation()
    }
}

/// Checks with the keys at hand, or the first that come, and, where newer ones may have the one that
/// is named, once more with those.
async fn with_keys<T>(
    source: &dyn KeySource,
    check: impl Fn(&KeySet) -> Result<T, Failure>,
) -> Result<T, VerifyError> {
    let keys = match source.keys() {
        Some(keys) => keys,
        None => source.newer(None).await?,
    };
    let answer = match check(&keys) {
        Err(Failure::UnknownKey { kid, .. }) if source.may_bring(&kid)? => {
            check(&*source.newer(Some(&kid)).await?)
        }
        answer => answer,
    };
    final_answer(source, answer)
}

fn final_answer<T>(source: &dyn KeySource, answer: Result<T, Failure>) -> Result<T, VerifyError> {
    use VerifyErrorKind::{BadSignature, UnknownKey, UnsupportedAlgorithm};
    let is_doubtful = match &answer {
        // The key of this name, or one without, may have been replaced: by one for another algorithm,
        // where none could be tried.
        Err(Failure::Refused(error)) => {
            matches!(error.kind(), BadSignature | UnknownKey | UnsupportedAlgorithm)
        }
        // A name that is not known is fetched for by itself.
        Err(Failure::UnknownKey { kind, .. }) => *kind == BadSignature,
        Ok(_) => false,
    };
    if is_doubtful {
        source.doubt();
    }
    answer.map_err(VerifyError::from)
}

/// The payload of a signed text of this type that is no token, such as the answer to a question.
#[cfg(feature = "introspection")]
pub(crate) async fn open(
    text: &str,
    media_type: &str,
    source: &dyn KeySource,
) -> Result<Vec<u8>, VerifyError> {
    let parts = Parts::split(text).ok_or(VerifyErrorKind::Malformed)?;
    let header = decode(parts.header)?;
    let header = Header::parse(&header).map_err(at(VerifyErrorKind::Malformed))?;
    if !header.is_of_type(media_type) {
        return Err(VerifyErrorKind::WrongType.into());
    }
    with_keys(source, |keys| check_signature(&header, &parts, keys).map(drop)).await?;
    Ok(decode(parts.payload)?)
}

impl Policy {
    /// The whole check: the form, the signature, and only then the claims.
    fn check(&self, token: &str, keys: &KeySet, now: SystemTime) -> Result<Principal, Failure> {
        let parts = Parts::split(token).ok_or(VerifyErrorKind::Malformed)?;
        let (mut buffer, json, parsed);
        let header = match keys.seen_header(parts.header) {
            Some(seen) => seen,
            None => {
                buffer = [0; 512];
                json = decode_small(parts.header, &mut buffer)?;
                parsed = Header::parse(&json).map_err(at(VerifyErrorKind::Malformed))?;
                &parsed
            }
        };
        self.check_type(header)?;
        let key = check_signature(header, &parts, keys)?;
        key.has_verified(parts.header, header);
        let payload = decode(parts.payload)?;
        let claims = RegisteredClaims::parse(&payload, &self.names)
            .map_err(at(VerifyErrorKind::InvalidClaims))?;
        self.check_claims(header, &claims)?;
        let expires_at = claims.expires_at.ok_or(VerifyErrorKind::MissingClaim)?;
        let principal = self.principal(&claims)?;
        let in_time = self.times.check(expires_at, claims.not_before, claims.issued_at, now);
        drop(claims);
        let mut principal = principal.claims(payload);
        // Of the key, not of the header: a key without a name verifies whatever name a token gives.
        if let Some(key_id) = &key.kid {
            principal.0.key_id = Some(key_id.clone());
        }
        let principal = principal.build();
        match in_time {
            Ok(()) => Ok(principal),
            Err(error) => Err(VerifyError::from(error).with_principal(principal).into()),
        }
    }

    /// What can be said of a token before there are keys.
    fn check_form(&self, token: &str) -> Result<(), VerifyError> {
        let parts = Parts::split(token).ok_or(VerifyErrorKind::Malformed)?;
        let header = decode(parts.header)?;
        let header = Header::parse(&header).map_err(at(VerifyErrorKind::Malformed))?;
        self.check_type(&header)?;
        header.algorithm()?;
        Ok(())
    }

    fn check_type(&self, header: &Header<'_>) -> Result<(), VerifyErrorKind> {
        let accepted = header.is_access_token() || self.kind.plain && header.is_plain();
        if accepted { Ok(()) } else { Err(VerifyErrorKind::WrongType) }
    }

    fn check_claims(
        &self,
        header: &Header<'_>,
        claims: &RegisteredClaims<'_>,
    ) -> Result<(), VerifyErrorKind> {
        let missing = VerifyErrorKind::MissingClaim;
        if claims.issuer.as_deref().ok_or(missing)? != &*self.issuer {
            return Err(VerifyErrorKind::WrongIssuer);
        }
        if claims.audience.is_empty() && !self.kind.audience_is_client {
            return Err(missing);
        }
        if !self.is_audience(claims) {
            return Err(VerifyErrorKind::WrongAudience);
        }
        if claims.sender_constrained {
            return Err(VerifyErrorKind::SenderConstrained);
        }
        if claims.fixed != self.names.fixed.len() {
            return Err(VerifyErrorKind::WrongType);
        }
        if header.is_access_token() {
            // RFC 9068 §2.2 asks for these in every token that calls itself one (JWT-30).
            // Issuers that only changed the type still name the client as they did before.
            let client = if self.kind.plain { claims.client() } else { claims.client.as_deref() };
            let names = [claims.subject.as_deref(), client, claims.token_id.as_deref()];
            if names.contains(&None) || claims.issued_at.is_none() {
                return Err(missing);
            }
        } else if claims.of_another_kind || self.kind.client_required && claims.client().is_none() {
            return Err(VerifyErrorKind::WrongType);
        }
        Ok(())
    }

    fn is_audience(&self, claims: &RegisteredClaims<'_>) -> bool {
        let is_ours = |name: &str| self.audiences.iter().any(|ours| ours == name);
        if self.kind.audience_is_client {
            claims.client().is_some_and(is_ours)
        } else {
            claims.audience.iter().any(|name| is_ours(name))
        }
    }

    /// The principal, but for the payload, from which the claims still borrow.
    fn principal(&self, claims: &RegisteredClaims<'_>) -> Result<PrincipalBuilder, VerifyError> {
        let principal = claims.principal(&self.issuer).ok_or(VerifyErrorKind::MissingClaim)?;
        let issued_at = claims.issued_at.and_then(system_time);
        let oldest = issued_at.zip(self.times.max_age).and_then(|(at, age)| at.checked_add(age));
        Ok(principal.token_kind(TokenKind::Jwt).verify_again_at(oldest))
    }
}

/// The key that signed it.
fn check_signature<'k>(
    header: &Header<'_>,
    parts: &Parts<'_>,
    keys: &'k KeySet,
) -> Result<&'k VerifyingKey, Failure> {
    let algorithm = header.algorithm()?;
    let mut buffer = [0; 512];
    let signature = decode_small(parts.signature, &mut buffer)?;
    if algorithm.signature_len().is_some_and(|len| len != signature.len()) {
        return Err(VerifyErrorKind::BadSignature.into());
    }
    let mut tries = keys.candidates(algorithm, header.kid()).take(MAX_TRIES).peekable();
    if tries.peek().is_none() {
        let kind = if keys.has(algorithm) {
            VerifyErrorKind::UnknownKey
        } else {
            VerifyErrorKind::UnsupportedAlgorithm
        };
        return Err(match header.kid().filter(|kid| !keys.names(kid)) {
            Some(kid) => Failure::UnknownKey { kid: kid.into(), kind },
            None => kind.into(),
        });
    }
    let signed = parts.signed.as_bytes();
    let key = tries.find(|key| key.verify(algorithm, signed, &signature));
    let kind = VerifyErrorKind::BadSignature;
    key.ok_or_else(|| match header.kid().filter(|kid| !keys.names(kid)) {
        // Only keys without a name were tried, and there may be one of this name by now.
        Some(kid) => Failure::UnknownKey { kid: kid.into(), kind },
        None => kind.into(),
    })
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier")
            .field("issuer", &self.policy.issuer)
            .field("audiences", &self.policy.audiences)
            .field("keys", &self.keys.keys())
            .field("times", &self.policy.times)
            .field("names", &self.policy.names)
            .field("kind", &self.policy.kind)
            .finish()
    }
}

/// A compact serialisation, split (RFC 7515 §7.1).
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// Header and payload with the dot between: what the signature is over.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    /// `None` for anything but three parts within the size (JWT-1, JWT-8).
    fn split(token: &'a str) -> Option<Self> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        // A dot in the payload is a fourth part; base64url has none.
        Some(Self { header, payload, signature, signed })
    }
}

/// The one spelling of a part: base64url, no padding, no spare bits (JWT-3, JWT-4).
fn decode(part: &str) -> Result<Vec<u8>, VerifyErrorKind> {
    URL_SAFE_NO_PAD.decode_to_vec(part).map_err(|_| VerifyErrorKind::Malformed)
}

/// The same without a trip to the heap, for a part that fits into the buffer.
fn decode_small<'a>(
    part: &str,
    buffer: &'a mut [u8; 512],
) -> Result<Cow<'a, [u8]>, VerifyErrorKind> {
    match buffer.get_mut(..decoded_len(part)) {
        Some(fitting) => match URL_SAFE_NO_PAD.decode(part.as_bytes(), fitting.as_out()) {
            Ok(bytes) => Ok(Cow::Borrowed(&*bytes)),
            Err(_) => Err(VerifyErrorKind::Malformed),
        },
        None => decode(part).map(Cow::Owned),
    }
}

fn decoded_len(part: &str) -> usize {
    part.len() / 4 * 3 + part.len() % 4 * 3 / 4
}

/// Says where the JSON is wrong, and not what stands there: the parser's own text quotes claims.
fn at(kind: VerifyErrorKind) -> impl Fn(serde_json::Error) -> VerifyError {
    move |error| VerifyError::new(kind, format!("not acceptable at byte {}", error.column()))
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::Refused(error)
    }
}

impl From<VerifyErrorKind> for Failure {
    fn from(kind: VerifyErrorKind) -> Self {
        Self::Refused(kind.into())
    }
}

impl From<Failure> for VerifyError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            Failure::UnknownKey { kind, .. } => kind.into(),
        }
    }
}

impl From<TimeError> for VerifyError {
    fn from(error: TimeError) -> Self {
        let kind = match error {
            TimeError::Expired => VerifyErrorKind::Expired,
            TimeError::NotYetValid => VerifyErrorKind::NotActive,
            TimeError::AgeUnknown
            | TimeError::IssuedInFuture
            | TimeError::LivesTooLong
            | TimeError::TooOld => VerifyErrorKind::InvalidClaims,
        };
        Self::new(kind, error)
    }
}
