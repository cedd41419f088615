//! An issuer without a network, for what takes minutes on a clock that is paused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_gate::fetch::{Fetch, FetchError, FetchRequest};
use tower_gate::verifier::jwks::{Jwks, JwksBuilder};

pub(crate) const NAME: &str = "https://issuer.example";

/// Clones are the same issuer.
#[derive(Clone)]
pub(crate) struct MemoryIssuer(Arc<Mutex<State>>);

struct State {
    /// `None`: it cannot be reached.
    document: Option<String>,
    cache_control: &'static str,
    age: &'static str,
    fetched_at: Vec<Instant>,
    asked: Vec<String>,
    held: Option<Arc<Semaphore>>,
}

impl MemoryIssuer {
    pub(crate) fn down() -> Self {
        Self(Arc::new(Mutex::new(State {
            document: None,
            cache_control: "",
            age: "",
            fetched_at: Vec::new(),
            asked: Vec::new(),
            held: None,
        })))
    }

    pub(crate) fn new(keys: &Value) -> Self {
        let issuer = Self::down();
        issuer.publish(keys);
        issuer
    }

    pub(crate) fn publish(&self, keys: &Value) {
        self.0.lock().unwrap().document = Some(keys.to_string());
    }

    pub(crate) fn go_down(&self) {
        self.0.lock().unwrap().document = None;
    }

    pub(crate) fn set_cache_control(&self, value: &'static str) {
        self.0.lock().unwrap().cache_control = value;
    }

    pub(crate) fn set_age(&self, value: &'static str) {
        self.0.lock().unwrap().age = value;
    }

    /// From now on answers are what they are when the request comes, and are sent when there is a
    /// permit for each.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let held = Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().held = Some(held.clone());
        held
    }

    pub(crate) fn jwks(&self) -> JwksBuilder {
        Jwks::at("https://issuer.example/jwks.json", self.fetch()).unwrap()
    }

    /// How often it was asked.
    pub(crate) fn fetches(&self) -> usize {
        self.0.lock().unwrap().fetched_at.len()
    }

    /// How long after the first each fetch was.
    pub(crate) fn times(&self) -> Vec<Duration> {
        let fetched_at = &self.0.lock().unwrap().fetched_at;
        fetched_at.iter().map(|at| *at - fetched_at[0]).collect()
    }

    /// Whether nobody could ask it any more.
    pub(crate) fn is_forgotten(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// The addresses that it was asked for, whichever they are.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    pub(crate) fn fetch(&self) -> impl Fetch + use<> {
        let issuer = self.clone();
        move |asked: FetchRequest| {
            let issuer = issuer.clone();
            async move {
                let (answer, held) = issuer.answer(asked.request.uri().to_string());
                if let Some(held) = held {
                    held.acquire().await.map_err(FetchError::new)?.forget();
                }
                answer
            }
        }
    }

    fn answer(&self, url: String) -> (Result<Response<Bytes>, FetchError>, Option<Arc<Semaphore>>) {
        let mut state = self.0.lock().unwrap();
        state.fetched_at.push(Instant::now());
        state.asked.push(url);
        let answer = match state.document.clone() {
            None => Err(FetchError::new("the connection was refused")),
            Some(document) => {
                let mut response = Response::new(Bytes::from(document));
                let headers = [("cache-control", state.cache_control), ("age", state.age)];
                for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
                    response.headers_mut().insert(name, value.parse().unwrap());
                }
                Ok(response)
            }
        };
        (answer, state.held.clone())
    }
}
