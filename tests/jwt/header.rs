//! The header (JWT-10 to JWT-19).

use std::io::ErrorKind;
use std::net::TcpListener;

use tower_gate::verifier::VerifyErrorKind;
use tower_gate::verifier::jwt::Algorithm;

use crate::gate::{Gate, verifier};
use crate::object::Object;
use crate::signer::{Signer, algorithms, base64url};

const MALFORMED: VerifyErrorKind = VerifyErrorKind::Malformed;
const UNKNOWN_KEY: VerifyErrorKind = VerifyErrorKind::UnknownKey;
const UNSUPPORTED: VerifyErrorKind = VerifyErrorKind::UnsupportedAlgorithm;
const WRONG_TYPE: VerifyErrorKind = VerifyErrorKind::WrongType;

fn signer_and_gate() -> (Signer, Gate) {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key());
    (signer, gate)
}

fn header() -> Object {
    Object::header("HS256")
}

// `alg`.

#[test]
fn the_algorithm_is_the_exact_name_of_one_that_has_a_key() {
    let (signer, gate) = signer_and_gate();
    gate.refuses(&signer.token(header().without("alg"), Object::claims()), MALFORMED, "JWT-10");
    for alg in ["null", "256", "true", r#"["HS256"]"#, r#"{"HS256":1}"#] {
        let token = signer.token(header().with("alg", alg), Object::claims());
        gate.refuses(&token, MALFORMED, &format!("JWT-10: {alg}"));
    }
    for alg in [
        "",
        "hs256",
        "Hs256",
        "HS256 ",
        " HS256",
        "HS256\0",
        "HS-256",
        "HS25",
        "HS2566",
        "SHA256",
        "HMAC",
        "ＨＳ256",
        "RS256",
        "ES256K",
        "Ed448",
        "RSA1_5",
        "dir",
        "ML-DSA-44",
    ] {
        let token = signer.token(header().text("alg", alg), Object::claims());
        gate.refuses(&token, UNSUPPORTED, &format!("JWT-10: {alg:?}"));
    }
}

#[test]
fn no_spelling_of_none_is_an_algorithm() {
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let signer = Signer::new(algorithm);
        let gate = Gate::of(signer.key());
        for none in ["none", "None", "NONE", "nOnE", "noNE", "NoNe", "nonE", "NOne", "none ", ""] {
            let header = Object::header(none);
            let signed = signer.token(&header, Object::claims());
            let (unsigned, _) = signed.rsplit_once('.').unwrap();
            for token in [&signed, &format!("{unsigned}."), &format!("{unsigned}.AA")] {
                gate.refuses(token, UNSUPPORTED, &format!("JWT-11, attack 1: {none:?}"));
            }
            gate.refuses(unsigned, MALFORMED, &format!("JWT-11, attack 1: {none:?}"));
        }
    }
}

#[test]
fn a_named_algorithm_does_without_no_signature() {
    for algorithm in algorithms() {
        let signer = Signer::new(algorithm);
        let good = signer.good();
        let (unsigned, _) = good.rsplit_once('.').unwrap();
        let gate = Gate::of(signer.key());
        let why = format!("JWT-11, attack 1: {algorithm}");
        gate.refuses(&format!("{unsigned}."), VerifyErrorKind::BadSignature, &why);
        gate.refuses(unsigned, MALFORMED, &why);
    }
}

// Extensions.

#[test]
fn extensions_that_must_be_understood_are_not() {
    let (signer, gate) = signer_and_gate();
    for header in [
        header().with("crit", "[]"),
        header().with("crit", "null"),
        header().with("crit", "{}"),
        header().with("crit", r#""exp""#),
        header().with("crit", "[1]"),
        header().with("crit", r#"["x"]"#),
        header().with("crit", r#"["x"]"#).with("x", 1),
        header().with("crit", r#"["exp"]"#).with("exp", 1),
        header().with("crit", r#"["alg"]"#),
        header().with("crit", r#"["typ","typ"]"#),
        header().with("crit", r#"["b64"]"#).with("b64", "false"),
        header().with("b64", "false"),
        header().with("b64", "true"),
        header().with(r"cr\u0069t", r#"["x"]"#),
    ] {
        let token = signer.token(&header, Object::claims());
        gate.refuses(&token, MALFORMED, &format!("JWT-13, JWT-14, attack 7: {header}"));
    }
    // With `b64:false`, the signature is over the claims as they are (RFC 7797 §3).
    let header = header().with("crit", r#"["b64"]"#).with("b64", "false").to_string();
    let token = signer.token_of_parts(&base64url(header), "claims");
    gate.refuses(&token, MALFORMED, "JWT-14");
}

// A verifier remembers the header of tokens that a key has verified.

#[test]
fn a_header_that_was_seen_before_lets_nothing_else_in() {
    let (signer, gate) = signer_and_gate();
    let stranger = Signer::other(Algorithm::HS256);
    let claims = base64url(Object::claims().to_string());
    let head = base64url(header().to_string());
    for round in ["never seen", "seen"] {
        gate.refuses(&stranger.good(), VerifyErrorKind::BadSignature, round);
        let typed = header().text("typ", "JWT");
        gate.refuses(&signer.token(typed, Object::claims()), WRONG_TYPE, round);
        let other = header().text("alg", "none");
        gate.refuses(&signer.token(other, Object::claims()), UNSUPPORTED, round);
        for spelling in [format!("{head}A"), head[1..].to_owned()] {
            gate.refuses(&signer.token_of_parts(&spelling, &claims), MALFORMED, round);
        }
        gate.accepts(&signer.good(), round);
    }
    let second = signer.token(header().text("kid", "another"), Object::claims());
    gate.accepts(&second, "a second header of the same key");
    gate.accepts(&signer.good(), "and the first again");
}

// `typ` and `cty`.

#[test]
fn a_token_says_that_it_is_an_access_token() {
    let (signer, gate) = signer_and_gate();
    for typ in ["at+jwt", "at+JWT", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        let token = signer.token(header().text("typ", typ), Object::claims());
        gate.accepts(&token, &format!("JWT-15: {typ}"));
    }
    for typ in [
        "",
        "JWT",
        "jwt",
        "application/jwt",
        "dpop+jwt",
        "logout+jwt",
        "secevent+jwt",
        "id+jwt",
        "at+jwt ",
        " at+jwt",
        "at+jwt;v=1",
        "at jwt",
        "at",
        "text/at+jwt",
        "/at+jwt",
        "application/application/at+jwt",
        "applications/at+jwt",
        "xpplication/at+jwt",
        "aT+jwt\0",
    ] {
        let token = signer.token(header().text("typ", typ), Object::claims());
        gate.refuses(&token, WRONG_TYPE, &format!("JWT-15, attack 13: {typ:?}"));
    }
    let token = signer.token(header().without("typ"), Object::claims());
    gate.refuses(&token, WRONG_TYPE, "JWT-15: no `typ`");
    for typ in ["null", "1", r#"["at+jwt"]"#, "{}"] {
        let token = signer.token(header().with("typ", typ), Object::claims());
        gate.refuses(&token, MALFORMED, &format!("JWT-15: {typ}"));
    }
}

#[test]
fn a_verifier_of_plain_tokens_takes_no_other_kind_either() {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::new(verifier().with_key(signer.key()).accept_plain_jwt());
    for typ in ["JWT", "jwt", "application/jwt", "at+jwt", "application/AT+JWT"] {
        let token = signer.token(header().text("typ", typ), Object::claims());
        gate.accepts(&token, &format!("JWT-15: {typ}"));
    }
    gate.accepts(&signer.token(header().without("typ"), Object::claims()), "JWT-15: no `typ`");
    for typ in ["", "dpop+jwt", "logout+jwt", "secevent+jwt", "id+jwt", "JWT ", "jose"] {
        let token = signer.token(header().text("typ", typ), Object::claims());
        gate.refuses(&token, WRONG_TYPE, &format!("JWT-15, attack 13: {typ:?}"));
    }
}

#[test]
fn a_token_in_a_token_is_refused() {
    let (signer, gate) = signer_and_gate();
    for cty in ["JWT", "jwt", "application/jwt", "APPLICATION/JWT"] {
        let token = signer.token(header().text("cty", cty), Object::claims());
        gate.refuses(&token, WRONG_TYPE, &format!("JWT-19: {cty}"));
    }
    let token = signer.token(header().with("cty", "[\"JWT\"]"), Object::claims());
    gate.refuses(&token, MALFORMED, "JWT-19");
    let token = signer.token(header().text("cty", "json"), Object::claims());
    gate.accepts(&token, "JWT-9: another content type says nothing");
}

// Keys that the token brings along.

#[test]
fn a_key_in_the_header_is_never_used_nor_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256] {
        let (good, attacker) = (Signer::new(algorithm), Signer::other(algorithm));
        let gate = Gate::of(good.key().with_kid("k1"));
        let header = Object::header(algorithm.as_str());
        for (header, kind) in [
            (header.clone().with("jwk", attacker.jwk()), VerifyErrorKind::BadSignature),
            (header.clone().text("jku", &url), VerifyErrorKind::BadSignature),
            (header.clone().text("x5u", &url), VerifyErrorKind::BadSignature),
            (header.clone().with("x5c", r#"["MIIB"]"#), VerifyErrorKind::BadSignature),
            (header.clone().text("jku", &url).text("kid", "k1"), VerifyErrorKind::BadSignature),
            (header.clone().with("jwk", attacker.jwk()).text("kid", "k2"), UNKNOWN_KEY),
            (header.clone().text("jku", &url).text("kid", &url), UNKNOWN_KEY),
        ] {
            let token = attacker.token(&header, Object::claims());
            gate.refuses(&token, kind, &format!("JWT-16, attack 5: {header}"));
        }
        // They take nothing from a good token either.
        let header = header.with("jwk", attacker.jwk()).text("jku", &url).text("kid", "k1");
        gate.accepts(&good.token(header, Object::claims()), "JWT-16, JWT-9");
    }
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "JWT-16, attack 5: somebody called");
}

// `kid`.

#[test]
fn a_key_is_chosen_by_its_exact_name() {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key().with_kid("k1"));
    let named = |kid: &str| signer.token(header().text("kid", kid), Object::claims());
    gate.accepts(&named("k1"), "JWT-17");
    gate.accepts(&signer.good(), "JWT-18: without a name, the fitting keys are tried");
    for kid in ["", "K1", "k1 ", " k1", "k1\0", "k", "k11", "k2"] {
        gate.refuses(&named(kid), UNKNOWN_KEY, &format!("JWT-17: {kid:?}"));
    }
    for kid in ["1", "null", "true", r#"["k1"]"#, r#"{"k1":1}"#] {
        let token = signer.token(header().with("kid", kid), Object::claims());
        gate.refuses(&token, MALFORMED, &format!("JWT-17: {kid}"));
    }
    let stranger =
        Signer::new(Algorithm::HS256).token(header().text("kid", "k1"), Object::claims());
    gate.refuses(&stranger, VerifyErrorKind::BadSignature, "JWT-17: the name proves nothing");
}

/// What it names itself, its holder chooses: the name that a key can be revoked by is the key's own.
#[test]
fn a_principal_names_the_key_that_signed_its_token() {
    let (old, new) = (Signer::new(Algorithm::HS256), Signer::new(Algorithm::HS256));
    let keys = verifier().with_key(old.key().with_kid("old")).with_key(new.key().with_kid("new"));
    let (gate, nameless) = (Gate::new(keys), Gate::of(old.key()));
    let named = |signer: &Signer, kid| signer.token(header().text("kid", kid), Object::claims());
    for (gate, token, key_id) in [
        (&gate, named(&old, "old"), Some("old")),
        (&gate, named(&new, "new"), Some("new")),
        (&gate, old.good(), Some("old")),
        (&gate, new.good(), Some("new")),
        (&nameless, named(&old, "any"), None),
        (&nameless, old.good(), None),
    ] {
        let principal = gate.accepts(&token, "attack 23");
        assert_eq!(principal.key_id(), key_id, "attack 23");
        let event = serde_json::to_value(gate.ask(&token).event).unwrap();
        assert_eq!(event["key_id"].as_str(), key_id, "{event}");
    }
}

#[test]
fn a_name_has_at_most_256_bytes() {
    let signer = Signer::new(Algorithm::HS256);
    for (bytes, kind) in [(256, None), (257, Some(MALFORMED)), (64 * 1024, Some(MALFORMED))] {
        let kid = "k".repeat(bytes);
        let gate = Gate::of(signer.key().with_kid(&kid));
        let token = signer.token(header().text("kid", &kid), Object::claims());
        match kind {
            None => drop(gate.accepts(&token, "JWT-17: 256 bytes")),
            Some(kind) => gate.refuses(&token, kind, &format!("JWT-17, attack 6: {bytes} bytes")),
        }
    }
}

/// Names that would do harm in a path, a query or a log.
const INJECTIONS: [&str; 10] = [
    "../../dev/null",
    "/dev/null",
    "file:///proc/self/environ",
    "' OR 1=1 --",
    "k1'; DROP TABLE keys; --",
    "k1\r\n{\"outcome\":\"allowed\"}",
    "k1\n",
    "\u{1b}[2J",
    "${jndi:ldap://127.0.0.1/a}",
    "k1\0",
];

#[test]
fn a_name_is_nothing_but_a_name() {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key().with_kid("k1"));
    for kid in INJECTIONS {
        let header = header().text("kid", kid);
        // The last is what a key read from /dev/null would sign.
        for signer in [&signer, &Signer::of_secret(Algorithm::HS256, b"")] {
            let token = signer.token(&header, Object::claims());
            gate.refuses(&token, UNKNOWN_KEY, &format!("JWT-17, attack 6: {kid:?}"));
        }
    }
}

/// What a log at its most talkative shows of a refused token.
#[cfg(feature = "tracing")]
#[test]
fn a_log_shows_neither_the_token_nor_what_it_says() {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key().with_kid("k1"));
    let log = crate::gate::Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        // Another test may have met these events first, when nobody listened.
        gate.ask(&signer.good());
        gate.ask("x");
        tracing::callsite::rebuild_interest_cache();
        log.take();
        for kid in INJECTIONS {
            let claims = Object::claims().text("sub", "canary-subject").text("exp", "canary-exp");
            for kid in [kid, "k1"] {
                let token = signer.token(header().text("kid", kid), &claims);
                gate.ask(&token);
                let log = log.take();
                // One line from the verifier and one from the refusal, whatever the name.
                assert_eq!(log.lines().count(), 2, "attack 6: {log}");
                assert!(log.contains("token not verified"), "{log}");
                let (_, signature) = token.rsplit_once('.').unwrap();
                for secret in [signature, "canary", "DROP TABLE", "/dev/null", "jndi"] {
                    assert!(!log.contains(secret), "JWT-17, attack 6, attack 38: {log}");
                }
            }
        }
    });
}

#[test]
fn a_name_that_is_unknown_leaves_the_keys_without_one() {
    let (unnamed, named) = (Signer::new(Algorithm::HS256), Signer::new(Algorithm::HS256));
    let keys = verifier().with_key(unnamed.key()).with_key(named.key().with_kid("k1"));
    let gate = Gate::new(keys);
    let token = |signer: &Signer, kid| signer.token(header().text("kid", kid), Object::claims());
    gate.accepts(&token(&unnamed, "k9"), "JWT-18");
    gate.accepts(&token(&named, "k1"), "JWT-18");
    gate.accepts(&unnamed.good(), "JWT-18");
    gate.accepts(&named.good(), "JWT-18");
    let bad_signature = VerifyErrorKind::BadSignature;
    gate.refuses(&token(&named, "k9"), bad_signature, "JWT-18: a named key goes by no other name");
    gate.refuses(&token(&unnamed, "k1"), bad_signature, "JWT-18");
}

#[test]
fn a_name_never_leads_to_a_key_of_another_algorithm() {
    let (hmac, rsa) = (Signer::new(Algorithm::HS256), Signer::new(Algorithm::RS256));
    let keys = verifier().with_key(hmac.key().with_kid("h")).with_key(rsa.key().with_kid("r"));
    let gate = Gate::new(keys);
    let token = |signer: &Signer, kid| {
        let header = Object::header(signer.algorithm.as_str()).text("kid", kid);
        signer.token(header, Object::claims())
    };
    gate.accepts(&token(&hmac, "h"), "JWT-12");
    gate.accepts(&token(&rsa, "r"), "JWT-12");
    gate.refuses(&token(&hmac, "r"), UNKNOWN_KEY, "JWT-12, attack 2");
    gate.refuses(&token(&rsa, "h"), UNKNOWN_KEY, "JWT-12");
}

#[test]
fn eight_keys_are_tried_for_a_token_without_a_name() {
    let signers: Vec<_> = (0..9).map(|_| Signer::new(Algorithm::HS256)).collect();
    let with_kid = |(n, signer): (usize, &Signer)| signer.key().with_kid(&format!("k{n}"));
    // A key of another algorithm is not tried, and so does not count.
    let others = verifier().with_key(Signer::new(Algorithm::ES256).key());
    let keys = signers.iter().enumerate().map(with_kid);
    let gate = Gate::new(keys.fold(others, |verifier, key| verifier.with_key(key)));
    for signer in &signers[..8] {
        gate.accepts(&signer.good(), "JWT-18");
    }
    gate.refuses(&signers[8].good(), VerifyErrorKind::BadSignature, "JWT-18: the ninth");
    let named = signers[8].token(header().text("kid", "k8"), Object::claims());
    gate.accepts(&named, "JWT-18: the ninth, by its name");
}
