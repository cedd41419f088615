//! The refusal table, and what an answer must have to be one of its rows.

use std::net::SocketAddr;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use prost::Message;
use tonic::{Code, Status};
use tower_gate::Rejection;
use tower_gate::rejection::RejectionKind;

use crate::refusals::challenge::parameters;
use crate::support::{Answer, TestBody};

/// A row of the table, and a request that comes to it.
pub(super) struct Row {
    pub(super) kind: RejectionKind,
    /// Where, and with which values of `Authorization`.
    pub(super) path: &'static str,
    pub(super) credentials: &'static [&'static str],
    pub(super) status: u16,
    pub(super) code: Code,
    /// The word in the body.
    pub(super) error: &'static str,
    /// The parameters of the challenge beside the realm and the description of the error.
    pub(super) challenge: Option<&'static [(&'static str, &'static str)]>,
    /// Seconds.
    pub(super) retry_after: Option<u64>,
    /// `grpc-retry-pushback-ms`.
    pub(super) pushback: Option<&'static str>,
}

/// No credentials, from which the other rows differ.
pub(super) const MISSING_TOKEN: Row = Row {
    kind: RejectionKind::MissingToken,
    path: "/test.Api/Open",
    credentials: &[],
    status: 401,
    code: Code::Unauthenticated,
    error: "missing_token",
    challenge: Some(&[]),
    retry_after: None,
    pushback: None,
};

const MALFORMED_REQUEST: Row = Row {
    kind: RejectionKind::MalformedRequest,
    status: 400,
    error: "invalid_request",
    challenge: Some(&[("error", "invalid_request")]),
    ..MISSING_TOKEN
};

pub(super) const INVALID_TOKEN: Row = Row {
    kind: RejectionKind::InvalidToken,
    error: "invalid_token",
    challenge: Some(&[("error", "invalid_token")]),
    ..MISSING_TOKEN
};

const STEP_UP_REQUIRED: Row = Row {
    kind: RejectionKind::StepUpRequired,
    credentials: &["Bearer good"],
    error: "insufficient_user_authentication",
    ..MISSING_TOKEN
};

const FORBIDDEN: Row = Row {
    kind: RejectionKind::Forbidden,
    credentials: &["Bearer good"],
    status: 403,
    code: Code::PermissionDenied,
    error: "forbidden",
    ..MISSING_TOKEN
};

pub(super) const RATE_LIMITED: Row = Row {
    kind: RejectionKind::RateLimited,
    path: "/test.Api/Limited",
    credentials: &["Bearer good"],
    status: 429,
    code: Code::ResourceExhausted,
    error: "rate_limited",
    challenge: None,
    retry_after: Some(2),
    pushback: Some("2000"),
};

const UNAVAILABLE: Row = Row {
    kind: RejectionKind::Unavailable,
    status: 503,
    code: Code::Unavailable,
    error: "temporarily_unavailable",
    challenge: None,
    retry_after: Some(5),
    pushback: Some("5000"),
    ..MISSING_TOKEN
};

const LAYER_MISSING: Row = Row {
    kind: RejectionKind::LayerMissing,
    path: "/test.Api/Miswired",
    credentials: &["Bearer good"],
    status: 500,
    code: Code::Internal,
    error: "misconfigured",
    challenge: None,
    ..MISSING_TOKEN
};

pub(super) const ROWS: &[Row] = &[
    MISSING_TOKEN,
    Row { credentials: &["Basic Zm9vOmJhcg=="], ..MISSING_TOKEN },
    Row {
        path: "/test.Api/OptionalScope",
        challenge: Some(&[("scope", "read write")]),
        ..MISSING_TOKEN
    },
    Row { credentials: &["Bearer"], ..MALFORMED_REQUEST },
    Row { credentials: &["Bearer good", "Bearer good"], ..MALFORMED_REQUEST },
    Row { credentials: &["Bearer unknown"], ..INVALID_TOKEN },
    Row { credentials: &["Bearer leaky"], ..INVALID_TOKEN },
    Row {
        kind: RejectionKind::TokenExpired,
        credentials: &["Bearer expired"],
        error: "token_expired",
        ..INVALID_TOKEN
    },
    Row {
        kind: RejectionKind::TokenNotActive,
        credentials: &["Bearer early"],
        error: "token_not_active",
        ..INVALID_TOKEN
    },
    Row {
        kind: RejectionKind::TokenRevoked,
        credentials: &["Bearer revoked"],
        error: "token_revoked",
        ..INVALID_TOKEN
    },
    Row {
        path: "/test.Api/StrongLogin",
        challenge: Some(&[("error", "insufficient_user_authentication"), ("acr_values", "mfa hw")]),
        ..STEP_UP_REQUIRED
    },
    Row {
        path: "/test.Api/FreshLogin",
        challenge: Some(&[("error", "insufficient_user_authentication"), ("max_age", "300")]),
        ..STEP_UP_REQUIRED
    },
    Row {
        kind: RejectionKind::InsufficientScope,
        path: "/test.Api/Scope",
        error: "insufficient_scope",
        // BEARER-31: all that is needed, not what is lacking.
        challenge: Some(&[("error", "insufficient_scope"), ("scope", "read write")]),
        ..FORBIDDEN
    },
    Row { path: "/test.Api/Role", ..FORBIDDEN },
    RATE_LIMITED,
    Row { path: "/test.Api/NeverAllowed", retry_after: None, pushback: Some("-1"), ..RATE_LIMITED },
    Row { credentials: &["Bearer outage"], ..UNAVAILABLE },
    Row {
        credentials: &["Bearer long-outage"],
        retry_after: Some(31),
        pushback: Some("31000"),
        ..UNAVAILABLE
    },
    Row {
        path: "/test.Api/StoreDown",
        credentials: &["Bearer good"],
        retry_after: Some(1),
        pushback: Some("1000"),
        ..UNAVAILABLE
    },
    LAYER_MISSING,
    Row { path: "/test.Api/MiswiredLimit", ..LAYER_MISSING },
];

impl Row {
    /// What distinguishes the row in a message.
    pub(super) fn name(&self) -> String {
        format!("{:?}: {} {:?}", self.kind, self.path, self.credentials)
    }

    pub(super) fn request(&self, server: SocketAddr, method: Method) -> Request<TestBody> {
        let uri = format!("http://{server}{}", self.path);
        let mut request = Request::builder().method(method).uri(uri);
        for value in self.credentials {
            request = request.header(AUTHORIZATION, *value);
        }
        request.header("accept", "text/html").body(TestBody::default()).unwrap()
    }

    /// What stays whoever writes the body.
    pub(super) fn assert_head(&self, answer: &Answer, rejection: &Rejection) {
        let name = self.name();
        assert_eq!(answer.status, self.status, "BEARER-30: {name}");
        assert_eq!(rejection.kind(), self.kind, "{name}");
        assert_eq!(rejection.error(), self.error, "{name}");
        self.assert_headers(&answer.headers, rejection);
        let length = answer.header("content-length");
        assert_eq!(length, answer.body.len().to_string(), "{name}");
    }

    /// The headers that HTTP and gRPC have in common.
    fn assert_headers(&self, headers: &HeaderMap, rejection: &Rejection) {
        let name = self.name();
        let challenges: Vec<_> = headers.get_all("www-authenticate").iter().collect();
        assert!(challenges.len() <= 1, "BEARER-26: {name}");
        let challenge = challenges.first().map(|value| parameters(value.to_str().unwrap()));
        if matches!(self.status, 400 | 401 | 403) {
            assert!(challenge.is_some(), "BEARER-20, BEARER-30: {name}");
        }
        assert_eq!(challenge.is_some(), self.challenge.is_some(), "{name}: {challenge:?}");
        if let (Some(found), Some(expected)) = (challenge, self.challenge) {
            let get = |key| found.iter().find(|(name, _)| name == key).map(|(_, value)| &**value);
            assert!(get("realm").is_some(), "BEARER-21: {name}");
            let described = get("error").map(|_| rejection.message());
            assert_eq!(get("error_description"), described, "BEARER-27: {name}");
            let common = ["realm", "resource_metadata", "error_description"];
            let rest = found.iter().map(|(name, value)| (&**name, &**value));
            let rest: Vec<_> = rest.filter(|(name, _)| !common.contains(name)).collect();
            assert_eq!(rest, expected, "BEARER-30, BEARER-31: {name}");
        }
        let retry_after: Vec<_> = headers.get_all("retry-after").iter().collect();
        let expected: Vec<_> = self.retry_after.map(HeaderValue::from).into_iter().collect();
        assert_eq!(retry_after, expected.iter().collect::<Vec<_>>(), "RL-21, RL-22: {name}");
        let cache_control: Vec<_> = headers.get_all("cache-control").iter().collect();
        assert_eq!(cache_control, ["no-store"], "BEARER-70: {name}");
    }

    /// The problem document.
    pub(super) fn assert_body(&self, answer: &Answer, rejection: &Rejection) {
        let name = self.name();
        assert_eq!(answer.header("content-type"), "application/problem+json", "BEARER-60: {name}");
        let body = answer.json();
        assert_eq!(body["error"], self.error, "{name}");
        assert_eq!(body["message"], rejection.message(), "{name}");
        assert_eq!(body["status"], self.status, "BEARER-60: {name}");
        if self.kind == RejectionKind::RateLimited {
            let r#type = "https://iana.org/assignments/http-problem-types#quota-exceeded";
            assert_eq!(body["type"], r#type, "RL-9: {name}");
            assert_eq!(body["title"], "Quota exceeded", "RL-9: {name}");
            assert_eq!(body["violated-policies"], serde_json::json!(["trial"]), "RL-9: {name}");
        } else {
            let title = StatusCode::from_u16(self.status).unwrap().canonical_reason().unwrap();
            assert_eq!(body["type"], "about:blank", "BEARER-61: {name}");
            assert_eq!(body["title"], title, "BEARER-61: {name}");
        }
        let challenge = self.challenge.unwrap_or_default();
        let scope = challenge.iter().find(|(name, _)| *name == "scope").map(|(_, scope)| *scope);
        assert_eq!(body["scope"].as_str(), scope, "BEARER-31: {name}");
        assert_eq!(body["retry_after"].as_u64(), self.retry_after, "{name}");
    }

    /// The status that a tonic client sees.
    pub(super) fn assert_status(&self, status: &Status, rejection: &Rejection) {
        let name = self.name();
        assert_eq!(status.code(), self.code, "GRPC-13: {name}");
        assert_eq!(status.message(), rejection.message(), "GRPC-15: {name}");
        let metadata = status.metadata().clone().into_headers();
        self.assert_headers(&metadata, rejection);
        let pushback = metadata.get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap());
        assert_eq!(pushback, self.pushback, "GRPC-23: {name}");
        let limits = self.kind == RejectionKind::RateLimited;
        assert_eq!(metadata.contains_key("ratelimit"), limits, "GRPC-17: {name}");
        match self.retry_after {
            None => assert!(status.details().is_empty(), "GRPC-21: {name}"),
            Some(seconds) => {
                let details = RpcStatus::decode(status.details()).unwrap();
                assert_eq!(details.code, self.code as i32, "GRPC-20: {name}");
                assert_eq!(details.message, status.message(), "GRPC-20: {name}");
                let [any] = &*details.details else { panic!("GRPC-21: {name}: {details:?}") };
                let r#type = "type.googleapis.com/google.rpc.RetryInfo";
                assert_eq!(any.type_url, r#type, "GRPC-21: {name}");
                let delay = RetryInfo::decode(&*any.value).unwrap().retry_delay.unwrap();
                assert_eq!(
                    (delay.seconds, delay.nanos),
                    (seconds.cast_signed(), 0),
                    "GRPC-21: {name}"
                );
            }
        }
    }

    pub(super) fn with_token(&self, server: SocketAddr, token: &str) -> Request<TestBody> {
        let mut request = self.request(server, Method::GET);
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(AUTHORIZATION, value);
        request
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}
