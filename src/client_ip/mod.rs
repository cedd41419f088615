//! The address that a request comes from.

mod forwarded;
mod network;
mod origin;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName};

pub use self::network::{InvalidNetwork, Network};
pub use self::origin::ForwardedOrigin;

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
/// Where the networks are not known, as behind a service that changes its addresses, the number of
/// proxies does ([`behind_x_forwarded_for_hops`](Self::behind_x_forwarded_for_hops)), if nobody can
/// reach the server but through them.
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
    trust: Trust,
    header: Forwarding,
}

/// How a proxy is known from a client.
#[derive(Debug)]
enum Trust {
    /// By its number, counted from the server.
    Hops(u8),
    Networks(Vec<Network>),
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

    /// For a server on a Unix socket, whose peer has no address: everybody on it counts as the one
    /// client `127.0.0.1`, or, with `127.0.0.1` among the networks of the proxies, as a proxy.
    #[must_use]
    pub fn of_unix_socket() -> Self {
        Self::from_extensions(|_| Some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    /// Believes `X-Forwarded-For` of peers in these networks.
    #[must_use]
    pub fn behind_x_forwarded_for(self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.behind_networks(networks, Forwarding::XForwardedFor)
    }

    /// Believes the last so many entries of `X-Forwarded-For`, one for each proxy on the way,
    /// whoever the peer is. The first of them is the client. A request with fewer entries has not
    /// come that way, and its client is the peer. Whoever can reach the server past the proxies can
    /// make up his address.
    #[must_use]
    pub fn behind_x_forwarded_for_hops(self, hops: u8) -> Self {
        self.behind(Trust::Hops(hops), Forwarding::XForwardedFor)
    }

    /// Believes `Forwarded` (RFC 7239) of peers in these networks.
    #[must_use]
    pub fn behind_forwarded(self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.behind_networks(networks, Forwarding::Forwarded)
    }

    /// Believes the last so many elements of `Forwarded`, as
    /// [`behind_x_forwarded_for_hops`](Self::behind_x_forwarded_for_hops) does.
    #[must_use]
    pub fn behind_forwarded_hops(self, hops: u8) -> Self {
        self.behind(Trust::Hops(hops), Forwarding::Forwarded)
    }

    /// Believes a header with one address, such as `CF-Connecting-IP`, of peers in these networks.
    /// The proxy must overwrite the header on every request.
    #[must_use]
    pub fn behind_header(
        self,
        name: HeaderName,
        networks: impl IntoIterator<Item = Network>,
    ) -> Self {
        self.behind_networks(networks, Forwarding::Single(name))
    }

    fn behind_networks(
        self,
        networks: impl IntoIterator<Item = Network>,
        header: Forwarding,
    ) -> Self {
        self.behind(Trust::Networks(networks.into_iter().collect()), header)
    }

    fn behind(self, trust: Trust, header: Forwarding) -> Self {
        Self { proxies: Some(Arc::new(Proxies { trust, header })), ..self }
    }

    /// The client's address; `None` where the server does not say who its peer is.
    #[must_use]
    pub fn find(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<ClientAddr> {
        let direct = self.direct(extensions)?;
        Some(self.proxies.as_ref().map_or(direct, |proxies| proxies.walk(direct, headers).0))
    }

    /// The scheme and host that the client has asked for, as the proxies say: in the element of
    /// `Forwarded` that names the client, or, where another header names it, in the last entry of
    /// `X-Forwarded-Proto` and `X-Forwarded-Host`, which the nearest proxy must write. Nothing is
    /// known where no proxy is believed.
    #[must_use]
    pub fn origin(&self, headers: &HeaderMap, extensions: &Extensions) -> ForwardedOrigin {
        match (&self.proxies, self.direct(extensions)) {
            (Some(proxies), Some(direct)) => proxies.origin(direct, headers),
            _ => ForwardedOrigin::default(),
        }
    }

    fn direct(&self, extensions: &Extensions) -> Option<ClientAddr> {
        // CLIENTIP-32: an IPv4 client of an IPv6 socket is an IPv4 client.
        let peer = (self.peer.0)(extensions)?.to_canonical();
        Some(ClientAddr { client: peer, peer, opaque: false })
    }
}

impl Proxies {
    /// The client, and which of the hops it is, unless it is the peer.
    fn walk(&self, direct: ClientAddr, headers: &HeaderMap) -> (ClientAddr, Option<usize>) {
        if !self.trusts_peer(direct.peer) {
            return (direct, None);
        }
        let hops = self.hops(headers);
        match &self.trust {
            Trust::Hops(number) => {
                let last = usize::from(*number) - 1;
                match hops.get(last) {
                    Some(&Some(client)) => (ClientAddr { client, ..direct }, Some(last)),
                    // CLIENTIP-4: no guess.
                    _ => (ClientAddr { opaque: true, ..direct }, None),
                }
            }
            Trust::Networks(networks) => first_stranger(networks, direct, &hops),
        }
    }

    fn origin(&self, direct: ClientAddr, headers: &HeaderMap) -> ForwardedOrigin {
        let (found, hop) = self.walk(direct, headers);
        match (&self.header, hop) {
            _ if found.opaque || !self.trusts_peer(direct.peer) => ForwardedOrigin::default(),
            (Forwarding::Forwarded, None) => ForwardedOrigin::default(),
            (Forwarding::Forwarded, Some(hop)) => ForwardedOrigin::of_hop(headers, hop),
            _ => ForwardedOrigin::of_x_forwarded(headers),
        }
    }

    fn trusts_peer(&self, peer: IpAddr) -> bool {
        match &self.trust {
            Trust::Hops(number) => *number > 0,
            Trust::Networks(networks) => is_in(networks, peer),
        }
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

/// Walks from the peer, which is a proxy, towards the client while whoever speaks is trusted.
fn first_stranger(
    networks: &[Network],
    direct: ClientAddr,
    hops: &[Option<IpAddr>],
) -> (ClientAddr, Option<usize>) {
    let (mut found, mut at) = (direct, None);
    for (hop, address) in hops.iter().enumerate() {
        let &Some(client) = address else {
            // CLIENTIP-5: what is further left was not said by anybody that is trusted.
            return (ClientAddr { opaque: true, ..found }, at);
        };
        (found.client, at) = (client, Some(hop));
        if !is_in(networks, client) {
            break;
        }
    }
    (found, at)
}

fn is_in(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
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
            .field("trust", &proxies.map(|proxies| &proxies.trust))
            .field("header", &proxies.map(|proxies| &proxies.header))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
