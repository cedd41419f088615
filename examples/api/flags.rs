//! The command line.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;
use tower_gate::rate_limit::Policy;
use tower_gate::{Network, Quota};

use crate::Error;
use crate::demo;

pub(crate) const HELP: &str = "\
--listen ADDR            where to listen; port 0 picks one (default 127.0.0.1:3000)
--issuer URL             the expected iss
--audience VALUE         a name of this API in aud; repeatable. Clients learn where
                         tokens come from at the first https URL among them
--jwks FILE|URL          keys from a JWKS file or endpoint
--discover               keys by discovery from --issuer
--hs256-secret-file FILE a shared secret of at least 32 bytes
--any-typ                accept tokens whose typ is not at+jwt
--leeway SECONDS         how far clocks may be apart (default 30)
--introspect URL         RFC 7662 endpoint for tokens that are not JWTs
--introspect-client ID:SECRET
--tokens URL             opaque tokens in sqlite:PATH or postgres://…
--pepper-file FILE       the secret of their digests, made where there is none; repeatable:
                         new tokens are under the first, those under the others stay good
                         (default PATH.pepper, or api.pepper for PostgreSQL: keep it out
                         of the backups of the tokens, and do not lose it)
--redis URL              limits and revocations in Redis, which nodes share. Without it, and
                         without --tokens in PostgreSQL, what POST /admin/revocations
                         revokes is forgotten when the program ends
--audit FILE             audit events, one JSON object a line
--trust-proxy CIDR       a network whose X-Forwarded-For counts; repeatable
--limit TIER=N/SECONDS[:BURST]   default, partner, internal or address
--policy NAME=N/SECONDS[:BURST]  another quota of every principal but admins; repeatable
--shadow NAME=N/SECONDS[:BURST]  the same, which only the audit events tell of; repeatable
--failures N/SECONDS:BAN ban an address for BAN seconds after so many bad tokens
--concurrency N          how many requests of a principal may run at once
--demo                   make keys, and print ready tokens

A flag that would do nothing, or is given twice, is an error.
";

const REPEATABLE: [&str; 6] =
    ["audience", "limit", "pepper-file", "policy", "shadow", "trust-proxy"];

pub(crate) struct Flags {
    pub(crate) listen: SocketAddr,
    pub(crate) issuer: Option<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) keys: Vec<Keys>,
    pub(crate) any_typ: bool,
    pub(crate) leeway: Duration,
    pub(crate) introspect: Option<String>,
    pub(crate) introspect_client: Option<(String, String)>,
    pub(crate) tokens: Option<String>,
    pub(crate) pepper_files: Vec<PathBuf>,
    pub(crate) redis: Option<String>,
    pub(crate) audit: Option<PathBuf>,
    pub(crate) proxies: Vec<Network>,
    pub(crate) limits: Limits,
    pub(crate) policies: Vec<Policy>,
    pub(crate) failures: Option<(Quota, Duration)>,
    pub(crate) concurrency: Option<NonZeroU32>,
}

/// Where keys come from.
#[derive(Debug)]
pub(crate) enum Keys {
    Demo,
    Discovery,
    File(PathBuf),
    Secret(PathBuf),
    Url(String),
}

pub(crate) struct Limits {
    pub(crate) default: Quota,
    pub(crate) partner: Quota,
    pub(crate) internal: Quota,
    pub(crate) address: Quota,
}

impl Flags {
    /// `None` when only help is wanted.
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Option<Self>, Error> {
        let mut flags = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            issuer: None,
            audiences: Vec::new(),
            keys: Vec::new(),
            any_typ: false,
            leeway: Duration::from_secs(30),
            introspect: None,
            introspect_client: None,
            tokens: None,
            pepper_files: Vec::new(),
            redis: None,
            audit: None,
            proxies: Vec::new(),
            limits: Limits {
                default: Quota::per_minute(60).with_burst(20),
                partner: Quota::per_minute(10).with_burst(5),
                internal: Quota::per_minute(600).with_burst(100),
                address: Quota::per_minute(300).with_burst(100),
            },
            policies: Vec::new(),
            failures: None,
            concurrency: None,
        };
        let mut given = HashSet::new();
        let mut names = HashSet::from(["default", "partner", "internal"].map(str::to_owned));
        while let Some(argument) = parser.next()? {
            if let Long(name) = argument
                && !REPEATABLE.contains(&name)
            {
                once(&mut given, format!("--{name}"))?;
            }
            match argument {
                Long("help") => return Ok(None),
                Long("listen") => flags.listen = value(&mut parser, "listen")?,
                Long("issuer") => flags.issuer = Some(text(&mut parser)?),
                Long("audience") => flags.audiences.push(text(&mut parser)?),
                Long("jwks") => flags.keys.push(Keys::parse(text(&mut parser)?)),
                Long("discover") => flags.keys.push(Keys::Discovery),
                Long("hs256-secret-file") => {
                    flags.keys.push(Keys::Secret(parser.value()?.into()));
                }
                Long("any-typ") => flags.any_typ = true,
                Long("leeway") => {
                    flags.leeway = Duration::from_secs(value(&mut parser, "leeway")?);
                }
                Long("introspect") => flags.introspect = Some(text(&mut parser)?),
                Long("introspect-client") => {
                    let client = text(&mut parser)?;
                    let (id, secret) =
                        client.split_once(':').ok_or("--introspect-client wants ID:SECRET")?;
                    flags.introspect_client = Some((id.to_owned(), secret.to_owned()));
                }
                Long("tokens") => flags.tokens = Some(text(&mut parser)?),
                Long("pepper-file") => {
                    given.insert("--pepper-file".to_owned());
                    flags.pepper_files.push(parser.value()?.into());
                }
                Long("redis") => flags.redis = Some(text(&mut parser)?),
                Long("audit") => flags.audit = Some(parser.value()?.into()),
                Long("trust-proxy") => flags.proxies.push(value(&mut parser, "trust-proxy")?),
                Long("limit") => {
                    let limit = text(&mut parser)?;
                    let tier = limit.split('=').next().unwrap_or_default();
                    once(&mut given, format!("--limit {tier}"))?;
                    flags.limits.set(&limit)?;
                }
                Long("policy") => {
                    flags.policies.push(policy("--policy", &text(&mut parser)?, &mut names)?);
                }
                Long("shadow") => {
                    let policy = policy("--shadow", &text(&mut parser)?, &mut names)?;
                    flags.policies.push(policy.in_shadow());
                }
                Long("failures") => flags.failures = Some(failures(&text(&mut parser)?)?),
                Long("concurrency") => {
                    flags.concurrency = Some(value(&mut parser, "concurrency")?);
                }
                Long("demo") => flags.keys.push(Keys::Demo),
                other => {
                    return Err(format!("{}; --help lists the flags", other.unexpected()).into());
                }
            }
        }
        flags.check(&given)?;
        if matches!(*flags.keys, [Keys::Demo]) {
            flags.issuer.get_or_insert_with(|| demo::ISSUER.to_owned());
            if flags.audiences.is_empty() {
                flags.audiences.push(demo::AUDIENCE.to_owned());
            }
        }
        Ok(Some(flags))
    }

    /// The name of this API that is a URL, which is where clients learn about it.
    pub(crate) fn url(&self) -> Option<&str> {
        self.audiences.iter().map(String::as_str).find(|name| name.starts_with("https://"))
    }

    /// What would be ignored is a mistake.
    fn check(&self, given: &HashSet<String>) -> Result<(), Error> {
        const JWTS: &str = "--jwks, --discover, --hs256-secret-file or --demo";
        const NAMED: &str = "--jwks, --discover, --hs256-secret-file, --introspect or --demo";
        let jwts = !self.keys.is_empty();
        let named = jwts || self.introspect.is_some();
        for (flag, is_used, other) in [
            ("--any-typ", jwts, JWTS),
            ("--leeway", named, NAMED),
            ("--introspect-client", self.introspect.is_some(), "--introspect"),
            ("--pepper-file", self.tokens.is_some(), "--tokens"),
        ] {
            if given.contains(flag) && !is_used {
                return Err(format!("{flag} does nothing without {other}").into());
            }
        }
        if self.tokens.is_some() && !named && !self.audiences.is_empty() && self.url().is_none() {
            return Err(format!("--audience does nothing without {NAMED}, but for a URL").into());
        }
        Ok(())
    }
}

impl Keys {
    fn parse(place: String) -> Self {
        if place.contains("://") { Self::Url(place) } else { Self::File(place.into()) }
    }
}

impl Limits {
    /// `TIER=N/SECONDS[:BURST]`.
    fn set(&mut self, text: &str) -> Result<(), Error> {
        let (flag, wanted) = (format!("--limit {text}"), "TIER=N/SECONDS[:BURST]");
        let (tier, numbers) =
            text.split_once('=').ok_or_else(|| format!("{flag}: it wants {wanted}"))?;
        let quota = quota(numbers, &flag, wanted)?;
        *match tier {
            "default" => &mut self.default,
            "partner" => &mut self.partner,
            "internal" => &mut self.internal,
            "address" => &mut self.address,
            _ => {
                let tiers = "default, partner, internal and address";
                return Err(format!("--limit {text}: the tiers are {tiers}").into());
            }
        } = quota;
        Ok(())
    }
}

fn once(given: &mut HashSet<String>, flag: String) -> Result<(), Error> {
    let again = format!("{flag} is given twice: keep one of them");
    if given.insert(flag) { Ok(()) } else { Err(again.into()) }
}

/// `N/SECONDS[:BURST]`.
fn quota(numbers: &str, flag: &str, wanted: &str) -> Result<Quota, Error> {
    let wrong = || format!("{flag}: it wants {wanted}");
    let (rate, burst) = numbers.split_once(':').map_or((numbers, None), |(r, b)| (r, Some(b)));
    let (units, seconds) = rate.split_once('/').ok_or_else(wrong)?;
    let units = units.parse().map_err(|_| wrong())?;
    let period = Duration::from_secs(seconds.parse().map_err(|_| wrong())?);
    let burst = burst.map_or(Ok(units), str::parse).map_err(|_| wrong())?;
    Ok(Quota::new(units, period, burst).map_err(|error| format!("{flag}: {error}"))?)
}

/// `NAME=N/SECONDS[:BURST]`, of a name that no other quota has.
fn policy(flag: &str, text: &str, names: &mut HashSet<String>) -> Result<Policy, Error> {
    let (flag, wanted) = (format!("{flag} {text}"), "NAME=N/SECONDS[:BURST]");
    let (name, numbers) =
        text.split_once('=').ok_or_else(|| format!("{flag}: it wants {wanted}"))?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{flag}: a name is printable ASCII, because clients see it").into());
    }
    if !names.insert(name.to_owned()) {
        return Err(format!("{flag}: another quota has this name").into());
    }
    Ok(Policy::new(name, quota(numbers, &flag, wanted)?))
}

/// `N/SECONDS:BAN`.
fn failures(text: &str) -> Result<(Quota, Duration), Error> {
    let (flag, wanted) = (format!("--failures {text}"), "N/SECONDS:BAN");
    let wrong = || format!("{flag}: it wants {wanted}");
    let (rate, ban) = text.split_once(':').ok_or_else(wrong)?;
    let ban: NonZeroU32 = ban.parse().map_err(|_| wrong())?;
    Ok((quota(rate, &flag, wanted)?, Duration::from_secs(ban.get().into())))
}

fn text(parser: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    parser.value()?.string()
}

fn value<T>(parser: &mut lexopt::Parser, name: &str) -> Result<T, Error>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let text = text(parser)?;
    text.parse().map_err(|error| format!("--{name} {text}: {error}").into())
}

pub(crate) fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        _ => url.to_owned(),
    }
}
