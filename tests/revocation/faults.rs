//! What every engine and every adapter of one does through the layers when it is away: 503 with
//! `Retry-After` until it is back, never 401 for a good token, never 200 for one that has ended, and
//! no restart of the API afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_gate::store::memory::{MemoryRevocations, MemoryTokenStore};
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::store::{RevocationStore, StoreError, TokenStore};
use tower_gate::verifier::opaque::{
    IssuedToken, NewToken, OpaqueTokens, OpaqueTokensBuilder, Pepper, Peppers, TokenError,
};
use tower_gate::verifier::revocable::{Revocations, RevocationsBuilder};
use tower_gate::{Revocation, SystemClock};

use crate::node::{ISSUER, Node, principals};
use crate::servers::Directory;
use crate::servers::front::Front;
use crate::servers::postgres::Postgres;
use crate::shared::{Database, Server, pool, postgres, redis};

macro_rules! every_engine {
    ($($name:ident => $engine:expr;)+) => {
        mod an_outage_is_503_and_over_without_a_restart {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    an_outage_is_503_and_over_without_a_restart($engine).await;
                }
            )+
        }
    };
}

every_engine! {
    tokens_in_sqlite => File::new().await;
    tokens_in_postgres => Tokens(Reached::new(postgres()).await);
    revocations_in_postgres => Revoked(Reached::new(postgres()).await);
    revocations_in_redis => Revoked(Reached::new(redis()).await);
    revocations_of_tokens_in_redis => Told(MemoryTokenStore::new(), Reached::new(redis()).await);
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The server is killed and started again, the disk is unmounted and mounted again.
    Gone,
    /// It is there, and takes its time.
    Hanging,
    /// Connections break and new ones too, what is read is no database.
    Broken,
    /// Every connection breaks, and new ones do not.
    Hiccup,
}

const FAULTS: [Fault; 4] = [Fault::Gone, Fault::Hanging, Fault::Broken, Fault::Hiccup];

const DOWN: &str = "503 temporarily_unavailable verifier_unavailable";
const REVOKED: &str = "401 token_revoked revoked";
const UNKNOWN: &str = "401 invalid_token unknown_token";

/// For a server that starts again on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(1);

/// Something that can be away.
trait Engine {
    /// What an API over it says meanwhile of a token that has ended, and of one that nobody knows:
    /// some have to be asked about those too.
    const MEANWHILE: [&str; 2];

    async fn api(&self) -> Api;
    async fn begin(&mut self, fault: Fault);
    async fn end(&mut self, fault: Fault);
}

async fn an_outage_is_503_and_over_without_a_restart<E: Engine>(mut engine: E) {
    let mut api = engine.api().await;
    let [ended, unknown] = E::MEANWHILE;
    let mut over = vec![api.ended.clone()];
    for fault in FAULTS {
        let why = format!("{fault:?}");
        for (token, text) in [(&api.good, "200"), (&api.ended, REVOKED), (&api.unknown, UNKNOWN)] {
            api.comes_to(token, text, DOWN, &why).await;
        }
        engine.begin(fault).await;
        let (id, token) = api.rest.pop().unwrap();
        if !matches!(fault, Fault::Hiccup) {
            api.comes_to(&api.good, DOWN, "200", &why).await;
            for _ in 0..3 {
                for (token, text) in
                    [(&api.good, DOWN), (&api.ended, ended), (&api.unknown, unknown)]
                {
                    let answer = api.node.get(token).await;
                    assert_eq!(answer.text, text, "OPAQUE-15, OPAQUE-72: {why}");
                    if text == DOWN {
                        answer.is_outage(&why);
                    }
                }
            }
            api.refuses_a_crowd(&why).await;
            assert!(api.end(&id).await.is_err(), "{why}: nobody knows that it has ended");
            assert_ne!(api.node.get(&token).await.text, "200", "{why}");
            assert!(api.issue().await.is_none_or(|issued| issued.is_err()), "{why}");
        }
        engine.end(fault).await;
        api.comes_to(&api.good, "200", DOWN, &why).await;
        for (token, text) in [(&api.ended, REVOKED), (&api.unknown, UNKNOWN)] {
            api.comes_to(token, text, DOWN, &why).await;
        }
        let began = Instant::now();
        while let Err(error) = api.end(&id).await {
            assert!(began.elapsed() < LONG, "{why}: {error}");
        }
        api.comes_to(&token, REVOKED, DOWN, &format!("OPAQUE-70: {why}")).await;
        over.push(token);
        let new = loop {
            match api.issue().await {
                Some(Err(error)) => assert!(began.elapsed() < LONG, "{why}: {error}"),
                new => break new,
            }
        };
        if let Some(Ok(new)) = new {
            api.comes_to(new.token.expose(), "200", DOWN, &why).await;
        }
    }
    // Whoever starts now knows what the one that has been through all this does.
    let fresh = engine.api().await;
    fresh.comes_to(&api.good, "200", DOWN, "a fresh one").await;
    for token in &over {
        fresh.comes_to(token, REVOKED, DOWN, "a fresh one").await;
    }
}

/// An API that needs the engine.
struct Api {
    node: Node,
    ends: Ends,
    good: String,
    ended: String,
    unknown: String,
    /// Other good ones, with their ids.
    rest: Vec<(String, String)>,
}

/// What ends its tokens.
enum Ends {
    /// They come from the engine.
    Tokens(OpaqueTokens),
    /// They come from elsewhere, and the engine is told.
    Told(OpaqueTokens),
    Revocations,
}

impl Api {
    /// Where the tokens themselves are in the engine, which is asked about each of them.
    async fn of_tokens(store: impl TokenStore) -> Self {
        let revocations = Revocations::builder(MemoryRevocations::new()).start().unwrap();
        let tokens = tokens(store).with_max_age(Duration::ZERO).build().unwrap();
        Self::of(&tokens, revocations, Ends::Tokens(tokens.clone())).await
    }

    /// Where they are remembered, and the engine tells which have ended.
    async fn of_told(store: impl TokenStore, told: impl RevocationStore) -> Self {
        let revocations = revocations(told).start().unwrap();
        let long = Duration::from_secs(300);
        let tokens = tokens(store).with_max_age(long).with_revocations(&revocations);
        let tokens = tokens.build().unwrap();
        Self::of(&tokens, revocations, Ends::Told(tokens.clone())).await
    }

    async fn of(tokens: &OpaqueTokens, revocations: Revocations, ends: Ends) -> Self {
        revocations.ready().await.unwrap();
        let node = Node::behind(revocations, tokens.verifier(), SystemClock);
        let mut rest = Vec::new();
        for _ in 0..FAULTS.len() + 2 {
            let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
            rest.push((issued.record.id, issued.token.expose().to_owned()));
        }
        let [(_, good), (ended_id, ended)] = [rest.pop().unwrap(), rest.pop().unwrap()];
        assert!(tokens.revoke(&ended_id).await.unwrap());
        let elsewhere = self::tokens(MemoryTokenStore::new()).build().unwrap();
        let unknown = elsewhere.issue(NewToken::new("ada")).await.unwrap();
        let unknown = unknown.token.expose().to_owned();
        Self { node, ends, good, ended, unknown, rest }
    }

    /// Where the engine keeps what has ended, which the node knows for as long as it hears of it.
    async fn of_revocations(store: impl RevocationStore) -> Self {
        let node = Node::of(revocations(store), principals());
        node.revocations.ready().await.unwrap();
        node.revoke(Revocation::token(ISSUER, "t-1")).await;
        let rest = [("t-2", "subject"), ("t-3", "client"), ("t-4", "token"), ("t-5", "key")];
        let rest = rest.map(|(id, token)| (id.to_owned(), token.to_owned())).into();
        let [good, ended, unknown] = ["young", "base", "nobody"].map(str::to_owned);
        Self { node, ends: Ends::Revocations, good, ended, unknown, rest }
    }

    async fn end(&self, id: &str) -> Result<(), StoreError> {
        match &self.ends {
            Ends::Tokens(tokens) | Ends::Told(tokens) => tokens.revoke(id).await.map(drop),
            Ends::Revocations => self.node.revocations.revoke(Revocation::token(ISSUER, id)).await,
        }
    }

    /// A new token, where they come from here.
    async fn issue(&self) -> Option<Result<IssuedToken, TokenError>> {
        match &self.ends {
            Ends::Tokens(tokens) => Some(tokens.issue(NewToken::new("ada")).await),
            Ends::Told(_) | Ends::Revocations => None,
        }
    }

    /// Waits for an answer, and for no other than this one until then.
    async fn comes_to(&self, token: &str, text: &str, until_then: &str, why: &str) {
        let began = Instant::now();
        loop {
            let answer = self.node.get(token).await;
            if answer.text == text {
                return;
            }
            assert_eq!(answer.text, until_then, "{why}: neither this nor {text}");
            if until_then == DOWN {
                answer.is_outage(why);
            }
            assert!(began.elapsed() < LONG, "{why}: {until_then} for ever, and not {text}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// More requests at once than there are connections, none of which waits for all the others.
    async fn refuses_a_crowd(&self, why: &str) {
        let (began, mut crowd) = (Instant::now(), JoinSet::new());
        for _ in 0..20 {
            let (node, good) = (self.node.clone(), self.good.clone());
            crowd.spawn(async move { node.get(&good).await });
        }
        for answer in crowd.join_all().await {
            answer.is_outage(why);
        }
        assert!(began.elapsed() < TIMEOUT * 10, "{why}: {:?}", began.elapsed());
    }
}

fn tokens(store: impl TokenStore) -> OpaqueTokensBuilder {
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let tokens = OpaqueTokens::builder(ISSUER, store, peppers);
    tokens.with_timeout(TIMEOUT).with_admin_timeout(TIMEOUT)
}

fn revocations(store: impl RevocationStore) -> RevocationsBuilder {
    Revocations::builder(store)
        .with_poll_interval(Duration::from_millis(200))
        .with_timeout(TIMEOUT)
        .with_max_age(TIMEOUT * 2)
}

/// A server, and the way to it.
struct Reached<S> {
    server: S,
    front: Front,
}

impl<S: Server> Reached<S> {
    async fn new(server: S) -> Self {
        let front = Front::before(&server.url()).await;
        Self { server, front }
    }

    fn url(&self) -> String {
        self.front.url(&self.server.url())
    }

    fn begin(&self, fault: Fault) {
        match fault {
            Fault::Gone => self.server.kill(),
            Fault::Hanging => self.server.pause(),
            Fault::Broken => self.front.close(),
            Fault::Hiccup => self.server.cut(),
        }
    }

    fn end(&self, fault: Fault) {
        match fault {
            Fault::Gone => self.server.restart(),
            Fault::Hanging => self.server.resume(),
            Fault::Broken => self.front.lead_to(&self.server.url()),
            Fault::Hiccup => {}
        }
    }
}

struct Revoked<S>(Reached<S>);

impl<S: Server> Engine for Revoked<S> {
    const MEANWHILE: [&str; 2] = [REVOKED, UNKNOWN];

    async fn api(&self) -> Api {
        Api::of_revocations(self.0.server.store_at(&self.0.url()).await).await
    }

    async fn begin(&mut self, fault: Fault) {
        self.0.begin(fault);
    }

    async fn end(&mut self, fault: Fault) {
        self.0.end(fault);
    }
}

struct Told<S>(MemoryTokenStore, Reached<S>);

impl<S: Server> Engine for Told<S> {
    const MEANWHILE: [&str; 2] = [REVOKED, UNKNOWN];

    async fn api(&self) -> Api {
        let told = self.1.server.store_at(&self.1.url()).await;
        Api::of_told(self.0.clone(), told).await
    }

    async fn begin(&mut self, fault: Fault) {
        self.1.begin(fault);
    }

    async fn end(&mut self, fault: Fault) {
        self.1.end(fault);
    }
}

struct Tokens(Reached<Database<Postgres>>);

impl Engine for Tokens {
    const MEANWHILE: [&str; 2] = [DOWN, DOWN];

    async fn api(&self) -> Api {
        let store = PostgresTokenStore::new(pool(&self.0.url()).await);
        store.migrate().await.unwrap();
        Api::of_tokens(store).await
    }

    async fn begin(&mut self, fault: Fault) {
        self.0.begin(fault);
    }

    async fn end(&mut self, fault: Fault) {
        self.0.end(fault);
    }
}

/// A database in a file. Nobody holds it open longer than for a question, as on a disk that can be
/// taken away; and without a write-ahead log, who reads waits for who writes.
struct File {
    path: PathBuf,
    _directory: Directory,
    /// Whoever writes and does not come to an end.
    writer: Option<SqliteConnection>,
    /// What was in it before it was overwritten.
    content: Vec<u8>,
}

impl File {
    async fn new() -> Self {
        let directory = Directory::new();
        let path = directory.path().join("tokens");
        let this = Self { path, _directory: directory, writer: None, content: Vec::new() };
        drop(this.options().create_if_missing(true).connect().await.unwrap());
        this
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .journal_mode(SqliteJournalMode::Delete)
            .busy_timeout(TIMEOUT)
    }

    fn elsewhere(&self) -> PathBuf {
        self.path.with_extension("unmounted")
    }
}

impl Engine for File {
    const MEANWHILE: [&str; 2] = [DOWN, DOWN];

    async fn api(&self) -> Api {
        let options = SqlitePoolOptions::new()
            .max_connections(4)
            .before_acquire(|_, _| Box::pin(async { Ok(false) }));
        let store = SqliteTokenStore::new(options.connect_with(self.options()).await.unwrap());
        store.migrate().await.unwrap();
        Api::of_tokens(store).await
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Gone => std::fs::rename(&self.path, self.elsewhere()).unwrap(),
            Fault::Hanging => {
                let mut writer = self.options().connect().await.unwrap();
                writer.execute("BEGIN EXCLUSIVE").await.unwrap();
                self.writer = Some(writer);
            }
            Fault::Broken => {
                self.content = std::fs::read(&self.path).unwrap();
                std::fs::write(&self.path, vec![0x5a; self.content.len()]).unwrap();
            }
            // Each question has a connection of its own.
            Fault::Hiccup => {}
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Gone => std::fs::rename(self.elsewhere(), &self.path).unwrap(),
            Fault::Hanging => self.writer.take().unwrap().close().await.unwrap(),
            Fault::Broken => std::fs::write(&self.path, &self.content).unwrap(),
            Fault::Hiccup => {}
        }
    }
}
