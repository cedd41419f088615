//! Extractors for axum handlers: [`Principal`], `Option<Principal>` and [`Claims`].
//!
//! | argument | anonymous caller | without [`AuthenticateLayer`](crate::AuthenticateLayer) |
//! |---|---|---|
//! | `Principal` | 401 `missing_token` | 500 `misconfigured`, which names the layer |
//! | `Option<Principal>` | `None` | the same: a forgotten layer is not an anonymous caller |
//! | `Claims<T>` | 401 `missing_token` | the same |
//!
//! ```
//! use axum::Json;
//! use axum::Router;
//! use axum::routing::get;
//! use serde::Deserialize;
//! use tower_gate::extract::Claims;
//! use tower_gate::{AuthenticateLayer, FixedVerifier, Principal};
//!
//! #[derive(Deserialize)]
//! struct Tenant {
//!     tenant: String,
//! }
//!
//! async fn whoami(principal: Principal) -> String {
//!     principal.subject().to_owned()
//! }
//!
//! async fn greeting(principal: Option<Principal>) -> String {
//!     principal.map_or("hello".to_owned(), |principal| format!("hello {}", principal.subject()))
//! }
//!
//! async fn tenant(Claims(claims): Claims<Tenant>) -> Json<String> {
//!     Json(claims.tenant)
//! }
//!
//! let app: Router = Router::new()
//!     .route("/whoami", get(whoami))
//!     .route("/greeting", get(greeting))
//!     .route("/tenant", get(tenant))
//!     .layer(AuthenticateLayer::new(FixedVerifier::new()).optional());
//! ```

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Request;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::principal::{Authenticated, Principal};
use crate::rejection::{RefusalStyle, Rejection, RejectionKind};
use crate::trace;

/// The claims of the caller's token as a type of the application's own.
///
/// Claims that do not fit the type are refused with 403 `forbidden`: the token is good, and not for
/// this. The log says why at debug level. For a type that borrows from the token, or an error of
/// your own, call [`Principal::claims`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims<T>(pub T);

/// Rejection used for the extractors: the response, in the style of the layers.
#[derive(Debug)]
pub struct ExtractRejection(Box<http::Response<Bytes>>);

impl ExtractRejection {
    fn new(rejection: Rejection, parts: &Parts) -> Self {
        Self(RefusalStyle::refuse(rejection, parts))
    }
}

impl IntoResponse for ExtractRejection {
    fn into_response(self) -> Response {
        self.0.map(Body::from)
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = ExtractRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ExtractRejection> {
        let principal = authenticated(parts)?.principal.clone();
        principal.ok_or_else(|| {
            ExtractRejection::new(Rejection::new(RejectionKind::MissingToken), parts)
        })
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = ExtractRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, ExtractRejection> {
        authenticated(parts).map(|authenticated| authenticated.principal.clone())
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Claims<T> {
    type Rejection = ExtractRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ExtractRejection> {
        let principal =
            <Principal as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        principal.claims().map(Self).map_err(|error| {
            // Only the place: the parser's own text quotes claims.
            trace::claims_misfit(error.column());
            ExtractRejection::new(Rejection::new(RejectionKind::Forbidden), parts)
        })
    }
}

/// For handlers that refuse by themselves. Without the request at hand the answer is in the default
/// style: HTTP, the realm `api`, a problem document.
impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let request = Request::new(());
        RefusalStyle::default().respond(self, &request).map(Body::from)
    }
}

fn authenticated(parts: &Parts) -> Result<&Authenticated, ExtractRejection> {
    Authenticated::of(&parts.extensions).ok_or_else(|| {
        let message = "the handler needs an AuthenticateLayer around its route";
        ExtractRejection::new(Rejection::layer_missing(message), parts)
    })
}
