use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName};

use crate::client_ip::forwarded;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the client has asked for, as its proxies say; see [`ClientIp::origin`].
///
/// [`ClientIp::origin`]: crate::ClientIp::origin
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ForwardedOrigin {
    /// `http` or `https`; never another (CLIENTIP-9).
    pub scheme: Option<Scheme>,
    /// The host, with its port where the client has named one.
    pub authority: Option<Authority>,
}

impl ForwardedOrigin {
    /// What the element of `Forwarded` says that names the client.
    pub(super) fn of_hop(headers: &HeaderMap, hop: usize) -> Self {
        let element = forwarded::elements(headers).into_iter().nth(hop).flatten();
        let element = element.unwrap_or_default();
        Self::read(element.proto.as_deref(), element.host.as_deref())
    }

    /// What the nearest proxy says: an entry further left may be the client's own.
    pub(super) fn of_x_forwarded(headers: &HeaderMap) -> Self {
        let [proto, host] =
            [X_FORWARDED_PROTO, X_FORWARDED_HOST].map(|name| forwarded::last_entry(headers, &name));
        Self::read(proto, host)
    }

    fn read(proto: Option<&[u8]>, host: Option<&[u8]>) -> Self {
        let scheme = proto.and_then(|proto| match proto.to_ascii_lowercase().as_slice() {
            b"http" => Some(Scheme::HTTP),
            b"https" => Some(Scheme::HTTPS),
            _ => None,
        });
        // A host has no user in front of it.
        let host = host.filter(|host| !host.contains(&b'@'));
        Self { scheme, authority: host.and_then(|host| Authority::try_from(host).ok()) }
    }
}
