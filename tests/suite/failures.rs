//! Addresses that send bad tokens, through the layers.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_gate::authenticate::Authenticate;
use tower_gate::failure_limit::{Attempt, FailureLimit};
use tower_gate::sink::NullSink;
use tower_gate::verifier::{VerifyError, VerifyRequest};
use tower_gate::{
    AuditLayer, AuthenticateLayer, ClientIp, FailureLimitLayer, FixedVerifier, ManualClock,
    Network, Outcome, PeerAddr, Principal, Quota, Rejection, RejectionKind, RequestHead,
    TokenVerifier,
};

use crate::every_refusal;
use crate::recording::Recording;
use crate::support::{Answer, Probe, TestBody, Trail, anonymous, as_grpc_call, send, with_token};

const SECOND: Duration = Duration::from_secs(1);
const BAN: Duration = Duration::from_secs(900);
const ATTACKER: &str = "198.51.100.6";
const OTHER: &str = "192.0.2.1";

/// Knows the token `good`, counts what it is asked, and answers while it is open.
#[derive(Clone)]
struct Counting(Arc<Asked>);

struct Asked {
    fixed: FixedVerifier,
    asked: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    /// A permit lets one question be answered; `None` answers at once.
    open: Option<Semaphore>,
}

impl Counting {
    fn new(open: Option<Semaphore>) -> Self {
        let principal = Principal::builder("https://issuer.example", "ada").build();
        let fixed = FixedVerifier::new().with("good", principal).unwrap();
        let [asked, running, most] = [const { AtomicUsize::new(0) }; 3];
        Self(Arc::new(Asked { fixed, asked, running, most, open }))
    }

    fn at_once() -> Self {
        Self::new(None)
    }

    fn shut() -> Self {
        Self::new(Some(Semaphore::new(0)))
    }

    fn answer(&self, questions: usize) {
        self.0.open.as_ref().unwrap().add_permits(questions);
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl TokenVerifier for Counting {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        if self.0.open.is_some() {
            return None;
        }
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        self.0.fixed.try_verify(request)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let _running = Running::begin(&self.0);
        self.0.open.as_ref().unwrap().acquire().await.unwrap().forget();
        self.0.fixed.verify(request).await
    }
}

/// A question that is being answered.
struct Running<'a>(&'a Asked);

impl<'a> Running<'a> {
    fn begin(asked: &'a Asked) -> Self {
        let running = asked.running.fetch_add(1, Ordering::SeqCst) + 1;
        asked.most.fetch_max(running, Ordering::SeqCst);
        Self(asked)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

type Gate = FailureLimit<Authenticate<Probe>>;

fn gate(limit: &FailureLimitLayer, verifier: &Counting) -> Gate {
    limit.layer(AuthenticateLayer::new(verifier.clone()).optional().layer(Probe::default()))
}

/// A ban of a quarter of an hour for the failure that makes it so many within an hour.
fn limit(failures: u32, clock: &ManualClock) -> FailureLimitLayer {
    FailureLimitLayer::new(Quota::per_hour(failures), BAN).with_clock(clock.clone())
}

fn from(address: &str, mut request: Request<TestBody>) -> Request<TestBody> {
    let ip: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(PeerAddr(SocketAddr::new(ip, 4711)));
    request
}

async fn status(service: &Gate, address: &str, token: &str) -> u16 {
    send(service, from(address, with_token(token))).await.status.as_u16()
}

#[tokio::test]
async fn the_failure_that_uses_up_the_quota_bans_its_address_for_a_while() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let service = gate(&limit(3, &clock), &verifier);
    for _ in 0..2 {
        for _ in 0..3 {
            assert_eq!(status(&service, ATTACKER, "bad").await, 401, "attack 46");
        }
        let asked = verifier.asked();
        let answer = send(&service, from(ATTACKER, with_token("good"))).await;
        assert_eq!(answer.header("retry-after"), "900", "RL-20, 21");
        assert_eq!(answer.header("cache-control"), "no-store", "RL-20");
        assert_eq!(answer.header("www-authenticate"), "", "no token helps");
        let body = json!({
            "error": "rate_limited",
            "message": "too many bad tokens from this address; wait as long as the answer says",
            "type": "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
            "title": "Abnormal usage detected",
            "status": 429,
            "retry_after": 900,
            "violated-policies": ["failures"],
        });
        assert_eq!(answer.json(), body, "RL-9");
        assert_eq!(answer.extensions.get().map(Rejection::reason), Some("banned"));

        for request in [with_token("good"), with_token("bad"), anonymous()] {
            assert_eq!(send(&service, from(ATTACKER, request)).await.status, 429, "attack 46");
        }
        let call = as_grpc_call(from(ATTACKER, with_token("good")));
        let answer = send(&service, call).await;
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "8"), "GRPC-13");
        assert_eq!(answer.header("grpc-retry-pushback-ms"), "900000", "GRPC-23");
        assert_eq!(verifier.asked(), asked, "attack 46: nothing is verified");
        assert_eq!(status(&service, OTHER, "good").await, 200, "attack 46: nobody else");

        clock.advance(BAN - Duration::from_millis(1));
        assert_eq!(status(&service, ATTACKER, "good").await, 429, "until the very end");
        clock.advance(Duration::from_millis(1));
        assert_eq!(status(&service, ATTACKER, "good").await, 200, "and not longer");
    }
}

#[tokio::test]
async fn a_thousand_bad_secrets_are_slowed_and_nobody_else_is() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let service = gate(&limit(10, &clock), &verifier);
    let (mut tried, mut served) = (0, 0);
    for _ in 0..1000 {
        tried += usize::from(status(&service, ATTACKER, "bad").await == 401);
        served += usize::from(status(&service, OTHER, "good").await == 200);
        clock.advance(SECOND);
    }
    // Ten in each ban and the second before it.
    assert_eq!((tried, served), (20, 1000), "attack 46");
    assert_eq!(verifier.asked(), tried + served, "attack 46");
}

#[tokio::test]
async fn failures_are_forgotten_at_the_rate_of_the_quota() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let service = gate(&limit(4, &clock), &verifier);
    for _ in 0..50 {
        assert_eq!(status(&service, ATTACKER, "bad").await, 401);
        clock.advance(BAN);
    }
    for _ in 0..4 {
        assert_eq!(status(&service, ATTACKER, "bad").await, 401);
    }
    assert_eq!(status(&service, ATTACKER, "bad").await, 429);
}

#[tokio::test]
async fn a_guess_counts_and_the_mistake_of_an_honest_client_does_not() {
    const GUESSES: [&str; 7] = [
        "bad_signature",
        "malformed_token",
        "unknown_key",
        "unknown_token",
        "unsupported_algorithm",
        "wrong_issuer",
        "wrong_type",
    ];
    let issuer = every_refusal::issuer();
    for refusal in every_refusal::all(&issuer) {
        let layer = limit(1, &ManualClock::default());
        let service = layer.layer(every_refusal::api(&issuer, NullSink));
        let (reason, request) = (refusal.reason, from(ATTACKER, refusal.request));
        assert_eq!(send(&service, request).await.status.as_u16(), refusal.status, "{reason}");
        let good = every_refusal::token(&issuer).sign();
        let answer = send(&service, from(ATTACKER, with_token(&good))).await;
        assert_eq!(answer.status == 429, GUESSES.contains(&reason), "attack 46: {reason}");
    }
}

/// The kind of the refusal says that it was invalid, and only its reason why.
#[tokio::test]
async fn an_expired_token_is_no_guess_where_all_read_invalid_either() {
    let issuer = every_refusal::issuer();
    let past = std::time::SystemTime::now() - Duration::from_secs(86_400);
    let expired = issuer.token("ada").issued_at(past).sign();
    let authenticate = AuthenticateLayer::new(issuer.verifier()).with_uniform_errors();
    let layer = limit(1, &ManualClock::default());
    let service = layer.layer(authenticate.layer(Probe::default()));
    for _ in 0..5 {
        let answer = send(&service, from(ATTACKER, with_token(&expired))).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "invalid_token"));
    }
}

#[tokio::test]
async fn an_application_says_what_counts_and_who_is_never_banned() {
    let verifier = Counting::at_once();
    let is_missing = |rejection: &Rejection| rejection.kind() == RejectionKind::MissingToken;
    let layer = limit(2, &ManualClock::default())
        .with_failures(is_missing)
        .with_exempt([Network::parse("10.0.0.0/8").unwrap()])
        .with_responder(|_: &Rejection, _: &RequestHead<'_>| Response::new(Bytes::from("banned")))
        .with_name("nobody");
    let service = layer.layer(AuthenticateLayer::new(verifier).layer(Probe::default()));
    for _ in 0..5 {
        assert_eq!(send(&service, from(ATTACKER, with_token("bad"))).await.status, 401);
        assert_eq!(send(&service, from("::ffff:10.1.2.3", anonymous())).await.status, 401);
    }
    for status in [401, 401, 429] {
        assert_eq!(send(&service, from(ATTACKER, anonymous())).await.status, status);
    }
    let answer = send(&service, from(ATTACKER, anonymous())).await;
    assert_eq!(answer.body, "banned");
    assert_eq!(answer.extensions.get::<Rejection>().unwrap().policies().next(), Some("nobody"));
}

/// What a token endpoint does with a bad client secret.
#[tokio::test]
async fn refusals_of_handlers_count_whatever_was_sent() {
    let handler = service_fn(|_: Request<TestBody>| {
        let mut response = Response::new(TestBody::default());
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        response.extensions_mut().insert(Rejection::new(RejectionKind::InvalidToken));
        ready(Ok::<_, Infallible>(response))
    });
    let mut basic = anonymous();
    basic.headers_mut().insert("authorization", HeaderValue::from_static("Basic YTpi"));
    for request in [anonymous(), basic] {
        let service = limit(3, &ManualClock::default()).layer(handler);
        for status in [400, 400, 400, 429, 429] {
            let answer = send(&service, from(ATTACKER, request.clone())).await;
            assert_eq!(answer.status, status, "attack 46");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn guesses_that_come_all_at_once_do_not_slip_past_the_count() {
    for verifier in [Counting::at_once(), Counting::shut()] {
        let service = gate(&limit(10, &ManualClock::default()), &verifier);
        let mut tasks = JoinSet::new();
        for n in 0..1000 {
            let service = service.clone();
            tasks.spawn(async move { status(&service, ATTACKER, &format!("guess-{n}")).await });
        }
        if verifier.0.open.is_some() {
            while verifier.asked() < 10 {
                tokio::task::yield_now().await;
            }
            // Some more time for others, who must not be asked about.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(verifier.asked(), 10, "attack 46");
            assert_eq!(tasks.try_join_next().map(Result::unwrap), None, "nobody is answered");
            verifier.answer(1000);
        }
        let statuses = tasks.join_all().await;
        let count = |status| statuses.iter().filter(|found| **found == status).count();
        assert_eq!((count(401), count(429)), (10, 990), "attack 46");
        assert_eq!(verifier.asked(), 10, "attack 46");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn good_requests_that_come_all_at_once_all_come_in() {
    let verifier = Counting::shut();
    let service = gate(&limit(10, &ManualClock::default()), &verifier);
    // Some of the quota is gone already.
    verifier.answer(3);
    for _ in 0..3 {
        assert_eq!(status(&service, ATTACKER, "bad").await, 401);
    }
    let mut tasks = JoinSet::new();
    for n in 0..300 {
        let service = service.clone();
        tasks.spawn(async move {
            // One in three does not wait for its answer.
            let request = from(ATTACKER, with_token("good"));
            let mut answer = pin!(send(&service, request));
            if n % 3 == 0 {
                for _ in 0..n {
                    if poll(answer.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                return 200;
            }
            answer.await.status.as_u16()
        });
    }
    while verifier.0.most.load(Ordering::SeqCst) < 7 {
        tokio::task::yield_now().await;
    }
    while !tasks.is_empty() {
        verifier.answer(1);
        while let Some(status) = tasks.try_join_next() {
            assert_eq!(status.unwrap(), 200);
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(verifier.0.most.load(Ordering::SeqCst), 7, "as many as may fail, and no more");
    assert_eq!(status(&service, ATTACKER, "good").await, 200);
}

#[tokio::test]
async fn nobody_who_comes_later_takes_the_turn_of_one_who_waits() {
    let verifier = Counting::shut();
    let service = gate(&limit(1, &ManualClock::default()), &verifier);
    let ask = || Box::pin(service.clone().oneshot(from(ATTACKER, with_token("good"))));
    let [mut first, mut second, mut third] = [ask(), ask(), ask()];
    for waiting in [&mut first, &mut second, &mut third] {
        assert!(poll(waiting.as_mut()).is_pending());
    }
    verifier.answer(1);
    assert!(poll(first.as_mut()).is_ready());
    // The second has been called, and has not noticed yet.
    let mut late = ask();
    assert!(poll(late.as_mut()).is_pending());
    assert!(poll(third.as_mut()).is_pending());
    assert_eq!(verifier.asked(), 1, "neither the third nor the latecomer");
    assert!(poll(second.as_mut()).is_pending());
    assert_eq!(verifier.asked(), 2, "the second");
    // It leaves, and so does the third, which is called then.
    drop(second);
    drop(third);
    verifier.answer(1);
    assert!(poll(late.as_mut()).is_ready(), "the turn is passed on");
    assert_eq!(verifier.asked(), 3);
}

#[tokio::test]
async fn who_would_wait_behind_too_many_is_refused() {
    let verifier = Counting::shut();
    let limit = limit(1, &ManualClock::default()).with_max_waiting(2);
    let service = gate(&limit, &verifier);
    let ask = || Box::pin(service.clone().oneshot(from(ATTACKER, with_token("good"))));
    let mut waiting = [ask(), ask(), ask()];
    for answer in &mut waiting {
        assert!(poll(answer.as_mut()).is_pending());
    }
    let answer = send(&service, from(ATTACKER, with_token("good"))).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (429, "rate_limited"));
    assert_eq!(answer.header("retry-after"), "1", "attack 43");
    let rejection = answer.extensions.get().map(Rejection::reason);
    assert_eq!(rejection, Some("too_many_at_once"));
    verifier.answer(4);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), 200, "they were not disturbed");
    }
    assert_eq!(status(&service, ATTACKER, "bad").await, 401);
}

#[tokio::test]
async fn an_answer_that_takes_its_time_holds_up_nobody() {
    let handler =
        service_fn(|_: Request<TestBody>| pending::<Result<Response<TestBody>, Infallible>>());
    let authenticate = AuthenticateLayer::new(Counting::at_once()).optional();
    let service = limit(2, &ManualClock::default()).layer(authenticate.layer(handler));
    let mut running = Vec::new();
    for token in ["good", "", "good", "", "good", "good"] {
        let request = if token.is_empty() { anonymous() } else { with_token(token) };
        let mut answer = Box::pin(service.clone().oneshot(from(ATTACKER, request)));
        assert!(poll(answer.as_mut()).is_pending());
        running.push(answer);
    }
    let Poll::Ready(bad) = poll(pin!(service.oneshot(from(ATTACKER, with_token("bad"))))) else {
        panic!("it waits for answers to others");
    };
    assert_eq!(bad.unwrap().status(), 401, "its turn has come at once");
}

#[tokio::test]
async fn an_answer_that_takes_its_time_holds_up_nobody_behind_two_limits() {
    let handler =
        service_fn(|_: Request<TestBody>| pending::<Result<Response<TestBody>, Infallible>>());
    let authenticate = AuthenticateLayer::new(Counting::at_once()).optional();
    let clock = ManualClock::default();
    let service = limit(1, &clock).layer(limit(1, &clock).layer(authenticate.layer(handler)));
    let mut running = Box::pin(service.clone().oneshot(from(ATTACKER, with_token("good"))));
    assert!(poll(running.as_mut()).is_pending());
    let Poll::Ready(bad) = poll(pin!(service.oneshot(from(ATTACKER, with_token("bad"))))) else {
        panic!("it waits for the answer to another");
    };
    assert_eq!(bad.unwrap().status(), 401, "both know that the first was let in");
}

/// Whom a handler has been asked for, which judges the secret in a body once it is open.
#[derive(Clone)]
struct Login(Arc<Asked>);

impl Login {
    fn shut() -> Self {
        Self(Counting::shut().0)
    }

    async fn answer(self, request: Request<TestBody>) -> Result<Response<TestBody>, Infallible> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(TestBody::default());
        match request.uri().path() {
            "/right" => {
                Attempt::of(request.extensions()).unwrap().let_in();
                pending().await
            }
            "/slow" => pending().await,
            _ => self.0.open.as_ref().unwrap().acquire().await.unwrap().forget(),
        }
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response.extensions_mut().insert(Rejection::new(RejectionKind::InvalidToken));
        Ok(response)
    }
}

fn at(path: &'static str, mut request: Request<TestBody>) -> Request<TestBody> {
    *request.uri_mut() = http::Uri::from_static(path);
    from(ATTACKER, request)
}

#[tokio::test]
async fn an_application_says_which_requests_wait_for_each_other() {
    let clock = ManualClock::default();
    let logins = limit(2, &clock).with_attempts(|request| request.uri.path() == "/login");
    let (public, login) = (at("/slow", with_token("x")), at("/login", anonymous()));
    for (limit, request, at_once) in [
        (limit(2, &clock), &public, 2),
        (limit(2, &clock), &login, 10),
        (logins.clone(), &public, 10),
        (logins, &login, 2),
    ] {
        let handler = Login::shut();
        let asked = handler.clone();
        let service = limit.layer(service_fn(move |request| handler.clone().answer(request)));
        let mut running: Vec<_> =
            (0..10).map(|_| Box::pin(service.clone().oneshot(request.clone()))).collect();
        for answer in &mut running {
            assert!(poll(answer.as_mut()).is_pending());
        }
        let asked = asked.0.asked.load(Ordering::SeqCst);
        assert_eq!(asked, at_once, "attack 46: {}", request.uri());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn secrets_in_a_body_that_come_all_at_once_do_not_slip_past_the_count() {
    let handler = Login::shut();
    let asked = handler.clone();
    let service = limit(10, &ManualClock::default())
        .with_attempts(|request| request.uri.path() == "/login")
        .layer(service_fn(move |request| handler.clone().answer(request)));
    let mut tasks = JoinSet::new();
    for _ in 0..300 {
        let service = service.clone();
        tasks.spawn(async move { send(&service, at("/login", anonymous())).await.status.as_u16() });
    }
    while asked.0.asked.load(Ordering::SeqCst) < 10 {
        tokio::task::yield_now().await;
    }
    asked.0.open.as_ref().unwrap().add_permits(300);
    let statuses = tasks.join_all().await;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(401), count(429)), (10, 290), "attack 46");
    assert_eq!(asked.0.asked.load(Ordering::SeqCst), 10, "attack 46");
}

#[tokio::test]
async fn a_handler_that_lets_a_caller_in_holds_up_nobody() {
    let clock = ManualClock::default();
    let limit = || limit(1, &clock).with_attempts(|_| true);
    for (path, at_once) in [("/right", 3), ("/slow", 1)] {
        let handler = Login::shut();
        let asked = handler.clone();
        let service = service_fn(move |request| handler.clone().answer(request));
        let service = limit().layer(limit().layer(service));
        let mut running: Vec<_> =
            (0..3).map(|_| Box::pin(service.clone().oneshot(at(path, anonymous())))).collect();
        for answer in &mut running {
            assert!(poll(answer.as_mut()).is_pending());
        }
        assert_eq!(asked.0.asked.load(Ordering::SeqCst), at_once, "attack 46: {path}");
    }
}

#[tokio::test]
async fn who_operates_the_api_sees_bans_and_lifts_them() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let layer = limit(2, &clock).with_escalation(4 * BAN);
    let (service, bans) = (gate(&layer, &verifier), layer.clone().bans());
    let ip = |address: &str| -> IpAddr { address.parse().unwrap() };
    let left = |address| bans.left(ip(address));
    let ban = async |address, length: Duration| {
        for _ in 0..2 {
            assert_eq!(bans.left(ip(address)), None);
            assert_eq!(status(&service, address, "bad").await, 401);
        }
        assert_eq!(bans.left(ip(address)), Some(length));
    };
    assert_eq!(bans.count(), 0);
    ban(ATTACKER, BAN).await;
    ban("2001:db8:1:2::1", BAN).await;
    clock.advance(SECOND);
    for (address, expected) in [
        (ATTACKER, Some(BAN - SECOND)),
        ("::ffff:198.51.100.6", Some(BAN - SECOND)),
        ("2001:db8:1:2:3::", Some(BAN - SECOND)),
        ("2001:db8:1:3::1", None),
        (OTHER, None),
    ] {
        assert_eq!(left(address), expected, "CLIENTIP-32, 40: {address}");
    }
    assert_eq!(bans.count(), 2);
    assert!(bans.lift(ip(ATTACKER)) && !bans.lift(ip(ATTACKER)) && !bans.lift(ip(OTHER)));
    assert_eq!((bans.count(), left(ATTACKER)), (1, None));
    assert_eq!(status(&service, ATTACKER, "good").await, 200);
    assert_eq!(status(&service, "2001:db8:1:2::1", "good").await, 429, "nobody else's");
    ban(ATTACKER, BAN).await;
    clock.advance(BAN);
    assert_eq!((bans.count(), left(ATTACKER)), (0, None), "they have ended");
    ban(ATTACKER, 2 * BAN).await;
    assert!(bans.lift(ip(ATTACKER)));
    assert_eq!(status(&service, ATTACKER, "bad").await, 401);
    assert!(!bans.lift(ip(ATTACKER)), "a failure is forgotten, too");
    ban(ATTACKER, BAN).await;

    let layer = by_client(1, &clock);
    let (service, bans) = (gate(&layer, &verifier), layer.bans());
    assert_eq!(send(&service, from(ATTACKER, claiming("shop", "bad"))).await.status, 401);
    assert_eq!((bans.count(), bans.left(ip(ATTACKER))), (1, None));
    let [shop, till] = ["shop", "till"].map(|client| bans.of_client(client));
    assert_eq!((shop.left(ip(ATTACKER)), till.left(ip(ATTACKER))), (Some(BAN), None));
    assert!(!till.lift(ip(ATTACKER)) && !shop.lift(ip(OTHER)) && shop.lift(ip(ATTACKER)));
    assert_eq!(send(&service, from(ATTACKER, claiming("shop", "good"))).await.status, 200);
}

/// Whether somebody was told to go on.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn who_waits_goes_on_when_failures_are_forgotten() {
    let verifier = Counting::shut();
    let layer = limit(2, &ManualClock::default());
    let service = gate(&layer, &verifier);
    verifier.answer(1);
    assert_eq!(status(&service, ATTACKER, "bad").await, 401);
    let ask = || Box::pin(service.clone().oneshot(from(ATTACKER, with_token("good"))));
    let mut waiting = [ask(), ask()];
    let woken = Arc::new(Woken::default());
    for answer in &mut waiting {
        let waker = Waker::from(woken.clone());
        assert!(answer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(verifier.asked(), 2, "one failure more brings a ban");
    assert!(!woken.0.load(Ordering::SeqCst));
    assert!(!layer.bans().lift(ATTACKER.parse().unwrap()));
    assert!(woken.0.load(Ordering::SeqCst), "the one that waits");
    assert!(poll(waiting[1].as_mut()).is_pending());
    assert_eq!(verifier.asked(), 3);
    verifier.answer(2);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_limit_in_shadow_counts_and_writes_down_and_neither_refuses_nor_holds_up_anybody() {
    let (clock, trail, recording) = (ManualClock::default(), Trail::default(), Recording::start());
    let limit = limit(2, &clock).in_shadow();
    let audited = AuditLayer::new(trail.clone());
    let service = audited.layer(gate(&limit, &Counting::at_once()));
    let bans = limit.bans();
    let ask = async |token: &str, expected: u16, would_limit: usize| {
        let answer = send(&service, from(ATTACKER, with_token(token))).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (expected, ""));
        let event = trail.events().pop().unwrap();
        assert_eq!((event.policy, event.remaining), (None, None), "clients see nothing of it");
        assert_eq!(event.would_limit, vec![Arc::from("failures"); would_limit], "{token}");
    };
    ask("good", 200, 0).await;
    ask("bad", 401, 0).await;
    ask("bad", 401, 0).await;
    assert_eq!(bans.left(ATTACKER.parse().unwrap()), Some(BAN));
    ask("good", 200, 1).await;
    ask("bad", 401, 1).await;
    clock.advance(BAN);
    ask("bad", 401, 0).await;
    assert_eq!(bans.count(), 0, "one failure since the ban, and none during it");
    assert!(!recording.text().contains("an address is banned"), "{}", recording.text());

    let verifier = Counting::shut();
    let service = gate(&limit, &verifier);
    let mut running: Vec<_> = (0..5)
        .map(|_| Box::pin(service.clone().oneshot(from(OTHER, with_token("good")))))
        .collect();
    for answer in &mut running {
        assert!(poll(answer.as_mut()).is_pending());
    }
    assert_eq!(verifier.asked(), 5, "nobody waits");

    // Where it cannot count, it stays out of the way.
    let service = gate(&limit, &Counting::at_once());
    assert_eq!(send(&service, with_token("good")).await.status, 200, "without an address");
    let inside = AuthenticateLayer::new(Counting::at_once()).layer(limit.layer(Probe::default()));
    assert_eq!(send(&inside, from(OTHER, with_token("good"))).await.status, 200);
}

/// Says whom it comes from, which nobody has verified.
fn claiming(client: &str, token: &str) -> Request<TestBody> {
    let mut request = with_token(token);
    if !client.is_empty() {
        request.headers_mut().insert("x-client-id", HeaderValue::from_str(client).unwrap());
    }
    request
}

fn by_client(failures: u32, clock: &ManualClock) -> FailureLimitLayer {
    limit(failures, clock)
        .with_name("client-failures")
        .with_client(|request| Some(request.headers.get("x-client-id")?.to_str().ok()?.to_owned()))
}

#[tokio::test]
async fn a_client_is_banned_behind_its_address_alone() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let service = gate(&by_client(3, &clock), &verifier);
    let ask = async |address, client, token| {
        let answer = send(&service, from(address, claiming(client, token))).await;
        answer.status.as_u16()
    };
    for _ in 0..3 {
        assert_eq!(ask(ATTACKER, "shop", "bad").await, 401, "attack 46");
    }
    for (address, client, token, status) in [
        (ATTACKER, "shop", "good", 429),
        (ATTACKER, "Shop", "good", 200),
        (ATTACKER, "till", "bad", 401),
        (ATTACKER, "", "good", 200),
        // Strangers who claim to be it lock nobody out.
        (OTHER, "shop", "good", 200),
        (OTHER, "shop", "bad", 401),
    ] {
        let name = format!("attack 46: {client:?} from {address}");
        assert_eq!(ask(address, client, token).await, status, "{name}");
    }
    let body = send(&service, from(ATTACKER, claiming("shop", "good"))).await.json();
    assert_eq!(body["violated-policies"], json!(["client-failures"]), "RL-9");
    clock.advance(BAN);
    assert_eq!(ask(ATTACKER, "shop", "good").await, 200, "its ban is over");
}

#[tokio::test]
async fn who_makes_up_a_client_for_each_guess_is_banned_by_address_outside() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let service = limit(5, &clock).layer(gate(&by_client(3, &clock), &verifier));
    for n in 0..5 {
        let request = from(ATTACKER, claiming(&format!("made-up-{n}"), "bad"));
        assert_eq!(send(&service, request).await.status, 401, "attack 46: {n}");
    }
    let answer = send(&service, from(ATTACKER, claiming("made-up-5", "bad"))).await;
    assert_eq!(answer.status, 429, "attack 46");
    assert_eq!(answer.json()["violated-policies"], json!(["failures"]), "RL-9");
    assert_eq!(verifier.asked(), 5, "attack 46: before anything is verified");
}

#[tokio::test]
async fn a_client_that_goes_away_and_a_panic_leave_their_place() {
    let verifier = Counting::shut();
    let service = gate(&limit(2, &ManualClock::default()), &verifier);
    let mut unanswered: Vec<_> = (0..4)
        .map(|_| Box::pin(service.clone().oneshot(from(ATTACKER, with_token("good")))))
        .collect();
    for answer in &mut unanswered {
        assert!(poll(answer.as_mut()).is_pending());
    }
    assert_eq!(verifier.asked(), 2, "two wait");
    drop(unanswered);
    verifier.answer(1);
    assert_eq!(status(&service, ATTACKER, "good").await, 200, "nobody is counted");

    let panics = |_: &VerifyRequest| -> Option<Principal> { panic!("a verifier's bug") };
    struct Panics<F>(F);
    impl<F: Fn(&VerifyRequest) -> Option<Principal> + Send + Sync + 'static> TokenVerifier
        for Panics<F>
    {
        fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
            (self.0)(request).map(Ok)
        }
        async fn verify(&self, _: &VerifyRequest) -> Result<Principal, VerifyError> {
            pending().await
        }
    }
    let limit = limit(1, &ManualClock::default());
    let broken = limit.layer(AuthenticateLayer::new(Panics(panics)).layer(Probe::default()));
    for _ in 0..3 {
        let mut answer = Box::pin(broken.clone().oneshot(from(ATTACKER, with_token("good"))));
        let polled = catch_unwind(AssertUnwindSafe(|| poll(answer.as_mut()).is_ready()));
        assert!(polled.is_err(), "it has come in, and not waited");
    }
}

#[tokio::test]
async fn bans_grow_and_are_forgotten() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let layer = limit(1, &clock).with_escalation(5 * BAN);
    let service = gate(&layer, &verifier);
    let ban = async || {
        assert_eq!(status(&service, ATTACKER, "bad").await, 401);
        let answer = send(&service, from(ATTACKER, anonymous())).await;
        let seconds = answer.header("retry-after").parse().unwrap();
        clock.advance(Duration::from_secs(seconds));
        seconds
    };
    for expected in [900, 1800, 3600, 4500, 4500] {
        assert_eq!(ban().await, expected);
    }
    clock.advance(5 * BAN - SECOND);
    assert_eq!(ban().await, 4500, "remembered");
    clock.advance(5 * BAN);
    assert_eq!(ban().await, 900, "forgotten");
}

#[tokio::test]
async fn hosts_of_one_network_are_one_address_and_headers_do_not_matter() {
    let (clock, verifier) = (ManualClock::default(), Counting::at_once());
    let service = gate(&limit(10, &clock), &verifier);
    let mut tried = 0;
    for host in 0..1000 {
        let mut request = from(&format!("2001:db8:1:2::{host:x}"), with_token("bad"));
        let forged = HeaderValue::try_from(format!("198.18.0.{}", host % 250)).unwrap();
        request.headers_mut().insert("x-forwarded-for", forged);
        tried += usize::from(send(&service, request).await.status == 401);
    }
    assert_eq!(tried, 10, "attacks 27 and 28");
    assert_eq!(status(&service, "2001:db8:1:3::1", "good").await, 200, "CLIENTIP-40");

    let service = gate(&limit(1, &clock).with_prefixes(24, 48), &verifier);
    for (first, second) in [("192.0.2.1", "192.0.2.200"), ("2001:db8:1:2::1", "2001:db8:1:3::1")] {
        assert_eq!(status(&service, first, "bad").await, 401);
        assert_eq!(status(&service, second, "good").await, 429, "CLIENTIP-40");
    }

    let proxies = [Network::parse("10.0.0.0/8").unwrap()];
    let client_ip = ClientIp::default().behind_x_forwarded_for(proxies);
    let service = gate(&limit(1, &clock).with_client_ip(client_ip), &verifier);
    for (client, token, status) in
        [(ATTACKER, "bad", 401), (OTHER, "good", 200), (ATTACKER, "good", 429)]
    {
        let mut request = from("10.0.0.1", with_token(token));
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_str(client).unwrap());
        assert_eq!(send(&service, request).await.status, status, "CLIENTIP-3: {client}");
    }
}

#[tokio::test]
async fn a_limit_that_cannot_work_refuses_everything_and_says_why() {
    let layer = limit(1, &ManualClock::default());
    let misconfigured = |answer: &Answer, word: &str| {
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (500, "misconfigured"));
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(word), "attack 33: {message}");
    };
    let exempt = layer.clone().with_exempt([Network::parse("10.0.0.0/8").unwrap()]);
    for layer in [&layer, &exempt] {
        let service = gate(layer, &Counting::at_once());
        for request in [with_token("good"), anonymous()] {
            misconfigured(&send(&service, request).await, "PeerAddr");
        }
    }
    let inside = AuthenticateLayer::new(Counting::at_once()).layer(layer.layer(Probe::default()));
    misconfigured(&send(&inside, from(OTHER, with_token("good"))).await, "put it outside");
    assert!(catch_unwind(|| FailureLimitLayer::new(Quota::per_hour(1), Duration::ZERO)).is_err());
}

#[tokio::test]
async fn the_trail_shows_how_a_ban_came_about() {
    let (trail, recording) = (Trail::default(), Recording::start());
    let service = gate(&limit(2, &ManualClock::default()), &Counting::at_once());
    let service = AuditLayer::new(trail.clone()).layer(service);
    for token in ["good", "bad", "bad", "good", "bad"] {
        send(&service, from(ATTACKER, with_token(token))).await;
    }
    let events: Vec<_> = trail
        .events()
        .iter()
        .map(|event| (event.outcome, event.reason, event.policy.clone(), event.remaining))
        .collect();
    let failures = Some("failures".into());
    let banned = (Outcome::Refused, Some("banned"), failures.clone(), Some(0));
    let expected = [
        (Outcome::Allowed, None, None, None),
        (Outcome::Refused, Some("unknown_token"), failures.clone(), Some(1)),
        (Outcome::Refused, Some("unknown_token"), failures, Some(0)),
        banned.clone(),
        banned,
    ];
    assert_eq!(events, expected, "AUDIT-13");
    assert_eq!(recording.text().matches("an address is banned").count(), 1);
}

#[tokio::test]
async fn clones_of_a_layer_share_what_they_know() {
    let layer = limit(1, &ManualClock::default());
    let [first, second] = [&layer, &layer.clone()].map(|layer| gate(layer, &Counting::at_once()));
    assert_eq!(status(&first, ATTACKER, "bad").await, 401);
    assert_eq!(status(&second, ATTACKER, "good").await, 429);
    let other = gate(&layer.with_max_addresses(10), &Counting::at_once());
    assert_eq!(status(&other, ATTACKER, "good").await, 200);
}

#[tokio::test]
async fn a_flood_of_addresses_does_not_lift_a_ban() {
    let layer = limit(2, &ManualClock::default()).with_max_addresses(2560);
    let service = gate(&layer, &Counting::at_once());
    for _ in 0..2 {
        assert_eq!(status(&service, ATTACKER, "bad").await, 401);
    }
    for n in 0..50_000_u32 {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        assert_eq!(status(&service, &address.to_string(), "bad").await, 401, "nobody is held up");
    }
    assert_eq!(status(&service, ATTACKER, "good").await, 429, "attack 43");
}
