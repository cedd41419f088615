//! Verifiers for the issuers that many have: everything but keys.
//!
//! Each function starts a [`JwtVerifierBuilder`] with the issuer's name as its tokens spell it, the
//! places of scopes, roles and client, and what tells its access tokens from its other signed
//! tokens. Any option can still be added.
//!
//! ```no_run
//! # #[cfg(feature = "reqwest")]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_gate::AuthenticateLayer;
//! use tower_gate::fetch::ReqwestFetch;
//! use tower_gate::verifier::CachedVerifier;
//! use tower_gate::verifier::jwks::Jwks;
//! use tower_gate::verifier::jwt::preset;
//!
//! let builder = preset::auth0("tenant.eu.auth0.com", "https://api.example");
//! let jwks = Jwks::discover(builder.issuer_name(), ReqwestFetch::new()?)?.start()?;
//! let layer = AuthenticateLayer::new(CachedVerifier::new(builder.with_jwks(&jwks).build()?));
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! # What they look at
//!
//! | issuer | scopes | roles | client | an access token is what has |
//! |---|---|---|---|---|
//! | [`auth0`] | `scope` | `permissions` | `azp`, `client_id` | `azp` or `client_id`, the API as `aud` |
//! | [`okta`] | `scp` | `groups` | `cid` | `cid`, the API as `aud` |
//! | [`keycloak`] | `scope` | `realm_access.roles`, `resource_access.<audience>.roles` | `azp` | a claim `typ` of `Bearer` |
//! | [`entra_id`] | `scp` | `roles` | `azp` | `azp`, the API as `aud` |
//! | [`entra_id_v1`] | `scp` | `roles` | `appid` | `appid`, the API as `aud` |
//! | [`cognito`] | `scope` | `cognito:groups` | `client_id` | `token_use` of `access` |
//! | [`google`] | – | – | `azp` | a service's address as `aud` |
//!
//! The claim `roles` is read everywhere.
//!
//! # Security
//!
//! These issuers predate RFC 9068 and do not mark access tokens by `typ`, so that an ID token has to
//! be told by its claims. All presets refuse tokens with `nonce`, `at_hash`, `c_hash` or `events`, and all but
//! [`cognito`] rest on the audience: give the API one of its own, which no application that users
//! log in to has as its client id.

use crate::verifier::jwt::{JwtVerifier, JwtVerifierBuilder};

/// Access tokens of an Auth0 tenant, in either of its profiles, for the API with this identifier.
///
/// `domain` is the tenant's, or the custom one where there is one. With role-based access control,
/// the user's `permissions` are roles here.
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let builder = preset::auth0("tenant.eu.auth0.com", "https://api.example");
/// assert_eq!(builder.issuer_name(), "https://tenant.eu.auth0.com/");
/// ```
pub fn auth0(domain: &str, audience: &str) -> JwtVerifierBuilder {
    plain(&format!("https://{domain}/"), audience)
        .with_roles_at(["permissions"])
        .with_client_required()
}

/// Access tokens of a custom authorization server of Okta, with its audience.
///
/// The tokens of the org authorization server, whose issuer is the bare domain, are meant for Okta
/// itself and must not be verified by others.
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let builder = preset::okta("https://tenant.okta.com/oauth2/default", "api://default");
/// # let _ = builder;
/// ```
pub fn okta(issuer: &str, audience: &str) -> JwtVerifierBuilder {
    plain(issuer, audience)
        .with_scopes_at(["scp"])
        .with_roles_at(["groups"])
        .with_client_at("cid")
        .with_client_required()
}

/// Access tokens of a realm of Keycloak 25 or newer, for the client of this name.
///
/// Keycloak puts a client into `aud` where the user has one of its roles, or where an audience
/// mapper says so. Older releases repeat the login's `nonce` in access tokens, and so does the mapper
/// for backwards compatibility of newer ones; such tokens are refused.
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let builder = preset::keycloak("https://keycloak.example", "staff", "reports-api");
/// assert_eq!(builder.issuer_name(), "https://keycloak.example/realms/staff");
/// ```
pub fn keycloak(base_url: &str, realm: &str, audience: &str) -> JwtVerifierBuilder {
    let base_url = base_url.trim_end_matches('/');
    plain(&format!("{base_url}/realms/{realm}"), audience)
        .with_roles_at(["realm_access", "roles"])
        .with_roles_at(["resource_access", audience, "roles"])
        .with_required_claim("typ", "Bearer")
}

/// Access tokens of version 2.0 from a tenant of Microsoft Entra ID, for the API whose application
/// id this is.
///
/// The version is a setting of the API: `requestedAccessTokenVersion` in its manifest. An
/// application's own ID tokens have the same audience; they are refused because they name no `azp`.
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let tenant = "8d4a1b2c-5f0e-4c1d-9a57-0e6b7a2f3c11";
/// let builder = preset::entra_id(tenant, "3f2a9d64-1b7e-4d0c-8c35-6a9e5b1d2f70");
/// let issuer = "https://login.microsoftonline.com/8d4a1b2c-5f0e-4c1d-9a57-0e6b7a2f3c11/v2.0";
/// assert_eq!(builder.issuer_name(), issuer);
/// ```
pub fn entra_id(tenant_id: &str, application_id: &str) -> JwtVerifierBuilder {
    let issuer = format!("https://login.microsoftonline.com/{tenant_id}/v2.0");
    plain(&issuer, application_id).with_scopes_at(["scp"]).with_client_required()
}

/// Access tokens of version 1.0 from a tenant of Microsoft Entra ID. The audience is the API's
/// application id or its URI, whichever clients ask for; accept both with
/// [`with_audience`](JwtVerifierBuilder::with_audience).
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let application = "3f2a9d64-1b7e-4d0c-8c35-6a9e5b1d2f70";
/// let builder = preset::entra_id_v1("8d4a1b2c-5f0e-4c1d-9a57-0e6b7a2f3c11", application)
///     .with_audience(format!("api://{application}"));
/// # let _ = builder;
/// ```
pub fn entra_id_v1(tenant_id: &str, audience: &str) -> JwtVerifierBuilder {
    plain(&format!("https://sts.windows.net/{tenant_id}/"), audience)
        .with_scopes_at(["scp"])
        .with_client_at("appid")
        .with_client_required()
}

/// Access tokens of a user pool of Amazon Cognito that were given to one of these app clients.
///
/// The tokens have no audience: the clients stand in its place, so name only those that are meant
/// to call this API, and tell APIs apart by scopes. The groups of the user are roles here.
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let clients = ["5h57kf5ehqlp8pq6shmqm2s2q", "1example23456789"];
/// let builder = preset::cognito("eu-central-1", "eu-central-1_aB3dE5fG7", clients);
/// # let _ = builder;
/// ```
pub fn cognito<'a>(
    region: &str,
    user_pool_id: &str,
    client_ids: impl IntoIterator<Item = &'a str>,
) -> JwtVerifierBuilder {
    let issuer = format!("https://cognito-idp.{region}.amazonaws.com/{user_pool_id}");
    let mut client_ids = client_ids.into_iter();
    // Without any, the empty name is what `build` refuses.
    let builder = plain(&issuer, client_ids.next().unwrap_or_default())
        .with_client_as_audience()
        .with_roles_at(["cognito:groups"])
        .with_required_claim("token_use", "access");
    client_ids.fold(builder, JwtVerifierBuilder::with_audience)
}

/// Identity tokens that Google signs for a caller of the service at this address.
///
/// Google's access tokens are opaque and meant for Google. What its service accounts, schedulers and
/// queues send to a service of yours is an identity token whose audience is the service's address.
/// The ID token of a user who logged in with Google has the client id of an application as its
/// audience and must never let anybody into an API: such audiences are refused when the verifier is
/// built, and so are tokens with `nonce` or `at_hash`.
///
/// The tokens carry no scopes and no roles. Whoever has a Google account of any kind can get one:
/// decide by subject or by the claim `email` who may call.
///
/// ```
/// use tower_gate::verifier::jwt::preset;
///
/// let builder = preset::google("https://reports.example");
/// assert_eq!(builder.issuer_name(), "https://accounts.google.com");
/// ```
pub fn google(audience: &str) -> JwtVerifierBuilder {
    plain("https://accounts.google.com", audience)
        .without_audiences_like(".apps.googleusercontent.com")
}

/// An issuer that predates RFC 9068.
fn plain(issuer: &str, audience: &str) -> JwtVerifierBuilder {
    JwtVerifier::builder().issuer(issuer).audience(audience).accept_plain_jwt()
}
