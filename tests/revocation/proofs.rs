//! What opaque tokens promise over real databases: once `revoke` has returned, nobody comes in with
//! the token on that node, whatever runs; and no server that is told of it learns the token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use proptest::sample::select;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tokio::task::{JoinSet, yield_now};
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::store::{RevocationStore, TokenFilter, TokenStore};
use tower_gate::test_util::TestIssuer;
use tower_gate::verifier::CachedVerifier;
use tower_gate::verifier::opaque::{
    IssuedToken, NewToken, OpaqueTokens, OpaqueTokensBuilder, Pepper, Peppers,
};
use tower_gate::verifier::revocable::{RevocableVerifier, Revocations};
use tower_gate::{Revocation, SystemClock};

use crate::node::{ISSUER, Node};
use crate::servers::Directory;
use crate::servers::redis::Redis;
use crate::shared::{Shared, database, pool};

/// Tokens that are remembered for longer than a test takes.
fn remembered(store: impl TokenStore) -> OpaqueTokensBuilder {
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    OpaqueTokens::builder(ISSUER, store, peppers)
        .with_max_age(Duration::from_secs(300))
        .with_timeout(Duration::from_secs(30))
}

/// On a node that tells others, and is told by them.
pub(crate) fn tokens(store: impl TokenStore, revocations: &Revocations) -> (OpaqueTokens, Node) {
    let tokens = remembered(store).with_revocations(revocations).build().unwrap();
    let verifier = tokens.verifier();
    (tokens, Node::behind(revocations.clone(), verifier, SystemClock))
}

pub(crate) async fn token_store(url: &str) -> PostgresTokenStore {
    let store = PostgresTokenStore::new(pool(url).await);
    store.migrate().await.unwrap();
    store
}

/// How many ask, and what goes on when a token ends.
#[derive(Clone, Copy, Debug)]
struct Load {
    asking: usize,
    /// How many answers there were before.
    answers: u64,
    /// Whether the node is told by others, and by itself, what has ended. One that is alone only has
    /// what it remembers to forget.
    told: bool,
    end: End,
}

/// All that ends a token on this node before it returns.
#[derive(Clone, Copy, Debug)]
enum End {
    Disable,
    Expire,
    Replace,
    Revoke,
    RevokeClient,
    RevokeSubject,
}

const ENDS: [End; 6] =
    [End::Disable, End::Expire, End::Replace, End::Revoke, End::RevokeClient, End::RevokeSubject];

impl End {
    /// Ends the only token of this name; the one in its place, where there is one.
    async fn end(self, tokens: &OpaqueTokens, name: &str, id: &str) -> Option<IssuedToken> {
        let ended = match self {
            Self::Disable => tokens.disable(id).await.unwrap(),
            Self::Expire => {
                tokens.expire(id, SystemTime::now() - Duration::from_secs(1)).await.unwrap()
            }
            Self::Replace => return Some(tokens.rotate(id, Duration::ZERO).await.unwrap()),
            Self::Revoke => tokens.revoke(id).await.unwrap(),
            Self::RevokeClient => tokens.revoke_all(TokenFilter::client(name)).await.unwrap() == 1,
            Self::RevokeSubject => {
                tokens.revoke_all(TokenFilter::subject(ISSUER, name)).await.unwrap() == 1
            }
        };
        assert!(ended, "{self:?}");
        None
    }
}

fn load() -> impl Strategy<Value = Load> {
    // Often the first are on their way to the store when the token ends.
    let answers = prop_oneof![Just(0), 0..200_u64];
    (1..8_usize, answers, any::<bool>(), select(&ENDS))
        .prop_map(|(asking, answers, told, end)| Load { asking, answers, told, end })
}

/// The answers before the end, and those after it.
async fn run((tokens, node): &(OpaqueTokens, Node), load: Load) -> Result<[u64; 2], String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("ada-{}", NEXT.fetch_add(1, Ordering::SeqCst));
    let issued = tokens.issue(NewToken::new(&name).client(&name)).await.unwrap();
    let bystander = tokens.issue(NewToken::new("bob").client("web")).await.unwrap();
    let has_ended = Arc::<AtomicBool>::default();
    let counts = Arc::<[AtomicU64; 2]>::default();
    let mut asking = JoinSet::new();
    for _ in 0..load.asking {
        let node = node.clone();
        let [text, other] = [&issued, &bystander].map(|of| of.token.expose().to_owned());
        let (has_ended, counts) = (has_ended.clone(), counts.clone());
        asking.spawn(async move {
            let mut after = 0;
            while after < 20 {
                let had_ended = has_ended.load(Ordering::SeqCst);
                let answer = node.get(&text).await.text;
                let is_refused = answer.starts_with("401 token_");
                if !is_refused && (had_ended || answer != "200") {
                    return Err(format!("{answer}, {after} answers after it had ended"));
                }
                let answer = node.get(&other).await.text;
                if answer != "200" {
                    return Err(format!("{answer} for a token of somebody else"));
                }
                after += u64::from(had_ended);
                counts[usize::from(had_ended)].fetch_add(1, Ordering::SeqCst);
                yield_now().await;
            }
            Ok(())
        });
    }
    while counts[0].load(Ordering::SeqCst) < load.answers {
        if let Some(failed) = asking.try_join_next() {
            failed.unwrap()?;
        }
        yield_now().await;
    }
    let next = load.end.end(tokens, &name, &issued.record.id).await;
    has_ended.store(true, Ordering::SeqCst);
    while let Some(asked) = asking.join_next().await {
        asked.unwrap()?;
    }
    if let Some(next) = next {
        assert!(node.accepts(next.token.expose()).await, "the one in its place");
    }
    Ok(counts.each_ref().map(|count| count.load(Ordering::SeqCst)))
}

/// On several threads, where other nodes are told and where there are none.
fn after_its_end_nobody_comes_in_with_a_token<S: TokenStore + Clone>(store: impl AsyncFn() -> S) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let nodes = runtime.block_on(async {
        let revocations = Revocations::builder(MemoryRevocations::new()).start().unwrap();
        revocations.ready().await.unwrap();
        let store = store().await;
        let alone = remembered(store.clone()).build().unwrap();
        let told = tokens(store, &revocations);
        let node = Node::behind(revocations, alone.verifier(), SystemClock);
        [(alone, node), told]
    });
    let total: [AtomicU64; 2] = Default::default();
    proptest!(ProptestConfig { cases: 96, max_shrink_iters: 0, ..ProptestConfig::default() },
        |(load in load())| {
            match runtime.block_on(run(&nodes[usize::from(load.told)], load)) {
                Ok(counts) => for (total, count) in total.iter().zip(counts) {
                    total.fetch_add(count, Ordering::Relaxed);
                },
                Err(why) => prop_assert!(false, "OPAQUE-70, attack 23: {why}: {load:?}"),
            }
        }
    );
    let [before, after] = total.map(AtomicU64::into_inner);
    assert!(before > 1000 && after > 1000, "{before} before, {after} after");
}

#[test]
fn over_sqlite_nobody_comes_in_under_load_after_the_end_of_a_token() {
    let directory = Directory::new();
    after_its_end_nobody_comes_in_with_a_token(async || {
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("tokens"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let store = SqliteTokenStore::new(SqlitePool::connect_with(options).await.unwrap());
        store.migrate().await.unwrap();
        store
    });
}

#[test]
fn over_postgres_nobody_comes_in_under_load_after_the_end_of_a_token() {
    let database = database();
    after_its_end_nobody_comes_in_with_a_token(async || token_store(database.url()).await);
}

/// Tokens that were issued, used, replaced and revoked in every way, signed ones and opaque ones.
async fn live(store: impl RevocationStore, database: &str) -> Vec<String> {
    let revocations = Revocations::builder(store).start().unwrap();
    revocations.ready().await.unwrap();
    let (tokens, opaque) = tokens(token_store(database).await, &revocations);
    let mut texts = Vec::new();
    for n in 0..6 {
        let new = NewToken::new(&format!("user-{n}")).client("web");
        let issued = tokens.issue(new).await.unwrap();
        let (id, text) = (&issued.record.id, issued.token.expose().to_owned());
        assert!(opaque.accepts(&text).await);
        match n % 3 {
            0 => assert!(tokens.revoke(id).await.unwrap()),
            1 => {
                let next = tokens.rotate(id, Duration::ZERO).await.unwrap();
                texts.push(next.token.expose().to_owned());
            }
            _ => revocations.revoke(Revocation::token(ISSUER, id)).await.unwrap(),
        }
        assert!(!opaque.accepts(&text).await);
        texts.push(text);
    }
    let filter = TokenFilter::client("web");
    assert_eq!(tokens.revoke_all(filter).await.unwrap(), 4);

    let issuer = TestIssuer::new("https://signing.example", "api");
    let verifier = RevocableVerifier::new(CachedVerifier::new(issuer.verifier()), &revocations);
    let signed = Node::behind(revocations, verifier, SystemClock);
    let named = Revocation::token("https://signing.example", "test-user-0");
    for (n, revocation) in [
        named,
        Revocation::subject("https://signing.example", "user-1"),
        Revocation::client("https://signing.example", "app-2"),
        Revocation::key("https://signing.example", "test"),
    ]
    .into_iter()
    .enumerate()
    {
        let text = issuer.token(&format!("user-{n}")).client(&format!("app-{n}")).sign();
        assert!(signed.accepts(&text).await);
        signed.revoke(revocation).await;
        assert!(!signed.accepts(&text).await);
        texts.push(text);
    }
    texts
}

/// Neither tokens nor what is secret in them: letters between the prefix and the checksum, signatures.
fn are_absent(texts: &[String], dump: &str) {
    assert_eq!(texts.len(), 12);
    for text in texts {
        let secret = match text.rsplit_once('.') {
            Some((_, signature)) => signature,
            None => &text[3..46],
        };
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let base64 = [BASE64_STANDARD.encode(secret), BASE64_URL_SAFE_NO_PAD.encode(secret)];
        let [base64, for_urls] = base64.each_ref().map(|text| text.trim_end_matches('='));
        for form in [secret, &secret[..16], &secret[secret.len() - 16..], &hex, base64, for_urls] {
            assert!(!dump.contains(form), "attacks 36 and 38: {form} of {text} in {dump}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_or_value_in_redis_holds_a_token() {
    let (server, database) = (Redis::start(), database());
    let texts = live(server.store().await, database.url()).await;
    let mut dump = String::new();
    for key in server.keys() {
        assert_eq!(server.command(&["TYPE", &key]), "zset", "{key}");
        dump += &key;
        dump += &server.command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]);
    }
    assert_eq!(server.keys().len(), 2);
    assert_eq!(dump.matches("test-user-0").count(), 2, "revocations are there: {dump}");
    are_absent(&texts, &dump);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_table_in_postgres_holds_a_token() {
    let database = database();
    let texts = live(database.store().await, database.url()).await;
    let dump = database.dump();
    let rows = |table: &str| dump.matches(&format!("INSERT INTO public.{table} ")).count();
    assert_eq!(rows("tower_gate_tokens"), 8, "{dump}");
    assert!(rows("tower_gate_revocations") > 10, "{dump}");
    are_absent(&texts, &dump);
}
