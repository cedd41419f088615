//! The fields of draft-ietf-httpapi-ratelimit-headers-10 for a limit on what runs at once, which has
//! no window: nobody knows when a request ends.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// A limit as clients see it, ready to send.
pub(super) struct Policy {
    field: HeaderValue,
    /// The name, quoted, and what comes before the number of permits left.
    prefix: Box<str>,
}

/// The two fields of one answer.
pub(super) struct Fields {
    policy: HeaderValue,
    limit: HeaderValue,
}

impl Policy {
    #[expect(clippy::panic, reason = "a limit that clients cannot be told of must not start")]
    pub(super) fn new(name: &str, limit: u32) -> Self {
        if name.is_empty() || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            panic!("the limit's name {name:?} must be printable ASCII: clients see it");
        }
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        let field = format!("\"{name}\";q={limit};qu=\"concurrent-requests\"");
        Self { field: header_value(field.into()), prefix: format!("\"{name}\";r=").into() }
    }

    pub(super) fn fields(&self, left: u32) -> Fields {
        let limit = [&self.prefix, itoa::Buffer::new().format(left)].concat();
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
