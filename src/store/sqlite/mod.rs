//! Tokens in a SQLite file: for one node, without a server.
//!
//! ```no_run
//! use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
//! use tower_gate::store::sqlite::SqliteTokenStore;
//!
//! # async fn open() -> Result<(), Box<dyn std::error::Error>> {
//! // With a write-ahead log, reading tokens does not wait for writing them.
//! let options = SqliteConnectOptions::new()
//!     .filename("tokens.db")
//!     .create_if_missing(true)
//!     .journal_mode(SqliteJournalMode::Wal);
//! let store = SqliteTokenStore::new(SqlitePool::connect_with(options).await?);
//! store.migrate().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A database in memory (`sqlite::memory:`) is another one for each connection: give its pool one
//! connection, and no end to its life.

mod token;

pub use self::token::SqliteTokenStore;
