//! Reading the headers in which proxies say for whom they forward a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most that is looked at, from the right (CLIENTIP-8).
const MAX_HOPS: usize = 32;
const MAX_BYTES: usize = 4096;
const MAX_QUOTED_COMMAS: usize = 8;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One address for each hop, the nearest first; `None` for a hop that cannot be read.
type Hops = Vec<Option<IpAddr>>;

pub(super) fn x_forwarded_for(headers: &HeaderMap) -> Hops {
    let entries = from_the_right(headers, &X_FORWARDED_FOR).flat_map(|line| {
        // Half an address is another address.
        let half = line.text.iter().position(|&byte| byte == b',' && !line.whole);
        let start = if line.whole { 0 } else { half.unwrap_or(line.text.len()) };
        line.text[start..].rsplit(|&byte| byte == b',')
    });
    entries.take(MAX_HOPS).map(|entry| address(trimmed(entry), false)).collect()
}

/// The header's only value; anything else says nothing (CLIENTIP-7).
pub(super) fn single(headers: &HeaderMap, name: &HeaderName) -> Hops {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => vec![address(trimmed(value.as_bytes()), false)],
        (None, _) => Vec::new(),
        (Some(_), Some(_)) => vec![None],
    }
}

/// RFC 7239 §4.
pub(super) fn forwarded(headers: &HeaderMap) -> Hops {
    elements(headers).into_iter().map(|element| element?.address).collect()
}

/// What one hop says.
#[derive(Default)]
pub(super) struct Element {
    /// Of whom it has the request.
    address: Option<IpAddr>,
    pub(super) proto: Option<Vec<u8>>,
    pub(super) host: Option<Vec<u8>>,
}

/// The elements, the nearest first, up to one that breaks the grammar.
pub(super) fn elements(headers: &HeaderMap) -> Vec<Option<Element>> {
    let mut hops = Vec::new();
    for line in from_the_right(headers, &FORWARDED) {
        let mut unread = Some(line.text);
        while let Some(text) = unread {
            let (element, rest) = split_last(text);
            let element = element.filter(|_| line.whole || rest.is_some());
            let is_last = element.is_none() || hops.len() + 1 == MAX_HOPS;
            hops.push(element);
            if is_last {
                return hops;
            }
            unread = rest;
        }
    }
    hops
}

/// The last element of a line, and what stands before it. Read from the right, a quote that a client
/// has opened cannot swallow what its proxy has written behind it; and what begins within quotes is
/// no element, because it has one quote too many.
fn split_last(text: &[u8]) -> (Option<Element>, Option<&[u8]>) {
    let mut end = text.len();
    for _ in 0..=MAX_QUOTED_COMMAS {
        let comma = text[..end].iter().rposition(|&byte| byte == b',');
        let start = comma.map_or(0, |comma| comma + 1);
        if let Some(element) = element(&text[start..]) {
            return (Some(element), comma.map(|comma| &text[..comma]));
        }
        let Some(comma) = comma else { break };
        end = comma;
    }
    (None, None)
}

/// The value of one header line, as far as it is looked at.
struct Line<'a> {
    text: &'a [u8],
    whole: bool,
}

/// The lines of a header, the last first, as far as the bytes go. Several lines are one list
/// (RFC 9110 §5.3).
fn from_the_right<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Line<'a>> + use<'a> {
    let mut left = MAX_BYTES;
    headers.get_all(name).iter().rev().map(HeaderValue::as_bytes).map_while(move |value| {
        let taken = value.len().min(left);
        left -= taken;
        let line = Line { text: &value[value.len() - taken..], whole: taken == value.len() };
        (taken > 0 || value.is_empty()).then_some(line)
    })
}

/// The last entry of a header that is a list.
pub(super) fn last_entry<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let line = headers.get_all(name).iter().next_back()?;
    line.as_bytes().rsplit(|&byte| byte == b',').next().map(trimmed)
}

/// One element; `None` for what is not in the grammar.
fn element(text: &[u8]) -> Option<Element> {
    let mut element = Element::default();
    let mut names: Vec<&[u8]> = Vec::new();
    for pair in pairs(text) {
        let pair = trimmed(pair);
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        let is_name = !name.is_empty()
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        // A parameter that is there twice makes the element worthless (RFC 7239 §4).
        if !is_name || names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            return None;
        }
        names.push(name);
        let text = match unquoted(value) {
            Some(text) => text,
            None if value.iter().any(|byte| matches!(byte, b'"' | b',')) => return None,
            None => value.to_vec(),
        };
        match name.to_ascii_lowercase().as_slice() {
            b"for" => element.address = node(value),
            b"host" => element.host = Some(text),
            b"proto" => element.proto = Some(text),
            _ => {}
        }
    }
    Some(element)
}

/// A node that is an address (RFC 7239 §6). `unknown` and obfuscated names are none.
fn node(value: &[u8]) -> Option<IpAddr> {
    match unquoted(value) {
        Some(text) => address(&text, true),
        // Outside of quotes, the grammar has no place for a colon or a bracket.
        None if value.iter().any(|byte| matches!(byte, b':' | b'[')) => None,
        None => address(value, true),
    }
}

/// An address with or without a port. `strict` asks for brackets around IPv6.
fn address(text: &[u8], strict: bool) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) if !strict => inner,
        _ => text,
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        let host: Ipv6Addr = host.parse().ok()?;
        return is_port(port, strict).then(|| IpAddr::V6(host).to_canonical());
    }
    if !strict && let Ok(host) = text.parse::<Ipv6Addr>() {
        return Some(IpAddr::V6(host).to_canonical());
    }
    let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
    let host: Ipv4Addr = host.parse().ok()?;
    is_port(port, strict).then_some(IpAddr::V4(host))
}

/// Nothing, or a colon and a port of up to five digits, which in RFC 7239 may be an obfuscated one.
fn is_port(text: &str, may_be_obfuscated: bool) -> bool {
    let Some(port) = text.strip_prefix(':') else {
        return text.is_empty();
    };
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    digits || may_be_obfuscated && port.strip_prefix('_').is_some_and(name)
}

/// The text inside the quotes, with its escapes undone; `None` for what is not one quoted string.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        text.push(match byte {
            b'"' => return None,
            b'\\' => *bytes.next()?,
            _ => byte,
        });
    }
    Some(text)
}

/// Splits at semicolons outside of quotes (CLIENTIP-23).
fn pairs(text: &[u8]) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let ends_a_pair = |&byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return byte == b';' && !quoted,
        }
        false
    };
    text.split(ends_a_pair).collect()
}

fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}
