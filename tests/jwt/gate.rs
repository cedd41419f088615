//! A service behind the layers, at a time that stands still.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};
use tower_gate::audit::Audit;
use tower_gate::authenticate::Authenticate;
use tower_gate::sink::JsonLinesSink;
use tower_gate::verifier::VerifyErrorKind;
use tower_gate::verifier::jwt::{JwtVerifier, JwtVerifierBuilder, VerifyingKey};
use tower_gate::{
    AuditEvent, AuditLayer, AuditSink, AuthenticateLayer, ManualClock, Outcome, Principal,
    Rejection,
};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "https://api.example";
pub(crate) const NOW: i64 = 1_700_000_000;

/// A verifier of the issuer's tokens, which lacks keys.
pub(crate) fn verifier() -> JwtVerifierBuilder {
    JwtVerifier::builder().issuer(ISSUER).audience(AUDIENCE)
}

/// The time that a fixed number of milliseconds is from `NOW`.
pub(crate) fn now_plus(millis: i64) -> SystemTime {
    let now = UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs());
    let distance = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 { now - distance } else { now + distance }
}

/// A handler behind the layers for audit and authentication.
pub(crate) struct Gate {
    service: Audit<Authenticate<Handler>>,
    handler: Handler,
    events: Arc<Mutex<Vec<AuditEvent>>>,
    log: Log,
    clock: ManualClock,
}

impl Gate {
    /// A gate that tokens of this key open.
    pub(crate) fn of(key: VerifyingKey) -> Self {
        Self::new(verifier().with_key(key))
    }

    pub(crate) fn new(verifier: JwtVerifierBuilder) -> Self {
        Self::behind(AuthenticateLayer::new(verifier.build().unwrap()))
    }

    pub(crate) fn behind(layer: AuthenticateLayer) -> Self {
        let (handler, clock) = (Handler::default(), ManualClock::new(now_plus(0)));
        let (events, log) = (Arc::<Mutex<Vec<AuditEvent>>>::default(), Log::default());
        let (trail, lines) = (events.clone(), JsonLinesSink::new(log.clone()));
        let audit = AuditLayer::new(move |event: AuditEvent| {
            lines.accept(event.clone());
            trail.lock().unwrap().push(event);
        });
        let service = audit.layer(layer.with_clock(clock.clone()).layer(handler.clone()));
        Self { service, handler, events, log, clock }
    }

    pub(crate) fn set_now(&self, now: SystemTime) {
        self.clock.set_now(now);
    }

    /// Sends a request with this text after `Bearer`.
    #[track_caller]
    pub(crate) fn ask(&self, token: &str) -> Answer {
        let request =
            Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
        let calls = self.handler.calls();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (head, body) = runtime.block_on(async {
            let Ok(response) = self.service.clone().oneshot(request).await;
            let (head, body) = response.into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        });
        let mut events = std::mem::take(&mut *self.events.lock().unwrap());
        assert_eq!(events.len(), 1, "one event for each request: {events:?}");
        Answer {
            status: head.status,
            headers: head.headers,
            body,
            rejection: head.extensions.get::<Rejection>().cloned(),
            principal: head.extensions.get::<Principal>().cloned(),
            event: events.remove(0),
            log: self.log.take(),
            calls: self.handler.calls() - calls,
        }
    }

    /// The principal of a token that opens the gate.
    #[track_caller]
    pub(crate) fn accepts(&self, token: &str, why: &str) -> Principal {
        let answer = self.ask(token);
        assert_eq!(answer.status, StatusCode::OK, "{why}: {:?}", answer.rejection);
        assert_eq!(answer.calls, 1, "{why}");
        assert_eq!(answer.event.outcome, Outcome::Allowed, "{why}");
        answer.principal.expect("the handler saw a principal")
    }

    /// Checks everything that a token that does not open the gate brings about.
    #[track_caller]
    pub(crate) fn refuses(&self, token: &str, kind: VerifyErrorKind, why: &str) {
        let answer = self.ask(token);
        let (error, message) = match kind {
            VerifyErrorKind::Expired => {
                ("token_expired", "the token has expired; refresh it or get a new one")
            }
            VerifyErrorKind::NotActive => {
                ("token_not_active", "the token is not valid yet; wait, or compare the clocks")
            }
            // One text for all, so that an attacker learns nothing from it (RFC 9068 §4).
            _ => ("invalid_token", "the token is not valid here; get a new one from its issuer"),
        };
        let challenge =
            format!(r#"Bearer realm="api", error="invalid_token", error_description="{message}""#);
        let reason = Some(kind.as_str());
        assert_eq!(answer.event.reason, reason, "{why}");
        assert_eq!(answer.rejection.as_ref().map(Rejection::reason), reason, "{why}");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{why}");
        assert_eq!(answer.headers["www-authenticate"], challenge, "{why}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{why}");
        assert_eq!(answer.json()["error"], error, "{why}");
        assert_eq!(answer.json()["message"], message, "{why}");
        assert_eq!(answer.event.outcome, Outcome::Refused, "{why}");
        match kind {
            VerifyErrorKind::Expired | VerifyErrorKind::NotActive => {
                assert!(answer.event.principal.is_some(), "{why}: whose token it was");
            }
            // Some of these know whose token it was, and some cannot.
            VerifyErrorKind::InvalidClaims => {}
            _ => assert!(answer.event.principal.is_none(), "{why}: nobody's"),
        }
        let line = answer.log.strip_suffix('\n').unwrap_or_else(|| panic!("{why}: no line"));
        assert!(!line.contains(['\n', '\r']), "{why}: more than one line: {line}");
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["reason"], kind.as_str(), "{why}");
        assert_eq!(answer.calls, 0, "{why}: the handler ran");
    }
}

/// What one request came to.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
    pub(crate) rejection: Option<Rejection>,
    principal: Option<Principal>,
    pub(crate) event: AuditEvent,
    /// What was written to the audit log.
    pub(crate) log: String,
    /// How often the handler was called.
    pub(crate) calls: usize,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Counts its calls, and answers with the principal in the extensions.
#[derive(Clone, Default)]
struct Handler(Arc<AtomicUsize>);

impl Handler {
    fn calls(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Service<Request<()>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::default());
        if let Some(principal) = Principal::of(request.extensions()) {
            response.extensions_mut().insert(principal.clone());
        }
        ready(Ok(response))
    }
}

/// What was written, until it is taken.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
