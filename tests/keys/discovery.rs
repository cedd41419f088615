//! Finding the keys by the issuer's name.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::json;
use tokio::time::sleep;
use tower_gate::fetch::{Fetch, FetchRequest, ReqwestFetch};
use tower_gate::verifier::introspection::{IntrospectionVerifier, InvalidIntrospection};
use tower_gate::verifier::jwks::{InvalidJwks, Jwks, JwksBuilder};
use tower_gate::verifier::jwt::{InvalidConfig, JwtVerifier, preset};

use crate::gate::{AUDIENCE, Gate, claims, verifier};
use crate::issuer::{Issuer, JWKS, Reply};
use crate::lifetime::Log;
use crate::memory::{MemoryIssuer, NAME};
use crate::signer::{Signer, jwks};

const INSERTED: &str = "/.well-known/openid-configuration/t1";
const APPENDED: &str = "/t1/.well-known/openid-configuration";
const OAUTH: &str = "/.well-known/oauth-authorization-server/t1";

fn discover(issuer: &str) -> Result<JwksBuilder, InvalidJwks> {
    Jwks::discover(issuer, ReqwestFetch::new().unwrap())
}

#[tokio::test]
async fn metadata_is_asked_for_in_the_order_of_rfc_8414_until_one_answers() {
    let signer = Signer::new("a");
    for (path, served, asked) in [
        ("/t1", INSERTED, &[INSERTED, JWKS][..]),
        ("/t1", APPENDED, &[INSERTED, APPENDED, JWKS]),
        ("/t1", OAUTH, &[INSERTED, APPENDED, OAUTH, JWKS]),
        // A slash at the end is part of the name, and not of the place.
        ("/t1/", APPENDED, &[INSERTED, APPENDED, JWKS]),
        (
            "",
            "/.well-known/oauth-authorization-server",
            &["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", JWKS],
        ),
    ] {
        let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
        let name = issuer.url(path);
        issuer.serve_metadata(served, &name);
        let keys = discover(&name).unwrap().start().unwrap();
        let api = Gate::new(verifier(&name, &keys)).serve().await;
        let answer = api.get(&signer.token(&claims(&name, "user-1"))).await;
        assert_eq!(answer.text, "200 user-1", "JWT-61, JWT-62, JWT-63: {path} {served}");
        assert_eq!(issuer.asked(), asked, "JWT-61, JWT-62, JWT-63: {path} {served}");
    }
}

#[tokio::test]
async fn the_metadata_may_have_an_address_of_its_own() {
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    issuer.serve_metadata("/meta?v=2".split('?').next().unwrap(), "https://issuer.example");
    let fetch = ReqwestFetch::new().unwrap();
    let url = issuer.url("/meta?v=2");
    let keys = Jwks::discover_at(&url, "https://issuer.example", fetch).unwrap().start().unwrap();
    let gate = Gate::new(verifier("https://issuer.example", &keys));
    let answer = gate.get(&signer.token(&claims("https://issuer.example", "user-1"))).await;
    assert_eq!(answer.text, "200 user-1", "JWT-63");
    assert_eq!(issuer.asked(), ["/meta", JWKS], "JWT-63: nowhere else");
}

#[tokio::test]
async fn metadata_of_another_issuer_is_not_used() {
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    let name = issuer.url("/t1");
    let token = signer.token(&claims(&name, "user-1"));
    let keys_at = |uri: &str| json!({ "issuer": name, "jwks_uri": uri });
    for metadata in [
        json!({ "issuer": format!("{name}/"), "jwks_uri": issuer.url(JWKS) }),
        json!({ "issuer": issuer.url("/T1"), "jwks_uri": issuer.url(JWKS) }),
        json!({ "issuer": name.replace("127.0.0.1", "localhost"), "jwks_uri": issuer.url(JWKS) }),
        json!({ "issuer": "https://evil.example", "jwks_uri": issuer.url(JWKS) }),
        json!({ "issuer": [name], "jwks_uri": issuer.url(JWKS) }),
        json!({ "jwks_uri": issuer.url(JWKS) }),
        json!({ "issuer": name }),
        json!([]),
        keys_at("http://issuer.example/jwks.json"),
        keys_at("http://10.0.0.1/jwks.json"),
        keys_at("file:///etc/passwd"),
        keys_at("/jwks.json"),
        keys_at(""),
    ] {
        for path in [INSERTED, APPENDED, OAUTH] {
            issuer.serve(path, Reply::json(&metadata));
        }
        let keys = discover(&name).unwrap().start().unwrap();
        assert!(keys.ready().await.is_err(), "JWT-60, JWT-64, attack 21: {metadata}");
        let api = Gate::new(verifier(&name, &keys)).serve().await;
        api.get(&token).await.is_outage(&format!("JWT-60, JWT-64, attack 21: {metadata}"));
    }
    assert_eq!(issuer.count(JWKS), 0, "JWT-60: nothing of it is used");
}

#[tokio::test]
async fn a_host_that_answers_every_path_hides_no_metadata() {
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    let name = issuer.url("/t1");
    issuer.serve_metadata(OAUTH, &name);
    for useless in [
        Reply::page(),
        Reply::broken(),
        Reply::status(500),
        Reply::redirect("/"),
        Reply::json(&json!({ "issuer": issuer.name(), "jwks_uri": issuer.url("/evil.json") })),
    ] {
        issuer.serve(INSERTED, useless.clone());
        issuer.serve(APPENDED, useless);
        let keys = discover(&name).unwrap().start().unwrap();
        keys.ready().await.unwrap();
    }
    assert_eq!(issuer.count("/evil.json"), 0, "JWT-60: nothing of it is used");
    assert_eq!(issuer.count("/"), 0, "attack 20: no redirect is followed");
}

/// Of three failures, the operator is told of the one that says what is wrong.
#[tokio::test]
async fn an_issuer_that_spells_its_name_otherwise_is_told_from_one_that_is_not_there() {
    let issuer = Issuer::start().await;
    let name = issuer.url("/t1");
    issuer.serve_metadata(APPENDED, &format!("{name}/"));
    let keys = discover(&name).unwrap().start().unwrap();
    let error = keys.ready().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("another issuer") && cause.contains(APPENDED), "JWT-60: {cause}");
    assert_eq!(issuer.asked(), [INSERTED, APPENDED, OAUTH], "JWT-63");
}

/// Whoever is at the end of https chooses addresses, and this machine's own are not theirs.
#[tokio::test(start_paused = true)]
async fn metadata_from_afar_leads_to_no_service_of_this_machine() {
    for (uri, is_asked) in [
        ("http://127.0.0.1:8500/v1/kv/secret", false),
        ("http://localhost/jwks.json", false),
        ("https://keys.example/jwks.json", true),
    ] {
        let issuer = MemoryIssuer::new(&json!({ "issuer": "https://h", "jwks_uri": uri }));
        let keys = Jwks::discover("https://h", issuer.fetch()).unwrap().start().unwrap();
        assert!(keys.ready().await.is_err(), "{uri}");
        let asked = issuer.asked();
        assert_eq!(asked.iter().any(|asked| asked == uri), is_asked, "attack 21: {asked:?}");
    }
}

#[tokio::test]
async fn a_document_that_moved_is_found_again() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::with_keys(&jwks(&[&old])).await;
    let name = issuer.name();
    let metadata = "/.well-known/openid-configuration";
    issuer.serve_metadata(metadata, &name);
    let keys = discover(&name).unwrap().start().unwrap();
    let api = Gate::new(verifier(&name, &keys)).serve().await;
    assert_eq!(api.get(&old.token(&claims(&name, "user-1"))).await.text, "200 user-1");

    let moved = json!({ "issuer": name, "jwks_uri": issuer.url("/moved.json") });
    issuer.serve(metadata, Reply::json(&moved));
    issuer.serve("/moved.json", Reply::json(&jwks(&[&new])));
    issuer.serve(JWKS, Reply::status(410));
    api.get_until(&new.token(&claims(&name, "user-2")), "200 user-2").await;
    let asked = issuer.asked();
    assert_eq!(asked, [metadata, JWKS, JWKS, metadata, "/moved.json"], "one step at a time");
}

#[test]
fn what_cannot_work_is_refused_before_it_is_started() {
    let fetch = || ReqwestFetch::new().unwrap();
    for issuer in ["", "issuer.example", "http://issuer.example", "https://h/t1?x=1", "https://h#x"]
    {
        assert!(matches!(discover(issuer), Err(InvalidJwks::Url(_))), "JWT-60: {issuer}");
        let at = Jwks::discover_at("https://h/meta", issuer, fetch());
        assert!(matches!(at, Err(InvalidJwks::Url(_))), "JWT-60: {issuer}");
    }
    for url in ["http://issuer.example/keys", "https://u:p@issuer.example/keys", "ftp://127.0.0.1/"]
    {
        assert!(matches!(Jwks::at(url, fetch()), Err(InvalidJwks::Url(_))), "JWT-65: {url}");
        let at = Jwks::discover_at(url, "https://h", fetch());
        assert!(matches!(at, Err(InvalidJwks::Url(_))), "JWT-65: {url}");
    }
    let outside = Jwks::at("https://h/keys", fetch()).unwrap().start();
    assert_eq!(outside.unwrap_err(), InvalidJwks::NoRuntime);
}

/// Whoever has those keys could sign in the name of the verifier's issuer.
#[tokio::test]
async fn keys_that_were_discovered_for_another_issuer_make_no_verifier() {
    const TENANTS: &str = "https://login.microsoftonline.com/{tenantid}/v2.0";
    let tenant = preset::entra_id("8d4a1b2c", AUDIENCE);
    let former = preset::entra_id_v1("8d4a1b2c", AUDIENCE);
    let google = preset::google(AUDIENCE);
    let named = |issuer: &str| JwtVerifier::builder().issuer(issuer).audience(AUDIENCE);
    for (discovered, builder, fits) in [
        ("https://a.example", named("https://a.example"), true),
        ("https://b.example", named("https://a.example"), false),
        ("https://a.example/", named("https://a.example"), false),
        ("https://a.example", named("http://a.example"), false),
        ("http://127.0.0.1", named("127.0.0.1"), false),
        // Google's tokens have had both.
        ("https://accounts.google.com", google, true),
        ("https://accounts.google.com", named("accounts.google.com"), true),
        ("https://evil.example", named("accounts.google.com"), false),
        // Entra ID's metadata for all tenants has a place for the name of one.
        ("https://sts.windows.net/8d4a1b2c/", former, true),
        (TENANTS, tenant, true),
        (TENANTS, named("https://login.microsoftonline.com/{tenantid}/v2.0"), true),
        (TENANTS, named("https://login.microsoftonline.com//v2.0"), false),
        (TENANTS, named("https://login.microsoftonline.com/v2.0"), false),
        (TENANTS, named("https://login.microsoftonline.com/a/b/v2.0"), false),
        (TENANTS, named("https://login.microsoftonline.com/a/v1.0"), false),
        (TENANTS, named("https://login.evil.example/a/v2.0"), false),
        (TENANTS, preset::entra_id_v1("8d4a1b2c", AUDIENCE), false),
    ] {
        let issuer = builder.issuer_name().to_owned();
        let fetch = MemoryIssuer::down().fetch();
        let keys = Jwks::discover_at("https://h/meta", discovered, fetch).unwrap();
        let keys = keys.start().unwrap();
        let built = builder.with_jwks(&keys).build().map(drop);
        let refused = Err(InvalidConfig::ForeignKeys(discovered.into()));
        let expected = if fits { Ok(()) } else { refused };
        assert_eq!(built, expected, "attack 16: {discovered} for {issuer}");
        let fetch = MemoryIssuer::down().fetch();
        let built = IntrospectionVerifier::builder("https://a.example/introspect", fetch)
            .issuer(&issuer)
            .audience(AUDIENCE)
            .with_client("api", "s3cret")
            .with_signed_answers(&keys, "api")
            .build();
        let expected = expected.map_err(InvalidIntrospection::Names);
        assert_eq!(built.map(drop), expected, "attack 16: {discovered} for {issuer}");
    }
    // Who names a document vouches for it.
    let keys = MemoryIssuer::down().jwks().start().unwrap();
    assert!(named("https://a.example").with_jwks(&keys).build().is_ok());
}

/// Answers by address, as an issuer that can move does: with a text, or, where that is a number, with
/// this status. An address without an answer hangs.
fn answers(places: &Arc<Mutex<HashMap<String, String>>>) -> impl Fetch + use<> {
    let places = places.clone();
    move |asked: FetchRequest| {
        let found = places.lock().unwrap().get(&asked.request.uri().to_string()).cloned();
        async move {
            match found {
                Some(text) => {
                    let status = text.parse().unwrap_or(200);
                    Ok(Response::builder().status(status).body(Bytes::from(text)).unwrap())
                }
                None => pending().await,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_has_moved_and_left_an_old_one_behind_is_found() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let metadata =
        |place: &str| json!({ "issuer": NAME, "jwks_uri": format!("{NAME}{place}") }).to_string();
    let well_known = format!("{NAME}/.well-known/openid-configuration");
    let places = Arc::new(Mutex::new(HashMap::from([
        (well_known.clone(), metadata("/old")),
        (format!("{NAME}/old"), jwks(&[&old]).to_string()),
    ])));
    let keys = Jwks::discover(NAME, answers(&places)).unwrap().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let [old, moved] = [&old, &new].map(|signer| signer.token(&claims(NAME, "user-1")));
    assert_eq!(gate.get(&old).await.text, "200 user-1");

    places.lock().unwrap().extend([
        (well_known.clone(), metadata("/new")),
        (format!("{NAME}/new"), jwks(&[&new]).to_string()),
    ]);
    sleep(Duration::from_secs(20 * 60)).await;
    assert_eq!(gate.get(&moved).await.text, "200 user-1", "JWT-70");
    assert_eq!(gate.get(&old).await.text, "401 unknown_key", "attack 23");
}

const WELL_KNOWN: &str = "https://issuer.example/.well-known/openid-configuration";
const WELL_KNOWN_OAUTH: &str = "https://issuer.example/.well-known/oauth-authorization-server";
const KEYS: &str = "https://issuer.example/keys";

#[tokio::test(start_paused = true)]
async fn metadata_that_goes_wrong_later_ends_the_use_of_its_keys_after_a_bounded_time() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let [old_token, new_token] = [&old, &new].map(|signer| signer.token(&claims(NAME, "user-1")));
    let good = json!({ "issuer": NAME, "jwks_uri": KEYS }).to_string();
    for wrong in [
        &json!({ "issuer": "https://evil.example", "jwks_uri": KEYS }).to_string(),
        &json!({ "issuer": format!("{NAME}/"), "jwks_uri": KEYS }).to_string(),
        &json!({ "issuer": NAME }).to_string(),
        &json!({ "issuer": NAME, "jwks_uri": "http://127.0.0.1/keys" }).to_string(),
        "<!doctype html>",
        "",
        "404",
        "302",
    ] {
        let places = Arc::new(Mutex::new(HashMap::from([
            (WELL_KNOWN.to_owned(), good.clone()),
            (WELL_KNOWN_OAUTH.to_owned(), "404".to_owned()),
            (KEYS.to_owned(), jwks(&[&old]).to_string()),
        ])));
        let serve = |url: &str, text: &str| places.lock().unwrap().insert(url.into(), text.into());
        let keys = Jwks::discover(NAME, answers(&places)).unwrap().start().unwrap();
        keys.ready().await.unwrap();
        let gate = Gate::new(verifier(NAME, &keys));

        serve(WELL_KNOWN, wrong);
        sleep(Duration::from_secs(20 * 60)).await;
        serve(KEYS, &jwks(&[&new]).to_string());
        sleep(Duration::from_secs(10 * 60)).await;
        assert!(keys.failures() > 0, "JWT-60: the operator can see it: {wrong}");
        assert_eq!(gate.get(&old_token).await.text, "200 user-1", "JWT-74: {wrong}");
        gate.get(&new_token).await.is_outage(&format!("JWT-60: nothing of it is used: {wrong}"));
        sleep(Duration::from_secs(3600)).await;
        gate.get(&old_token).await.is_outage(&format!("JWT-60, JWT-74: {wrong}"));

        serve(WELL_KNOWN, &good);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(gate.get(&new_token).await.text, "200 user-1", "JWT-60: {wrong}");
    }
}

/// What is out of reach says nothing against what it has said; but it may not be out of reach for ever.
#[tokio::test(start_paused = true)]
async fn keys_are_fetched_from_where_they_were_while_the_metadata_is_out_of_reach() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let [old_token, new_token] = [&old, &new].map(|signer| signer.token(&claims(NAME, "user-1")));
    let good = json!({ "issuer": NAME, "jwks_uri": KEYS }).to_string();
    for outage in [None, Some("503"), Some("500"), Some("429")] {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let places = Arc::new(Mutex::new(HashMap::from([
            (WELL_KNOWN.to_owned(), good.clone()),
            (WELL_KNOWN_OAUTH.to_owned(), "404".to_owned()),
            (KEYS.to_owned(), jwks(&[&old]).to_string()),
        ])));
        let keys = Jwks::discover(NAME, answers(&places)).unwrap().start().unwrap();
        keys.ready().await.unwrap();
        let gate = Gate::new(verifier(NAME, &keys));
        assert_eq!(gate.get(&old_token).await.text, "200 user-1");

        places.lock().unwrap().remove(WELL_KNOWN);
        places.lock().unwrap().extend(outage.map(|text| (WELL_KNOWN.to_owned(), text.to_owned())));
        sleep(Duration::from_secs(30 * 60)).await;
        places.lock().unwrap().insert(KEYS.to_owned(), jwks(&[&new]).to_string());
        sleep(Duration::from_secs(20 * 60)).await;
        assert_eq!(gate.get(&new_token).await.text, "200 user-1", "JWT-70: {outage:?}");
        assert_eq!(keys.failures(), 0, "JWT-70: {outage:?}");
        let lines = log.lines();
        assert_eq!(lines.len(), 1, "JWT-74: {outage:?} {lines:?}");
        assert!(lines[0].contains("WARN") && lines[0].contains("metadata"), "{lines:?}");

        sleep(Duration::from_secs(2 * 3600)).await;
        let lines = log.lines();
        assert_eq!(lines.len(), 3, "JWT-74: {outage:?} {lines:?}");
        assert!(lines[2].contains("ERROR") && lines[2].contains("too old"), "{lines:?}");
        gate.get(&new_token).await.is_outage(&format!("JWT-74: no longer: {outage:?}"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_of_discovery_that_hangs_does_not_hide_the_next() {
    let signer = Signer::new("a");
    let metadata = json!({ "issuer": NAME, "jwks_uri": format!("{NAME}/keys") });
    let places = Arc::new(Mutex::new(HashMap::from([
        (format!("{NAME}/.well-known/oauth-authorization-server"), metadata.to_string()),
        (format!("{NAME}/keys"), jwks(&[&signer]).to_string()),
    ])));
    let keys = Jwks::discover(NAME, answers(&places)).unwrap().start().unwrap();
    keys.ready().await.unwrap();
    let token = signer.token(&claims(NAME, "user-1"));
    let gate = Gate::new(verifier(NAME, &keys));
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-60");
}

/// Each address has its time, and a program that waits for the first keys waits for all of them.
#[tokio::test(start_paused = true)]
async fn a_program_waits_for_keys_behind_addresses_that_hang() {
    let name = format!("{NAME}/t1");
    let metadata = json!({ "issuer": name, "jwks_uri": format!("{NAME}/keys") });
    let places = Arc::new(Mutex::new(HashMap::from([
        (format!("{NAME}{OAUTH}"), metadata.to_string()),
        (format!("{NAME}/keys"), jwks(&[&Signer::new("a")]).to_string()),
    ])));
    let keys = Jwks::discover(&name, answers(&places)).unwrap().start().unwrap();
    let began = tokio::time::Instant::now();
    keys.ready().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 10, "JWT-63: two that hang");

    places.lock().unwrap().clear();
    let keys = Jwks::discover(&name, answers(&places)).unwrap().start().unwrap();
    let began = tokio::time::Instant::now();
    let error = keys.ready().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 15, "JWT-65: a bounded time");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("too long"), "the operator learns why: {cause}");
}

/// A fetch that has to look for the document takes longer than a request waits, and its keys come
/// long before the next one had been due.
#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_for_a_key_is_not_sent_away_until_the_next_refresh() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let name = format!("{NAME}/t1");
    let metadata = json!({ "issuer": name, "jwks_uri": format!("{NAME}/keys") });
    let (well_known, document) = (format!("{NAME}{INSERTED}"), format!("{NAME}/keys"));
    let places = Arc::new(Mutex::new(HashMap::from([
        (well_known.clone(), metadata.to_string()),
        (document.clone(), jwks(&[&old]).to_string()),
    ])));
    let keys = Jwks::discover(&name, answers(&places)).unwrap().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(&name, &keys));
    // Discovery hangs, and is tried again with each fetch.
    places.lock().unwrap().remove(&well_known);
    sleep(Duration::from_secs(3600)).await;
    places.lock().unwrap().insert(document, jwks(&[&old, &new]).to_string());
    let token = new.token(&claims(&name, "user-1"));
    let answer = gate.get(&token).await;
    answer.is_outage("JWT-72: the fetch goes on");
    assert_eq!(answer.retry_after, Some(1), "JWT-72");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-70");
}
