//! Tokens and secrets stay where they are: out of logs, spans, events, errors, answers and `Debug`.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Debug;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use serde::Deserialize;
use serde_json::json;
use tower::{Layer, Service, ServiceExt};
use tower_gate::concurrency_limit::ConcurrencyLimitBody;
use tower_gate::extract::Claims;
use tower_gate::sink::{JsonLinesSink, NullSink, QueueSink, TracingSink};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{StoreError, TakeRequest};
use tower_gate::verifier::jwt::{Algorithm, JwtVerifier, KeySet, VerifyingKey};
use tower_gate::verifier::{VerifyError, VerifyErrorKind, VerifyRequest};
use tower_gate::{
    AuditEvent, AuditLayer, AuditSink, AuthenticateLayer, BearerToken, ClientIp,
    ConcurrencyLimitLayer, FailureLimitLayer, FixedVerifier, PartitionKey, Principal, Quota,
    RateLimitLayer, Rejection, RequestHead, RequireScopeLayer, TokenVerifier,
};

use crate::every_refusal::{self, CANARY};
use crate::recording::{Buffer, Recording};
use crate::support::{Answer, Probe, TestBody, Trail, send, with_token};

/// What must not be found in any output: the canary as it is and in the usual codes, and whatever a
/// request has for credentials, whole and in parts.
struct Marks(BTreeSet<String>);

impl Marks {
    fn new() -> Self {
        let bytes = format!("{:?}", CANARY.as_bytes());
        let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
        Self(BTreeSet::from([
            CANARY.to_owned(),
            bytes.trim_matches(['[', ']']).to_owned(),
            hex,
            URL_SAFE_NO_PAD.encode(CANARY),
            STANDARD.encode(CANARY),
        ]))
    }

    fn of_request<B>(request: &Request<B>) -> Self {
        let mut marks = Self::new();
        for value in request.headers().get_all("authorization") {
            marks.add(value.to_str().unwrap());
        }
        marks
    }

    /// A text, its words and their parts, but for what is too short to tell anything.
    fn add(&mut self, text: &str) {
        let parts = text.split([' ', '.', '"']).chain(text.split(' ')).chain([text]);
        self.0.extend(parts.filter(|part| part.len() > 8).map(str::to_owned));
    }

    fn are_absent_from(&self, text: &str, place: &str) {
        for mark in &self.0 {
            assert!(!text.contains(mark.as_str()), "attack 38: {mark:?} in {place}: {text}");
        }
    }
}

/// A value as its `Debug` shows it, in both forms.
fn shown(value: &impl Debug) -> String {
    format!("{value:?} {value:#?}")
}

/// Everything that an answer says.
fn said(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let rejection = answer.extensions.get::<Rejection>();
    format!("{answer:?} {:?} {body} {rejection:#?}", answer.headers)
}

/// An error, and all that it says of its causes.
fn told(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    if let Some(source) = error.source() {
        text.push_str(&told(source));
    }
    text
}

#[tokio::test]
async fn no_refusal_tells_what_it_was_sent() {
    let issuer = every_refusal::issuer();
    for content_type in [None, Some("application/grpc"), Some("application/grpc-web")] {
        for mut refusal in every_refusal::all(&issuer) {
            if let Some(content_type) = content_type {
                let value = HeaderValue::from_static(content_type);
                refusal.request.headers_mut().insert("content-type", value);
            }
            let marks = Marks::of_request(&refusal.request);
            let (reason, lines, trail) = (refusal.reason, Buffer::default(), Trail::default());
            let recording = Recording::start();
            let (json, kept) = (JsonLinesSink::new(lines.clone()), trail.clone());
            let sink = move |event: AuditEvent| {
                kept.accept(event.clone());
                json.accept(event.clone());
                TracingSink.accept(event);
            };
            let answer = send(&every_refusal::api(&issuer, sink), refusal.request).await;

            let log = recording.text();
            assert!(log.contains(reason), "the log of {reason} was captured: {log}");
            assert!(lines.text().contains(reason), "its line was captured");
            marks.are_absent_from(&log, "the log");
            marks.are_absent_from(&lines.text(), "the audit trail");
            marks.are_absent_from(&shown(&trail.event()), "the event");
            marks.are_absent_from(&said(&answer), "the answer");
        }
    }
}

#[tokio::test]
async fn no_good_request_leaves_its_token_behind() {
    let issuer = every_refusal::issuer();
    let request = every_refusal::request("/", Some(&every_refusal::token(&issuer).sign()));
    let (marks, lines) = (Marks::of_request(&request), Buffer::default());
    let recording = Recording::start();
    let api = every_refusal::api(&issuer, JsonLinesSink::new(lines.clone()));
    let answer = send(&api, request).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"welcome"[..]));
    assert!(recording.text().contains("user-1"), "the log was captured");
    marks.are_absent_from(&recording.text(), "the log");
    marks.are_absent_from(&lines.text(), "the audit trail");
    marks.are_absent_from(&said(&answer), "the answer");
}

#[tokio::test]
async fn a_handler_that_logs_its_headers_does_not_log_the_token() {
    let issuer = every_refusal::issuer();
    let token = every_refusal::token(&issuer).sign();
    let seen = Arc::new(Mutex::new(String::new()));
    let show = seen.clone();
    let service = AuthenticateLayer::new(issuer.verifier()).layer(Probe::default().map_request(
        move |request: Request<TestBody>| {
            *show.lock().unwrap() = shown(&request);
            request
        },
    ));
    let request = with_token(&token);
    assert!(format!("{request:?}").contains(&token), "before the layer it shows");
    assert_eq!(send(&service, request).await.status, 200);
    let seen = seen.lock().unwrap();
    assert!(seen.contains("\"authorization\": Sensitive"), "AUDIT-21: {seen}");
    let mut marks = Marks::new();
    marks.add(&token);
    marks.are_absent_from(&seen, "the headers of the handler's request");
}

#[tokio::test]
async fn claims_that_do_not_fit_a_handler_are_not_quoted() {
    #[derive(Deserialize)]
    struct Strict {
        card: u32,
    }
    async fn handler(Claims(claims): Claims<Strict>) -> String {
        claims.card.to_string()
    }
    let issuer = every_refusal::issuer();
    let recording = Recording::start();
    let router = Router::new().route("/", get(handler));
    let service = AuthenticateLayer::new(issuer.verifier()).layer(router);
    let token = every_refusal::token(&issuer).sign();
    let answer = send(&service, with_token(&token)).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (403, "forbidden"));
    let log = recording.text();
    assert!(log.contains("do not fit"), "the log was captured: {log}");
    Marks::new().are_absent_from(&log, "the log");
    Marks::new().are_absent_from(&said(&answer), "the answer");
}

#[test]
fn errors_of_verifiers_do_not_quote_the_token() {
    let issuer = every_refusal::issuer();
    let verifier = issuer.verifier();
    let mut kinds = BTreeSet::new();
    for refusal in every_refusal::all(&issuer) {
        let request = &refusal.request;
        let Ok(Some(token)) = BearerToken::find(request.headers(), request.uri()) else {
            continue;
        };
        let question = VerifyRequest::new(token, SystemTime::now());
        let marks = Marks::of_request(request);
        marks.are_absent_from(&shown(&question), "the question");
        if let Err(error) = verifier.try_verify(&question).unwrap() {
            kinds.insert(error.kind().as_str());
            marks.are_absent_from(&told(&error), "the error");
        }
        let error = FixedVerifier::new().try_verify(&question).unwrap().unwrap_err();
        marks.are_absent_from(&told(&error), "the error");
    }
    assert_eq!(kinds.len(), 12, "most kinds of error were seen: {kinds:?}");
}

#[test]
fn errors_of_keys_do_not_quote_the_secret() {
    let recording = Recording::start();
    let encoded = URL_SAFE_NO_PAD.encode(CANARY);
    let short = VerifyingKey::hmac(Algorithm::HS256, CANARY.as_bytes());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n");
    let mut errors = vec![
        short.unwrap_err(),
        VerifyingKey::hmac(Algorithm::HS256, pem.as_bytes()).unwrap_err(),
        VerifyingKey::from_pem(Algorithm::ES256, pem.as_bytes()).unwrap_err(),
        VerifyingKey::from_pem(Algorithm::ES256, CANARY.as_bytes()).unwrap_err(),
    ];
    let public = json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" });
    let texts = [
        CANARY.to_owned(),
        format!("\"{CANARY}\""),
        format!("{{\"kty\":\"oct\",\"k\":\"{CANARY}"),
        format!("{{\"kty\":\"oct\",\"k\":\"{CANARY}\",}}"),
        format!("{{\"kty\":\"oct\",\"k\":\"{CANARY}\",\"k\":\"{CANARY}\"}}"),
        json!({ "kty": "oct", "alg": "HS256", "k": encoded }).to_string(),
        json!({ "kty": "oct", "alg": "RS256", "k": encoded }).to_string(),
        json!({ "kty": "oct", "alg": CANARY, "k": encoded }).to_string(),
        json!({ "kty": "oct", "alg": "HS256", "k": format!("{CANARY} !") }).to_string(),
        json!({ "kty": "oct", "alg": "HS256", "k": [CANARY] }).to_string(),
        json!({ "kty": "oct", "alg": "HS256", "k": { "secret": CANARY } }).to_string(),
        json!({ "kty": "oct", "alg": "HS256", "secret": CANARY }).to_string(),
        json!({ "kty": "oct", "k": encoded, "key_ops": [CANARY] }).to_string(),
        json!({ "kty": "oct", "k": encoded, "use": CANARY }).to_string(),
        json!({ "kty": "oct", "alg": "HS256", "k": encoded, "kid": [CANARY] }).to_string(),
        json!({ "kty": CANARY, "k": encoded }).to_string(),
        json!({ "kty": "RSA", "n": CANARY, "e": "AQAB" }).to_string(),
        json!({ "kty": "RSA", "n": [CANARY], "e": CANARY }).to_string(),
        json!({ "kty": "EC", "crv": CANARY, "x": CANARY, "y": CANARY }).to_string(),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": CANARY }).to_string(),
        json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": CANARY }).to_string(),
    ];
    for text in texts {
        errors.push(VerifyingKey::from_jwk(&text).unwrap_err());
        let set = format!("{{\"keys\":[{text},{public}]}}");
        errors.push(KeySet::from_jwks(&set).unwrap_err());
    }
    for error in errors {
        Marks::new().are_absent_from(&told(&error), "the error of a key");
    }
    let log = recording.text();
    assert!(log.contains("a key of the set is not used"), "the log was captured: {log}");
    Marks::new().are_absent_from(&log, "the log");
}

/// A secret of canaries, long enough for HS256.
fn secret() -> Vec<u8> {
    CANARY.repeat(3).into_bytes()
}

#[test]
fn nothing_that_holds_a_secret_shows_it() {
    let key = || VerifyingKey::hmac(Algorithm::HS256, &secret()).unwrap();
    let encoded = URL_SAFE_NO_PAD.encode(secret());
    let jwk = json!({ "kty": "oct", "alg": "HS256", "k": encoded }).to_string();
    let builder = || {
        let builder = JwtVerifier::builder().issuer("https://issuer.example");
        builder.audience("https://api.example").with_key(key())
    };
    let principal_builder = || {
        Principal::builder("https://issuer.example", "user-1")
            .claims(format!("{{\"card\":\"{CANARY}\"}}").into_bytes())
            .value(CANARY)
    };
    let principal = principal_builder().build();
    let token = || BearerToken::parse(CANARY).unwrap();
    let fixed = || FixedVerifier::new().with(CANARY, principal.clone()).unwrap();
    let question = VerifyRequest::new(token(), SystemTime::now());
    let error = VerifyError::from(VerifyErrorKind::Expired).with_principal(principal.clone());
    let authenticate = AuthenticateLayer::new(fixed());
    let key_of_caller = PartitionKey::new([CANARY]);
    let take = TakeRequest::new(key_of_caller, Quota::per_minute(1), 1, Duration::ZERO);
    let store = MemoryStore::new();
    let limit = RateLimitLayer::new(store.clone(), Quota::per_minute(1));
    let require = RequireScopeLayer::scope("read");
    let at_once = ConcurrencyLimitLayer::new(1);
    let failures = FailureLimitLayer::new(Quota::per_minute(1), Duration::from_secs(1));
    let failures = failures.with_client_ip(ClientIp::of_unix_socket());
    let audit = AuditLayer::new(NullSink);
    let issuer = every_refusal::issuer();

    let request = || every_refusal::request("/", Some(CANARY));
    let mut service = audit.layer(authenticate.layer(limit.layer(require.layer(Probe::default()))));
    let mut context = Context::from_waker(Waker::noop());
    assert!(Service::<Request<TestBody>>::poll_ready(&mut service, &mut context).is_ready());
    let future = service.call(request());
    let waiting = |_: VerifyRequest| std::future::pending::<Result<Principal, VerifyError>>();
    let mut patient = AuthenticateLayer::new(waiting).layer(Probe::default());
    assert!(Service::<Request<TestBody>>::poll_ready(&mut patient, &mut context).is_ready());
    let waits = patient.call(request());

    let watched = failures.layer(patient.clone()).call(request());
    let runs = at_once.layer(patient).call(request());

    for (name, text) in [
        ("VerifyingKey", shown(&key().with_kid("1"))),
        ("VerifyingKey", shown(&VerifyingKey::from_jwk(&jwk).unwrap())),
        ("KeySet", shown(&KeySet::from_jwks(&issuer.jwks()).unwrap())),
        ("JwtVerifierBuilder", shown(&builder())),
        ("JwtVerifier", shown(&builder().build().unwrap())),
        ("FixedVerifier", shown(&fixed())),
        ("BearerToken", shown(&token())),
        ("VerifyRequest", shown(&question)),
        ("VerifyError", told(&error)),
        ("Principal", shown(&principal)),
        ("PrincipalBuilder", shown(&principal_builder())),
        ("PartitionKey", shown(&key_of_caller)),
        ("TakeRequest", shown(&take)),
        ("StoreError", told(&StoreError::new("refused"))),
        ("MemoryStore", shown(&store)),
        ("AuthenticateLayer", shown(&authenticate)),
        ("RateLimitLayer", shown(&limit)),
        ("RequireScopeLayer", shown(&require)),
        ("AuditLayer", shown(&audit)),
        ("Audit", shown(&service)),
        ("Authenticate", shown(&authenticate.layer(Probe::default()))),
        ("RateLimit", shown(&limit.layer(Probe::default()))),
        ("RequireScope", shown(&require.layer(Probe::default()))),
        ("AuditFuture", shown(&future)),
        ("AuthenticateFuture", shown(&waits)),
        ("FailureLimitFuture", shown(&watched)),
        ("ConcurrencyLimitFuture", shown(&runs)),
        ("ConcurrencyLimitBody", shown(&ConcurrencyLimitBody::<TestBody>::default())),
        ("ConcurrencyLimitLayer", shown(&at_once)),
        ("ConcurrencyLimit", shown(&at_once.layer(Probe::default()))),
        ("FailureLimitLayer", shown(&failures)),
        ("FailureLimit", shown(&failures.layer(Probe::default()))),
        ("JsonLinesSink", shown(&JsonLinesSink::new(Buffer::default()))),
        ("QueueSink", shown(&QueueSink::new(NullSink, 1).unwrap())),
    ] {
        assert!(text.len() > 4, "{name} shows something");
        Marks::new().are_absent_from(&text, name);
    }
    let shown_issuer = format!("{issuer:?}");
    assert_eq!(shown_issuer, "TestIssuer { name: \"https://issuer.example\", .. }");
}

#[tokio::test]
async fn the_request_that_a_responder_sees_shows_neither_query_nor_headers() {
    let seen = Arc::new(Mutex::new(String::new()));
    let show = seen.clone();
    let layer = AuthenticateLayer::new(FixedVerifier::new()).with_responder(
        move |rejection: &Rejection, request: &RequestHead<'_>| {
            *show.lock().unwrap() = format!("{rejection:?} {}", shown(request));
            Response::new(Bytes::new())
        },
    );
    let request = every_refusal::request("/reports", Some(CANARY));
    send(&layer.layer(Probe::default()), request).await;
    let seen = seen.lock().unwrap();
    assert!(seen.contains("/reports"), "{seen}");
    Marks::new().are_absent_from(&seen, "the request that a responder sees");
}

#[tokio::test]
async fn hostile_text_adds_no_header() {
    const LINE: &str = "x\r\nset-cookie: session=stolen";
    let issuer = every_refusal::issuer();
    let hostile = issuer.token(LINE).client(LINE).scopes(LINE).roles([LINE]).claim("jti", LINE);
    let hostile = hostile.sign();
    let kid = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": LINE });
    let unknown = every_refusal::with_header(&hostile, &kid);
    let harmless = issuer.token("x").sign();
    let names = async |path: &str, token: &str, method: &Method| {
        let mut request = with_token(token);
        *request.uri_mut() = path.parse().unwrap();
        *request.method_mut() = method.clone();
        let answer = send(&every_refusal::api(&issuer, NullSink), request).await;
        for value in answer.headers.values() {
            assert!(!value.as_bytes().iter().any(u8::is_ascii_control), "attack 45: {value:?}");
        }
        let names = answer.headers.keys().map(|name| name.as_str().to_owned());
        (answer.status, names.collect::<BTreeSet<_>>())
    };
    for method in [Method::GET, Method::POST] {
        for path in [
            "/", "/scope", "/role", "/acr", "/spent", "/down", "/crowded", "/full", "/banned",
            "/unwired",
        ] {
            let expected = names(path, &harmless, &method).await;
            assert_eq!(names(path, &hostile, &method).await, expected, "attack 45: {path}");
            let query = format!("{path}?a=%0d%0aset-cookie:%20session=stolen");
            assert_eq!(names(&query, &hostile, &method).await, expected, "attack 45: {path}");
        }
        let expected = names("/", &format!("{harmless}x"), &method).await;
        assert_eq!(names("/", &unknown, &method).await, expected, "attacks 6 and 45");
    }
}

/// The shortest time that the verifier takes for each token, as a part of the shortest for the first.
/// The shortest of many is the one in which the machine did nothing else.
fn relative_times<const N: usize>(verifier: &FixedVerifier, tokens: [&str; N]) -> [f64; N] {
    let now = SystemTime::now();
    let questions = tokens.map(|token| VerifyRequest::new(BearerToken::parse(token).unwrap(), now));
    let mut shortest = [f64::MAX; N];
    for _ in 0..200 {
        for (question, shortest) in questions.iter().zip(&mut shortest) {
            let start = Instant::now();
            drop(black_box(verifier.try_verify(black_box(question))));
            *shortest = start.elapsed().as_secs_f64().min(*shortest);
        }
    }
    shortest.map(|time| time / shortest[0])
}

#[test]
fn the_time_of_a_fixed_verifier_does_not_tell_how_close_a_guess_is() {
    // Long tokens and many of them: the steps that a comparison skipped would be nearly all.
    const LENGTH: usize = 1024;
    let known: Vec<String> = (10..26).map(|n| format!("{n:0>LENGTH$}")).collect();
    let principal = Principal::builder("https://issuer.example", "user-1").build();
    let verifier = known.iter().fold(FixedVerifier::new(), |verifier, token| {
        verifier.with(token, principal.clone()).unwrap()
    });
    let far = "x".repeat(LENGTH);
    let close = format!("{}xx", &known[0][..LENGTH - 2]);
    let tokens = [&*far, &*close, &*known[0], &*known[15]];
    let is_even = |times: &[f64; 4]| times.iter().all(|time| (0.9..1.1).contains(time));
    // What a verifier tells it tells each time; what a busy machine does, it does now and then.
    let seen: Vec<_> = (0..3).map(|_| relative_times(&verifier, tokens)).collect();
    assert!(seen.iter().any(is_even), "attack 37: far, close, first, last take {seen:?}");
}
