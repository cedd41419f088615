use std::time::SystemTime;

use sqlx::{Error, PgPool, Postgres, Row, Transaction};

use crate::scope::ScopeSet;
use crate::store::postgres::begin;
use crate::store::{
    Replacement, StoreError, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore, sql,
};

/// Records of tokens in PostgreSQL; see the [module](crate::store::postgres).
///
/// Clones share the pool. The tables are `tower_gate_tokens` and `tower_gate_schema`.
#[derive(Clone, Debug)]
pub struct PostgresTokenStore {
    pool: PgPool,
}

/// Each brings the tables from the version before to its own. Ids are in the order of their bytes,
/// whatever the language of the database is.
const MIGRATIONS: [&str; 2] = [
    r#"
    CREATE TABLE tower_gate_tokens (
        id TEXT COLLATE "C" PRIMARY KEY,
        digest BYTEA NOT NULL UNIQUE,
        pepper TEXT NOT NULL,
        issuer TEXT NOT NULL,
        subject TEXT NOT NULL,
        client TEXT,
        scopes TEXT NOT NULL,
        roles TEXT NOT NULL,
        metadata TEXT NOT NULL,
        issued_at BIGINT NOT NULL,
        not_before BIGINT,
        expires_at BIGINT,
        revoked_at BIGINT,
        enabled BOOLEAN NOT NULL,
        replaced_by TEXT,
        last_used BIGINT
    );
    CREATE INDEX tower_gate_tokens_subject ON tower_gate_tokens (issuer, subject, id);
    CREATE INDEX tower_gate_tokens_client ON tower_gate_tokens (client, id);
    "#,
    "CREATE INDEX IF NOT EXISTS tower_gate_tokens_expires_at ON tower_gate_tokens (expires_at);
    CREATE INDEX IF NOT EXISTS tower_gate_tokens_revoked_at ON tower_gate_tokens (revoked_at);",
];

impl PostgresTokenStore {
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        begin(&self.pool).await
    }
}

// Locks of this crate's last until the transaction ends. Two that make one table at once would meet in
// the catalogue, so that one of them failed. A revocation of many that does not see the successor that
// another transaction is about to make would miss it: it waits for those that replace tokens, any number
// of which may do so at once. One of a token by its id waits for that token's row alone. A use is not
// worth waiting for a token that somebody else changes. A client that hangs holds nobody up for long.
sql::token_store!(
    PostgresTokenStore over Postgres,
    touch what is "FOR UPDATE SKIP LOCKED",
    migrate after "SELECT pg_advisory_xact_lock(8390891587459869793)",
    replace after "SELECT set_config('lock_timeout', '2s', true), \
        set_config('idle_in_transaction_session_timeout', '2s', true), \
        pg_advisory_xact_lock_shared(8390891587459869794)",
    revoke one after "SELECT set_config('lock_timeout', '5s', true), \
        set_config('idle_in_transaction_session_timeout', '2s', true)",
    revoke many after "SELECT set_config('lock_timeout', '5s', true), \
        set_config('idle_in_transaction_session_timeout', '2s', true), \
        pg_advisory_xact_lock(8390891587459869794)"
);
