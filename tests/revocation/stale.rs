//! What happens while the store does not answer, by a store that does as it is told.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, advance, sleep};
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::{News, RevocationPage, RevocationStore, RevokeRequest, StoreError};
use tower_gate::verifier::revocable::{InvalidRevocations, Revocations, WhenStale};
use tower_gate::{Clock, ManualClock, Revocation};

use crate::node::{ISSUER, Node, principals};

const DOWN: &str = "503 temporarily_unavailable verifier_unavailable";

/// Memory behind a connection that may be down, or hang.
#[derive(Clone, Default)]
pub(crate) struct Moody {
    pub(crate) kept: MemoryRevocations,
    mood: Arc<Mutex<Mood>>,
    loads: Arc<AtomicUsize>,
    told: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Good,
    Down,
    Hanging,
}

impl Moody {
    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    /// How often it was told to keep something.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }

    async fn answer(&self) -> Result<(), StoreError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Good => Ok(()),
            Mood::Down => Err(StoreError::new(io::Error::other("connection refused"))),
            Mood::Hanging => std::future::pending().await,
        }
    }
}

impl RevocationStore for Moody {
    async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.answer().await?;
        self.kept.revoke(request).await
    }

    async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.answer().await?;
        self.kept.revoked_since(position).await
    }

    async fn watch(&self, news: News) -> Result<(), StoreError> {
        self.answer().await?;
        self.kept.watch(news).await
    }
}

async fn node(store: &Moody, when_stale: WhenStale) -> Node {
    let builder = Revocations::builder(store.clone()).with_when_stale(when_stale);
    Node::of(builder, principals())
}

#[tokio::test(start_paused = true)]
async fn an_age_that_is_too_high_is_503_until_the_store_is_back() {
    for mood in [Mood::Down, Mood::Hanging] {
        let store = Moody::default();
        let node = node(&store, WhenStale::Refuse).await;
        node.revocations.ready().await.unwrap();
        assert_eq!(node.get("base").await.text, "200");
        sleep(Duration::from_secs(3)).await;
        store.is(mood);
        let age = node.revocations.age().unwrap();
        sleep(Duration::from_secs(10) - age).await;
        assert_eq!(node.get("base").await.text, "200", "OPAQUE-72: ten seconds are not over");
        sleep(Duration::from_millis(1)).await;
        let answer = node.get("base").await;
        answer.is_outage("attack 23: a token that was seen before");
        assert_eq!(answer.event["subject"], "ada", "whose token it was is known");
        node.get("subject").await.is_outage("one that was not");
        let unknown = node.get("nobody").await.text;
        assert_eq!(unknown, "401 invalid_token unknown_token", "a bad token stays one");
        sleep(Duration::from_secs(3600)).await;
        node.get("base").await.is_outage("however long it lasts");
        assert!(node.revocations.failures() > 100, "the operator can see it");
        assert!(node.revocations.age().unwrap() > Duration::from_secs(3600));

        store.kept.revoke(&request(Revocation::subject(ISSUER, "bob"))).await.unwrap();
        store.is(Mood::Good);
        sleep(Duration::from_secs(4)).await;
        assert!(node.accepts("base").await, "without a restart");
        assert!(!node.accepts("subject").await, "with what came in the meantime");
        assert_eq!(node.revocations.failures(), 0);
        assert_eq!(node.revocations.accepted_stale(), 0);
    }
}

fn request(revocation: Revocation) -> RevokeRequest {
    RevokeRequest::new(revocation, std::time::SystemTime::now())
}

#[tokio::test(start_paused = true)]
async fn nobody_comes_in_before_the_first_load() {
    let store = Moody::default();
    store.is(Mood::Hanging);
    let node = node(&store, WhenStale::Refuse).await;
    node.get("base").await.is_outage("nothing is known yet");
    assert_eq!(node.revocations.age(), None);
    let error = node.revocations.ready().await.unwrap_err();
    node.get("base").await.is_outage("nothing is known yet");
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.source().is_some(), "{error}: {cause}");
    store.is(Mood::Good);
    sleep(Duration::from_secs(4)).await;
    assert!(node.accepts("base").await);
}

#[tokio::test(start_paused = true)]
async fn a_known_revocation_is_no_outage() {
    let store = Moody::default();
    let node = node(&store, WhenStale::Refuse).await;
    node.revocations.ready().await.unwrap();
    node.revoke(Revocation::subject(ISSUER, "bob")).await;
    store.is(Mood::Down);
    sleep(Duration::from_secs(60)).await;
    assert!(!node.accepts("subject").await, "what is known to be revoked is 401");
    node.get("base").await.is_outage("what is not, is not known to be good");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_asks_the_store_waits_for_it_once_for_all() {
    let store = Moody::default();
    // A poll so seldom that only requests ask.
    let builder = Revocations::builder(store.clone()).with_when_stale(WhenStale::Ask);
    let hour = Duration::from_secs(3600);
    let builder = builder.with_poll_interval(hour * 3).with_max_age(hour * 4);
    let node = Node::of(builder, principals());
    node.revocations.ready().await.unwrap();
    assert!(node.accepts("base").await);
    let loads = store.loads();
    store.is(Mood::Down);
    advance(hour * 5).await;
    node.get("base").await.is_outage("it was asked, and is down");
    assert!(store.loads() > loads, "OPAQUE-73");

    store.is(Mood::Hanging);
    let began = Instant::now();
    let answers: Vec<_> = many(&node, 50).await;
    assert!(began.elapsed() < Duration::from_secs(6), "not one after the other");
    for answer in answers {
        answer.is_outage("it hangs");
    }

    store.kept.revoke(&request(Revocation::subject(ISSUER, "bob"))).await.unwrap();
    store.is(Mood::Good);
    let loads = store.loads();
    assert!(!node.accepts("subject").await, "OPAQUE-73: what is new is known at once");
    assert!(node.accepts("base").await);
    assert_eq!(store.loads(), loads + 1, "the second needed not ask");
}

async fn many(node: &Node, count: usize) -> Vec<crate::node::Answer> {
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..count {
        let node = node.clone();
        asking.spawn(async move { node.get("base").await });
    }
    asking.join_all().await
}

/// The store may have answered one that had begun before something was revoked.
#[tokio::test(start_paused = true)]
async fn a_request_that_asks_the_store_does_not_take_an_earlier_answer_for_its_own() {
    #[derive(Clone)]
    struct Gate(MemoryRevocations, Arc<Semaphore>);
    impl RevocationStore for Gate {
        async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
            self.0.revoke(request).await
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            let page = self.0.revoked_since(position).await;
            self.1.acquire().await.unwrap().forget();
            page
        }
    }
    let hour = Duration::from_secs(3600);
    let store = Gate(MemoryRevocations::new(), Arc::new(Semaphore::new(1)));
    let builder = Revocations::builder(store.clone()).with_when_stale(WhenStale::Ask);
    let builder = builder.with_poll_interval(hour).with_max_age(hour * 2).with_timeout(hour * 20);
    let node = Node::of(builder, principals());
    node.revocations.ready().await.unwrap();
    assert!(node.accepts("subject").await);
    // The regular load has begun, and is not answered.
    sleep(hour * 5).await;
    store.revoke(&request(Revocation::subject(ISSUER, "bob"))).await.unwrap();
    let asking = tokio::spawn({
        let node = node.clone();
        async move { node.accepts("subject").await }
    });
    sleep(hour).await;
    assert!(!asking.is_finished(), "it waits");
    store.1.add_permits(1000);
    assert!(!asking.await.unwrap(), "OPAQUE-73: it was revoked before the request came");
}

/// While a machine sleeps, its monotonic clock stands still, and others revoke.
#[tokio::test(start_paused = true)]
async fn a_machine_that_has_slept_knows_that_it_has() {
    let store = MemoryRevocations::new();
    let (clock, minute) = (ManualClock::default(), Duration::from_secs(60));
    let polled = Polled(store.clone());
    let builder = Revocations::builder(polled).with_poll_interval(minute);
    let node = Node::at(builder.with_max_age(minute * 10), principals(), clock.clone());
    node.revocations.ready().await.unwrap();
    assert!(node.accepts("subject").await);
    clock.set_now(clock.now() + minute * 10);
    assert!(node.accepts("subject").await, "OPAQUE-72: ten minutes are not over");
    assert_eq!(node.revocations.age(), Some(minute * 10));
    store.revoke(&request(Revocation::subject(ISSUER, "bob"))).await.unwrap();
    clock.set_now(clock.now() + Duration::from_millis(1));
    node.get("subject").await.is_outage("it slept");
    sleep(minute).await;
    assert!(!node.accepts("subject").await, "OPAQUE-73: it has caught up");
    assert!(node.accepts("base").await, "and comes back by itself");
    // A clock that is set back makes nothing younger than it is.
    clock.set_now(clock.now() - minute * 60);
    assert!(node.accepts("base").await);
    assert!(node.revocations.age().unwrap() <= minute);
}

/// Says nothing by itself.
struct Polled(MemoryRevocations);

impl RevocationStore for Polled {
    async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
        self.0.revoke(request).await
    }

    async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
        self.0.revoked_since(position).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_in_an_outage_has_to_be_chosen_and_is_counted_and_written_down() {
    let store = Moody::default();
    let node = node(&store, WhenStale::Accept).await;
    node.revocations.ready().await.unwrap();
    let answer = node.get("base").await;
    assert_eq!((answer.text.as_str(), &answer.event["stale"]), ("200", &serde_json::Value::Null));
    node.revoke(Revocation::subject(ISSUER, "bob")).await;
    store.is(Mood::Down);
    sleep(Duration::from_secs(11)).await;
    for n in 1..=3 {
        let answer = node.get("base").await;
        assert_eq!(answer.text, "200", "OPAQUE-72");
        assert_eq!(answer.event["stale"], true, "OPAQUE-72");
        assert_eq!(node.revocations.accepted_stale(), n, "OPAQUE-72");
    }
    assert!(!node.accepts("subject").await, "what is known is enforced");
    store.is(Mood::Good);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(node.get("base").await.event["stale"], serde_json::Value::Null);
    assert_eq!(node.revocations.accepted_stale(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_the_store_did_not_keep_is_an_error_and_enforced_here() {
    for mood in [Mood::Down, Mood::Hanging] {
        let store = Moody::default();
        let node = node(&store, WhenStale::Refuse).await;
        node.revocations.ready().await.unwrap();
        assert!(node.accepts("base").await);
        store.is(mood);
        let began = Instant::now();
        let revocation = Revocation::token(ISSUER, "t-1");
        let error = node.revocations.revoke(revocation.clone()).await.unwrap_err();
        assert!(std::error::Error::source(&error).is_some());
        assert!(began.elapsed() <= Duration::from_secs(2), "the time of one answer");
        assert!(!node.accepts("base").await, "OPAQUE-70");
        store.is(Mood::Good);
        sleep(Duration::from_secs(120)).await;
        assert!(!node.accepts("base").await, "no load takes it back");
        node.revoke(revocation).await;
        assert_eq!(store.kept.revoked_since(0).await.unwrap().revocations.len(), 1);
    }
}

/// Not even where the store has forgotten it, as after a failover.
#[tokio::test(start_paused = true)]
async fn what_a_store_has_lost_is_enforced_by_those_who_know_it() {
    #[derive(Clone, Default)]
    struct Failover(Arc<Mutex<MemoryRevocations>>);
    impl Failover {
        fn current(&self) -> MemoryRevocations {
            self.0.lock().unwrap().clone()
        }
    }
    impl RevocationStore for Failover {
        async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
            self.current().revoke(request).await
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            self.current().revoked_since(position).await
        }
    }
    let store = Failover::default();
    let node = Node::start(store.clone()).await;
    for id in ["t-1", "x-1", "x-2", "x-3"] {
        node.revoke(Revocation::token(ISSUER, id)).await;
    }
    sleep(Duration::from_secs(2)).await;
    assert!(node.accepts("subject").await);
    *store.0.lock().unwrap() = MemoryRevocations::new();
    // This one has a lower position than what the node has read.
    store.revoke(&request(Revocation::subject(ISSUER, "bob"))).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(!node.accepts("base").await);
    assert!(!node.accepts("subject").await, "OPAQUE-73: the store has counted further before");
}

/// Everything is loaded anew each minute, in twenty seconds here: longer than the age allows.
#[tokio::test(start_paused = true)]
async fn while_all_is_loaded_anew_what_is_new_is_loaded_too() {
    const PAGES: u64 = 40;
    #[derive(Clone)]
    struct Slow(MemoryRevocations, Arc<Mutex<Vec<Instant>>>);
    impl RevocationStore for Slow {
        async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
            self.0.revoke(request).await
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            if position == 0 {
                self.1.lock().unwrap().push(Instant::now());
            }
            let mut page = self.0.revoked_since(position).await?;
            if position < PAGES {
                sleep(Duration::from_millis(500)).await;
                page.revocations.truncate(1);
                page = RevocationPage::new(page.revocations, position + 1, false);
            }
            Ok(page)
        }
    }
    let store = Slow(MemoryRevocations::new(), Arc::default());
    for n in 0..PAGES {
        let old = Revocation::token(ISSUER, &format!("old-{n}"));
        store.revoke(&request(old)).await.unwrap();
    }
    let node = Node::start(store.clone()).await;
    let mut oldest = Duration::ZERO;
    for n in 0..200 {
        let new = Revocation::token(ISSUER, &format!("new-{n}"));
        store.revoke(&request(new)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(node.accepts("base").await, "OPAQUE-72");
        assert_eq!(node.revocations.len(), 41 + n, "OPAQUE-73");
        oldest = oldest.max(node.revocations.age().unwrap());
    }
    assert!(oldest <= Duration::from_secs(1), "{oldest:?}");
    let fulls = store.1.lock().unwrap().len();
    assert!((3..=4).contains(&fulls), "{fulls} in 200 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_is_polled() {
    struct Silent(MemoryRevocations, Arc<AtomicUsize>);
    impl RevocationStore for Silent {
        async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
            self.0.revoke(request).await
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.revoked_since(position).await
        }
    }
    let (kept, loads) = (MemoryRevocations::new(), Arc::<AtomicUsize>::default());
    let node = Node::start(Silent(kept.clone(), loads.clone())).await;
    for (token, id) in [("base", "t-1"), ("token", "t-4"), ("key", "t-5")] {
        assert!(node.accepts(token).await);
        kept.revoke(&request(Revocation::token(ISSUER, id))).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(!node.accepts(token).await, "OPAQUE-73: a second is the documented delay");
    }
    let before = loads.load(Ordering::SeqCst);
    sleep(Duration::from_secs(100)).await;
    let polls = loads.load(Ordering::SeqCst) - before;
    assert!((100..=200).contains(&polls), "{polls} polls in 100 seconds");
}

/// Every try to watch costs a connection.
#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_off_is_tried_again_with_growing_waits() {
    struct Unwatched(MemoryRevocations, Arc<Mutex<Vec<Instant>>>);
    impl RevocationStore for Unwatched {
        async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
            self.0.revoke(request).await
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            self.0.revoked_since(position).await
        }

        async fn watch(&self, _: News) -> Result<(), StoreError> {
            self.1.lock().unwrap().push(Instant::now());
            Err(StoreError::new("no"))
        }
    }
    let tries = Arc::<Mutex<Vec<Instant>>>::default();
    let node = Node::start(Unwatched(MemoryRevocations::new(), tries.clone())).await;
    sleep(Duration::from_secs(100)).await;
    let times = tries.lock().unwrap().clone();
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    for (wait, most) in waits.iter().zip([100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]) {
        // The timer counts whole milliseconds.
        assert!((most / 2..=most + 2).contains(wait), "{waits:?}");
    }
    assert!(node.accepts("base").await, "polling goes on");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_gives_nothing_and_says_there_is_more_is_an_outage() {
    struct Endless;
    impl RevocationStore for Endless {
        async fn revoke(&self, _: &RevokeRequest) -> Result<(), StoreError> {
            Ok(())
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            Ok(RevocationPage::new(Vec::new(), position, false))
        }
    }
    let node = Node::of(Revocations::builder(Endless), principals());
    node.revocations.ready().await.unwrap_err();
    node.get("base").await.is_outage("a defect of the store");
}

#[tokio::test(start_paused = true)]
async fn the_tasks_end_with_the_last_owner() {
    let store = Moody::default();
    let node = node(&store, WhenStale::Refuse).await;
    let revocations = node.revocations.clone();
    revocations.ready().await.unwrap();
    drop(revocations);
    sleep(Duration::from_secs(60)).await;
    assert!(node.accepts("base").await, "a verifier is an owner");
    let loads = Arc::downgrade(&store.loads);
    drop((store, node));
    tokio::task::yield_now().await;
    assert!(loads.upgrade().is_none(), "nobody is left who could ask");
}

#[test]
fn a_runtime_that_ends_too_early_leaves_revocations_that_grow_stale() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let short = runtime();
    let node = short.block_on(async {
        let builder = Revocations::builder(MemoryRevocations::new());
        let builder = builder.with_poll_interval(Duration::from_millis(10));
        let node = Node::of(builder.with_max_age(Duration::from_millis(50)), principals());
        node.revocations.ready().await.unwrap();
        node
    });
    drop(short);
    runtime().block_on(async {
        let long = Duration::from_secs(5);
        node.answers_within("base", DOWN, long).await;
    });
}

#[tokio::test]
async fn times_that_cannot_be_kept_are_refused() {
    let builder = || Revocations::builder(MemoryRevocations::new());
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    for (builder, why) in [
        (builder().with_poll_interval(Duration::ZERO), "a poll without a pause"),
        (builder().with_max_age(second), "an age that the poll reaches"),
        (builder().with_max_age(day + second), "an age without bounds"),
        (builder().with_timeout(Duration::ZERO), "no time to answer"),
        (builder().with_longest_life(Duration::ZERO), "OPAQUE-71: revocations that end at once"),
        (builder().with_longest_life(second * 59), "OPAQUE-71: minutes, told as seconds"),
    ] {
        assert_eq!(builder.start().unwrap_err(), InvalidRevocations::Times, "{why}");
    }
    for life in [second * 60, day * 36_500, Duration::MAX] {
        builder().with_longest_life(life).start().unwrap();
    }
    let outside = std::thread::spawn(move || builder().start().unwrap_err()).join().unwrap();
    assert_eq!(outside, InvalidRevocations::NoRuntime);
}

/// An error of somebody's code in a task that nobody sees must not end it.
#[tokio::test(start_paused = true)]
async fn a_store_that_panics_is_one_that_is_down() {
    struct Panicking(MemoryRevocations, AtomicUsize, AtomicUsize);
    impl RevocationStore for Panicking {
        async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
            self.0.revoke(request).await
        }

        async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
            assert!(self.1.fetch_add(1, Ordering::SeqCst) > 2, "a bug in the store");
            self.0.revoked_since(position).await
        }

        async fn watch(&self, news: News) -> Result<(), StoreError> {
            assert!(self.2.fetch_add(1, Ordering::SeqCst) > 2, "a bug in the store");
            self.0.watch(news).await
        }
    }
    let kept = MemoryRevocations::new();
    let store = Panicking(kept.clone(), AtomicUsize::new(0), AtomicUsize::new(0));
    let hour = Duration::from_secs(3600);
    let builder = Revocations::builder(store).with_poll_interval(hour).with_max_age(hour * 2);
    let node = Node::of(builder, principals());
    node.revocations.ready().await.unwrap_err();
    node.get("base").await.is_outage("nothing is known yet");
    sleep(Duration::from_secs(5)).await;
    assert!(node.accepts("base").await);
    kept.revoke(&request(Revocation::token(ISSUER, "t-1"))).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(!node.accepts("base").await, "the news come, too");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_logged_when_it_begins_and_when_the_age_is_too_high() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let store = Moody::default();
    let node = node(&store, WhenStale::Refuse).await;
    node.revocations.ready().await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(log.lines(), [] as [&str; 0]);
    store.is(Mood::Down);
    sleep(Duration::from_secs(5)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "OPAQUE-72: {lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("connection refused"), "{lines:?}");
    sleep(Duration::from_secs(3600)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "OPAQUE-72: {lines:?}");
    assert!(lines[1].contains("ERROR") && lines[1].contains("too old"), "{lines:?}");
    // The end of the program is no outage.
    drop(node);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(log.lines().len(), 2);
}

/// One that stands outside of this verifier is no way around it.
#[tokio::test(start_paused = true)]
async fn a_cache_outside_forgets_when_something_is_revoked() {
    use tower_gate::verifier::revocable::RevocableVerifier;
    use tower_gate::verifier::{CachedVerifier, VerifyErrorKind, VerifyRequest};

    let revocations = Revocations::builder(MemoryRevocations::new()).start().unwrap();
    revocations.ready().await.unwrap();
    let inner = |request: VerifyRequest| {
        let found = principals().get(request.token.as_str()).cloned();
        async move { found.ok_or(VerifyErrorKind::UnknownToken.into()) }
    };
    let verifier = CachedVerifier::new(RevocableVerifier::new(inner, &revocations));
    let node = Node::behind(revocations, verifier, ManualClock::default());
    assert!(node.accepts("base").await);
    node.revoke(Revocation::token(ISSUER, "t-1")).await;
    assert!(!node.accepts("base").await, "attack 23");
    assert!(node.accepts("token").await);
}

/// Nor is one that keeps what the application loads for a principal.
#[tokio::test(start_paused = true)]
async fn a_cache_outside_accepts_nobody_while_the_age_is_too_high() {
    use tower_gate::TokenVerifier;
    use tower_gate::verifier::revocable::RevocableVerifier;
    use tower_gate::verifier::{CachedVerifier, VerifyError, VerifyErrorKind, VerifyRequest};

    let store = Moody::default();
    let revocations = Revocations::builder(store.clone()).start().unwrap();
    revocations.ready().await.unwrap();
    let inner = |request: VerifyRequest| {
        let found = principals().get(request.token.as_str()).cloned();
        async move { found.ok_or(VerifyErrorKind::UnknownToken.into()) }
    };
    // Twice, as where opaque tokens that other nodes are told of are among others.
    let revocable = RevocableVerifier::new(inner, &revocations);
    let revocable = RevocableVerifier::new(revocable, &revocations);
    let load = async |_| Ok::<_, VerifyError>("the user");
    let verifier = CachedVerifier::new(revocable.load(load));
    let node = Node::behind(revocations, verifier, ManualClock::default());
    assert!(node.accepts("base").await);
    store.is(Mood::Down);
    sleep(Duration::from_secs(9)).await;
    assert!(node.accepts("base").await, "it is young enough");
    sleep(Duration::from_secs(3)).await;
    node.get("base").await.is_outage("what is remembered is not good by itself");
    store.is(Mood::Good);
    sleep(Duration::from_secs(2)).await;
    assert!(node.accepts("base").await);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_seen_before_is_asked_about_and_not_verified_again() {
    let node = Node::start(MemoryRevocations::new()).await;
    for _ in 0..3 {
        assert!(node.accepts("base").await);
    }
    node.revoke(Revocation::subject(ISSUER, "bob")).await;
    assert!(node.accepts("base").await);
    assert_eq!(node.verified(), 1, "attack 23: only revocations were looked at");
    node.revoke(Revocation::subject(ISSUER, "ada")).await;
    let answer = node.get("base").await;
    assert_eq!(answer.text, "401 token_revoked revoked", "OPAQUE-70");
    assert!(answer.challenged);
    assert_eq!(answer.event["subject"], "ada", "the trail says whose token was used");
    assert_eq!(answer.event["reason"], "revoked");
    assert_eq!(node.verified(), 1);
}
