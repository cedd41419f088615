#![no_main]

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use tower_gate::{BearerToken, MalformedCredentials};

/// The grammar of RFC 6750 §2.1, read from the left, one character at a time.
fn is_b64token(text: &str) -> bool {
    let mut rest = text.chars();
    let mut body = 0;
    for character in rest.by_ref() {
        match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '.' | '_' | '~' | '+' | '/' => body += 1,
            '=' => break,
            _ => return false,
        }
    }
    body > 0 && rest.all(|character| character == '=')
}

/// The credentials of a header value that has the scheme Bearer, without the space around them.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| b" \t".contains(byte)).unwrap_or(value.len());
    value[..end].eq_ignore_ascii_case(b"bearer").then_some(&value[end..])
}

// The first line is the target of the request, each other one an Authorization header.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&byte| byte == b'\n');
    let uri: Uri = lines.next().and_then(|line| line.try_into().ok()).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(AUTHORIZATION, value);
        }
    }
    let values: Vec<&HeaderValue> = headers.get_all(AUTHORIZATION).iter().collect();
    let in_query = uri.query().is_some_and(|query| {
        query.split('&').any(|pair| pair == "access_token" || pair.starts_with("access_token="))
    });

    let found = BearerToken::find(&headers, &uri);
    match (found, &values[..]) {
        (Ok(None), []) => {}
        (Ok(None), [value]) => assert_eq!(bearer(value.as_bytes()), None),
        (Ok(Some(token)), [value]) => {
            let credentials = bearer(value.as_bytes()).expect("a token of the scheme Bearer");
            let text = token.as_str();
            assert!(is_b64token(text), "no b64token: {text:?}");
            let spaces = credentials.strip_suffix(text.as_bytes()).expect("what was sent");
            assert!(!spaces.is_empty() && spaces.iter().all(|&byte| byte == b' '));
            assert!(!in_query, "a second token in the query");
        }
        (Err(MalformedCredentials::BrokenHeader), [value]) => {
            let credentials =
                bearer(value.as_bytes()).expect("other schemes are not ours to judge");
            let text = String::from_utf8_lossy(credentials);
            let token = text.trim_start_matches(' ');
            assert!(token.len() == text.len() || !is_b64token(token), "refused: {text:?}");
        }
        (Err(MalformedCredentials::SeveralCredentials), [_]) => assert!(in_query),
        (Err(MalformedCredentials::SeveralCredentials), [_, _, ..]) => {}
        (found, values) => panic!("{found:?} of {values:?}"),
    }
});
