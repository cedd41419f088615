//! The reference API from outside: every route and every flag of `examples/api`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_gate::test_util::TestIssuer;

use crate::servers::redis::Redis;

#[path = "servers/mod.rs"]
mod servers;

const AUDIENCE: &str = "https://api.example";

/// The program, which `cargo test` alone does not build when it is told to run only this test.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--all-features", "--example", "api"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    target.parent().unwrap().join("debug/examples/api")
});

/// A running API, which ends with the test.
struct Api {
    child: Child,
    address: SocketAddr,
    stdout: BufReader<ChildStdout>,
    client: Client<HttpConnector, Full<Bytes>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Api {
    fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(&*PROGRAM)
            .args(["--listen", "127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { child, address, stdout, client }
    }

    /// The demo's token of this name.
    fn tokens(&mut self) -> Vec<(String, String)> {
        let lines = (0..6).map(|_| {
            let mut line = String::new();
            self.stdout.read_line(&mut line).unwrap();
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("token"), "{line}");
            (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
        });
        lines.collect()
    }

    async fn ask(&self, method: &str, path: &str, token: &str) -> Answer {
        let mut request =
            Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = self.client.request(request.body(Full::default()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer { status: head.status, headers: head.headers, body }
    }

    /// The status and the word of a refusal.
    async fn outcome(&self, method: &str, path: &str, token: &str) -> (u16, String) {
        let answer = self.ask(method, path, token).await;
        let word = answer.body["error"].as_str().unwrap_or_default().to_owned();
        (answer.status.as_u16(), word)
    }

    /// Stops as a service manager does, and waits.
    fn terminate(&mut self) -> bool {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of this text in the folder that cargo gives to tests.
fn file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_route_asks_for_what_it_says() {
    let mut api = Api::start(&["--demo"]);
    let tokens = api.tokens();
    let token = |name: &str| &*tokens.iter().find(|(other, _)| other == name).unwrap().1;
    let nobody = "";
    let (viewer, editor, admin) = (token("viewer"), token("editor"), token("admin"));
    for (method, path, token, status, error) in [
        ("GET", "/health", nobody, 200, ""),
        ("GET", "/.well-known/oauth-protected-resource", nobody, 200, ""),
        ("GET", "/api/v1/me", nobody, 401, "missing_token"),
        ("GET", "/api/v1/me", token("expired"), 401, "token_expired"),
        ("GET", "/api/v1/me", "garbage", 401, "invalid_token"),
        ("GET", "/api/v1/reports", viewer, 200, ""),
        ("POST", "/api/v1/reports", viewer, 403, "insufficient_scope"),
        ("POST", "/api/v1/reports", editor, 201, ""),
        ("DELETE", "/api/v1/reports/7", editor, 403, "forbidden"),
        ("DELETE", "/api/v1/reports/7", admin, 200, ""),
        ("GET", "/api/v1/payouts", viewer, 403, "insufficient_scope"),
        ("GET", "/api/v1/payouts", editor, 200, ""),
        ("GET", "/nowhere", nobody, 404, ""),
    ] {
        let expected = (status, error.to_owned());
        assert_eq!(api.outcome(method, path, token).await, expected, "{method} {path}");
    }
    let me = api.ask("GET", "/api/v1/me", viewer).await.body;
    let expected = json!({
        "issuer": "https://issuer.example", "subject": "viewer", "client": "demo",
        "scopes": ["read:reports"], "roles": ["viewer"], "token_id": "demo-viewer", "kind": "jwt",
    });
    assert_eq!(me, expected);
    let challenge = api.ask("GET", "/api/v1/me", nobody).await.headers;
    let challenge = challenge["www-authenticate"].to_str().unwrap();
    let url = "https://api.example/.well-known/oauth-protected-resource";
    assert!(challenge.contains(&format!("resource_metadata=\"{url}\"")), "BEARER-44: {challenge}");
    let document = api.ask("GET", "/.well-known/oauth-protected-resource", nobody).await;
    assert_eq!(document.body["resource"], AUDIENCE, "BEARER-42, BEARER-44");
    assert_eq!(document.body["authorization_servers"], json!(["https://issuer.example"]));
    assert_eq!(document.headers["content-type"], "application/json", "BEARER-41");
}

#[tokio::test]
async fn every_tier_has_its_own_quota() {
    let mut api =
        Api::start(&["--demo", "--limit", "default=2/3600", "--limit", "internal=4/3600:3"]);
    let tokens = api.tokens();
    for (name, admitted) in [("partner", 5), ("viewer", 2), ("internal", 3)] {
        let token = &tokens.iter().find(|(other, _)| other == name).unwrap().1;
        for n in 0..=admitted {
            let answer = api.ask("GET", "/api/v1/me", token).await;
            let expected =
                if n < admitted { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
            assert_eq!(answer.status, expected, "{name} {n}");
            assert_eq!(answer.headers.contains_key("retry-after"), n == admitted, "{name} {n}");
        }
    }
    let admin = &tokens.iter().find(|(name, _)| name == "admin").unwrap().1;
    for _ in 0..20 {
        assert_eq!(api.ask("GET", "/api/v1/me", admin).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_address_has_a_quota_before_anybody_is_authenticated() {
    let mut api = Api::start(&["--demo", "--limit", "address=3/3600"]);
    let admin = api.tokens().remove(2).1;
    for _ in 0..3 {
        assert_eq!(api.ask("GET", "/api/v1/me", "garbage").await.status, StatusCode::UNAUTHORIZED);
    }
    let answer = api.ask("GET", "/api/v1/me", &admin).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn keys_come_from_a_file_an_endpoint_or_discovery() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("http://{}", listener.local_addr().unwrap());
    let issuer = TestIssuer::new(&name, AUDIENCE);
    let jwks = issuer.jwks();
    let metadata = json!({ "issuer": name, "jwks_uri": format!("{name}/keys") }).to_string();
    let served = jwks.clone();
    let router = Router::new()
        .route("/keys", get(async move || served))
        .route("/.well-known/openid-configuration", get(async move || metadata));
    tokio::spawn(async { axum::serve(listener, router).await });

    let path = file("keys.json", &jwks);
    let url = format!("{name}/keys");
    let token = issuer.token("ada").sign();
    let stranger = TestIssuer::new(&name, AUDIENCE).token("ada").sign();
    for keys in [&["--jwks", &path][..], &["--jwks", &url], &["--discover"]] {
        let flags = [keys, &["--issuer", &name, "--audience", AUDIENCE]].concat();
        let api = Api::start(&flags);
        assert_eq!(api.outcome("GET", "/api/v1/me", &token).await.0, 200, "{keys:?}");
        assert_eq!(api.outcome("GET", "/api/v1/me", &stranger).await.0, 401, "{keys:?}");
    }
}

#[tokio::test]
async fn tokens_that_say_nothing_are_asked_about() {
    async fn introspect(headers: HeaderMap, form: String) -> Json<Value> {
        // `api:s3cret`, as client_secret_basic has it.
        assert_eq!(headers["authorization"], "Basic YXBpOnMzY3JldA==", "OPAQUE-21");
        let active = form.contains("token=opaque-good");
        Json(json!({
            "active": active, "sub": "ada", "aud": AUDIENCE, "client_id": "web",
            "scope": "read:reports", "exp": std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 60,
        }))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/introspect", listener.local_addr().unwrap());
    let router = Router::new().route("/introspect", post(introspect));
    tokio::spawn(async { axum::serve(listener, router).await });
    let flags = ["--introspect", &url, "--introspect-client", "api:s3cret"];
    let named = ["--issuer", "https://i", "--audience", AUDIENCE];
    let api = Api::start(&[&flags[..], &named].concat());
    let me = api.ask("GET", "/api/v1/me", "opaque-good").await;
    assert_eq!((me.status.as_u16(), &me.body["kind"]), (200, &json!("opaque")), "{}", me.body);
    assert_eq!(api.outcome("GET", "/api/v1/reports", "opaque-good").await.0, 200);
    let refused = (401, "invalid_token".to_owned());
    assert_eq!(api.outcome("GET", "/api/v1/me", "opaque-bad").await, refused);
    assert_eq!(api.outcome("GET", "/api/v1/me", "a.b.c").await, refused, "OPAQUE-5");
}

#[tokio::test]
async fn a_secret_plain_tokens_and_a_leeway() {
    let secret = "0123456789abcdef0123456789abcdef";
    let path = file("secret", &format!("{secret}\n"));
    let flags = [
        "--hs256-secret-file",
        &path,
        "--issuer",
        "https://i",
        "--audience",
        "other",
        "--audience",
        AUDIENCE,
    ];
    let token = |typ: &str, age: u64| {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let header = json!({ "alg": "HS256", "typ": typ });
        let claims = json!({
            "iss": "https://i", "aud": AUDIENCE, "sub": "ada", "client_id": "c", "jti": "1",
            "iat": now - age - 60, "exp": now - age,
        });
        let parts = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = parts.join(".");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let strict = Api::start(&flags);
    let lenient = Api::start(&[&flags[..], &["--any-typ", "--leeway", "300"]].concat());
    for (typ, age, status_strict, status_lenient) in [
        ("at+jwt", 0, 200, 200),
        ("JWT", 0, 401, 200),
        ("at+jwt", 120, 401, 200),
        ("at+jwt", 400, 401, 401),
    ] {
        let token = token(typ, age);
        let statuses = [
            strict.outcome("GET", "/api/v1/me", &token).await.0,
            lenient.outcome("GET", "/api/v1/me", &token).await.0,
        ];
        assert_eq!(statuses, [status_strict, status_lenient], "{typ}, {age} seconds over");
    }
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_writes_the_trail_down() {
    let path = file("audit.jsonl", "");
    let mut api = Api::start(&["--demo", "--audit", &path]);
    let viewer = api.tokens().remove(0).1;
    for token in ["", "garbage", &viewer] {
        api.ask("GET", "/api/v1/me", token).await;
    }
    assert!(api.terminate(), "a stop is no failure");
    let trail = std::fs::read_to_string(&path).unwrap();
    let events: Vec<Value> =
        trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let facts: Vec<_> = events.iter().map(|event| [&event["outcome"], &event["subject"]]).collect();
    let expected = json!([["refused", null], ["refused", null], ["allowed", "viewer"]]);
    assert_eq!(json!(facts), expected);
    assert!(events.iter().all(|event| event["address"] == "127.0.0.1"), "{trail}");
    assert!(!trail.contains(&viewer), "no token is written down");
}

#[test]
fn a_wrong_flag_is_explained_in_one_line() {
    let short = file("short", "too short");
    let empty = file("empty.json", "{\"keys\":[]}");
    let named = ["--issuer", "https://i", "--audience", "a"];
    for (flags, said) in [
        (&["--nonsense"][..], "--help"),
        (&[], "--demo"),
        (&["--demo", "--limit", "default=0/60"], "more than zero"),
        (&["--demo", "--limit", "nobody=1/60"], "the tiers are"),
        (&["--demo", "--limit", "default=many"], "TIER=N/SECONDS"),
        (&["--demo", "--leeway", "301"], "300 seconds"),
        (&["--demo", "--leeway", "soon"], "--leeway soon"),
        (&["--demo", "--listen", "nowhere"], "--listen nowhere"),
        (&["--demo", "--trust-proxy", "10.0.0.1/8"], "is not a network"),
        (&["--demo", "--discover"], "one place"),
        (&["--demo", "--audit", "/nowhere/at/all"], "--audit /nowhere/at/all"),
        (&["--tokens", "sqlite:x"], "feature sqlite"),
        (&["--demo", "--redis", "nowhere"], "--redis"),
        (&["--demo", "--redis", "redis://:word@127.0.0.1:1/"], "--redis"),
        (&["--introspect", "https://i/x"], "--introspect-client is missing"),
        (&["--discover", "--audience", "a"], "--issuer is missing"),
        (&["--discover", "--issuer", "https://i"], "--audience is missing"),
        (&["--discover", "--issuer", "http://i.example", "--audience", "a"], "https"),
        (&[&named[..], &["--jwks", "/nowhere.json"]].concat(), "--jwks /nowhere.json"),
        (&[&named[..], &["--jwks", &empty]].concat(), "no key"),
        (&[&named[..], &["--hs256-secret-file", &short]].concat(), "at least 32"),
    ] {
        let Output { status, stdout, stderr } =
            Command::new(&*PROGRAM).args(flags).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{flags:?}: {stderr}");
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
        assert!(!stderr.contains("word@"), "a password: {stderr}");
        assert!(stdout.is_empty(), "{flags:?}");
    }
}

#[tokio::test]
async fn two_apis_on_one_redis_share_their_limits_and_outlive_it() {
    let redis = Redis::start();
    let url = redis.url();
    let flags = ["--demo", "--redis", &url, "--limit", "default=5/36000"];
    let mut apis = [Api::start(&flags), Api::start(&flags)];
    // Each demo makes its own keys, for the same principals.
    let tokens = apis.each_mut().map(|api| api.tokens());
    let token = |api: usize| {
        let named = tokens[api].iter().find(|(name, _)| name == "viewer");
        &named.unwrap_or_else(|| panic!("{:?}", tokens[api])).1
    };
    for turn in 0..5 {
        let answer = apis[turn % 2].ask("GET", "/api/v1/me", token(turn % 2)).await;
        let left = format!("\"default\";r={};", 4 - turn);
        let shown = answer.headers["ratelimit"].to_str().unwrap().to_owned();
        assert!(answer.status == 200 && shown.contains(&left), "{turn}: {shown}");
    }
    for api in 0..2 {
        let outcome = apis[api].outcome("GET", "/api/v1/me", token(api)).await;
        assert_eq!(outcome, (429, "rate_limited".to_owned()));
    }
    redis.kill();
    let mut statuses = Vec::new();
    while !statuses.contains(&200) {
        assert!(statuses.len() < 1000, "{statuses:?}");
        statuses.push(apis[0].ask("GET", "/api/v1/me", token(0)).await.status.as_u16());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
}

#[test]
fn help_lists_every_flag() {
    let mut child = Command::new(&*PROGRAM).arg("--help").stdout(Stdio::piped()).spawn().unwrap();
    let mut help = String::new();
    child.stdout.take().unwrap().read_to_string(&mut help).unwrap();
    assert!(child.wait().unwrap().success());
    for flag in
        ["listen", "issuer", "jwks", "discover", "any-typ", "trust-proxy", "limit", "redis", "demo"]
    {
        assert!(help.contains(&format!("--{flag}")), "{flag}");
    }
}
