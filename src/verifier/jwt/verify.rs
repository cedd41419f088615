use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::claims::{RegisteredClaims, TimeError, TimeRules, system_time};
use crate::principal::{Principal, TokenKind};
use crate::verifier::jwt::header::Header;
use crate::verifier::jwt::{Algorithm, IssuerWanted, VerifyingKey};
use crate::verifier::{TokenVerifier, VerifyError, VerifyErrorKind, VerifyRequest};

/// The longest token that is looked at.
const MAX_TOKEN: usize = 8 * 1024;

/// The most keys that are tried for a token that does not name its own (JWT-18).
const MAX_TRIES: usize = 8;

/// A verifier of signed access tokens; see the [module](crate::verifier::jwt).
pub struct JwtVerifier {
    pub(super) issuer: Arc<str>,
    pub(super) audiences: Vec<String>,
    pub(super) keys: Vec<VerifyingKey>,
    pub(super) times: TimeRules,
    pub(super) plain: bool,
}

impl JwtVerifier {
    /// Starts a verifier, which needs an issuer, then an audience, then keys.
    pub fn builder() -> IssuerWanted {
        IssuerWanted::new()
    }

    /// The whole check: the form, the signature, and only then the claims.
    fn check(&self, token: &str, now: SystemTime) -> Result<Principal, VerifyError> {
        let parts = Parts::split(token).ok_or(VerifyErrorKind::Malformed)?;
        let header = decode(parts.header)?;
        let header = Header::parse(&header).map_err(at(VerifyErrorKind::Malformed))?;
        self.check_type(&header)?;
        self.check_signature(&header, &parts)?;
        let payload = decode(parts.payload)?;
        let claims =
            RegisteredClaims::parse(&payload).map_err(at(VerifyErrorKind::InvalidClaims))?;
        self.check_claims(&header, &claims)?;
        let expires_at = claims.expires_at.ok_or(VerifyErrorKind::MissingClaim)?;
        let principal = self.principal(&claims, &payload)?;
        match self.times.check(expires_at, claims.not_before, claims.issued_at, now) {
            Ok(()) => Ok(principal),
            Err(error) => Err(VerifyError::from(error).with_principal(principal)),
        }
    }

    fn check_type(&self, header: &Header<'_>) -> Result<(), VerifyErrorKind> {
        let accepted = header.is_access_token() || self.plain && header.is_plain();
        if accepted { Ok(()) } else { Err(VerifyErrorKind::WrongType) }
    }

    fn check_signature(
        &self,
        header: &Header<'_>,
        parts: &Parts<'_>,
    ) -> Result<(), VerifyErrorKind> {
        let algorithm = header.algorithm()?;
        let signature = decode(parts.signature)?;
        if algorithm.signature_len().is_some_and(|len| len != signature.len()) {
            return Err(VerifyErrorKind::BadSignature);
        }
        let mut tries = self.candidates(algorithm, header.kid()).take(MAX_TRIES).peekable();
        if tries.peek().is_none() {
            return Err(if self.keys.iter().any(|key| key.algorithm == algorithm) {
                VerifyErrorKind::UnknownKey
            } else {
                VerifyErrorKind::UnsupportedAlgorithm
            });
        }
        if tries.any(|key| key.key.verify(parts.signed.as_bytes(), &signature)) {
            Ok(())
        } else {
            Err(VerifyErrorKind::BadSignature)
        }
    }

    /// The keys of this algorithm that the token's `kid` leaves: those of that name, or, when none
    /// has it, those without a name. A token without `kid` leaves all.
    fn candidates(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
    ) -> impl Iterator<Item = &VerifyingKey> {
        let named = kid.filter(|kid| self.keys.iter().any(|key| key.kid.as_deref() == Some(kid)));
        self.keys.iter().filter(move |key| {
            key.algorithm == algorithm
                && match (kid, named) {
                    (None, _) => true,
                    (Some(_), None) => key.kid.is_none(),
                    (Some(_), Some(named)) => key.kid.as_deref() == Some(named),
                }
        })
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
        if claims.audience.is_empty() {
            return Err(missing);
        }
        if !claims.audience.iter().any(|name| self.audiences.iter().any(|ours| ours == name)) {
            return Err(VerifyErrorKind::WrongAudience);
        }
        if claims.sender_constrained {
            return Err(VerifyErrorKind::SenderConstrained);
        }
        if header.is_access_token() {
            // RFC 9068 §2.2 asks for these in every token that calls itself one (JWT-30).
            let names = [&claims.subject, &claims.client, &claims.token_id];
            if names.iter().any(|name| name.is_none()) || claims.issued_at.is_none() {
                return Err(missing);
            }
        } else if claims.of_id_token {
            return Err(VerifyErrorKind::WrongType);
        }
        Ok(())
    }

    fn principal(
        &self,
        claims: &RegisteredClaims<'_>,
        payload: &[u8],
    ) -> Result<Principal, VerifyError> {
        let client = claims.client.as_deref().or(claims.authorized_party.as_deref());
        let named = claims.subject.as_deref().or(client).filter(|name| !name.is_empty());
        let subject = named.ok_or(VerifyErrorKind::MissingClaim)?;
        let mut principal = Principal::builder(self.issuer.clone(), subject)
            .token_kind(TokenKind::Jwt)
            .roles(claims.roles.iter().map(|role| Box::<str>::from(&**role)))
            .issued_at(claims.issued_at.and_then(system_time))
            .expires_at(claims.expires_at.and_then(system_time))
            .auth_time(claims.auth_time.and_then(system_time))
            .claims(payload);
        if let Some(client) = client {
            principal = principal.client(client);
        }
        if let Some(scope) = &claims.scope {
            principal = principal.scopes(scope);
        }
        if let Some(token_id) = &claims.token_id {
            principal = principal.token_id(token_id);
        }
        if let Some(acr) = &claims.acr {
            principal = principal.acr(acr);
        }
        Ok(principal.build())
    }
}

impl TokenVerifier for JwtVerifier {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        Some(self.check(request.token.as_str(), request.now))
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self.check(request.token.as_str(), request.now)
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("keys", &self.keys)
            .field("times", &self.times)
            .field("plain", &self.plain)
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
    URL_SAFE_NO_PAD.decode(part).map_err(|_| VerifyErrorKind::Malformed)
}

/// Says where the JSON is wrong, and not what stands there: the parser's own text quotes claims.
fn at(kind: VerifyErrorKind) -> impl Fn(serde_json::Error) -> VerifyError {
    move |error| VerifyError::new(kind, format!("not acceptable at byte {}", error.column()))
}

impl From<TimeError> for VerifyError {
    fn from(error: TimeError) -> Self {
        let kind = match error {
            TimeError::Expired => VerifyErrorKind::Expired,
            TimeError::NotYetValid => VerifyErrorKind::NotActive,
            TimeError::IssuedInFuture | TimeError::LivesTooLong | TimeError::TooOld => {
                VerifyErrorKind::InvalidClaims
            }
        };
        Self::new(kind, error)
    }
}
