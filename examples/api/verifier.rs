//! From flags to the verifier.

use std::fs;

use tower_gate::verifier::jwt::{Algorithm, JwtVerifier, JwtVerifierBuilder, KeySet, VerifyingKey};
use tower_gate::verifier::{CachedVerifier, RoutedVerifier};

use crate::Error;
use crate::demo::Demo;
use crate::flags::{Flags, Keys};
use crate::tokens::Tokens;

/// What decides which tokens are good.
pub(crate) struct Built {
    pub(crate) verifier: RoutedVerifier,
    /// The demo's tokens and their names.
    pub(crate) tokens: Vec<(&'static str, String)>,
}

pub(crate) fn build(flags: &Flags, opaque: Option<&Tokens>) -> Result<Built, Error> {
    let mut verifier = RoutedVerifier::new();
    if let Some(opaque) = opaque {
        verifier = opaque.add_to(verifier);
    }
    let mut tokens = Vec::new();
    match &*flags.keys {
        [] if flags.introspect.is_some() || opaque.is_some() => {}
        [] => {
            let ways = "--jwks, --discover, --hs256-secret-file, --introspect, --tokens or --demo";
            return Err(format!("nothing says which tokens are good: use {ways}").into());
        }
        [Keys::Demo] => {
            let demo = Demo::new(flags)?;
            let key = VerifyingKey::hmac(Algorithm::HS256, &demo.secret)?;
            verifier = with_jwts(verifier, jwts(flags)?.with_key(key))?;
            tokens = demo.tokens;
        }
        [Keys::File(path)] => {
            let text = fs::read_to_string(path);
            let text = text.map_err(|error| format!("--jwks {}: {error}", path.display()))?;
            let keys = KeySet::from_jwks(&text);
            let keys = keys.map_err(|error| format!("--jwks {}: {error}", path.display()))?;
            verifier = with_jwts(verifier, jwts(flags)?.with_keys(keys))?;
        }
        [Keys::Secret(path)] => {
            let secret = fs::read(path);
            let name = || format!("--hs256-secret-file {}", path.display());
            let secret = secret.map_err(|error| format!("{}: {error}", name()))?;
            let key = VerifyingKey::hmac(Algorithm::HS256, secret.trim_ascii());
            let key = key.map_err(|error| format!("{}: {error}", name()))?;
            verifier = with_jwts(verifier, jwts(flags)?.with_key(key))?;
        }
        [keys @ (Keys::Discovery | Keys::Url(_))] => {
            verifier = with_jwts(verifier, with_fetched(flags, jwts(flags)?, keys)?)?;
        }
        [first, second, ..] => {
            return Err(
                format!("keys come from one place, not from {first:?} and {second:?}").into()
            );
        }
    }
    Ok(Built { verifier: with_introspection(flags, verifier)?, tokens })
}

fn with_jwts(
    verifier: RoutedVerifier,
    builder: JwtVerifierBuilder,
) -> Result<RoutedVerifier, Error> {
    Ok(verifier.with_jwts(CachedVerifier::new(builder.build()?)))
}

/// What all JWTs must be like.
fn jwts(flags: &Flags) -> Result<JwtVerifierBuilder, Error> {
    let issuer = flags.issuer.as_deref();
    let issuer = issuer.ok_or("--issuer is missing: the expected iss of tokens")?;
    let mut audiences = flags.audiences.iter().map(String::as_str);
    let first = audiences.next().ok_or("--audience is missing: the name of this API in aud")?;
    let builder = JwtVerifier::builder().issuer(issuer).audience(first).with_leeway(flags.leeway);
    let builder = audiences.fold(builder, JwtVerifierBuilder::with_audience);
    Ok(if flags.any_typ { builder.accept_plain_jwt() } else { builder })
}

#[cfg(feature = "reqwest")]
fn with_fetched(
    flags: &Flags,
    builder: JwtVerifierBuilder,
    keys: &Keys,
) -> Result<JwtVerifierBuilder, Error> {
    use tower_gate::fetch::ReqwestFetch;
    use tower_gate::verifier::jwks::Jwks;

    let fetch = ReqwestFetch::new()?;
    let jwks = match keys {
        Keys::Url(url) => Jwks::at(url, fetch)?,
        _ => Jwks::discover(flags.issuer.as_deref().unwrap_or_default(), fetch)?,
    };
    Ok(builder.with_jwks(&jwks.start()?))
}

#[cfg(not(feature = "reqwest"))]
fn with_fetched(
    _: &Flags,
    _: JwtVerifierBuilder,
    keys: &Keys,
) -> Result<JwtVerifierBuilder, Error> {
    let flag = match keys {
        Keys::Url(url) => format!("--jwks {url}"),
        _ => "--discover".to_owned(),
    };
    Err(format!("{flag} needs the feature reqwest, which is not in this build").into())
}

/// Tokens that are no JWTs.
#[cfg(all(feature = "introspection", feature = "reqwest"))]
fn with_introspection(flags: &Flags, verifier: RoutedVerifier) -> Result<RoutedVerifier, Error> {
    use tower_gate::fetch::ReqwestFetch;
    use tower_gate::verifier::introspection::IntrospectionVerifier;

    let Some(url) = &flags.introspect else {
        return Ok(verifier);
    };
    let (id, secret) = flags
        .introspect_client
        .clone()
        .ok_or("--introspect-client is missing: who asks about tokens, as ID:SECRET")?;
    let issuer = flags.issuer.as_deref().ok_or("--issuer is missing: who vouches for tokens")?;
    let mut audiences = flags.audiences.iter();
    let first = audiences.next().ok_or("--audience is missing: the name of this API in aud")?;
    let builder = IntrospectionVerifier::builder(url, ReqwestFetch::new()?)
        .issuer(issuer)
        .audience(first)
        .with_client(id, secret)
        .with_leeway(flags.leeway);
    let builder = audiences.fold(builder, |builder, audience| builder.with_audience(audience));
    Ok(verifier.with_opaque(builder.build()?))
}

#[cfg(not(all(feature = "introspection", feature = "reqwest")))]
fn with_introspection(flags: &Flags, verifier: RoutedVerifier) -> Result<RoutedVerifier, Error> {
    match flags.introspect {
        None => Ok(verifier),
        Some(_) => Err("--introspect needs the features introspection and reqwest".into()),
    }
}
