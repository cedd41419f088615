use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::scope::ScopeSet;
use crate::store::{TokenRecord, whole_millis};
use crate::verifier::opaque::TokenError;

/// How long a token is good that nobody has said anything else about.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The longest name of an issuer, subject or client: three of them, and an id, are one row of an index
/// of PostgreSQL, which has 2704 bytes at most.
const LONGEST_NAME: usize = 850;

/// The end of the year 9999, since 1970: the last that a timestamp can be written of.
const LAST_END: Duration = Duration::from_secs(253_402_300_800);

/// What a token is to be, before it is [issued](super::OpaqueTokens::issue): all optional but its
/// subject.
#[derive(Clone, Debug)]
#[must_use = "a token is nothing until it is issued"]
pub struct NewToken {
    issuer: Option<String>,
    subject: String,
    client: Option<String>,
    scopes: ScopeSet,
    roles: Vec<String>,
    metadata: Map<String, Value>,
    not_before: Option<SystemTime>,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    After(Duration),
    At(SystemTime),
    Never,
}

impl NewToken {
    /// A token of this subject, good for 90 days, without scopes and roles.
    pub fn new(subject: &str) -> Self {
        Self {
            issuer: None,
            subject: subject.to_owned(),
            client: None,
            scopes: ScopeSet::default(),
            roles: Vec::new(),
            metadata: Map::new(),
            not_before: None,
            end: End::After(LIFETIME),
        }
    }

    /// The authority that vouches for the subject, where that is somebody else, as for the users of
    /// another issuer who make tokens here. Default: the issuer of the
    /// [`OpaqueTokens`](super::OpaqueTokens).
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.to_owned());
        self
    }

    /// The application that the token is given to.
    pub fn client(mut self, client: &str) -> Self {
        self.client = Some(client.to_owned());
        self
    }

    /// The scopes, as one text with spaces between.
    pub fn scopes(mut self, scopes: &str) -> Self {
        self.scopes = ScopeSet::from_text(scopes);
        self
    }

    /// The roles.
    pub fn roles<R: Into<String>>(mut self, roles: impl IntoIterator<Item = R>) -> Self {
        self.roles = roles.into_iter().map(Into::into).collect();
        self
    }

    /// What the application wants to know of the token, for
    /// [`Principal::claims`](crate::Principal::claims).
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.metadata = metadata;
        self
    }

    /// When the token begins. Default: at once.
    pub fn not_before(mut self, begin: SystemTime) -> Self {
        self.not_before = Some(begin);
        self
    }

    /// How long the token is good. Default: 90 days.
    pub fn expires_in(mut self, lifetime: Duration) -> Self {
        self.end = End::After(lifetime);
        self
    }

    /// When the token ends.
    pub fn expires_at(mut self, end: SystemTime) -> Self {
        self.end = End::At(end);
        self
    }

    /// A token that is good until somebody revokes it.
    pub fn without_expiry(mut self) -> Self {
        self.end = End::Never;
        self
    }

    /// Like a token that there is, with as much time from now on as that had, and no sooner.
    pub(super) fn like(record: &TokenRecord, now: SystemTime) -> Self {
        let lifetime = record.expires_at.map(|end| end.duration_since(record.issued_at));
        Self {
            issuer: Some(record.issuer.clone()),
            subject: record.subject.clone(),
            client: record.client.clone(),
            scopes: record.scopes.clone(),
            roles: record.roles.clone(),
            metadata: serde_json::from_str(&record.metadata).unwrap_or_default(),
            not_before: record.not_before.filter(|begin| *begin > now),
            end: lifetime.map_or(End::Never, |lifetime| End::After(lifetime.unwrap_or_default())),
        }
    }

    pub(super) fn issuer_or<'a>(&'a self, default: &'a str) -> &'a str {
        self.issuer.as_deref().unwrap_or(default)
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// Fills in the rest of a record, or says why there cannot be such a token.
    pub(super) fn fill(self, record: &mut TokenRecord, now: SystemTime) -> Result<(), TokenError> {
        let names = self.issuer.iter().chain([&self.subject]).chain(&self.client);
        let is_name =
            |name: &String| !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\0');
        let is_text = |text: &str| !text.contains('\0');
        let texts_are =
            is_text(self.scopes.as_str()) && self.roles.iter().all(|role| is_text(role));
        if !names.into_iter().all(is_name) || !texts_are {
            return Err(TokenError::InvalidName);
        }
        let end = match self.end {
            End::After(lifetime) => Some(now.checked_add(lifetime).ok_or(TokenError::NeverGood)?),
            End::At(end) => Some(end),
            End::Never => None,
        };
        record.not_before = self.not_before.map(whole_millis);
        record.expires_at = end.map(whole_millis);
        let begin = record.not_before.map_or(record.issued_at, |begin| begin.max(record.issued_at));
        let latest = record.expires_at.map_or(begin, |end| end.max(begin));
        if record.has_expired(begin) || latest >= SystemTime::UNIX_EPOCH + LAST_END {
            return Err(TokenError::NeverGood);
        }
        record.client = self.client;
        record.scopes = self.scopes;
        record.roles = self.roles;
        record.metadata = Value::Object(self.metadata).to_string();
        Ok(())
    }
}
