//! Registered claims and the rules on their times (RFC 7519 §4.1, RFC 9068 §2.2).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Error as _, MapAccess};
use thiserror::Error;

use crate::json::{AnyValue, Members, Text, Texts, Value, read_object};
use crate::principal::{Principal, PrincipalBuilder};
use crate::scope::{Scope, ScopeSet};

/// The most members that an object of the claims may have.
pub(crate) const MAX_MEMBERS: usize = 1024;

/// The claims that this crate understands, borrowed from the payload where they can be.
///
/// A claim of the wrong type fails the whole payload: it must never count as absent (attack 10).
/// Only scopes and roles are lenient, because what cannot be read there grants nothing.
#[derive(Default)]
pub(crate) struct RegisteredClaims<'a> {
    pub(crate) issuer: Option<Cow<'a, str>>,
    pub(crate) subject: Option<Cow<'a, str>>,
    pub(crate) audience: Texts<'a>,
    pub(crate) expires_at: Option<f64>,
    pub(crate) not_before: Option<f64>,
    pub(crate) issued_at: Option<f64>,
    pub(crate) token_id: Option<Cow<'a, str>>,
    /// `client_id`.
    pub(crate) client: Option<Cow<'a, str>>,
    /// What issuers from before RFC 9068 call the client, of several the one named first.
    pub(crate) old_client: Option<(usize, Cow<'a, str>)>,
    /// Scopes with spaces between.
    pub(crate) scopes: Option<Cow<'a, str>>,
    pub(crate) roles: Texts<'a>,
    pub(crate) acr: Option<Cow<'a, str>>,
    pub(crate) auth_time: Option<f64>,
    /// `cnf`: the token is worth nothing without a proof of possession (RFC 7800).
    pub(crate) sender_constrained: bool,
    /// `nonce`, `at_hash` or `c_hash`, which only an ID token has (OpenID Connect Core §2, §3.3.2), or
    /// `events`, which only a security event has, such as a logout token (RFC 8417 §2.2).
    pub(crate) of_another_kind: bool,
    /// How many of the claims in [`ClaimNames::fixed`] have the value that they must have.
    pub(crate) fixed: usize,
}

/// Where an issuer puts what RFC 9068 has names for.
#[derive(Clone, Debug)]
pub(crate) struct ClaimNames {
    /// The members that lead to the scopes. Only a place other than `scope` may hold a list
    /// (JWT-39).
    pub(crate) scopes: Path,
    /// The members that lead to roles, which are those of all these places.
    pub(crate) roles: Vec<Path>,
    /// Names of the client beside `client_id`, the best first.
    pub(crate) clients: Vec<Box<str>>,
    /// Claims that must have one value, such as `token_use` that of `access`.
    pub(crate) fixed: Vec<(Box<str>, Box<str>)>,
}

/// The names of members, each inside the object that the one before it names.
pub(crate) type Path = Box<[Box<str>]>;

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            scopes: Box::new(["scope".into()]),
            roles: vec![Box::new(["roles".into()])],
            clients: vec!["azp".into()],
            fixed: Vec::new(),
        }
    }
}

impl<'a> RegisteredClaims<'a> {
    pub(crate) fn parse(payload: &'a [u8], names: &ClaimNames) -> Result<Self, serde_json::Error> {
        let mut reader = Reader { names, claims: Self::default() };
        read_object(payload, MAX_MEMBERS, &mut reader)?;
        Ok(reader.claims)
    }

    /// Whom the token was given to.
    pub(crate) fn client(&self) -> Option<&str> {
        let old = self.old_client.as_ref().map(|(_, client)| &**client);
        self.client.as_deref().or(old)
    }

    /// Whom the claims are about, without the text that they borrow from; `None` where they name
    /// nobody.
    pub(crate) fn principal(&self, issuer: &Arc<str>) -> Option<PrincipalBuilder> {
        // Never the client in the subject's place: a client that chose the name of a user would be
        // that user (RFC 9700 §4.15).
        let subject = self.subject.as_deref().filter(|name| !name.is_empty())?;
        // In place: the builder's own methods would move it a dozen times, which costs more than half
        // of what there is to set.
        let mut builder = Principal::builder(issuer.clone(), subject);
        let principal = &mut builder.0;
        principal.foreign = true;
        principal.client = self.client().map(Into::into);
        principal.scopes = ScopeSet::from_text(self.scopes.as_deref().unwrap_or_default());
        principal.roles = self.roles.iter().map(|role| Box::from(&**role)).collect();
        principal.token_id = self.token_id.as_deref().map(Into::into);
        principal.issued_at = self.issued_at.and_then(system_time);
        principal.expires_at = self.expires_at.and_then(system_time);
        principal.acr = self.acr.as_deref().map(Into::into);
        principal.auth_time = self.auth_time.and_then(system_time);
        Some(builder)
    }
}

struct Reader<'n, 'a> {
    names: &'n ClaimNames,
    claims: RegisteredClaims<'a>,
}

impl<'de> Members<'de> for Reader<'_, 'de> {
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let claims = &mut self.claims;
        match name {
            "iss" => claims.issuer = Some(text(map)?),
            "sub" => claims.subject = Some(text(map)?),
            "aud" => claims.audience = texts(map)?,
            "exp" => claims.expires_at = Some(numeric_date(map)?),
            "nbf" => claims.not_before = Some(numeric_date(map)?),
            "iat" => claims.issued_at = Some(numeric_date(map)?),
            "jti" => claims.token_id = Some(text(map)?),
            "client_id" => claims.client = Some(text(map)?),
            "acr" => claims.acr = Some(text(map)?),
            "auth_time" => claims.auth_time = Some(numeric_date(map)?),
            "cnf" => {
                claims.sender_constrained = true;
                return Ok(false);
            }
            "nonce" | "at_hash" | "c_hash" | "events" => {
                claims.of_another_kind = true;
                return Ok(false);
            }
            _ => return self.read_named(name, map),
        }
        Ok(true)
    }
}

impl<'de> Reader<'_, 'de> {
    /// The claims whose names are the issuer's choice.
    fn read_named<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let leads = |path: &Path| path.first().is_some_and(|first| **first == *name);
        let any = AnyValue::of_member(MAX_MEMBERS);
        if leads(&self.names.scopes) {
            let value = map.next_value_seed(any.at(&self.names.scopes[1..]))?;
            self.claims.scopes = self.scopes(value);
        } else if let Some(path) = self.names.roles.iter().find(|path| leads(path)) {
            if let Value::Texts(roles) = map.next_value_seed(any.at(&path[1..]))? {
                self.claims.roles.extend(roles);
            }
        } else if let Some(rank) = self.names.clients.iter().position(|client| **client == *name) {
            let client = text(map)?;
            if self.claims.old_client.as_ref().is_none_or(|(other, _)| rank < *other) {
                self.claims.old_client = Some((rank, client));
            }
        } else if let Some((_, wanted)) =
            self.names.fixed.iter().find(|(fixed, _)| **fixed == *name)
        {
            self.claims.fixed += usize::from(text(map)? == **wanted);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn scopes(&self, value: Value<'de>) -> Option<Cow<'de, str>> {
        let may_be_list = *self.names.scopes != [Box::from("scope")];
        match value {
            Value::Text(scopes) => Some(scopes),
            // An element with a space in it would fall apart into scopes that were never granted.
            Value::Texts(mut list) if may_be_list => {
                list.retain(|scope| Scope::parse(scope).is_ok());
                Some(list.join(" ").into())
            }
            _ => None,
        }
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Cow<'de, str>, A::Error> {
    map.next_value().map(|Text(text)| text)
}

/// A string or an array of strings.
fn texts<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Texts<'de>, A::Error> {
    match map.next_value_seed(AnyValue::of_member(MAX_MEMBERS))? {
        Value::Text(text) => Ok(Texts::from_iter([text])),
        Value::Texts(texts) => Ok(texts),
        Value::Other => Err(A::Error::custom("`aud` holds no strings")),
    }
}

/// A time within what `i64` seconds hold (JWT-37). The parser lets no NaN and no infinity through.
fn numeric_date<'de, A: MapAccess<'de>>(map: &mut A) -> Result<f64, A::Error> {
    let date: f64 = map.next_value()?;
    if date.abs() < 9.2e18 { Ok(date) } else { Err(A::Error::custom("a time is out of range")) }
}

/// The rules on `exp`, `nbf` and `iat`. Times are `NumericDate`: seconds since 1970, fractions
/// allowed (RFC 7519 §2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeRules {
    /// How far the clocks of issuer and verifier may be apart.
    pub(crate) leeway: Duration,
    /// The longest time between `iat` (or now, without one) and `exp`.
    pub(crate) max_lifetime: Duration,
    /// The longest time since `iat`, for verifiers that want younger tokens than the issuer does.
    pub(crate) max_age: Option<Duration>,
}

/// Which rule on times a token breaks.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum TimeError {
    #[error("the verifier has a max_age, and the token does not say when it was issued")]
    AgeUnknown,
    #[error("`exp` has passed")]
    Expired,
    #[error("`iat` is in the future: compare the clocks of issuer and verifier")]
    IssuedInFuture,
    #[error("the token lives longer than the verifier's max_lifetime: shorten it or raise that")]
    LivesTooLong,
    #[error("`nbf` has not come yet")]
    NotYetValid,
    #[error("the token is older than the verifier's max_age")]
    TooOld,
}

impl TimeRules {
    /// Checks the three times of a token (JWT-33 to JWT-38). Equality with `exp` is expired.
    pub(crate) fn check(
        &self,
        expires_at: f64,
        not_before: Option<f64>,
        issued_at: Option<f64>,
        now: SystemTime,
    ) -> Result<(), TimeError> {
        let now = seconds(now);
        let leeway = self.leeway.as_secs_f64();
        if now >= expires_at + leeway {
            return Err(TimeError::Expired);
        }
        if not_before.is_some_and(|not_before| now < not_before - leeway) {
            return Err(TimeError::NotYetValid);
        }
        if issued_at.is_some_and(|issued_at| now < issued_at - leeway) {
            return Err(TimeError::IssuedInFuture);
        }
        let born = issued_at.unwrap_or(now);
        if expires_at - born > self.max_lifetime.as_secs_f64() {
            return Err(TimeError::LivesTooLong);
        }
        match (self.max_age, issued_at) {
            (Some(_), None) => Err(TimeError::AgeUnknown),
            (Some(max_age), Some(at)) if now - at > max_age.as_secs_f64() + leeway => {
                Err(TimeError::TooOld)
            }
            _ => Ok(()),
        }
    }
}

/// A `NumericDate` as the time it names; `None` where no such time exists.
pub(crate) fn system_time(numeric_date: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(numeric_date).ok()?;
    UNIX_EPOCH.checked_add(since)
}

fn seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_700_000_000.0;

    fn parse(payload: &str) -> Result<RegisteredClaims<'_>, serde_json::Error> {
        RegisteredClaims::parse(payload.as_bytes(), &ClaimNames::default())
    }

    fn check(leeway: u64, exp: f64, nbf: Option<f64>, iat: Option<f64>) -> Result<(), TimeError> {
        let rules = TimeRules {
            leeway: Duration::from_secs(leeway),
            max_lifetime: Duration::from_secs(86_400),
            max_age: Some(Duration::from_secs(7_200)),
        };
        rules.check(exp, nbf, iat, system_time(NOW).unwrap())
    }

    #[test]
    fn exp_is_the_first_moment_that_is_too_late() {
        assert_eq!(check(0, NOW, None, None), Err(TimeError::Expired), "JWT-34");
        let iat = Some(NOW);
        assert_eq!(check(0, NOW + 1.0, None, iat), Ok(()), "JWT-34");
        assert_eq!(check(0, NOW + 0.5, None, iat), Ok(()), "JWT-33");
        assert_eq!(check(60, NOW - 59.0, None, iat), Ok(()), "JWT-34");
        assert_eq!(check(60, NOW - 60.0, None, None), Err(TimeError::Expired), "JWT-34");
    }

    #[test]
    fn nbf_is_the_first_moment_that_is_not_too_early() {
        let exp = NOW + 600.0;
        let iat = Some(NOW);
        assert_eq!(check(0, exp, Some(NOW), iat), Ok(()), "JWT-35");
        assert_eq!(check(0, exp, Some(NOW + 1.0), None), Err(TimeError::NotYetValid), "JWT-35");
        assert_eq!(check(1, exp, Some(NOW + 1.0), iat), Ok(()), "JWT-35");
    }

    #[test]
    fn a_token_from_the_future_an_old_one_and_an_everlasting_one_are_refused() {
        let exp = NOW + 600.0;
        assert_eq!(check(30, exp, None, Some(NOW + 3600.0)), Err(TimeError::IssuedInFuture));
        assert_eq!(check(30, exp, None, Some(NOW - 7_231.0)), Err(TimeError::TooOld), "JWT-38");
        assert_eq!(check(30, exp, None, Some(NOW - 7_230.0)), Ok(()), "JWT-38");
        assert_eq!(check(30, exp, None, None), Err(TimeError::AgeUnknown), "JWT-38");
        let century = NOW + 100.0 * 365.0 * 86_400.0;
        assert_eq!(check(30, century, None, None), Err(TimeError::LivesTooLong), "attack 14");
        assert_eq!(check(30, century, None, Some(NOW)), Err(TimeError::LivesTooLong), "attack 14");
    }

    #[test]
    fn absurd_times_are_refused_without_arithmetic_trouble() {
        for name in ["exp", "nbf", "iat", "auth_time"] {
            for date in ["9223372036854775807", "1e308", "-1e308", "-9.3e18"] {
                let payload = format!("{{\"{name}\":{date}}}");
                assert!(parse(&payload).is_err(), "JWT-37: {payload}");
            }
        }
        assert_eq!(check(300, -9.1e18, None, None), Err(TimeError::Expired), "JWT-37");
        assert_eq!(check(300, 9.1e18, None, None), Err(TimeError::LivesTooLong), "JWT-37");
    }

    #[test]
    fn a_claim_of_the_wrong_type_fails_the_payload() {
        for claim in [
            r#""exp":"9999999999""#,
            r#""exp":null"#,
            r#""exp":[1]"#,
            r#""exp":true"#,
            r#""nbf":"1""#,
            r#""iat":{}"#,
            r#""sub":1"#,
            r#""sub":null"#,
            r#""iss":["a"]"#,
            r#""jti":7"#,
            r#""client_id":[]"#,
            r#""aud":{}"#,
            r#""aud":[1,"api"]"#,
            r#""aud":null"#,
            r#""acr":1"#,
            r#""auth_time":"1""#,
            r#""exp":1e400"#,
        ] {
            let payload = format!("{{{claim}}}");
            assert!(parse(&payload).is_err(), "JWT-32, 33: {claim}");
        }
    }

    #[test]
    fn scopes_and_roles_of_another_shape_grant_nothing() {
        for payload in [r#"{"scope":["read"]}"#, r#"{"scope":7}"#, r#"{"roles":"admin"}"#] {
            let claims = parse(payload).unwrap();
            assert!(claims.scopes.is_none() && claims.roles.is_empty(), "JWT-39: {payload}");
        }
        let claims = parse(r#"{"roles":["admin",1]}"#).unwrap();
        assert!(claims.roles.is_empty(), "JWT-39");
    }

    #[test]
    fn claims_are_read_where_the_issuer_puts_them() {
        let path = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        let names = ClaimNames {
            scopes: path(&["scp"]),
            roles: vec![path(&["realm_access", "roles"]), path(&["groups"])],
            clients: vec!["azp".into(), "cid".into()],
            fixed: vec![("token_use".into(), "access".into())],
        };
        let payload = r#"{
            "scope": "admin", "scp": ["read", "write all", "list"], "roles": ["root"],
            "realm_access": {"x": {"roles": ["no"]}, "roles": ["editor"]}, "groups": ["staff"],
            "cid": "second", "azp": "first", "token_use": "access"
        }"#;
        let claims = RegisteredClaims::parse(payload.as_bytes(), &names).unwrap();
        assert_eq!(claims.scopes.as_deref(), Some("read list"), "no element grants two scopes");
        assert_eq!(claims.roles[..], ["editor", "staff"]);
        assert_eq!(claims.client(), Some("first"));
        assert_eq!(claims.fixed, 1);
        let shallow = r#"{"scp": {"scp": "read"}, "realm_access": ["editor"], "token_use": "id"}"#;
        let claims = RegisteredClaims::parse(shallow.as_bytes(), &names).unwrap();
        assert!(claims.scopes.is_none() && claims.roles.is_empty() && claims.fixed == 0);
    }
}
