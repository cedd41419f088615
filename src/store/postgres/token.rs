use std::time::SystemTime;

use sqlx::{PgPool, Postgres, Row};

use crate::scope::ScopeSet;
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
const MIGRATIONS: [&str; 1] = [r#"
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
"#];

// Two that make one table at once would meet in the catalogue, so that one of them failed: they
// queue for a lock of this crate's until the transaction ends. Whoever revokes many tokens locks them
// in any order: a batch of uses gives up long before the server would have to end one of the two.
sql::token_store!(
    PostgresTokenStore over Postgres,
    begin with "BEGIN" then "SELECT pg_advisory_xact_lock(8390891587459869793)",
    touch after "SET LOCAL lock_timeout = '100ms'"
);
