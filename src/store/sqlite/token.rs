use std::time::SystemTime;

use sqlx::{Error, Row, Sqlite, SqlitePool, Transaction};

use crate::scope::ScopeSet;
use crate::store::{
    Replacement, StoreError, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore, sql,
};

/// Records of tokens in SQLite; see the [module](crate::store::sqlite).
///
/// Clones share the pool. The tables are `tower_gate_tokens` and `tower_gate_schema`.
#[derive(Clone, Debug)]
pub struct SqliteTokenStore {
    pool: SqlitePool,
}

/// Each brings the tables from the version before to its own.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE tower_gate_tokens (
        id TEXT PRIMARY KEY NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        pepper TEXT NOT NULL,
        issuer TEXT NOT NULL,
        subject TEXT NOT NULL,
        client TEXT,
        scopes TEXT NOT NULL,
        roles TEXT NOT NULL,
        metadata TEXT NOT NULL,
        issued_at INTEGER NOT NULL,
        not_before INTEGER,
        expires_at INTEGER,
        revoked_at INTEGER,
        enabled BOOLEAN NOT NULL,
        replaced_by TEXT,
        last_used INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX tower_gate_tokens_subject ON tower_gate_tokens (issuer, subject, id);
    CREATE INDEX tower_gate_tokens_client ON tower_gate_tokens (client, id);
    ",
    "CREATE INDEX tower_gate_tokens_expires_at ON tower_gate_tokens (expires_at);
    CREATE INDEX tower_gate_tokens_revoked_at ON tower_gate_tokens (revoked_at);",
];

impl SqliteTokenStore {
    /// Whoever writes in a transaction says so first: one that only finds out later that another has
    /// written cannot go on.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await
    }
}

sql::token_store!(SqliteTokenStore over Sqlite, touch what is "");
