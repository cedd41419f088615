//! The refusal table, row by row, over HTTP and over gRPC, by real servers and real clients.

mod api;
mod challenge;
mod table;

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::{Code, Status};
use tower::Layer;
use tower_gate::rejection::RejectionKind;
use tower_gate::store::memory::MemoryStore;
use tower_gate::{
    AuthenticateLayer, Challenge, ManualClock, Quota, RateLimitLayer, Rejection, RequestHead,
    RequireScopeLayer,
};

use crate::grpc::{WhoAmI, call, connect, serve_grpc};
use crate::refusals::api::{Api, WRONG, verify};
use crate::refusals::challenge::parameters;
use crate::refusals::table::{INVALID_TOKEN, MISSING_TOKEN, RATE_LIMITED, ROWS, Row};
use crate::support::{Answer, Probe, TestBody, send};
use crate::wire::{Frame, http1, http2, http2_frames, serve};

/// What no client may ever read (BEARER-27, BEARER-62).
const SECRETS: &[&str] = &[
    "kid-7",
    "10.0.0.1",
    "unknown",
    "leaky",
    "bad_signature",
    "wrong_audience",
    "Bearer good",
    "several_credentials",
    "store_unavailable",
];

/// The headers that do not depend on when the answer was made.
fn timeless(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(DATE);
    headers
}

type HttpClient = Client<HttpConnector, TestBody>;

fn http_client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn ask(client: &HttpClient, request: Request<TestBody>) -> Answer {
    Answer::read(client.request(request).await.unwrap()).await
}

#[tokio::test]
async fn every_row_over_http() {
    let api = Api::new(|layer| layer);
    let server = serve(api.router.clone()).await;
    let client = http_client();
    for row in ROWS {
        let name = row.name();
        let answer = ask(&client, row.request(server, Method::GET)).await;
        let rejection = api.rejection();
        row.assert_head(&answer, &rejection);
        row.assert_body(&answer, &rejection);
        let shown = format!("{:?} {:?}", answer.headers, answer.body);
        for secret in SECRETS {
            assert!(!shown.contains(secret), "BEARER-27, BEARER-62: {secret} in {shown}");
        }

        let head = ask(&client, row.request(server, Method::HEAD)).await;
        assert_eq!(api.rejection().kind(), row.kind);
        assert_eq!(head.status, answer.status, "BEARER-33: {name}");
        assert_eq!(timeless(&head.headers), timeless(&answer.headers), "BEARER-33: {name}");
        assert!(head.body.is_empty(), "BEARER-33: {name}");
    }
    api.assert_nobody_got_in();
}

/// Servers drop the body of an answer to HEAD; a layer does not count on that.
#[tokio::test]
async fn a_refused_head_request_has_the_headers_of_a_get_and_no_body() {
    let service = AuthenticateLayer::new(verify).layer(Probe::default());
    let request = |method| Request::builder().method(method).body(TestBody::default()).unwrap();
    let get = send(&service, request(Method::GET)).await;
    let head = send(&service, request(Method::HEAD)).await;
    assert_eq!(head.headers, get.headers, "BEARER-33");
    assert_eq!(head.header("content-length"), get.body.len().to_string(), "BEARER-33");
    assert!(head.body.is_empty(), "BEARER-33");
    let kind = |answer: &Answer| answer.extensions.get().map(Rejection::kind);
    assert_eq!(kind(&head), kind(&get), "BEARER-33");
}

#[tokio::test]
async fn every_row_over_grpc() {
    let api = Api::new(|layer| layer);
    let servers = [
        ("axum", serve(api.router.clone()).await),
        ("tonic", serve_grpc(api.router.clone()).await),
    ];
    for (server_name, server) in servers {
        let channel = connect(server).await;
        for row in ROWS {
            let name = format!("{server_name}, {}", row.name());
            let status = call(&channel, row.path, row.credentials).await.expect_err(&name);
            let rejection = api.rejection();
            assert_eq!(rejection.kind(), row.kind, "{name}");
            row.assert_status(&status, &rejection);
            let shown = format!("{status:?}");
            for secret in SECRETS {
                assert!(!shown.contains(secret), "BEARER-27: {secret} in {shown}");
            }

            let from_method = Status::from(rejection);
            assert_eq!(from_method.code(), status.code(), "{name}");
            assert_eq!(from_method.message(), status.message(), "{name}");
            assert_eq!(from_method.details(), status.details(), "{name}");
            let pushback =
                |status: &Status| status.metadata().get("grpc-retry-pushback-ms").cloned();
            assert_eq!(pushback(&from_method), pushback(&status), "{name}");
        }
    }
    api.assert_nobody_got_in();
}

/// The head of a gRPC call.
fn grpc_head<'a>(row: &Row, content_type: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut head = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "api.example"),
        (":path", row.path),
        ("content-type", content_type),
        ("te", "trailers"),
    ];
    head.extend(row.credentials.iter().map(|value| ("authorization", *value)));
    head
}

#[tokio::test]
async fn a_refused_call_is_one_header_block_that_ends_the_stream() {
    let api = Api::new(|layer| layer);
    let server = serve_grpc(api.router.clone()).await;
    for row in ROWS {
        let name = row.name();
        let frames = http2_frames(server, &grpc_head(row, "application/grpc")).await;
        let [frame] = &*frames else { panic!("GRPC-10: {name}: {frames:?}") };
        assert_eq!(frame.kind, Frame::HEADERS, "GRPC-10: {name}");
        let whole = Frame::END_STREAM | Frame::END_HEADERS;
        assert_eq!(frame.flags & whole, whole, "GRPC-10: {name}");

        let mut request = row.request(server, Method::POST);
        let content_type = HeaderValue::from_static("application/grpc+proto");
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        let answer = http2(server, request).await;
        assert_eq!(answer.status, StatusCode::OK, "GRPC-10, GRPC-14: {name}");
        assert_eq!(answer.header("content-type"), "application/grpc", "GRPC-11: {name}");
        let code = (row.code as i32).to_string();
        assert_eq!(answer.header("grpc-status"), code, "GRPC-12: {name}");
        assert!(answer.body.is_empty(), "GRPC-10: {name}");
    }
    api.assert_nobody_got_in();
}

#[tokio::test]
async fn the_largest_header_block_is_within_what_grpc_clients_take() {
    let challenge = Challenge::new(&"\"\\".repeat(128)).unwrap();
    let url = format!("https://api.example/{}", "r".repeat(1024));
    let challenge = challenge.with_resource_metadata(&url).unwrap();
    let scopes: Vec<_> = (0..50).map(|n| format!("https://api.example/scopes/{n}")).collect();
    let scopes = scopes.iter().map(String::as_str);
    let router = Router::new()
        .route("/test.Api/Open", any(|| async { "in" }))
        .route_layer(RequireScopeLayer::all_scopes(scopes))
        .route_layer(AuthenticateLayer::new(verify).with_challenge(challenge));
    let server = serve_grpc(router).await;
    let row = Row { credentials: &["Bearer good"], ..MISSING_TOKEN };
    let frames = http2_frames(server, &grpc_head(&row, "application/grpc")).await;
    assert_eq!(frames.len(), 1, "GRPC-10: {frames:?}");
    let length = frames[0].payload.len();
    assert!((2048..8192).contains(&length), "GRPC-42: {length} bytes");
}

#[tokio::test]
async fn the_style_is_chosen_by_what_the_request_says_it_is() {
    let api = Api::new(|layer| layer);
    let server = serve(api.router.clone()).await;
    let problem = "application/problem+json";
    for (method, content_type, status, answered_with) in [
        ("POST", "application/grpc", 200, "application/grpc"),
        ("POST", "application/grpc+proto", 200, "application/grpc"),
        ("POST", "application/grpc+json", 200, "application/grpc"),
        ("POST", "Application/GRPC; a=b", 200, "application/grpc"),
        ("POST", "application/grpc-web", 200, "application/grpc-web"),
        ("POST", "application/grpc-web+proto", 200, "application/grpc-web"),
        ("POST", "application/grpc-web-text", 200, "application/grpc-web-text"),
        ("POST", "application/grpc-web-text+proto", 200, "application/grpc-web-text"),
        ("POST", "application/grpcfoo", 401, problem),
        ("POST", "application/grpc-webby", 401, problem),
        ("POST", "application/json", 401, problem),
        ("POST", "application/json, application/grpc", 401, problem),
        ("GET", "application/grpc", 401, problem),
        ("HEAD", "application/grpc", 401, problem),
        ("OPTIONS", "application/grpc", 401, problem),
        ("PUT", "application/grpc-web", 401, problem),
        ("post", "application/grpc", 401, problem),
    ] {
        let why = format!("GRPC-1, GRPC-2, GRPC-3, GRPC-30: {method} {content_type}");
        let first = format!("{method} /test.Api/Open");
        let header = format!("Content-Type: {content_type}");
        let answer = http1(server, &first, &[&header, "Content-Length: 0"]).await;
        assert_eq!(answer.status, status, "{why}");
        assert_eq!(answer.header("content-type"), answered_with, "{why}");
        let code = if status == 200 { "16" } else { "" };
        assert_eq!(answer.header("grpc-status"), code, "{why}");
        let has_body = status != 200 && method != "HEAD";
        assert_eq!(!answer.body.is_empty(), has_body, "{why}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"api\"", "GRPC-17: {why}");
    }
    api.assert_nobody_got_in();
}

#[tokio::test]
async fn credentials_of_a_call_that_cannot_be_read_are_unauthenticated() {
    let api = Api::new(|layer| layer);
    let server = serve_grpc(api.router.clone()).await;
    for values in [&[&b"Bearer t\xf6k"[..]][..], &[b"Bearer good", b"Bearer good"], &[b"Bearer"]] {
        let mut request = MISSING_TOKEN.request(server, Method::POST);
        let content_type = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        for value in values {
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(AUTHORIZATION, value);
        }
        let answer = http2(server, request).await;
        assert_eq!(answer.header("grpc-status"), "16", "GRPC-40, GRPC-41: {values:?}");
        let challenge = parameters(answer.header("www-authenticate"));
        assert_eq!(challenge[1].1, "invalid_request", "GRPC-40, GRPC-41: {values:?}");
    }
    api.assert_nobody_got_in();
}

#[tokio::test]
async fn a_responder_changes_the_page_and_not_the_refusal() {
    /// Tries everything.
    fn hostile(_: &Rejection, request: &RequestHead<'_>) -> Response<Bytes> {
        Response::builder()
            .status(StatusCode::OK)
            .header("www-authenticate", "Basic realm=\"elsewhere\"")
            .header("www-authenticate", "Negotiate")
            .header("retry-after", "0")
            .header("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")
            .header("cache-control", "public, max-age=31536000")
            .header("cache-control", "immutable")
            .header("content-length", "3")
            .header("content-type", "text/html")
            .header("x-page", request.uri.path())
            .extension(Rejection::new(RejectionKind::Forbidden))
            .body(Bytes::from_static(b"<h1>Sorry</h1>"))
            .unwrap()
    }
    let metadata = "https://api.example/.well-known/oauth-protected-resource";
    let challenge = Challenge::new("a\"b\\c").unwrap().with_resource_metadata(metadata).unwrap();
    let api = Api::new(|layer| layer.with_responder(hostile).with_challenge(challenge.clone()));
    let server = serve(api.router.clone()).await;
    let (client, channel) = (http_client(), connect(server).await);
    for row in ROWS {
        let name = row.name();
        let answer = ask(&client, row.request(server, Method::GET)).await;
        let rejection = api.rejection();
        row.assert_head(&answer, &rejection);
        if row.kind == RejectionKind::LayerMissing {
            // No AuthenticateLayer, so no responder either.
            row.assert_body(&answer, &rejection);
        } else {
            assert_eq!(answer.body, "<h1>Sorry</h1>", "BEARER-63: {name}");
            assert_eq!(answer.header("content-type"), "text/html", "BEARER-63: {name}");
            assert_eq!(answer.header("x-page"), row.path, "BEARER-63: {name}");
        }
        if row.challenge.is_some() {
            let challenge = parameters(answer.header("www-authenticate"));
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            assert_eq!(challenge[0], pair("realm", "a\"b\\c"), "BEARER-23: {name}");
            assert_eq!(challenge[1], pair("resource_metadata", metadata), "BEARER-44: {name}");
        }
        let head = ask(&client, row.request(server, Method::HEAD)).await;
        assert_eq!(api.rejection().kind(), row.kind);
        assert_eq!(timeless(&head.headers), timeless(&answer.headers), "BEARER-33: {name}");

        // A call has no page.
        let status = call(&channel, row.path, row.credentials).await.expect_err(&name);
        row.assert_status(&status, &api.rejection());
        assert!(status.metadata().get("x-page").is_none(), "BEARER-63: {name}");
    }
    api.assert_nobody_got_in();
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_reads_the_same() {
    let api = Api::new(|layer| layer);
    let server = serve(api.router.clone()).await;
    let client = http_client();
    let unknown = ask(&client, INVALID_TOKEN.with_token(server, "unknown")).await;
    assert_eq!(api.rejection().reason(), "unknown_token");
    for (n, kind) in WRONG.iter().enumerate() {
        let answer = ask(&client, INVALID_TOKEN.with_token(server, &format!("kind.{n}"))).await;
        assert_eq!(api.rejection().reason(), kind.as_str(), "the operator may know");
        assert_eq!(answer.body, unknown.body, "BEARER-27: {kind:?}");
        assert_eq!(timeless(&answer.headers), timeless(&unknown.headers), "BEARER-27: {kind:?}");
    }
    api.assert_nobody_got_in();
}

#[tokio::test]
async fn uniform_errors_do_not_say_that_a_token_was_ever_good() {
    let api = Api::new(AuthenticateLayer::with_uniform_errors);
    let server = serve(api.router.clone()).await;
    let (client, channel) = (http_client(), connect(server).await);
    let unknown = ask(&client, INVALID_TOKEN.with_token(server, "unknown")).await;
    let unknown_call = call(&channel, INVALID_TOKEN.path, &["Bearer unknown"]).await.unwrap_err();
    api.rejections.lock().unwrap().clear();
    for (token, reason) in [("expired", "expired"), ("early", "not_active"), ("revoked", "revoked")]
    {
        let answer = ask(&client, INVALID_TOKEN.with_token(server, token)).await;
        let rejection = api.rejection();
        assert_eq!(rejection.kind(), RejectionKind::InvalidToken, "{token}");
        assert_eq!(rejection.reason(), reason, "the operator may know");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{token}");
        assert_eq!(answer.error(), "invalid_token", "{token}");
        assert_eq!(answer.body, unknown.body, "{token}");
        assert_eq!(timeless(&answer.headers), timeless(&unknown.headers), "{token}");

        let credentials = format!("Bearer {token}");
        let status = call(&channel, INVALID_TOKEN.path, &[&credentials]).await.unwrap_err();
        assert_eq!(api.rejection().reason(), reason, "the operator may know");
        assert_eq!(status.code(), unknown_call.code(), "{token}");
        assert_eq!(status.message(), unknown_call.message(), "{token}");
        assert_eq!(
            timeless(&status.metadata().clone().into_headers()),
            timeless(&unknown_call.metadata().clone().into_headers()),
            "{token}"
        );
    }
}

#[tokio::test]
async fn an_answer_of_the_handler_keeps_its_own_headers() {
    let api = Api::new(|layer| layer);
    let server = serve(api.router.clone()).await;
    let answer = ask(&http_client(), INVALID_TOKEN.with_token(server, "good")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, "in");
    assert_eq!(answer.header("cache-control"), "max-age=60", "BEARER-70");
    assert!(!answer.headers.contains_key("www-authenticate"));
    assert_eq!(api.reached.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_limited_grpc_client_is_told_how_long_to_wait() {
    let clock = ManualClock::default();
    let limit = RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(6).with_burst(2))
        .with_clock(clock.clone());
    let router = Router::new()
        .route_service("/test.WhoAmI/Ask", WhoAmI)
        .layer(limit)
        .layer(AuthenticateLayer::new(verify));
    let channel = connect(serve_grpc(router).await).await;
    let ask = || call(&channel, "/test.WhoAmI/Ask", &["Bearer good"]);
    for _ in 0..2 {
        assert_eq!(ask().await.unwrap(), "ada");
    }
    clock.advance(Duration::from_millis(2500));
    let row = Row { retry_after: Some(8), pushback: Some("8000"), ..RATE_LIMITED };
    let status = ask().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "GRPC-14");
    row.assert_status(&status, &Rejection::new(RejectionKind::RateLimited));
    clock.advance(Duration::from_secs(8));
    assert_eq!(ask().await.unwrap(), "ada", "RL-6: who waits that long gets in");
}
