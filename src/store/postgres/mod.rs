//! Tokens and revocations in PostgreSQL: for as many nodes as there are.
//!
//! ```no_run
//! use std::time::Duration;
//! use sqlx::postgres::PgPoolOptions;
//! use tower_gate::store::postgres::PostgresTokenStore;
//!
//! # async fn open() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = PgPoolOptions::new()
//!     .acquire_timeout(Duration::from_secs(2))
//!     .connect("postgres://api@db.example/api")
//!     .await?;
//! let store = PostgresTokenStore::new(pool);
//! store.migrate().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The tables are in the first schema of the connections' `search_path`. A role that may only read
//! and write them leaves [`migrate`](PostgresTokenStore::migrate) to one that may make them.
//!
//! Writers wait while `migrate` adds an index to a table of an earlier version. Whoever has so many
//! tokens that this takes too long makes it beforehand, under the name that it is going to have (and
//! drops it first where that has failed before):
//!
//! ```sql
//! CREATE INDEX CONCURRENTLY tower_gate_tokens_expires_at ON tower_gate_tokens (expires_at);
//! CREATE INDEX CONCURRENTLY tower_gate_tokens_revoked_at ON tower_gate_tokens (revoked_at);
//! ```

mod revocation;
mod token;

use sqlx::{Error, PgPool, Postgres, Transaction};

pub use self::revocation::PostgresRevocations;
pub use self::token::PostgresTokenStore;

/// sqlx does not end a transaction whose beginning nobody waits for any more: whatever came over its
/// connection next would be part of it, and be lost. So somebody always waits.
///
/// Whatever the application's default is, each statement sees what was written before it began:
/// who has waited for a lock must see what its last holder did, and does not fail because of it.
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(BEGIN).await });
    begun.await.map_err(|_| Error::WorkerCrashed)?
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
