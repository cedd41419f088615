#![no_main]

use std::sync::{LazyLock, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};
use tower_gate::fetch::{FetchError, FetchRequest};
use tower_gate::verifier::introspection::IntrospectionVerifier;
use tower_gate::verifier::{VerifyErrorKind, VerifyRequest};
use tower_gate::{BearerToken, TokenVerifier};
use tower_gate_fuzz::{AUDIENCE, ISSUER, NOW, object, only_what_is_said};

static ANSWER: Mutex<Option<Response<Bytes>>> = Mutex::new(None);

/// Remembers nothing, so that each answer is read.
static VERIFIER: LazyLock<IntrospectionVerifier> = LazyLock::new(|| {
    let fetch = |_: FetchRequest| async {
        ANSWER.lock().unwrap().take().ok_or_else(|| FetchError::new("no second question"))
    };
    IntrospectionVerifier::builder("https://issuer.example/introspect", fetch)
        .issuer(ISSUER)
        .audience(AUDIENCE)
        .with_client("api", "secret")
        .with_max_age(Duration::ZERO)
        .with_max_refused_age(Duration::ZERO)
        .build()
        .unwrap()
});

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());

// The first line is the status and the content type of the answer, the rest its body.
fuzz_target!(|data: &str| {
    let (head, body) = data.split_once('\n').unwrap_or((data, ""));
    let (status, content_type) = head.split_once(' ').unwrap_or(("200", head));
    let Ok(status) = status.parse::<StatusCode>() else {
        return;
    };
    let answer = Response::builder().status(status).header("content-type", content_type);
    let Ok(answer) = answer.body(Bytes::copy_from_slice(body.as_bytes())) else {
        return;
    };
    *ANSWER.lock().unwrap() = Some(answer);

    let token = BearerToken::parse("opaque").unwrap();
    let request = VerifyRequest::new(token, UNIX_EPOCH + Duration::from_secs(NOW));
    let verdict = RUNTIME.block_on(VERIFIER.verify(&request));
    let is_json = content_type.trim().to_ascii_lowercase().starts_with("application/json");
    let is_answer = status == StatusCode::OK && is_json;
    match verdict {
        Ok(principal) => {
            assert!(is_answer, "accepted for {head:?}");
            let said = object(body);
            may_be_accepted(&said);
            only_what_is_said(&said, &principal);
        }
        Err(error) if !is_answer || serde_json::from_str::<Value>(body).is_err() => {
            assert_eq!(error.kind(), VerifyErrorKind::Unavailable, "{data}");
        }
        Err(_) => {}
    }
});

fn may_be_accepted(said: &Map<String, Value>) {
    assert_eq!(said["active"], true);
    assert!(said.get("iss").is_none_or(|issuer| issuer == ISSUER));
    let for_us = |audience: &Value| audience == AUDIENCE;
    let audience = &said["aud"];
    assert!(for_us(audience) || audience.as_array().is_some_and(|all| all.iter().any(for_us)));
    assert!(!said.contains_key("cnf"));
    let token_type = said.get("token_type").map(|of| of.as_str().expect("a string"));
    assert!(token_type.is_none_or(|of| of.eq_ignore_ascii_case("bearer")));

    let time = |name: &str| said.get(name).map(|value| value.as_f64().expect("a number"));
    let (now, leeway) = (NOW as f64, 30.0);
    assert!(time("exp").is_none_or(|expires_at| now < expires_at + leeway), "expired");
    assert!(time("nbf").is_none_or(|not_before| not_before - leeway <= now), "too early");
    assert!(time("iat").is_none_or(|issued_at| issued_at - leeway <= now), "from the future");
}
