//! The names that a request has elsewhere: in a trace, and at the proxies before this API.

use http::{HeaderMap, HeaderName};

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest `x-request-id` that is one (AUDIT-63).
const MAX_REQUEST_ID: usize = 128;

/// The trace that the request belongs to, by W3C Trace Context (AUDIT-60).
pub(super) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let value = only(headers, &TRACE_PARENT)?;
    let (known, rest) =
        value.split_at_checked("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len())?;
    let mut parts = known.split('-');
    let mut hex = |length| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
    let (version, trace, parent) = (hex(2)?, hex(32)?, hex(16)?);
    hex(2)?;
    // Later versions may go on after what is known of them.
    let ends = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    (ends && version != "ff" && !is_zero(trace) && !is_zero(parent)).then(|| trace.to_owned())
}

/// What the client or a proxy calls the request, if that is a name and no text.
pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = only(headers, &REQUEST_ID)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_name);
    fits.then(|| id.to_owned())
}

/// The value of a header that comes once. Of two, nobody knows which is meant.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
