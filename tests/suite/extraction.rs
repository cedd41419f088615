//! Where a token is found in a request, and what the inner service still sees of the request.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tower::{Layer, service_fn};
use tower_gate::verifier::{VerifyError, VerifyRequest};
use tower_gate::{AuthenticateLayer, FixedVerifier, Principal, TokenVerifier};

use crate::support::{Answer, Probe, TestBody, anonymous, send, with_token};
use crate::wire::{Frame, http1, http2, http2_frames, serve};

/// Takes every token for good, and remembers which there were: what is refused before it is asked
/// was refused for its form.
#[derive(Clone, Default)]
struct Credulous(Arc<Mutex<Vec<String>>>);

impl Credulous {
    /// The tokens since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl TokenVerifier for Credulous {
    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self.0.lock().unwrap().push(request.token.as_str().to_owned());
        Ok(ada())
    }
}

fn ada() -> Principal {
    Principal::builder("https://issuer.example", "ada").build()
}

/// Knows the token `good` alone.
fn knows_good() -> FixedVerifier {
    FixedVerifier::new().with("good", ada()).unwrap()
}

/// A GET with these values of `Authorization`, which need not be text.
fn with_values<V: AsRef<[u8]>>(target: &str, values: &[V]) -> Request<TestBody> {
    let mut request = Request::builder().uri(target).body(TestBody::default()).unwrap();
    for value in values {
        let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
        request.headers_mut().append(AUTHORIZATION, value);
    }
    request
}

/// Refused with this status, this word in the body, and this word in the challenge.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, error: &str, challenge: Option<&str>, why: &str) {
    assert_eq!(answer.status, status, "{why}");
    assert_eq!(answer.error(), error, "{why}");
    let expected = match challenge {
        None => r#"Bearer realm="api""#.to_owned(),
        Some(word) => {
            let message = answer.json()["message"].as_str().unwrap().to_owned();
            format!(r#"Bearer realm="api", error="{word}", error_description="{message}""#)
        }
    };
    assert_eq!(answer.header("www-authenticate"), expected, "{why}");
}

const MISSING: (u16, &str, Option<&str>) = (401, "missing_token", None);
const MALFORMED: (u16, &str, Option<&str>) = (400, "invalid_request", Some("invalid_request"));
const INVALID: (u16, &str, Option<&str>) = (401, "invalid_token", Some("invalid_token"));

#[tokio::test]
async fn a_bearer_token_reaches_the_verifier_as_it_was_sent() {
    let verifier = Credulous::default();
    let service = AuthenticateLayer::new(verifier.clone()).layer(Probe::default());
    for (value, token, why) in [
        ("Bearer aB1", "aB1", "BEARER-1"),
        ("bearer aB1", "aB1", "BEARER-2"),
        ("BEARER aB1", "aB1", "BEARER-2"),
        ("bEaReR aB1", "aB1", "BEARER-2"),
        ("Bearer  aB1", "aB1", "BEARER-3"),
        ("Bearer az.AZ-09_~+/==", "az.AZ-09_~+/==", "BEARER-4"),
        ("Bearer -", "-", "BEARER-4"),
        (" \t Bearer aB1 \t ", "aB1", "BEARER-6"),
    ] {
        let answer = send(&service, with_values("/", &[value])).await;
        assert_eq!(answer.status, StatusCode::OK, "{why}: {value:?}");
        assert_eq!(answer.body, "ada", "{why}: {value:?}");
        assert_eq!(verifier.asked(), [token], "{why}: {value:?}");
    }
}

#[tokio::test]
async fn a_token_with_one_letter_in_another_case_is_another_token() {
    let service = AuthenticateLayer::new(knows_good()).layer(Probe::default());
    assert_eq!(send(&service, with_token("good")).await.status, StatusCode::OK, "BEARER-1");
    let (status, error, challenge) = INVALID;
    for token in ["Good", "gooD", "GOOD", "aaa"] {
        let answer = send(&service, with_token(token)).await;
        assert_refused(&answer, status, error, challenge, &format!("BEARER-2, 5: {token}"));
    }
}

#[tokio::test]
async fn a_request_without_bearer_credentials_has_no_token() {
    let verifier = Credulous::default();
    let layer = AuthenticateLayer::new(verifier.clone());
    let strict = layer.clone().layer(Probe::default());
    let optional = layer.optional().layer(Probe::default());
    let (status, error, challenge) = MISSING;
    for (target, values, why) in [
        ("/", &[][..], "BEARER-20"),
        ("/", &["Bearergood"], "BEARER-3"),
        ("/", &["Bearer-x good"], "BEARER-3"),
        ("/", &["Bear good"], "BEARER-3"),
        ("/", &["Basic Zm9vOmJhcg=="], "BEARER-8"),
        ("/", &["DPoP good"], "BEARER-8"),
        ("/", &["good"], "BEARER-8"),
        ("/", &[""], "BEARER-8"),
        ("/", &["  "], "BEARER-8"),
        ("/r?access_token=good", &[], "BEARER-11"),
        ("/r?access_token=good", &["Basic Zm9vOmJhcg=="], "BEARER-11"),
    ] {
        let why = format!("{why}: {target} {values:?}");
        let answer = send(&strict, with_values(target, values)).await;
        assert_refused(&answer, status, error, challenge, &why);
        let answer = send(&optional, with_values(target, values)).await;
        assert_eq!(answer.status, StatusCode::OK, "BEARER-35, {why}");
        assert_eq!(answer.body, "nobody", "BEARER-35, {why}");
        assert!(verifier.asked().is_empty(), "{why}");
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_refused_also_where_a_token_is_optional() {
    let verifier = Credulous::default();
    let layer = AuthenticateLayer::new(verifier.clone());
    let strict = layer.clone().layer(Probe::default());
    let optional = layer.optional().layer(Probe::default());
    let (status, error, challenge) = MALFORMED;
    for (target, values, why) in [
        ("/", &[&b"Bearer"[..]][..], "BEARER-5"),
        ("/", &[b"Bearer "], "BEARER-5"),
        ("/", &[b"Bearer\tgood"], "BEARER-3"),
        ("/", &[b"Bearer \tgood"], "BEARER-3"),
        ("/", &[b"Bearer good\tgood"], "BEARER-3"),
        ("/", &[b"Bearer ==="], "BEARER-4"),
        ("/", &[b"Bearer a=b"], "BEARER-4"),
        ("/", &[b"Bearer \"x\""], "BEARER-4"),
        ("/", &[b"Bearer a b"], "BEARER-4"),
        ("/", &[b"Bearer a,b"], "BEARER-4"),
        ("/", &[b"Bearer a%20b"], "BEARER-4"),
        ("/", &[b"Bearer a:b"], "BEARER-4"),
        ("/", &["Bearer tök".as_bytes()], "BEARER-4"),
        ("/", &[b"Bearer t\xf6k"], "BEARER-4, GRPC-40"),
        ("/", &[b"Bearer good, Bearer good"], "BEARER-7"),
        ("/", &[b"Bearer good", b"Bearer good"], "BEARER-7"),
        ("/", &[b"Bearer good", b"Bearer evil"], "BEARER-7"),
        ("/", &[b"Basic Zm9vOmJhcg==", b"Bearer good"], "BEARER-7"),
        ("/", &[b"Bearer good", b""], "BEARER-7"),
        ("/", &[b"", b"Bearer good"], "BEARER-7"),
        ("/", &[b"Basic a", b"Basic a"], "BEARER-7"),
        ("/r?access_token=good", &[b"Bearer good"], "BEARER-13"),
        ("/r?x=1&access_token=evil&y", &[b"Bearer good"], "BEARER-13"),
        ("/r?access_token", &[b"Bearer good"], "BEARER-13"),
    ] {
        let values: Vec<_> = values.iter().map(|value| value.to_vec()).collect();
        for (service, mode) in [(&strict, "required"), (&optional, "optional")] {
            let answer = send(service, with_values(target, &values)).await;
            let values: Vec<_> = values.iter().map(|value| value.escape_ascii()).collect();
            let why = format!("{why}, {mode}: {target} {values:?}");
            assert_refused(&answer, status, error, challenge, &why);
        }
        assert!(verifier.asked().is_empty(), "{why}");
    }
}

#[tokio::test]
async fn a_bad_token_is_never_anonymous() {
    let (at_once, later) = (knows_good(), Arc::new(knows_good()));
    let later = move |request: VerifyRequest| {
        let later = later.clone();
        async move { later.verify(&request).await }
    };
    for layer in [AuthenticateLayer::new(at_once), AuthenticateLayer::new(later)] {
        let service = layer.optional().layer(Probe::default());
        assert_eq!(send(&service, anonymous()).await.body, "nobody", "BEARER-35");
        assert_eq!(send(&service, with_token("good")).await.body, "ada", "BEARER-35");
        let (status, error, challenge) = INVALID;
        let answer = send(&service, with_token("evil")).await;
        assert_refused(&answer, status, error, challenge, "BEARER-35");
    }
}

#[tokio::test]
async fn an_outage_is_neither_a_good_nor_an_anonymous_caller() {
    let outage = async |_: VerifyRequest| Err(VerifyError::unavailable("no route to host"));
    let service = AuthenticateLayer::new(outage).optional().layer(Probe::default());
    assert_eq!(send(&service, anonymous()).await.body, "nobody", "nobody has to be asked");
    let answer = send(&service, with_token("good")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "BEARER-35");
    assert_eq!(answer.error(), "temporarily_unavailable", "BEARER-35");
    assert!(!answer.headers.contains_key("www-authenticate"), "the token may be good");
}

#[tokio::test]
async fn a_token_that_is_too_long_reaches_no_verifier() {
    let verifier = Credulous::default();
    let layer = AuthenticateLayer::new(verifier.clone());
    let services = [
        (8192, layer.clone().layer(Probe::default())),
        (16, layer.with_max_token_bytes(16).layer(Probe::default())),
    ];
    let (status, error, challenge) = INVALID;
    for (max, service) in services {
        let answer = send(&service, with_token(&"a".repeat(max))).await;
        assert_eq!(answer.status, StatusCode::OK, "BEARER-15: {max}");
        assert_eq!(verifier.asked().len(), 1, "BEARER-15: {max}");
        for text in ["a".repeat(max + 1), ".".repeat(1 << 20), "a.".repeat(1 << 19)] {
            let answer = send(&service, with_token(&text)).await;
            assert_refused(&answer, status, error, challenge, "BEARER-15, attack 11");
            assert!(answer.body.len() < 1024, "BEARER-15: the token is not echoed");
            assert!(verifier.asked().is_empty(), "BEARER-15, attack 11");
        }
    }
}

#[tokio::test]
async fn a_megabyte_of_dots_is_turned_away_by_a_server() {
    let app = Router::new().route("/", get("in"));
    let server = serve(app.layer(AuthenticateLayer::new(Credulous::default()))).await;
    let header = format!("Authorization: Bearer {}", ".".repeat(1 << 20));
    let answer = http1(server, "GET /", &[&header]).await;
    assert!(matches!(answer.status.as_u16(), 401 | 431), "attack 11: {}", answer.status);
    let answer = http1(server, "GET /", &["Authorization: Bearer good"]).await;
    assert_eq!(answer.status, StatusCode::OK, "attack 11: the server is still there");
}

/// Answers with the headers that it was sent.
async fn echo(request: Request<TestBody>) -> Result<Response<TestBody>, Infallible> {
    let mut response = Response::new(TestBody::default());
    *response.headers_mut() = request.headers().clone();
    Ok(response)
}

#[tokio::test]
async fn the_header_stays_as_it_came_unless_it_is_to_be_stripped() {
    let layer = || AuthenticateLayer::new(knows_good()).optional();
    let keeps = layer().layer(service_fn(echo));
    let strips = layer().with_token_stripped().layer(service_fn(echo));
    for value in ["Bearer good", "bearer  good", "Basic Zm9vOmJhcg=="] {
        let answer = send(&keeps, with_values("/", &[value])).await;
        assert_eq!(answer.headers[AUTHORIZATION], value, "BEARER-16");
        assert!(answer.headers[AUTHORIZATION].is_sensitive(), "attack 38: {value}");
        let answer = send(&strips, with_values("/", &[value])).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!answer.headers.contains_key(AUTHORIZATION), "BEARER-16: {value}");
    }
}

#[tokio::test]
async fn headers_that_assert_an_identity_are_removed() {
    let defaults = [
        "remote-user",
        "x-auth-request-user",
        "x-authenticated-user",
        "x-forwarded-user",
        "x-remote-user",
        "x-user-id",
    ];
    let request = |token: &str| {
        let mut request = if token.is_empty() { anonymous() } else { with_token(token) };
        for name in defaults {
            for value in ["root", "admin"] {
                request.headers_mut().append(name, HeaderValue::from_static(value));
            }
        }
        request.headers_mut().insert("x-user-agent", HeaderValue::from_static("grpc-web"));
        request
    };
    let layer = || AuthenticateLayer::new(knows_good()).optional();
    let by_default = layer().layer(service_fn(echo));
    for token in ["", "good"] {
        let answer = send(&by_default, request(token)).await;
        assert_eq!(answer.status, StatusCode::OK);
        for name in defaults {
            assert!(!answer.headers.contains_key(name), "attack 31: {name}, token {token:?}");
        }
        assert_eq!(answer.header("x-user-agent"), "grpc-web", "nothing else is removed");
    }
    let chosen = HeaderName::from_static("x-user-agent");
    let by_choice = layer().with_scrubbed_headers([chosen]).layer(service_fn(echo));
    let answer = send(&by_choice, request("good")).await;
    assert!(!answer.headers.contains_key("x-user-agent"), "attack 31");
    assert_eq!(answer.headers.get_all("x-user-id").iter().count(), 2, "the list is replaced");
}

/// A server whose one route says who calls and what the handler sees of `X-User-Id`.
async fn server() -> std::net::SocketAddr {
    let handler = async |principal: Principal, headers: HeaderMap| {
        let header = headers.get("x-user-id").map_or("-", |value| value.to_str().unwrap());
        format!("{} {header}", principal.subject())
    };
    let app = Router::new().route("/", get(handler));
    serve(app.layer(AuthenticateLayer::new(knows_good()))).await
}

#[tokio::test]
async fn credentials_are_read_alike_over_http1_and_http2() {
    const OK: (u16, &str) = (200, "ada -");
    const MALFORMED: (u16, &str) = (400, "invalid_request");
    const MISSING: (u16, &str) = (401, "missing_token");
    const INVALID: (u16, &str) = (401, "invalid_token");
    let server = server().await;
    for (target, headers, (status, text)) in [
        ("/", &[("Authorization", "Bearer good")][..], OK),
        ("/", &[("Authorization", "bEARER   good")], OK),
        ("/", &[("Authorization", "Bearer good"), ("X-User-Id", "root")], OK),
        ("/?x=access_token", &[("Authorization", "Bearer good")], OK),
        ("/", &[], MISSING),
        ("/", &[("Authorization", "")], MISSING),
        ("/", &[("Authorization", "Basic Z29vZDpnb29k")], MISSING),
        ("/", &[("Proxy-Authorization", "Bearer good")], MISSING),
        ("/", &[("X-Authorization", "Bearer good")], MISSING),
        ("/", &[("Cookie", "access_token=good; Authorization=Bearer good")], MISSING),
        ("/?access_token=good", &[], MISSING),
        ("/", &[("Authorization", "Bearer evil")], INVALID),
        ("/", &[("Authorization", "Bearer GOOD")], INVALID),
        ("/", &[("Authorization", "Bearer")], MALFORMED),
        ("/", &[("Authorization", "Bearer\tgood")], MALFORMED),
        ("/", &[("Authorization", "Bearer good, Bearer good")], MALFORMED),
        ("/", &[("Authorization", "Bearer good"), ("Authorization", "Bearer good")], MALFORMED),
        ("/", &[("Authorization", "Bearer evil"), ("authorization", "Bearer good")], MALFORMED),
        ("/", &[("Authorization", "Basic Z29vZA=="), ("AUTHORIZATION", "Bearer good")], MALFORMED),
        ("/?access_token=good", &[("Authorization", "Bearer good")], MALFORMED),
        ("/?access_token=evil", &[("Authorization", "Bearer good")], MALFORMED),
    ] {
        let lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let mut request = Request::builder().uri(format!("http://api.example{target}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let over_http1 = http1(server, &format!("GET {target}"), &lines).await;
        let over_http2 = http2(server, request.body(TestBody::default()).unwrap()).await;
        for (answer, version) in [(over_http1, "HTTP/1.1"), (over_http2, "HTTP/2")] {
            let why = format!("attack 30, {version}: {target} {lines:?}");
            assert_eq!(answer.status, status, "{why}");
            let said = if status == 200 {
                String::from_utf8(answer.body.to_vec()).unwrap()
            } else {
                answer.error()
            };
            assert_eq!(said, text, "{why}");
        }
    }
}

#[tokio::test]
async fn the_case_of_a_name_is_free_over_http1_and_bound_over_http2() {
    let server = server().await;
    for name in ["authorization", "Authorization", "AUTHORIZATION", "aUTHORIZATIOn"] {
        let line = format!("{name}: Bearer good");
        let answer = http1(server, "GET /", &[&line, "X-USER-ID: root"]).await;
        assert_eq!(answer.status, StatusCode::OK, "attack 30: {name}");
        assert_eq!(answer.body, "ada -", "attack 31");

        let head = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "api.example"),
            (":path", "/"),
            (name, "Bearer good"),
        ];
        let frames = http2_frames(server, &head).await;
        let kind = frames[0].kind;
        if name == "authorization" {
            assert_eq!(kind, Frame::HEADERS, "attack 30: {frames:?}");
        } else {
            // RFC 9113 §8.2.1: a name in capitals makes the request malformed.
            assert!(matches!(kind, Frame::RST_STREAM | Frame::GOAWAY), "attack 30: {frames:?}");
        }
    }
}

#[tokio::test]
async fn lines_that_do_not_say_where_a_header_ends_are_refused() {
    let server = server().await;
    for lines in [
        &["Authorization: Bearer", " good"][..],
        &["Authorization:", "\tBearer good"],
        &["X-Note: a", " Authorization: Bearer good"],
        &["Authorization: Bearer good", " , Bearer good"],
        &["Authorization : Bearer good"],
        &["Authorization: Bearer go\0od"],
        &["Authorization: Bearer good\nAuthorization: Bearer good"],
        &["Authorization: Basic a\nAuthorization: Bearer good"],
    ] {
        let answer = http1(server, "GET /", lines).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "attack 30: {lines:?}");
    }
}
