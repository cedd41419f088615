//! A gRPC service behind the layers, and a client that meets them. No protoc is needed.
//!
//! ```text
//! cargo run --example tonic_greeter --features test-util,tonic
//! ```
#![expect(clippy::print_stdout, reason = "it talks to the person who tries it")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::BoxFuture;
use tonic::metadata::AsciiMetadataValue;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpConnectInfo;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder};
use tower_gate::sink::{JsonLinesSink, QueueSink};
use tower_gate::store::memory::MemoryStore;
use tower_gate::test_util::TestIssuer;
use tower_gate::{
    AuditLayer, AuthenticateLayer, ClientIp, Principal, Quota, RateLimitLayer, RequireScopeLayer,
};

/// What `tonic-prost-build` would make of a `.proto` file.
#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone)]
struct Greeter;

impl UnaryService<Hello> for Greeter {
    type Response = Hello;
    type Future = Ready<Result<tonic::Response<Hello>, Status>>;

    fn call(&mut self, request: tonic::Request<Hello>) -> Self::Future {
        let caller = Principal::of(request.extensions()).map_or("nobody", Principal::subject);
        let name = format!("Hello {}, says {caller}", request.get_ref().name);
        ready(Ok(tonic::Response::new(Hello { name })))
    }
}

impl Service<Request<Body>> for Greeter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
        Box::pin(async move { Ok(grpc.unary(Self, request).await) })
    }
}

impl NamedService for Greeter {
    const NAME: &'static str = "example.Greeter";
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let issuer = TestIssuer::new("https://issuer.example", "https://api.example");
    let client_ip = ClientIp::from_extensions(|extensions| {
        extensions.get::<TcpConnectInfo>()?.remote_addr().map(|peer| peer.ip())
    });
    let trail = Arc::new(QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?);
    let layers = ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()).with_client_ip(client_ip))
        .layer(AuthenticateLayer::new(issuer.verifier()))
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60).with_burst(2)))
        .layer(RequireScopeLayer::scope("greet"))
        .into_inner();
    let server = Server::builder().layer(layers).add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let channel = Endpoint::new(format!("http://{address}"))?.connect().await?;
    let greeter = issuer.token("ada").scopes("greet").sign();
    let stranger = issuer.token("bob").sign();
    for token in ["", &stranger, &greeter, &greeter, &greeter] {
        match greet(&channel, token).await {
            Ok(reply) => println!("# {}\n", reply.into_inner().name),
            Err(status) => println!(
                "# {:?}: {} {:?}\n",
                status.code(),
                status.message(),
                status.metadata().get("grpc-retry-pushback-ms"),
            ),
        }
    }
    // The last call may still be in the queue.
    let _ = trail.flush(Duration::from_secs(5));
    Ok(())
}

async fn greet(channel: &Channel, token: &str) -> Result<tonic::Response<Hello>, Status> {
    let mut request = tonic::Request::new(Hello { name: "world".to_owned() });
    if !token.is_empty() {
        let value = AsciiMetadataValue::try_from(format!("Bearer {token}"));
        let value = value.map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/example.Greeter/Greet");
    client.unary(request, path, ProstCodec::<Hello, Hello>::default()).await
}
