//! Two limits by address that all nodes share in Redis, and each keeps by itself while Redis is gone.
//!
//! ```text
//! cargo run --example redis_limits --features axum,redis
//! cargo run --example redis_limits --features axum,redis -- --redis redis://127.0.0.1:6380/ --listen 127.0.0.1:3001
//! ```
//!
//! Start it twice, at two addresses, and ask both: they count together. Stop Redis, and they go on.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the one who tries it")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use lexopt::prelude::*;
use redis::Client;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::net::TcpListener;
use tower_gate::rate_limit::Policy;
use tower_gate::store::FallbackStore;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::{ClientIp, Quota, RateLimitLayer};

type Error = Box<dyn std::error::Error>;

/// The same on every node. Yours comes from where your other secrets are.
const SECRET: [u8; 16] = *b"everybody sees..";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redis_limits: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<(), Error> {
    let (mut url, mut address) = ("redis://127.0.0.1/".to_owned(), "127.0.0.1:3000".to_owned());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("redis") => url = parser.value()?.string()?,
            Long("listen") => address = parser.value()?.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let store = FallbackStore::new(RedisStore::new(connect(&url).await?), MemoryStore::new());
    let client_ip = ClientIp::from_extensions(|extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
    });
    let limit = RateLimitLayer::by_address(store.clone(), Quota::per_minute(30).with_burst(5))
        .with_name("minute")
        .with_policy(Policy::new("day", Quota::new(1000, Duration::from_secs(86_400), 1000)?))
        .with_partition_secret(SECRET)
        .with_client_ip(client_ip);
    let app = Router::new().route("/", get("here\n")).layer(limit);
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address} ({error}): name another --listen"))?;
    println!("for i in 1 2 3 4 5 6; do curl -i http://{}; done", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()) => served?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    println!("\n# Redis failed {} requests; memory decided {}", store.errors(), store.fallbacks());
    Ok(())
}

/// Connects, and again whenever the connection is lost. The URL may have a password in it, and is in
/// no message.
async fn connect(url: &str) -> Result<ConnectionManager, Error> {
    let explain = |error| {
        format!(
            "cannot connect to Redis ({error}): start redis-server, or name another --redis URL"
        )
    };
    // Each request that finds the connection broken tries once; the store does not wait for it.
    let config = ConnectionManagerConfig::new().set_number_of_retries(1);
    let client = Client::open(url).map_err(explain)?;
    Ok(ConnectionManager::new_with_config(client, config).await.map_err(explain)?)
}
