//! A strict reader of challenges.

use std::collections::HashSet;

/// Reads one challenge by the letter of RFC 6750 §3 and RFC 9110 §11.2, and panics at anything else.
#[track_caller]
pub(super) fn parameters(challenge: &str) -> Vec<(String, String)> {
    let mut rest = challenge.strip_prefix("Bearer ").expect("BEARER-21: the scheme, one space");
    let mut parameters = Vec::new();
    loop {
        let (name, value) = rest.split_once("=\"").expect("BEARER-22: a quoted parameter");
        assert!(!name.is_empty() && name.bytes().all(is_tchar), "BEARER-22: {challenge}");
        let mut chars = value.chars();
        let mut text = String::new();
        loop {
            match chars.next().expect("BEARER-23: a closing quote") {
                '"' => break,
                '\\' => text.push(chars.next().expect("BEARER-23: an escaped character")),
                plain @ ('\t' | ' '..='~') => text.push(plain),
                other => panic!("BEARER-23: {other:?} in {challenge}"),
            }
        }
        check_value(name, &text);
        parameters.push((name.to_owned(), text));
        rest = chars.as_str();
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(", ").expect("BEARER-22: a comma between parameters");
    }
    let names: HashSet<_> = parameters.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert_eq!(names.len(), parameters.len(), "BEARER-22: a name twice in {challenge}");
    parameters
}

/// A character of a token (RFC 9110 §5.6.2).
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[track_caller]
fn check_value(name: &str, value: &str) {
    let plain = |byte| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    let words = |value: &str| value.split(' ').all(|word| !word.is_empty());
    match name {
        "realm" => {}
        "error" | "error_description" => {
            assert!(!value.is_empty() && value.bytes().all(plain), "BEARER-24: {value}");
        }
        "scope" | "acr_values" => {
            assert!(value.bytes().all(plain) && words(value), "BEARER-25, BEARER-50: {value}");
        }
        "max_age" => assert!(value.bytes().all(|byte| byte.is_ascii_digit()), "BEARER-50: {value}"),
        "resource_metadata" => assert!(value.starts_with("https://"), "BEARER-44: {value}"),
        _ => panic!("a parameter without a meaning: {name}"),
    }
}

#[test]
fn the_parser_takes_challenges_and_nothing_else() {
    let parsed = parameters(r#"Bearer realm="a\"b\\c", error="invalid_token""#);
    let expected = [("realm", "a\"b\\c"), ("error", "invalid_token")];
    assert_eq!(parsed, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for broken in [
        "",
        "Bearer",
        "Bearer ",
        "bearer realm=\"x\"",
        "Bearer realm=x",
        "Bearer realm=\"x",
        "Bearer realm=\"x\" error=\"y\"",
        "Bearer realm=\"x\", realm=\"x\"",
        "Bearer realm=\"x\",",
        "Bearer error=\"a\\\"b\"",
        "Bearer scope=\"a  b\"",
        "Bearer realm=\"é\"",
    ] {
        let parsed = std::panic::catch_unwind(|| parameters(broken));
        assert!(parsed.is_err(), "{broken}: {parsed:?}");
    }
}
