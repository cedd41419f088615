//! What a caller must have: scopes, roles, a strong enough and recent enough login.

use std::time::{Duration, SystemTime};

use crate::principal::Principal;
use crate::scope::{InvalidScope, Scope};

/// A condition on a [`Principal`].
///
/// One value serves twice: [`RequireScopeLayer`](crate::RequireScopeLayer) asks it of a route, and
/// [`RateLimitLayer`](crate::RateLimitLayer) asks it to choose a tier.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::{Principal, Requirement};
///
/// let editors = Requirement::scope("write:reports")
///     .and(Requirement::any([Requirement::role("editor"), Requirement::role("admin")]))
///     .and(Requirement::not(Requirement::role("suspended")));
/// let payouts = Requirement::scope("payouts:read")
///     .and(Requirement::acr(["mfa"]))
///     .and(Requirement::max_age(Duration::from_secs(300)));
/// # let now = std::time::SystemTime::now();
/// let principal = Principal::builder("https://issuer.example", "user-1")
///     .scopes("write:reports payouts:read")
///     .roles(["editor"])
///     .build();
/// assert!(editors.is_met_by(&principal, now));
/// assert!(!payouts.is_met_by(&principal, now), "no recent login");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirement(Condition);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Condition {
    Acr(Vec<Box<str>>),
    All(Vec<Requirement>),
    Any(Vec<Requirement>),
    MaxAge(Duration),
    Not(Box<Requirement>),
    Role(Box<str>),
    Scope(Scope),
}

/// What a principal lacks, the hardest to come by first: no login gives a caller another role, and
/// no fresh login gives a token more scopes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Unmet {
    /// A role, or the absence of something that is there.
    Policy,
    /// The scopes that the whole requirement names (BEARER-31).
    Scopes(Vec<Scope>),
    /// A stronger or a fresher login (RFC 9470).
    StepUp { acr_values: Vec<Box<str>>, max_age: Option<Duration> },
}

/// The most that two clocks may differ, as for the other times of a token.
const MAX_SKEW: Duration = Duration::from_secs(300);

impl Requirement {
    /// The token grants this scope.
    ///
    /// # Panics
    ///
    /// When the text is not a scope, so that a spelling mistake stops the program as it starts.
    /// For a text that is not in the program, parse a [`Scope`] and convert that.
    #[must_use]
    pub fn scope(scope: &str) -> Self {
        Scope::parse(scope).map_or_else(|error| panic_at_start(&error), Self::from)
    }

    /// The token grants every one of these scopes.
    ///
    /// # Panics
    ///
    /// As [`Requirement::scope`].
    #[must_use]
    pub fn scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::all(scopes.into_iter().map(Self::scope))
    }

    /// The caller has this role.
    #[must_use]
    pub fn role(role: &str) -> Self {
        Self(Condition::Role(role.into()))
    }

    /// The user logged in with one of these authentication context classes, best first (RFC 9470).
    ///
    /// # Panics
    ///
    /// When a value could not stand in a challenge: it has the grammar of a [`Scope`].
    #[must_use]
    pub fn acr<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let checked = |value| match Scope::parse(value) {
            Ok(_) => value.into(),
            Err(error) => panic_at_start(&error),
        };
        Self(Condition::Acr(values.into_iter().map(checked).collect()))
    }

    /// The user logged in at most this long ago, in whole seconds. A token that does not say when
    /// does not meet it, nor one that says a time more than 300 seconds ahead.
    #[must_use]
    pub fn max_age(age: Duration) -> Self {
        Self(Condition::MaxAge(age))
    }

    /// Every one of these; of an empty list, any principal will do.
    #[must_use]
    pub fn all(requirements: impl IntoIterator<Item = Self>) -> Self {
        Self(Condition::All(requirements.into_iter().collect()))
    }

    /// At least one of these; of an empty list, no principal will do. When none is met, the
    /// refusal asks for the first that takes a scope or a login; for that of a role, nobody can ask.
    #[must_use]
    pub fn any(requirements: impl IntoIterator<Item = Self>) -> Self {
        Self(Condition::Any(requirements.into_iter().collect()))
    }

    /// The opposite. The refusal is a plain 403: nothing that a client could ask for helps.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "it stands beside `all` and `any`")]
    pub fn not(requirement: Self) -> Self {
        Self(Condition::Not(Box::new(requirement)))
    }

    /// Both this one and the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self.0 {
            Condition::All(mut all) => {
                all.push(other);
                Self(Condition::All(all))
            }
            condition => Self::all([Self(condition), other]),
        }
    }

    /// Whether the principal meets it at this time.
    #[must_use]
    pub fn is_met_by(&self, principal: &Principal, now: SystemTime) -> bool {
        match &self.0 {
            Condition::Acr(values) => {
                principal.acr().is_some_and(|acr| values.iter().any(|value| **value == *acr))
            }
            Condition::All(all) => all.iter().all(|one| one.is_met_by(principal, now)),
            Condition::Any(any) => any.iter().any(|one| one.is_met_by(principal, now)),
            Condition::MaxAge(most) => {
                principal.auth_time().is_some_and(|at| match now.duration_since(at) {
                    Ok(age) => age <= *most,
                    // A login in the near future is the skew of a clock. One in the far future is a
                    // mistake, such as milliseconds for seconds, and proves nothing.
                    Err(error) => error.duration() <= MAX_SKEW,
                })
            }
            Condition::Not(one) => !one.is_met_by(principal, now),
            Condition::Role(role) => principal.has_role(role),
            Condition::Scope(scope) => principal.scopes().contains(scope),
        }
    }

    /// What the principal lacks; `None` when it lacks nothing.
    pub(crate) fn unmet(&self, principal: &Principal, now: SystemTime) -> Option<Unmet> {
        if self.is_met_by(principal, now) {
            return None;
        }
        let lack = self.lack(principal, now);
        Some(if lack.policy {
            Unmet::Policy
        } else if lack.scope {
            let mut scopes = Vec::new();
            self.name_scopes(principal, now, &mut scopes);
            Unmet::Scopes(scopes)
        } else {
            Unmet::StepUp { acr_values: lack.acr_values, max_age: lack.max_age }
        })
    }

    /// The scopes that a client which has none should ask its issuer for.
    pub(crate) fn named_scopes(&self) -> Vec<Scope> {
        let nobody = Principal::builder("", "").build();
        let mut scopes = Vec::new();
        self.name_scopes(&nobody, SystemTime::UNIX_EPOCH, &mut scopes);
        scopes
    }

    fn name_scopes(&self, principal: &Principal, now: SystemTime, scopes: &mut Vec<Scope>) {
        match &self.0 {
            Condition::All(all) => {
                all.iter().for_each(|one| one.name_scopes(principal, now, scopes));
            }
            Condition::Any(any) => {
                if let Some(one) = nearest(any, principal, now) {
                    one.name_scopes(principal, now, scopes);
                }
            }
            Condition::Scope(scope) if !scopes.contains(scope) => scopes.push(scope.clone()),
            _ => {}
        }
    }

    fn lack(&self, principal: &Principal, now: SystemTime) -> Lack {
        let mut lack = Lack::default();
        if !self.is_met_by(principal, now) {
            self.collect(principal, now, &mut lack);
        }
        lack
    }

    /// Adds what is lacking to a requirement that is not met.
    fn collect(&self, principal: &Principal, now: SystemTime, lack: &mut Lack) {
        let is_unmet = |one: &&Self| !one.is_met_by(principal, now);
        match &self.0 {
            Condition::Acr(values) => lack.acr_values.extend_from_slice(values),
            Condition::All(all) => {
                all.iter().filter(is_unmet).for_each(|one| one.collect(principal, now, lack));
            }
            Condition::Any(any) => match nearest(any, principal, now) {
                Some(one) => one.collect(principal, now, lack),
                None => lack.policy = true,
            },
            Condition::MaxAge(age) => {
                lack.max_age = Some(lack.max_age.map_or(*age, |other| other.min(*age)));
            }
            Condition::Not(_) | Condition::Role(_) => lack.policy = true,
            Condition::Scope(_) => lack.scope = true,
        }
    }
}

/// The alternative to ask for: one that is met, whose scopes the next token needs as well; failing
/// that, the first that a client can do something about.
fn nearest<'a>(
    any: &'a [Requirement],
    principal: &Principal,
    now: SystemTime,
) -> Option<&'a Requirement> {
    any.iter()
        .find(|one| one.is_met_by(principal, now))
        .or_else(|| any.iter().find(|one| !one.lack(principal, now).policy))
        .or(any.first())
}

/// A requirement for one scope, for scopes that are known only as the program runs.
impl From<Scope> for Requirement {
    fn from(scope: Scope) -> Self {
        Self(Condition::Scope(scope))
    }
}

/// What the unmet parts of a requirement ask for.
#[derive(Default)]
struct Lack {
    policy: bool,
    scope: bool,
    acr_values: Vec<Box<str>>,
    max_age: Option<Duration>,
}

#[expect(clippy::panic, reason = "a route table with a misspelt scope must not start")]
fn panic_at_start(error: &InvalidScope) -> ! {
    panic!("{error}")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn principal() -> Principal {
        Principal::builder("iss", "sub")
            .scopes("read write")
            .roles(["editor"])
            .acr("low")
            .auth_time(now() - Duration::from_secs(400))
            .build()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn unmet(requirement: &Requirement) -> Option<Unmet> {
        requirement.unmet(&principal(), now())
    }

    fn scopes(names: &[&str]) -> Unmet {
        Unmet::Scopes(names.iter().map(|name| Scope::parse(name).unwrap()).collect())
    }

    #[test]
    fn all_any_and_not_combine() {
        let read = || Requirement::scope("read");
        let admin = || Requirement::role("admin");
        assert_eq!(unmet(&read()), None);
        assert_eq!(unmet(&Requirement::all([])), None);
        assert_eq!(unmet(&Requirement::any([admin(), read()])), None);
        assert_eq!(unmet(&Requirement::not(admin())), None);
        assert_eq!(unmet(&Requirement::any([])), Some(Unmet::Policy));
        assert_eq!(unmet(&Requirement::not(read())), Some(Unmet::Policy));
        assert_eq!(unmet(&read().and(admin())), Some(Unmet::Policy));
    }

    #[test]
    fn a_missing_scope_names_all_scopes_of_the_requirement() {
        let both = Requirement::scopes(["read", "delete"]);
        assert_eq!(unmet(&both), Some(scopes(&["read", "delete"])), "BEARER-31");
        let either = Requirement::any([Requirement::scope("delete"), Requirement::scope("purge")]);
        assert_eq!(unmet(&either), Some(scopes(&["delete"])));
    }

    #[test]
    fn of_alternatives_a_client_is_asked_for_one_that_it_can_get() {
        let (delete, purge) = (|| Requirement::scope("delete"), || Requirement::scope("purge"));
        let admin = || Requirement::role("admin");
        let has_one = delete().and(Requirement::any([purge(), Requirement::scope("write")]));
        assert_eq!(unmet(&has_one), Some(scopes(&["delete", "write"])), "BEARER-31");
        let role_or_scope = Requirement::any([admin(), delete()]);
        assert_eq!(unmet(&role_or_scope), Some(scopes(&["delete"])));
        let deep = Requirement::any([admin().and(purge()), Requirement::all([delete()])]);
        assert_eq!(unmet(&deep), Some(scopes(&["delete"])));
        assert_eq!(
            unmet(&Requirement::any([admin(), Requirement::role("owner")])),
            Some(Unmet::Policy)
        );
        assert_eq!(role_or_scope.named_scopes(), [Scope::parse("delete").unwrap()]);
    }

    #[test]
    fn a_missing_role_outranks_a_missing_scope_and_that_a_weak_login() {
        let weak = || Requirement::acr(["mfa", "hw"]);
        let step_up = Unmet::StepUp { acr_values: vec!["mfa".into(), "hw".into()], max_age: None };
        assert_eq!(unmet(&weak()), Some(step_up), "BEARER-50");
        assert_eq!(unmet(&weak().and(Requirement::scope("delete"))), Some(scopes(&["delete"])));
        let all = weak().and(Requirement::scope("delete")).and(Requirement::role("admin"));
        assert_eq!(unmet(&all), Some(Unmet::Policy));
    }

    #[test]
    fn the_age_of_a_login_counts_and_an_unknown_age_is_too_old() {
        let within = |seconds| Requirement::max_age(Duration::from_secs(seconds));
        assert_eq!(unmet(&within(400)), None, "BEARER-50");
        let step_up =
            Unmet::StepUp { acr_values: Vec::new(), max_age: Some(Duration::from_secs(399)) };
        assert_eq!(unmet(&within(399)), Some(step_up), "BEARER-50");
        let unknown = Principal::builder("iss", "sub").build();
        assert!(!within(u64::MAX).is_met_by(&unknown, now()), "BEARER-51");
    }

    #[test]
    fn a_login_in_the_far_future_is_not_recent() {
        let month_ago = 1_700_000_000 - 30 * 86_400;
        for (auth_time, is_met) in [
            (1_700_000_000 + 300, true),
            (1_700_000_000 + 301, false),
            // A month ago, in milliseconds.
            (month_ago * 1000, false),
        ] {
            let auth_time = UNIX_EPOCH + Duration::from_secs(auth_time);
            let principal = Principal::builder("iss", "sub").auth_time(auth_time).build();
            let recent = Requirement::max_age(Duration::from_secs(300));
            assert_eq!(recent.is_met_by(&principal, now()), is_met, "BEARER-50: {auth_time:?}");
        }
    }

    #[test]
    #[should_panic(expected = "is not a scope")]
    fn a_class_that_no_challenge_can_carry_stops_the_program_as_it_starts() {
        let _ = Requirement::acr(["urn:mfa", "a\"b"]);
    }

    #[test]
    #[should_panic(expected = "\"read write\" is not a scope")]
    fn a_misspelt_scope_stops_the_program_as_it_starts() {
        let _ = Requirement::scope("read write");
    }
}
