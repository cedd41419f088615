//! Which tokens are withdrawn before their end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Tokens that are withdrawn before their end: one, or all of a subject, a client, a key, an issuer,
/// or of everybody.
///
/// With [`with_issued_until`](Self::with_issued_until), only those issued up to a moment are, so that
/// who logs in again comes in again; without it all are, whenever they were issued. Times of issue
/// count in whole seconds: a token issued in the same second is revoked. The moment is one of the
/// issuer's clock.
///
/// It lasts until its end ([`with_end`](Self::with_end)), and for ever where none is given: nobody
/// knows how long an opaque token or an API key lives. Where tokens are known to end,
/// [`RevocationsBuilder::with_longest_life`] gives those that name no new ones an end too.
///
/// What a token does not say counts against it: one without a time of issue is older than any moment,
/// a JWT of a key without a name may be any key's, and a JWT or an introspected token that names no
/// client may be any client's: its issuer may leave out whose it is. An opaque token that was issued
/// here without a client is no client's, and a token without an id cannot be revoked by id.
///
/// [`RevocationsBuilder::with_longest_life`]: crate::verifier::revocable::RevocationsBuilder::with_longest_life
///
/// ```
/// use std::time::SystemTime;
/// use tower_gate::Revocation;
///
/// let (issuer, now) = ("https://issuer.example", SystemTime::now());
/// // This token was lost.
/// let lost = Revocation::token(issuer, "9f2c");
/// // The user logs out everywhere, and may come back.
/// let logged_out = Revocation::subject(issuer, "user-1").with_issued_until(now);
/// // This key has leaked: whatever it signs is worth nothing any more.
/// let leaked = Revocation::key(issuer, "2024-05");
/// // Everybody logs in again.
/// let all = Revocation::all(now);
/// # let _ = (lost, logged_out, leaked, all);
/// ```
///
/// Its serialised form is what stores keep, and stable. A later version writes the same, but for what
/// only it can say; an earlier one that meets this in a store cannot tell what is revoked, and refuses
/// with 503 rather than guess. So all nodes are brought up to date before anybody uses what is new.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[must_use = "it revokes nothing until it is given to `Revocations::revoke`"]
pub struct Revocation {
    pub(crate) target: Target,
    /// The last second of issue that it is about; `None` for all.
    pub(crate) issued_until: Option<u64>,
    /// The second from which on it is over; `None` for never.
    pub(crate) ends_at: Option<u64>,
}

/// Whose tokens.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    All,
    Client {
        issuer: Box<str>,
        client: Box<str>,
    },
    Issuer {
        issuer: Box<str>,
    },
    Key {
        issuer: Box<str>,
        key_id: Box<str>,
    },
    /// What is remembered of a token, which may be good all the same.
    Remembered {
        issuer: Box<str>,
        token_id: Box<str>,
    },
    Subject {
        issuer: Box<str>,
        subject: Box<str>,
    },
    Token {
        issuer: Box<str>,
        token_id: Box<str>,
    },
}

impl Revocation {
    /// One token, by its id (`jti`).
    pub fn token(issuer: &str, token_id: &str) -> Self {
        Self::of(Target::Token { issuer: issuer.into(), token_id: token_id.into() })
    }

    /// What nodes remember of one token: until the end, it is verified for every request.
    #[cfg(feature = "opaque")]
    pub(crate) fn remembered(issuer: &str, token_id: &str) -> Self {
        Self::of(Target::Remembered { issuer: issuer.into(), token_id: token_id.into() })
    }

    /// All tokens of a subject.
    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self::of(Target::Subject { issuer: issuer.into(), subject: subject.into() })
    }

    /// All tokens that were given to a client.
    pub fn client(issuer: &str, client: &str) -> Self {
        Self::of(Target::Client { issuer: issuer.into(), client: client.into() })
    }

    /// All tokens that a key has signed, by its name (`kid`).
    pub fn key(issuer: &str, key_id: &str) -> Self {
        Self::of(Target::Key { issuer: issuer.into(), key_id: key_id.into() })
    }

    /// All tokens of an issuer.
    pub fn issuer(issuer: &str) -> Self {
        Self::of(Target::Issuer { issuer: issuer.into() })
    }

    /// All tokens of everybody that were issued up to this moment.
    pub fn all(issued_until: SystemTime) -> Self {
        Self::of(Target::All).with_issued_until(issued_until)
    }

    fn of(target: Target) -> Self {
        Self { target, issued_until: None, ends_at: None }
    }

    /// Only tokens that were issued up to this moment. Where the issuer's clock may be ahead of the
    /// one that tells the moment, add what it may be ahead.
    pub fn with_issued_until(self, issued_until: SystemTime) -> Self {
        Self { issued_until: Some(seconds(issued_until)), ..self }
    }

    /// When it is over, by the clock of each node. Tokens that are good by themselves are accepted from
    /// then on: one that is to outlast a token ends later than that, by the leeway of the verifier and
    /// by what the nodes' clocks may be apart.
    pub fn with_end(self, end: SystemTime) -> Self {
        let whole = UNIX_EPOCH + Duration::from_secs(seconds(end));
        Self { ends_at: Some(seconds(end) + u64::from(whole < end)), ..self }
    }

    /// When it is over; `None` for never. A store forgets it no sooner.
    #[must_use]
    pub fn end(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.ends_at?))
    }

    /// With an end that none of its tokens reaches, if they live no longer than this and no new ones
    /// can be issued.
    pub(crate) fn with_default_end(self, now: SystemTime, longest_life: Duration) -> Self {
        let is_bounded = self.issued_until.is_some() || matches!(self.target, Target::Token { .. });
        if self.ends_at.is_some() || !is_bounded {
            return self;
        }
        let last_issued = self.issued_until.unwrap_or_default().max(seconds(now));
        // Two parts of seconds are left out on the way.
        let ends_at = last_issued.saturating_add(longest_life.as_secs()).saturating_add(2);
        Self { ends_at: Some(ends_at), ..self }
    }
}

/// The whole seconds since 1970, which times of issue are compared in.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
