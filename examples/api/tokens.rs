//! Opaque tokens: where they are kept, and the routes of those who manage them.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path as PathOf, Query, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tower_gate::Rejection;
use tower_gate::store::{StoreError, TokenFilter, TokenQuery, TokenRecord};
use tower_gate::verifier::RoutedVerifier;
use tower_gate::verifier::opaque::{
    IssuedToken, NewToken, OpaqueTokens, OpaqueTokensBuilder, Pepper, Peppers, TokenError,
};
use tower_gate::verifier::revocable::Revocations;

use crate::Error;
use crate::demo::ISSUER;
use crate::flags::{Flags, Keys, without_password};

#[derive(Clone)]
pub(crate) struct Tokens(OpaqueTokens);

/// The tokens that the flags ask for, if any.
pub(crate) async fn open(
    flags: &Flags,
    revocations: &Revocations,
) -> Result<Option<Tokens>, Error> {
    let place = match (&flags.tokens, &*flags.keys) {
        (Some(place), _) => place,
        (None, [Keys::Demo]) => return in_memory(flags, revocations).await,
        (None, _) => return Ok(None),
    };
    let named =
        |error: Error| Error::from(format!("--tokens {}: {error}", without_password(place)));
    let (scheme, rest) = place.split_once(':').unwrap_or((place, ""));
    let builder = match scheme {
        "sqlite" if !rest.is_empty() => sqlite(flags, rest).await,
        "postgres" | "postgresql" => postgres(flags, place).await,
        _ => Err("tokens are in sqlite:PATH or postgres://…".into()),
    };
    Ok(Some(Tokens(builder.map_err(named)?.with_revocations(revocations).build()?)))
}

impl Tokens {
    pub(crate) fn add_to(&self, verifier: RoutedVerifier) -> RoutedVerifier {
        verifier.with_prefix("tg_", self.0.verifier())
    }

    /// A token to try out.
    pub(crate) async fn demo(&self) -> Result<String, Error> {
        let new = NewToken::new("viewer").client("demo").scopes("read:reports").roles(["viewer"]);
        let issued = self.0.issue(new.expires_in(Duration::from_secs(3600))).await?;
        Ok(issued.token.expose().to_owned())
    }

    /// For those who may manage tokens.
    pub(crate) fn routes(self) -> Router {
        Router::new()
            .route("/admin/tokens", post(issue).get(list).delete(revoke_all))
            .route("/admin/tokens/{id}", get(describe).delete(revoke))
            .route("/admin/tokens/{id}/rotate", post(rotate))
            .route("/admin/tokens/{id}/expire", post(expire))
            .route("/admin/tokens/{id}/enable", post(enable))
            .route("/admin/tokens/{id}/disable", post(disable))
            .with_state(self.0)
    }

    /// Writes down what is still to be.
    pub(crate) async fn close(&self) {
        self.0.write_last_used().await;
    }
}

/// The newest first, which is made where there is none.
fn peppers(flags: &Flags, default: String) -> Result<Peppers, Error> {
    let mut paths = flags.pepper_files.clone();
    if paths.is_empty() {
        paths.push(default.into());
    }
    let named = |path: &Path, error: Error| format!("--pepper-file {}: {error}", path.display());
    if !paths[0].exists() {
        make_secret(&paths[0]).map_err(|error| named(&paths[0], error))?;
    }
    let peppers = paths.iter().map(|path| pepper(path).map_err(|error| named(path, error)));
    let mut peppers = peppers.collect::<Result<Vec<_>, _>>()?.into_iter();
    let all = Peppers::new(peppers.next().ok_or("there is no pepper")?);
    peppers.try_for_each(|older| all.accept(older))?;
    Ok(all)
}

/// Named after what is in the file, wherever that is moved.
fn pepper(path: &Path) -> Result<Pepper, Error> {
    let secret = std::fs::read(path)?;
    let digest = digest(&SHA256, &secret);
    let name: String = digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Pepper::new(&name, &secret)?)
}

/// All at once: of several programs that start together, one makes it and the others find it whole.
fn make_secret(path: &Path) -> Result<(), Error> {
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{:x}", u32::from_ne_bytes(random()?)));
    let mut file = private().create_new(true).open(&own)?;
    file.write_all(&random::<32>()?)?;
    file.sync_all()?;
    let made = std::fs::hard_link(&own, path);
    std::fs::remove_file(&own)?;
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => Ok(made?),
    }
}

/// A new file that nobody else may read.
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut secret = [0; N];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| "the machine has no random bytes")?;
    Ok(secret)
}

fn builder(
    flags: &Flags,
    store: impl tower_gate::store::TokenStore,
    peppers: Peppers,
) -> OpaqueTokensBuilder {
    OpaqueTokens::builder(flags.issuer.as_deref().unwrap_or(ISSUER), store, peppers)
}

#[cfg(feature = "sqlite")]
async fn in_memory(flags: &Flags, revocations: &Revocations) -> Result<Option<Tokens>, Error> {
    use sqlx::sqlite::SqlitePoolOptions;
    use tower_gate::store::sqlite::SqliteTokenStore;

    // Another connection would be another database.
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let store = SqliteTokenStore::new(pool.connect("sqlite::memory:").await?);
    store.migrate().await?;
    let peppers = Peppers::new(Pepper::new("demo", &random::<32>()?)?);
    let builder = builder(flags, store, peppers).with_revocations(revocations);
    Ok(Some(Tokens(builder.build()?)))
}

#[cfg(not(feature = "sqlite"))]
async fn in_memory(_: &Flags, _: &Revocations) -> Result<Option<Tokens>, Error> {
    Ok(None)
}

#[cfg(feature = "sqlite")]
async fn sqlite(flags: &Flags, path: &str) -> Result<OpaqueTokensBuilder, Error> {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
    use tower_gate::store::sqlite::SqliteTokenStore;

    let peppers = peppers(flags, format!("{path}.pepper"))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let store = SqliteTokenStore::new(SqlitePool::connect_with(options).await?);
    store.migrate().await?;
    Ok(builder(flags, store, peppers))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_: &Flags, _: &str) -> Result<OpaqueTokensBuilder, Error> {
    Err("it needs the feature sqlite, which is not in this build".into())
}

#[cfg(feature = "postgres")]
async fn postgres(flags: &Flags, url: &str) -> Result<OpaqueTokensBuilder, Error> {
    use sqlx::postgres::PgPoolOptions;
    use tower_gate::store::postgres::PostgresTokenStore;

    let peppers = peppers(flags, "api.pepper".to_owned())?;
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(5)).connect(url).await?;
    let store = PostgresTokenStore::new(pool);
    store.migrate().await?;
    Ok(builder(flags, store, peppers))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_: &Flags, _: &str) -> Result<OpaqueTokensBuilder, Error> {
    Err("it needs the feature postgres, which is not in this build".into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    subject: String,
    client: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    /// In seconds.
    expires_in: Option<u64>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

async fn issue(
    State(tokens): State<OpaqueTokens>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(wanted) = wanted?;
    for scope in &wanted.scopes {
        tower_gate::Scope::parse(scope)
            .map_err(|error| Refusal::Request(StatusCode::BAD_REQUEST, error.to_string()))?;
    }
    let mut new =
        NewToken::new(&wanted.subject).scopes(&wanted.scopes.join(" ")).roles(wanted.roles);
    new = new.metadata(wanted.metadata);
    if let Some(client) = &wanted.client {
        new = new.client(client);
    }
    if let Some(seconds) = wanted.expires_in {
        new = new.expires_in(Duration::from_secs(seconds));
    }
    Ok(shown_once(StatusCode::CREATED, &tokens.issue(new).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    subject: Option<String>,
    issuer: Option<String>,
    client: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Listed {
    /// Whose tokens.
    fn filter(&self, tokens: &OpaqueTokens) -> Result<TokenFilter, Refusal> {
        let names = [&self.subject, &self.issuer, &self.client];
        if names.into_iter().flatten().any(|name| name.contains('\0')) {
            return Err(Refusal::bad("a name has no NUL in it"));
        }
        match (&self.subject, &self.client) {
            (Some(subject), None) => {
                let issuer = self.issuer.as_deref().unwrap_or(tokens.issuer());
                Ok(TokenFilter::subject(issuer, subject))
            }
            // Of a client, tokens of all issuers are meant.
            (None, Some(client)) if self.issuer.is_none() => Ok(TokenFilter::client(client)),
            _ => Err(Refusal::bad("say whose: ?subject=… with or without &issuer=…, or ?client=…")),
        }
    }
}

async fn list(
    State(tokens): State<OpaqueTokens>,
    listed: Result<Query<Listed>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(listed) = listed?;
    let query = TokenQuery::new(listed.filter(&tokens)?);
    let query = query.after(listed.after).limit(listed.limit.unwrap_or(100));
    let page = tokens.list(query).await?;
    let records: Vec<Value> = page.records.iter().map(shown).collect();
    Ok(Json(json!({ "tokens": records, "next": page.next })))
}

async fn revoke_all(
    State(tokens): State<OpaqueTokens>,
    listed: Result<Query<Listed>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(listed) = listed?;
    if listed.after.is_some() || listed.limit.is_some() {
        return Err(Refusal::bad("all are revoked, not a page of them"));
    }
    let revoked = tokens.revoke_all(listed.filter(&tokens)?).await?;
    Ok(Json(json!({ "revoked": revoked })))
}

async fn describe(
    State(tokens): State<OpaqueTokens>,
    PathOf(id): PathOf<String>,
) -> Result<Json<Value>, Refusal> {
    let record = tokens.describe(&id).await?.ok_or(TokenError::Unknown)?;
    Ok(Json(shown(&record)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expiry {
    /// In seconds since 1970.
    at: u64,
}

async fn expire(
    State(tokens): State<OpaqueTokens>,
    PathOf(id): PathOf<String>,
    expiry: Result<Json<Expiry>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(Expiry { at }) = expiry?;
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(at));
    let at = at.ok_or_else(|| Refusal::bad("the time is too far ahead"))?;
    done(tokens.expire(&id, at).await?)
}

async fn enable(
    State(tokens): State<OpaqueTokens>,
    PathOf(id): PathOf<String>,
) -> Result<StatusCode, Refusal> {
    done(tokens.enable(&id).await?)
}

async fn disable(
    State(tokens): State<OpaqueTokens>,
    PathOf(id): PathOf<String>,
) -> Result<StatusCode, Refusal> {
    done(tokens.disable(&id).await?)
}

fn done(there_is_one: bool) -> Result<StatusCode, Refusal> {
    if there_is_one { Ok(StatusCode::NO_CONTENT) } else { Err(TokenError::Unknown.into()) }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// In seconds.
    #[serde(default)]
    overlap: u64,
}

async fn rotate(
    State(tokens): State<OpaqueTokens>,
    PathOf(id): PathOf<String>,
    rotation: Result<Json<Rotation>, JsonRejection>,
) -> Result<Response, Refusal> {
    let rotation = match rotation {
        Ok(Json(rotation)) => rotation,
        // No body at all asks for no overlap.
        Err(JsonRejection::MissingJsonContentType(_)) => Rotation::default(),
        Err(error) => return Err(error.into()),
    };
    let overlap = Duration::from_secs(rotation.overlap);
    Ok(shown_once(StatusCode::OK, &tokens.rotate(&id, overlap).await?))
}

async fn revoke(
    State(tokens): State<OpaqueTokens>,
    PathOf(id): PathOf<String>,
) -> Result<StatusCode, Refusal> {
    // One that was revoked before is gone all the same.
    done(tokens.revoke(&id).await? || tokens.describe(&id).await?.is_some())
}

/// The one answer that has the token's text, which nobody on the way keeps.
fn shown_once(status: StatusCode, issued: &IssuedToken) -> Response {
    let shown = json!({
        "id": issued.record.id,
        "token": issued.token.expose(),
        "expires_at": issued.record.expires_at.map(seconds),
    });
    (status, [(CACHE_CONTROL, "no-store")], Json(shown)).into_response()
}

fn shown(record: &TokenRecord) -> Value {
    json!({
        "id": record.id,
        "issuer": record.issuer,
        "subject": record.subject,
        "client": record.client,
        "scopes": record.scopes.iter().collect::<Vec<_>>(),
        "roles": record.roles,
        "metadata": serde_json::from_str::<Value>(&record.metadata).unwrap_or_default(),
        "issued_at": seconds(record.issued_at),
        "not_before": record.not_before.map(seconds),
        "expires_at": record.expires_at.map(seconds),
        "revoked_at": record.revoked_at.map(seconds),
        "enabled": record.enabled,
        "replaced_by": record.replaced_by,
        "last_used": record.last_used.map(seconds),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the one who manages tokens is told when it does not work.
enum Refusal {
    Request(StatusCode, String),
    Store(StoreError),
}

impl Refusal {
    fn bad(message: &str) -> Self {
        Self::Request(StatusCode::BAD_REQUEST, message.to_owned())
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let status = match error {
            TokenError::Store(error) => return Self::Store(error),
            TokenError::Unknown => StatusCode::NOT_FOUND,
            TokenError::Ended | TokenError::Replaced => StatusCode::CONFLICT,
            TokenError::InvalidName | TokenError::NeverGood => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::Request(status, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<JsonRejection> for Refusal {
    fn from(error: JsonRejection) -> Self {
        Self::Request(error.status(), error.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(error: QueryRejection) -> Self {
        Self::Request(error.status(), error.body_text())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Request(status, message) => {
                (status, Json(json!({ "message": message }))).into_response()
            }
            Self::Store(error) => Rejection::from(error).into_response(),
        }
    }
}
