//! Whose units are counted together.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use http::{Extensions, HeaderMap};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::client_ip::ClientIp;
use crate::principal::{Authenticated, Principal};
use crate::quota::Quota;
use crate::random::random_word;

/// Whose units are counted together: what a limit tells its callers apart by.
///
/// Nothing that a client merely says is a part of it: a partition is made of the verified principal,
/// of the client's address as [`ClientIp`] knows it, and of what the application itself leaves in
/// the request's extensions. A store sees a [`PartitionKey`] alone.
///
/// ```
/// use axum::extract::MatchedPath;
/// use tower_gate::Partition;
///
/// #[derive(Clone)]
/// struct Tenant(u64);
///
/// // All users of a tenant together.
/// let tenants = Partition::tenant(|principal| Some(principal.get::<Tenant>()?.0.into()));
/// // Each caller on each route of an axum router.
/// let routes = Partition::route(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().into()));
/// let callers_on_routes = Partition::principal().and(routes);
/// # let _ = (tenants, callers_on_routes);
/// ```
#[derive(Clone)]
#[must_use = "a partition does nothing until a limit has it"]
pub struct Partition {
    parts: Vec<Part>,
    prefixes: Prefixes,
}

/// A value that a partition tells callers apart by: a text or a number.
#[derive(Debug)]
pub struct PartitionValue<'a>(Value<'a>);

#[derive(Debug)]
enum Value<'a> {
    Number(u128),
    Text(Cow<'a, str>),
}

#[derive(Clone)]
enum Part {
    Address,
    Client,
    Extension(Arc<OfExtensions>),
    Principal,
    Route(Arc<OfExtensions>),
    Tenant(Arc<OfPrincipal>),
    Token,
}

type OfExtensions = dyn for<'a> Fn(&'a Extensions) -> Option<PartitionValue<'a>> + Send + Sync;
type OfPrincipal = dyn for<'a> Fn(&'a Principal) -> Option<PartitionValue<'a>> + Send + Sync;

/// How many bits of an address tell hosts apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Prefixes {
    v4: u8,
    v6: u8,
}

impl Partition {
    /// Each verified caller: the pair of issuer and subject. Whoever has no token, where an
    /// [`AuthenticateLayer`](crate::AuthenticateLayer) lets such callers through, is counted by
    /// [address](Self::address).
    pub fn principal() -> Self {
        Self::of(Part::Principal)
    }

    /// Each client of each issuer, whoever its users are; a principal without a client by itself,
    /// and whoever has no token by address.
    pub fn client() -> Self {
        Self::of(Part::Client)
    }

    /// Each token that has an id; one without with its principal, and whoever has no token by
    /// address.
    pub fn token() -> Self {
        Self::of(Part::Token)
    }

    /// Each address: an IPv4 address, or the /64 network of an IPv6 address, which is what one host
    /// has (CLIENTIP-40).
    pub fn address() -> Self {
        Self::of(Part::Address)
    }

    /// Everybody together.
    pub fn global() -> Self {
        Self { parts: Vec::new(), prefixes: Prefixes::default() }
    }

    /// Whatever the application finds in a verified principal, such as the tenant; a principal in
    /// which it finds nothing by itself, and whoever has no token by address. Principals of two issuers
    /// with one value are counted together: where each has names of its own, the issuer belongs into
    /// the value.
    pub fn tenant<F>(find: F) -> Self
    where
        F: for<'a> Fn(&'a Principal) -> Option<PartitionValue<'a>> + Send + Sync + 'static,
    {
        Self::of(Part::Tenant(Arc::new(find)))
    }

    /// Each route, as the application finds it in the request's extensions; what is found on none
    /// together. A template like `/users/{id}`, and not a path: there are as many of those as a client
    /// can think of, and each would have a quota of its own.
    pub fn route<F>(find: F) -> Self
    where
        F: for<'a> Fn(&'a Extensions) -> Option<PartitionValue<'a>> + Send + Sync + 'static,
    {
        Self::of(Part::Route(Arc::new(find)))
    }

    /// Whatever a layer of the application outside of the limit has left in the request's
    /// extensions. A request without it is refused with 500.
    pub fn extension<F>(find: F) -> Self
    where
        F: for<'a> Fn(&'a Extensions) -> Option<PartitionValue<'a>> + Send + Sync + 'static,
    {
        Self::of(Part::Extension(Arc::new(find)))
    }

    /// Each combination of both. Addresses in it have the prefixes of whichever was given some, of
    /// both this one's.
    pub fn and(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        if self.prefixes == Prefixes::default() {
            self.prefixes = other.prefixes;
        }
        self
    }

    /// How many bits of an address tell hosts apart. Default: 32 of IPv4 and 64 of IPv6.
    ///
    /// # Panics
    ///
    /// When an address does not have that many.
    pub fn with_prefixes(mut self, v4: u8, v6: u8) -> Self {
        assert!(v4 <= 32 && v6 <= 128, "an address has no more than 32 or 128 bits");
        self.prefixes = Prefixes { v4, v6 };
        self
    }

    /// Whether what is counted together is one caller's; not so for all, nor for all on a route.
    pub(crate) fn is_of_callers(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Route(_)))
    }

    /// Whether anybody can have as many values as they like, whether they have a token or not: the key
    /// of a value must be the same for both, or it has its units twice.
    fn may_be_made_up(&self) -> bool {
        let is_extension = |part: &Part| matches!(part, Part::Extension(_));
        self.parts.iter().any(is_extension) && !self.parts.iter().any(Part::is_of_principals)
    }

    fn of(part: Part) -> Self {
        Self { parts: vec![part], prefixes: Prefixes::default() }
    }

    /// The key of a caller, after what the hasher begins with.
    pub(crate) fn key(
        &self,
        mut hasher: PartitionHasher,
        caller: &Caller<'_>,
    ) -> Result<PartitionKey, UnknownCaller> {
        let mut is_anonymous = self.may_be_made_up();
        for part in &self.parts {
            is_anonymous |= part.write(&mut hasher, caller, self.prefixes)?;
        }
        Ok(hasher.finish().marked(is_anonymous))
    }
}

impl Partition {
    /// The key that whoever comes from this address has, where addresses alone are counted.
    pub(crate) fn key_of_address(
        &self,
        mut hasher: PartitionHasher,
        address: IpAddr,
    ) -> PartitionKey {
        write_network(&mut hasher, address, self.prefixes);
        hasher.finish().marked(true)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.iter().map(Part::name).collect::<Vec<_>>();
        f.debug_struct("Partition")
            .field("parts", &parts)
            .field("prefixes", &self.prefixes)
            .finish()
    }
}

impl<'a> From<&'a str> for PartitionValue<'a> {
    fn from(text: &'a str) -> Self {
        Self(Value::Text(text.into()))
    }
}

impl From<String> for PartitionValue<'_> {
    fn from(text: String) -> Self {
        Self(Value::Text(text.into()))
    }
}

impl From<u64> for PartitionValue<'_> {
    fn from(number: u64) -> Self {
        Self(Value::Number(number.into()))
    }
}

impl From<u128> for PartitionValue<'_> {
    fn from(number: u128) -> Self {
        Self(Value::Number(number))
    }
}

impl Part {
    fn name(&self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Client => "client",
            Self::Extension(_) => "extension",
            Self::Principal => "principal",
            Self::Route(_) => "route",
            Self::Tenant(_) => "tenant",
            Self::Token => "token",
        }
    }

    /// Whether it tells principals apart, and those who have none by their address.
    fn is_of_principals(&self) -> bool {
        matches!(self, Self::Client | Self::Principal | Self::Tenant(_) | Self::Token)
    }

    /// Answers whether anybody can have as many of what it writes as they like.
    fn write(
        &self,
        hasher: &mut PartitionHasher,
        caller: &Caller<'_>,
        prefixes: Prefixes,
    ) -> Result<bool, UnknownCaller> {
        let principal = match self {
            Self::Address => return write_address(hasher, caller, prefixes),
            Self::Extension(find) => {
                let value = find(caller.extensions).ok_or(UnknownCaller::Value)?;
                hasher.write_value(self.name(), &value);
                return Ok(false);
            }
            Self::Route(find) => {
                match find(caller.extensions) {
                    Some(route) => hasher.write_value(self.name(), &route),
                    None => hasher.write(b"no route"),
                }
                return Ok(false);
            }
            Self::Client | Self::Principal | Self::Tenant(_) | Self::Token => {
                let authenticated = caller.authenticated.ok_or(UnknownCaller::Principal)?;
                match &authenticated.principal {
                    Some(principal) => principal,
                    None => return write_address(hasher, caller, prefixes),
                }
            }
        };
        let text = match self {
            Self::Client => principal.client(),
            Self::Token => principal.token_id(),
            Self::Tenant(find) => {
                if let Some(value) = find(principal) {
                    hasher.write_value(self.name(), &value);
                    return Ok(false);
                }
                None
            }
            _ => None,
        };
        match text {
            Some(text) => hasher.write_all([self.name(), principal.issuer(), text]),
            None => hasher.write_all(["principal", principal.issuer(), principal.subject()]),
        }
        Ok(false)
    }
}

/// What a request says of who sends it.
pub(crate) struct Caller<'a> {
    pub(crate) authenticated: Option<&'a Authenticated>,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    client_ip: &'a ClientIp,
}

impl<'a> Caller<'a> {
    pub(crate) fn of(
        headers: &'a HeaderMap,
        extensions: &'a Extensions,
        client_ip: &'a ClientIp,
    ) -> Self {
        Self { authenticated: Authenticated::of(extensions), headers, extensions, client_ip }
    }

    pub(crate) fn principal(&self) -> Option<&'a Principal> {
        self.authenticated?.principal.as_ref()
    }
}

/// What a request should say of its caller and does not: a layer or a server is missing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UnknownCaller {
    Address,
    Principal,
    Value,
}

fn write_address(
    hasher: &mut PartitionHasher,
    caller: &Caller<'_>,
    prefixes: Prefixes,
) -> Result<bool, UnknownCaller> {
    let found = caller.client_ip.find(caller.headers, caller.extensions);
    write_network(hasher, found.ok_or(UnknownCaller::Address)?.client, prefixes);
    Ok(true)
}

fn write_network(hasher: &mut PartitionHasher, address: IpAddr, prefixes: Prefixes) {
    // The family is a part, so that no four bytes of one are taken for those of the other.
    match prefixes.network(address) {
        IpAddr::V4(v4) => hasher.write_all([&b"v4"[..], &v4.octets()]),
        IpAddr::V6(v6) => hasher.write_all([&b"v6"[..], &v6.octets()]),
    }
}

impl Prefixes {
    /// The network that stands for all its hosts. An IPv4 address in its IPv6-mapped form is an
    /// IPv4 address (CLIENTIP-32).
    fn network(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// Whose quota: 128 bits of a keyed hash.
///
/// A store sees no names, and nobody outside can make two callers collide. The hash is keyed at
/// random by each process; nodes that share a store are given one secret, see
/// [`with_partition_secret`](crate::RateLimitLayer::with_partition_secret).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartitionKey([u64; 2]);

impl PartitionKey {
    /// This process's key of these parts in this order; `["ab", "c"]` and `["a", "bc"]` are two
    /// keys.
    #[must_use]
    pub fn new<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        PartitionHasher::default().key(parts)
    }

    /// The key as a number, for stores that have no better type. Its lowest 16 bits are the same for
    /// all limits of a caller, for stores that share keys out by them.
    #[must_use]
    pub fn to_u128(self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }

    /// Whether anybody can have as many such keys as they like, because addresses are in them, or
    /// values of the application and no principal. A store with a bound keeps them apart, so that a
    /// flood of them displaces no verified caller.
    #[must_use]
    pub fn is_anonymous(self) -> bool {
        self.0[1] & ANONYMOUS != 0
    }

    /// A key that nobody has.
    pub(crate) const ZERO: Self = Self([0; 2]);

    /// Bits to find a place in a map by.
    pub(crate) fn map_hash(self) -> u64 {
        self.0[0]
    }

    /// Bits to choose a shard by, which are not those that a map hashes by.
    pub(crate) fn shard_bits(self) -> u8 {
        self.0[1].to_le_bytes()[0]
    }

    /// One bit of the hash says so, and 127 are left of it.
    fn marked(self, is_anonymous: bool) -> Self {
        let [one, other] = self.0;
        Self([one, if is_anonymous { other | ANONYMOUS } else { other & !ANONYMOUS }])
    }
}

const ANONYMOUS: u64 = 1 << 63;

/// One half is hash enough for a map.
impl Hash for PartitionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.map_hash());
    }
}

/// Makes partition keys under a secret.
#[derive(Clone)]
pub(crate) struct PartitionHasher {
    hasher: SipHasher13,
    /// Sets the keys of one limit apart from those of others. As secret as the keys themselves,
    /// so that nobody can tell which two it makes one.
    salt: [u64; 2],
}

/// The bits of a key that are the same for all limits of a caller, so that stores which share keys
/// out by them have all of a caller's in one place.
const OF_THE_CALLER: u64 = 0xffff;

impl PartitionHasher {
    pub(crate) fn new(secret: &[u8; 16]) -> Self {
        Self { hasher: SipHasher13::new_with_key(secret), salt: [0; 2] }
    }

    /// Makes the keys of the limit of this name.
    pub(crate) fn with<P: AsRef<[u8]>>(&self, name: impl IntoIterator<Item = P>) -> Self {
        let mut hasher = self.clone();
        // No partition begins so.
        hasher.write(b"limit");
        hasher.write_all(name);
        let PartitionKey([one, other]) = hasher.finish();
        Self { salt: [one, other & !OF_THE_CALLER], ..*self }
    }

    /// Makes keys of their own for callers with a quota of their own: on one key, what is owed under a
    /// greater quota would be owed under a smaller one, too, for longer than that ever takes to come
    /// back.
    pub(crate) fn with_quota(&self, quota: &Quota) -> Self {
        let interval = quota.interval().as_nanos().to_le_bytes();
        // Beside the salt of the limit, which `with` keeps: without it, the quota of two limits is one.
        self.with([&b"quota"[..], &interval, &quota.burst().to_le_bytes()])
    }

    /// Makes the keys of all quotas together that callers have of their own.
    pub(crate) fn with_all_quotas(&self) -> Self {
        self.with(["quotas"])
    }

    fn write(&mut self, part: &[u8]) {
        // In one order of bytes, because nodes of several kinds may share a store.
        self.hasher.write(&(part.len() as u64).to_le_bytes());
        self.hasher.write(part);
    }

    pub(crate) fn key<P: AsRef<[u8]>>(&self, parts: impl IntoIterator<Item = P>) -> PartitionKey {
        let mut hasher = self.clone();
        hasher.write_all(parts);
        hasher.finish()
    }

    fn write_all<P: AsRef<[u8]>>(&mut self, parts: impl IntoIterator<Item = P>) {
        parts.into_iter().for_each(|part| self.write(part.as_ref()));
    }

    /// A text and a number are two values, whatever their bytes.
    fn write_value(&mut self, name: &str, value: &PartitionValue<'_>) {
        self.write(name.as_bytes());
        match &value.0 {
            Value::Number(number) => self.write_all([&b"number"[..], &number.to_le_bytes()]),
            Value::Text(text) => self.write_all(["text", text]),
        }
    }

    fn finish(self) -> PartitionKey {
        let hash = self.hasher.finish128();
        PartitionKey([hash.h1 ^ self.salt[0], hash.h2 ^ self.salt[1]]).marked(false)
    }
}

/// Under the secret of this process.
impl Default for PartitionHasher {
    fn default() -> Self {
        static OF_THIS_PROCESS: LazyLock<SipHasher13> =
            LazyLock::new(|| SipHasher13::new_with_keys(random_word(), random_word()));
        Self { hasher: *OF_THIS_PROCESS, salt: [0; 2] }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_keys_of_a_caller_differ_by_limit_and_lie_together() {
        let hasher = PartitionHasher::new(&[7; 16]);
        let limits = [&["api", "minute"][..], &["api", "day"], &["apiminute"]];
        let hashers = limits.map(|limit| hasher.with(limit));
        let mut keys = HashSet::new();
        for caller in 0..100 {
            let caller = caller.to_string();
            let of_caller = hashers.each_ref().map(|hasher| hasher.key([&caller]));
            keys.extend(of_caller.map(PartitionKey::to_u128));
            let shared = of_caller.map(|key| key.0[1] & OF_THE_CALLER);
            assert_eq!(shared, [hasher.key([&caller]).0[1] & OF_THE_CALLER; 3], "RL-65: {caller}");
        }
        assert_eq!(keys.len(), 300);
        let high = keys.iter().map(|key| key >> 64).collect::<HashSet<_>>();
        assert_eq!(high.len(), 300, "what a map hashes by");
    }

    #[test]
    fn keys_of_different_parts_differ() {
        let key = |parts: &[&str]| PartitionKey::new(parts);
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        for other in [&["a", "c"][..], &["ab"], &["a", "b", ""], &["", "ab"], &["b", "a"]] {
            assert_ne!(key(&["a", "b"]), key(other), "{other:?}");
        }
    }

    #[test]
    fn the_key_under_a_secret_is_the_same_on_every_node_and_release() {
        let key = |secret: &[u8; 16]| PartitionHasher::new(secret).key(["a", "b"]);
        assert_eq!(
            key(b"0123456789abcdef").to_u128(),
            270_061_198_547_494_134_074_516_767_545_057_330_124,
            "stores keep these keys"
        );
        assert_ne!(key(b"0123456789abcdef"), key(b"0123456789abcdeg"), "the last byte counts");
        assert_ne!(key(b"0123456789abcdef"), PartitionKey::new(["a", "b"]), "RL-68");
    }

    #[test]
    fn a_host_is_an_ipv4_address_or_a_network_of_ipv6() {
        let default = Prefixes::default();
        let wide = Prefixes { v4: 24, v6: 48 };
        let none = Prefixes { v4: 0, v6: 0 };
        for (prefixes, address, expected) in [
            (default, "192.0.2.1", "192.0.2.1"),
            (default, "::ffff:192.0.2.1", "192.0.2.1"),
            (default, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            (default, "::1", "::"),
            (wide, "192.0.2.77", "192.0.2.0"),
            (wide, "::ffff:192.0.2.77", "192.0.2.0"),
            (wide, "2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            (none, "192.0.2.77", "0.0.0.0"),
            (none, "2001:db8::1", "::"),
        ] {
            let network = prefixes.network(address.parse().unwrap());
            assert_eq!(network.to_string(), expected, "CLIENTIP-32, 40: {address} {prefixes:?}");
        }
    }
}
