//! Tokens shaped like those of the issuers that there are presets for.

use serde_json::{Value, json};
use tower_gate::verifier::VerifyRequest;
use tower_gate::verifier::jwt::{InvalidConfig, JwtVerifierBuilder, KeySet, preset};
use tower_gate::{BearerToken, Principal, TokenVerifier};

use crate::gate::{NOW, at};
use crate::signer::{Signer, jwks};

/// What one preset must accept and refuse.
struct Case {
    preset: JwtVerifierBuilder,
    issuer: &'static str,
    header: Value,
    access: Value,
    client: &'static str,
    scopes: &'static [&'static str],
    roles: &'static [&'static str],
    /// Changes to the access token, each of which must be refused for this reason. A null takes the
    /// claim away.
    refused: Vec<(&'static str, Value, &'static str)>,
}

impl Case {
    /// Checks all of it, with a key of the kind that all these issuers sign with.
    async fn check(self) {
        assert_eq!(self.preset.issuer_name(), self.issuer);
        let signer = Signer::rsa("key-1");
        let keys = KeySet::from_jwks(&jwks(&[&signer]).to_string()).unwrap();
        let verifier = self.preset.with_keys(keys).build().unwrap();
        let verify = async |claims: &Value| -> Result<Principal, String> {
            let token = BearerToken::parse(&signer.sign(&self.header, claims)).unwrap();
            let request = VerifyRequest::new(token, at(NOW));
            let answer = verifier.verify(&request).await;
            answer.map_err(|error| error.kind().as_str().to_owned())
        };
        let principal = verify(&self.access).await.expect(self.issuer);
        assert_eq!(principal.client(), Some(self.client), "{}", self.issuer);
        let scopes: Vec<_> = principal.scopes().iter().collect();
        assert_eq!(scopes, self.scopes, "{}", self.issuer);
        assert_eq!(principal.roles().collect::<Vec<_>>(), self.roles, "{}", self.issuer);

        // What nobody's access token has.
        let common = [
            ("an ID token of a login", json!({ "nonce": "n-0S6_WzA2Mj" }), "wrong_type"),
            ("an ID token beside an access token", json!({ "at_hash": "77Qm" }), "wrong_type"),
            ("expired", json!({ "iat": NOW - 7200, "exp": NOW - 3600 }), "expired"),
            ("nobody's", json!({ "sub": null }), "missing_claim"),
            ("bound to a key", json!({ "cnf": { "jkt": "x" } }), "sender_constrained"),
        ];
        for (what, changes, reason) in common.into_iter().chain(self.refused) {
            let answer = verify(&with(&self.access, &changes)).await;
            let place = format!("JWT-42, attack 13: {}: {what}", self.issuer);
            assert_eq!(answer.map(|_| ()), Err(reason.to_owned()), "{place}");
        }
    }
}

fn with(claims: &Value, changes: &Value) -> Value {
    let mut claims = claims.clone();
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        members.remove(name);
        if !value.is_null() {
            members.insert(name.clone(), value.clone());
        }
    }
    claims
}

const API: &str = "https://api.example";

#[tokio::test]
async fn auth0() {
    let issuer = "https://tenant.eu.auth0.com/";
    let access = json!({
        "iss": issuer, "sub": "auth0|65a1", "aud": [API, "https://tenant.eu.auth0.com/userinfo"],
        "azp": "aWebClient", "iat": NOW, "exp": NOW + 3600, "scope": "openid read:reports",
        "gty": "password", "permissions": ["read:reports"],
    });
    let refused = || {
        vec![
            (
                "an ID token",
                json!({ "aud": "aWebClient", "azp": null, "scope": null, "sid": "s" }),
                "wrong_audience",
            ),
            (
                "an ID token of a login without a nonce, for an API with its client's name",
                json!({ "azp": null, "scope": null, "gty": null, "sid": "s" }),
                "wrong_type",
            ),
            ("a logout token", json!({ "events": {}, "sid": "s" }), "wrong_type"),
            ("another API", json!({ "aud": "https://other.example" }), "wrong_audience"),
            ("another tenant", json!({ "iss": "https://evil.eu.auth0.com/" }), "wrong_issuer"),
            ("no slash", json!({ "iss": "https://tenant.eu.auth0.com" }), "wrong_issuer"),
        ]
    };
    let case = |header, access| Case {
        preset: preset::auth0("tenant.eu.auth0.com", API),
        issuer,
        header,
        access,
        client: "aWebClient",
        scopes: &["openid", "read:reports"],
        roles: &["read:reports"],
        refused: refused(),
    };
    case(json!({ "typ": "JWT" }), access.clone()).check().await;

    // The RFC 9068 profile. Its type says what it is, so that a nonce would not be asked about.
    let modern = json!({ "azp": null, "gty": null, "client_id": "aWebClient", "jti": "73Wa" });
    let signer = Signer::rsa("key-1");
    let keys = KeySet::from_jwks(&jwks(&[&signer]).to_string()).unwrap();
    let verifier = preset::auth0("tenant.eu.auth0.com", API).with_keys(keys).build().unwrap();
    let token = signer.token(&with(&access, &modern));
    let request = VerifyRequest::new(BearerToken::parse(&token).unwrap(), at(NOW));
    assert_eq!(verifier.verify(&request).await.unwrap().client(), Some("aWebClient"));
}

#[tokio::test]
async fn okta() {
    let issuer = "https://tenant.okta.com/oauth2/default";
    let access = json!({
        "ver": 1, "jti": "AT.0mP4", "iss": issuer, "aud": "api://default", "iat": NOW,
        "exp": NOW + 3600, "cid": "0oa1", "uid": "00u1", "scp": ["openid", "read:reports"],
        "auth_time": NOW - 10, "sub": "user@example.com", "groups": ["Everyone", "Editors"],
    });
    Case {
        preset: preset::okta(issuer, "api://default"),
        issuer,
        header: json!({}),
        access,
        client: "0oa1",
        scopes: &["openid", "read:reports"],
        roles: &["Everyone", "Editors"],
        refused: vec![
            (
                "an ID token",
                json!({
                    "jti": "ID.1", "aud": "0oa1", "cid": null, "uid": null, "scp": null,
                    "idp": "00o1", "amr": ["pwd"],
                }),
                "wrong_audience",
            ),
            (
                "an ID token of a client with the API's name",
                json!({ "jti": "ID.1", "cid": null, "uid": null, "scp": null, "idp": "00o1" }),
                "wrong_type",
            ),
            ("another API", json!({ "aud": "api://other" }), "wrong_audience"),
            (
                "another server of the tenant",
                json!({ "iss": "https://tenant.okta.com/oauth2/aus1" }),
                "wrong_issuer",
            ),
            ("the tenant itself", json!({ "iss": "https://tenant.okta.com" }), "wrong_issuer"),
        ],
    }
    .check()
    .await;
}

#[tokio::test]
async fn keycloak() {
    let issuer = "https://keycloak.example/realms/staff";
    let access = json!({
        "exp": NOW + 300, "iat": NOW, "auth_time": NOW, "jti": "onrtac:1", "iss": issuer,
        "aud": ["reports-api", "account"], "sub": "f81d", "typ": "Bearer", "azp": "web",
        "sid": "s", "acr": "1", "allowed-origins": ["https://web.example"],
        "realm_access": { "roles": ["offline_access", "editor"] },
        "resource_access": {
            "reports-api": { "roles": ["approver"] },
            "account": { "roles": ["manage-account"] },
        },
        "scope": "openid profile read:reports", "preferred_username": "user",
    });
    let refused = || {
        vec![
            ("an ID token", json!({ "typ": "ID", "aud": "web", "scope": null }), "wrong_audience"),
            ("an ID token for the API's own client", json!({ "typ": "ID" }), "wrong_type"),
            ("a refresh token", json!({ "typ": "Refresh" }), "wrong_type"),
            ("an offline token", json!({ "typ": "Offline" }), "wrong_type"),
            ("a logout token", json!({ "typ": "Logout" }), "wrong_type"),
            ("untyped", json!({ "typ": null }), "wrong_type"),
            ("another client", json!({ "aud": "account" }), "wrong_audience"),
            (
                "another realm",
                json!({ "iss": "https://keycloak.example/realms/master" }),
                "wrong_issuer",
            ),
        ]
    };
    for base_url in ["https://keycloak.example", "https://keycloak.example/"] {
        Case {
            preset: preset::keycloak(base_url, "staff", "reports-api"),
            issuer,
            header: json!({ "typ": "JWT" }),
            access: access.clone(),
            client: "web",
            scopes: &["openid", "profile", "read:reports"],
            roles: &["offline_access", "editor", "approver"],
            refused: refused(),
        }
        .check()
        .await;
    }
    // With the client's setting for `at+jwt`, the client is still called `azp`.
    let signer = Signer::rsa("key-1");
    let keys = KeySet::from_jwks(&jwks(&[&signer]).to_string()).unwrap();
    let preset = preset::keycloak("https://keycloak.example", "staff", "reports-api");
    let verifier = preset.with_keys(keys).build().unwrap();
    let request = VerifyRequest::new(BearerToken::parse(&signer.token(&access)).unwrap(), at(NOW));
    assert_eq!(verifier.verify(&request).await.unwrap().client(), Some("web"));
}

const TENANT: &str = "8d4a1b2c-5f0e-4c1d-9a57-0e6b7a2f3c11";
const APPLICATION: &str = "3f2a9d64-1b7e-4d0c-8c35-6a9e5b1d2f70";
const CALLER: &str = "6e74172b-be56-4843-9ff4-e66a39bb12e3";

#[tokio::test]
async fn entra_id() {
    let issuer = "https://login.microsoftonline.com/8d4a1b2c-5f0e-4c1d-9a57-0e6b7a2f3c11/v2.0";
    let access = json!({
        "aud": APPLICATION, "iss": issuer, "iat": NOW, "nbf": NOW, "exp": NOW + 4500,
        "aio": "AXQAi", "azp": CALLER, "azpacr": "0", "name": "User", "oid": "690222be",
        "preferred_username": "user@example.com", "rh": "0.x", "scp": "reports.read reports.write",
        "sub": "HKZpfaHyWadeOouYlitjrI", "tid": TENANT, "uti": "fqiBqXLPj0eQa82S", "ver": "2.0",
        "roles": ["Reports.Approve"],
    });
    Case {
        preset: preset::entra_id(TENANT, APPLICATION),
        issuer,
        header: json!({ "typ": "JWT" }),
        access,
        client: CALLER,
        scopes: &["reports.read", "reports.write"],
        roles: &["Reports.Approve"],
        refused: vec![
            (
                "an ID token for the API's own application",
                json!({ "azp": null, "azpacr": null, "scp": null, "aio": "A" }),
                "wrong_type",
            ),
            ("an ID token of the caller", json!({ "aud": CALLER, "azp": null }), "wrong_audience"),
            ("a token for Graph", json!({ "aud": "00000003-0000-0000-c000-000000000000" }), "wrong_audience"),
            (
                "another tenant",
                json!({
                    "iss": "https://login.microsoftonline.com/9122040d-6c67-4c5b-b112-36a304b66dad/v2.0",
                }),
                "wrong_issuer",
            ),
            (
                "version 1.0",
                json!({ "iss": format!("https://sts.windows.net/{TENANT}/") }),
                "wrong_issuer",
            ),
        ],
    }
    .check()
    .await;
}

#[tokio::test]
async fn entra_id_v1() {
    let issuer = "https://sts.windows.net/8d4a1b2c-5f0e-4c1d-9a57-0e6b7a2f3c11/";
    let uri = "api://3f2a9d64-1b7e-4d0c-8c35-6a9e5b1d2f70";
    let access = json!({
        "aud": uri, "iss": issuer, "iat": NOW, "nbf": NOW, "exp": NOW + 4500, "acr": "1",
        "aio": "AXQAi", "amr": ["pwd"], "appid": CALLER, "appidacr": "0", "ipaddr": "1.2.3.4",
        "name": "User", "oid": "690222be", "scp": "reports.read", "sub": "HKZpfaHyWadeOouYlitjrI",
        "tid": TENANT, "unique_name": "user@example.com", "ver": "1.0", "roles": ["Approver"],
    });
    Case {
        preset: preset::entra_id_v1(TENANT, APPLICATION).with_audience(uri),
        issuer,
        header: json!({ "typ": "JWT", "x5t": "i6lGk3FZzxRcUb2C3nEQ7syHJlY" }),
        access,
        client: CALLER,
        scopes: &["reports.read"],
        roles: &["Approver"],
        refused: vec![
            (
                "an ID token for the API's own application",
                json!({ "aud": APPLICATION, "appid": null, "appidacr": null, "scp": null }),
                "wrong_type",
            ),
            (
                "a token for Graph",
                json!({ "aud": "https://graph.microsoft.com" }),
                "wrong_audience",
            ),
            (
                "another tenant",
                json!({ "iss": "https://sts.windows.net/fa15d692-e9c7-4460-a743-29f2956fd429/" }),
                "wrong_issuer",
            ),
        ],
    }
    .check()
    .await;
}

#[tokio::test]
async fn cognito() {
    let issuer = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_aB3dE5fG7";
    let access = json!({
        "sub": "aaaaaaaa-bbbb", "device_key": "d", "cognito:groups": ["editors"], "iss": issuer,
        "version": 2, "client_id": "client-2", "origin_jti": "o", "event_id": "e",
        "token_use": "access", "scope": "openid reports/read", "auth_time": NOW, "exp": NOW + 3600,
        "iat": NOW, "jti": "j", "username": "user",
    });
    let id_token = json!({
        "client_id": null, "scope": null, "version": null, "username": null, "token_use": "id",
        "aud": "client-2", "email": "user@example.com", "cognito:username": "user",
    });
    Case {
        preset: preset::cognito("eu-central-1", "eu-central-1_aB3dE5fG7", ["client-1", "client-2"]),
        issuer,
        header: json!({}),
        access,
        client: "client-2",
        scopes: &["openid", "reports/read"],
        roles: &["editors"],
        refused: vec![
            ("an ID token", id_token, "wrong_audience"),
            ("an ID token that names a client", json!({ "token_use": "id" }), "wrong_type"),
            ("of no use", json!({ "token_use": null }), "wrong_type"),
            ("another client", json!({ "client_id": "client-3" }), "wrong_audience"),
            (
                "another client, and ours as audience",
                json!({ "client_id": "client-3", "aud": "client-2" }),
                "wrong_audience",
            ),
            (
                "another pool",
                json!({ "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_x" }),
                "wrong_issuer",
            ),
            (
                "another region",
                json!({ "iss": "https://cognito-idp.us-east-1.amazonaws.com/eu-central-1_aB3dE5fG7" }),
                "wrong_issuer",
            ),
        ],
    }
    .check()
    .await;
    let nobody = preset::cognito("eu-central-1", "eu-central-1_aB3dE5fG7", []);
    assert_eq!(nobody.build().unwrap_err(), InvalidConfig::EmptyName, "whose tokens, then?");
}

#[tokio::test]
async fn google() {
    let access = json!({
        "aud": API, "azp": "112233", "email": "cron@project.iam.gserviceaccount.com",
        "email_verified": true, "exp": NOW + 3600, "iat": NOW, "iss": "https://accounts.google.com",
        "sub": "112233",
    });
    Case {
        preset: preset::google(API),
        issuer: "https://accounts.google.com",
        header: json!({ "typ": "JWT" }),
        access,
        client: "112233",
        scopes: &[],
        roles: &[],
        refused: vec![
            (
                "an ID token of a login",
                json!({ "aud": "1.apps.googleusercontent.com", "azp": "1.apps.googleusercontent.com" }),
                "wrong_audience",
            ),
            ("another service", json!({ "aud": "https://other.example" }), "wrong_audience"),
            ("another path", json!({ "aud": "https://api.example/" }), "wrong_audience"),
            ("another issuer", json!({ "iss": "https://securetoken.google.com/p" }), "wrong_issuer"),
        ],
    }
    .check()
    .await;
    let client = "1-a.apps.googleusercontent.com";
    for builder in [preset::google(client), preset::google(API).with_audience(client)] {
        let refused = builder.build().unwrap_err();
        assert_eq!(refused, InvalidConfig::ForeignAudience(client.into()), "JWT-42, attack 13");
    }
}
