//! The headers that are not the client's to send.

use http::{HeaderMap, HeaderName};

/// Headers in which proxies tell an application who calls: what oauth2-proxy, Authelia, authentik,
/// Kubernetes, Google, Cloudflare, Amazon and Tailscale write, and what people name their own.
const IDENTITY_HEADERS: &[&str] = &[
    "cf-access-authenticated-user-email",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "tailscale-user-login",
    "tailscale-user-name",
    "x-amzn-oidc-identity",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-preferred-username",
    "x-auth-request-user",
    "x-authenticated-user",
    "x-authentik-email",
    "x-authentik-groups",
    "x-authentik-name",
    "x-authentik-uid",
    "x-authentik-username",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "x-remote-email",
    "x-remote-group",
    "x-remote-groups",
    "x-remote-name",
    "x-remote-user",
    "x-user-email",
    "x-user-id",
    "x-user-name",
    "x-user-roles",
];

/// Names to remove.
#[derive(Clone)]
pub(super) struct Scrub {
    names: Vec<HeaderName>,
    /// A bit for the shape of each of them: what has another shape than all is none of them.
    shapes: [u64; 16],
}

impl Scrub {
    pub(super) fn new(names: impl IntoIterator<Item = HeaderName>) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        let mut shapes = [0; 16];
        for name in &names {
            let (word, bit) = shape(name);
            shapes[word] |= bit;
        }
        Self { names, shapes }
    }

    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        for name in &self.names {
            headers.remove(name);
        }
    }

    /// To be asked of each header that is there: most requests have none of these, and to look for
    /// every one of them would cost more than the rest of a layer.
    pub(super) fn has(&self, name: &HeaderName) -> bool {
        let (word, bit) = shape(name);
        self.shapes[word] & bit != 0 && self.names.contains(name)
    }
}

/// One of 1024 bits for a name's length, beginning and end, which tell most names apart.
fn shape(name: &HeaderName) -> (usize, u64) {
    let name = name.as_str().as_bytes();
    let (&first, &last) = name.first().zip(name.last()).unwrap_or((&0, &0));
    let shape = 13 * name.len() + 37 * usize::from(first) + 5 * usize::from(last);
    (shape / 64 % 16, 1 << (shape % 64))
}

impl Default for Scrub {
    fn default() -> Self {
        Self::new(IDENTITY_HEADERS.iter().copied().map(HeaderName::from_static))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn request_with(names: &[&'static str]) -> HeaderMap {
        let named =
            |name: &&'static str| (HeaderName::from_static(name), HeaderValue::from_static("x"));
        names.iter().map(named).collect()
    }

    #[test]
    fn every_identity_header_goes_and_nothing_else() {
        let scrub = Scrub::default();
        for name in IDENTITY_HEADERS {
            let mut headers = request_with(&["accept", name, "x-forwarded-for", "x-request-id"]);
            headers.append(*name, HeaderValue::from_static("again"));
            scrub.remove_from(&mut headers);
            assert_eq!(
                headers,
                request_with(&["accept", "x-forwarded-for", "x-request-id"]),
                "{name}"
            );
        }
    }

    #[test]
    fn names_may_come_in_any_order() {
        let names = ["x-b", "accept", "x-a"].map(HeaderName::from_static);
        let mut headers = request_with(&["accept", "x-a", "x-b", "x-c"]);
        Scrub::new(names).remove_from(&mut headers);
        assert_eq!(headers, request_with(&["x-c"]));
    }
}
