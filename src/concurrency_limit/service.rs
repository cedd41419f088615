use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::concurrency_limit::layer::{Config, Limit};
use crate::concurrency_limit::permit::Permit;
use crate::concurrency_limit::{ConcurrencyLimitBody, ConcurrencyLimitFuture};
use crate::event::AuditSlot;
use crate::limit_fields::Fields;
use crate::partition::PartitionKey;
use crate::rejection::Rejection;
use crate::trace;

/// Middleware that limits how many requests of a caller run at once; see the
/// [module](crate::concurrency_limit).
#[derive(Clone)]
pub struct ConcurrencyLimit<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> ConcurrencyLimit<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ConcurrencyLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
    ResBody::Data: From<Bytes>,
{
    type Response = Response<ConcurrencyLimitBody<ResBody>>;
    type Error = S::Error;
    type Future = ConcurrencyLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let (permit, fields) = match config.limit(&request) {
            Ok(None) => (None, None),
            Ok(Some((limit, key))) if config.is_shadow => {
                (config.take_in_shadow(limit, key, &request), None)
            }
            Err(_) if config.is_shadow => {
                trace::not_placed(&config.name);
                (None, None)
            }
            Ok(Some((limit, key))) => match config.take(limit, key, &request) {
                Ok((permit, fields)) => (Some(permit), fields),
                Err(response) => return ConcurrencyLimitFuture::refused(response),
            },
            Err(rejection) => {
                return ConcurrencyLimitFuture::refused(config.refuse(rejection, &request));
            }
        };
        // Held here, so that it is given back if the inner service panics.
        ConcurrencyLimitFuture::service(self.inner.call(request), permit, fields)
    }
}

impl Config {
    /// A permit if there is one; else it is written down that there is none.
    fn take_in_shadow<B>(
        &self,
        limit: &Limit,
        key: PartitionKey,
        request: &Request<B>,
    ) -> Option<Permit> {
        let taken = self.permits.take(key, limit.at_once);
        if taken.is_none() {
            trace::would_limit(&limit.name);
            if let Some(slot) = AuditSlot::of(request.extensions()) {
                slot.would_limit(limit.name.clone());
            }
        }
        taken.map(|(permit, _)| permit)
    }

    /// A permit and the fields of the response, or a refusal that has them.
    fn take<B>(
        &self,
        limit: &Limit,
        key: PartitionKey,
        request: &Request<B>,
    ) -> Result<(Permit, Option<Fields>), Box<Response<Bytes>>> {
        let taken = self.permits.take(key, limit.at_once);
        let left = taken.as_ref().map_or(0, |(_, left)| *left);
        if let Some(slot) = AuditSlot::of(request.extensions()) {
            slot.limited(limit.name.clone(), left);
        }
        let is_of_callers = self.is_of_callers();
        let fields = || limit.shown.fields_at_once(limit.at_once, left, || self.clock.now());
        let fields = is_of_callers.then(fields).flatten();
        let Some((permit, _)) = taken else {
            let name = limit.name.clone();
            let rejection = if is_of_callers {
                Rejection::too_many_at_once(name)
            } else {
                Rejection::at_capacity(name)
            };
            let mut response = self.refuse(rejection, request);
            if let Some(fields) = fields {
                fields.add_to(&mut response);
            }
            return Err(response);
        };
        Ok((permit, fields))
    }
}

impl<S> fmt::Debug for ConcurrencyLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimit").finish_non_exhaustive()
    }
}
