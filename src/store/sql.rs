//! What the stores of tokens in SQL databases share: all but how a transaction begins and how the
//! tables are made.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Error;

use crate::store::{TokenDigest, TokenRecord};

/// In the order in which [`token_store`] reads and writes them.
pub(super) const COLUMNS: &str = "id, digest, pepper, issuer, subject, client, scopes, roles, \
    metadata, issued_at, not_before, expires_at, revoked_at, enabled, replaced_by, last_used";

/// How many rows are locked at once to write down last uses.
pub(super) const TOUCHED_AT_ONCE: usize = 200;

/// Milliseconds since 1970, UTC.
pub(super) fn to_millis(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.max(0).cast_unsigned())
}

pub(super) fn to_digest(bytes: Vec<u8>) -> Result<TokenDigest, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::Decode("a digest is not 32 bytes".into()))?;
    Ok(TokenDigest::from_bytes(bytes))
}

pub(super) fn to_json(roles: &[String]) -> Result<String, Error> {
    serde_json::to_string(roles).map_err(|error| Error::Encode(error.into()))
}

pub(super) fn from_json(roles: &str) -> Result<Vec<String>, Error> {
    serde_json::from_str(roles).map_err(|error| Error::Decode(error.into()))
}

/// A record whose times can be kept.
pub(super) fn checked(record: &TokenRecord) -> Result<&TokenRecord, Error> {
    let longest = i64::MAX.cast_unsigned().into();
    let times = [record.expires_at, record.not_before, Some(record.issued_at)];
    let fits = |time: &SystemTime| {
        time.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_millis() <= longest)
    };
    match times.iter().flatten().all(fits) {
        true => Ok(record),
        false => Err(Error::Encode("a time is before 1970 or too far ahead".into())),
    }
}

/// Implements `TokenStore` and `migrate` for a store with a `pool` of this database, which can
/// `begin` a transaction that is going to write.
///
/// The databases understand the same statements; a generic implementation would take a page of
/// bounds on what they can encode and decode.
macro_rules! token_store {
    ($store:ident over $database:ty, touch what is $free:literal
        $(, migrate after $migrate:literal, replace after $replace:literal,
            revoke one after $revoke_one:literal, revoke many after $revoke_many:literal)?) => {
        impl $store {
            /// Over this pool, which stays the application's.
            #[must_use]
            pub fn new(pool: sqlx::Pool<$database>) -> Self {
                Self { pool }
            }

            /// Makes the tables, or brings those of an earlier version up to date. Safe to call
            /// whenever a node starts, on several at once; tables of a later version are left alone.
            ///
            /// # Errors
            ///
            /// When the database cannot be asked, or refuses; nothing is changed then.
            pub async fn migrate(&self) -> Result<(), StoreError> {
                self.migrate_to_latest().await.map_err(StoreError::new)
            }

            async fn migrate_to_latest(&self) -> Result<(), sqlx::Error> {
                let mut transaction = self.begin().await?;
                $(sqlx::query($migrate).execute(&mut *transaction).await?;)?
                let versions = "CREATE TABLE IF NOT EXISTS tower_gate_schema \
                    (room TEXT PRIMARY KEY, version BIGINT NOT NULL)";
                sqlx::query(versions).execute(&mut *transaction).await?;
                let version = "SELECT version FROM tower_gate_schema WHERE room = 'tokens'";
                let version: Option<i64> =
                    sqlx::query_scalar(version).fetch_optional(&mut *transaction).await?;
                let version = usize::try_from(version.unwrap_or(0)).unwrap_or(0);
                if version < MIGRATIONS.len() {
                    for migration in &MIGRATIONS[version..] {
                        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
                    }
                    let done = "INSERT INTO tower_gate_schema (room, version) VALUES ('tokens', $1) \
                        ON CONFLICT (room) DO UPDATE SET version = excluded.version";
                    let latest = MIGRATIONS.len() as i64;
                    sqlx::query(done).bind(latest).execute(&mut *transaction).await?;
                }
                transaction.commit().await
            }

            async fn all(&self, query: &TokenQuery) -> Result<Vec<TokenRecord>, sqlx::Error> {
                let mut statement = Self::select();
                Self::push(&mut statement, &query.filter);
                if let Some(after) = &query.after {
                    statement.push(" AND id > ").push_bind(after);
                }
                let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
                statement.push(" ORDER BY id LIMIT ").push_bind(limit);
                let rows = statement.build().fetch_all(&self.pool).await?;
                rows.iter().map(Self::read).collect()
            }

            async fn one(
                &self,
                mut statement: sqlx::QueryBuilder<$database>,
            ) -> Result<Option<TokenRecord>, StoreError> {
                let row = statement.build().fetch_optional(&self.pool).await;
                let record = row.and_then(|row| row.as_ref().map(Self::read).transpose());
                record.map_err(StoreError::new)
            }

            async fn replace_one(&self, replacement: &Replacement) -> Result<bool, sqlx::Error> {
                let mut transaction = self.begin().await?;
                $(sqlx::query($replace).execute(&mut *transaction).await?;)?
                // Of two that meet here, the second finds the row as the first has left it.
                let end_old = "UPDATE tower_gate_tokens SET replaced_by = $2, revoked_at = $3, \
                    expires_at = CASE WHEN expires_at < $4 THEN expires_at ELSE $4 END \
                    WHERE id = $1 AND replaced_by IS NULL AND revoked_at IS NULL AND enabled \
                    AND (expires_at IS NULL OR expires_at > $5)";
                let ended = sqlx::query(end_old)
                    .bind(&replacement.id)
                    .bind(&replacement.successor.id)
                    .bind(replacement.revoked_at().map(sql::to_millis))
                    .bind(sql::to_millis(replacement.until))
                    .bind(sql::to_millis(replacement.now))
                    .execute(&mut *transaction)
                    .await?;
                if ended.rows_affected() == 0 {
                    return Ok(false);
                }
                let mut successor = Self::insert_statement(&replacement.successor)?;
                successor.build().execute(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(true)
            }

            async fn revoke_all(
                &self,
                which: &TokenFilter,
                at: SystemTime,
            ) -> Result<u64, sqlx::Error> {
                let mut transaction = self.begin().await?;
                $(
                    let before = match which {
                        TokenFilter::Id(_) => $revoke_one,
                        _ => $revoke_many,
                    };
                    sqlx::query(before).execute(&mut *transaction).await?;
                )?
                let mut statement =
                    sqlx::QueryBuilder::new("UPDATE tower_gate_tokens SET revoked_at = ");
                statement.push_bind(sql::to_millis(at)).push(" WHERE revoked_at IS NULL AND ");
                Self::push(&mut statement, which);
                let revoked = statement.build().execute(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(revoked.rows_affected())
            }

            /// One statement, so that nobody waits for its locks longer than it takes.
            async fn touch_some(&self, used: &[(String, SystemTime)]) -> Result<(), sqlx::Error> {
                let mut statement = sqlx::QueryBuilder::new("WITH used (id, used_at) AS (");
                statement.push_values(used, |mut row, (id, at)| {
                    row.push_bind(id).push_bind(sql::to_millis(*at));
                });
                statement.push(concat!(
                    "), free AS (SELECT id FROM tower_gate_tokens \
                        WHERE id IN (SELECT id FROM used) ORDER BY id ", $free, ") \
                    UPDATE tower_gate_tokens SET last_used = used_at FROM used \
                    WHERE tower_gate_tokens.id = used.id AND used.id IN (SELECT id FROM free) \
                    AND (last_used IS NULL OR last_used < used_at)",
                ));
                // The next batch is another statement: it is of another length.
                statement.build().persistent(false).execute(&self.pool).await.map(drop)
            }

            fn select() -> sqlx::QueryBuilder<$database> {
                sqlx::QueryBuilder::new(format!(
                    "SELECT {} FROM tower_gate_tokens WHERE ",
                    sql::COLUMNS
                ))
            }

            fn push(statement: &mut sqlx::QueryBuilder<$database>, filter: &TokenFilter) {
                match filter {
                    TokenFilter::Client(client) => {
                        statement.push("client = ").push_bind(client);
                    }
                    TokenFilter::Id(id) => {
                        statement.push("id = ").push_bind(id);
                    }
                    TokenFilter::Subject { issuer, subject } => {
                        statement.push("issuer = ").push_bind(issuer);
                        statement.push(" AND subject = ").push_bind(subject);
                    }
                }
            }

            fn insert_statement(
                record: &TokenRecord,
            ) -> Result<sqlx::QueryBuilder<$database>, sqlx::Error> {
                let record = sql::checked(record)?;
                let mut statement = sqlx::QueryBuilder::new(format!(
                    "INSERT INTO tower_gate_tokens ({}) VALUES (",
                    sql::COLUMNS
                ));
                statement
                    .separated(", ")
                    .push_bind(&record.id)
                    .push_bind(record.digest.as_bytes().to_vec())
                    .push_bind(&record.pepper)
                    .push_bind(&record.issuer)
                    .push_bind(&record.subject)
                    .push_bind(&record.client)
                    .push_bind(record.scopes.as_str())
                    .push_bind(sql::to_json(&record.roles)?)
                    .push_bind(&record.metadata)
                    .push_bind(sql::to_millis(record.issued_at))
                    .push_bind(record.not_before.map(sql::to_millis))
                    .push_bind(record.expires_at.map(sql::to_millis))
                    .push_bind(record.revoked_at.map(sql::to_millis))
                    .push_bind(record.enabled)
                    .push_bind(&record.replaced_by)
                    .push_bind(record.last_used.map(sql::to_millis))
                    .push_unseparated(")");
                Ok(statement)
            }

            fn read(row: &<$database as sqlx::Database>::Row) -> Result<TokenRecord, sqlx::Error> {
                let time = |index: usize| {
                    let millis = row.try_get::<Option<i64>, _>(index)?;
                    Ok::<_, sqlx::Error>(millis.map(sql::from_millis))
                };
                Ok(TokenRecord {
                    id: row.try_get(0)?,
                    digest: sql::to_digest(row.try_get(1)?)?,
                    pepper: row.try_get(2)?,
                    issuer: row.try_get(3)?,
                    subject: row.try_get(4)?,
                    client: row.try_get(5)?,
                    scopes: ScopeSet::from_text(row.try_get(6)?),
                    roles: sql::from_json(row.try_get(7)?)?,
                    metadata: row.try_get(8)?,
                    issued_at: sql::from_millis(row.try_get(9)?),
                    not_before: time(10)?,
                    expires_at: time(11)?,
                    revoked_at: time(12)?,
                    enabled: row.try_get(13)?,
                    replaced_by: row.try_get(14)?,
                    last_used: time(15)?,
                })
            }
        }

        impl TokenStore for $store {
            async fn insert(&self, record: &TokenRecord) -> Result<(), StoreError> {
                let mut statement = Self::insert_statement(record).map_err(StoreError::new)?;
                let inserted = statement.build().execute(&self.pool).await;
                inserted.map(drop).map_err(StoreError::new)
            }

            async fn find(
                &self,
                digests: &[TokenDigest],
            ) -> Result<Option<TokenRecord>, StoreError> {
                if digests.is_empty() {
                    return Ok(None);
                }
                let mut statement = Self::select();
                statement.push("digest IN (");
                let mut list = statement.separated(", ");
                for digest in digests {
                    list.push_bind(digest.as_bytes().to_vec());
                }
                list.push_unseparated(")");
                self.one(statement).await
            }

            async fn describe(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
                let mut statement = Self::select();
                statement.push("id = ").push_bind(id);
                self.one(statement).await
            }

            async fn list(&self, query: &TokenQuery) -> Result<Vec<TokenRecord>, StoreError> {
                self.all(query).await.map_err(StoreError::new)
            }

            async fn replace(&self, replacement: &Replacement) -> Result<bool, StoreError> {
                self.replace_one(replacement).await.map_err(StoreError::new)
            }

            async fn revoke(&self, which: &TokenFilter, at: SystemTime) -> Result<u64, StoreError> {
                self.revoke_all(which, at).await.map_err(StoreError::new)
            }

            async fn set_enabled(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
                let set = "UPDATE tower_gate_tokens SET enabled = $2 WHERE id = $1";
                let set = sqlx::query(set).bind(id).bind(enabled).execute(&self.pool).await;
                set.map(|done| done.rows_affected() > 0).map_err(StoreError::new)
            }

            async fn expire(&self, id: &str, at: SystemTime) -> Result<bool, StoreError> {
                let sooner = "UPDATE tower_gate_tokens \
                    SET expires_at = CASE WHEN expires_at < $2 THEN expires_at ELSE $2 END \
                    WHERE id = $1 AND revoked_at IS NULL";
                let sooner = sqlx::query(sooner).bind(id).bind(sql::to_millis(at));
                let done = sooner.execute(&self.pool).await.map_err(StoreError::new)?;
                Ok(done.rows_affected() > 0)
            }

            async fn purge(&self, before: SystemTime, most: usize) -> Result<u64, StoreError> {
                let purge = "DELETE FROM tower_gate_tokens WHERE id IN (\
                    SELECT id FROM tower_gate_tokens \
                    WHERE expires_at < $1 OR revoked_at < $1 LIMIT $2)";
                let most = i64::try_from(most).unwrap_or(i64::MAX);
                let purge = sqlx::query(purge).bind(sql::to_millis(before)).bind(most);
                let done = purge.execute(&self.pool).await.map_err(StoreError::new)?;
                Ok(done.rows_affected())
            }

            async fn touch(&self, used: &[(String, SystemTime)]) -> Result<(), StoreError> {
                let mut touched = Ok(());
                for some in used.chunks(sql::TOUCHED_AT_ONCE) {
                    touched = touched.and(self.touch_some(some).await);
                }
                touched.map_err(StoreError::new)
            }
        }
    };
}
pub(super) use token_store;
