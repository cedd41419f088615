//! Opaque tokens: one that is remembered, and those that the store is asked about, beside the bare
//! query through the same pool.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tokio::runtime::{Builder, Runtime};
use tower_gate::store::TokenStore;
use tower_gate::store::memory::MemoryTokenStore;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::verifier::VerifyRequest;
use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, OpaqueVerifier, Pepper, Peppers};
use tower_gate::{BearerToken, TokenVerifier};

use crate::harness::{Subject, median};
use crate::servers::postgres::Postgres;

/// How many tokens there are.
const TOKENS: usize = 1000;

/// All columns of one record, as the store asks for them.
const QUERY: &str = "SELECT id, digest, pepper, issuer, subject, client, scopes, roles, metadata, \
    issued_at, not_before, expires_at, revoked_at, enabled, replaced_by, last_used \
    FROM tower_gate_tokens WHERE digest IN ($1)";

/// Tokens, and their digests as the database has them.
struct Issued {
    verifier: OpaqueVerifier,
    questions: Vec<VerifyRequest>,
    digests: Vec<Vec<u8>>,
}

async fn issue(store: impl TokenStore, max_age: Duration) -> Issued {
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let tokens = OpaqueTokens::builder("https://api.example", store, peppers)
        .with_max_age(max_age)
        .build()
        .unwrap();
    let (mut questions, mut digests) = (Vec::new(), Vec::new());
    let now = std::time::SystemTime::now() + Duration::from_secs(1);
    for n in 0..TOKENS {
        let new = NewToken::new(&n.to_string()).client("bench").scopes("read:reports");
        let issued = tokens.issue(new).await.unwrap();
        let token = BearerToken::parse(issued.token.expose()).unwrap();
        questions.push(VerifyRequest::new(token, now));
        digests.push(issued.record.digest.as_bytes().to_vec());
    }
    let issued = Issued { verifier: tokens.verifier(), questions, digests };
    // What is written behind is written before anything is measured.
    for question in &issued.questions {
        issued.verifier.verify(question).await.unwrap();
    }
    tokens.write_last_used().await;
    issued
}

pub(crate) fn warm() -> Vec<Subject> {
    let runtime = runtime();
    let Issued { verifier, questions, .. } =
        runtime.block_on(issue(MemoryTokenStore::new(), Duration::from_secs(86_400)));
    let mut next = 0;
    vec![Subject::new("OpaqueVerifier, remembered", move || {
        next = (next + 1) % TOKENS;
        let _alive = &runtime;
        verifier.try_verify(&questions[next]).unwrap().unwrap()
    })]
}

/// Texts with a wrong checksum, which must cost the store nothing: `1e9 / ns` are refused a second.
pub(crate) fn garbage() -> Vec<Subject> {
    let runtime = runtime();
    let issued = runtime.block_on(issue(MemoryTokenStore::new(), Duration::from_secs(86_400)));
    let texts = issued.questions.iter().map(|question| {
        let text = question.token.as_str();
        let wrong = if text.ends_with('0') { "1" } else { "0" };
        let text = format!("{}{wrong}", &text[..text.len() - 1]);
        VerifyRequest::new(BearerToken::parse(&text).unwrap(), question.now)
    });
    let texts: Vec<_> = texts.collect();
    let mut next = 0;
    vec![Subject::new("OpaqueVerifier, a wrong checksum", move || {
        next = (next + 1) % TOKENS;
        let _alive = &runtime;
        // Who answers without being waited for has not asked the store.
        issued.verifier.try_verify(&texts[next]).unwrap().unwrap_err()
    })]
}

/// Whether the time of a refusal tells how near a guess is to a token: guesses that differ from one
/// by their last letter, against those that have nothing in common with one. Prints the medians and
/// Welch's t, which is beyond 4.5 where the times differ.
pub(crate) fn print_timing(samples: usize) {
    let runtime = runtime();
    let issued = runtime.block_on(issue(MemoryTokenStore::new(), Duration::ZERO));
    let elsewhere = runtime.block_on(issue(MemoryTokenStore::new(), Duration::ZERO));
    let now = issued.questions[0].now;
    let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    for sample in 0..samples * 2 {
        // In an order without a rhythm.
        let class = ((sample as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % 2;
        let base = if class == 0 { &issued } else { &elsewhere };
        let text = base.questions[sample % TOKENS].token.as_str();
        let guess = guess(text, sample / TOKENS);
        let request = VerifyRequest::new(BearerToken::parse(&guess).unwrap(), now);
        let began = std::time::Instant::now();
        let answer = runtime.block_on(issued.verifier.verify(&request));
        let time = began.elapsed().as_secs_f64() * 1e9;
        if answer.is_err() {
            times[class].push(time);
        }
    }
    let medians = times.each_ref().map(|times| median(times.iter().copied()));
    println!(
        "\nA refusal of a guess that is nearly a token: {:.0} ns, of any other: {:.0} ns; t = {:.1}",
        medians[0],
        medians[1],
        welch(times),
    );
}

/// The text with other letters at the end of what is random, and the checksum for it.
fn guess(text: &str, number: usize) -> String {
    const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut guess = text.as_bytes().to_vec();
    let end = guess.len() - 6;
    for (place, digit) in [(end - 1, number % 62), (end - 2, number / 62 % 62)] {
        guess[place] = BASE62[digit];
    }
    let mut crc = !0_u32;
    for byte in &guess[..end] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
        }
    }
    let mut rest = !crc as usize;
    for digit in guess[end..].iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    String::from_utf8(guess).unwrap()
}

/// Welch's t of two samples, without the slowest tenth of each: those were interrupted.
fn welch(samples: [Vec<f64>; 2]) -> f64 {
    let [a, b] = samples.map(|mut sample| {
        sample.sort_by(f64::total_cmp);
        sample.truncate(sample.len() * 9 / 10);
        let number = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / number;
        let variance =
            sample.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (number - 1.0);
        (mean, variance / number)
    });
    (a.0 - b.0) / (a.1 + b.1).sqrt()
}

pub(crate) fn sqlite() -> Vec<Subject> {
    let runtime = runtime();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-tokens.db");
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = runtime.block_on(SqlitePool::connect_with(options)).unwrap();
    let store = SqliteTokenStore::new(pool.clone());
    runtime.block_on(store.migrate()).unwrap();
    let issued = Arc::new(runtime.block_on(issue(store, Duration::ZERO)));
    let (bare, mut next) = (issued.clone(), 0);
    let on = runtime.clone();
    let query = Subject::new("a query of SQLite through sqlx", move || {
        next = (next + 1) % TOKENS;
        let query = sqlx::query(QUERY).bind(&bare.digests[next]);
        on.block_on(query.fetch_optional(&pool)).unwrap().unwrap()
    });
    vec![query, look_up("OpaqueVerifier over SQLite", runtime, issued)]
}

pub(crate) fn postgres() -> Vec<Subject> {
    let (runtime, server) = (runtime(), Postgres::start());
    let options = PgPoolOptions::new().max_connections(1);
    let pool: PgPool = runtime.block_on(options.connect(&server.url("postgres"))).unwrap();
    let store = PostgresTokenStore::new(pool.clone());
    runtime.block_on(store.migrate()).unwrap();
    let issued = Arc::new(runtime.block_on(issue(store, Duration::ZERO)));
    let (bare, mut next) = (issued.clone(), 0);
    let on = runtime.clone();
    let query = Subject::new("a query of PostgreSQL through sqlx", move || {
        let _alive = &server;
        next = (next + 1) % TOKENS;
        let query = sqlx::query(QUERY).bind(&bare.digests[next]);
        on.block_on(query.fetch_optional(&pool)).unwrap().unwrap()
    });
    vec![query, look_up("OpaqueVerifier over PostgreSQL", runtime, issued)]
}

fn look_up(name: &str, runtime: Arc<Runtime>, issued: Arc<Issued>) -> Subject {
    let mut next = 0;
    Subject::new(name, move || {
        next = (next + 1) % TOKENS;
        runtime.block_on(issued.verifier.verify(&issued.questions[next])).unwrap()
    })
}

fn runtime() -> Arc<Runtime> {
    Arc::new(Builder::new_current_thread().enable_all().build().unwrap())
}
