//! Revocations: where they are kept, and the route of those who revoke.

use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::verifier::revocable::{Revocations, RevocationsBuilder};
use tower_gate::{Rejection, Revocation};

use crate::Error;
use crate::demo::ISSUER;
use crate::flags::{Flags, without_password};

/// Where the flags say that state lives which nodes share, or in memory.
pub(crate) async fn start(flags: &Flags) -> Result<Revocations, Error> {
    let tokens = flags.tokens.as_deref().filter(|place| place.starts_with("postgres"));
    let builder = match (&flags.redis, tokens) {
        (Some(url), _) => in_redis(url).await.map_err(named("redis", url))?,
        (None, Some(url)) => in_postgres(url).await.map_err(named("tokens", url))?,
        (None, None) => Revocations::builder(MemoryRevocations::new()),
    };
    let revocations = builder.start()?;
    revocations.ready().await?;
    Ok(revocations)
}

fn named(flag: &str, url: &str) -> impl FnOnce(Error) -> Error {
    let place = format!("--{flag} {}", without_password(url));
    move |error| format!("{place}: {error}").into()
}

#[cfg(feature = "redis")]
async fn in_redis(url: &str) -> Result<RevocationsBuilder, Error> {
    use std::time::Duration;

    use tower_gate::store::redis::RedisRevocations;

    let client = redis::Client::open(url)?;
    let connection = client.get_connection_manager();
    let connection = tokio::time::timeout(Duration::from_secs(5), connection).await??;
    Ok(Revocations::builder(RedisRevocations::new(connection).with_news(client)))
}

#[cfg(not(feature = "redis"))]
async fn in_redis(_: &str) -> Result<RevocationsBuilder, Error> {
    Err("it needs the feature redis, which is not in this build".into())
}

#[cfg(feature = "postgres")]
async fn in_postgres(url: &str) -> Result<RevocationsBuilder, Error> {
    use std::time::Duration;

    use sqlx::postgres::PgPoolOptions;
    use tower_gate::store::postgres::PostgresRevocations;

    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(5)).connect(url).await?;
    let store = PostgresRevocations::new(pool);
    store.migrate().await?;
    Ok(Revocations::builder(store))
}

#[cfg(not(feature = "postgres"))]
async fn in_postgres(_: &str) -> Result<RevocationsBuilder, Error> {
    Err("it needs the feature postgres, which is not in this build".into())
}

/// For those who may revoke.
pub(crate) fn routes(flags: &Flags, revocations: Revocations) -> Router {
    let issuer = flags.issuer.clone().unwrap_or_else(|| ISSUER.to_owned());
    Router::new().route("/admin/revocations", post(revoke)).with_state((issuer, revocations))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    token_id: Option<String>,
    subject: Option<String>,
    client: Option<String>,
    issuer: Option<String>,
}

/// What has been issued so far: whoever gets a new token comes in with it.
async fn revoke(
    State((issuer, revocations)): State<(String, Revocations)>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let issuer = wanted.issuer.as_deref().unwrap_or(&issuer);
    let now = SystemTime::now();
    let revocation = match (&wanted.token_id, &wanted.subject, &wanted.client) {
        (Some(id), None, None) => Revocation::token(issuer, id),
        (None, Some(subject), None) => Revocation::subject(issuer, subject).with_issued_until(now),
        (None, None, Some(client)) => Revocation::client(issuer, client).with_issued_until(now),
        _ => {
            let message = "say what: one of token_id, subject and client";
            return (StatusCode::BAD_REQUEST, Json(json!({ "message": message }))).into_response();
        }
    };
    match revocations.revoke(revocation).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => Rejection::from(error).into_response(),
    }
}
