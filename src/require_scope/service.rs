use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::principal::Authenticated;
use crate::rejection::{RefusalStyle, Rejection, ResponseBody};
use crate::require_scope::RequireScopeFuture;
use crate::require_scope::layer::Config;

/// Middleware that lets in only callers that meet a requirement; see the
/// [module](crate::require_scope).
#[derive(Clone)]
pub struct RequireScope<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> RequireScope<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScope<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
    ResBody::Data: From<Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RequireScopeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        match self.config.check(request.extensions()) {
            Ok(()) => RequireScopeFuture::service(self.inner.call(request)),
            Err(rejection) => {
                RequireScopeFuture::refused(RefusalStyle::refuse(rejection, &request))
            }
        }
    }
}

impl Config {
    fn check(&self, extensions: &Extensions) -> Result<(), Rejection> {
        let Some(authenticated) = Authenticated::of(extensions) else {
            return Err(Rejection::layer_missing(
                "RequireScopeLayer needs an AuthenticateLayer outside of it",
            ));
        };
        let Some(principal) = &authenticated.principal else {
            // 401 and not 403: a token would help (RFC 9110 §15.5.2).
            return Err(Rejection::missing_token_for(self.requirement.named_scopes()));
        };
        match self.requirement.unmet(principal, self.clock.now()) {
            None => Ok(()),
            Some(lack) => Err(Rejection::unmet(lack)),
        }
    }
}

impl<S> fmt::Debug for RequireScope<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScope").finish_non_exhaustive()
    }
}
