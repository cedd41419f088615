//! The headers that every refusal has in one form, whatever else the application puts on it.

use std::time::Duration;

use http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

use crate::rejection::{Challenge, Rejection};

/// Sets the challenge, the wait and the ban on caching, in place of whatever was there.
pub(super) fn set(headers: &mut HeaderMap, rejection: &Rejection, challenge: &Challenge) {
    // Removed first, because a responder may have set what this kind does not have (RFC 6750 §3).
    headers.remove(WWW_AUTHENTICATE);
    if let Some(challenge) = challenge.header(rejection) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    headers.remove(RETRY_AFTER);
    if let Some(seconds) = rejection.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    // BEARER-70, RL-20: a refusal is about one request.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Seconds rounded up, so that who waits that long waits long enough (RL-6, RL-21).
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_whole_seconds_rounded_up() {
        for (millis, seconds) in [(0, 0), (50, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "RL-21");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX, "no wait is too long to be said");
    }
}
