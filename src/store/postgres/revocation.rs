use sqlx::postgres::{PgListener, PgPool};
use sqlx::{Postgres, Transaction};

use crate::store::postgres::begin;
use crate::store::{News, RevocationPage, RevocationStore, RevokeRequest, StoreError};

/// Revocations in PostgreSQL 11 or newer.
///
/// The pool is the application's own. Each node keeps one of its connections for news; when it
/// breaks, another is taken. Where the pool has only one, or is behind a pooler that hands out
/// connections by the transaction, there are no news, and nodes learn when they ask. Where the
/// application keeps all the others busy for longer than what is known may age, everybody is refused
/// with 503: a small pool of its own, of two or three connections, does not share that.
///
/// ```no_run
/// use tower_gate::store::postgres::PostgresRevocations;
/// use tower_gate::verifier::revocable::Revocations;
///
/// # async fn start(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresRevocations::new(pool);
/// store.migrate().await?;
/// let revocations = Revocations::builder(store).start()?;
/// # let _ = revocations;
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// A failover to a replica that was not synchronous loses the last revocations; nodes that run go on
/// enforcing what they know.
///
/// Each revocation deletes up to 1000 that have ended, so the table grows no further than to what
/// had not ended at some moment. What is left when nobody revokes any more harms nobody.
#[derive(Clone, Debug)]
pub struct PostgresRevocations {
    pool: PgPool,
}

/// The table is found along the search path of the pool's connections.
const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS tower_gate_revocations (
        id bytea PRIMARY KEY,
        revocation text NOT NULL,
        position bigint NOT NULL UNIQUE,
        ends_at bigint
    );
    CREATE INDEX IF NOT EXISTS tower_gate_revocations_ends_at ON tower_gate_revocations (ends_at)";

/// Positions are given out one transaction after the other, so that nobody can read one before all
/// below it are there. They are microseconds, and so also grow when a server that knows less takes
/// over. A digest is the key because names may be longer than what an index takes.
const INSERT: &str = "
    INSERT INTO tower_gate_revocations (id, revocation, position, ends_at)
    SELECT sha256(convert_to(revocation, 'UTF8')), revocation, row_number() OVER () - 1 + greatest(
        (SELECT coalesce(max(position), 0) + 1 FROM tower_gate_revocations),
        (extract(epoch FROM statement_timestamp()) * 1000000)::bigint
    ), ends_at
    FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::bigint[]) AS new (revocation, ends_at)) new
    ON CONFLICT (id) DO UPDATE SET position = excluded.position";

/// Some, so that a revocation never waits for all that ended in an hour without any; and never the
/// last, which the next position is counted from where the clock has gone back.
const DELETE_ENDED: &str = "
    DELETE FROM tower_gate_revocations WHERE id IN (
        SELECT id FROM tower_gate_revocations
        WHERE ends_at <= floor(extract(epoch FROM statement_timestamp()))::bigint
        AND position < (SELECT max(position) FROM tower_gate_revocations)
        ORDER BY ends_at LIMIT 1000
    )";

const SINCE: &str = "
    SELECT revocation, position FROM tower_gate_revocations
    WHERE position > $1 ORDER BY position LIMIT $2";

const CHANNEL: &str = "tower_gate_revocations";

/// The highest position that was given out.
const LAST: &str = "SELECT coalesce(max(position), 0) FROM tower_gate_revocations";

/// The advisory lock under which positions are given out, and the table is made.
const LOCK: i64 = i64::from_be_bytes(*b"towergat");

/// For how long one waits for the lock, and how long a client that hangs may keep it from the
/// others.
const LIMITS: &str = "
    SELECT set_config('lock_timeout', '2s', true),
        set_config('idle_in_transaction_session_timeout', '2s', true)";

/// How many revocations are read at once.
const PAGE: i64 = 5000;

impl PostgresRevocations {
    /// Revocations in the database of this pool.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Makes the table where it is missing. Several nodes may do so at once.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached, or its user may not make tables.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = async {
            let mut transaction = self.locked().await?;
            sqlx::raw_sql(CREATE).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        migrated.await.map_err(StoreError::new)
    }

    /// A transaction that has no other beside it. The lock is held until what it wrote can be seen.
    async fn locked(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let mut transaction = begin(&self.pool).await?;
        sqlx::query(LIMITS).execute(&mut *transaction).await?;
        let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
        lock.execute(&mut *transaction).await?;
        Ok(transaction)
    }

    async fn insert(&self, texts: &[String], ends: &[Option<i64>]) -> Result<(), sqlx::Error> {
        let mut transaction = self.locked().await?;
        // Statements of their own, which see what was written before the lock was had.
        let insert = sqlx::query(INSERT).bind(texts).bind(ends);
        insert.execute(&mut *transaction).await?;
        sqlx::query(DELETE_ENDED).execute(&mut *transaction).await?;
        let notify = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL);
        notify.execute(&mut *transaction).await?;
        transaction.commit().await
    }
}

impl RevocationStore for PostgresRevocations {
    async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
        let texts: Result<Vec<_>, _> =
            request.revocations.iter().map(serde_json::to_string).collect();
        // An end that the column cannot hold is as good as none.
        let ends = request
            .revocations
            .iter()
            .map(|revocation| revocation.ends_at.and_then(|ends_at| i64::try_from(ends_at).ok()));
        let (texts, ends) = (texts.map_err(StoreError::new)?, ends.collect::<Vec<_>>());
        self.insert(&texts, &ends).await.map_err(StoreError::new)
    }

    async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
        let since = i64::try_from(position).map_err(StoreError::new)?;
        let query = sqlx::query_as(SINCE).bind(since).bind(PAGE);
        let rows: Vec<(String, i64)> =
            query.fetch_all(&self.pool).await.map_err(StoreError::new)?;
        let last = match rows.last() {
            Some((_, last)) => *last,
            None => {
                let last: i64 = sqlx::query_scalar(LAST)
                    .fetch_one(&self.pool)
                    .await
                    .map_err(StoreError::new)?;
                last.min(since)
            }
        };
        let position = u64::try_from(last).map_err(StoreError::new)?;
        let is_last = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        let revocations = rows.iter().map(|(text, _)| serde_json::from_str(text));
        let revocations = revocations.collect::<Result<_, _>>().map_err(StoreError::new)?;
        Ok(RevocationPage::new(revocations, position, is_last))
    }

    async fn watch(&self, news: News) -> Result<(), StoreError> {
        // It would keep the only connection from everybody who has to load what is new.
        if self.pool.options().get_max_connections() < 2 {
            return Err(StoreError::new("the pool has no second connection, for news"));
        }
        let mut listener = PgListener::connect_with(&self.pool).await.map_err(StoreError::new)?;
        // Whoever calls this knows when to try again.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await.map_err(StoreError::new)?;
        news.arrived();
        while listener.try_recv().await.map_err(StoreError::new)?.is_some() {
            news.arrived();
        }
        Err(StoreError::new("the connection for news has ended"))
    }
}
