//! What a caller may do, asked of tokens as issuers sign them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tower::{Layer, ServiceBuilder};
use tower_gate::authenticate::Authenticate;
use tower_gate::require_scope::RequireScope;
use tower_gate::test_util::{TestIssuer, TestToken};
use tower_gate::{AuthenticateLayer, Clock, ManualClock, RequireScopeLayer, Requirement, Scope};

use crate::every_refusal;
use crate::support::{Answer, Probe, anonymous, send, with_token};

/// A route with this requirement.
fn route(issuer: &TestIssuer, requirement: Requirement) -> Authenticate<RequireScope<Probe>> {
    let require = RequireScopeLayer::new(requirement);
    AuthenticateLayer::new(issuer.verifier()).layer(require.layer(Probe::default()))
}

/// The answer of a route with this requirement to a token made so.
async fn ask(requirement: Requirement, token: impl Fn(TestToken<'_>) -> TestToken<'_>) -> Answer {
    let issuer = every_refusal::issuer();
    let token = token(issuer.token("user-1")).sign();
    send(&route(&issuer, requirement), with_token(&token)).await
}

/// The outcome in short: `allowed`, or the word of the refusal.
fn word(answer: &Answer) -> String {
    if answer.status == 200 { "allowed".to_owned() } else { answer.error() }
}

#[tokio::test]
async fn a_scope_is_granted_by_its_exact_name_alone() {
    let granting = [json!("read"), json!("write read"), json!("  write   read  ")];
    for scope in granting {
        let answer = ask(Requirement::scope("read"), |token| token.claim("scope", &scope)).await;
        assert_eq!(word(&answer), "allowed", "JWT-39: {scope}");
    }
    let others = [
        json!(""),
        json!("READ"),
        json!("ｒead"),
        json!("read\u{0}"),
        json!("read\t"),
        json!("read\nwrite"),
        json!("\u{feff}read"),
        json!("rea"),
        json!("readall"),
        json!("read:all"),
        json!("read,write"),
        json!("read;write"),
        json!("\"read\""),
        json!("[\"read\"]"),
        json!("*"),
        json!("read*"),
        json!("read:*"),
        json!("re%61d"),
        json!(["read"]),
        json!({ "read": true }),
        json!(true),
        json!(1),
    ];
    for scope in others {
        let answer = ask(Requirement::scope("read"), |token| token.claim("scope", &scope)).await;
        assert_eq!(word(&answer), "insufficient_scope", "attack 39: {scope}");
        assert_eq!(answer.status, 403, "attack 39: {scope}");
    }
}

#[tokio::test]
async fn a_token_without_scopes_grants_none() {
    let elsewhere = [
        ("nothing", Value::Null),
        ("scp", json!(["read"])),
        ("scopes", json!("read")),
        ("Scope", json!("read")),
        ("permissions", json!(["read"])),
    ];
    for (claim, value) in elsewhere {
        let answer = ask(Requirement::scope("read"), |token| token.claim(claim, &value)).await;
        assert_eq!(word(&answer), "insufficient_scope", "attack 40: {claim}");
    }
}

#[tokio::test]
async fn a_refusal_names_every_scope_that_the_request_needs() {
    let requirement = || Requirement::scopes(["read", "write"]);
    let answer = ask(requirement(), |token| token.scopes("read")).await;
    assert_eq!(answer.status, 403, "BEARER-32");
    let message = "the token lacks a scope; get one with the scopes that the challenge names";
    let challenge = format!(
        "Bearer realm=\"api\", error=\"insufficient_scope\", error_description=\"{message}\", \
         scope=\"read write\""
    );
    assert_eq!(answer.header("www-authenticate"), challenge, "BEARER-31");
    assert_eq!(answer.header("cache-control"), "no-store", "BEARER-70");
    let body = json!({
        "error": "insufficient_scope",
        "message": message,
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "scope": "read write",
    });
    assert_eq!(answer.json(), body, "BEARER-60, 61");
    let answer = ask(requirement(), |token| token.scopes("write read")).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"user-1"[..]));
}

#[tokio::test]
async fn an_anonymous_caller_is_asked_for_a_token_with_the_scopes() {
    let authenticate = AuthenticateLayer::new(every_refusal::issuer().verifier()).optional();
    let require = RequireScopeLayer::all_scopes(["read", "write"]);
    let service = authenticate.layer(require.layer(Probe::default()));
    let answer = send(&service, anonymous()).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "missing_token"));
    let challenge = "Bearer realm=\"api\", scope=\"read write\"";
    assert_eq!(answer.header("www-authenticate"), challenge, "BEARER-8: no error");
}

#[tokio::test]
async fn requirements_combine() {
    let read = || Requirement::scope("read");
    let delete = || Requirement::scope("delete");
    let role = Requirement::role;
    let cases = [
        (Requirement::all([]), "allowed"),
        (Requirement::any([]), "forbidden"),
        (read(), "allowed"),
        (Requirement::from("read".parse::<Scope>().unwrap()), "allowed"),
        (delete(), "insufficient_scope"),
        (role("editor"), "allowed"),
        (role("admin"), "forbidden"),
        (role("Editor"), "forbidden"),
        (role("edit"), "forbidden"),
        (role(""), "forbidden"),
        (Requirement::not(role("suspended")), "allowed"),
        (Requirement::not(role("editor")), "forbidden"),
        (Requirement::not(read()), "forbidden"),
        (Requirement::not(Requirement::not(read())), "allowed"),
        (Requirement::any([role("admin"), read()]), "allowed"),
        (Requirement::any([role("admin"), delete()]), "insufficient_scope"),
        (Requirement::any([delete(), role("admin")]), "insufficient_scope"),
        (read().and(role("editor")), "allowed"),
        (read().and(role("admin")), "forbidden"),
        (delete().and(role("admin")), "forbidden"),
        (delete().and(role("editor")), "insufficient_scope"),
        (read().and(delete()), "insufficient_scope"),
        (Requirement::all([read(), Requirement::any([delete(), role("editor")])]), "allowed"),
        (read().and(Requirement::not(role("editor"))), "forbidden"),
        (Requirement::acr(["mfa"]), "insufficient_user_authentication"),
        (Requirement::acr(["mfa"]).and(delete()), "insufficient_scope"),
        (Requirement::acr(["mfa"]).and(role("admin")), "forbidden"),
    ];
    for (requirement, expected) in cases {
        let description = format!("{requirement:?}");
        let answer = ask(requirement, |token| token.scopes("read").roles(["editor"])).await;
        assert_eq!(word(&answer), expected, "{description}");
        let status = match expected {
            "allowed" => 200,
            "insufficient_user_authentication" => 401,
            _ => 403,
        };
        assert_eq!(answer.status, status, "BEARER-32: {description}");
    }
}

#[tokio::test]
async fn a_role_is_not_a_scope_nor_a_scope_a_role() {
    let answer = ask(Requirement::role("admin"), |token| token.scopes("admin")).await;
    assert_eq!(word(&answer), "forbidden");
    assert!(!answer.header("www-authenticate").contains("error"), "no token helps");
    let answer = ask(Requirement::scope("admin"), |token| token.roles(["admin"])).await;
    assert_eq!(word(&answer), "insufficient_scope");
    for roles in [json!("admin"), json!({ "admin": true }), json!(["admin", 1])] {
        let answer = ask(Requirement::role("admin"), |token| token.claim("roles", &roles)).await;
        assert_eq!(word(&answer), "forbidden", "JWT-39: {roles}");
    }
}

#[tokio::test]
async fn requirements_of_layers_add_up() {
    let issuer = every_refusal::issuer();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = ServiceBuilder::new()
        .layer(AuthenticateLayer::new(issuer.verifier()))
        .layer(RequireScopeLayer::scope("read"))
        .layer(RequireScopeLayer::scope("write"))
        .map_request(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            request
        })
        .service(Probe::default());
    for (scopes, expected) in [
        ("", "insufficient_scope"),
        ("read", "insufficient_scope"),
        ("write", "insufficient_scope"),
        ("read write", "allowed"),
    ] {
        let token = issuer.token("user-1").scopes(scopes).sign();
        let answer = send(&service, with_token(&token)).await;
        assert_eq!(word(&answer), expected, "attack 34: {scopes:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "BEARER-34: a refusal never gets to the handler");
}

#[tokio::test]
async fn a_weak_login_is_told_which_ones_are_strong_enough() {
    let strong = || Requirement::acr(["urn:mfa", "urn:hw"]);
    for acr in ["urn:mfa", "urn:hw"] {
        let answer = ask(strong(), |token| token.claim("acr", acr)).await;
        assert_eq!(word(&answer), "allowed", "BEARER-50: {acr}");
    }
    let weak =
        [json!("urn:low"), json!("URN:MFA"), json!("urn:mfa urn:hw"), json!(""), json!(null)];
    for acr in weak {
        let answer = ask(strong(), |token| token.claim("acr", &acr)).await;
        assert_eq!(answer.status, 401, "BEARER-50, 51: {acr}");
        assert_eq!(word(&answer), "insufficient_user_authentication", "BEARER-50, 51: {acr}");
        let message =
            "this needs a stronger or a more recent login; log in again as the challenge says";
        let challenge = format!(
            "Bearer realm=\"api\", error=\"insufficient_user_authentication\", \
             error_description=\"{message}\", acr_values=\"urn:mfa urn:hw\""
        );
        assert_eq!(answer.header("www-authenticate"), challenge, "BEARER-50");
    }
}

#[tokio::test]
async fn a_login_grows_too_old_as_time_passes() {
    let issuer = every_refusal::issuer();
    let clock = ManualClock::default();
    let payout = Requirement::scope("pay").and(Requirement::max_age(Duration::from_secs(300)));
    let require = RequireScopeLayer::new(payout).with_clock(clock.clone());
    let service = AuthenticateLayer::new(issuer.verifier())
        .with_clock(clock.clone())
        .layer(require.layer(Probe::default()));
    let login = clock.now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let token = issuer.token("user-1").scopes("pay").claim("auth_time", login).sign();
    let answer = send(&service, with_token(&token)).await;
    assert_eq!(word(&answer), "allowed", "BEARER-50");
    clock.advance(Duration::from_millis(299_900));
    let answer = send(&service, with_token(&token)).await;
    assert_eq!(word(&answer), "allowed", "BEARER-50: a tenth of a second left");
    clock.advance(Duration::from_millis(200));
    let answer = send(&service, with_token(&token)).await;
    assert_eq!((answer.status.as_u16(), word(&answer).as_str()), STEP_UP, "BEARER-50");
    assert!(answer.header("www-authenticate").ends_with(", max_age=\"300\""), "BEARER-50");
}

const STEP_UP: (u16, &str) = (401, "insufficient_user_authentication");

#[tokio::test]
async fn a_login_at_an_unknown_time_is_too_old_and_one_of_a_fast_clock_is_fresh() {
    let recent = || Requirement::max_age(Duration::from_secs(300));
    let answer = ask(recent(), |token| token).await;
    assert_eq!((answer.status.as_u16(), word(&answer).as_str()), STEP_UP, "BEARER-51");
    let now = ManualClock::default().now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (auth_time, expected) in [
        (json!(now + 20), "allowed"),
        (json!(0), STEP_UP.1),
        (json!(-1), STEP_UP.1),
        // JWT-32: a claim of the wrong type is never as good as none.
        (json!(now.to_string()), "invalid_token"),
        (json!([now]), "invalid_token"),
    ] {
        let answer = ask(recent(), |token| token.claim("auth_time", &auth_time)).await;
        assert_eq!(word(&answer), expected, "BEARER-51: {auth_time}");
    }
}

#[tokio::test]
async fn the_strictest_age_and_every_class_are_asked_for() {
    let seconds = Duration::from_secs;
    let both = Requirement::all([
        Requirement::max_age(seconds(600)),
        Requirement::max_age(seconds(60)),
        Requirement::acr(["mfa"]),
    ]);
    let answer = ask(both, |token| token).await;
    let challenge = answer.header("www-authenticate");
    assert!(challenge.ends_with("acr_values=\"mfa\", max_age=\"60\""), "BEARER-50: {challenge}");
}

#[tokio::test]
async fn a_stranger_learns_nothing_of_what_a_route_requires() {
    let (issuer, impostor) = (every_refusal::issuer(), every_refusal::issuer());
    let strict = Requirement::scope("pay")
        .and(Requirement::acr(["mfa"]))
        .and(Requirement::max_age(Duration::from_secs(60)));
    let service = route(&issuer, strict);
    let expired = issuer.token("user-1").lifetime(Duration::ZERO);
    let expired = expired.issued_at(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).sign();
    for (token, expected) in [
        ("garbage", "invalid_token"),
        (&impostor.token("user-1").scopes("pay").sign(), "invalid_token"),
        (&expired, "token_expired"),
    ] {
        let answer = send(&service, with_token(token)).await;
        assert_eq!(word(&answer), expected, "BEARER-52");
        let challenge = answer.header("www-authenticate");
        for parameter in ["scope=", "acr_values=", "max_age=", "pay", "mfa"] {
            assert!(!challenge.contains(parameter), "BEARER-52: {challenge}");
        }
    }
}
