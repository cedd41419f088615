//! A gRPC service and a client for it, without protoc.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::BoxFuture;
use tonic::metadata::AsciiMetadataValue;
use tonic::server::{NamedService, UnaryService};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::{BoxError, Service};
use tower_gate::Principal;

/// A service whose one method answers with the caller's subject.
#[derive(Clone)]
pub(crate) struct WhoAmI;

impl UnaryService<()> for WhoAmI {
    type Response = String;
    type Future = Ready<Result<tonic::Response<String>, Status>>;

    fn call(&mut self, request: tonic::Request<()>) -> Self::Future {
        let subject = Principal::of(request.extensions()).map_or("nobody", Principal::subject);
        ready(Ok(tonic::Response::new(subject.to_owned())))
    }
}

impl<B> Service<Request<B>> for WhoAmI
where
    B: http_body::Body<Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
        Box::pin(async move { Ok(grpc.unary(Self, request).await) })
    }
}

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

/// Serves these routes by tonic's own server for as long as the test runs.
pub(crate) async fn serve_grpc(routes: impl Into<Routes>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_routes(routes.into());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

pub(crate) async fn connect(server: SocketAddr) -> Channel {
    Endpoint::new(format!("http://{server}")).unwrap().connect().await.unwrap()
}

/// A connection from one of this machine's addresses.
pub(crate) async fn connect_from(address: IpAddr, server: SocketAddr) -> Channel {
    let server = Endpoint::new(format!("http://{server}")).unwrap();
    server.local_address(Some(address)).connect().await.unwrap()
}

/// Calls a method with these values of `authorization`.
pub(crate) async fn call(
    channel: &Channel,
    path: &'static str,
    credentials: &[&str],
) -> Result<String, Status> {
    let mut request = tonic::Request::new(());
    for value in credentials {
        let value = AsciiMetadataValue::try_from(*value).unwrap();
        request.metadata_mut().append("authorization", value);
    }
    unary(channel, path, request).await
}

/// Calls a method with this request.
pub(crate) async fn unary(
    channel: &Channel,
    path: &'static str,
    request: tonic::Request<()>,
) -> Result<String, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    let response = client.unary(request, path, ProstCodec::<(), String>::default()).await?;
    Ok(response.into_inner())
}
