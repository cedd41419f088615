//! The form of a token (JWT-1 to JWT-9).

use std::time::{Duration, Instant};

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::StatusCode;
use tower_gate::verifier::VerifyErrorKind;
use tower_gate::verifier::jwt::Algorithm;
use tower_gate::{AuthenticateLayer, BearerToken, Rejection, RejectionKind};

use crate::gate::{AUDIENCE, Gate, NOW, verifier};
use crate::object::Object;
use crate::signer::{Signer, base64url};

const MALFORMED: VerifyErrorKind = VerifyErrorKind::Malformed;

/// Microseconds, in an optimised build on an idle machine; a bound for any other.
const SOON: Duration = Duration::from_secs(5);

fn signer_and_gate() -> (Signer, Gate) {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key());
    (signer, gate)
}

fn header() -> Object {
    Object::header("HS256")
}

/// The three parts of a token.
fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<_> = token.split('.').collect();
    parts.try_into().unwrap()
}

#[test]
fn a_token_has_three_parts() {
    let (signer, gate) = signer_and_gate();
    let good = signer.good();
    let [header, claims, signature] = parts(&good);
    for token in [
        header.to_owned(),
        format!("{header}.{claims}"),
        format!(".{claims}.{signature}"),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        format!(".{good}"),
        // All these are signed, so that nothing but their form is wrong.
        signer.token_of_parts("", claims),
        signer.token_of_parts(header, &format!("{claims}.{claims}")),
        signer.token_of_parts(header, &format!("{claims}.")),
        signer.token_of_parts(header, &format!(".{claims}")),
        signer.token_of_parts(header, &format!("{claims}.AAAA.AAAA")),
    ] {
        gate.refuses(&token, MALFORMED, &format!("JWT-1: {token}"));
    }
    let bad_signature = VerifyErrorKind::BadSignature;
    for token in [
        format!("{header}..{signature}"),
        format!("{header}.{claims}."),
        format!("{good}.{signature}"),
        format!("{good}."),
    ] {
        gate.refuses(&token, bad_signature, &format!("JWT-1: {token}"));
    }
    let no_claims = signer.token_of_parts(header, "");
    gate.refuses(&no_claims, VerifyErrorKind::InvalidClaims, "JWT-1: an empty payload part");
}

#[test]
fn an_encrypted_token_is_refused() {
    let (_, gate) = signer_and_gate();
    let header = Object::header("RSA-OAEP").text("enc", "A256GCM").to_string();
    let token = [header.as_bytes(), &[1; 256], &[2; 12], &[3; 300], &[4; 16]].map(base64url);
    gate.refuses(&token.join("."), VerifyErrorKind::UnsupportedAlgorithm, "JWT-1: JWE");
}

#[test]
fn the_json_serialisations_are_no_tokens() {
    let (signer, gate) = signer_and_gate();
    let good = signer.good();
    let [header, claims, signature] = parts(&good);
    let flattened = Object::new()
        .text("payload", claims)
        .text("protected", header)
        .text("signature", signature);
    let signatures = flattened.clone().without("payload").to_string();
    let general =
        Object::new().text("payload", claims).with("signatures", format!("[{signatures}]"));
    for json in [flattened.to_string(), general.to_string(), format!("{{{good}}}")] {
        let answer = gate.ask(&json);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "JWT-2, attack 8: {json}");
        let kind = answer.rejection.as_ref().map(Rejection::kind);
        assert_eq!(kind, Some(RejectionKind::MalformedRequest), "JWT-2, attack 8: {json}");
        assert_eq!(answer.event.reason, Some("broken_header"), "JWT-2, attack 8: {json}");
        assert_eq!(answer.calls, 0, "JWT-2, attack 8: {json}");
        gate.refuses(&base64url(json), MALFORMED, "JWT-2, attack 8");
    }
}

#[test]
fn a_part_is_base64url_without_padding() {
    let (signer, gate) = signer_and_gate();
    let good = signer.good();
    let [header, claims, signature] = parts(&good);
    // `>>>` and `???` are `Pj4-` and `Pz8_` here, and `Pj4+` and `Pz8/` in plain Base64.
    let slashed = base64url(Object::claims().with("x", r#"[" >>>","???"]"#).to_string());
    assert!(slashed.contains(['-', '_']), "{slashed}");
    gate.accepts(&signer.token_of_parts(header, &slashed), "JWT-3: url-safe letters");
    for token in [
        signer.token_of_parts(header, &slashed.replace('-', "+").replace('_', "/")),
        signer.token_of_parts(header, &format!("{claims}=")),
        signer.token_of_parts(header, &format!("{claims}==")),
        signer.token_of_parts(header, &format!("{claims}~")),
        signer.token_of_parts(header, "A"),
        signer.token_of_parts(&format!("{header}A"), claims),
        signer.token_of_parts(&format!("{header}~"), claims),
        format!("{good}="),
        format!("{good}=="),
        format!("{header}.{claims}.+{}", &signature[1..]),
        format!("{header}.{claims}./{}", &signature[1..]),
        format!("{header}.{claims}.~{}", &signature[1..]),
    ] {
        // Padding before the end of the text does not even reach the verifier.
        if BearerToken::parse(&token).is_ok() {
            gate.refuses(&token, MALFORMED, &format!("JWT-3: {token}"));
        } else {
            let answer = gate.ask(&token);
            assert_eq!((answer.status, answer.calls), (StatusCode::BAD_REQUEST, 0), "JWT-3");
        }
    }
    for space in ["\n", "\r\n", " ", "\t"] {
        let token = format!("{header}{space}.{claims}.{signature}");
        assert!(BearerToken::parse(&token).is_err(), "JWT-3: {token:?}");
    }
}

/// Another spelling of the same bytes, which a lenient reader takes.
fn respelt(part: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (start, last) = part.split_at(part.len() - 1);
    let value = ALPHABET.iter().position(|&letter| letter == last.as_bytes()[0]).unwrap();
    let respelt = format!("{start}{}", char::from(ALPHABET[value ^ 1]));
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    let lenient = GeneralPurpose::new(&URL_SAFE, lenient);
    assert_eq!(lenient.decode(&respelt).unwrap(), lenient.decode(part).unwrap());
    respelt
}

#[test]
fn a_part_has_one_spelling() {
    let (signer, gate) = signer_and_gate();
    // One blank more or less leaves spare bits in the last letter.
    let [header, claims] = [header().to_string(), Object::claims().to_string()].map(|json| {
        let blank = if json.len().is_multiple_of(3) { " " } else { "" };
        base64url(format!("{json}{blank}"))
    });
    let good = signer.token_of_parts(&header, &claims);
    gate.accepts(&good, "JWT-4");
    let [.., signature] = parts(&good);
    for token in [
        signer.token_of_parts(&respelt(&header), &claims),
        signer.token_of_parts(&header, &respelt(&claims)),
        format!("{header}.{claims}.{}", respelt(signature)),
    ] {
        gate.refuses(&token, MALFORMED, &format!("JWT-4: {token}"));
    }
}

/// Texts that are almost this object.
fn broken(good: &Object) -> Vec<Vec<u8>> {
    let json = good.to_string();
    let texts = [
        String::new(),
        " ".to_owned(),
        "[]".to_owned(),
        "\"x\"".to_owned(),
        "7".to_owned(),
        "null".to_owned(),
        "{".to_owned(),
        format!("[{json}]"),
        format!("{json}x"),
        format!("{json}{json}"),
        format!("{json},"),
        format!("{json}\0"),
        format!("{json}//"),
        format!("\u{feff}{json}"),
        json[..json.len() - 1].to_owned(),
        json.replacen('{', "{,", 1),
        format!("{},}}", &json[..json.len() - 1]),
        json.replace('"', "'"),
    ];
    let members = [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "01",
        "+1",
        "1.",
        ".5",
        "0x1",
        "'a'",
        "\"a",
        "\"\n\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "tru",
        "True",
        "[1,]",
        "[1 2]",
        "{\"a\"}",
        "undefined",
        "",
    ];
    // Not UTF-8: a lone octet, an overlong slash, half of a surrogate pair, beyond Unicode, cut off.
    let octets: [&[u8]; 5] =
        [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"];
    let octets = octets.map(|octets| {
        let start = &json.as_bytes()[..json.len() - 1];
        [start, b",\"x\":\"", octets, b"\"}"].concat()
    });
    let members = members.map(|member| good.clone().with("x", member).to_string());
    texts.into_iter().chain(members).map(String::into_bytes).chain(octets).collect()
}

#[test]
fn header_and_claims_are_json_objects_and_nothing_else() {
    let (signer, gate) = signer_and_gate();
    for text in broken(&header()) {
        let token = signer.token_of(&text, Object::claims().to_string());
        let why = format!("JWT-5, attack 9: {}", String::from_utf8_lossy(&text));
        gate.refuses(&token, MALFORMED, &why);
    }
    for text in broken(&Object::claims()) {
        let token = signer.token_of(header().to_string(), &text);
        let why = format!("JWT-5, attack 9: {}", String::from_utf8_lossy(&text));
        gate.refuses(&token, VerifyErrorKind::InvalidClaims, &why);
    }
}

#[test]
fn a_member_that_stands_twice_is_refused_at_every_depth() {
    let (signer, gate) = signer_and_gate();
    for header in [
        header().and("alg", r#""none""#),
        Object::new().text("alg", "none").and("alg", r#""HS256""#).text("typ", "at+jwt"),
        header().and(r"\u0061lg", r#""HS256""#),
        header().and("typ", r#""JWT""#),
        header().text("kid", "a").and("kid", r#""b""#),
        header().with("x", 1).and("x", 1),
        header().with("x", r#"{"a":1,"a":1}"#),
        header().with("x", r#"[[{"a":{"b":1,"\u0062":2}}]]"#),
    ] {
        let token = signer.token(&header, Object::claims());
        gate.refuses(&token, MALFORMED, &format!("JWT-6, attack 9: {header}"));
    }
    for claims in [
        Object::claims().and("exp", NOW + 600),
        Object::claims().and("exp", NOW - 600),
        Object::claims().and("sub", r#""admin""#),
        Object::claims().and(r"s\u0075b", r#""admin""#),
        Object::claims().and("aud", r#""other""#),
        Object::claims().with("x", "null").and("x", "null"),
        Object::claims().with("cnf", r#"{"jkt":"a","jkt":"b"}"#),
        Object::claims().with("x", r#"[{},{"a":[{"b":1,"b":1}]}]"#),
    ] {
        let token = signer.claims(&claims);
        gate.refuses(&token, VerifyErrorKind::InvalidClaims, &format!("JWT-6, attack 9: {claims}"));
    }
}

#[test]
fn names_and_values_compare_code_point_by_code_point() {
    let (signer, gate) = signer_and_gate();
    let capital = header().without("alg").text("Alg", "HS256");
    gate.refuses(&signer.token(capital, Object::claims()), MALFORMED, "JWT-7");
    for (name, other) in [("iss", "ISS"), ("iss", "ｉss"), ("exp", "Exp"), ("sub", "sub ")] {
        let claims = Object::claims();
        let value = if name == "exp" { "1800000000" } else { "\"https://issuer.example\"" };
        let claims = claims.without(name).with(other, value);
        let why = format!("JWT-7: {other} is not {name}");
        gate.refuses(&signer.claims(claims), VerifyErrorKind::MissingClaim, &why);
    }
    let strangers = Object::claims().text("ISS", "x").text("Exp", "x").text("AUD", "x");
    let token = signer.token(header().text("Alg", "none").text("TYP", "x"), strangers);
    gate.accepts(&token, "JWT-7: members of other names are unknown ones");
    let escaped = header().without("alg").with(r"\u0061lg", r#""\u0048S256""#);
    gate.accepts(&signer.token(escaped, Object::claims()), "JWT-7: the same code points");

    // The same letter as one code point and as two.
    let (composed, decomposed) = ("https://caf\u{e9}.example", "https://cafe\u{301}.example");
    let verifier = verifier().with_audience(composed).with_key(signer.key());
    let gate = Gate::new(verifier);
    let for_audience = |audience| signer.claims(Object::claims().text("aud", audience));
    gate.accepts(&for_audience(composed), "JWT-7");
    gate.refuses(&for_audience(decomposed), VerifyErrorKind::WrongAudience, "JWT-7");
}

#[test]
fn arrays_and_objects_nest_to_a_depth_of_sixteen() {
    let (signer, gate) = signer_and_gate();
    let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    for nested in [arrays(15), objects(15)] {
        let token = signer.token(header().with("x", &nested), Object::claims().with("x", &nested));
        gate.accepts(&token, "JWT-8");
    }
    let deep = [arrays(16), objects(16), arrays(1000), "[".repeat(5000)];
    for nested in deep {
        let started = Instant::now();
        let token = signer.token(header().with("x", &nested), Object::claims());
        gate.refuses(&token, MALFORMED, "JWT-8: the header");
        let token = signer.claims(Object::claims().with("x", &nested));
        gate.refuses(&token, VerifyErrorKind::InvalidClaims, "JWT-8: the claims");
        assert!(started.elapsed() < SOON, "JWT-8: {:?}", started.elapsed());
    }
    // Deeper than any stack, and longer than any token.
    let everyone = AuthenticateLayer::new(verifier().with_key(signer.key()).build().unwrap())
        .with_max_token_bytes(usize::MAX);
    for gate in [gate, Gate::behind(everyone)] {
        let token = signer.claims(Object::claims().with("x", arrays(50_000)));
        gate.refuses(&token, MALFORMED, "JWT-8: 50 000 deep");
    }
}

#[test]
fn a_header_has_at_most_32_members() {
    let (signer, gate) = signer_and_gate();
    let of_members = |members: usize| {
        let header = (2..members).fold(header(), |header, n| header.with(&format!("m{n}"), n));
        signer.token(header, Object::claims())
    };
    gate.accepts(&of_members(32), "JWT-8");
    gate.refuses(&of_members(33), MALFORMED, "JWT-8");
}

#[test]
fn a_token_has_at_most_eight_kibibytes_unless_the_layer_says_so() {
    let (signer, gate) = signer_and_gate();
    let layer = || AuthenticateLayer::new(verifier().with_key(signer.key()).build().unwrap());
    let open = Gate::behind(layer().with_max_token_bytes(usize::MAX));
    let padded = |blanks: usize, letters: usize| {
        let header = format!("{}{}", header(), " ".repeat(blanks));
        signer.token(header, Object::claims().text("x", &"x".repeat(letters)))
    };
    let of_bytes = |bytes: usize| {
        let tokens = (0..3).flat_map(|blanks| (5500..6100).map(move |x| (blanks, x)));
        let mut sized = tokens.map(|(blanks, letters)| padded(blanks, letters));
        sized.find(|token| token.len() == bytes).unwrap()
    };
    gate.accepts(&of_bytes(8192), "JWT-8");
    gate.refuses(&of_bytes(8193), MALFORMED, "JWT-8: not a byte more");
    open.accepts(&of_bytes(8193), "JWT-8: unless the layer says so");
    for gate in [&gate, &open] {
        gate.refuses(&padded(0, 64 * 1024), MALFORMED, "JWT-8: and never more than 64 KiB");
        gate.refuses(&padded(0, 1_000_000), MALFORMED, "JWT-8, attack 11: 1 MB");
    }
    let good = signer.good();
    let tight = Gate::behind(layer().with_max_token_bytes(good.len()));
    tight.accepts(&good, "JWT-8");
    let tighter = Gate::behind(layer().with_max_token_bytes(good.len() - 1));
    tighter.refuses(&good, MALFORMED, "JWT-8: the layer's own limit");
}

#[test]
fn a_megabyte_of_anything_is_refused_at_once() {
    let (signer, gate) = signer_and_gate();
    let layer = AuthenticateLayer::new(verifier().with_key(signer.key()).build().unwrap());
    let open = Gate::behind(layer.with_max_token_bytes(usize::MAX));
    gate.refuses(&".".repeat(8192), MALFORMED, "attack 11: as many dots as a token has bytes");
    let [header, ..] = parts(&signer.good()).map(str::to_owned);
    for unit in [".", "a", "a.", "..A", &format!("{header}.")] {
        for bytes in [100_000, 1_000_000] {
            let token = unit.repeat(bytes / unit.len());
            for gate in [&gate, &open] {
                let started = Instant::now();
                let answer = gate.ask(&token);
                assert!(started.elapsed() < SOON, "attack 11: {unit}");
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "attack 11: {unit}");
                assert_eq!(answer.event.reason, Some(MALFORMED.as_str()), "attack 11: {unit}");
                assert_eq!(answer.calls, 0, "attack 11: {unit}");
            }
        }
    }
}

#[test]
fn unknown_members_are_ignored() {
    let (signer, gate) = signer_and_gate();
    let values = r#"[null,true,-1.5e3,"\u00e9",{"a":[{}]}]"#;
    let header = header().with("x", values).with("zip", "null").text("exp", "x").with("", "0");
    let claims = Object::claims().with("x", values).with("alg", "7").text("typ", "JWT").with("", 0);
    let principal = gate.accepts(&signer.token(header, claims), "JWT-9");
    assert_eq!(principal.subject(), "user-1", "JWT-9");
    let audiences = principal.claims::<serde_json::Value>().unwrap();
    assert_eq!((&audiences["aud"], &audiences["alg"]), (&AUDIENCE.into(), &7.into()), "JWT-9");
}
