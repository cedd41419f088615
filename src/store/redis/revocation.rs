use std::fmt;
use std::sync::LazyLock;

use futures_util::StreamExt;
use redis::aio::ConnectionLike;
use redis::{Client, RedisError, Script};

use crate::store::{News, RevocationPage, RevocationStore, RevokeRequest, StoreError};

/// Revocations in Redis or Valkey, alone or a cluster.
///
/// The connection is whatever the application has: a `MultiplexedConnection`, a `ConnectionManager`,
/// which reconnects by itself, or a cluster's. News come over a connection of their own, which a
/// client makes for [`with_news`](Self::with_news); without one, nodes learn of them when they ask.
///
/// ```no_run
/// use redis::aio::ConnectionLike;
/// use tower_gate::store::redis::RedisRevocations;
/// use tower_gate::verifier::revocable::Revocations;
///
/// # async fn start(
/// #     client: redis::Client,
/// #     connection: impl ConnectionLike + Clone + Send + Sync + 'static,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisRevocations::new(connection).with_news(client);
/// let revocations = Revocations::builder(store).start()?;
/// # let _ = revocations;
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// Redis must not lose what it was told: let it write an append-only file (`appendonly yes`), and
/// never evict (`maxmemory-policy noeviction`). A failover to a replica loses what had not reached
/// it; nodes that run go on enforcing what they know. A client of a cluster must not read from
/// replicas: what these have not heard of yet would count as known not to be revoked.
///
/// Each revocation deletes up to 1000 that have ended, so there are no more than had not ended at
/// some moment. What is left when nobody revokes any more harms nobody.
#[derive(Clone)]
pub struct RedisRevocations<C> {
    connection: C,
    client: Option<Client>,
    /// Revocations by position.
    positions: String,
    /// Revocations by the second in which they are over.
    ends: String,
    channel: String,
}

/// One step: nobody can read a position before everything below it is there.
///
/// Positions are microseconds, so that they also grow when a server that knows nothing takes over;
/// numbers of that size are exact in a sorted set.
static REVOKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or '0'
        local position = math.max(time[1] * 1000000 + time[2], tonumber(last) + 1)
        local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time[1], 'LIMIT', 0, 1000)
        for _, revocation in ipairs(ended) do
            redis.call('ZREM', KEYS[1], revocation)
            redis.call('ZREM', KEYS[2], revocation)
        end
        for i = 2, #ARGV, 2 do
            redis.call('ZADD', KEYS[1], string.format('%.0f', position), ARGV[i])
            redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
            position = position + 1
        end
        redis.call('PUBLISH', ARGV[1], '')
        ",
    )
});

/// How many revocations are read at once: some milliseconds of the server's time.
const PAGE: usize = 5000;

impl<C> RedisRevocations<C> {
    /// Revocations under keys that begin with `tower-gate`.
    pub fn new(connection: C) -> Self {
        let this = Self {
            connection,
            client: None,
            positions: String::new(),
            ends: String::new(),
            channel: String::new(),
        };
        this.with_prefix("tower-gate")
    }

    /// Has the server tell what is new, over a connection that this client makes and makes again
    /// when it breaks. Of a cluster, it is the client of any node.
    #[must_use]
    pub fn with_news(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// What the keys begin with, where several services share a server. Default: `tower-gate`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        // What stands in braces decides the slot of a cluster: the script needs both keys in one.
        self.positions = format!("{{{prefix}:revocations}}:positions");
        self.ends = format!("{{{prefix}:revocations}}:ends");
        self.channel = format!("{{{prefix}:revocations}}:news");
        self
    }
}

impl<C: ConnectionLike + Clone> RedisRevocations<C> {
    /// The highest position that was given out.
    async fn last(&self) -> Result<u64, RedisError> {
        let mut command = redis::cmd("ZREVRANGE");
        command.arg(&self.positions).arg(0).arg(0).arg("WITHSCORES");
        let last: Vec<(String, f64)> = command.query_async(&mut self.connection.clone()).await?;
        Ok(last.first().map_or(0, |(_, position)| whole(*position)))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, above 0")]
fn whole(position: f64) -> u64 {
    position as u64
}

impl<C> RevocationStore for RedisRevocations<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
        let mut call = REVOKE.prepare_invoke();
        call.key(&self.positions).key(&self.ends).arg(&self.channel);
        for revocation in &request.revocations {
            let text = serde_json::to_string(revocation).map_err(StoreError::new)?;
            let end = revocation.ends_at.map_or("+inf".to_owned(), |end| end.to_string());
            call.arg(text).arg(end);
        }
        call.invoke_async(&mut self.connection.clone()).await.map_err(StoreError::new)
    }

    async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(&self.positions).arg(format!("({position}")).arg("+inf").arg("WITHSCORES");
        command.arg("LIMIT").arg(0).arg(PAGE);
        let found = command.query_async(&mut self.connection.clone()).await;
        let found: Vec<(String, f64)> = found.map_err(StoreError::new)?;
        let revocations = found.iter().map(|(text, _)| serde_json::from_str(text));
        let revocations = revocations.collect::<Result<_, _>>().map_err(StoreError::new)?;
        let position = match found.last() {
            Some((_, last)) => whole(*last),
            None => self.last().await.map_err(StoreError::new)?.min(position),
        };
        Ok(RevocationPage::new(revocations, position, found.len() < PAGE))
    }

    async fn watch(&self, news: News) -> Result<(), StoreError> {
        let Some(client) = &self.client else {
            return std::future::pending().await;
        };
        let mut subscriber = client.get_async_pubsub().await.map_err(StoreError::new)?;
        subscriber.subscribe(&self.channel).await.map_err(StoreError::new)?;
        news.arrived();
        let mut messages = subscriber.on_message();
        while messages.next().await.is_some() {
            news.arrived();
        }
        Err(StoreError::new("the connection for news has ended"))
    }
}

impl<C> fmt::Debug for RedisRevocations<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRevocations")
            .field("positions", &self.positions)
            .field("news", &self.client.is_some())
            .finish_non_exhaustive()
    }
}
