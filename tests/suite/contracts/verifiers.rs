//! `TokenVerifier`.

use std::collections::BTreeSet;
use std::error::Error;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::Layer;
use tower_gate::fetch::{FetchError, FetchRequest};
use tower_gate::store::memory::MemoryTokenStore;
use tower_gate::test_util::TestIssuer;
use tower_gate::verifier::introspection::IntrospectionVerifier;
use tower_gate::verifier::jwks::Jwks;
use tower_gate::verifier::jwt::JwtVerifier;
use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, Pepper, Peppers};
use tower_gate::verifier::{
    CachedVerifier, RoutedVerifier, VerifyError, VerifyErrorKind, VerifyRequest,
};
use tower_gate::{AuthenticateLayer, BearerToken, FixedVerifier, Principal, TokenVerifier};

use crate::contracts::{block_on, contract};
use crate::support::{Probe, send, with_token};

/// A verifier, and the tokens of `user-1` and `user-2` that it accepts.
struct Adapter<V> {
    verifier: V,
    good: Vec<String>,
}

contract! {
    [
        a_good_token_names_its_holder
        a_token_that_is_not_good_in_every_character_is_refused
        what_is_not_known_is_refused_and_is_no_outage
        what_it_says_at_once_it_says_after_waiting
        the_time_is_that_of_the_question
        many_may_ask_at_once
        an_answer_that_nobody_waits_for_harms_nothing
        the_layer_lets_in_whom_it_accepts_and_nobody_else
    ]
    fixed => Adapter { verifier: fixed(), good: TOKENS.map(str::to_owned).to_vec() };
    shared => Adapter { verifier: Arc::new(fixed()), good: TOKENS.map(str::to_owned).to_vec() };
    cached => Adapter {
        verifier: CachedVerifier::new(fixed()),
        good: TOKENS.map(str::to_owned).to_vec(),
    };
    routed => Adapter {
        verifier: RoutedVerifier::new().with_opaque(fixed()),
        good: TOKENS.map(str::to_owned).to_vec(),
    };
    loaded => Adapter {
        verifier: fixed().load(async |_| Ok(7)),
        good: TOKENS.map(str::to_owned).to_vec(),
    };
    closure => Adapter { verifier: closure(), good: TOKENS.map(str::to_owned).to_vec() };
    jwt => jwt();
    jwt_of_fetched_keys => jwt_of_fetched_keys();
    introspection => introspection();
    opaque => opaque();
    null => Adapter { verifier: FixedVerifier::new(), good: Vec::new() };
}

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "https://api.example";
const SUBJECTS: [&str; 2] = ["user-1", "user-2"];
const TOKENS: [&str; 2] = ["the-long-token-of-user-one", "the-long-token-of-user-two"];

fn fixed() -> FixedVerifier {
    TOKENS.into_iter().zip(SUBJECTS).fold(FixedVerifier::new(), |verifier, (token, subject)| {
        verifier.with(token, Principal::builder(ISSUER, subject).build()).unwrap()
    })
}

/// Looks tokens up somewhere else.
fn closure() -> impl TokenVerifier {
    |request: VerifyRequest| async move {
        tokio::task::yield_now().await;
        let known = TOKENS.iter().position(|token| *token == request.token.as_str());
        let subject = known.map(|index| SUBJECTS[index]).ok_or(VerifyErrorKind::UnknownToken)?;
        Ok::<_, VerifyError>(Principal::builder(ISSUER, subject).build())
    }
}

fn jwt() -> Adapter<impl TokenVerifier> {
    let issuer = TestIssuer::new(ISSUER, AUDIENCE);
    let good = SUBJECTS.map(|subject| issuer.token(subject).scopes("read").sign());
    Adapter { verifier: issuer.verifier(), good: good.to_vec() }
}

/// Keys are kept fresh by a task, which ends with its runtime: this one outlasts every test.
static KEEPING: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

fn jwt_of_fetched_keys() -> Adapter<impl TokenVerifier> {
    let issuer = TestIssuer::new(ISSUER, AUDIENCE);
    let good = SUBJECTS.map(|subject| issuer.token(subject).scopes("read").sign());
    let document = Bytes::from(issuer.jwks());
    let fetch = move |_: FetchRequest| {
        let document = document.clone();
        async move {
            tokio::task::yield_now().await;
            Ok(Response::new(document))
        }
    };
    let _keeping = KEEPING.enter();
    let jwks = Jwks::at("https://issuer.example/jwks.json", fetch).unwrap().start().unwrap();
    let verifier = JwtVerifier::builder().issuer(ISSUER).audience(AUDIENCE).with_jwks(&jwks);
    Adapter { verifier: verifier.build().unwrap(), good: good.to_vec() }
}

/// An endpoint that knows two tokens.
fn introspection() -> Adapter<impl TokenVerifier> {
    let end = now() + Duration::from_secs(3600);
    let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let fetch = move |question: FetchRequest| async move {
        tokio::task::yield_now().await;
        let form = question.request.into_body();
        let known = TOKENS.iter().position(|token| {
            form == format!("token={token}&token_type_hint=access_token").as_bytes()
        });
        let answer = match known {
            Some(index) => json!({
                "active": true, "iss": ISSUER, "sub": SUBJECTS[index], "aud": AUDIENCE, "exp": end,
            }),
            None => json!({ "active": false }),
        };
        let response = Response::builder().header("content-type", "application/json");
        response.body(Bytes::from(answer.to_string())).map_err(FetchError::new)
    };
    let verifier = IntrospectionVerifier::builder("https://issuer.example/introspect", fetch)
        .issuer(ISSUER)
        .audience(AUDIENCE)
        .with_client("api", "secret");
    let good = TOKENS.map(str::to_owned).to_vec();
    Adapter { verifier: verifier.build().unwrap(), good }
}

fn opaque() -> Adapter<impl TokenVerifier> {
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let tokens = OpaqueTokens::builder(ISSUER, MemoryTokenStore::new(), peppers).build().unwrap();
    let issue = |subject| {
        let new = NewToken::new(subject).scopes("read").expires_in(Duration::from_secs(3600));
        block_on(tokens.issue(new)).unwrap().token.expose().to_owned()
    };
    Adapter { good: SUBJECTS.map(issue).to_vec(), verifier: tokens.verifier() }
}

fn question(token: &str, now: SystemTime) -> VerifyRequest {
    VerifyRequest::new(BearerToken::parse(token).unwrap(), now)
}

/// Asks as the layer does.
async fn ask(
    verifier: &impl TokenVerifier,
    token: &str,
    now: SystemTime,
) -> Result<Principal, VerifyError> {
    let question = question(token, now);
    match verifier.try_verify(&question) {
        Some(answer) => answer,
        None => verifier.verify(&question).await,
    }
}

/// An answer as far as answers can be compared.
fn gist(answer: Result<Principal, VerifyError>) -> Result<String, VerifyErrorKind> {
    match answer {
        Ok(principal) => Ok(format!("{principal:?} {:?}", principal.expires_at())),
        Err(error) => Err(error.kind()),
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// Tokens that are nearly this one, each still a token by its form.
fn near(token: &str) -> BTreeSet<String> {
    let mut near = BTreeSet::from([
        token[1..].to_owned(),
        token[..token.len() - 1].to_owned(),
        format!("{token}a"),
        format!("a{token}"),
        format!("{token}="),
        format!("{token}{token}"),
        format!("{token}.{token}"),
        token.to_uppercase(),
        token.chars().rev().collect(),
    ]);
    for (at, before) in token.char_indices() {
        let after = if before == 'A' { 'B' } else { 'A' };
        near.insert(format!("{}{after}{}", &token[..at], &token[at + 1..]));
    }
    near
}

fn a_good_token_names_its_holder<V: TokenVerifier>(adapter: impl Fn() -> Adapter<V>) {
    let Adapter { verifier, good } = adapter();
    block_on(async {
        for (token, subject) in good.iter().zip(SUBJECTS) {
            for _ in 0..3 {
                let principal = ask(&verifier, token, now()).await.unwrap();
                assert_eq!((principal.issuer(), principal.subject()), (ISSUER, subject));
            }
        }
    });
}

fn a_token_that_is_not_good_in_every_character_is_refused<V: TokenVerifier>(
    adapter: impl Fn() -> Adapter<V>,
) {
    let Adapter { verifier, good } = adapter();
    block_on(async {
        let pairs =
            good.iter().flat_map(|good| near(good).into_iter().map(move |near| (good, near)));
        for (good, token) in pairs {
            let error = ask(&verifier, &token, now()).await.expect_err(&token);
            // Whether there is such a key may have to be looked up, and not just yet.
            let is_known = key_of(&token).is_none() || key_of(&token) == key_of(good);
            if is_known {
                assert_ne!(error.kind(), VerifyErrorKind::Unavailable, "{token}");
            }
            assert!(error.principal().is_none(), "{token}: it is nobody's");
        }
    });
}

/// The name of the key of a JWT.
fn key_of(token: &str) -> Option<Value> {
    let (header, _) = token.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    header.get("kid").cloned()
}

fn what_is_not_known_is_refused_and_is_no_outage<V: TokenVerifier>(
    adapter: impl Fn() -> Adapter<V>,
) {
    let Adapter { verifier, .. } = adapter();
    let long = "x".repeat(8192);
    block_on(async {
        for token in ["x", "x==", "a.b.c", "...", "..", "~+/-._", "eyJhbGciOiJub25lIn0.e30.", &long]
        {
            let error = ask(&verifier, token, now()).await.expect_err(token);
            assert_ne!(error.kind(), VerifyErrorKind::Unavailable, "{token}");
            assert!(error.principal().is_none(), "{token}");
            let mut cause: Option<&dyn Error> = Some(&error);
            while let Some(error) = cause {
                let told = format!("{error} {error:?}");
                assert!(token.len() < 4 || !told.contains(token), "attack 38: {told}");
                cause = error.source();
            }
        }
    });
}

fn what_it_says_at_once_it_says_after_waiting<V: TokenVerifier>(adapter: impl Fn() -> Adapter<V>) {
    let Adapter { verifier, good } = adapter();
    block_on(async {
        for token in good.iter().map(String::as_str).chain(["unknown", "a.b.c"]) {
            let question = question(token, now());
            let waited = gist(verifier.verify(&question).await);
            if let Some(at_once) = verifier.try_verify(&question) {
                assert_eq!(gist(at_once), waited, "{token}");
            }
            assert_eq!(waited.is_ok(), good.iter().any(|good| good == token), "{token}");
        }
    });
}

fn the_time_is_that_of_the_question<V: TokenVerifier>(adapter: impl Fn() -> Adapter<V>) {
    let Adapter { verifier, good } = adapter();
    block_on(async {
        for token in &good {
            let principal = ask(&verifier, token, now()).await.unwrap();
            let Some(end) = principal.expires_at() else {
                continue;
            };
            let second = Duration::from_secs(1);
            assert!(ask(&verifier, token, end - second).await.is_ok());
            // The longest leeway that there is, and no less.
            let error = ask(&verifier, token, end + 300 * second).await.unwrap_err();
            assert_eq!(error.kind(), VerifyErrorKind::Expired);
            let known = error.principal().map(Principal::subject);
            assert_eq!(known, Some(principal.subject()), "whose it was stays known");
        }
    });
}

fn many_may_ask_at_once<V: TokenVerifier>(adapter: impl Fn() -> Adapter<V>) {
    let Adapter { verifier, good } = adapter();
    let verifier = Arc::new(verifier);
    block_on(async {
        let mut tasks = Vec::new();
        for n in 0..64 {
            let verifier = verifier.clone();
            let (token, expected) = match good.get(n % 3) {
                Some(token) => (token.clone(), Some(SUBJECTS[n % 3])),
                None => (format!("unknown-{n}"), None),
            };
            tasks.push(tokio::spawn(async move {
                let answer = ask(&*verifier, &token, now()).await.ok();
                assert_eq!(answer.as_ref().map(Principal::subject), expected);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn an_answer_that_nobody_waits_for_harms_nothing<V: TokenVerifier>(
    adapter: impl Fn() -> Adapter<V>,
) {
    let Adapter { verifier, good } = adapter();
    block_on(async {
        for token in &good {
            let question = question(token, now());
            {
                let mut future = pin!(verifier.verify(&question));
                let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
            assert!(ask(&verifier, token, now()).await.is_ok());
        }
    });
}

fn the_layer_lets_in_whom_it_accepts_and_nobody_else<V: TokenVerifier>(
    adapter: impl Fn() -> Adapter<V>,
) {
    let Adapter { verifier, good } = adapter();
    let service = AuthenticateLayer::new(verifier).layer(Probe::default());
    block_on(async {
        for (token, subject) in good.iter().zip(SUBJECTS) {
            let answer = send(&service, with_token(token)).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (200, subject.as_bytes()));
        }
        for token in ["unknown", "a.b.c"] {
            let answer = send(&service, with_token(token)).await;
            assert_eq!((answer.status.as_u16(), &*answer.error()), (401, "invalid_token"));
        }
    });
}
