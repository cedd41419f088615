//! What the endpoint answers, and what becomes of it.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};
use tower_gate::TokenKind;

use crate::endpoint::{Endpoint, Reply};
use crate::scene::{API, ISSUER, Scene, active, inactive, invalid, ok, unavailable};

#[tokio::test]
async fn only_the_literal_true_is_active() {
    let scene = Scene::new();
    let good = format!(r#""sub":"user-1","aud":"{API}""#);
    scene.endpoint.reply(Reply::text(format!(r#"{{"active":true,{good}}}"#)));
    assert_eq!(scene.api.says("good").await, ok(), "OPAQUE-30");
    scene.endpoint.reply(Reply::text(format!(r#"{{"active":false,{good}}}"#)));
    assert_eq!(scene.api.says("bad").await, invalid(), "OPAQUE-30");
    assert_eq!(scene.api.reason(), "unknown_token");
    let no_answers = [
        format!(r#"{{"active":"true",{good}}}"#),
        format!(r#"{{"active":"false",{good}}}"#),
        format!(r#"{{"active":1,{good}}}"#),
        format!(r#"{{"active":null,{good}}}"#),
        format!(r#"{{"active":[true],{good}}}"#),
        format!(r#"{{"Active":true,{good}}}"#),
        format!("{{{good}}}"),
        format!(r#"{{"active":false,"active":true,{good}}}"#),
        format!(r#"{{"active":true,"\u0061ctive":true,{good}}}"#),
        format!(r#"{{"active":true,"x":{{"a":1,"a":2}},{good}}}"#),
        format!(r#"[{{"active":true,{good}}}]"#),
        format!(r#"{{"active":true,{good}}} {{}}"#),
        format!(r#"{{"active":true,{good}"#),
        format!(r#"{{"active":true,{good},"x":{}1{}}}"#, "[".repeat(99), "]".repeat(99)),
        "true".to_owned(),
        "null".to_owned(),
        String::new(),
        "<html>active: true</html>".to_owned(),
    ];
    for (n, body) in no_answers.into_iter().enumerate() {
        scene.endpoint.reply(Reply::text(&*body));
        let said = scene.api.says(&format!("token-{n}")).await;
        assert_eq!(said, unavailable(), "OPAQUE-30, attack 25: {body}");
        assert_eq!(scene.api.reason(), "verifier_unavailable", "{body}");
    }
}

#[tokio::test]
async fn whatever_is_no_answer_says_nothing_about_the_token() {
    let scene = Scene::with(|builder| builder.with_timeout(Duration::from_millis(300)));
    let body = || format!(r#"{{"active":true,"sub":"user-1","aud":"{API}"}}"#);
    let elsewhere = Endpoint::start(Reply::text(body()));
    let mut replies = vec![
        Reply::Answer(200, "text/html", "<html>please log in</html>".into()),
        Reply::Answer(200, "text/html", body()),
        Reply::Answer(200, "", body()),
        Reply::Answer(200, "application/token-introspection+jwt", body()),
        Reply::Cut,
        Reply::text(format!(r#"{{"active":true,"x":"{}"}}"#, "x".repeat(64 * 1024))),
    ];
    replies.extend([301, 302, 303, 307, 308].map(|code| Reply::Redirect(code, elsewhere.url())));
    let statuses = [201, 202, 204, 206, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504];
    replies.extend(statuses.map(|status| {
        let body = if status == 204 { String::new() } else { body() };
        Reply::Answer(status, "application/json", body)
    }));
    // The last: whoever comes next is not held up.
    replies.push(Reply::Hang);
    let mut asked = 0;
    for (n, reply) in replies.into_iter().enumerate() {
        scene.endpoint.reply(reply.clone());
        let answer = scene.api.get(&format!("token-{n}")).await;
        // Nothing of the answer has come when its connection is closed.
        asked += if matches!(reply, Reply::Cut) { 2 } else { 1 };
        let what = format!("OPAQUE-23, OPAQUE-34, attack 25: {reply:?}");
        assert_eq!(answer.status, 503, "{what}");
        assert_eq!(answer.error(), "temporarily_unavailable", "{what}");
        assert_eq!(answer.header("retry-after"), "5", "{what}");
        assert_eq!(answer.header("www-authenticate"), "", "no challenge of anybody's: {what}");
        assert_eq!(scene.endpoint.asked(), asked, "no other question is repeated: {what}");
    }
    assert_eq!(elsewhere.asked(), 0, "OPAQUE-23: redirects are not followed");
}

#[tokio::test]
async fn an_answer_of_the_greatest_size_is_read() {
    let scene = Scene::new();
    let start = format!(r#"{{"active":true,"sub":"user-1","aud":"{API}","x":""#);
    let rest = "x".repeat(64 * 1024 - start.len() - 2);
    scene.endpoint.reply(Reply::text(format!("{start}{rest}\"}}")));
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-23: 64 KiB are read");
}

#[derive(Deserialize)]
struct Custom {
    tenant: u32,
    username: String,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[tokio::test]
async fn the_whole_answer_becomes_the_principal() {
    let scene = Scene::new();
    let (iat, exp) = (scene.in_seconds(-60), scene.in_seconds(600));
    scene.answers(json!({
        "scope": "read:reports write:reports", "client_id": "web", "username": "jdoe",
        "token_type": "bearer", "exp": exp, "iat": iat, "nbf": iat, "sub": "Z5O3upPC88QrAjx00dis",
        "aud": ["https://other.example", API], "iss": ISSUER, "jti": "id-1", "acr": "2",
        "auth_time": iat, "roles": ["editor"], "act": { "sub": "somebody" }, "tenant": 7,
    }));
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-31");
    let principal = scene.api.principal();
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap());
    assert_eq!(principal.issuer(), ISSUER, "OPAQUE-31");
    assert_eq!(principal.subject(), "Z5O3upPC88QrAjx00dis", "OPAQUE-31");
    assert_eq!(principal.client(), Some("web"), "OPAQUE-31");
    assert_eq!(principal.scopes().as_str(), "read:reports write:reports", "OPAQUE-31");
    assert!(principal.has_role("editor"), "OPAQUE-31");
    assert_eq!(principal.token_kind(), TokenKind::Opaque);
    assert_eq!(principal.token_id(), Some("id-1"), "OPAQUE-31");
    assert_eq!(principal.issued_at(), Some(time(iat)), "OPAQUE-31");
    assert_eq!(principal.expires_at(), Some(time(exp)), "OPAQUE-31");
    assert_eq!(principal.acr(), Some("2"), "OPAQUE-31");
    assert_eq!(principal.auth_time(), Some(time(iat)), "OPAQUE-31");
    assert!(!principal.is_stale());
    let custom: Custom = principal.claims().unwrap();
    assert_eq!((custom.tenant, custom.username.as_str()), (7, "jdoe"), "OPAQUE-31");
    assert_eq!(custom.others["act"]["sub"], "somebody", "OPAQUE-31");
}

#[tokio::test]
async fn the_least_answer_is_enough_and_names_the_configured_issuer() {
    let scene = Scene::new();
    scene.endpoint.reply(Reply::json(&json!({ "active": true, "sub": "user-1", "aud": API })));
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-31");
    let principal = scene.api.principal();
    assert_eq!((principal.issuer(), principal.expires_at()), (ISSUER, None));
    assert!(principal.scopes().is_empty(), "attack 40: no scope is no scope");
}

#[tokio::test]
async fn what_an_active_answer_says_is_checked_all_the_same() {
    let scene = Scene::new();
    let at = |seconds| scene.in_seconds(seconds);
    let cases = [
        (json!({ "exp": at(-29) }), 200, "ok", "none"),
        (json!({ "exp": at(-30) }), 401, "token_expired", "expired"),
        (json!({ "exp": 0 }), 401, "token_expired", "expired"),
        (json!({ "exp": -1 }), 401, "token_expired", "expired"),
        (json!({ "exp": at(400 * 86_400) }), 200, "ok", "none"),
        (json!({ "nbf": at(30) }), 200, "ok", "none"),
        (json!({ "nbf": at(32) }), 401, "token_not_active", "not_active"),
        (json!({ "iat": at(32) }), 401, "invalid_token", "invalid_claims"),
        (json!({ "aud": "https://api.evil" }), 401, "invalid_token", "wrong_audience"),
        (json!({ "aud": "https://api.example/" }), 401, "invalid_token", "wrong_audience"),
        (json!({ "aud": "https://api.exampl" }), 401, "invalid_token", "wrong_audience"),
        (json!({ "aud": ["https://api.evil", "b"] }), 401, "invalid_token", "wrong_audience"),
        (json!({ "aud": ["b", API] }), 200, "ok", "none"),
        (json!({ "aud": [] }), 401, "invalid_token", "missing_claim"),
        (json!({ "aud": null }), 401, "invalid_token", "missing_claim"),
        (json!({ "iss": "https://issuer.example/" }), 401, "invalid_token", "wrong_issuer"),
        (json!({ "iss": "https://evil.example" }), 401, "invalid_token", "wrong_issuer"),
        (json!({ "iss": null }), 200, "ok", "none"),
        (json!({ "sub": null }), 401, "invalid_token", "missing_claim"),
        (json!({ "sub": "" }), 401, "invalid_token", "missing_claim"),
        (json!({ "sub": null, "client_id": "user-1" }), 401, "invalid_token", "missing_claim"),
    ];
    for (n, (members, status, word, reason)) in cases.into_iter().enumerate() {
        let what = format!("OPAQUE-32, attack 25: {members}");
        scene.answers(members);
        let said = scene.api.says(&format!("token-{n}")).await;
        assert_eq!(said, (status, word.to_owned()), "{what}");
        assert_eq!(scene.api.reason(), reason, "{what}");
    }
}

#[tokio::test]
async fn an_authentic_token_that_is_over_names_its_holder_in_the_audit_event() {
    let scene = Scene::new();
    scene.answers(json!({ "exp": scene.in_seconds(-60) }));
    for times in ["asked", "remembered"] {
        assert_eq!(scene.api.says("token").await, (401, "token_expired".into()), "{times}");
        assert_eq!(scene.api.principal().subject(), "user-1", "{times}");
    }
    assert_eq!(scene.endpoint.asked(), 1, "OPAQUE-36");
}

#[tokio::test]
async fn a_registered_member_of_the_wrong_type_makes_it_no_answer() {
    let scene = Scene::new();
    let wrong = [
        json!({ "exp": "9999999999" }),
        json!({ "exp": [1] }),
        json!({ "nbf": true }),
        json!({ "iat": {} }),
        json!({ "sub": 1 }),
        json!({ "aud": { "a": API } }),
        json!({ "aud": [API, 1] }),
        json!({ "iss": [ISSUER] }),
        json!({ "client_id": 7 }),
        json!({ "jti": 7 }),
        json!({ "token_type": ["Bearer"] }),
        json!({ "token_type": false }),
        json!({ "token_use": 1 }),
        json!({ "typ": {} }),
    ];
    for (n, members) in wrong.into_iter().enumerate() {
        let what = format!("attack 10, attack 25: {members}");
        scene.answers(members);
        assert_eq!(scene.api.says(&format!("token-{n}")).await, unavailable(), "{what}");
    }
}

#[tokio::test]
async fn an_inactive_answer_is_one_whatever_else_it_says() {
    let scene = Scene::new();
    let nulls = json!({ "active": false, "token_type": null, "exp": null, "sub": null, "aud": 1 });
    scene.endpoint.reply(Reply::json(&nulls));
    assert_eq!(scene.api.says("token").await, invalid(), "OPAQUE-30");
}

#[tokio::test]
async fn only_an_access_token_that_its_bearer_may_use_is_accepted() {
    let scene = Scene::new();
    let jkt = json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" });
    let cases = [
        (json!({ "token_type": null }), "none"),
        (json!({ "token_type": "bearer" }), "none"),
        (json!({ "token_type": "BEARER" }), "none"),
        (json!({ "token_type": "DPoP" }), "sender_constrained"),
        (json!({ "token_type": "dpop", "cnf": jkt }), "sender_constrained"),
        (json!({ "cnf": jkt }), "sender_constrained"),
        (
            json!({ "cnf": { "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" } }),
            "sender_constrained",
        ),
        (json!({ "cnf": {} }), "sender_constrained"),
        (json!({ "token_type": "N_A" }), "wrong_type"),
        (json!({ "token_type": "refresh_token" }), "wrong_type"),
        (json!({ "token_type": "" }), "wrong_type"),
        (json!({ "token_use": "access_token" }), "none"),
        (json!({ "token_use": "access" }), "none"),
        (json!({ "token_use": "refresh_token" }), "wrong_type"),
        (json!({ "token_use": "id" }), "wrong_type"),
        (json!({ "typ": "Bearer" }), "none"),
        (json!({ "typ": "at+jwt" }), "none"),
        (json!({ "typ": "ID" }), "wrong_type"),
        (json!({ "typ": "Refresh" }), "wrong_type"),
        (json!({ "typ": "Offline" }), "wrong_type"),
        (json!({ "nonce": "n-0S6_WzA2Mj" }), "wrong_type"),
        (json!({ "at_hash": "x" }), "wrong_type"),
        (json!({ "events": {} }), "wrong_type"),
    ];
    for (n, (members, reason)) in cases.into_iter().enumerate() {
        let what = format!("OPAQUE-33, attack 13, attack 25: {members}");
        scene.answers(members);
        let expected = if reason == "none" { ok() } else { invalid() };
        assert_eq!(scene.api.says(&format!("token-{n}")).await, expected, "{what}");
        assert_eq!(scene.api.reason(), reason, "{what}");
    }
}

#[tokio::test]
async fn a_missing_audience_is_accepted_only_on_demand_and_a_foreign_one_never() {
    let scene = Scene::with(|builder| {
        builder.accept_missing_audience().with_audience("https://api.example/v2")
    });
    for (token, audience, expected) in [
        ("none", json!(null), ok()),
        ("ours", json!(API), ok()),
        ("other-of-ours", json!(["https://api.example/v2"]), ok()),
        ("foreign", json!("https://other.example"), invalid()),
    ] {
        scene.answers(json!({ "aud": audience }));
        assert_eq!(scene.api.says(token).await, expected, "OPAQUE-32: {token}");
    }
}

#[tokio::test]
async fn scopes_and_roles_are_read_where_the_issuer_puts_them() {
    let scene = Scene::with(|builder| {
        builder.with_scopes_at(["scp"]).with_roles_at(["realm_access", "roles"])
    });
    scene.answers(json!({
        "scope": "admin", "scp": ["read", "list all"], "realm_access": { "roles": ["editor"] },
    }));
    assert_eq!(scene.api.says("token").await, ok());
    let principal = scene.api.principal();
    assert_eq!(principal.scopes().as_str(), "read", "attack 39");
    assert_eq!(principal.roles().collect::<Vec<_>>(), ["editor"]);
}

/// What the client sees does not tell why a token was not accepted.
#[tokio::test]
async fn tokens_that_are_unknown_and_foreign_read_alike() {
    let scene = Scene::new();
    let foreign = active(&scene.clock, json!({ "aud": "https://other.example" }));
    let bound = active(&scene.clock, json!({ "token_type": "DPoP" }));
    let mut bodies = Vec::new();
    for (n, reply) in [inactive(), Reply::json(&foreign), Reply::json(&bound)].iter().enumerate() {
        scene.endpoint.reply(reply.clone());
        let answer = scene.api.get(&format!("token-{n}")).await;
        assert_eq!(answer.status, 401);
        bodies.push((answer.header("www-authenticate").to_owned(), answer.body));
    }
    assert_eq!(bodies[0], bodies[1], "OPAQUE-16");
    assert_eq!(bodies[0], bodies[2], "OPAQUE-16");
}
