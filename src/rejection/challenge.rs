//! The `WWW-Authenticate` header (RFC 6750 §3, RFC 9110 §11).

use http::HeaderValue;
use thiserror::Error;

use crate::rejection::{Rejection, status};
use crate::requirement::Unmet;
use crate::scope::Scope;

/// What every challenge of an API says: its realm, and where its metadata is.
///
/// ```
/// use tower_gate::Challenge;
///
/// let challenge = Challenge::new("reports")?
///     .with_resource_metadata("https://api.example/.well-known/oauth-protected-resource")?;
/// # let _ = challenge;
/// # Ok::<(), tower_gate::InvalidChallenge>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// The parameters that are always there, ready to send.
    parameters: String,
    /// Where in them the realm ends.
    realm_end: usize,
}

/// The text cannot stand in a challenge.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{text:?} cannot be the {parameter} of a challenge: it must be printable ASCII, and a \
     resource_metadata an absolute https URL"
)]
pub struct InvalidChallenge {
    parameter: &'static str,
    text: String,
}

impl Challenge {
    /// Challenges in this realm, which names the protected area to people.
    ///
    /// # Errors
    ///
    /// When the realm is empty or has a character beyond printable ASCII (BEARER-23).
    pub fn new(realm: &str) -> Result<Self, InvalidChallenge> {
        if realm.is_empty() || !realm.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(InvalidChallenge { parameter: "realm", text: realm.to_owned() });
        }
        let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
        Ok(Self::with_realm(format!("Bearer realm=\"{escaped}\"")))
    }

    fn with_realm(parameters: String) -> Self {
        Self { realm_end: parameters.len(), parameters }
    }

    /// Points to the metadata of the protected resource (RFC 9728 §5.1), in place of what it
    /// pointed to before.
    ///
    /// # Errors
    ///
    /// When it is no absolute `https` URL, or has a space, a quote or a backslash.
    pub fn with_resource_metadata(mut self, url: &str) -> Result<Self, InvalidChallenge> {
        let plain = |byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
        if !url.starts_with("https://") || !url.bytes().all(plain) {
            let parameter = "resource_metadata";
            return Err(InvalidChallenge { parameter, text: url.to_owned() });
        }
        // BEARER-22: a parameter occurs once.
        self.parameters.truncate(self.realm_end);
        self.push("resource_metadata", url);
        Ok(self)
    }

    /// The challenge of one refusal; `None` where a token is not the question.
    pub(super) fn header(&self, rejection: &Rejection) -> Option<HeaderValue> {
        let status = status::of(rejection.kind());
        if !status.challenges {
            return None;
        }
        let mut challenge = self.clone();
        if let Some(error) = status.challenge_error {
            challenge.push("error", error);
            challenge.push("error_description", rejection.message());
        }
        match &rejection.lack {
            Some(Unmet::Scopes(scopes)) if !scopes.is_empty() => {
                let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
                challenge.push("scope", &scopes.join(" "));
            }
            Some(Unmet::StepUp { acr_values, max_age }) => {
                if !acr_values.is_empty() {
                    challenge.push("acr_values", &acr_values.join(" "));
                }
                if let Some(max_age) = max_age {
                    challenge.push("max_age", &max_age.as_secs().to_string());
                }
            }
            _ => {}
        }
        HeaderValue::try_from(challenge.parameters).ok()
    }

    /// Appends a value of characters that a quoted string needs no escape for.
    fn push(&mut self, name: &str, value: &str) {
        for part in [", ", name, "=\"", value, "\""] {
            self.parameters.push_str(part);
        }
    }
}

/// The realm `api`.
impl Default for Challenge {
    fn default() -> Self {
        Self::with_realm("Bearer realm=\"api\"".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rejection::RejectionKind;

    fn header(challenge: &Challenge, rejection: &Rejection) -> String {
        challenge.header(rejection).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_realm_is_quoted_and_cannot_break_out() {
        let challenge = Challenge::new("a\"b\\c").unwrap();
        let missing = Rejection::new(RejectionKind::MissingToken);
        assert_eq!(header(&challenge, &missing), r#"Bearer realm="a\"b\\c""#, "BEARER-23");
        for realm in ["", "a\r\nb", "a\0", "é", "\u{7f}"] {
            assert!(Challenge::new(realm).is_err(), "BEARER-23: {realm:?}");
        }
    }

    #[test]
    fn metadata_is_an_https_url() {
        let url = "https://api.example/.well-known/oauth-protected-resource";
        let challenge = Challenge::new("x").unwrap();
        let challenge = challenge.with_resource_metadata("https://old.example/").unwrap();
        let challenge = challenge.with_resource_metadata(url).unwrap();
        let missing = Rejection::new(RejectionKind::MissingToken);
        let expected = format!("Bearer realm=\"x\", resource_metadata=\"{url}\"");
        assert_eq!(header(&challenge, &missing), expected, "BEARER-22, BEARER-44");
        for url in ["http://api.example/", "/relative", "https://a\"b", "https://a b", ""] {
            assert!(Challenge::default().with_resource_metadata(url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn a_step_up_names_classes_and_age() {
        let lack = Unmet::StepUp {
            acr_values: vec!["mfa".into(), "hw".into()],
            max_age: Some(Duration::from_secs(300)),
        };
        let challenge = header(&Challenge::default(), &Rejection::unmet(lack));
        assert!(challenge.contains("error=\"insufficient_user_authentication\""), "BEARER-50");
        assert!(challenge.ends_with("acr_values=\"mfa hw\", max_age=\"300\""), "{challenge}");
    }
}
