//! The claims (JWT-30 to JWT-44).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tower_gate::verifier::VerifyErrorKind;
use tower_gate::verifier::jwt::{Algorithm, JwtVerifier};
use tower_gate::{AuthenticateLayer, Principal, Scope, TokenKind};

use crate::gate::{AUDIENCE, Gate, ISSUER, NOW, now_plus, verifier};
use crate::object::Object;
use crate::signer::Signer;

const EXPIRED: VerifyErrorKind = VerifyErrorKind::Expired;
const INVALID_CLAIMS: VerifyErrorKind = VerifyErrorKind::InvalidClaims;
const MISSING_CLAIM: VerifyErrorKind = VerifyErrorKind::MissingClaim;
const NOT_ACTIVE: VerifyErrorKind = VerifyErrorKind::NotActive;
const WRONG_AUDIENCE: VerifyErrorKind = VerifyErrorKind::WrongAudience;
const WRONG_ISSUER: VerifyErrorKind = VerifyErrorKind::WrongIssuer;
const WRONG_TYPE: VerifyErrorKind = VerifyErrorKind::WrongType;

/// A signer, and gates for its tokens: one that follows RFC 9068, and one for older issuers.
struct Gates {
    signer: Signer,
    strict: Gate,
    plain: Gate,
}

impl Gates {
    fn new() -> Self {
        let signer = Signer::new(Algorithm::HS256);
        let strict = Gate::of(signer.key());
        let plain = Gate::new(verifier().with_key(signer.key()).accept_plain_jwt());
        Self { signer, strict, plain }
    }

    fn plain_token(&self, claims: &Object) -> String {
        self.signer.token(Object::header("HS256").text("typ", "JWT"), claims)
    }

    /// Both gates open for these claims.
    #[track_caller]
    fn accept(&self, claims: &Object, why: &str) -> Principal {
        self.plain.accepts(&self.plain_token(claims), why);
        self.strict.accepts(&self.signer.claims(claims), why)
    }

    /// Neither gate opens for these claims.
    #[track_caller]
    fn refuse(&self, claims: &Object, kind: VerifyErrorKind, why: &str) {
        let why = format!("{why}: {claims}");
        self.plain.refuses(&self.plain_token(claims), kind, &why);
        self.strict.refuses(&self.signer.claims(claims), kind, &why);
    }
}

// Which claims there must be.

#[test]
fn an_access_token_has_the_claims_of_rfc_9068() {
    let gates = Gates::new();
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        let token = gates.signer.claims(Object::claims().without(name));
        gates.strict.refuses(&token, MISSING_CLAIM, &format!("JWT-30: no {name}"));
        // Calling itself one binds a token to the rules, whoever reads it.
        gates.plain.refuses(&token, MISSING_CLAIM, &format!("JWT-30: no {name}"));
    }
    let token = gates.signer.claims(Object::new());
    gates.strict.refuses(&token, MISSING_CLAIM, "JWT-30: no claims at all");
}

#[test]
fn a_plain_token_has_an_issuer_an_audience_an_end_and_somebody() {
    let gates = Gates::new();
    for name in ["iss", "aud", "exp"] {
        let token = gates.plain_token(&Object::claims().without(name));
        gates.plain.refuses(&token, MISSING_CLAIM, &format!("JWT-30, attack 14: no {name}"));
    }
    let least = ["client_id", "iat", "jti"];
    let least = least.iter().fold(Object::claims(), |claims, name| claims.without(name));
    gates.plain.accepts(&gates.plain_token(&least), "JWT-30");
    let nobody = least.without("sub");
    gates.plain.refuses(&gates.plain_token(&nobody), MISSING_CLAIM, "JWT-30: no subject");
    for name in ["client_id", "azp"] {
        // A client in the subject's place could choose the name of a user.
        let token = gates.plain_token(&nobody.clone().text(name, "batch"));
        gates.plain.refuses(&token, MISSING_CLAIM, &format!("JWT-40: {name} and no subject"));
    }
}

#[test]
fn nobody_is_called_by_an_empty_name() {
    let gates = Gates::new();
    gates.refuse(&Object::claims().text("sub", ""), MISSING_CLAIM, "JWT-30");
    let claims = Object::claims().without("sub").text("client_id", "");
    gates.plain.refuses(&gates.plain_token(&claims), MISSING_CLAIM, "JWT-30");
}

#[test]
fn a_claim_of_the_wrong_type_is_never_an_absent_one() {
    let gates = Gates::new();
    let texts = ["iss", "sub", "jti", "client_id", "azp", "acr"];
    let times = ["exp", "nbf", "iat", "auth_time"];
    for (names, wrong) in [
        (&texts[..], ["null", "1", "true", "[]", r#"["a"]"#, "{}"]),
        (&times[..], ["null", r#""1800000000""#, "true", "[1800000000]", "{}", r#""""#]),
        (&["aud"], ["null", "1", "true", "{}", r#"[1,"https://api.example"]"#, "[[]]"]),
    ] {
        for name in names {
            for json in wrong {
                let claims = Object::claims().with(name, json);
                gates.refuse(&claims, INVALID_CLAIMS, "JWT-31, JWT-32, JWT-33, attack 10");
            }
        }
    }
}

// Issuer and audience.

#[test]
fn the_issuer_is_the_configured_one_byte_for_byte() {
    let gates = Gates::new();
    for issuer in [
        "",
        "https://issuer.example/",
        "https://ISSUER.example",
        "HTTPS://issuer.example",
        "https://issuer.example:443",
        "http://issuer.example",
        "https://issuer.example ",
        " https://issuer.example",
        "https://issuer.example\0",
        "https://issuer.example#",
        "https://issuer.example?",
        "https://issuer.exampl",
        "https://issuer.example.evil.example",
        "https://issuer.example@evil.example",
        "issuer.example",
        "https://other.example",
    ] {
        let claims = Object::claims().text("iss", issuer);
        gates.refuse(&claims, WRONG_ISSUER, "JWT-31, attack 16");
    }
    let slashed = JwtVerifier::builder().issuer("https://issuer.example/").audience(AUDIENCE);
    let gate = Gate::new(slashed.with_key(gates.signer.key()));
    gate.refuses(&gates.signer.good(), WRONG_ISSUER, "JWT-31, attack 16: without the slash");
    let claims = Object::claims().text("iss", "https://issuer.example/");
    let principal = gate.accepts(&gates.signer.claims(claims), "JWT-31");
    assert_eq!(principal.issuer(), "https://issuer.example/", "JWT-31");
}

#[test]
fn a_key_of_one_issuer_signs_for_no_other() {
    let (here, there) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let other = "https://other.example";
    let of = |issuer: &str, signer: &Signer| {
        let verifier = JwtVerifier::builder().issuer(issuer).audience(AUDIENCE);
        Gate::new(verifier.with_key(signer.key().with_kid("k1")))
    };
    let (here_gate, there_gate) = (of(ISSUER, &here), of(other, &there));
    let token = |signer: &Signer, issuer| {
        let header = Object::header("ES256").text("kid", "k1");
        signer.token(header, Object::claims().text("iss", issuer))
    };
    here_gate.accepts(&token(&here, ISSUER), "JWT-41");
    there_gate.accepts(&token(&there, other), "JWT-41");
    let bad_signature = VerifyErrorKind::BadSignature;
    here_gate.refuses(&token(&there, ISSUER), bad_signature, "JWT-41, attack 16");
    there_gate.refuses(&token(&here, other), bad_signature, "JWT-41, attack 16");
    here_gate.refuses(&token(&here, other), WRONG_ISSUER, "JWT-41, attack 16");
    here_gate.refuses(&token(&there, other), bad_signature, "JWT-41, attack 16");
}

#[test]
fn one_audience_is_ours_byte_for_byte() {
    let gates = Gates::new();
    let ours = format!("\"{AUDIENCE}\"");
    for aud in [
        ours.clone(),
        format!("[{ours}]"),
        format!("[\"x\",{ours}]"),
        format!("[{ours},\"x\",\"\"]"),
        format!("[{ours},{ours}]"),
    ] {
        gates.accept(&Object::claims().with("aud", &aud), &format!("JWT-32, attack 15: {aud}"));
    }
    for aud in [
        r#""""#,
        r#"[""]"#,
        r#""https://api.example/""#,
        r#""https://API.example""#,
        r#""https://api.exampl""#,
        r#""https://api.example.evil""#,
        r#""https://api.evil""#,
        r#""https""#,
        r#""https://api.example https://x.example""#,
        r#""https://api.example,x""#,
        r#""https://api.example\u0000""#,
        r#"["a","b"]"#,
        r#"["https://api.example/v1","https://api.exampl"]"#,
        r#""*""#,
    ] {
        gates.refuse(&Object::claims().with("aud", aud), WRONG_AUDIENCE, "JWT-32, attack 15");
    }
    gates.refuse(&Object::claims().with("aud", "[]"), MISSING_CLAIM, "JWT-32, attack 15");
    let several = verifier().with_audience("reports").with_key(gates.signer.key());
    let several = Gate::new(several);
    for audience in [AUDIENCE, "reports"] {
        let token = gates.signer.claims(Object::claims().text("aud", audience));
        several.accepts(&token, "JWT-32");
    }
    let token = gates.signer.claims(Object::claims().text("aud", "report"));
    several.refuses(&token, WRONG_AUDIENCE, "JWT-32, attack 15: a prefix of ours");
}

// Times.

/// A gate whose verifier allows for no difference between clocks.
fn exact() -> (Gate, Signer) {
    let signer = Signer::new(Algorithm::HS256);
    (Gate::new(verifier().with_leeway(Duration::ZERO).with_key(signer.key())), signer)
}

#[test]
fn exp_is_the_first_moment_that_is_too_late() {
    let (gate, signer) = exact();
    let token = |exp: i64| signer.claims(Object::claims().with("exp", exp));
    gate.accepts(&token(NOW + 1), "JWT-34");
    gate.refuses(&token(NOW), EXPIRED, "JWT-34: equality is expired");
    gate.refuses(&token(NOW - 1), EXPIRED, "JWT-34");
    gate.set_now(now_plus(999));
    gate.accepts(&token(NOW + 1), "JWT-34: a millisecond before");
    gate.set_now(now_plus(1000));
    gate.refuses(&token(NOW + 1), EXPIRED, "JWT-34: the same token, a millisecond later");

    let leeway = verifier().with_leeway(Duration::from_secs(60)).with_key(signer.key());
    let gate = Gate::new(leeway);
    gate.accepts(&token(NOW - 59), "JWT-34");
    gate.refuses(&token(NOW - 60), EXPIRED, "JWT-34");
}

#[test]
fn nbf_is_the_first_moment_that_is_not_too_early() {
    let (gate, signer) = exact();
    let token = |nbf: i64| signer.claims(Object::claims().with("nbf", nbf));
    gate.accepts(&token(NOW), "JWT-35");
    gate.accepts(&token(-1), "JWT-35");
    gate.refuses(&token(NOW + 1), NOT_ACTIVE, "JWT-35");
    gate.set_now(now_plus(1000));
    gate.accepts(&token(NOW + 1), "JWT-35: the same token, in time");
    gate.set_now(now_plus(-1));
    gate.refuses(&token(NOW), NOT_ACTIVE, "JWT-35: a clock that went back");
}

#[test]
fn clocks_may_be_thirty_seconds_apart() {
    let gates = Gates::new();
    let claims = Object::claims();
    gates.accept(&claims.clone().with("exp", NOW - 29), "JWT-36");
    gates.refuse(&claims.clone().with("exp", NOW - 30), EXPIRED, "JWT-36");
    gates.accept(&claims.clone().with("nbf", NOW + 30), "JWT-36");
    gates.refuse(&claims.clone().with("nbf", NOW + 31), NOT_ACTIVE, "JWT-36");
    gates.accept(&claims.clone().with("iat", NOW + 30), "JWT-36");
    gates.refuse(&claims.with("iat", NOW + 31), INVALID_CLAIMS, "JWT-36");
}

#[test]
fn a_time_is_any_json_number() {
    let (gate, signer) = exact();
    let token = |exp: &str| signer.claims(Object::claims().with("exp", exp));
    for exp in ["1.7000001e9", "1700000000.5", "17000000005E-1", "1700000001.0", "1.70000001E+09"] {
        gate.accepts(&token(exp), &format!("JWT-33: {exp}"));
    }
    for exp in ["1.7e9", "1700000000.0", "1699999999.9", "0", "-0", "-1", "-1.5e3", "1e-400"] {
        gate.refuses(&token(exp), EXPIRED, &format!("JWT-33, JWT-37, attack 10: {exp}"));
    }
    let halves = Object::claims().with("nbf", "1700000000.25").with("iat", "1699999999.75");
    gate.refuses(&signer.claims(&halves), NOT_ACTIVE, "JWT-33");
    gate.set_now(now_plus(250));
    gate.accepts(&signer.claims(&halves), "JWT-33");
}

#[test]
fn absurd_times_neither_wrap_nor_panic() {
    let signer = Signer::new(Algorithm::HS256);
    let widest = verifier()
        .with_leeway(Duration::from_secs(300))
        .with_max_lifetime(Duration::MAX)
        .with_max_age(Duration::MAX)
        .with_key(signer.key());
    let gate = Gate::new(widest);
    for name in ["exp", "nbf", "iat", "auth_time"] {
        for time in [
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "1e19",
            "-1e19",
            "1e308",
            "-1e308",
            "1e400",
            "-1e400",
            "99999999999999999999999999999999999999",
        ] {
            let token = signer.claims(Object::claims().with(name, time));
            gate.refuses(&token, INVALID_CLAIMS, &format!("JWT-37, attack 10: {name} {time}"));
        }
    }
    let far = signer.claims(Object::claims().with("exp", "9e18"));
    gate.accepts(&far, "JWT-37: as far as i64 seconds go");
    for now in [UNIX_EPOCH, UNIX_EPOCH - Duration::from_secs(1 << 40), now_plus(1 << 50)] {
        gate.set_now(now);
        let answer = gate.ask(&signer.good());
        assert_eq!(answer.calls, 0, "JWT-37: {:?}", answer.event.time);
    }
}

#[test]
fn a_token_from_the_future_an_old_one_and_an_everlasting_one_are_refused() {
    let gates = Gates::new();
    let claims = Object::claims();
    let day = 86_400;
    gates.refuse(&claims.clone().with("iat", NOW + 3600), INVALID_CLAIMS, "JWT-38, attack 14");
    gates.accept(&claims.clone().with("exp", NOW - 10 + day), "attack 14");
    gates.refuse(&claims.clone().with("exp", NOW - 10 + day + 1), INVALID_CLAIMS, "attack 14");
    let century = NOW + 100 * 365 * day;
    gates.refuse(&claims.clone().with("exp", century), INVALID_CLAIMS, "attack 14");
    // Without `iat`, which plain tokens need not have, the token begins now.
    let unborn = claims.clone().without("iat");
    let token = |exp: i64| gates.plain_token(&unborn.clone().with("exp", exp));
    gates.plain.accepts(&token(NOW + day), "attack 14");
    gates.plain.refuses(&token(NOW + day + 1), INVALID_CLAIMS, "attack 14");
    gates.plain.refuses(&token(century), INVALID_CLAIMS, "attack 14");

    let young = verifier()
        .with_leeway(Duration::ZERO)
        .with_max_age(Duration::from_secs(300))
        .with_key(gates.signer.key());
    let young = Gate::new(young);
    let born = |iat: i64| gates.signer.claims(claims.clone().with("iat", iat));
    young.accepts(&born(NOW - 300), "JWT-38");
    young.refuses(&born(NOW - 301), INVALID_CLAIMS, "JWT-38");
}

#[test]
fn only_a_token_that_is_good_otherwise_is_called_late_or_early() {
    let gates = Gates::new();
    let late = Object::claims().with("exp", NOW - 600);
    gates.refuse(&late, EXPIRED, "JWT-34");
    gates.refuse(&late.clone().text("aud", "other"), WRONG_AUDIENCE, "attack 15");
    gates.refuse(&late.clone().text("iss", "other"), WRONG_ISSUER, "attack 16");
    let forged = Signer::new(Algorithm::HS256).claims(&late);
    gates.strict.refuses(&forged, VerifyErrorKind::BadSignature, "JWT-34");
    let answer = gates.strict.ask(&gates.signer.claims(&late));
    let principal = answer.event.principal.unwrap();
    assert_eq!(principal.subject(), "user-1", "whose token it was is in the trail");
    let answer = gates.strict.ask(&forged);
    assert!(answer.event.principal.is_none(), "what a forged token says is not");

    let layer = AuthenticateLayer::new(verifier().with_key(gates.signer.key()).build().unwrap());
    let uniform = Gate::behind(layer.with_uniform_errors());
    let answer = uniform.ask(&gates.signer.claims(&late));
    assert_eq!((answer.json()["error"].as_str(), answer.calls), (Some("invalid_token"), 0));
    assert_eq!(answer.event.reason, Some("expired"), "the trail knows better");
}

/// The rules on times in whole milliseconds.
#[derive(Debug)]
struct Times {
    now: i64,
    exp: i64,
    nbf: Option<i64>,
    iat: i64,
    leeway: i64,
    max_lifetime: i64,
    max_age: Option<i64>,
}

impl Times {
    fn verdict(&self) -> Result<(), VerifyErrorKind> {
        if self.exp + self.leeway <= self.now {
            Err(EXPIRED)
        } else if self.nbf.is_some_and(|nbf| nbf - self.leeway > self.now) {
            Err(NOT_ACTIVE)
        } else if self.iat - self.leeway > self.now
            || self.exp - self.iat > self.max_lifetime
            || self.max_age.is_some_and(|max_age| self.now - self.iat > max_age + self.leeway)
        {
            Err(INVALID_CLAIMS)
        } else {
            Ok(())
        }
    }

    fn check(&self, signer: &Signer) {
        let from_now = |millis: i64| NOW * 1000 + millis;
        // Quarters of a second, which binary fractions hold exactly.
        let date =
            |millis: i64| format!("{}.{:03}", from_now(millis) / 1000, from_now(millis) % 1000);
        let duration = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        let mut verifier = verifier()
            .with_leeway(duration(self.leeway))
            .with_max_lifetime(duration(self.max_lifetime))
            .with_key(signer.key());
        if let Some(max_age) = self.max_age {
            verifier = verifier.with_max_age(duration(max_age));
        }
        let mut claims = Object::claims().with("exp", date(self.exp)).with("iat", date(self.iat));
        if let Some(nbf) = self.nbf {
            claims = claims.with("nbf", date(nbf));
        }
        let gate = Gate::new(verifier);
        gate.set_now(now_plus(self.now));
        let (token, why) = (signer.claims(claims), format!("JWT-34 to JWT-38: {self:?}"));
        match self.verdict() {
            Ok(()) => drop(gate.accepts(&token, &why)),
            Err(kind) => gate.refuses(&token, kind, &why),
        }
    }
}

#[test]
fn times_are_judged_like_whole_numbers() {
    let signer = Signer::new(Algorithm::HS256);
    // Few values, so that many cases are on a boundary.
    let quarters = |range: std::ops::RangeInclusive<i64>| range.prop_map(|quarters| quarters * 250);
    let times = (
        quarters(-8..=8),
        quarters(-8..=40),
        option::of(quarters(-8..=8)),
        quarters(-40..=8),
        quarters(0..=8),
        quarters(1..=60),
        option::of(quarters(1..=40)),
    );
    let times = times.prop_map(|(now, exp, nbf, iat, leeway, max_lifetime, max_age)| Times {
        now,
        exp,
        nbf,
        iat,
        leeway,
        max_lifetime,
        max_age,
    });
    let config = Config { cases: 2000, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&times, |times| {
        times.check(&signer);
        Ok(())
    });
    checked.unwrap();
}

// What a token grants.

#[test]
fn scopes_are_one_text_with_spaces_between() {
    let gates = Gates::new();
    let scopes = |json: &str| {
        let principal = gates.accept(&Object::claims().with("scope", json), "JWT-39");
        principal.scopes().iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(scopes(r#""a b""#), ["a", "b"], "JWT-39");
    assert_eq!(scopes(r#"" a  b ""#), ["a", "b"], "JWT-39: more spaces than one");
    assert_eq!(scopes(r#""a""#), ["a"], "JWT-39");
    for json in [r#""""#, r#""  ""#, r#"["a","b"]"#, r#"["a"]"#, "7", "null", "true", "{}"] {
        assert!(scopes(json).is_empty(), "JWT-39, attack 39: {json}");
    }
    let claims = Object::claims().text("scp", "a").with("scopes", r#"["a"]"#).text("role", "a");
    let principal = gates.accept(&claims, "JWT-39");
    assert!(principal.scopes().is_empty(), "JWT-39: nothing is read from other claims");
    assert_eq!(principal.roles().count(), 0, "JWT-39: nothing is read from other claims");
}

#[test]
fn a_scope_of_another_shape_grants_nothing() {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key());
    let read = Scope::parse("read").unwrap();
    for (json, granted) in [
        (r#""read""#, true),
        (r#""write read""#, true),
        (r#"["read"]"#, false),
        (r#""READ""#, false),
        (r#""read:all""#, false),
        (r#""readall""#, false),
        (r#""read,write""#, false),
        (r#""read\u0000""#, false),
        (r#""read\twrite""#, false),
        (r#""read\u00a0write""#, false),
        (r#""*""#, false),
        (r#"{"read":true}"#, false),
    ] {
        let token = signer.claims(Object::claims().with("scope", json));
        let principal = gate.accepts(&token, "JWT-39");
        assert_eq!(principal.scopes().contains(&read), granted, "JWT-39, attack 39: {json}");
    }
    let principal = gate.accepts(&signer.good(), "JWT-39");
    assert!(!principal.scopes().contains(&read), "attack 40: no scope is not every scope");
}

#[test]
fn users_and_clients_are_told_apart() {
    let gates = Gates::new();
    let user = gates.accept(&Object::claims(), "JWT-40");
    assert_eq!((user.subject(), user.client(), user.is_client()), ("user-1", Some("web"), false));
    let client = gates.accept(&Object::claims().text("sub", "web"), "JWT-40");
    assert_eq!((client.subject(), client.client(), client.is_client()), ("web", Some("web"), true));
    let alike = gates.accept(&Object::claims().text("sub", "Web"), "JWT-40");
    assert!(!alike.is_client(), "JWT-40: byte for byte");
}

#[test]
fn a_principal_says_what_its_token_says() {
    let gates = Gates::new();
    let claims = Object::claims()
        .text("sub", "us\u{e9}r \"1\"")
        .with("roles", r#"["editor","admin"]"#)
        .text("acr", "mfa")
        .with("auth_time", NOW - 100)
        .text("tenant", "t-7");
    let principal = gates.accept(&claims, "JWT-9");
    assert_eq!(principal.issuer(), ISSUER);
    assert_eq!(principal.subject(), "us\u{e9}r \"1\"");
    assert_eq!(principal.token_kind(), TokenKind::Jwt);
    assert_eq!(principal.token_id(), Some("token-1"));
    assert_eq!(principal.roles().collect::<Vec<_>>(), ["editor", "admin"]);
    assert_eq!(principal.acr(), Some("mfa"));
    let times = [principal.issued_at(), principal.expires_at(), principal.auth_time()];
    let expected: [Option<SystemTime>; 3] = [-10, 600, -100].map(|s| Some(now_plus(s * 1000)));
    assert_eq!(times, expected);
    let all = principal.claims::<serde_json::Value>().unwrap();
    assert_eq!(all["tenant"], "t-7");
}

// Tokens for another purpose.

#[test]
fn an_id_token_is_no_access_token() {
    let gates = Gates::new();
    let id_token = Object::claims()
        .without("client_id")
        .without("jti")
        .text("azp", "web")
        .text("nonce", "n-0S6_WzA2Mj")
        .with("auth_time", NOW - 60)
        .text("email", "user@example.com");
    // For an audience of ours, as with an issuer that makes no difference between the two.
    let token = gates.plain_token(&id_token);
    gates.strict.refuses(&token, WRONG_TYPE, "JWT-42, attack 13");
    gates.plain.refuses(&token, WRONG_TYPE, "JWT-42, attack 13");
    for (name, json) in
        [("nonce", r#""""#), ("nonce", "null"), ("at_hash", r#""x""#), ("c_hash", "1")]
    {
        let claims = id_token.clone().without("nonce").with(name, json);
        let token = gates.plain_token(&claims);
        gates.plain.refuses(&token, WRONG_TYPE, &format!("JWT-42, attack 13: {name}"));
    }
    let for_client = id_token.without("nonce").text("aud", "web");
    let token = gates.plain_token(&for_client);
    gates.plain.refuses(&token, WRONG_AUDIENCE, "JWT-42, attack 13: for the client");
    gates.strict.refuses(&token, WRONG_TYPE, "JWT-42, attack 13");
}

#[test]
fn other_signed_texts_of_the_issuer_are_no_access_tokens() {
    let gates = Gates::new();
    let proof = Object::new()
        .text("htm", "GET")
        .text("htu", "https://api.example/")
        .text("jti", "p-1")
        .with("iat", NOW);
    let logout = Object::claims()
        .with("events", r#"{"http://schemas.openid.net/event/backchannel-logout":{}}"#);
    let token = gates.plain_token(&logout);
    gates.plain.refuses(&token, WRONG_TYPE, "JWT-42, attack 13: a logout token that names no type");
    for (typ, claims) in [("dpop+jwt", &proof), ("logout+jwt", &logout), ("secevent+jwt", &logout)]
    {
        let token = gates.signer.token(Object::header("HS256").text("typ", typ), claims);
        gates.strict.refuses(&token, WRONG_TYPE, &format!("JWT-42, attack 13: {typ}"));
        gates.plain.refuses(&token, WRONG_TYPE, &format!("JWT-42, attack 13: {typ}"));
    }
    gates.plain.refuses(&gates.plain_token(&proof), MISSING_CLAIM, "JWT-42, attack 13");
}

#[test]
fn a_token_bound_to_a_key_is_worth_nothing_to_its_bearer() {
    let gates = Gates::new();
    for cnf in [
        r#"{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#,
        r#"{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}"#,
        r#"{"x":1}"#,
        "{}",
        "null",
        "[]",
        r#""x""#,
        "7",
    ] {
        let claims = Object::claims().with("cnf", cnf);
        gates.refuse(&claims, VerifyErrorKind::SenderConstrained, "JWT-44");
    }
}
