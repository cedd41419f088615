//! Scopes: what a token may be used for (RFC 6749 §3.3).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// One scope, such as `read:reports`: at least one character of `%x21 / %x23-5B / %x5D-7E`.
///
/// Scopes compare byte for byte. There are no wildcards and no prefixes: `read` does not contain
/// `read:reports`, nor the other way round.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Scope(Box<str>);

/// The text is not a scope.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{text:?} is not a scope: use printable ASCII without space, double quote and backslash \
     (RFC 6749, section 3.3), and pass several scopes as several values"
)]
pub struct InvalidScope {
    text: String,
}

impl Scope {
    /// Checks the text against the grammar.
    ///
    /// # Errors
    ///
    /// [`InvalidScope`] when the text is empty or has a character that a scope cannot have.
    pub fn parse(text: &str) -> Result<Self, InvalidScope> {
        let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(InvalidScope { text: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    /// The scope's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The scopes that a token grants, in the issuer's order.
///
/// Kept as the issuer wrote them, separated by spaces; whatever is not a scope in it grants
/// nothing, because it equals no [`Scope`]. A token without scopes grants none.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct ScopeSet(Box<str>);

impl ScopeSet {
    /// The set written as one string with spaces between, as in the `scope` claim.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The set as one string, as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the scope is granted.
    #[must_use]
    pub fn contains(&self, scope: &Scope) -> bool {
        self.iter().any(|granted| granted == scope.as_str())
    }

    /// The scopes, one by one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|scope| !scope.is_empty())
    }

    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>> FromIterator<S> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = S>>(scopes: I) -> Self {
        let mut text = String::new();
        for scope in scopes {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(scope.as_ref());
        }
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_grammar_of_rfc_6749_is_a_scope() {
        for text in ["read", "read:reports", "a/b?c=d", "!", "[]~"] {
            assert_eq!(Scope::parse(text).unwrap().as_str(), text);
        }
        for text in ["", " ", "a b", "a\"b", "a\\b", "ｒead", "read\0", "a\n"] {
            assert!(Scope::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn scopes_compare_byte_for_byte() {
        let read = Scope::parse("read").unwrap();
        for text in ["READ", "ｒead", "read\0", "readall", "read:all", "read,write", "rea", ""] {
            assert!(!ScopeSet::from_text(text).contains(&read), "attack 39: {text:?}");
        }
        for text in ["read", "write read", "  write   read  "] {
            assert!(ScopeSet::from_text(text).contains(&read), "JWT-39: {text:?}");
        }
    }

    #[test]
    fn the_error_says_what_to_do() {
        let error = Scope::parse("read write").unwrap_err().to_string();
        assert!(error.contains("\"read write\"") && error.contains("several values"), "{error}");
    }
}
