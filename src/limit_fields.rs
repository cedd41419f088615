//! The fields that tell clients how limits stand. Those of draft 10 of
//! draft-ietf-httpapi-ratelimit-headers are structured fields (RFC 9651).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use smallvec::SmallVec;

use crate::quota::{Decision, INLINE, Quota, Take, Usage};
use crate::rejection::whole_seconds;

/// How answers tell clients where their limits stand.
///
/// The first shows all policies; of all others, which have room for one, the most restrictive is
/// shown: that with the smallest part of its units left, and of two such that which has to be waited
/// for longer. Every wait is that for the next unit, in seconds rounded up; that of a limit on what
/// runs at once is a second, because nobody knows when a request ends. Limits that are stacked should
/// have one style.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `RateLimit-Policy: "a";q=5;w=30` and `RateLimit: "a";r=3;t=6` of
    /// draft-ietf-httpapi-ratelimit-headers-10, for new APIs.
    #[default]
    Draft10,
    /// `RateLimit-Policy: 5;w=30` and `RateLimit: limit=5, remaining=3, reset=6` of its seventh
    /// version.
    Draft07,
    /// `RateLimit-Policy: 5;w=30`, `RateLimit-Limit: 5`, `RateLimit-Remaining: 3` and
    /// `RateLimit-Reset: 6` of the versions before.
    Draft06,
    /// `X-RateLimit-Limit: 5`, `X-RateLimit-Remaining: 3` and `X-RateLimit-Reset`, which is not
    /// specified anywhere.
    XRateLimit(Reset),
    /// Nothing but `Retry-After` on refusals.
    None,
}

/// What `X-RateLimit-Reset` is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reset {
    /// Seconds from now.
    Delta,
    /// Seconds since 1970, as GitHub has it.
    Unix,
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const DRAFT_06: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];
const X: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// The largest integer of a structured field (RL-32).
const LARGEST: u64 = 999_999_999_999_999;

/// Policies as clients see them, ready to send.
#[derive(Clone)]
pub(crate) struct Shown {
    style: HeaderStyle,
    /// Each name, quoted, and what comes before the number of units left.
    prefixes: Vec<Box<str>>,
    /// The policies, where their quotas are always the same. An old style has no words for one
    /// without a window.
    policies: Option<HeaderValue>,
}

/// The fields of one answer.
pub(crate) enum Fields {
    List { policies: HeaderValue, limits: HeaderValue },
    One(Box<One>),
}

/// The fields that show one policy; one without a value takes away what another policy has shown.
pub(crate) struct One {
    fields: Vec<(HeaderName, Option<HeaderValue>)>,
    standing: Standing,
}

/// What a limit has shown, in the extensions of the response: a stricter one replaces it.
#[derive(Clone, Copy)]
struct Standing {
    burst: u32,
    remaining: u32,
    next_unit: Duration,
}

impl Shown {
    pub(crate) fn new<'a>(
        style: HeaderStyle,
        policies: impl Iterator<Item = (&'a str, Option<Quota>)> + Clone,
    ) -> Self {
        let prefixes = policies.clone().map(|(name, _)| prefix(name)).collect::<Vec<_>>();
        let quotas: Option<Vec<_>> = policies.map(|(_, quota)| quota).collect();
        let mut shown = Self { style, prefixes, policies: None };
        shown.policies = quotas.map(|quotas| shown.list_of(quotas.into_iter()));
        shown
    }

    /// A limit on what runs at once, which has no window.
    pub(crate) fn at_once(style: HeaderStyle, name: &str, limit: u32) -> Self {
        let prefix = prefix(name);
        let field = format!("{}q={limit};qu=\"concurrent-requests\"", quoted(&prefix));
        let policies = (style == HeaderStyle::Draft10).then(|| header_value(field));
        Self { style, prefixes: vec![prefix], policies }
    }

    /// The fields of a limit on what runs at once; none where nothing is to be shown.
    pub(crate) fn fields_at_once(
        &self,
        limit: u32,
        left: u32,
        now: impl FnOnce() -> SystemTime,
    ) -> Option<Fields> {
        if let Some(policies) = &self.policies {
            let limits = [&self.prefixes[0], itoa::Buffer::new().format(left)].concat();
            let (policies, limits) = (policies.clone(), header_value(limits));
            return Some(Fields::List { policies, limits });
        }
        let next_unit = Duration::from_secs(1);
        self.one(Standing { burst: limit, remaining: left, next_unit }, None, now)
    }

    /// The fields for these answers to these takes; none where nothing is to be shown.
    pub(crate) fn fields(
        &self,
        takes: &[Take],
        decisions: &[Decision],
        now: impl FnOnce() -> SystemTime,
    ) -> Option<Fields> {
        if self.style == HeaderStyle::Draft10 {
            return (!takes.is_empty()).then(|| self.list(takes, decisions));
        }
        let each = takes.iter().zip(decisions).filter(|(_, decision)| is_known(decision));
        let standings = each.map(|(take, decision)| Standing::new(&take.quota, decision.usage()));
        let standing =
            standings.reduce(|one, other| if other.is_before(&one) { other } else { one })?;
        self.one(standing, Some(takes), now)
    }

    /// The fields of a style that shows one policy; of those with a window, the takes.
    fn one(
        &self,
        standing: Standing,
        takes: Option<&[Take]>,
        now: impl FnOnce() -> SystemTime,
    ) -> Option<Fields> {
        let policies = || (POLICY, takes.map(|takes| self.policies_of(takes)));
        let numbers = [
            u64::from(standing.burst),
            u64::from(standing.remaining),
            whole_seconds(standing.next_unit),
        ];
        let named = |names: [HeaderName; 3], numbers: [u64; 3]| {
            names.into_iter().zip(numbers.map(|number| Some(number.into()))).collect()
        };
        let fields = match self.style {
            HeaderStyle::Draft06 => {
                let mut fields: Vec<_> = named(DRAFT_06, numbers);
                fields.push(policies());
                fields
            }
            HeaderStyle::Draft07 => {
                let [limit, remaining, reset] = numbers;
                let limit = format!("limit={limit}, remaining={remaining}, reset={reset}");
                vec![(LIMIT, Some(header_value(limit))), policies()]
            }
            HeaderStyle::XRateLimit(Reset::Delta) => named(X, numbers),
            HeaderStyle::XRateLimit(Reset::Unix) => {
                let at = now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let [limit, remaining, _] = numbers;
                named(X, [limit, remaining, whole_seconds(at + standing.next_unit)])
            }
            HeaderStyle::None | HeaderStyle::Draft10 => return None,
        };
        Some(Fields::One(Box::new(One { fields, standing })))
    }

    /// All policies, what is left of each that is known and when there will be more (RL-2).
    fn list(&self, takes: &[Take], decisions: &[Decision]) -> Fields {
        let policies = self.policies_of(takes);
        let (mut remaining, mut next) = (itoa::Buffer::new(), itoa::Buffer::new());
        let numbers = |decision: &Decision| {
            let usage = decision.usage();
            (usage.remaining, whole_seconds(usage.next_unit).min(LARGEST))
        };
        let limits = if let ([prefix], [decision]) = (&*self.prefixes, decisions) {
            let (units, seconds) = numbers(decision);
            // One allocation of the exact length, which becomes the value's own.
            [prefix, remaining.format(units), ";t=", next.format(seconds)].concat()
        } else {
            let mut list = String::new();
            let each = self.prefixes.iter().zip(decisions);
            for (prefix, decision) in each.filter(|(_, decision)| is_known(decision)) {
                let (units, seconds) = numbers(decision);
                let separator = if list.is_empty() { "" } else { ", " };
                let item =
                    [separator, prefix, remaining.format(units), ";t=", next.format(seconds)];
                list.extend(item);
            }
            list
        };
        Fields::List { policies, limits: header_value(limits) }
    }

    fn policies_of(&self, takes: &[Take]) -> HeaderValue {
        let fixed = self.policies.clone();
        fixed.unwrap_or_else(|| self.list_of(takes.iter().map(|take| take.quota)))
    }

    fn list_of(&self, quotas: impl Iterator<Item = Quota>) -> HeaderValue {
        let items: SmallVec<[String; INLINE]> = self
            .prefixes
            .iter()
            .zip(quotas)
            .map(|(prefix, quota)| {
                let (burst, window) = (quota.burst(), window(&quota));
                match self.style {
                    HeaderStyle::Draft10 => {
                        format!("{}q={burst};w={window}", quoted(prefix))
                    }
                    _ => format!("{burst};w={window}"),
                }
            })
            .collect();
        header_value(items.join(", "))
    }
}

impl Fields {
    /// Adds the fields to those that other limits may have left.
    pub(crate) fn add_to<B>(self, response: &mut Response<B>) {
        match self {
            Self::List { policies, limits } => {
                response.headers_mut().append(POLICY, policies);
                response.headers_mut().append(LIMIT, limits);
            }
            Self::One(one) => one.add_to(response),
        }
    }
}

impl One {
    fn add_to<B>(self, response: &mut Response<B>) {
        let shown = response.extensions().get::<Standing>();
        if shown.is_some_and(|shown| !self.standing.is_before(shown)) {
            return;
        }
        response.extensions_mut().insert(self.standing);
        for (name, value) in self.fields {
            match value {
                Some(value) => response.headers_mut().insert(name, value),
                None => response.headers_mut().remove(name),
            };
        }
    }
}

impl Standing {
    fn new(quota: &Quota, usage: &Usage) -> Self {
        let (burst, remaining, next_unit) = (quota.burst(), usage.remaining, usage.next_unit);
        Self { burst, remaining, next_unit }
    }

    /// Whether this is the more restrictive one (RL-12).
    fn is_before(&self, other: &Self) -> bool {
        let ours = u64::from(self.remaining) * u64::from(other.burst);
        let theirs = u64::from(other.remaining) * u64::from(self.burst);
        ours < theirs || (ours == theirs && self.next_unit > other.next_unit)
    }
}

fn is_known(decision: &Decision) -> bool {
    *decision.usage() != Usage::UNKNOWN
}

/// Where the more restrictive of several policies is, of those that count.
pub(crate) fn strictest(
    takes: &[Take],
    decisions: &[Decision],
    counts: impl Fn(&Decision) -> bool,
) -> Option<usize> {
    let standing = |n: usize| Standing::new(&takes[n].quota, decisions[n].usage());
    let those = (0..takes.len()).filter(|&n| counts(&decisions[n]));
    those.reduce(|one, other| if standing(other).is_before(&standing(one)) { other } else { one })
}

/// A policy shows its burst, and the seconds that this takes to come back (RL-44).
fn window(quota: &Quota) -> u64 {
    // Each unit's interval is rounded up by less than a nanosecond, which must not add up to another
    // second: three a second are not three in two.
    let rounding = Duration::from_nanos(u64::from(quota.burst() - 1));
    whole_seconds(quota.refill_time() - rounding).clamp(1, LARGEST)
}

/// What comes before the number of units left in a policy of this name.
fn prefix(name: &str) -> Box<str> {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{name}\";r=").into()
}

/// The name, quoted, and the separator behind it.
fn quoted(prefix: &str) -> &str {
    prefix.trim_end_matches("r=")
}

/// A name that clients can be told.
#[expect(clippy::panic, reason = "a limit that clients cannot be told of must not start")]
pub(crate) fn checked(name: &str) -> Arc<str> {
    if name.is_empty() || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        panic!("the limit's name {name:?} must be printable ASCII: clients see it");
    }
    name.into()
}

/// A value of printable ASCII, which every caller has made sure of.
fn header_value(text: String) -> HeaderValue {
    // Of the exact length, so that the value takes the text as it is.
    let bytes = Bytes::from(text.into_bytes().into_boxed_slice());
    HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, quota: Quota) -> Shown {
        Shown::new(HeaderStyle::Draft10, [(name, Some(quota))].into_iter())
    }

    #[test]
    fn a_policy_shows_its_burst_and_how_long_that_takes_to_come_back() {
        for (name, quota, expected) in [
            ("x", Quota::per_minute(60), "\"x\";q=60;w=60"),
            ("x", Quota::per_minute(10).with_burst(5), "\"x\";q=5;w=30"),
            ("x", Quota::per_second(10).with_burst(5), "\"x\";q=5;w=1"),
            ("x", Quota::per_second(3), "\"x\";q=3;w=1"),
            ("x", Quota::per_minute(7), "\"x\";q=7;w=60"),
            ("x", Quota::per_hour(7).with_burst(2), "\"x\";q=2;w=1029"),
            ("a\"b", Quota::per_minute(60), "\"a\\\"b\";q=60;w=60"),
            ("r=r=", Quota::per_minute(60), "\"r=r=\";q=60;w=60"),
        ] {
            assert_eq!(shown(name, quota).policies.unwrap(), expected, "RL-1, RL-33, RL-44");
        }
    }

    #[test]
    fn the_smallest_part_is_the_most_restrictive_and_then_the_longest_wait() {
        let standing = |remaining, burst, seconds| Standing {
            burst,
            remaining,
            next_unit: Duration::from_secs(seconds),
        };
        for (one, other, expected) in [
            (standing(1, 10, 1), standing(5, 10, 9), true),
            (standing(5, 10, 9), standing(1, 10, 1), false),
            (standing(9, 100, 1), standing(1, 10, 1), true),
            (standing(10, 100, 1), standing(1, 10, 1), false),
            (standing(10, 100, 2), standing(1, 10, 1), true),
            (standing(u32::MAX, u32::MAX, 1), standing(1, u32::MAX, 1), false),
        ] {
            assert_eq!(one.is_before(&other), expected, "RL-12");
        }
    }
}
