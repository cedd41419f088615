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

use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;

#[path = "servers/mod.rs"]
mod servers;

const AUDIENCE: &str = "https://api.example";

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| example("api"));

/// A program, which `cargo test` alone does not build when it is told to run only this test.
fn example(name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--all-features", "--example", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    target.parent().unwrap().join("debug/examples").join(name)
}

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
        let lines = (0..7).map(|_| {
            let mut line = String::new();
            self.stdout.read_line(&mut line).unwrap();
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("token"), "{line}");
            (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
        });
        lines.collect()
    }

    async fn ask(&self, method: &str, path: &str, token: &str) -> Answer {
        self.tell(method, path, token, None).await
    }

    /// The same with a body.
    async fn tell(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request =
            Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Full::default, |body| Full::from(body.to_string()));
        let response = self.client.request(request.body(body).unwrap()).await.unwrap();
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

/// Whoever holds that host would be asked by clients where to get tokens for this API.
#[tokio::test]
async fn an_api_without_a_url_for_its_name_sends_clients_to_nobody_else() {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    let keys = file("nameless.json", &TestIssuer::new("https://i", "reports").jwks());
    let named = ["--jwks", &keys, "--issuer", "https://i", "--audience", "reports"];
    let api = Api::start(&named);
    let answer = api.ask("GET", "/api/v1/me", "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"api\"", "BEARER-44");
    assert_eq!(api.outcome("GET", WELL_KNOWN, "").await.0, 404, "BEARER-42");

    let api = Api::start(&[&named[..], &["--audience", "https://reports.example"]].concat());
    let challenge = api.ask("GET", "/api/v1/me", "").await.headers;
    let challenge = challenge["www-authenticate"].to_str().unwrap();
    let url = format!("resource_metadata=\"https://reports.example{WELL_KNOWN}\"");
    assert!(challenge.contains(&url), "BEARER-44: {challenge}");
    let document = api.ask("GET", WELL_KNOWN, "").await.body;
    assert_eq!(document["resource"], "https://reports.example", "BEARER-42");
}

#[tokio::test]
async fn the_demo_signs_for_the_names_that_it_is_given() {
    let named = ["--issuer", "https://mine.example", "--audience", "reports"];
    let mut api = Api::start(&[&["--demo"][..], &named].concat());
    for (name, token) in api.tokens().iter().filter(|(name, _)| name != "expired") {
        let me = api.ask("GET", "/api/v1/me", token).await;
        assert_eq!(me.body["issuer"], "https://mine.example", "{name}: {}", me.body);
    }
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
async fn policies_shadows_and_what_runs_at_once_are_flags() {
    let trail = file("policies.jsonl", "");
    let mut api = Api::start(&[
        "--demo",
        "--audit",
        &trail,
        "--policy",
        "day=3/86400",
        "--shadow",
        "strict=1/86400",
        "--concurrency",
        "4",
    ]);
    let tokens = api.tokens();
    let viewer = &tokens.iter().find(|(name, _)| name == "viewer").unwrap().1;
    for n in 0..3 {
        let answer = api.ask("GET", "/api/v1/me", viewer).await;
        assert_eq!(answer.status, StatusCode::OK, "a shadow refuses nobody: {n}");
        let values = answer.headers.get_all("ratelimit").iter();
        let shown: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
        let shown = shown.join(", ");
        for limit in [format!("\"day\";r={};", 2 - n), "\"concurrency\";r=3".to_owned()] {
            assert!(shown.contains(&limit), "{limit}: {shown}");
        }
        assert!(!shown.contains("strict"), "{shown}");
    }
    let answer = api.ask("GET", "/api/v1/me", viewer).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.body["violated-policies"], json!(["day"]));
    assert!(api.terminate());
    let events = std::fs::read_to_string(&trail).unwrap();
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shadows: Vec<_> = events.iter().map(|event| event["would_limit"].clone()).collect();
    let told = json!(["strict"]);
    assert_eq!(shadows, [Value::Null, told.clone(), told, Value::Null]);
    assert!(events.iter().all(|event| event["route"] == "/api/v1/me"), "{events:?}");
}

#[tokio::test]
async fn an_address_that_guesses_is_banned() {
    let mut api = Api::start(&["--demo", "--failures", "2/3600:600"]);
    let admin = api.tokens().remove(2).1;
    for _ in 0..2 {
        assert_eq!(api.ask("GET", "/api/v1/me", "garbage").await.status, StatusCode::UNAUTHORIZED);
    }
    let answer = api.ask("GET", "/api/v1/me", &admin).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "attack 46");
    assert_eq!(answer.body["violated-policies"], json!(["failures"]));
    assert_eq!(api.ask("GET", "/health", "").await.status, StatusCode::OK, "asks for nothing");
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
    // A scheme has no case (RFC 3986 §3.1).
    let loud = url.replace("http://", "HTTP://");
    for keys in [&["--jwks", &path][..], &["--jwks", &url], &["--jwks", &loud], &["--discover"]] {
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

/// Issues a token as an admin does: its id, and its text.
async fn issue(api: &Api, admin: &str, wanted: Value) -> (String, String) {
    let answer = api.tell("POST", "/admin/tokens", admin, Some(wanted)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store", "a token is shown once");
    let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

async fn tokens_live_and_end(flags: &[&str]) {
    let mut api = Api::start(&[&["--demo"], flags].concat());
    let tokens = api.tokens();
    let token = |name: &str| &*tokens.iter().find(|(other, _)| other == name).unwrap().1;
    let (admin, editor) = (token("admin"), token("editor"));
    assert_eq!(api.outcome("GET", "/api/v1/reports", token("opaque")).await.0, 200);
    let wanted = json!({
        "subject": "ada", "client": "web", "scopes": ["read:reports"], "roles": ["editor"],
        "expires_in": 600, "metadata": { "plan": "pro" },
    });
    let (id, first) = issue(&api, admin, wanted).await;
    let me = api.ask("GET", "/api/v1/me", &first).await.body;
    let expected = json!({
        "issuer": "https://issuer.example", "subject": "ada", "client": "web",
        "scopes": ["read:reports"], "roles": ["editor"], "token_id": id, "kind": "opaque",
    });
    assert_eq!(me, expected, "OPAQUE-14");
    let path = format!("/admin/tokens/{id}");
    for (method, path) in [
        ("POST", "/admin/tokens"),
        ("GET", "/admin/tokens?subject=ada"),
        ("DELETE", "/admin/tokens?subject=ada"),
        ("POST", &format!("{path}/rotate")),
        ("POST", &format!("{path}/expire")),
        ("POST", &format!("{path}/enable")),
        ("POST", &format!("{path}/disable")),
        ("GET", &path),
        ("DELETE", &path),
    ] {
        let refused = (403, "forbidden".to_owned());
        assert_eq!(api.outcome(method, path, editor).await, refused, "{method} {path}");
        assert_eq!(api.outcome(method, path, &first).await, refused, "{method} {path}");
        assert_eq!(api.outcome(method, path, "").await.0, 401, "{method} {path}");
    }

    let overlap = Some(json!({ "overlap": 600 }));
    let rotated = api.tell("POST", &format!("{path}/rotate"), admin, overlap).await;
    assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.body);
    assert_eq!(rotated.headers["cache-control"], "no-store");
    let (second_id, second) = (rotated.body["id"].as_str(), rotated.body["token"].as_str());
    let (second_id, second) = (second_id.unwrap(), second.unwrap());
    for token in [&*first, second] {
        assert_eq!(api.outcome("GET", "/api/v1/reports", token).await.0, 200);
    }
    let again = api.ask("POST", &format!("{path}/rotate"), admin).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.body);

    let described = api.ask("GET", &path, admin).await.body;
    assert_eq!((&described["id"], &described["metadata"]["plan"]), (&json!(id), &json!("pro")));
    assert!(!described.to_string().contains(&first[3..20]), "OPAQUE-12");
    for (change, is_enabled) in [("disable", false), ("enable", true)] {
        let changed = api.ask("POST", &format!("{path}/{change}"), admin).await;
        assert_eq!(changed.status, StatusCode::NO_CONTENT, "{}", changed.body);
        assert_eq!(api.ask("GET", &path, admin).await.body["enabled"], is_enabled);
        let status = if is_enabled { 200 } else { 401 };
        let outcome = api.outcome("GET", "/api/v1/reports", &first).await;
        assert_eq!(outcome.0, status, "{change}: {outcome:?}");
    }

    let listed = api.ask("GET", "/admin/tokens?subject=ada", admin).await.body;
    let ids: Vec<_> = listed["tokens"].as_array().unwrap().iter().map(|t| &t["id"]).collect();
    assert_eq!(ids, [&*id, second_id]);
    assert_eq!(listed["tokens"][0]["replaced_by"], second_id);
    let listed = listed.to_string();
    assert!(!listed.contains(&first[3..20]) && !listed.contains(&second[3..20]), "OPAQUE-12");
    let page = api.ask("GET", "/admin/tokens?client=web&limit=1", admin).await.body;
    assert_eq!(page["tokens"].as_array().unwrap().len(), 1);
    let next = format!("/admin/tokens?client=web&after={}", page["next"].as_str().unwrap());
    let page = api.ask("GET", &next, admin).await.body;
    assert_eq!((&page["tokens"][0]["id"], &page["next"]), (&json!(second_id), &Value::Null));

    for status in [204, 204] {
        let deleted = api.ask("DELETE", &path, admin).await;
        assert_eq!(deleted.status.as_u16(), status, "{}", deleted.body);
        let revoked = (401, "token_revoked".to_owned());
        assert_eq!(api.outcome("GET", "/api/v1/reports", &first).await, revoked, "OPAQUE-70");
        assert_eq!(api.outcome("GET", "/api/v1/reports", second).await.0, 200);
    }
    let over = Some(json!({ "at": 1_000_000_000 }));
    let second_path = format!("/admin/tokens/{second_id}");
    let ended = api.tell("POST", &format!("{second_path}/expire"), admin, over.clone()).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT, "{}", ended.body);
    let expired = (401, "token_expired".to_owned());
    assert_eq!(api.outcome("GET", "/api/v1/reports", second).await, expired);

    let mut of_grace = Vec::new();
    for _ in 0..2 {
        let wanted = json!({ "subject": "grace", "scopes": ["read:reports"] });
        of_grace.push(issue(&api, admin, wanted).await.1);
    }
    let all = api.ask("DELETE", "/admin/tokens?subject=grace", admin).await;
    assert_eq!((all.status, &all.body["revoked"]), (StatusCode::OK, &json!(2)), "{}", all.body);
    for token in &of_grace {
        let revoked = (401, "token_revoked".to_owned());
        assert_eq!(api.outcome("GET", "/api/v1/reports", token).await, revoked, "OPAQUE-70");
    }

    for (method, path, body, status) in [
        ("GET", "/admin/tokens/unknown", None, 404),
        ("POST", "/admin/tokens/unknown/enable", None, 404),
        ("POST", "/admin/tokens/unknown/disable", None, 404),
        ("POST", "/admin/tokens/unknown/expire", over, 404),
        ("POST", "/admin/tokens/unknown/expire", Some(json!({ "at": u64::MAX })), 400),
        ("POST", "/admin/tokens/unknown/expire", Some(json!({})), 422),
        ("DELETE", "/admin/tokens", None, 400),
        ("GET", "/admin/tokens?subject=%00", None, 400),
        ("DELETE", "/admin/tokens/unknown", None, 404),
        ("POST", "/admin/tokens/unknown/rotate", None, 404),
        ("GET", "/admin/tokens", None, 400),
        ("GET", "/admin/tokens?subject=a&limit=x", None, 400),
        ("GET", "/admin/tokens?subject=a&clien=b", None, 400),
        ("DELETE", "/admin/tokens?client=web&issuer=https://partner.example", None, 400),
        ("DELETE", "/admin/tokens?client=web&limit=1", None, 400),
        ("POST", "/admin/tokens", Some(json!({ "subject": "" })), 400),
        ("POST", "/admin/tokens", Some(json!({ "subject": "a", "scopes": ["a b"] })), 400),
        ("POST", "/admin/tokens", Some(json!({ "subject": "a", "expires_in": 0 })), 400),
        ("POST", "/admin/tokens", Some(json!({ "scopes": [] })), 422),
        ("POST", "/admin/tokens", Some(json!({ "subject": "a", "scope": "x" })), 422),
    ] {
        let answer = api.tell(method, path, admin, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
        assert!(answer.body["message"].is_string(), "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn the_demo_keeps_its_tokens_in_memory() {
    tokens_live_and_end(&[]).await;
}

#[tokio::test]
async fn tokens_outlive_the_process_in_sqlite() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("api-tokens.db");
    for ending in ["", "-wal", "-shm", ".pepper"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    let tokens = format!("sqlite:{}", path.display());
    tokens_live_and_end(&["--tokens", &tokens]).await;
    let mut first = Api::start(&["--demo", "--tokens", &tokens]);
    let opaque = first.tokens().pop().unwrap().1;
    assert_eq!(first.outcome("GET", "/api/v1/reports", &opaque).await.0, 200);
    assert!(first.terminate());
    let second = Api::start(&["--tokens", &tokens]);
    assert_eq!(second.outcome("GET", "/api/v1/reports", &opaque).await.0, 200);
    use std::os::unix::fs::PermissionsExt;
    let pepper = std::fs::metadata(format!("{}.pepper", path.display())).unwrap();
    assert_eq!(pepper.permissions().mode() & 0o777, 0o600, "nobody else reads the pepper");
}

#[tokio::test]
async fn a_new_pepper_leaves_tokens_good_until_the_old_one_is_left_out() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("api-peppers.db");
    for ending in ["", "-wal", "-shm", ".new"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    let tokens = format!("sqlite:{}", path.display());
    let (old, new) = (file("old.pepper", &"o".repeat(32)), format!("{}.new", path.display()));
    let demo = async |flags: &[&str]| {
        let mut api = Api::start(&[&["--demo", "--tokens", &tokens], flags].concat());
        let token = api.tokens().pop().unwrap().1;
        assert_eq!(api.outcome("GET", "/api/v1/reports", &token).await.0, 200);
        assert!(api.terminate());
        token
    };
    let first = demo(&["--pepper-file", &old]).await;
    // It is made, and the older one stays.
    let both = ["--pepper-file", &new, "--pepper-file", &old];
    let second = demo(&both).await;
    let moved = format!("{old}.moved");
    std::fs::rename(&old, &moved).unwrap();
    for (peppers, expected) in [
        (&["--pepper-file", &new, "--pepper-file", &moved][..], [200, 200]),
        (&["--pepper-file", &new], [401, 200]),
    ] {
        let api = Api::start(&[&["--tokens", &*tokens], peppers].concat());
        for (token, status) in [&first, &second].into_iter().zip(expected) {
            let outcome = api.outcome("GET", "/api/v1/reports", token).await;
            assert_eq!(outcome.0, status, "{peppers:?}");
        }
    }
}

#[tokio::test]
async fn programs_that_start_at_once_have_one_pepper() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("api-at-once.db");
    for ending in ["", "-wal", "-shm", ".pepper"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    let tokens = format!("sqlite:{}", path.display());
    let starting = (0..4).map(|_| {
        let tokens = tokens.clone();
        std::thread::spawn(move || Api::start(&["--demo", "--tokens", &tokens]))
    });
    let starting: Vec<_> = starting.collect();
    let mut programs: Vec<_> = starting.into_iter().map(|api| api.join().unwrap()).collect();
    for n in 0..4 {
        let token = programs[n].tokens().pop().unwrap().1;
        for other in &programs {
            let outcome = other.outcome("GET", "/api/v1/reports", &token).await;
            assert_eq!(outcome.0, 200, "the token of program {n}");
        }
    }
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().map(name);
    let left = left.filter(|name| name.to_string_lossy().starts_with("api-at-once.db.pepper"));
    assert_eq!(left.count(), 1, "nothing else is left");
}

#[tokio::test]
async fn tokens_outlive_the_process_in_postgres() {
    let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let (url, pepper) = (server.url("postgres"), file("postgres.pepper", &"p".repeat(32)));
    let flags = ["--tokens", &url, "--pepper-file", &pepper];
    tokens_live_and_end(&flags).await;
    let mut first = Api::start(&[&["--demo"], &flags[..]].concat());
    let opaque = first.tokens().pop().unwrap().1;
    assert!(first.terminate());
    let second = Api::start(&flags);
    assert_eq!(second.outcome("GET", "/api/v1/reports", &opaque).await.0, 200);
}

#[tokio::test]
async fn what_an_admin_revokes_is_refused_at_once() {
    let mut api = Api::start(&["--demo"]);
    let tokens = api.tokens();
    let token = |name: &str| &*tokens.iter().find(|(other, _)| other == name).unwrap().1;
    let revoke = async |name: &str, body: Value| {
        api.tell("POST", "/admin/revocations", token(name), Some(body)).await.status.as_u16()
    };
    let me = async |name: &str| api.outcome("GET", "/api/v1/me", token(name)).await;
    let revoked = (401, "token_revoked".to_owned());
    let good = (200, String::new());
    assert_eq!(revoke("editor", json!({ "token_id": "demo-viewer" })).await, 403);
    assert_eq!(me("viewer").await, good);
    for (body, status) in [
        (json!({}), 400),
        (json!({ "issuer": "https://issuer.example" }), 400),
        (json!({ "token_id": "a", "client": "b" }), 400),
        (json!({ "token": "a" }), 422),
        (json!({ "token_id": 1 }), 422),
    ] {
        assert_eq!(revoke("admin", body.clone()).await, status, "{body}");
    }
    assert_eq!(revoke("admin", json!({ "token_id": "demo-viewer" })).await, 204);
    assert_eq!(me("viewer").await, revoked, "OPAQUE-70");
    let elsewhere = json!({ "subject": "editor", "issuer": "https://partner.example" });
    assert_eq!(revoke("admin", elsewhere).await, 204);
    assert_eq!(me("editor").await, good, "attack 17");
    assert_eq!(revoke("admin", json!({ "subject": "editor" })).await, 204);
    assert_eq!(me("editor").await, revoked, "OPAQUE-70");
    for name in ["partner", "opaque"] {
        assert_eq!(me(name).await, good);
    }
    assert_eq!(revoke("admin", json!({ "client": "demo" })).await, 204);
    for name in ["partner", "internal", "opaque", "admin"] {
        assert_eq!(me(name).await, revoked, "OPAQUE-70: {name}");
    }
}

/// Two programs with the same keys, on what these flags name.
async fn revocations_reach_the_other_program(flags: &[&str]) {
    let issuer = TestIssuer::new("https://i", AUDIENCE);
    let keys = file(&format!("revocable-{}.json", flags[0]), &issuer.jwks());
    let named = ["--issuer", "https://i", "--audience", AUDIENCE, "--jwks", &keys];
    let flags = [&named[..], flags].concat();
    let (one, other) = (Api::start(&flags), Api::start(&flags));
    let admin = issuer.token("root").roles(["admin"]).sign();
    let token = issuer.token("ada").sign();
    assert_eq!(other.outcome("GET", "/api/v1/me", &token).await.0, 200);
    let body = Some(json!({ "subject": "ada" }));
    let answer = one.tell("POST", "/admin/revocations", &admin, body).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
    let revoked = (401, "token_revoked".to_owned());
    assert_eq!(one.outcome("GET", "/api/v1/me", &token).await, revoked, "OPAQUE-70");
    let began = std::time::Instant::now();
    // The address has a quota.
    while other.outcome("GET", "/api/v1/me", &token).await != revoked {
        assert!(began.elapsed().as_secs() < 5, "OPAQUE-73");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One that starts now has heard nothing, and knows.
    let late = Api::start(&flags);
    assert_eq!(late.outcome("GET", "/api/v1/me", &token).await, revoked, "OPAQUE-70");
}

#[tokio::test]
async fn programs_share_revocations_in_redis() {
    let server = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    revocations_reach_the_other_program(&["--redis", &server.url()]).await;
}

#[tokio::test]
async fn programs_share_revocations_in_postgres() {
    let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let pepper = file("revocable.pepper", &"p".repeat(32));
    let url = server.url("postgres");
    revocations_reach_the_other_program(&["--tokens", &url, "--pepper-file", &pepper]).await;
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
    let pepper = file("pepper", &"x".repeat(32));
    let empty = file("empty.json", "{\"keys\":[]}");
    let named = ["--issuer", "https://i", "--audience", "a"];
    for (flags, said) in [
        (&["--nonsense"][..], "--help"),
        (&[], "--demo"),
        (&["--demo", "--limit", "default=0/60"], "more than zero"),
        (&["--demo", "--limit", "nobody=1/60"], "the tiers are"),
        (&["--demo", "--limit", "default=many"], "TIER=N/SECONDS"),
        (&["--demo", "--policy", "day"], "NAME=N/SECONDS"),
        (&["--demo", "--policy", "day=0/60"], "more than zero"),
        (&["--demo", "--policy", "é=1/60"], "printable ASCII"),
        (&["--demo", "--policy", "partner=1/60"], "another quota has this name"),
        (
            &["--demo", "--policy", "day=1/60", "--shadow", "day=1/60"],
            "another quota has this name",
        ),
        (&["--demo", "--failures", "3/60"], "N/SECONDS:BAN"),
        (&["--demo", "--failures", "3/60:0"], "N/SECONDS:BAN"),
        (&["--demo", "--concurrency", "0"], "--concurrency 0"),
        (&["--demo", "--leeway", "301"], "300 seconds"),
        (&["--demo", "--leeway", "soon"], "--leeway soon"),
        (&["--demo", "--listen", "nowhere"], "--listen nowhere"),
        (&["--demo", "--trust-proxy", "10.0.0.1/8"], "is not a network"),
        (&["--demo", "--discover"], "one place"),
        (&["--demo", "--audit", "/nowhere/at/all"], "--audit /nowhere/at/all"),
        (&["--tokens", "mysql://x"], "sqlite:PATH or postgres://"),
        (&["--tokens", "sqlite:/nowhere/at/all.db", "--pepper-file", &pepper], "--tokens sqlite:"),
        (&["--tokens", "sqlite:/nowhere/at/all.db"], "--pepper-file /nowhere/at/all.db.pepper"),
        (&["--tokens", "sqlite:x", "--pepper-file", &short], "at least 32"),
        (
            &["--tokens", "sqlite:x", "--pepper-file", &pepper, "--pepper-file", "older"],
            "--pepper-file older",
        ),
        (
            &["--tokens", "postgres://u:s3cret@127.0.0.1:1/x", "--pepper-file", &pepper],
            "--tokens postgres://…@127.0.0.1:1/x",
        ),
        (&["--demo", "--redis", "redis://u:s3cret@127.0.0.1:1/"], "--redis redis://…@127.0.0.1:1/"),
        (&["--demo", "--redis", "nowhere"], "--redis"),
        (&["--introspect", "https://i/x"], "--introspect-client is missing"),
        // What would be ignored without a word.
        (&["--demo", "--introspect-client", "api:s3cret"], "without --introspect"),
        (&["--demo", "--pepper-file", &pepper], "without --tokens"),
        (&["--tokens", "sqlite:x", "--any-typ"], "--any-typ does nothing without --jwks"),
        (&["--tokens", "sqlite:x", "--leeway", "9"], "--leeway does nothing without --jwks"),
        (&["--tokens", "sqlite:x", "--audience", "a"], "--audience does nothing without --jwks"),
        (&["--demo", "--issuer", "https://i", "--issuer", "https://j"], "--issuer is given twice"),
        (&["--demo", "--demo"], "--demo is given twice"),
        (
            &["--demo", "--limit", "partner=1/60", "--limit", "partner=2/60"],
            "--limit partner is given twice",
        ),
        (&[&named[..], &["--jwks", "ftp://i.example/keys"]].concat(), "must be an https URL"),
        (&["--discover", "--audience", "a"], "--issuer is missing"),
        (&["--discover", "--issuer", "https://i"], "--audience is missing"),
        (&["--discover", "--issuer", "http://i.example", "--audience", "a"], "https"),
        (&[&named[..], &["--jwks", "/nowhere.json"]].concat(), "--jwks /nowhere.json"),
        (&[&named[..], &["--jwks", &empty]].concat(), "no key"),
        (&[&named[..], &["--hs256-secret-file", &short]].concat(), "at least 32"),
    ] {
        let mut program = Command::new(&*PROGRAM);
        program.args(flags).stdin(Stdio::null());
        if !flags.contains(&"--listen") {
            // No address of this machine (RFC 5737), so that what is accepted ends too.
            program.args(["--listen", "192.0.2.1:0"]);
        }
        let Output { status, stdout, stderr } = program.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{flags:?}: {stderr}");
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
        assert!(stdout.is_empty() && !stderr.contains("s3cret"), "{flags:?}");
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
    for (number, api) in apis.iter().enumerate() {
        let outcome = api.outcome("GET", "/api/v1/me", token(number)).await;
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
    for flag in [
        "listen",
        "issuer",
        "jwks",
        "discover",
        "any-typ",
        "tokens",
        "redis",
        "trust-proxy",
        "limit",
        "policy",
        "shadow",
        "failures",
        "concurrency",
        "demo",
    ] {
        assert!(help.contains(&format!("--{flag}")), "{flag}");
    }
}

/// The example `redis_limits` at a server of its own, and at none.
#[tokio::test]
async fn two_nodes_of_the_limits_example_count_together_and_outlive_redis() {
    let program = example("redis_limits");
    let redis = Redis::start();
    let url = redis.url();
    let mut nodes: Vec<_> = (0..2)
        .map(|_| {
            let mut child = Command::new(&program)
                .args(["--listen", "127.0.0.1:0", "--redis", &url])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            let address = line.split_once("http://").unwrap().1.split_once(';').unwrap().0;
            let address = address.parse().unwrap();
            let client = Client::builder(TokioExecutor::new()).build_http();
            Api { child, address, stdout, client }
        })
        .collect();
    for n in 0..5 {
        let answer = nodes[n % 2].ask("GET", "/", "").await;
        assert_eq!(answer.status, StatusCode::OK, "{n}");
        let shown = answer.headers["ratelimit"].to_str().unwrap();
        let expected = format!("\"minute\";r={}", 4 - n);
        assert!(shown.starts_with(&expected), "{n}: {shown}");
        assert!(shown.contains(&format!("\"day\";r={}", 999 - n)), "{n}: {shown}");
    }
    for node in &nodes {
        let status = node.ask("GET", "/", "").await.status;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "attack 44: one quota for both");
    }
    redis.kill();
    let mut statuses = Vec::new();
    while !statuses.contains(&200) {
        assert!(statuses.len() < 1000, "{statuses:?}");
        statuses.push(nodes[0].ask("GET", "/", "").await.status.as_u16());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    nodes.clear();

    let nowhere = "redis://u:s3cret@127.0.0.1:1/";
    let Output { status, stderr, .. } =
        Command::new(program).args(["--redis", nowhere]).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("start redis-server") && !stderr.contains("s3cret"), "{stderr}");
}
