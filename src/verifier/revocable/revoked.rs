//! All revocations that a node knows, for a look-up without allocation.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::principal::{Principal, TokenKind};
use crate::revocation::{Revocation, Target, seconds};

/// What is revoked, by issuer and name.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    all: Limits,
    issuers: HashMap<Box<str>, OfIssuer>,
}

#[derive(Debug, Default)]
struct OfIssuer {
    whole: Limits,
    clients: Names,
    keys: Names,
    subjects: Names,
    tokens: Names,
    remembered: Names,
}

/// What is known of a token that is good by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Good,
    Revoked,
    /// It may not be any more, unless it has just been verified.
    Doubtful,
}

#[derive(Debug, Default)]
struct Names {
    limits: HashMap<Box<str>, Limits>,
    /// Of all names together: what a token meets that does not say its own.
    any: Limits,
}

/// The revocations of one name, in seconds since 1970. Zero is never, the greatest number for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Limits {
    /// Until when all tokens are revoked, whenever they were issued.
    all_until: u64,
    /// Until when those are that were issued up to a moment.
    old_until: u64,
    /// That moment.
    issued_until: u64,
}

/// The question, in the terms of [`Limits`].
#[derive(Clone, Copy)]
struct Moment {
    now: u64,
    /// `None` where the token does not say, and counts as old.
    issued_at: Option<u64>,
}

impl Revoked {
    /// Adds one, and says whether anything more is revoked now.
    pub(super) fn add(&mut self, revocation: &Revocation) -> bool {
        let more = Limits::of(revocation);
        match &revocation.target {
            Target::All => self.all.add(more),
            Target::Issuer { issuer } => self.of(issuer).whole.add(more),
            Target::Client { issuer, client } => self.of(issuer).clients.add(client, more),
            Target::Key { issuer, key_id } => self.of(issuer).keys.add(key_id, more),
            Target::Subject { issuer, subject } => self.of(issuer).subjects.add(subject, more),
            Target::Token { issuer, token_id } => self.of(issuer).tokens.add(token_id, more),
            Target::Remembered { issuer, token_id } => {
                self.of(issuer).remembered.add(token_id, more)
            }
        }
    }

    fn of(&mut self, issuer: &str) -> &mut OfIssuer {
        self.issuers.entry(issuer.into()).or_default()
    }

    pub(super) fn verdict(&self, principal: &Principal, now: SystemTime) -> Verdict {
        let moment = Moment { now: seconds(now), issued_at: principal.issued_at().map(seconds) };
        let issuer = self.issuers.get(principal.issuer());
        if self.all.cover(moment) || issuer.is_some_and(|issuer| issuer.cover(principal, moment)) {
            Verdict::Revoked
        } else if issuer.is_some_and(|issuer| issuer.doubts(principal, moment)) {
            Verdict::Doubtful
        } else {
            Verdict::Good
        }
    }

    /// Forgets what is over.
    pub(super) fn drop_ended(&mut self, now: SystemTime) {
        let now = seconds(now);
        self.issuers.retain(|_, issuer| {
            let OfIssuer { whole, clients, keys, subjects, tokens, remembered } = issuer;
            let mut goes_on = whole.end() > now;
            for names in [clients, keys, subjects, tokens, remembered] {
                names.drop_ended(now);
                goes_on |= !names.limits.is_empty();
            }
            goes_on
        });
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        let names = |issuer: &OfIssuer| {
            let OfIssuer { whole, clients, keys, subjects, tokens, remembered } = issuer;
            let names = [clients, keys, subjects, tokens, remembered];
            let names = names.map(|names| names.limits.len());
            names.iter().sum::<usize>() + usize::from(*whole != Limits::default())
        };
        let issuers: usize = self.issuers.values().map(names).sum();
        issuers + usize::from(self.all != Limits::default())
    }
}

impl OfIssuer {
    fn cover(&self, principal: &Principal, moment: Moment) -> bool {
        let is_jwt = principal.token_kind() == TokenKind::Jwt;
        let has_key = is_jwt || principal.key_id().is_some();
        // What an issuer of its own left out may be anything; what this application did not write
        // down for an opaque token is nothing.
        let has_client = is_jwt || principal.client().is_some() || principal.is_foreign();
        self.whole.cover(moment)
            || self.subjects.cover(principal.subject(), moment)
            || principal.token_id().is_some_and(|id| self.tokens.cover(id, moment))
            || has_client && self.clients.cover_or_any(principal.client(), moment)
            || has_key && self.keys.cover_or_any(principal.key_id(), moment)
    }

    fn doubts(&self, principal: &Principal, moment: Moment) -> bool {
        principal.token_id().is_some_and(|id| self.remembered.cover(id, moment))
    }
}

impl Names {
    fn add(&mut self, name: &str, more: Limits) -> bool {
        self.any.add(more);
        match self.limits.get_mut(name) {
            Some(limits) => limits.add(more),
            None => {
                self.limits.insert(name.into(), more);
                true
            }
        }
    }

    fn cover(&self, name: &str, moment: Moment) -> bool {
        self.limits.get(name).is_some_and(|limits| limits.cover(moment))
    }

    fn cover_or_any(&self, name: Option<&str>, moment: Moment) -> bool {
        match name {
            Some(name) => self.cover(name, moment),
            None => self.any.cover(moment),
        }
    }

    fn drop_ended(&mut self, now: u64) {
        self.any = Limits::default();
        self.limits.retain(|_, limits| {
            let goes_on = limits.end() > now;
            if goes_on {
                self.any.add(*limits);
            }
            goes_on
        });
        // A flood of revocations that is over leaves no more room than its double.
        if self.limits.capacity() > self.limits.len() * 4 {
            self.limits.shrink_to_fit();
        }
    }
}

impl Limits {
    fn of(revocation: &Revocation) -> Self {
        let end = revocation.ends_at.unwrap_or(u64::MAX);
        match revocation.issued_until {
            None => Self { all_until: end, ..Self::default() },
            Some(issued_until) => Self { old_until: end, issued_until, ..Self::default() },
        }
    }

    /// Two moments become the later one, and two ends too: a token that only both together revoke
    /// has ended by itself, unless an end was given that is too early.
    fn add(&mut self, more: Self) -> bool {
        let before = *self;
        self.all_until = self.all_until.max(more.all_until);
        self.old_until = self.old_until.max(more.old_until);
        self.issued_until = self.issued_until.max(more.issued_until);
        *self != before
    }

    fn cover(self, moment: Moment) -> bool {
        let is_old = moment.issued_at.is_none_or(|at| at <= self.issued_until);
        moment.now < self.all_until || is_old && moment.now < self.old_until
    }

    fn end(self) -> u64 {
        self.all_until.max(self.old_until)
    }
}
