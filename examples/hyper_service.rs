//! The layers around a plain hyper service, without a framework.
//!
//! ```text
//! cargo run --example hyper_service --features test-util
//! ```
#![expect(clippy::print_stdout, reason = "it talks to the person who tries it")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_gate::sink::{JsonLinesSink, QueueSink};
use tower_gate::store::memory::MemoryStore;
use tower_gate::test_util::TestIssuer;
use tower_gate::{
    AuditLayer, AuthenticateLayer, PeerAddr, Principal, Quota, RateLimitLayer, RequireScopeLayer,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let issuer = TestIssuer::new("https://issuer.example", "https://api.example");
    let token = issuer.token("viewer").scopes("read:reports").sign();
    println!("curl -i http://{} -H 'Authorization: Bearer {token}'\n", listener.local_addr()?);

    let trail = Arc::new(QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?);
    let layers = ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()))
        .layer(AuthenticateLayer::new(issuer.verifier()))
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60).with_burst(5)))
        .layer(RequireScopeLayer::scope("read:reports"))
        .into_inner();
    let service = layers.layer(service_fn(reports));
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            stopped = tokio::signal::ctrl_c() => break stopped?,
        };
        let service = ServiceBuilder::new()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            })
            .service(service.clone());
        tokio::spawn(async move {
            let service = TowerToHyperService::new(service);
            let server = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                println!("# {peer}: {error}");
            }
        });
    }
    // The last requests may still be in the queue.
    if !trail.flush(Duration::from_secs(5)) || trail.lost() > 0 {
        println!("# the audit trail is not complete: {} events were lost", trail.lost());
    }
    Ok(())
}

async fn reports(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let subject = Principal::of(request.extensions()).map_or("nobody", Principal::subject);
    Ok(Response::new(Full::from(format!("the reports of {subject}\n"))))
}
