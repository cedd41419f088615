//! Tokens stay out of databases, audit trails and logs.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tower::Layer;
use tower_gate::sink::JsonLinesSink;
use tower_gate::store::TokenStore;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, Pepper, Peppers};
use tower_gate::{AuditLayer, AuthenticateLayer};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::recording::{Buffer, Recording};
use crate::scene::{ISSUER, SERVER, fresh_file, postgres_pool, sqlite_pool};
use crate::support::{Probe, send, with_token};

const PEPPER: &[u8] = b"a pepper that is looked for as well, 43 bytes";

/// What the driver of SQLite says, which works on threads of its own; that of other tests too.
static DRIVER: LazyLock<Buffer> = LazyLock::new(|| {
    let text = Buffer::default();
    let writer = text.clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let of_driver = filter_fn(|metadata| metadata.target().starts_with("sqlx"));
    let subscriber = Registry::default().with(lines.with_filter(of_driver));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    text
});

/// All that a program says about tokens in a life of some, and the tokens.
async fn live(store: impl TokenStore) -> (String, Vec<String>) {
    let (recording, lines) = (Recording::start(), Buffer::default());
    let peppers = Peppers::new(Pepper::new("2026", PEPPER).unwrap());
    let tokens = OpaqueTokens::builder(ISSUER, store, peppers)
        .with_max_age(Duration::ZERO)
        .with_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let authenticate = AuthenticateLayer::new(tokens.verifier());
    let service = AuditLayer::new(JsonLinesSink::new(lines.clone()))
        .layer(authenticate.layer(Probe::default()));
    let mut texts = Vec::new();
    let mut said = String::new();
    for n in 0..10 {
        let issued = tokens.issue(NewToken::new("user-1")).await.unwrap();
        texts.push(issued.token.expose().to_owned());
        said += &format!("{issued:?} {issued:#?}");
        let answer = send(&service, with_token(issued.token.expose())).await;
        assert_eq!(answer.status, 200);
        match n % 3 {
            0 => drop(tokens.revoke(&issued.record.id).await.unwrap()),
            1 => {
                let next = tokens.rotate(&issued.record.id, Duration::ZERO).await.unwrap();
                texts.push(next.token.expose().to_owned());
                assert!(tokens.rotate(&issued.record.id, Duration::ZERO).await.is_err());
            }
            _ => assert!(tokens.disable(&issued.record.id).await.unwrap()),
        }
        let answer = send(&service, with_token(issued.token.expose())).await;
        assert_eq!(answer.error(), "token_revoked");
        said += &format!("{answer:?}");
    }
    // Unknown ones, and one with a letter too many.
    tokens.peppers().add(Pepper::new("2027", &[7; 32]).unwrap()).unwrap();
    tokens.peppers().retire("2026").unwrap();
    for text in texts.clone() {
        assert_eq!(send(&service, with_token(&text)).await.error(), "invalid_token");
        assert_eq!(send(&service, with_token(&format!("{text}x"))).await.error(), "invalid_token");
    }
    tokens.write_last_used().await;
    said += &format!("{tokens:?} {:?}", tokens.verifier());
    assert!(recording.text().contains("token_revoked"), "the log was captured");
    said += &recording.text();
    said += &lines.text();
    (said, texts)
}

/// Neither the tokens nor their random parts, in no form.
fn are_absent(tokens: &[String], text: &str, place: &str) {
    assert!(tokens.len() > 10);
    let pepper = String::from_utf8(PEPPER.to_vec()).unwrap();
    for secret in tokens.iter().map(|token| &token[3..46]).chain([&*pepper]) {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{:?}", secret.as_bytes());
        for form in [
            secret,
            &hex,
            &hex.to_uppercase(),
            list.trim_matches(['[', ']']),
            STANDARD.encode(secret).trim_end_matches('='),
            &URL_SAFE_NO_PAD.encode(secret),
        ] {
            assert!(!text.contains(form), "attacks 36 and 38: {form} in {place}");
        }
    }
}

#[tokio::test]
async fn sqlite_its_file_and_all_logs_have_no_token() {
    LazyLock::force(&DRIVER);
    let path = fresh_file();
    let pool = sqlite_pool(&path).await;
    let store = SqliteTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    let (mut said, tokens) = live(store).await;
    said += &DRIVER.text();
    assert!(said.contains("UPDATE tower_gate_tokens"), "the statements were captured");
    are_absent(&tokens, &said, "what was said");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(std::fs::read(format!("{}-wal", path.display())).unwrap());
    let file = String::from_utf8_lossy(&bytes);
    assert!(file.matches("user-1").count() >= 10, "the records are there");
    are_absent(&tokens, &file, "the file");
    let rows: Vec<String> = sqlx::query_scalar("SELECT hex(digest) FROM tower_gate_tokens")
        .fetch_all(&pool)
        .await
        .unwrap();
    are_absent(&tokens, &rows.concat(), "the digests");
    assert_eq!(rows.len(), tokens.len());
}

#[tokio::test]
async fn postgres_its_dump_and_all_logs_have_no_token() {
    let url = SERVER.fresh_url();
    let store = PostgresTokenStore::new(postgres_pool(&url).await);
    store.migrate().await.unwrap();
    let (said, tokens) = live(store).await;
    assert!(said.contains("UPDATE tower_gate_tokens"), "the statements were captured");
    are_absent(&tokens, &said, "what was said");
    let dump = SERVER.dump(&url);
    let rows = dump.matches("INSERT INTO public.tower_gate_tokens").count();
    assert_eq!(rows, tokens.len(), "{dump}");
    are_absent(&tokens, &dump, "the dump");
}
