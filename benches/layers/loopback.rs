//! A bare axum service beside the same behind four layers, over loopback.
//!
//! One thread serves and another asks, over several connections in turn and doing little else, so
//! that requests always wait for the server: the ratio is that of a core that is busy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use allocation_counter::opt_out;
use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_gate::AuditLayer;
use tower_gate::sink::NullSink;

use crate::harness::median;
use crate::stack::{TOKEN, authenticate, limit, require};

const CONNECTIONS: usize = 16;
const BODY: &str = "Hello, world!";

/// Measures both, taking turns, and prints the medians.
pub(crate) fn compare(turns: usize, length: Duration) {
    let (sender, addresses) = channel();
    std::thread::spawn(move || opt_out(|| serve(&sender)));
    let mut bare = connect(addresses.recv().unwrap());
    let mut gated = connect(addresses.recv().unwrap());
    let rates: Vec<(f64, f64)> =
        (0..turns).map(|_| (rate(&mut bare, length), rate(&mut gated, length))).collect();
    let bare = median(rates.iter().map(|(bare, _)| *bare));
    let gated = median(rates.iter().map(|(_, gated)| *gated));
    let percent = median(rates.iter().map(|(bare, gated)| gated / bare * 100.0));
    println!("axum over loopback, requests a second on one core");
    println!("  bare {bare:.0}, behind four layers {gated:.0}: {percent:.1} %");
}

/// Serves the bare service at the first address that it sends, the other at the second.
#[tokio::main(flavor = "current_thread")]
async fn serve(addresses: &Sender<SocketAddr>) {
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.send(listener.local_addr().unwrap()).unwrap();
        listener
    };
    let bare = Router::new().route("/", get(async || BODY));
    let gated = bare.clone().layer(
        ServiceBuilder::new()
            .layer(AuditLayer::new(NullSink))
            .layer(authenticate())
            .layer(limit())
            .layer(require()),
    );
    let bare = axum::serve(listen().await, bare);
    let gated = axum::serve(listen().await, gated);
    let (bare, gated) = tokio::join!(bare.into_future(), gated.into_future());
    bare.and(gated).unwrap();
}

/// Connections with a request under way on each.
fn connect(address: SocketAddr) -> Vec<TcpStream> {
    let connect = |_| {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_nodelay(true).unwrap();
        ask(&mut connection);
        connection
    };
    (0..CONNECTIONS).map(connect).collect()
}

/// Requests a second.
fn rate(connections: &mut [TcpStream], length: Duration) -> f64 {
    let started = Instant::now();
    let mut answers = 0;
    while started.elapsed() < length {
        for connection in &mut *connections {
            read_answer(connection);
            ask(connection);
            answers += 1;
        }
    }
    f64::from(answers) / started.elapsed().as_secs_f64()
}

fn ask(connection: &mut TcpStream) {
    let request = format!(
        "GET / HTTP/1.1\r\nhost: api.example\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\
         authorization: Bearer {}\r\n\r\n",
        *TOKEN
    );
    connection.write_all(request.as_bytes()).unwrap();
}

fn read_answer(connection: &mut TcpStream) {
    let mut answer = [0; 1024];
    let mut read = 0;
    while !answer[..read].ends_with(BODY.as_bytes()) {
        let more = connection.read(&mut answer[read..]).unwrap();
        assert!(more > 0, "an answer other than {BODY:?}");
        read += more;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "an answer other than 200");
}
