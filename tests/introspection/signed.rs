//! Answers that must be signed (RFC 9701).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tower_gate::fetch::{FetchError, FetchRequest};
use tower_gate::verifier::introspection::AnswerKeys;
use tower_gate::verifier::jwks::Jwks;
use tower_gate::verifier::jwt::{JwtVerifier, KeySet};

use crate::endpoint::Reply;
use crate::scene::{API, Api, ISSUER, Scene, active, builder, invalid, ok, unavailable};

const TYPE: &str = "application/token-introspection+jwt";

/// What the issuer calls the API that asks.
const NAME: &str = "reports-api";

/// A key that answers are signed with.
struct Signer {
    kid: &'static str,
    key: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        Self { kid, key: Ed25519KeyPair::generate().unwrap() }
    }

    fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x }] }).to_string()
    }

    fn keys(&self) -> KeySet {
        KeySet::from_jwks(&self.jwks()).unwrap()
    }

    /// A JWS with this `typ` and `alg`.
    fn sign(&self, typ: &Value, alg: &str, payload: &str) -> String {
        let header = json!({ "typ": typ, "alg": alg, "kid": self.kid });
        let signed =
            [header.to_string(), payload.to_owned()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = signed.join(".");
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn answer(&self, payload: &Value) -> String {
        self.sign(&"token-introspection+jwt".into(), "EdDSA", &payload.to_string())
    }
}

/// Some keys.
pub(crate) fn keys() -> KeySet {
    Signer::new("some").keys()
}

fn scene(keys: impl Into<AnswerKeys>) -> Scene {
    Scene::with(|builder| builder.with_signed_answers(keys, NAME))
}

fn payload(scene: &Scene, answer: &Value) -> Value {
    json!({
        "iss": ISSUER, "aud": NAME, "iat": scene.in_seconds(0), "token_introspection": answer,
    })
}

fn reply(body: String) -> Reply {
    Reply::Answer(200, TYPE, body)
}

#[tokio::test]
async fn a_signed_answer_is_asked_for_and_believed() {
    let signer = Signer::new("1");
    let scene = scene(signer.keys());
    let answer = active(&scene.clock, json!({ "tenant": 7 }));
    scene.endpoint.reply(reply(signer.answer(&payload(&scene, &answer))));
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-50");
    assert_eq!(scene.endpoint.seen()[0].header("accept"), TYPE, "OPAQUE-50");
    let claims: Value = scene.api.principal().claims().unwrap();
    assert_eq!((&claims["tenant"], &claims["active"]), (&json!(7), &json!(true)), "OPAQUE-51");

    scene.endpoint.reply(reply(signer.answer(&payload(&scene, &json!({ "active": false })))));
    assert_eq!(scene.api.says("other").await, invalid(), "OPAQUE-53");
}

#[tokio::test]
async fn an_answer_that_is_not_signed_as_it_must_be_is_none() {
    let (signer, stranger) = (Signer::new("1"), Signer::new("1"));
    let scene = scene(signer.keys());
    let answer = active(&scene.clock, json!({}));
    let good = payload(&scene, &answer);
    let with = |member: &str, value: Value| {
        let mut payload = good.clone();
        payload[member] = value;
        payload.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        signer.answer(&payload)
    };
    let text = good.to_string();
    let typ = |typ: Value| signer.sign(&typ, "EdDSA", &text);
    let signed = signer.answer(&good);
    let (start, _) = signed.rsplit_once('.').unwrap();
    let twice = |member: &str| signer.answer(&good).replace(&URL_SAFE_NO_PAD.encode(&text), member);
    let raw = |text: &str| signer.sign(&"token-introspection+jwt".into(), "EdDSA", text);
    let doubled = text.replacen('{', &format!(r#"{{"aud":"{NAME}","#), 1);
    let inner = text.replacen(r#""active":true"#, r#""active":false,"active":true"#, 1);
    let cases = [
        ("plain JSON", Reply::json(&answer)),
        ("plain JSON under the type of signed answers", reply(answer.to_string())),
        ("a signed answer under the type of JSON", Reply::text(&*signed)),
        ("another media type", Reply::Answer(200, "application/jwt", signed.clone())),
        ("typ at+jwt", reply(typ("at+jwt".into()))),
        ("typ JWT", reply(typ("JWT".into()))),
        ("no typ", reply(typ(Value::Null))),
        ("a typ that begins alike", reply(typ("token-introspection+jwt2".into()))),
        ("alg none", reply(signer.sign(&"token-introspection+jwt".into(), "none", &text))),
        ("alg none, unsigned", reply(format!("{start}."))),
        ("another alg", reply(signer.sign(&"token-introspection+jwt".into(), "HS256", &text))),
        ("another's key", reply(stranger.answer(&good))),
        ("another payload", reply(twice("eyJhY3RpdmUiOnRydWV9"))),
        ("a foreign iss", reply(with("iss", "https://evil.example".into()))),
        ("an iss that is almost ours", reply(with("iss", "https://issuer.example/".into()))),
        ("no iss", reply(with("iss", Value::Null))),
        ("a foreign aud", reply(with("aud", "other-api".into()))),
        ("the audience of tokens", reply(with("aud", API.into()))),
        ("no aud", reply(with("aud", Value::Null))),
        ("two aud", reply(raw(&doubled))),
        ("no iat", reply(with("iat", Value::Null))),
        ("an iat of the wrong type", reply(with("iat", "now".into()))),
        ("too old", reply(with("iat", scene.in_seconds(-91).into()))),
        ("from the future", reply(with("iat", scene.in_seconds(37).into()))),
        ("nothing inside", reply(with("token_introspection", Value::Null))),
        ("a text inside", reply(with("token_introspection", answer.to_string().into()))),
        ("a list inside", reply(with("token_introspection", json!([answer])))),
        ("active twice inside", reply(raw(&inner))),
        ("no active inside", reply(with("token_introspection", json!({ "sub": "user-1" })))),
        ("an active beside it", reply(with("active", true.into()).replace('.', ".."))),
        ("the empty text", reply(String::new())),
    ];
    for (n, (what, reply)) in cases.into_iter().enumerate() {
        scene.endpoint.reply(reply);
        let said = scene.api.says(&format!("token-{n}")).await;
        assert_eq!(said, unavailable(), "OPAQUE-50, OPAQUE-52: {what}");
    }
    for (token, iat) in [("old", -89), ("young", 34)] {
        scene.endpoint.reply(reply(with("iat", scene.in_seconds(iat).into())));
        assert_eq!(scene.api.says(token).await, ok(), "OPAQUE-52: {token}");
    }
}

#[tokio::test]
async fn what_a_signed_answer_says_of_the_token_is_checked_as_ever() {
    let signer = Signer::new("1");
    let scene = scene(signer.keys());
    for (token, members, reason) in [
        ("aud", json!({ "aud": "https://other.example" }), "wrong_audience"),
        ("iss", json!({ "iss": "https://evil.example" }), "wrong_issuer"),
        ("type", json!({ "token_type": "DPoP" }), "sender_constrained"),
    ] {
        let answer = active(&scene.clock, members);
        scene.endpoint.reply(reply(signer.answer(&payload(&scene, &answer))));
        assert_eq!(scene.api.says(token).await, invalid(), "OPAQUE-52: {token}");
        assert_eq!(scene.api.reason(), reason, "OPAQUE-52: {token}");
    }
}

#[tokio::test]
async fn a_signed_answer_is_no_access_token() {
    let signer = Signer::new("1");
    let scene = Scene::new();
    let mut answer = payload(&scene, &active(&scene.clock, json!({})));
    for (name, value) in [("aud", json!(API)), ("sub", json!("user-1")), ("jti", json!("1"))] {
        answer[name] = value;
    }
    answer["client_id"] = "web".into();
    answer["exp"] = scene.in_seconds(60).into();
    let build = |plain: bool| {
        let verifier = JwtVerifier::builder().issuer(ISSUER).audience(API).with_keys(signer.keys());
        let verifier = if plain { verifier.accept_plain_jwt() } else { verifier };
        Api::new(verifier.build().unwrap(), &scene.clock)
    };
    for plain in [false, true] {
        assert_eq!(build(plain).says(&signer.answer(&answer)).await, invalid(), "OPAQUE-51");
        let token = signer.sign(&"at+jwt".into(), "EdDSA", &answer.to_string());
        assert_eq!(build(false).says(&token).await, ok(), "only its type makes the difference");
    }
}

#[tokio::test]
async fn keys_of_answers_are_fetched_and_a_withdrawn_one_takes_its_answers_with_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let document = Arc::new(Mutex::new(old.jwks()));
    let served = document.clone();
    let fetch = move |_: FetchRequest| {
        let body = Bytes::from(served.lock().unwrap().clone());
        async { Ok::<_, FetchError>(Response::new(body)) }
    };
    let jwks = Jwks::at("https://issuer.example/keys", fetch).unwrap().start().unwrap();
    jwks.ready().await.unwrap();
    let scene = scene(&jwks);
    let answer = active(&scene.clock, json!({}));
    scene.endpoint.reply(reply(old.answer(&payload(&scene, &answer))));
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-52");
    assert_eq!(scene.api.says("token").await, ok());
    assert_eq!(scene.endpoint.asked(), 1);

    new.jwks().clone_into(&mut document.lock().unwrap());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    scene.endpoint.reply(reply(new.answer(&payload(&scene, &answer))));
    assert_eq!(scene.api.says("other").await, ok(), "an unknown key is fetched for");
    assert_eq!(jwks.fetches(), 2);
    scene.endpoint.reply(reply(old.answer(&payload(&scene, &answer))));
    assert_eq!(scene.api.says("token").await, unavailable(), "attack 23: its key is gone");
    assert_eq!(scene.endpoint.asked(), 3, "attack 23: it is not answered from memory");
}

#[tokio::test]
async fn a_plain_verifier_takes_no_signed_answer() {
    let signer = Signer::new("1");
    let scene = Scene::new();
    let answer = active(&scene.clock, json!({}));
    scene.endpoint.reply(reply(signer.answer(&payload(&scene, &answer))));
    let api = Api::new(builder(&scene.endpoint.url()).build().unwrap(), &scene.clock);
    assert_eq!(api.says("token").await, unavailable(), "OPAQUE-34");
}
