//! The address that a request comes from.

mod forwarded;
mod network;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName};

pub use self::network::{InvalidNetwork, Network};

/// The transport's peer, as a request extension that every layer understands.
///
/// A server that knows its peer inserts it before the layers run; an application whose framework
/// already has such an extension tells [`ClientIp::from_extensions`] how to read it instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerAddr(pub SocketAddr);

/// How a layer learns the client's address.
///
/// The default is the [`PeerAddr`] extension, and no header is read: a client can write whatever it
/// likes into those (CLIENTIP-1). Behind proxies, name their networks and the one header that they
/// write. The client is then the first address from the right that is not a proxy's; everything
/// further left may be made up (CLIENTIP-3).
///
/// ```
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// use tower_gate::{ClientIp, Network};
///
/// // The address that axum's `into_make_service_with_connect_info` leaves on every request.
/// let client_ip = ClientIp::from_extensions(|extensions| {
///     extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
/// });
/// // The same behind load balancers in one network.
/// let client_ip = client_ip.behind_x_forwarded_for([Network::parse("10.0.0.0/8")?]);
/// # let _ = client_ip;
/// # Ok::<(), tower_gate::InvalidNetwork>(())
/// ```
#[derive(Clone)]
pub struct ClientIp {
    peer: Peer,
    proxies: Option<Arc<Proxies>>,
}

#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "a closure behind an Arc, written out once")]
struct Peer(Arc<dyn Fn(&Extensions) -> Option<IpAddr> + Send + Sync>);

/// Who may say for whom a request is forwarded, and in which header.
struct Proxies {
    networks: Vec<Network>,
    header: Forwarding,
}

/// The one header that the proxies write (CLIENTIP-2).
#[derive(Debug)]
enum Forwarding {
    /// RFC 7239.
    Forwarded,
    /// A header with the client's address and nothing else, such as `CF-Connecting-IP`.
    Single(HeaderName),
    XForwardedFor,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ClientAddr {
    /// The client, or the closest to it that is known.
    pub client: IpAddr,
    /// The transport's peer: the client itself, or a proxy.
    pub peer: IpAddr,
    /// A trusted proxy does not say for whom it forwards, so that `client` is a proxy.
    pub opaque: bool,
}

impl ClientIp {
    /// Reads the peer's address from whatever extension the server leaves on its requests.
    pub fn from_extensions<F>(lookup: F) -> Self
    where
        F: Fn(&Extensions) -> Option<IpAddr> + Send + Sync + 'static,
    {
        Self { peer: Peer(Arc::new(lookup)), proxies: None }
    }

    /// Believes `X-Forwarded-For` of peers in these networks.
    #[must_use]
    pub fn behind_x_forwarded_for(self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.behind(networks, Forwarding::XForwardedFor)
    }

    /// Believes `Forwarded` (RFC 7239) of peers in these networks.
    #[must_use]
    pub fn behind_forwarded(self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.behind(networks, Forwarding::Forwarded)
    }

    /// Believes a header with one address, such as `CF-Connecting-IP`, of peers in these networks.
    /// The proxy must overwrite the header on every request.
    #[must_use]
    pub fn behind_header(
        self,
        name: HeaderName,
        networks: impl IntoIterator<Item = Network>,
    ) -> Self {
        self.behind(networks, Forwarding::Single(name))
    }

    fn behind(self, networks: impl IntoIterator<Item = Network>, header: Forwarding) -> Self {
        let networks = networks.into_iter().collect();
        Self { proxies: Some(Arc::new(Proxies { networks, header })), ..self }
    }

    /// The client's address; `None` where the server does not say who its peer is.
    #[must_use]
    pub fn find(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<ClientAddr> {
        // CLIENTIP-32: an IPv4 client of an IPv6 socket is an IPv4 client.
        let peer = (self.peer.0)(extensions)?.to_canonical();
        let direct = ClientAddr { client: peer, peer, opaque: false };
        Some(self.proxies.as_ref().map_or(direct, |proxies| proxies.client_behind(direct, headers)))
    }
}

impl Proxies {
    /// Walks from the peer towards the client while whoever speaks is trusted.
    fn client_behind(&self, direct: ClientAddr, headers: &HeaderMap) -> ClientAddr {
        let mut client = direct.client;
        if !self.trusts(client) {
            return direct;
        }
        for hop in self.hops(headers) {
            let Some(address) = hop else {
                // CLIENTIP-5: what is further left was not said by anybody that is trusted.
                return ClientAddr { client, opaque: true, ..direct };
            };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        ClientAddr { client, ..direct }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The addresses that were forwarded for, nearest first; `None` for one that cannot be read.
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        match &self.header {
            Forwarding::Forwarded => forwarded::forwarded(headers),
            Forwarding::Single(name) => forwarded::single(headers, name),
            Forwarding::XForwardedFor => forwarded::x_forwarded_for(headers),
        }
    }
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::from_extensions(|extensions| extensions.get::<PeerAddr>().map(|peer| peer.0.ip()))
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxies = self.proxies.as_deref();
        f.debug_struct("ClientIp")
            .field("networks", &proxies.map(|proxies| &proxies.networks))
            .field("header", &proxies.map(|proxies| &proxies.header))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
