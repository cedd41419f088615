//! Registered claims and the rules on their times (RFC 7519 §4.1, RFC 9068 §2.2).

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Error as _, MapAccess};
use thiserror::Error;

use crate::json::{AnyValue, Members, Text, Value, read_object};

/// The most members that an object of the claims may have.
const MAX_MEMBERS: usize = 1024;

/// The claims that this crate understands, borrowed from the payload where they can be.
///
/// A claim of the wrong type fails the whole payload: it must never count as absent (attack 10).
/// Only `scope` and `roles` are lenient, because what cannot be read there grants nothing.
#[derive(Default)]
pub(crate) struct RegisteredClaims<'a> {
    pub(crate) issuer: Option<Cow<'a, str>>,
    pub(crate) subject: Option<Cow<'a, str>>,
    pub(crate) audience: Vec<Cow<'a, str>>,
    pub(crate) expires_at: Option<f64>,
    pub(crate) not_before: Option<f64>,
    pub(crate) issued_at: Option<f64>,
    pub(crate) token_id: Option<Cow<'a, str>>,
    pub(crate) client: Option<Cow<'a, str>>,
    /// `azp`, in which issuers from before RFC 9068 name the client.
    pub(crate) authorized_party: Option<Cow<'a, str>>,
    pub(crate) scope: Option<Cow<'a, str>>,
    pub(crate) roles: Vec<Cow<'a, str>>,
    pub(crate) acr: Option<Cow<'a, str>>,
    pub(crate) auth_time: Option<f64>,
    /// `cnf`: the token is worth nothing without a proof of possession (RFC 7800).
    pub(crate) sender_constrained: bool,
    /// `nonce`, `at_hash` or `c_hash`: only an ID token has them (OpenID Connect Core §2, §3.3.2).
    pub(crate) of_id_token: bool,
}

impl<'a> RegisteredClaims<'a> {
    pub(crate) fn parse(payload: &'a [u8]) -> Result<Self, serde_json::Error> {
        let mut claims = Self::default();
        read_object(payload, MAX_MEMBERS, &mut claims)?;
        Ok(claims)
    }
}

impl<'de> Members<'de> for RegisteredClaims<'de> {
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let any = AnyValue::of_member(MAX_MEMBERS);
        match name {
            "iss" => self.issuer = Some(text(map)?),
            "sub" => self.subject = Some(text(map)?),
            "aud" => {
                self.audience = match map.next_value_seed(any)? {
                    Value::Text(audience) => vec![audience],
                    Value::Texts(audiences) => audiences,
                    Value::Other => return Err(A::Error::custom("`aud` holds no strings")),
                }
            }
            "exp" => self.expires_at = Some(numeric_date(map)?),
            "nbf" => self.not_before = Some(numeric_date(map)?),
            "iat" => self.issued_at = Some(numeric_date(map)?),
            "jti" => self.token_id = Some(text(map)?),
            "client_id" => self.client = Some(text(map)?),
            "azp" => self.authorized_party = Some(text(map)?),
            "scope" => {
                if let Value::Text(scope) = map.next_value_seed(any)? {
                    self.scope = Some(scope);
                }
            }
            "roles" => {
                if let Value::Texts(roles) = map.next_value_seed(any)? {
                    self.roles = roles;
                }
            }
            "acr" => self.acr = Some(text(map)?),
            "auth_time" => self.auth_time = Some(numeric_date(map)?),
            "cnf" => {
                self.sender_constrained = true;
                return Ok(false);
            }
            "nonce" | "at_hash" | "c_hash" => {
                self.of_id_token = true;
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Cow<'de, str>, A::Error> {
    map.next_value().map(|Text(text)| text)
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
        match self.max_age {
            Some(max_age) if now - born > max_age.as_secs_f64() + leeway => Err(TimeError::TooOld),
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
        assert_eq!(check(0, NOW + 1.0, None, None), Ok(()), "JWT-34");
        assert_eq!(check(0, NOW + 0.5, None, None), Ok(()), "JWT-33");
        assert_eq!(check(60, NOW - 59.0, None, None), Ok(()), "JWT-34");
        assert_eq!(check(60, NOW - 60.0, None, None), Err(TimeError::Expired), "JWT-34");
    }

    #[test]
    fn nbf_is_the_first_moment_that_is_not_too_early() {
        let exp = NOW + 600.0;
        assert_eq!(check(0, exp, Some(NOW), None), Ok(()), "JWT-35");
        assert_eq!(check(0, exp, Some(NOW + 1.0), None), Err(TimeError::NotYetValid), "JWT-35");
        assert_eq!(check(1, exp, Some(NOW + 1.0), None), Ok(()), "JWT-35");
    }

    #[test]
    fn a_token_from_the_future_an_old_one_and_an_everlasting_one_are_refused() {
        let exp = NOW + 600.0;
        assert_eq!(check(30, exp, None, Some(NOW + 3600.0)), Err(TimeError::IssuedInFuture));
        assert_eq!(check(30, exp, None, Some(NOW - 7_231.0)), Err(TimeError::TooOld), "JWT-38");
        assert_eq!(check(30, exp, None, Some(NOW - 7_230.0)), Ok(()), "JWT-38");
        let century = NOW + 100.0 * 365.0 * 86_400.0;
        assert_eq!(check(30, century, None, None), Err(TimeError::LivesTooLong), "attack 14");
        assert_eq!(check(30, century, None, Some(NOW)), Err(TimeError::LivesTooLong), "attack 14");
    }

    #[test]
    fn absurd_times_are_refused_without_arithmetic_trouble() {
        for name in ["exp", "nbf", "iat", "auth_time"] {
            for date in ["9223372036854775807", "1e308", "-1e308", "-9.3e18"] {
                let payload = format!("{{\"{name}\":{date}}}");
                assert!(RegisteredClaims::parse(payload.as_bytes()).is_err(), "JWT-37: {payload}");
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
            assert!(RegisteredClaims::parse(payload.as_bytes()).is_err(), "JWT-32, 33: {claim}");
        }
    }

    #[test]
    fn scopes_and_roles_of_another_shape_grant_nothing() {
        for payload in [r#"{"scope":["read"]}"#, r#"{"scope":7}"#, r#"{"roles":"admin"}"#] {
            let claims = RegisteredClaims::parse(payload.as_bytes()).unwrap();
            assert!(claims.scope.is_none() && claims.roles.is_empty(), "JWT-39: {payload}");
        }
        let claims = RegisteredClaims::parse(br#"{"roles":["admin",1]}"#).unwrap();
        assert!(claims.roles.is_empty(), "JWT-39");
    }
}
