//! Reading the headers in which proxies say for whom they forward a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most that is looked at, from the right (CLIENTIP-8).
const MAX_HOPS: usize = 32;
const MAX_BYTES: usize = 4096;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One address for each hop, the nearest first; `None` for a hop that cannot be read.
type Hops = Vec<Option<IpAddr>>;

pub(super) fn x_forwarded_for(headers: &HeaderMap) -> Hops {
    let lines = from_the_right(headers, &X_FORWARDED_FOR);
    let entries = lines.flat_map(|line| line.rsplit(|&byte| byte == b','));
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
    let lines = from_the_right(headers, &FORWARDED);
    let mut hops = Vec::new();
    for line in lines {
        // What is quoted may hold a comma, so a line is read from its left.
        let mut elements = split_unquoted(line, b',');
        elements.reverse();
        hops.extend(elements.into_iter().map(element));
        if hops.len() >= MAX_HOPS {
            hops.truncate(MAX_HOPS);
            break;
        }
    }
    hops
}

/// The values of a header, the last first, as far as the bytes go. Several lines are one list
/// (RFC 9110 §5.3).
fn from_the_right<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let mut left = MAX_BYTES;
    headers.get_all(name).iter().rev().map(HeaderValue::as_bytes).map_while(move |value| {
        let taken = value.len().min(left);
        left -= taken;
        (taken > 0 || value.is_empty()).then(|| &value[value.len() - taken..])
    })
}

/// The `for` of one element; `None` without one, or with one that cannot be read.
fn element(text: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut names: Vec<&[u8]> = Vec::new();
    for pair in split_unquoted(text, b';') {
        let pair = trimmed(pair);
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        // A parameter that is there twice makes the element worthless (RFC 7239 §4).
        if names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            return None;
        }
        names.push(name);
        if name.eq_ignore_ascii_case(b"for") {
            found = Some(node(value)?);
        }
    }
    found
}

/// A node that is an address (RFC 7239 §6). `unknown` and obfuscated names are none.
fn node(value: &[u8]) -> Option<IpAddr> {
    match unquoted(value) {
        Some(text) => address(&text, true),
        // Outside of quotes, the grammar has no place for a colon or a bracket.
        None if value.iter().any(|byte| matches!(byte, b':' | b'[' | b'"')) => None,
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

/// The text inside the quotes, with its escapes undone; `None` where there are none.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        text.push(if byte == b'\\' { *bytes.next()? } else { byte });
    }
    Some(text)
}

/// Splits where the separator stands outside of quotes (CLIENTIP-23).
fn split_unquoted(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}
