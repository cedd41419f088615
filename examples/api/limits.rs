//! The limits, in memory or in Redis.

use tower_gate::store::RateLimitStore;
use tower_gate::store::memory::MemoryStore;
use tower_gate::{ClientIp, ConcurrencyLimitLayer, FailureLimitLayer, RateLimitLayer, Requirement};

use crate::Error;
use crate::flags::Flags;

/// In the order in which a request meets them.
pub(crate) struct Limits {
    pub(crate) failures: Option<FailureLimitLayer>,
    pub(crate) by_address: RateLimitLayer,
    pub(crate) by_principal: RateLimitLayer,
    pub(crate) concurrency: Option<ConcurrencyLimitLayer>,
}

pub(crate) async fn limits(flags: &Flags, client_ip: ClientIp) -> Result<Limits, Error> {
    match &flags.redis {
        None => Ok(Limits::new(flags, client_ip, [MemoryStore::new(), MemoryStore::new()])),
        Some(url) => in_redis(flags, client_ip, url).await,
    }
}

impl Limits {
    fn new<S: RateLimitStore>(flags: &Flags, client_ip: ClientIp, stores: [S; 2]) -> Self {
        let [addresses, principals] = stores;
        let by_principal = RateLimitLayer::new(principals, flags.limits.default)
            .with_unlimited("admin", Requirement::role("admin"))
            .with_tier("internal", Requirement::role("internal"), flags.limits.internal)
            .with_tier("partner", Requirement::role("partner"), flags.limits.partner);
        let policies = flags.policies.iter().cloned();
        let by_principal = policies.fold(by_principal, RateLimitLayer::with_policy);
        let by_address = RateLimitLayer::by_address(addresses, flags.limits.address)
            .with_client_ip(client_ip.clone());
        let failures = flags
            .failures
            .map(|(quota, ban)| FailureLimitLayer::new(quota, ban).with_client_ip(client_ip));
        let concurrency =
            flags.concurrency.map(|at_once| ConcurrencyLimitLayer::new(at_once.get()));
        Self { failures, by_address, by_principal, concurrency }
    }
}

/// Every node limits by itself while Redis is gone.
#[cfg(feature = "redis")]
async fn in_redis(flags: &Flags, client_ip: ClientIp, url: &str) -> Result<Limits, Error> {
    use redis::Client;
    use redis::aio::{ConnectionManager, ConnectionManagerConfig};
    use tower_gate::store::FallbackStore;
    use tower_gate::store::redis::RedisStore;

    // The URL may have a password in it.
    let explain = |error| format!("--redis: {error}");
    // Each request that finds the connection broken tries once; the store does not wait for it.
    let config = ConnectionManagerConfig::new().set_number_of_retries(1);
    let client = Client::open(url).map_err(explain)?;
    let mut connection =
        ConnectionManager::new_with_config(client, config).await.map_err(explain)?;
    let secret = secret_of_all_nodes(&mut connection).await.map_err(explain)?;
    let secret = secret.try_into().map_err(|_| "--redis: the secret there is not one")?;
    let store = FallbackStore::new(RedisStore::new(connection), MemoryStore::new());
    let limits = Limits::new(flags, client_ip, [store.clone(), store]);
    Ok(Limits {
        by_address: limits.by_address.with_partition_secret(secret),
        by_principal: limits.by_principal.with_partition_secret(secret),
        ..limits
    })
}

/// The first node makes it up. An application has it from where its other secrets are: here,
/// whoever can read Redis can find out whose a key is.
#[cfg(feature = "redis")]
async fn secret_of_all_nodes(
    connection: &mut redis::aio::ConnectionManager,
) -> redis::RedisResult<Vec<u8>> {
    use std::hash::{BuildHasher, RandomState};

    const KEY: &str = "tower-gate:partition-secret";
    let random = [(); 2].map(|()| RandomState::new().hash_one(0));
    let random: Vec<u8> = random.into_iter().flat_map(u64::to_le_bytes).collect();
    redis::cmd("SET").arg(KEY).arg(random).arg("NX").exec_async(connection).await?;
    redis::cmd("GET").arg(KEY).query_async(connection).await
}

#[cfg(not(feature = "redis"))]
async fn in_redis(_: &Flags, _: ClientIp, _: &str) -> Result<Limits, Error> {
    Err("--redis needs the feature redis, which is not in this build".into())
}
