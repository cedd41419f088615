//! The address that a request comes from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::Extensions;

/// The transport's peer, as a request extension that every layer understands.
///
/// A server that knows its peer inserts it before the layers run; an application whose framework
/// already has such an extension tells [`ClientIp::from_extensions`] how to read it instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerAddr(pub SocketAddr);

/// How a layer learns the client's address.
///
/// The default is the [`PeerAddr`] extension. Forwarding headers are never read: a client can
/// write whatever it likes into them (CLIENTIP-1).
///
/// ```
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// use tower_gate::ClientIp;
///
/// // The address that axum's `into_make_service_with_connect_info` leaves on every request.
/// let client_ip = ClientIp::from_extensions(|extensions| {
///     extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
/// });
/// # let _ = client_ip;
/// ```
#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "a closure behind an Arc, written out once")]
pub struct ClientIp(Arc<dyn Fn(&Extensions) -> Option<IpAddr> + Send + Sync>);

impl ClientIp {
    /// Reads the address from whatever extension the server leaves on its requests.
    pub fn from_extensions<F>(lookup: F) -> Self
    where
        F: Fn(&Extensions) -> Option<IpAddr> + Send + Sync + 'static,
    {
        Self(Arc::new(lookup))
    }

    /// The client's address, with IPv4 unwrapped from its IPv6-mapped form (CLIENTIP-32).
    #[must_use]
    pub fn find(&self, extensions: &Extensions) -> Option<IpAddr> {
        (self.0)(extensions).map(|address| address.to_canonical())
    }
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::from_extensions(|extensions| extensions.get::<PeerAddr>().map(|peer| peer.0.ip()))
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIp")
    }
}

/// The part of an address that one host answers for: all of IPv4, a /64 of IPv6 (CLIENTIP-40).
pub(crate) fn host_part(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_one_ipv6_network_are_one_and_mapped_ipv4_hosts_are_not() {
        let part = |text: &str| host_part(text.parse().unwrap());
        assert_eq!(part("2001:db8::1"), part("2001:db8::ffff:1"), "CLIENTIP-40, attack 28");
        assert_ne!(part("2001:db8::1"), part("2001:db8:0:1::1"), "CLIENTIP-40");
        assert_ne!(part("::ffff:192.0.2.1"), part("::ffff:192.0.2.2"), "attack 28");
        assert_eq!(part("::ffff:192.0.2.1"), part("192.0.2.1"), "CLIENTIP-32");
    }
}
