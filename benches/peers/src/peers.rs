//! The same question asked through each crate's layer, above a service that does nothing.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use huskarl_axum::layers::ValidatorLayer;
use huskarl_axum::resource_server::core::crypto::verifier::{JwsVerifier, JwsVerifierPlatform};
use huskarl_axum::resource_server::core::jwk::Jwk;
use huskarl_axum::resource_server::core::platform::MaybeSendBoxFuture;
use huskarl_axum::resource_server::core::{EndpointUrl, Error};
use huskarl_axum::resource_server::validator::rfc9068::Rfc9068Validator;
use huskarl_crypto_native::NativeVerifierPlatform;
use huskarl_crypto_native::symmetric::SymmetricKey;
use jwt_authorizer::{IntoLayer, JwtAuthorizer, RegisteredClaims, Validation};
use serde_json::json;
use tower::{Layer, Service};
use tower_gate::verifier::jwt::{JwtVerifier, VerifyingKey};
use tower_gate::verifier::{CachedVerifier, VerifyRequest};
use tower_gate::{AuthenticateLayer, BearerToken, PeerAddr, TokenVerifier};
use tower_oauth2_resource_server::server::OAuth2ResourceServer;
use tower_oauth2_resource_server::tenant::TenantConfiguration;

use crate::harness::Subject;
use crate::tokens::{AUDIENCE, ISSUER, Tokens};

pub(crate) const EMPTY: &str = "empty service";
pub(crate) const EMPTY_WARM: &str = "empty service, one token";
pub(crate) const RAW: &str = "aws-lc-rs, the signature alone";
pub(crate) const COLD: &str = "tower-gate, JwtVerifier without the layer";
pub(crate) const COLD_LAYER: &str = "tower-gate, every token new";
pub(crate) const WARM_LAYER: &str = "tower-gate, token seen before";
pub(crate) const JWT_AUTHORIZER: &str = "jwt-authorizer 0.15.0";
pub(crate) const RESOURCE_SERVER: &str = "tower-oauth2-resource-server 0.12.5";
pub(crate) const HUSKARL: &str = "huskarl-axum 0.1.0";

pub(crate) const PEERS: [&str; 3] = [JWT_AUTHORIZER, RESOURCE_SERVER, HUSKARL];

/// Everything that these tokens can be put to.
pub(crate) async fn subjects(tokens: Tokens) -> Vec<Subject> {
    let texts = &tokens.texts;
    let verifier = || {
        JwtVerifier::builder()
            .issuer(ISSUER)
            .audience(AUDIENCE)
            .with_key(VerifyingKey::from_jwk(&tokens.jwk.to_string()).unwrap())
            .build()
            .unwrap()
    };
    let warm = AuthenticateLayer::new(CachedVerifier::new(verifier()));
    let alone = verifier();
    let now = SystemTime::now();
    let question = |text: &String| VerifyRequest::new(BearerToken::parse(text).unwrap(), now);
    let mut questions = InTurn::new(texts.iter().map(question));
    let mut subjects = vec![
        subject(EMPTY, texts, Nothing::<axum::body::Body>::new()),
        Subject::new(COLD, move || alone.try_verify(questions.next()).unwrap().unwrap()),
        subject(COLD_LAYER, texts, AuthenticateLayer::new(verifier()).layer(ours())),
        subject(EMPTY_WARM, &texts[..1], ours()),
        subject(WARM_LAYER, &texts[..1], warm.layer(ours())),
        subject(JWT_AUTHORIZER, texts, jwt_authorizer(&tokens).await),
        subject(RESOURCE_SERVER, texts, resource_server(&tokens).await),
        subject(HUSKARL, texts, huskarl(&tokens).await),
    ];
    let mut check = tokens.check;
    subjects.push(Subject::new(RAW, move || assert!(check())));
    subjects
}

/// One after the other, and from the beginning again.
struct InTurn<T> {
    all: Vec<T>,
    turn: usize,
}

impl<T> InTurn<T> {
    fn new(all: impl Iterator<Item = T>) -> Self {
        Self { all: all.collect(), turn: 0 }
    }

    fn next(&mut self) -> &T {
        self.turn = if self.turn + 1 < self.all.len() { self.turn + 1 } else { 0 };
        &self.all[self.turn]
    }
}

fn ours() -> Nothing<axum::body::Body> {
    Nothing::new()
}

async fn jwt_authorizer(tokens: &Tokens) -> impl Asked {
    let builder = match tokens.algorithm {
        "HS256" => JwtAuthorizer::<RegisteredClaims>::from_secret(&tokens.key),
        "RS256" => JwtAuthorizer::from_rsa_pem_text(&tokens.key),
        "ES256" => JwtAuthorizer::from_ec_pem_text(&tokens.key),
        _ => JwtAuthorizer::from_ed_pem_text(&tokens.key),
    };
    let validation = Validation::new().iss(&[ISSUER]).aud(&[AUDIENCE]).nbf(true);
    let authorizer = builder.validation(validation).build().await.unwrap();
    authorizer.into_layer().layer(Nothing::<axum07::body::Body>::new())
}

async fn resource_server(tokens: &Tokens) -> impl Asked {
    let jwks = json!({ "keys": [tokens.jwk] });
    let tenant = TenantConfiguration::static_builder(jwks.to_string())
        .identifier(ISSUER)
        .audiences(&[AUDIENCE])
        .claims_validation(
            tower_oauth2_resource_server::validation::ClaimsValidationSpec::recommended(
                ISSUER,
                &vec![AUDIENCE.to_owned()],
            ),
        )
        .allowed_algorithms(&[tokens.algorithm.parse().unwrap()])
        .build()
        .unwrap();
    let server = <OAuth2ResourceServer>::builder().add_tenant(tenant).build().await.unwrap();
    server.into_layer().layer(Nothing::<axum::body::Body>::new())
}

async fn huskarl(tokens: &Tokens) -> impl Asked {
    let platform = Arc::new(NativeVerifierPlatform);
    let jwk = tokens.jwk.to_string();
    let verifier: Arc<dyn JwsVerifier> = match tokens.algorithm {
        "HS256" => {
            let jwk: Jwk = serde_json::from_str(&jwk).unwrap();
            let secret = jwk.private_jwk().unwrap().try_into().unwrap();
            Arc::new(SymmetricKey::from_jwk(secret).unwrap())
        }
        _ => {
            let jwk = serde_json::from_str(&jwk).unwrap();
            platform.create_verifier_from_jwk(jwk).await.unwrap()
        }
    };
    let factory = move |_: Option<&EndpointUrl>,
                        _: Arc<dyn JwsVerifierPlatform>|
          -> MaybeSendBoxFuture<'static, Result<Arc<dyn JwsVerifier>, Error>> {
        let verifier = verifier.clone();
        Box::pin(async move { Ok(verifier) })
    };
    let validator = Rfc9068Validator::builder()
        .issuer(ISSUER)
        .audience(AUDIENCE)
        .jws_verifier_factory(factory)
        .jws_verifier_platform(platform)
        .build()
        .await
        .unwrap();
    let layer = ValidatorLayer::builder().validator(validator).build();
    layer.authenticated().layer(Nothing::<axum::body::Body>::new())
}

/// A service that can be asked with any of these bodies.
trait Asked:
    Service<Request<axum::body::Body>, Error = Infallible, Response: IsSuccess> + 'static
{
}

impl<S> Asked for S where
    S: Service<Request<axum::body::Body>, Error = Infallible, Response: IsSuccess> + 'static
{
}

trait IsSuccess {
    fn is_success(&self) -> bool;
}

impl<B> IsSuccess for Response<B> {
    fn is_success(&self) -> bool {
        self.status().is_success()
    }
}

fn subject(name: &'static str, tokens: &[String], mut service: impl Asked) -> Subject {
    let mut heads = InTurn::new(tokens.iter().map(|token| request(token).into_parts().0));
    Subject::new(name, move || {
        let request = Request::from_parts(heads.next().clone(), axum::body::Body::empty());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        match pin!(service.call(request)).poll(&mut cx) {
            Poll::Ready(Ok(response)) if response.is_success() => response,
            _ => panic!("{name}: the request did not come through"),
        }
    })
}

/// A request whose values share their bytes, as those from a server do.
fn request(token: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = "/reports/2024?page=2".parse().unwrap();
    for (name, value) in [
        (header::HOST, "api.example"),
        (header::USER_AGENT, "curl/8.5.0"),
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip, br"),
        (HeaderName::from_static("x-request-id"), "0b8ad7c4-5a43-4b6e-8e3a-0f1f3a1f4a57"),
        (header::AUTHORIZATION, &format!("Bearer {token}")),
    ] {
        let shared = Bytes::copy_from_slice(value.as_bytes());
        request.headers_mut().insert(name, HeaderValue::from_maybe_shared(shared).unwrap());
    }
    request.extensions_mut().insert(PeerAddr((Ipv4Addr::LOCALHOST, 443).into()));
    request
}

/// A service that does nothing.
struct Nothing<B>(PhantomData<fn() -> B>);

impl<B> Nothing<B> {
    fn new() -> Self {
        Self(PhantomData)
    }
}

impl<B> Clone for Nothing<B> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<R, B: Default> Service<Request<R>> for Nothing<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<R>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}
