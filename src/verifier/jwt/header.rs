//! The protected header (RFC 7515 §4).

use std::borrow::Cow;

use serde::de::MapAccess;

use crate::json::{Members, Text, read_object};
use crate::verifier::VerifyErrorKind;
use crate::verifier::jwt::Algorithm;

const MAX_MEMBERS: usize = 32;
const MAX_KID: usize = 256;

/// The members that decide anything. The others, and above all those that offer a key, are ignored
/// (JWT-9, JWT-16).
#[derive(Default)]
pub(super) struct Header<'a> {
    alg: Option<Cow<'a, str>>,
    kid: Option<Cow<'a, str>>,
    typ: Option<Cow<'a, str>>,
    cty: Option<Cow<'a, str>>,
    /// `crit` or `b64` is there; no extension that they could name is known here (JWT-13, JWT-14).
    extended: bool,
}

impl<'a> Header<'a> {
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        let mut header = Self::default();
        read_object(json, MAX_MEMBERS, &mut header)?;
        Ok(header)
    }

    pub(super) fn to_owned(&self) -> Header<'static> {
        let own = |text: &Option<Cow<'_, str>>| text.as_deref().map(|text| text.to_owned().into());
        Header {
            alg: own(&self.alg),
            kid: own(&self.kid),
            typ: own(&self.typ),
            cty: own(&self.cty),
            extended: self.extended,
        }
    }

    /// The algorithm, once the header has nothing that this verifier must not overlook.
    pub(super) fn algorithm(&self) -> Result<Algorithm, VerifyErrorKind> {
        if self.extended || self.kid().is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(VerifyErrorKind::Malformed);
        }
        if self.cty.as_deref().is_some_and(|cty| is_media_type(cty, "jwt")) {
            return Err(VerifyErrorKind::WrongType);
        }
        let alg = self.alg.as_deref().ok_or(VerifyErrorKind::Malformed)?;
        Algorithm::from_name(alg).ok_or(VerifyErrorKind::UnsupportedAlgorithm)
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// `at+jwt`, which says that this is an access token (JWT-15).
    pub(super) fn is_access_token(&self) -> bool {
        self.is_of_type("at+jwt")
    }

    /// `application/<subtype>`, or that without its first half.
    pub(super) fn is_of_type(&self, subtype: &str) -> bool {
        self.typ.as_deref().is_some_and(|typ| is_media_type(typ, subtype))
    }

    /// `JWT` or nothing, which says nothing.
    pub(super) fn is_plain(&self) -> bool {
        self.typ.as_deref().is_none_or(|typ| is_media_type(typ, "jwt"))
    }
}

impl<'de> Members<'de> for Header<'de> {
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let member = match name {
            "alg" => &mut self.alg,
            "kid" => &mut self.kid,
            "typ" => &mut self.typ,
            "cty" => &mut self.cty,
            "crit" | "b64" => {
                self.extended = true;
                return Ok(false);
            }
            _ => return Ok(false),
        };
        *member = map.next_value().map(|Text(text)| Some(text))?;
        Ok(true)
    }
}

/// Whether the text names `application/<subtype>`, which may stand without its first half
/// (RFC 7515 §4.1.9). Media types are case-insensitive.
fn is_media_type(text: &str, subtype: &str) -> bool {
    const TREE: &str = "application/";
    let named = match text.split_at_checked(TREE.len()) {
        Some((tree, rest)) if tree.eq_ignore_ascii_case(TREE) => rest,
        _ => text,
    };
    named.eq_ignore_ascii_case(subtype)
}
