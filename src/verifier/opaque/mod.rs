//! Tokens that say nothing by themselves, issued here: API keys, personal access tokens.
//!
//! [`OpaqueTokens`] issues, lists, replaces and revokes them; [`OpaqueVerifier`] accepts those that
//! are good. A token is `prefix_`, 43 random letters and digits, and six that check the rest:
//! `acme_live_4nUoQ…`. The store has its HMAC-SHA-256 under a pepper, and a record; the token itself
//! is told once, to its holder.
//!
//! | the token | what the client sees | in the audit trail |
//! |---|---|---|
//! | good | the request is let in | |
//! | unknown, or under a retired pepper | 401 `invalid_token` | `unknown_token` |
//! | mistyped, with another prefix, anything else | 401 `invalid_token`; the store is not asked | `malformed_token` |
//! | expired | 401 `token_expired` | `expired`, whose |
//! | not good yet | 401 `token_not_active` | `not_active`, whose |
//! | revoked or disabled | 401 `token_revoked` | `revoked`, whose |
//! | of any kind, while the store is down or slow | 503 with `Retry-After` | `verifier_unavailable` |
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::AuthenticateLayer;
//! use tower_gate::store::memory::MemoryTokenStore;
//! use tower_gate::store::{TokenFilter, TokenQuery};
//! use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, Pepper, Peppers};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let secret = [7; 32];
//! let peppers = Peppers::new(Pepper::new("2026-01", &secret)?);
//! let tokens = OpaqueTokens::builder("https://api.example", MemoryTokenStore::new(), peppers)
//!     .with_prefix("acme_live")
//!     .build()?;
//! let layer = AuthenticateLayer::new(tokens.verifier());
//!
//! let new = NewToken::new("user-1").client("ci").scopes("read:reports");
//! let issued = tokens.issue(new.expires_in(Duration::from_secs(30 * 86_400))).await?;
//! println!("{}: {}", issued.record.id, issued.token.expose());
//!
//! // Both work for an hour.
//! let next = tokens.rotate(&issued.record.id, Duration::from_secs(3600)).await?;
//!
//! let page = tokens.list(TokenQuery::new(TokenFilter::client("ci")).limit(20)).await?;
//! assert_eq!(page.records.len(), 2);
//!
//! // The token was found in a public repository.
//! tokens.revoke(&next.record.id).await?;
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! Beside JWTs, a [`RoutedVerifier`](super::RoutedVerifier) hands them over by their prefix. What the
//! application keeps with a token is read with [`Principal::claims`](crate::Principal::claims):
//!
//! ```
//! use tower_gate::verifier::RoutedVerifier;
//! use tower_gate::verifier::opaque::{NewToken, OpaqueTokens};
//! use tower_gate::TokenVerifier;
//!
//! fn verifier(tokens: &OpaqueTokens, jwts: impl TokenVerifier) -> RoutedVerifier {
//!     RoutedVerifier::new().with_prefix("acme_live_", tokens.verifier()).with_jwts(jwts)
//! }
//!
//! fn new_token() -> NewToken {
//!     let metadata = serde_json::json!({ "plan": "pro" }).as_object().cloned();
//!     NewToken::new("user-1").metadata(metadata.unwrap_or_default())
//! }
//! ```
//!
//! # Times
//!
//! A good token is remembered for 10 seconds
//! ([`with_max_age`](OpaqueTokensBuilder::with_max_age)), never beyond its end. What is revoked,
//! disabled or replaced on this node is forgotten before that call returns; another node accepts it
//! until it has to ask again, or learns of it from
//! [`Revocations`](crate::verifier::revocable::Revocations) that both have
//! ([`with_revocations`](OpaqueTokensBuilder::with_revocations)). The store has 2 seconds to answer
//! ([`with_timeout`](OpaqueTokensBuilder::with_timeout)); an outage is never remembered.
//!
//! `last_used` is written behind: it is gathered for five seconds by a task that ends when nothing
//! waits, at most 10 000 tokens at once, each at most once a minute and only when the store was asked
//! about it anyway. A request neither waits for that nor fails with it.
//!
//! # Security
//!
//! Whoever reads the database learns no token, and without the pepper cannot even tell which token a
//! digest belongs to. Whoever writes to it can change what a token may be used for, and cannot make
//! one without the pepper. A pepper that has become known is changed on running nodes: [`Peppers`]. The prefix is part of what is digested:
//! two APIs that share a table and a pepper, with two prefixes, never accept each other's tokens.
//!
//! The checksum keeps garbage from the store and is no secret: whoever computes it has the store
//! asked, so many times at once ([`with_max_lookups`](OpaqueTokensBuilder::with_max_lookups)), and
//! once a second about the same text. A flood of new ones keeps other tokens waiting that are not
//! remembered: limit it as all bad requests are, by address
//! ([`FailureLimitLayer`](crate::FailureLimitLayer)).
//!
//! It runs inside a tokio runtime whose time is enabled.

mod builder;
mod format;
mod lookup;
mod new_token;
mod nodes;
mod pepper;
mod tokens;
mod unknown;
mod used;

pub use self::builder::{InvalidOpaqueTokens, OpaqueTokensBuilder};
pub use self::format::{FreshToken, InvalidPrefix};
pub use self::lookup::OpaqueVerifier;
pub use self::new_token::NewToken;
pub use self::pepper::{InvalidPepper, Pepper, Peppers};
pub use self::tokens::{IssuedToken, OpaqueTokens, TokenError, TokenPage};
