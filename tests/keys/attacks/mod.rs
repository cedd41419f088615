//! What has broken systems of this kind, over sockets: a client, the API behind the layers, and an
//! issuer that publishes keys and goes wrong. By the rows of the list of attacks:
//!
//! | row | where it runs over HTTP |
//! |---|---|
//! | 1 to 11, 13 to 15 | `tokens_that_have_broken_others_are_refused` |
//! | 11, a megabyte | `a_megabyte_of_dots_gets_no_further_than_the_server`; its cost in `a_token_that_is_too_long_takes_no_time_and_no_memory` |
//! | 12 | `claims_that_are_nearly_good_cost_no_more_than_others` |
//! | 16 | `documents::the_key_of_one_issuer_signs_nothing_for_another` |
//! | 17 | `one_name_at_two_issuers_is_two_callers`; revocations in `tests/api.rs` |
//! | 18, 19 | `flood::a_rotation_in_a_flood_over_http_is_seen_within_the_cooldown` |
//! | 20 | `faults::a_bad_document_never_replaces_a_good_one`; keys by themselves in `documents` |
//! | 21 | `discovery::metadata_of_another_issuer_is_not_used` |
//! | 22, 23, 24 | `what_is_remembered_is_one_token_for_one_api_until_it_ends` |
//! | 23, a key that is gone | `rotation::a_new_key_is_fetched_at_once_and_an_old_one_stops_when_it_is_gone` |
//! | 25 | `answers_that_do_not_vouch_for_a_token_let_nobody_in` |
//! | 26 | `an_endpoint_that_fails_lets_in_what_is_remembered_and_nobody_else`; for keys `faults::without_keys_an_api_says_503_until_they_come` |

mod tokens;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::time::sleep;
use tower_gate::fetch::ReqwestFetch;
use tower_gate::sink::JsonLinesSink;
use tower_gate::store::memory::MemoryStore;
use tower_gate::verifier::introspection::IntrospectionVerifier;
use tower_gate::verifier::jwt::{Algorithm, InvalidKey, JwtVerifier, VerifyingKey};
use tower_gate::verifier::{CachedVerifier, RoutedVerifier};
use tower_gate::{AuditLayer, Principal, Quota, RateLimitLayer, RequireScopeLayer, Requirement};

use crate::attacks::tokens::{Keys, UNKNOWN_KEY, hs256, without_signature};
use crate::cached::Counted;
use crate::gate::{AUDIENCE, Api, Gate, NOW, claims, verifier};
use crate::issuer::{Issuer, Reply};
use crate::signer::{Signer, base64url, jwks};

/// Milliseconds, in an optimised build on an idle machine; a bound for any other.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn tokens_that_have_broken_others_are_refused() {
    let keys = Keys {
        name: String::new(),
        ed: Signer::new("ed"),
        ec: Signer::ec("ec"),
        rsa: Signer::rsa("rsa"),
    };
    let issuer = Issuer::with_keys(&jwks(&[&keys.ed, &keys.ec, &keys.rsa])).await;
    let elsewhere = Issuer::with_keys(&jwks(&[&Signer::new("evil")])).await;
    let keys = Keys { name: issuer.name(), ..keys };
    let published = issuer.jwks().with_cooldown(Duration::from_secs(1)).start().unwrap();
    let trail = Trail::default();
    let audit = AuditLayer::new(JsonLinesSink::new(trail.clone()));
    let gate = Gate::new(verifier(&keys.name, &published)).audited(audit);
    let api = gate.serve().await;
    let mut requests = 0;
    let mut good = async || {
        for signer in [&keys.ed, &keys.ec, &keys.rsa] {
            let answer = api.get(&signer.token(&keys.claims())).await;
            assert_eq!(answer.text, "200 user-1");
            requests += 1;
        }
    };
    good().await;
    let cases = keys.cases(&elsewhere.url("/"));
    good().await;
    let mut asked = 0;
    // One fetch is for all names that it was asked for.
    for (_, token, _) in cases.iter().filter(|(.., expected)| *expected == UNKNOWN_KEY) {
        api.get(token).await;
        asked += 1;
    }
    for (row, token, expected) in &cases {
        let (status, word, reason) = expected;
        let began = Instant::now();
        let mut answer = api.get(token).await;
        while *expected == UNKNOWN_KEY && answer.retry_after.is_some() {
            answer.is_outage(row);
            sleep(Duration::from_millis(20)).await;
            answer = api.get(token).await;
            asked += 1;
        }
        let shown = &token[..token.len().min(600)];
        assert_eq!(answer.text, format!("{status} {reason}"), "{row}: {shown}");
        assert_eq!(answer.word, *word, "{row}: {shown}");
        assert!(answer.challenged, "{row}: {shown}");
        assert!(began.elapsed() < SOON, "attack 11: {row}: {shown}");
    }
    assert_eq!(elsewhere.asked(), [] as [&str; 0], "attack 5: nobody is asked");
    let lines = trail.lines();
    let requests = cases.len() + requests + asked;
    assert_eq!(lines.len(), requests, "attack 6: one line for each request");
    for line in lines {
        let event: Value = serde_json::from_str(&line).unwrap();
        assert!(event["outcome"].is_string(), "attack 6: {line}");
    }
}

/// Attack 4, where there is a secret: nothing but that one signs, and no weak one is taken.
#[tokio::test]
async fn an_empty_secret_signs_nothing() {
    let secret = [7; 32];
    let key = VerifyingKey::hmac(Algorithm::HS256, &secret).unwrap();
    let name = "https://issuer.example";
    let verifier = JwtVerifier::builder().issuer(name).audience(AUDIENCE).with_key(key);
    let api = Gate::new(verifier.build().unwrap()).serve().await;
    let header = json!({ "alg": "HS256", "typ": "at+jwt" });
    for (secret, expected) in [
        (&secret[..], "200 user-1"),
        (b"", "401 bad_signature"),
        (&[0; 32], "401 bad_signature"),
        (&secret[..31], "401 bad_signature"),
    ] {
        let answer = api.get(&hs256(secret, &header, &claims(name, "user-1"))).await;
        assert_eq!(answer.text, expected, "attack 4: {secret:?}");
    }
    for weak in [&b""[..], b"secret", &[7; 31]] {
        let error = VerifyingKey::hmac(Algorithm::HS256, weak).unwrap_err();
        assert!(matches!(error, InvalidKey::ShortSecret { .. }), "attack 4: {error}");
    }
}

#[tokio::test]
async fn a_megabyte_of_dots_gets_no_further_than_the_server() {
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    let published = issuer.jwks().start().unwrap();
    let api = Gate::new(verifier(&issuer.name(), &published)).serve().await;
    for unit in [".", "a.", "..A"] {
        let began = Instant::now();
        // The server may have closed the connection while the client still sends.
        if let Some(answer) = api.try_get(&unit.repeat(1_000_000 / unit.len())).await {
            assert!(["431 ", "401 malformed_token"].contains(&&*answer.text), "{}", answer.text);
        }
        assert!(began.elapsed() < SOON, "attack 11: {unit}");
        let answer = api.get(&signer.token(&claims(&issuer.name(), "user-1"))).await;
        assert_eq!(answer.text, "200 user-1", "attack 11: others are served");
    }
}

/// The same through the layers alone, where nothing else takes time and memory.
#[test]
fn a_token_that_is_too_long_takes_no_time_and_no_memory() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let key = VerifyingKey::hmac(Algorithm::HS256, &[7; 32]).unwrap();
    let verifier = JwtVerifier::builder().issuer("https://issuer.example").audience(AUDIENCE);
    let gate = Gate::new(CachedVerifier::new(verifier.with_key(key).build().unwrap()));
    for len in [8_000, 64_000, 1_000_000] {
        for unit in ["A", ".", "a.", "..A"] {
            let token = unit.repeat(len / unit.len());
            let (mut bytes, mut time) = (u64::MAX, Duration::MAX);
            // The least of several is what it takes, whatever else the machine does.
            for _ in 0..10 {
                let request = Request::builder().header("authorization", format!("Bearer {token}"));
                let request = request.body(Body::empty()).unwrap();
                let began = Instant::now();
                let allocated = measure(|| {
                    let answer = runtime.block_on(gate.send(request));
                    assert_eq!(answer.text, "401 malformed_token", "attack 11: {unit}");
                });
                (bytes, time) = (bytes.min(allocated.bytes_total), time.min(began.elapsed()));
            }
            assert!(bytes < 16 * 1024, "attack 11: {len} of {unit}: {bytes} bytes");
            assert!(time < Duration::from_millis(5), "attack 11: {len} of {unit}: {time:?}");
        }
    }
}

/// What a rule has to read to its end before it can say no takes as long as what it says yes to, or
/// nearly: no rule goes back and tries again.
#[tokio::test]
async fn claims_that_are_nearly_good_cost_no_more_than_others() {
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    let name = issuer.name();
    let published = issuer.jwks().start().unwrap();
    let wanted = Requirement::scope("read:reports").and(Requirement::role("admin"));
    let router = Router::new()
        .fallback(get(async || "in"))
        .layer(RequireScopeLayer::new(wanted.and(Requirement::acr(["mfa"]))));
    let api = Gate::with(verifier(&name, &published), router).serve().await;
    let token = |members: Value| {
        let mut claims = claims(&name, "user-1");
        claims["scope"] = "read:reports".into();
        claims["roles"] = json!(["admin"]);
        claims["acr"] = "mfa".into();
        claims.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        signer.token(&claims)
    };
    let many = |text: &str| text.repeat(5_000 / text.len());
    let list = |text: &'static str| vec![text; 5_000 / (text.len() + 3)];
    let cases = [
        ("as long, and good", json!({ "x": many("a") }), "200 in"),
        ("scopes", json!({ "scope": many("read:report ").trim() }), "403 insufficient_scope"),
        (
            "a scope",
            json!({ "scope": format!("{}!", many("read:reports")) }),
            "403 insufficient_scope",
        ),
        ("roles", json!({ "roles": list("admi") }), "403 forbidden"),
        ("a role", json!({ "roles": [format!("{}!", many("admin"))] }), "403 forbidden"),
        (
            "acr",
            json!({ "acr": format!("{}!", many("mfa")) }),
            "401 insufficient_user_authentication",
        ),
        ("audiences", json!({ "aud": list("https://api.exampl") }), "401 wrong_audience"),
        (
            "an audience",
            json!({ "aud": format!("{AUDIENCE}{}!", many("/")) }),
            "401 wrong_audience",
        ),
        ("an issuer", json!({ "iss": format!("{name}{}!", many("/")) }), "401 wrong_issuer"),
        ("spaces", json!({ "scope": format!("{}!", many(" ")) }), "403 insufficient_scope"),
    ];
    let mut usual = Duration::ZERO;
    for (what, members, expected) in cases {
        let token = token(members);
        assert!(token.len() < 8192, "{what}: {} bytes", token.len());
        let mut times = Vec::new();
        for _ in 0..21 {
            let began = Instant::now();
            assert_eq!(api.get(&token).await.text, expected, "attack 12: {what}");
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        if usual.is_zero() {
            usual = median;
        }
        let most = usual * 5 + Duration::from_millis(20);
        assert!(median < most, "attack 12: {what}: {median:?}, and {usual:?} for a good one");
    }
}

#[tokio::test]
async fn one_name_at_two_issuers_is_two_callers() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let (a, b) =
        (Issuer::with_keys(&jwks(&[&ours])).await, Issuer::with_keys(&jwks(&[&theirs])).await);
    let (a_keys, b_keys) = (a.jwks().start().unwrap(), b.jwks().start().unwrap());
    let both = RoutedVerifier::new()
        .with_issuer(&a.name(), verifier(&a.name(), &a_keys))
        .with_issuer(&b.name(), verifier(&b.name(), &b_keys));
    let quota = Quota::new(1, Duration::from_secs(86_400), 1).unwrap();
    let router = Router::new()
        .fallback(async |request: Request<Body>| {
            Principal::of(request.extensions()).unwrap().subject().to_owned()
        })
        .layer(RateLimitLayer::new(MemoryStore::new(), quota));
    let api = Gate::with(both, router).serve().await;
    for (signer, issuer, expected) in [
        (&ours, a.name(), (200, "")),
        (&ours, a.name(), (429, "rate_limited")),
        (&theirs, b.name(), (200, "")),
        (&theirs, b.name(), (429, "rate_limited")),
    ] {
        let answer = api.get(&signer.token(&claims(&issuer, "user-1"))).await;
        assert!(answer.text.starts_with(&expected.0.to_string()), "attack 17: {}", answer.text);
        assert_eq!(answer.word, expected.1, "attack 17");
    }
}

#[tokio::test]
async fn what_is_remembered_is_one_token_for_one_api_until_it_ends() {
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    let name = issuer.name();
    let published = issuer.jwks().start().unwrap();
    let asked = Counted::new(verifier(&name, &published));
    let cached = CachedVerifier::new(asked.clone()).with_max_tokens(16);
    let remembered = cached.tokens();
    let gate = Gate::new(cached);
    let ours = gate.serve().await;
    let other = JwtVerifier::builder().issuer(&name).audience("https://other.example");
    let other = CachedVerifier::new(other.with_jwks(&published).build().unwrap());
    let theirs = Gate::new(other).serve().await;

    let [one, two] = ["user-1", "user-2"].map(|subject| signer.token(&claims(&name, subject)));
    assert_eq!(one[..64], two[..64], "a prefix says nothing");
    for _ in 0..2 {
        assert_eq!(ours.get(&one).await.text, "200 user-1", "attack 22");
        assert_eq!(ours.get(&two).await.text, "200 user-2", "attack 22");
        let mixed = format!("{}.{}", without_signature(&one), two.rsplit_once('.').unwrap().1);
        assert_eq!(ours.get(&mixed).await.text, "401 bad_signature", "attack 22");
        assert_eq!(theirs.get(&one).await.text, "401 wrong_audience", "attack 22");
    }

    assert_eq!(remembered.len(), 2);
    for n in 0..1_000 {
        let garbage = signer.token(&claims("https://evil.example", &format!("garbage-{n}")));
        assert_eq!(ours.get(&garbage).await.text, "401 wrong_issuer", "attack 24");
    }
    // Ten thousand times as many as there are places, from one who has seen a good token.
    let (before, signed) = (asked.count(), without_signature(&one));
    for n in 0..160_000 {
        let (garbage, expected) = match n % 16 {
            0 => (format!("{signed}.{}", base64url([7; 64])), "401 bad_signature"),
            1..=7 => (format!("{signed}.{}", base64url(n.to_string())), "401 bad_signature"),
            _ => (format!("garbage-{n}"), "401 malformed_token"),
        };
        assert_eq!(gate.get(&garbage).await.text, expected, "attack 24: {garbage}");
        if n % 1_000 == 0 {
            assert_eq!(gate.get(&one).await.text, "200 user-1", "attack 24");
            assert_eq!(gate.get(&two).await.text, "200 user-2", "attack 24");
        }
    }
    assert_eq!(asked.count(), before + 160_000, "attack 24: good tokens were all remembered");
    assert_eq!(remembered.len(), 2, "attack 24: it evicts nothing, and takes no place");

    gate.clock.advance(Duration::from_secs(3600 + 30));
    let answer = ours.get(&one).await;
    assert_eq!((&*answer.text, &*answer.word), ("401 expired", "token_expired"), "attack 23");
}

/// An API that asks its issuer, which says what it is told to; and what it writes down.
async fn asking(issuer: &Issuer, stale: Option<Duration>) -> (Gate, Api, Trail) {
    let fetch = ReqwestFetch::new().unwrap();
    let builder = IntrospectionVerifier::builder(issuer.url("/introspect"), fetch)
        .issuer(issuer.name())
        .audience(AUDIENCE)
        .with_client("api", "s3cret")
        .with_timeout(Duration::from_millis(500));
    let builder = match stale {
        Some(max_age) => builder.with_stale_if_error(max_age),
        None => builder,
    };
    let trail = Trail::default();
    let audit = AuditLayer::new(JsonLinesSink::new(trail.clone()));
    let gate = Gate::new(builder.build().unwrap()).audited(audit);
    let api = gate.serve().await;
    (gate, api, trail)
}

/// What the issuer says of a good token.
fn active(issuer: &Issuer) -> Value {
    let mut answer = claims(&issuer.name(), "user-1");
    answer["active"] = true.into();
    answer
}

#[tokio::test]
async fn answers_that_do_not_vouch_for_a_token_let_nobody_in() {
    let issuer = Issuer::start().await;
    let (_, api, _) = asking(&issuer, None).await;
    let said = |members: Value| {
        let mut answer = active(&issuer);
        answer.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        Reply::json(&answer)
    };
    let invalid = (401, "invalid_token");
    let outage = (503, "temporarily_unavailable");
    let silent = json!({ "sub": "user-1", "aud": AUDIENCE });
    for (what, reply, expected) in [
        ("true", said(json!({})), (200, "")),
        ("false", said(json!({ "active": false })), invalid),
        ("a text", said(json!({ "active": "true" })), outage),
        ("a number", said(json!({ "active": 1 })), outage),
        ("null", said(json!({ "active": null })), outage),
        ("no word of it", Reply::json(&silent), outage),
        ("a page", Reply::page(), outage),
        ("a page as JSON", Reply::text(200, "application/json", "<html>active</html>"), outage),
        ("JSON as a page", Reply::text(200, "text/html", &active(&issuer).to_string()), outage),
        ("half", Reply::broken(), outage),
        ("another audience", said(json!({ "aud": "https://other.example" })), invalid),
        ("no audience", said(json!({ "aud": [] })), invalid),
        ("another issuer", said(json!({ "iss": "https://other.example" })), invalid),
        ("a refresh token", said(json!({ "token_use": "refresh_token" })), invalid),
        ("an ID token", said(json!({ "token_use": "id" })), invalid),
        ("another type", said(json!({ "token_type": "mac" })), invalid),
        ("a proof is needed", said(json!({ "token_type": "DPoP" })), invalid),
        ("a key is needed", said(json!({ "cnf": { "jkt": "x" } })), invalid),
        ("over", said(json!({ "exp": NOW - 31 })), (401, "token_expired")),
        ("500", Reply::status(500), outage),
        ("401 for us", Reply::status(401), outage),
        ("204", Reply::status(204), outage),
        ("elsewhere", Reply::redirect("/other"), outage),
        ("true again", said(json!({})), (200, "")),
        ("a byte now and then", Reply::trickle(), outage),
    ] {
        issuer.serve("/introspect", reply);
        let answer = api.get(&format!("token-{}", what.replace(' ', "-"))).await;
        let status = answer.text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!((status, &*answer.word), expected, "attack 25: {what}: {}", answer.text);
        assert_eq!(answer.challenged, status == 401, "attack 25: {what}");
        assert_eq!(answer.retry_after.is_some(), status == 503, "attack 25: {what}");
    }
    assert_eq!(issuer.count("/other"), 0, "attack 25: no redirect is followed");
}

#[tokio::test]
async fn an_endpoint_that_fails_lets_in_what_is_remembered_and_nobody_else() {
    let second = Duration::from_secs(1);
    for (what, failing) in [("500", Reply::status(500)), ("silence", Reply::never())] {
        for stale in [None, Some(second * 300)] {
            let issuer = Issuer::start().await;
            issuer.serve("/introspect", Reply::json(&active(&issuer)));
            let (gate, api, trail) = asking(&issuer, stale).await;
            assert_eq!(api.get("known").await.text, "200 user-1");
            issuer.serve("/introspect", failing.clone());
            for _ in 0..3 {
                api.get("unknown").await.is_outage(&format!("attack 26: {what}"));
            }
            gate.clock.advance(second * 9);
            assert_eq!(api.get("known").await.text, "200 user-1", "attack 26: {what}");
            gate.clock.advance(second);
            let later = api.get("known").await;
            let events: Vec<Value> =
                trail.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            let marks: Vec<_> = events.iter().map(|event| event["stale"] == true).collect();
            let last = stale.is_some();
            let expected = [false, false, false, false, false, last];
            assert_eq!(marks, expected, "attack 26: {what}: the trail says so, then and only then");
            match stale {
                None => later.is_outage(&format!("attack 26: {what}: it fails closed")),
                Some(_) => {
                    assert_eq!(later.text, "200 user-1", "attack 26: {what}");
                    gate.clock.advance(second * 290);
                    let answer = api.get("known").await;
                    answer.is_outage(&format!("attack 26: {what}: the bound"));
                }
            }
        }
    }
}

/// The lines of an audit trail.
#[derive(Clone, Default)]
struct Trail(Arc<Mutex<Vec<u8>>>);

impl Trail {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.split_terminator('\n').map(str::to_owned).collect()
    }
}

impl Write for Trail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
