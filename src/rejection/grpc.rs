//! Refusals of gRPC calls: one header block that ends the stream.

use base64_simd::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};

use crate::rejection::{Rejection, RejectionKind, RequestHead, status};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub(super) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// The content type to answer a gRPC or gRPC-Web call with, which is known by its own alone
/// (GRPC-1, GRPC-2, GRPC-11, GRPC-30).
fn family(headers: &HeaderMap) -> Option<&'static str> {
    let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
    ["application/grpc-web-text", "application/grpc-web", "application/grpc"].into_iter().find(
        |family| {
            content_type.split_at_checked(family.len()).is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(family.as_bytes())
                    && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
            })
        },
    )
}

/// The reply, when the request is a call. Its status stays 200: any other would make the client
/// invent a code of its own, and turn a 429 into one that it retries (GRPC-14).
///
/// A call is a POST. For any other method a header would be enough to make a 200 of a 401, which a
/// proxy that asks by subrequest whether to let a client in would take for a yes.
pub(super) fn respond(rejection: &Rejection, request: &RequestHead<'_>) -> Option<Response<Bytes>> {
    if request.method != Method::POST {
        return None;
    }
    let family = family(request.headers)?;
    let status = status::of(rejection.kind());
    let mut response = Response::new(Bytes::new());
    let reply = response.headers_mut();
    reply.insert(CONTENT_TYPE, HeaderValue::from_static(family));
    reply.insert(STATUS, HeaderValue::from(u16::from(status.grpc)));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(rejection.message())) {
        reply.insert(MESSAGE, message);
    }
    let details = details(rejection).map(|details| STANDARD_NO_PAD.encode_to_string(details));
    if let Some(Ok(details)) = details.map(HeaderValue::try_from) {
        reply.insert(DETAILS, details);
    }
    if let Some(pushback) = pushback(rejection) {
        reply.insert(PUSHBACK, pushback);
    }
    Some(response)
}

/// The code of an answer that ended with its head, as refusals do.
pub(crate) fn status_of(headers: &HeaderMap) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether the service is to blame for this answer: a status of 500 and more, or a call that ended
/// with its head in UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS.
pub(crate) fn has_failed<B>(answer: &Response<B>) -> bool {
    let is_failure = |code| matches!(code, 2 | 4 | 13..=15);
    answer.status().is_server_error() || status_of(answer.headers()).is_some_and(is_failure)
}

/// The `google.rpc.Status` that says how long to wait, where waiting helps.
pub(super) fn details(rejection: &Rejection) -> Option<Vec<u8>> {
    let seconds = rejection.retry_after_seconds()?;
    Some(retry_details(status::of(rejection.kind()).grpc, rejection.message(), seconds, 0))
}

/// The milliseconds before a client may retry, which must fit into 32 bits with a sign; a negative
/// number where a limit will never let it pass (GRPC-23). An outage of unknown length says nothing.
pub(super) fn pushback(rejection: &Rejection) -> Option<HeaderValue> {
    match (rejection.kind(), rejection.retry_after_seconds()) {
        (_, Some(seconds)) => {
            let millis = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
            Some(HeaderValue::from(millis))
        }
        (RejectionKind::RateLimited, None) => Some(HeaderValue::from_static("-1")),
        _ => None,
    }
}

/// Percent-encodes what a `grpc-message` cannot hold (GRPC-15).
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => {
                encoded.push('%');
                for nibble in [byte >> 4, byte & 0xF] {
                    encoded.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
                }
            }
        }
    }
    encoded
}

/// A `google.rpc.Status` with one `RetryInfo` in it, as protocol buffers (GRPC-20, GRPC-21).
fn retry_details(code: u8, message: &str, seconds: u64, nanos: u32) -> Vec<u8> {
    let mut duration = Vec::new();
    number(&mut duration, 1, seconds);
    number(&mut duration, 2, u64::from(nanos));
    let mut retry_info = Vec::new();
    bytes(&mut retry_info, 1, &duration);
    let mut any = Vec::new();
    bytes(&mut any, 1, RETRY_INFO.as_bytes());
    bytes(&mut any, 2, &retry_info);
    let mut status = Vec::new();
    number(&mut status, 1, u64::from(code));
    bytes(&mut status, 2, message.as_bytes());
    bytes(&mut status, 3, &any);
    status
}

/// A varint field; zero is left out, as proto3 asks.
fn number(to: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        to.push(field << 3);
        varint(to, value);
    }
}

/// A length-delimited field.
fn bytes(to: &mut Vec<u8>, field: u8, value: &[u8]) {
    to.push(field << 3 | 2);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            to.push(low);
            return;
        }
        to.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;

    fn answered_with(content_type: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        family(&headers)
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc+proto", Some("application/grpc")),
            ("Application/GRPC;charset=utf-8", Some("application/grpc")),
            ("application/grpc-web", Some("application/grpc-web")),
            ("application/grpc-web+proto", Some("application/grpc-web")),
            ("application/grpc-web-text+proto", Some("application/grpc-web-text")),
            ("application/grpcfoo", None),
            ("application/grpc-webby", None),
            ("application/json", None),
            ("text/application/grpc", None),
        ] {
            assert_eq!(answered_with(content_type), expected, "GRPC-1, 2: {content_type}");
        }
        assert_eq!(family(&HeaderMap::new()), None);
    }

    /// A client could once turn its 401 into a 200 by a `content-type` alone, and a proxy that asked
    /// by a GET whether to let it in believed that.
    #[test]
    fn only_a_post_is_a_call() {
        let missing = Rejection::new(RejectionKind::MissingToken);
        for method in [Method::POST, Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT] {
            let is_call = method == Method::POST;
            let request =
                Request::builder().method(&method).header(CONTENT_TYPE, "application/grpc");
            let request = request.body(()).unwrap();
            let answer = respond(&missing, &RequestHead::from(&request));
            assert_eq!(answer.is_some(), is_call, "GRPC-1: {method}");
        }
    }

    #[test]
    fn a_client_is_told_when_to_retry_in_numbers_that_it_can_read() {
        let (limited, down) = (RejectionKind::RateLimited, RejectionKind::Unavailable);
        for (kind, wait, expected) in [
            (limited, Some(Duration::from_millis(1500)), Some("2000")),
            (limited, Some(Duration::from_secs(90 * 86_400)), Some("2147483647")),
            (limited, Some(Duration::MAX), Some("2147483647")),
            (limited, None, Some("-1")),
            (down, Some(Duration::from_secs(1)), Some("1000")),
            (down, None, None),
            (RejectionKind::InvalidToken, None, None),
        ] {
            let pushback = pushback(&Rejection::new(kind).with_retry_after(wait));
            let pushback = pushback.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(pushback, expected, "GRPC-23: {kind:?} {wait:?}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("bad % é\n"), "bad %25 %C3%A9%0A", "GRPC-15");
    }

    #[test]
    fn the_details_are_those_of_grpc_22() {
        let details = retry_details(8, "rate limited", 1, 500_000_000);
        let expected = "CAgSDHJhdGUgbGltaXRlZBo2Cih0eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5ycGMuUmV0\
                        cnlJbmZvEgoKCAgBEIDKte4B";
        assert_eq!(STANDARD_NO_PAD.encode_to_string(details), expected, "GRPC-22");
    }
}
