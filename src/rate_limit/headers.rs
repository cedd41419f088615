//! The fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), which
//! are structured fields (RFC 9651).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::quota::{Quota, Usage};
use crate::rejection::whole_seconds;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// A policy as clients see it, ready to send.
#[derive(Clone)]
pub(super) struct Policy {
    field: HeaderValue,
    /// The name, quoted, and what comes before the number of units left.
    prefix: Box<str>,
}

/// The two fields of one answer.
pub(super) struct Fields {
    policy: HeaderValue,
    limit: HeaderValue,
}

impl Policy {
    /// A policy shows its burst, and the seconds that this takes to come back (RL-44).
    #[expect(clippy::panic, reason = "a limit that clients cannot be told of must not start")]
    pub(super) fn new(name: &str, quota: &Quota) -> Self {
        if name.is_empty() || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            panic!("the rate limit name {name:?} must be printable ASCII: clients see it");
        }
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        // Each unit's interval is rounded up by less than a nanosecond, which must not add up to
        // another second: three a second are not three in two.
        let rounding = Duration::from_nanos(u64::from(quota.burst() - 1));
        let window = whole_seconds(quota.refill_time() - rounding).max(1);
        let field = format!("\"{name}\";q={};w={window}", quota.burst());
        Self { field: header_value(field.into()), prefix: format!("\"{name}\";r=").into() }
    }

    /// The policy, and beside it what is left of it and when there will be more (RL-2).
    pub(super) fn fields(&self, usage: &Usage) -> Fields {
        let (mut remaining, mut next) = (itoa::Buffer::new(), itoa::Buffer::new());
        let remaining = remaining.format(usage.remaining);
        let next = next.format(whole_seconds(usage.next_unit));
        // One allocation of the exact length, which becomes the value's own.
        let limit = [&self.prefix, remaining, ";t=", next].concat();
        Fields { policy: self.field.clone(), limit: header_value(limit.into()) }
    }
}

impl Fields {
    /// Adds the fields to those that other limits may have left.
    pub(super) fn append_to(self, headers: &mut HeaderMap) {
        headers.append(POLICY, self.policy);
        headers.append(LIMIT, self.limit);
    }
}

/// A value of printable ASCII, which every caller has made sure of.
fn header_value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert_eq!(Policy::new(name, &quota).field, expected, "RL-1, RL-33, RL-44");
        }
    }

    #[test]
    #[should_panic(expected = "must be printable ASCII")]
    fn a_name_that_no_header_can_carry_stops_the_program_as_it_starts() {
        let _ = Policy::new("é", &Quota::per_minute(60));
    }

    #[test]
    fn waits_are_rounded_up() {
        let usage = Usage {
            remaining: 50,
            next_unit: Duration::from_millis(100),
            reset_after: Duration::from_millis(900),
        };
        let fields = Policy::new("a;q=\"b", &Quota::per_minute(60)).fields(&usage);
        assert_eq!(fields.limit, "\"a;q=\\\"b\";r=50;t=1", "RL-2, RL-6, RL-33");
    }
}
