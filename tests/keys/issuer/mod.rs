//! An issuer on the loopback interface that answers as badly as it is told to.

mod reply;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use http::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_gate::fetch::ReqwestFetch;
use tower_gate::verifier::jwks::{Jwks, JwksBuilder};

pub(crate) use self::reply::Reply;

/// Where its keys are.
pub(crate) const JWKS: &str = "/jwks.json";

/// The server ends with it.
pub(crate) struct Issuer {
    address: SocketAddr,
    site: Arc<Site>,
    _server: JoinSet<std::io::Result<()>>,
}

#[derive(Default)]
struct Site {
    replies: Mutex<HashMap<String, Reply>>,
    asked: Mutex<Vec<String>>,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (site, mut server) = (Arc::<Site>::default(), JoinSet::new());
        let router = Router::new().fallback(answer).with_state(site.clone());
        server.spawn(async move { axum::serve(listener, router).await });
        Self { address, site, _server: server }
    }

    /// An issuer with these keys at [`JWKS`], and a way to fetch them.
    pub(crate) async fn with_keys(keys: &Value) -> Self {
        let issuer = Self::start().await;
        issuer.serve(JWKS, Reply::json(keys));
        issuer
    }

    /// An address at which nobody listens.
    pub(crate) async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap()
    }

    /// The issuer's name, which is also where it is.
    pub(crate) fn name(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.name())
    }

    /// The keys at [`JWKS`], to be fetched by a real client.
    pub(crate) fn jwks(&self) -> JwksBuilder {
        Jwks::at(&self.url(JWKS), ReqwestFetch::new().unwrap()).unwrap()
    }

    /// What is answered at this path from now on. Whatever has no reply is 404.
    pub(crate) fn serve(&self, path: &str, reply: Reply) {
        self.site.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// Serves metadata that names this issuer and its keys.
    pub(crate) fn serve_metadata(&self, path: &str, issuer: &str) {
        let metadata = json!({ "issuer": issuer, "jwks_uri": self.url(JWKS) });
        self.serve(path, Reply::json(&metadata));
    }

    /// The paths that were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.site.asked.lock().unwrap().clone()
    }

    /// How often this path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == path).count()
    }
}

async fn answer(State(site): State<Arc<Site>>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    site.asked.lock().unwrap().push(path.clone());
    let reply = site.replies.lock().unwrap().get(&path).cloned();
    reply.unwrap_or_else(|| Reply::status(404)).into_response().await
}
