use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::attempt::Attempt;
use crate::authenticate::AuthenticateFuture;
use crate::authenticate::layer::Config;
use crate::event::AuditSlot;
use crate::principal::{Authenticated, Principal};
use crate::rejection::{RefusalStyle, Rejection, RejectionKind, ResponseBody};
use crate::token::PresentedToken;
use crate::trace;
use crate::verifier::{VerifyError, VerifyErrorKind, VerifyRequest};

/// Middleware that lets only callers in whose token is good; see the
/// [module](crate::authenticate).
#[derive(Clone)]
pub struct Authenticate<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> Authenticate<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Authenticate<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body,
    ResBody::Data: From<Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = AuthenticateFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let question = match config.caller(&request) {
            Err(rejection) => {
                return AuthenticateFuture::refused(config.refuse(rejection, &request));
            }
            Ok(Caller::Known(principal)) => {
                config.let_in(&mut request, principal);
                return AuthenticateFuture::service(self.inner.call(request));
            }
            Ok(Caller::Presents(question)) => question,
        };
        match config.verifier.try_verify(&question) {
            Some(Ok(principal)) => {
                config.let_in(&mut request, Some(principal));
                AuthenticateFuture::service(self.inner.call(request))
            }
            Some(Err(error)) => AuthenticateFuture::refused(config.not_verified(error, &request)),
            None => {
                // The service that is ready waits for the answer; the clone is not.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                let answer = config.verifier.clone().verify(question);
                AuthenticateFuture::verifying(answer, ready, request, config.clone())
            }
        }
    }
}

/// Who stands behind a request.
enum Caller {
    /// Somebody whose token was accepted before, or an anonymous caller that may come in.
    Known(Option<Principal>),
    /// Whoever this token is found to be.
    Presents(VerifyRequest),
}

impl Config {
    /// Who calls, as far as that is known without a look at the token's form.
    fn caller<B>(&self, request: &Request<B>) -> Result<Caller, Rejection> {
        let Some(presented) = PresentedToken::find(request.headers(), request.uri())? else {
            return match self.optional {
                true => Ok(Caller::Known(None)),
                false => Err(Rejection::new(RejectionKind::MissingToken)),
            };
        };
        let text = presented.as_bytes();
        let is_too_long = text.len() > self.max_token_bytes;
        if !is_too_long && let Some(principal) = self.verifier.recall(text, self.clock.coarse_now())
        {
            return Ok(Caller::Known(Some(principal)));
        }
        let token = presented.check()?;
        if is_too_long {
            // Before the verifier, whose work grows with the length (BEARER-15).
            return Err(VerifyError::from(VerifyErrorKind::Malformed).into());
        }
        Ok(Caller::Presents(VerifyRequest::new(token, self.clock.now())))
    }

    /// Marks the request as authenticated, and tells those who want to know.
    pub(super) fn let_in<B>(&self, request: &mut Request<B>, principal: Option<Principal>) {
        let slot = AuditSlot::of(request.extensions());
        if let Some(slot) = slot {
            slot.let_in(principal.as_ref());
        }
        if let Some(principal) = &principal {
            if let Some(attempt) = Attempt::of(request.extensions()) {
                attempt.let_in();
            }
            // The application may have opened a span of its own in the meantime.
            if slot.is_none_or(|slot| !slot.span().is_current()) {
                trace::record_on_current(principal);
            }
        }
        self.clean(request.headers_mut());
        let extensions = request.extensions_mut();
        extensions.insert(Authenticated { principal });
        if let Some(style) = &self.style {
            extensions.insert(style.clone());
        }
    }

    /// Takes out what is not the client's to say, and hides the token from whoever prints headers.
    fn clean(&self, headers: &mut HeaderMap) {
        let mut has_identity = false;
        for (name, value) in headers.iter_mut() {
            if *name == AUTHORIZATION {
                value.set_sensitive(true);
            } else {
                has_identity |= self.scrub.has(name);
            }
        }
        if has_identity {
            self.scrub.remove_from(headers);
        }
        if self.strip_token {
            headers.remove(AUTHORIZATION);
        }
    }

    /// Refuses for what the verifier says, whose cause is logged and does not reach the client.
    pub(super) fn not_verified<B>(
        &self,
        error: VerifyError,
        request: &Request<B>,
    ) -> Box<Response<Bytes>> {
        // Strangers can bring it about, with names of keys that nobody has.
        let is_outage = error.kind() == VerifyErrorKind::Unavailable;
        if is_outage && self.says_unavailable.is_due(self.clock.monotonic()) {
            trace::unavailable(&error);
        } else {
            trace::not_verified(&error);
        }
        if let (Some(slot), Some(principal)) =
            (AuditSlot::of(request.extensions()), error.principal())
        {
            slot.authenticated(principal);
        }
        self.refuse(error.into(), request)
    }

    fn refuse<B>(&self, rejection: Rejection, request: &Request<B>) -> Box<Response<Bytes>> {
        match &self.style {
            Some(style) => style.respond(rejection, request),
            None => RefusalStyle::refuse(rejection, request),
        }
    }
}

impl<S> fmt::Debug for Authenticate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticate").finish_non_exhaustive()
    }
}
