//! What the endpoint is asked, and by whom.

use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower_gate::ManualClock;
use tower_gate::fetch::{FetchError, FetchRequest, ReqwestFetch};
use tower_gate::verifier::introspection::{IntrospectionBuilder, IntrospectionVerifier};

use crate::endpoint::{Endpoint, Reply, Seen};
use crate::scene::{
    API, Api, ISSUER, Scene, active, builder, fetch, inactive, invalid, ok, unavailable,
};

/// A builder without credentials.
fn stranger(url: &str) -> IntrospectionBuilder {
    IntrospectionVerifier::builder(url, fetch()).issuer(ISSUER).audience(API)
}

/// The question of a verifier that is built like this.
async fn question(
    token: &str,
    configure: impl FnOnce(IntrospectionBuilder) -> IntrospectionBuilder,
) -> Seen {
    let clock = ManualClock::default();
    let endpoint = Endpoint::start(Reply::json(&active(&clock, json!({}))));
    let verifier = configure(stranger(&endpoint.url())).build().unwrap();
    assert_eq!(Api::new(verifier, &clock).says(token).await, ok());
    endpoint.seen().remove(0)
}

#[tokio::test]
async fn the_question_is_a_form_with_the_token_in_its_body_alone() {
    let token = "aZ09-._~+/==";
    let seen = question(token, |builder| builder.with_client("api", "s3cret")).await;
    assert_eq!(seen.method, "POST", "OPAQUE-20");
    assert_eq!(seen.target, "/introspect", "OPAQUE-20: the token is never in an address");
    assert_eq!(seen.header("content-type"), "application/x-www-form-urlencoded", "OPAQUE-20");
    assert_eq!(seen.header("accept"), "application/json", "OPAQUE-20");
    assert_eq!(seen.body, "token=aZ09-._%7E%2B%2F%3D%3D&token_type_hint=access_token", "OPAQUE-20");
}

#[tokio::test]
async fn each_kind_of_credentials_is_sent_as_its_rfc_says() {
    let seen = question("t", |builder| builder.with_client("an id:1", "s%&é")).await;
    // "an+id%3A1:s%25%26%C3%A9"
    let basic = "Basic YW4raWQlM0ExOnMlMjUlMjYlQzMlQTk=";
    assert_eq!(seen.header("authorization"), basic, "OPAQUE-21, OAUTH-3");
    let seen = question("t", |builder| builder.with_bearer("our.own_token==")).await;
    assert_eq!(seen.header("authorization"), "Bearer our.own_token==", "OPAQUE-21");
    let seen = question("t", IntrospectionBuilder::with_credentials_of_fetch).await;
    assert_eq!(seen.header("authorization"), "", "OPAQUE-21");
}

#[tokio::test]
async fn a_fetcher_can_bring_the_credentials() {
    let scene = Scene::new();
    let headers = HeaderMap::from_iter([(
        http::header::AUTHORIZATION,
        HeaderValue::from_static("Bearer of-the-fetcher"),
    )]);
    let client = reqwest::Client::builder().default_headers(headers);
    let fetch = ReqwestFetch::from_builder(client).unwrap();
    let verifier = IntrospectionVerifier::builder(scene.endpoint.url(), fetch)
        .issuer(ISSUER)
        .audience(API)
        .with_credentials_of_fetch()
        .build()
        .unwrap();
    assert_eq!(Api::new(verifier, &scene.clock).says("token").await, ok());
    let seen = scene.endpoint.seen().remove(0);
    assert_eq!(seen.header("authorization"), "Bearer of-the-fetcher", "OPAQUE-21");
}

#[test]
fn what_cannot_work_is_refused_when_it_is_built_and_the_remedy_named() {
    let url = "https://issuer.example/introspect";
    let with = || builder(url);
    let wrong = [
        (builder("http://issuer.example/introspect"), "must be an https URL"),
        (builder("http://10.0.0.1/introspect"), "must be an https URL"),
        (builder("https://user:secret@issuer.example/"), "without user"),
        (builder(""), "must be an https URL"),
        (stranger(url), "use with_client or with_bearer"),
        (with().with_bearer("t"), "keep one"),
        (with().with_client("again", "s"), "keep one"),
        (stranger(url).with_client("", "s3cret"), "must not be empty"),
        (stranger(url).with_client("api", ""), "must not be empty"),
        (stranger(url).with_bearer("not a token"), "a bearer token must be one"),
        (stranger(url).with_bearer("a\r\nb"), "a bearer token must be one"),
        (with().with_audience(""), "must not be empty"),
        (with().with_signed_answers(crate::signed::keys(), ""), "must not be empty"),
        (with().with_leeway(Duration::from_secs(301)), "synchronise the clocks"),
        (with().with_timeout(Duration::ZERO), "more than zero"),
        (with().with_timeout(Duration::from_secs(61)), "at most 60 seconds"),
        (with().with_max_refused_age(Duration::from_secs(11)), "at most 10 seconds"),
        (with().with_stale_if_error(Duration::from_secs(10)), "longer than with_max_age"),
        (
            with().with_max_age(Duration::ZERO).with_stale_if_error(Duration::from_secs(9)),
            "more than zero",
        ),
        (with().with_max_in_progress(0), "at least one question"),
        (with().with_roles_at(["sub"]), "two purposes want the claim \"sub\""),
        (with().with_scopes_at(["roles"]), "two purposes want the claim \"roles\""),
    ];
    for (builder, remedy) in wrong {
        let shown = format!("{builder:?}");
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(remedy), "OPAQUE-22: {shown}: {error}");
    }
    let empty = IntrospectionVerifier::builder(url, fetch()).issuer("").audience(API);
    assert!(empty.with_client("api", "s").build().is_err());
    assert!(with().build().is_ok());
    assert!(builder("http://[::1]:8080/introspect").build().is_ok(), "OPAQUE-22: loopback");
}

#[test]
fn no_debug_shows_a_secret() {
    let url = "https://issuer.example/introspect?key=s3cret";
    let start = || IntrospectionVerifier::builder(url, fetch());
    let with = || builder(url).with_bearer("s3cret");
    let verifier = builder(url).build().unwrap();
    for shown in [
        format!("{:?}", start()),
        format!("{:?}", start().issuer(ISSUER)),
        format!("{:?}", with()),
        format!("{:?}", with().build().unwrap_err()),
        format!("{verifier:?}"),
    ] {
        assert!(!shown.contains("s3cret"), "attack 38: {shown}");
    }
}

thread_local! {
    /// What is logged on this thread, where a test wants to know.
    static LOGGED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what is logged. A subscriber of one thread would not do: whether a line is logged at all is
/// decided by the thread that meets it first.
struct Log;

impl Log {
    fn start() -> Self {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| Log)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        LOGGED.set(Some(Vec::new()));
        Self
    }

    fn text(&self) -> String {
        LOGGED.with_borrow(|logged| String::from_utf8(logged.clone().unwrap()).unwrap())
    }

    fn count(&self, text: &str) -> usize {
        self.text().matches(text).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.iter_mut().for_each(|log| log.extend(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn refused_credentials_are_logged_once_in_a_row_and_no_secret_ever() {
    let log = Log::start();
    let mut scene = Scene::new();
    let warning = "the introspection endpoint refuses the credentials of this API";
    for (n, (reply, expected, warnings)) in [
        (Reply::status(401), unavailable(), 1),
        (Reply::status(401), unavailable(), 1),
        (Reply::status(403), unavailable(), 1),
        (Reply::status(500), unavailable(), 1),
        (Reply::status(401), unavailable(), 1),
        (inactive(), invalid(), 1),
        (Reply::status(401), unavailable(), 2),
        (Reply::text("s3cret-in-the-answer"), unavailable(), 2),
    ]
    .into_iter()
    .enumerate()
    {
        scene.endpoint.reply(reply.clone());
        assert_eq!(scene.api.says(&format!("canary-{n}")).await, expected);
        assert_eq!(log.count(warning), warnings, "OPAQUE-34: {n}: {reply:?}: {}", log.text());
    }
    assert_eq!(log.count("check the credentials of this API"), 5, "OPAQUE-34: {}", log.text());
    scene.endpoint.stop();
    assert_eq!(scene.api.says("canary-down").await, unavailable());
    assert_eq!(
        log.count("the issuer cannot be reached: error sending request"),
        1,
        "the log says why: {}",
        log.text()
    );
    for secret in ["canary", "s3cret", "cmVwb3J0cy1hcGk6czNjcmV0"] {
        assert_eq!(log.count(secret), 0, "attack 38: {}", log.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_takes_no_longer_than_the_timeout() {
    let never = |_: FetchRequest| std::future::pending::<Result<Response<Bytes>, FetchError>>();
    for (timeout, seconds) in [(None, 5), (Some(Duration::from_secs(2)), 2)] {
        let mut builder = IntrospectionVerifier::builder("https://issuer.example/", never)
            .issuer(ISSUER)
            .audience(API)
            .with_client("api", "s3cret");
        if let Some(timeout) = timeout {
            builder = builder.with_timeout(timeout);
        }
        let api = Api::new(builder.build().unwrap(), &ManualClock::default());
        let began = Instant::now();
        assert_eq!(api.says("token").await, unavailable(), "OPAQUE-23");
        assert_eq!(began.elapsed().as_secs(), seconds, "OPAQUE-23");
    }
}

/// A server that answers every request well, behind a certificate that it has made itself.
async fn serve_self_signed() -> String {
    let pem = include_bytes!("self_signed.pem");
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(pem).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
    let listener = tokio::net::TcpListener::bind((localhost, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let body = format!(r#"{{"active":true,"sub":"user-1","aud":"{API}"}}"#);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    format!("https://localhost:{port}/introspect")
}

#[tokio::test]
async fn an_endpoint_without_a_certificate_that_is_trusted_is_not_believed() {
    let clock = ManualClock::default();
    let url = serve_self_signed().await;
    let api = Api::new(builder(&url).build().unwrap(), &clock);
    assert_eq!(api.says("token").await, unavailable(), "OPAQUE-22");

    // The same server, once its certificate is trusted.
    let certificate = reqwest::Certificate::from_pem(include_bytes!("self_signed.pem")).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([certificate]);
    let trusting =
        IntrospectionVerifier::builder(&*url, ReqwestFetch::from_builder(client).unwrap())
            .issuer(ISSUER)
            .audience(API)
            .with_client("api", "s3cret");
    let api = Api::new(trusting.build().unwrap(), &clock);
    assert_eq!(api.says("token").await, ok(), "OPAQUE-22");
}

#[tokio::test]
async fn https_is_never_given_up_for_http() {
    let scene = Scene::new();
    let url = scene.endpoint.url().replace("http://", "https://");
    let api = Api::new(builder(&url).build().unwrap(), &scene.clock);
    assert_eq!(api.says("token").await, unavailable(), "OPAQUE-22");
    assert_eq!(scene.endpoint.asked(), 0, "OPAQUE-22");
}
