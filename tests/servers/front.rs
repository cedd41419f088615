//! An address in front of a server, where connections break, fall silent, and lead elsewhere.

use std::future::pending;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Lives in the runtime that it was made in.
pub(crate) struct Front {
    port: u16,
    /// `None` where nothing is reached.
    server: watch::Sender<Option<SocketAddr>>,
    silent: watch::Sender<bool>,
}

impl Front {
    pub(crate) async fn before(url: &str) -> Self {
        Self::until(url, None).await
    }

    /// What a client says is passed on until this word comes up in it, and from then on nothing is:
    /// for the server, the client hangs.
    pub(crate) async fn until(url: &str, word: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (server, led) = watch::channel(Some(address(url)));
        let (silent, hushed) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, led.clone(), hushed.clone(), word));
            }
        });
        Self { port, server, silent }
    }

    /// The address of what is behind it, by way of it.
    pub(crate) fn url(&self, behind: &str) -> String {
        behind.replacen(&address(behind).to_string(), &format!("127.0.0.1:{}", self.port), 1)
    }

    /// Breaks all connections; new ones lead to this server.
    pub(crate) fn lead_to(&self, url: &str) {
        self.server.send_replace(Some(address(url)));
    }

    /// Breaks all connections, and new ones at once.
    pub(crate) fn close(&self) {
        self.server.send_replace(None);
    }

    /// Nothing that is said arrives, and no connection breaks: what is said meanwhile arrives later.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

fn address(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once("://").unwrap();
    let host = rest.split('/').next().unwrap();
    host.rsplit('@').next().unwrap().parse().unwrap()
}

async fn pass_on(
    client: TcpStream,
    mut led: watch::Receiver<Option<SocketAddr>>,
    mut silent: watch::Receiver<bool>,
    word: Option<&'static str>,
) {
    let Some(address) = *led.borrow_and_update() else { return };
    let _ = silent.wait_for(|silent| !silent).await;
    let Ok(server) = TcpStream::connect(address).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, silent.clone(), word) => {}
        () = copy(from_server, to_client, silent, None) => {}
        _ = led.changed() => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
    word: Option<&'static str>,
) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let said = &bytes[..length];
        if word.is_some_and(|word| String::from_utf8_lossy(said).contains(word)) {
            pending().await
        }
        let _ = silent.wait_for(|silent| !silent).await;
        if to.write_all(said).await.is_err() {
            break;
        }
    }
}
