//! Choosing between verifiers.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use serde_json::json;
use tower_gate::verifier::jwt::KeySet;
use tower_gate::verifier::{
    CachedVerifier, RoutedVerifier, VerifyError, VerifyErrorKind, VerifyRequest,
};
use tower_gate::{BearerToken, Principal, TokenVerifier};

use crate::cached::Counted;
use crate::gate::{Gate, claims, verifier};
use crate::memory::{MemoryIssuer, NAME};
use crate::signer::{Signer, base64url, jwks};

/// Accepts every token, as a principal of this name.
fn accepting(name: &'static str) -> Counted<impl TokenVerifier> {
    Counted::new(move |_: VerifyRequest| {
        std::future::ready(Ok::<_, VerifyError>(Principal::builder(NAME, name).build()))
    })
}

fn refusing() -> Counted<impl TokenVerifier> {
    Counted::new(|_: VerifyRequest| {
        std::future::ready(Err::<Principal, VerifyError>(VerifyErrorKind::Revoked.into()))
    })
}

/// Something with two dots that claims to be from this issuer.
fn jwt(payload: &str) -> String {
    format!("{}.{}.{}", base64url("{}"), base64url(payload), base64url("x"))
}

#[tokio::test]
async fn exactly_one_verifier_is_asked() {
    let verifiers = ["a", "b", "jwts", "opaque", "tool", "tool_x"].map(accepting);
    let [a, b, jwts, opaque, tool, tool_x] = &verifiers;
    let routed = RoutedVerifier::new()
        .with_prefix("tool_", tool.clone())
        .with_prefix("tool_x_", tool_x.clone())
        .with_issuer("https://a.example", a.clone())
        .with_issuer("https://b.example", b.clone())
        .with_jwts(jwts.clone())
        .with_opaque(opaque.clone());
    let gate = Gate::new(routed);
    let mut counts = [0; 6];
    for (token, who) in [
        ("tool_1".to_owned(), "tool"),
        ("tool_x_1".to_owned(), "tool_x"),
        ("tool_.x.y".to_owned(), "tool"),
        ("Tool_1".to_owned(), "opaque"),
        ("xtool_1".to_owned(), "opaque"),
        (jwt(r#"{"iss":"https://a.example"}"#), "a"),
        (jwt(r#"{"x":[{"iss":"https://a.example"}],"iss":"https:\/\/b.example"}"#), "b"),
        (jwt(r#"{"iss":"https://a.example/"}"#), "jwts"),
        (jwt(r#"{"iss":"HTTPS://a.example"}"#), "jwts"),
        (jwt(r#"{"iss":["https://a.example"]}"#), "jwts"),
        (jwt(r#"{"ISS":"https://a.example"}"#), "jwts"),
        (jwt(r#"{"x":{"iss":"https://a.example"}}"#), "jwts"),
        (jwt(r#"{"iss":"https://a.example","iss":"https://b.example"}"#), "jwts"),
        (jwt(r#"{"iss":"https://a.example"}x"#), "jwts"),
        (jwt("{}"), "jwts"),
        (jwt(""), "jwts"),
        ("a.b.c".to_owned(), "jwts"),
        ("..".to_owned(), "jwts"),
        ("opaque".to_owned(), "opaque"),
        ("one.dot".to_owned(), "opaque"),
        ("three.dots.are.opaque".to_owned(), "opaque"),
    ] {
        let answer = gate.get(&token).await.text;
        assert_eq!(answer, format!("200 {who}"), "OPAQUE-5: {token}");
        let names = ["a", "b", "jwts", "opaque", "tool", "tool_x"];
        counts[names.iter().position(|name| *name == who).unwrap()] += 1;
        assert_eq!(verifiers.each_ref().map(Counted::count), counts, "OPAQUE-5: {token}");
    }
}

/// Nobody would notice which of the two is asked.
#[test]
fn two_verifiers_for_the_same_tokens_do_not_start() {
    type Add = fn(RoutedVerifier, &str) -> RoutedVerifier;
    let by_prefix: Add = |routed, name| routed.with_prefix(name, accepting("tool"));
    let by_issuer: Add = |routed, name| routed.with_issuer(name, accepting("a"));
    for (add, name, other, kind) in [
        (by_prefix, "tool_", "tool_x_", "prefix"),
        (by_issuer, "https://a.example", "https://a.example/", "issuer"),
    ] {
        let routed = add(add(RoutedVerifier::new(), name), other);
        // A prefix and an issuer are different things.
        let routed = by_prefix(by_issuer(routed, "same"), "same");
        let added = std::panic::catch_unwind(AssertUnwindSafe(|| add(routed, name)));
        let message = added.expect_err("OPAQUE-5").downcast::<String>().unwrap();
        let expected = format!("are for the {kind} {name:?}: remove one of them");
        assert!(message.contains(&expected), "OPAQUE-5: {message}");
    }
}

#[tokio::test]
async fn no_verifier_is_asked_after_another_has_refused() {
    let (strict, weak) = (refusing(), accepting("anybody"));
    let routed = RoutedVerifier::new()
        .with_prefix("tool_", strict.clone())
        .with_issuer("https://a.example", strict.clone())
        .with_jwts(weak.clone())
        .with_opaque(weak.clone());
    let gate = Gate::new(routed);
    for token in ["tool_1", &jwt(r#"{"iss":"https://a.example"}"#)] {
        assert_eq!(gate.get(token).await.text, "401 revoked", "OPAQUE-5: {token}");
    }
    assert_eq!((strict.count(), weak.count()), (2, 0), "OPAQUE-5");
}

#[tokio::test]
async fn a_token_that_nobody_is_there_for_is_refused() {
    let opaque = accepting("opaque");
    let gate = Gate::new(RoutedVerifier::new().with_opaque(opaque.clone()));
    for junk in ["a.b.c", "..", &jwt("{}"), &jwt(r#"{"iss":"https://a.example"}"#)] {
        assert_eq!(gate.get(junk).await.text, "401 wrong_issuer", "OPAQUE-5: {junk}");
    }
    assert_eq!(opaque.count(), 0, "OPAQUE-5: what is shaped like a JWT is none of its business");
    let gate = Gate::new(RoutedVerifier::new().with_jwts(accepting("jwts")));
    assert_eq!(gate.get("opaque").await.text, "401 unknown_token");
    let gate = Gate::new(RoutedVerifier::new());
    assert_eq!(gate.get("opaque").await.text, "401 unknown_token");
}

/// The issuer that a token claims chooses a verifier, and proves nothing to it.
#[tokio::test]
async fn a_claimed_issuer_only_chooses() {
    let (ours, theirs) = (Signer::new("k"), Signer::new("k"));
    let verifier = |name: &str, signer: &Signer| {
        let keys = KeySet::from_jwks(&jwks(&[signer]).to_string()).unwrap();
        let builder = tower_gate::verifier::jwt::JwtVerifier::builder().issuer(name);
        builder.audience(crate::gate::AUDIENCE).with_keys(keys).build().unwrap()
    };
    let routed = RoutedVerifier::new()
        .with_issuer("https://a.example", verifier("https://a.example", &ours))
        // A verifier under the wrong name accepts nothing.
        .with_issuer("https://b.example", verifier("https://a.example", &theirs));
    let gate = Gate::new(routed);
    for (signer, issuer, expected) in [
        (&ours, "https://a.example", "200 user-1"),
        (&theirs, "https://a.example", "401 bad_signature"),
        (&ours, "https://b.example", "401 bad_signature"),
        (&theirs, "https://b.example", "401 wrong_issuer"),
    ] {
        let answer = gate.get(&signer.token(&claims(issuer, "user-1"))).await;
        assert_eq!(answer.text, expected, "JWT-41, attack 16: {issuer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_withdrawn_from_one_of_them_purges_what_is_remembered() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let routed = RoutedVerifier::new()
        .with_issuer(NAME, verifier(NAME, &keys).load(|_| async { Ok::<_, VerifyError>(7) }))
        .with_opaque(accepting("opaque"));
    let gate = Gate::new(CachedVerifier::new(routed).with_max_age(Duration::MAX));
    let token = signer.token(&claims(NAME, "user-1"));
    assert_eq!(gate.get(&token).await.text, "200 user-1");
    issuer.publish(&json!({ "keys": [Signer::new("b").jwk()] }));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(gate.get(&token).await.text, "401 unknown_key", "attack 23");
}

/// Choosing costs everybody who sends anything, so it must be linear in what they send.
#[tokio::test]
async fn a_token_with_thousands_of_members_is_chosen_for_in_no_time() {
    let members: Vec<_> = (0..5_000).map(|n| format!("\"{n}\":0")).collect();
    let token = jwt(&format!("{{{}}}", members.join(",")));
    let routed = RoutedVerifier::new().with_issuer(NAME, accepting("a"));
    let request = VerifyRequest::new(BearerToken::parse(&token).unwrap(), crate::gate::at(0));
    let began = Instant::now();
    for _ in 0..20 {
        let answer = routed.try_verify(&request).unwrap();
        assert_eq!(answer.unwrap_err().kind(), VerifyErrorKind::WrongIssuer);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "attack 11: {:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_chosen_verifier_remembers_is_recalled_by_the_bytes_of_its_own_tokens() {
    let (a, tool) = (accepting("a"), accepting("tool"));
    let routed = RoutedVerifier::new()
        .with_prefix("tool_", CachedVerifier::new(tool))
        .with_issuer("https://a.example", CachedVerifier::new(a));
    let recalled = |token: &[u8]| {
        let principal = routed.recall(token, crate::gate::at(0));
        principal.map(|principal| principal.subject().to_owned())
    };
    for (token, who) in [("tool_1", "tool"), (&jwt(r#"{"iss":"https://a.example"}"#), "a")] {
        assert_eq!(recalled(token.as_bytes()), None, "OPAQUE-5: nobody has seen it");
        let token = BearerToken::parse(token).unwrap();
        let request = VerifyRequest::new(token.clone(), crate::gate::at(0));
        routed.verify(&request).await.unwrap();
        let text = token.as_str().as_bytes();
        assert_eq!(recalled(text).as_deref(), Some(who), "OPAQUE-5");
        for other in [&text[1..], &[text, b"x"].concat(), &[text, b"\xff"].concat(), b"\xff"] {
            assert_eq!(recalled(other), None, "OPAQUE-5");
        }
    }
}
