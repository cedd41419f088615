//! What an answer says of a token (RFC 7662 §2.2).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::MapAccess;

use crate::claims::{ClaimNames, MAX_MEMBERS, RegisteredClaims, TimeRules};
use crate::json::{AnyValue, Members, Value, read_object};
use crate::principal::{Principal, TokenKind};
use crate::verifier::introspection::endpoint::AskError;
use crate::verifier::{VerifyError, VerifyErrorKind};

/// The end of a token that has none: a time that no rule finds too early.
const NEVER: f64 = 9e18;

/// What an active token must be like.
pub(super) struct Policy {
    pub(super) issuer: Arc<str>,
    pub(super) audiences: Vec<String>,
    /// An answer that names no audience will do.
    pub(super) audience_optional: bool,
    pub(super) times: TimeRules,
    pub(super) names: ClaimNames,
    /// How long an answer is good for.
    pub(super) max_age: Duration,
}

impl Policy {
    /// Reads the JSON text of an answer. What is no answer says nothing about the token.
    pub(super) fn check(&self, json: &[u8], now: SystemTime) -> Result<Principal, VerifyError> {
        let mut said = Said::default();
        read_object(json, MAX_MEMBERS, &mut said).map_err(AskError::at)?;
        if !said.active.ok_or(AskError::NotSaid)? {
            return Err(VerifyErrorKind::UnknownToken.into());
        }
        said.check_kind()?;
        let claims = RegisteredClaims::parse(json, &self.names).map_err(AskError::at)?;
        self.check_claims(&claims)?;
        let principal =
            claims.principal(&self.issuer).ok_or(VerifyErrorKind::MissingClaim)?.claims(json);
        let principal = principal
            .token_kind(TokenKind::Opaque)
            // Also where another cache is put around this verifier.
            .verify_again_at(now.checked_add(self.max_age))
            .build();
        let expires_at = claims.expires_at.unwrap_or(NEVER);
        match self.times.check(expires_at, claims.not_before, claims.issued_at, now) {
            Ok(()) => Ok(principal),
            Err(error) => Err(VerifyError::from(error).with_principal(principal)),
        }
    }

    fn check_claims(&self, claims: &RegisteredClaims<'_>) -> Result<(), VerifyErrorKind> {
        if claims.issuer.as_deref().is_some_and(|issuer| issuer != &*self.issuer) {
            return Err(VerifyErrorKind::WrongIssuer);
        }
        let is_ours = |name: &str| self.audiences.iter().any(|ours| ours == name);
        if claims.audience.is_empty() {
            if !self.audience_optional {
                return Err(VerifyErrorKind::MissingClaim);
            }
        } else if !claims.audience.iter().any(|name| is_ours(name)) {
            return Err(VerifyErrorKind::WrongAudience);
        }
        if claims.sender_constrained {
            return Err(VerifyErrorKind::SenderConstrained);
        }
        if claims.of_another_kind {
            return Err(VerifyErrorKind::WrongType);
        }
        Ok(())
    }
}

/// What decides whether the rest of an answer is about a usable token at all.
#[derive(Default)]
struct Said<'a> {
    active: Option<bool>,
    token_type: Option<Value<'a>>,
    token_use: Option<Value<'a>>,
    typ: Option<Value<'a>>,
}

impl<'de> Members<'de> for Said<'de> {
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let member = match name {
            "active" => {
                self.active = Some(map.next_value()?);
                return Ok(true);
            }
            "token_type" => &mut self.token_type,
            "token_use" => &mut self.token_use,
            "typ" => &mut self.typ,
            _ => return Ok(false),
        };
        *member = Some(map.next_value_seed(AnyValue::of_member(MAX_MEMBERS))?);
        Ok(true)
    }
}

impl Said<'_> {
    /// Refuses what is no access token that its bearer may use, where the answer shows it.
    fn check_kind(&self) -> Result<(), VerifyError> {
        if let Some(token_type) = text(self.token_type.as_ref())? {
            // RFC 9449 §6.2: it is of no use without a proof.
            if token_type.eq_ignore_ascii_case("dpop") {
                return Err(VerifyErrorKind::SenderConstrained.into());
            }
            if !token_type.eq_ignore_ascii_case("bearer") {
                return Err(VerifyErrorKind::WrongType.into());
            }
        }
        // Not registered, but this is what issuers call it.
        let is_other_use = text(self.token_use.as_ref())?
            .is_some_and(|of| !["access", "access_token"].contains(&of));
        let is_other_type = text(self.typ.as_ref())?.is_some_and(|typ| {
            ["id", "logout", "offline", "refresh"].iter().any(|one| typ.eq_ignore_ascii_case(one))
        });
        if is_other_use || is_other_type {
            return Err(VerifyErrorKind::WrongType.into());
        }
        Ok(())
    }
}

/// A member's text. Another type is no answer: it must never count as absent (attack 10).
fn text<'a>(value: Option<&'a Value<'_>>) -> Result<Option<&'a str>, AskError> {
    match value {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(AskError::Kind),
    }
}
