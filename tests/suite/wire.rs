//! Real servers, and clients that send what they are told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower::{BoxError, Service, ServiceBuilder};
use tower_gate::PeerAddr;

use crate::support::{Answer, TestBody};

/// A server that has not answered by now never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves the application over HTTP/1.1 and HTTP/2 for as long as the test runs.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Serves the service by hyper alone for as long as the test runs. Its requests know their peer.
pub(crate) async fn serve_by_hyper<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let service = ServiceBuilder::new()
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(PeerAddr(peer));
                    request
                })
                .service(service.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service);
                server.serve_connection(TokioIo::new(stream), service).await.unwrap();
            });
        }
    });
    address
}

/// Sends a request whose lines are these, over HTTP/1.1.
pub(crate) async fn http1(server: SocketAddr, first: &str, headers: &[&str]) -> Answer {
    let mut text = format!("{first} HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    let mut stream = TcpStream::connect(server).await.unwrap();
    let mut bytes = Vec::new();
    let exchange = async {
        // A server that refuses a long head may hang up before it has all of it.
        let _ = stream.write_all(text.as_bytes()).await;
        while let Ok(1..) = stream.read_buf(&mut bytes).await {}
    };
    timeout(PATIENCE, exchange).await.expect("an answer over HTTP/1.1");
    parse(&bytes)
}

/// Reads an answer that ends with its connection.
fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    let mut lines = std::str::from_utf8(&bytes[..end]).unwrap().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    });
    let mut map = HeaderMap::new();
    headers.for_each(|(name, value)| _ = map.append(name, value));
    Answer {
        status: status.parse::<StatusCode>().unwrap(),
        headers: map,
        extensions: http::Extensions::new(),
        body: Bytes::copy_from_slice(&bytes[end + 4..]),
    }
}

/// Sends a request over HTTP/2.
pub(crate) async fn http2(server: SocketAddr, request: Request<TestBody>) -> Answer {
    let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let response = timeout(PATIENCE, sender.send_request(request)).await;
    Answer::read(response.expect("an answer over HTTP/2").unwrap()).await
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const GOAWAY: u8 = 7;

    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;

    fn is_last(&self) -> bool {
        match self.kind {
            Self::DATA | Self::HEADERS => self.flags & Self::END_STREAM != 0,
            kind => matches!(kind, Self::RST_STREAM | Self::GOAWAY),
        }
    }
}

/// Sends a request without a body frame by frame over HTTP/2, and answers the frames that came back
/// for it: names may be what no client would send, and the frames are what no client shows.
pub(crate) async fn http2_frames(server: SocketAddr, head: &[(&str, &str)]) -> Vec<Frame> {
    let mut block = Vec::new();
    for (name, value) in head {
        // A literal that is not indexed (RFC 7541 §6.2.2), of lengths that fit into seven bits.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|len| *len < 0x7F).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    write_frame(&mut stream, Frame::SETTINGS, 0, 0, &[]).await;
    let flags = Frame::END_STREAM | Frame::END_HEADERS;
    write_frame(&mut stream, Frame::HEADERS, flags, 1, &block).await;
    let mut frames = Vec::new();
    let exchange = async {
        while frames.last().is_none_or(|last: &Frame| !last.is_last()) {
            let frame = read_frame(&mut stream).await;
            if frame.stream == 1 || frame.kind == Frame::GOAWAY {
                frames.push(frame);
            }
        }
    };
    timeout(PATIENCE, exchange).await.expect("the end of a stream of HTTP/2");
    frames
}

async fn write_frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
    stream.write_all(&[&head, payload].concat()).await.unwrap();
}

async fn read_frame(stream: &mut TcpStream) -> Frame {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    Frame { kind, flags, stream: u32::from_be_bytes(id), payload }
}
