//! JSON texts as nobody should write them.

use std::fmt;

use crate::gate::{AUDIENCE, ISSUER, NOW};

/// A JSON object, whose values are raw text and whose members may stand twice.
#[derive(Clone, Debug)]
pub(crate) struct Object(Vec<(String, String)>);

impl Object {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// The header of an access token that this algorithm signs.
    pub(crate) fn header(algorithm: &str) -> Self {
        Self::new().text("alg", algorithm).text("typ", "at+jwt")
    }

    /// The claims of a good access token.
    pub(crate) fn claims() -> Self {
        Self::new()
            .text("iss", ISSUER)
            .text("sub", "user-1")
            .text("aud", AUDIENCE)
            .text("client_id", "web")
            .text("jti", "token-1")
            .with("iat", NOW - 10)
            .with("exp", NOW + 600)
    }

    /// A member in place of the one of that name.
    pub(crate) fn with(self, name: &str, json: impl fmt::Display) -> Self {
        self.without(name).and(name, json)
    }

    /// A string in place of the member of that name.
    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        self.with(name, serde_json::Value::from(text))
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(there, _)| there != name);
        self
    }

    /// One more member, whatever is there already.
    pub(crate) fn and(mut self, name: &str, json: impl fmt::Display) -> Self {
        self.0.push((name.to_owned(), json.to_string()));
        self
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.0.iter().map(|(name, json)| format!("\"{name}\":{json}"));
        write!(f, "{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}
