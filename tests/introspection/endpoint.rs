//! An introspection endpoint on the loopback interface that does what it is told to.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What the endpoint does with a question.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers with this status, content type and body.
    Answer(u16, &'static str, String),
    /// Sends part of a body, then closes the connection.
    Cut,
    /// Never answers.
    Hang,
    /// Sends the client somewhere else.
    Redirect(u16, String),
}

impl Reply {
    pub(crate) fn json(answer: &Value) -> Self {
        Self::text(answer.to_string())
    }

    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self::Answer(200, "application/json", body.into())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(status, "application/json", r#"{"error":"sorry"}"#.into())
    }
}

/// What the endpoint was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The endpoint, which runs apart from the test: stopping it ends its connections too.
pub(crate) struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    reply: Mutex<Reply>,
    seen: watch::Sender<Vec<Seen>>,
    held: watch::Sender<bool>,
}

impl Endpoint {
    /// An endpoint that gives every question this reply.
    pub(crate) fn start(reply: Reply) -> Self {
        let shared = Shared {
            reply: Mutex::new(reply),
            seen: watch::Sender::new(Vec::new()),
            held: watch::Sender::new(false),
        };
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut endpoint = Self { address: free, shared: Arc::new(shared), runtime: None };
        endpoint.restart();
        endpoint
    }

    /// Serves again, at the same address.
    pub(crate) fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(self.shared.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Goes down, in the middle of whatever it does.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not in the background: no connection may be left when this returns.
            std::thread::spawn(move || drop(runtime)).join().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/introspect", self.address)
    }

    pub(crate) fn reply(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// Keeps answers back until they are released.
    pub(crate) fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// All questions so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.borrow().clone()
    }

    pub(crate) fn asked(&self) -> usize {
        self.shared.seen.borrow().len()
    }

    /// Waits until this many questions have come.
    pub(crate) async fn was_asked(&self, times: usize) {
        let mut seen = self.shared.seen.subscribe();
        seen.wait_for(|seen| seen.len() >= times).await.unwrap();
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let seen = Seen {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    // What it answers is decided by the time of the question, as with a revocation that comes later.
    let reply = shared.reply.lock().unwrap().clone();
    shared.seen.send_modify(|all| all.push(seen));
    let _ = shared.held.subscribe().wait_for(|held| !held).await;
    let (status, content_type, body) = match reply {
        Reply::Answer(status, content_type, body) => (status, content_type, Body::from(body)),
        Reply::Cut => {
            let half = [Ok(r#"{"active":true,"#), Err(std::io::Error::other("cut"))];
            (200, "application/json", Body::from_stream(tokio_stream::iter(half)))
        }
        Reply::Hang => {
            std::future::pending::<Infallible>().await;
            (200, "", Body::empty())
        }
        Reply::Redirect(status, to) => {
            let redirect = Response::builder().status(status).header("location", to);
            return redirect.body(Body::empty()).unwrap();
        }
    };
    let answer = Response::builder().status(status);
    let answer = match content_type {
        "" => answer,
        content_type => answer.header("content-type", content_type),
    };
    answer.body(body).unwrap()
}
