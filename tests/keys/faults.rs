//! An issuer that answers badly, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower_gate::fetch::ReqwestFetch;
use tower_gate::verifier::jwks::Jwks;

use crate::gate::{Gate, claims, verifier};
use crate::issuer::{Issuer, JWKS, Reply};
use crate::signer::{Signer, jwks};

/// What must not count as keys, with a name for each.
fn bad_documents(elsewhere: &str, taken: &Arc<AtomicUsize>) -> Vec<(&'static str, Reply)> {
    let good = Signer::new("other");
    let too_many = json!({ "keys": vec![good.jwk(); 65] });
    let secret = json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" });
    vec![
        ("500", Reply::status(500)),
        ("404", Reply::status(404)),
        ("503 with keys", Reply::text(503, "application/json", &jwks(&[&good]).to_string())),
        ("204", Reply::status(204)),
        ("206", Reply::text(206, "application/json", &jwks(&[&good]).to_string())),
        ("a page", Reply::page()),
        ("broken", Reply::broken()),
        ("nothing", Reply::text(200, "application/json", "")),
        ("a byte order mark", Reply::text(200, "application/json", "\u{feff}{\"keys\":[]}")),
        ("an array", Reply::json(&json!([good.jwk()]))),
        ("no member `keys`", Reply::json(&json!({}))),
        ("`keys` an object", Reply::json(&json!({ "keys": {} }))),
        ("no keys", Reply::json(&json!({ "keys": [] }))),
        ("useless keys", Reply::json(&json!({ "keys": [secret] }))),
        ("too many keys", Reply::json(&too_many)),
        ("a redirect to another host", Reply::redirect(elsewhere)),
        ("a redirect to itself", Reply::redirect(JWKS)),
        ("a gibibyte", Reply::huge(taken)),
        ("a byte now and then", Reply::trickle()),
        ("never", Reply::never()),
    ]
}

#[tokio::test]
async fn a_bad_document_never_replaces_a_good_one() {
    let elsewhere = Issuer::with_keys(&jwks(&[&Signer::new("other")])).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let mut cases = JoinSet::new();
    for (what, bad) in bad_documents(&elsewhere.url(JWKS), &taken) {
        cases.spawn(async move {
            let (signer, unknown) = (Signer::new("good"), Signer::new("unknown"));
            let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
            let name = issuer.name();
            let second = Duration::from_secs(1);
            let keys = issuer.jwks().with_refresh(second, second).with_timeout(second * 2);
            let keys = keys.start().unwrap();
            let api = Gate::new(verifier(&name, &keys)).serve().await;
            let token = signer.token(&claims(&name, "user-1"));
            assert_eq!(api.get(&token).await.text, "200 user-1", "{what}");
            issuer.serve(JWKS, bad);
            let deadline = Instant::now() + second * 20;
            while keys.failures() < 2 {
                assert_eq!(api.get(&token).await.text, "200 user-1", "JWT-50, attack 20: {what}");
                assert!(Instant::now() < deadline, "attack 20: {what}: no failure is reported");
                sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(api.get(&token).await.text, "200 user-1", "JWT-50, attack 20: {what}");
            let stranger = unknown.token(&claims(&name, "user-1"));
            api.get(&stranger).await.is_outage(&format!("{what}: it may have that key"));
        });
    }
    cases.join_all().await;
    assert_eq!(elsewhere.asked(), [] as [&str; 0], "attack 20: no redirect is followed");
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken < 64 << 20, "JWT-65: {taken} bytes of a gibibyte were taken");
}

#[tokio::test]
async fn without_keys_an_api_says_503_until_they_come() {
    let elsewhere = Issuer::start().await;
    let mut cases = JoinSet::new();
    for (what, bad) in bad_documents(&elsewhere.url(JWKS), &Arc::default()) {
        cases.spawn(async move {
            let signer = Signer::new("good");
            let issuer = Issuer::start().await;
            issuer.serve(JWKS, bad);
            let name = issuer.name();
            let keys = issuer.jwks().with_timeout(Duration::from_secs(1)).start().unwrap();
            let api = Gate::new(verifier(&name, &keys)).serve().await;
            let token = signer.token(&claims(&name, "user-1"));
            api.get(&token).await.is_outage(&format!("JWT-64, JWT-74, attack 26: {what}"));
            assert!(keys.ready().await.is_err(), "{what}");
            issuer.serve(JWKS, Reply::json(&jwks(&[&signer])));
            api.get_until(&token, "200 user-1").await;
            assert_eq!(keys.failures(), 0, "{what}");
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn an_api_starts_before_its_issuer() {
    let signer = Signer::new("a");
    let address = Issuer::nobody().await;
    let name = format!("http://{address}");
    let fetch = ReqwestFetch::new().unwrap();
    let keys = Jwks::at(&format!("{name}{JWKS}"), fetch).unwrap().start().unwrap();
    let api = Gate::new(verifier(&name, &keys)).serve().await;
    let token = signer.token(&claims(&name, "user-1"));
    for _ in 0..10 {
        api.get(&token).await.is_outage("JWT-74: the port is closed");
    }
    let error = keys.ready().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("refused"), "the operator learns why: {cause}");
    assert!(!cause.contains(JWKS), "and no address, which may hold a secret: {cause}");

    let issuer = Issuer::start_at(address).await;
    issuer.serve(JWKS, Reply::json(&jwks(&[&signer])));
    api.get_until(&token, "200 user-1").await;
}

#[tokio::test]
async fn an_issuer_that_is_slow_holds_a_request_up_for_a_bounded_time() {
    for slow in [Reply::never(), Reply::trickle()] {
        let issuer = Issuer::start().await;
        issuer.serve(JWKS, slow);
        let keys = issuer.jwks().with_timeout(Duration::from_millis(300)).start().unwrap();
        let gate = Gate::new(verifier(&issuer.name(), &keys));
        let token = Signer::new("a").token(&claims(&issuer.name(), "user-1"));
        let answer = timeout(Duration::from_secs(5), gate.get(&token)).await;
        answer.expect("JWT-65: a bounded time").is_outage("JWT-65, JWT-72");
    }
}

/// The client's own times hold where a fetcher is used by something that sets none.
#[tokio::test]
async fn the_ready_client_gives_up_by_itself() {
    use tower_gate::fetch::{Fetch, FetchRequest};

    let issuer = Issuer::start().await;
    issuer.serve(JWKS, Reply::trickle());
    let request = http::Request::get(issuer.url(JWKS)).body(bytes::Bytes::new()).unwrap();
    let fetch = ReqwestFetch::new().unwrap();
    let began = Instant::now();
    let answer = timeout(Duration::from_secs(20), fetch.fetch(FetchRequest::new(request, 4096)));
    assert!(answer.await.expect("JWT-65: a total time").is_err(), "JWT-65");
    assert!(began.elapsed() >= Duration::from_secs(4), "JWT-65: five seconds for everything");
}

/// A program in an environment with a proxy: the next test runs it.
#[tokio::test]
#[ignore = "part of the next test"]
async fn a_program_behind_a_proxy() {
    use tower_gate::fetch::{Fetch, FetchRequest};

    let url = std::env::var("ISSUER_URL").unwrap();
    let request = http::Request::get(url).body(bytes::Bytes::new()).unwrap();
    let answer = ReqwestFetch::new().unwrap().fetch(FetchRequest::new(request, 4096)).await;
    assert_eq!(answer.unwrap().status(), 200);
}

/// It would read the secrets of what has no TLS, and answer in the issuer's place.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_this_machine_goes_to_no_proxy() {
    let issuer = Issuer::with_keys(&jwks(&[&Signer::new("a")])).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", nobody.local_addr().unwrap());
    let mut program = std::process::Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "faults::a_program_behind_a_proxy", "--ignored"]);
    program.env_remove("NO_PROXY").env_remove("no_proxy").env("ISSUER_URL", issuer.url(JWKS));
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        program.env(name, &proxy);
    }
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "OPAQUE-22: {printed}");
}
