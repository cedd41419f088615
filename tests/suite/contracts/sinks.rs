//! `AuditSink`.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use http::{Request, Response};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};
use tower_gate::sink::{JsonLinesSink, NullSink, QueueSink, TracingSink};
use tower_gate::{AuditEvent, AuditLayer, AuditSink, AuthenticateLayer, FixedVerifier};
use tracing::Dispatch;

use crate::contracts::{block_on, contract};
use crate::recording::{Buffer, Recorder, Recording};
use crate::support::{Probe, TestBody, Trail, send};

/// A sink, and how to find the paths of the events in it once it is dropped.
struct Adapter<S> {
    sink: S,
    paths: Box<dyn Fn() -> Vec<String>>,
}

contract! {
    [
        every_event_is_kept_once
        events_stay_in_their_order
        however_a_request_ends_its_event_is_kept
        a_client_cannot_make_two_events_of_one
    ]
    closure => closure();
    json_lines => json_lines();
    queue => queue();
    shared => shared();
    tracing_events => tracing_events();
}

fn paths_of(trail: Trail) -> Box<dyn Fn() -> Vec<String>> {
    Box::new(move || trail.events().into_iter().map(|event| event.path).collect())
}

fn closure() -> Adapter<impl AuditSink> {
    let trail = Trail::default();
    let kept = trail.clone();
    Adapter { sink: move |event: AuditEvent| kept.accept(event), paths: paths_of(trail) }
}

fn shared() -> Adapter<impl AuditSink> {
    let trail = Trail::default();
    Adapter { sink: Arc::new(trail.clone()), paths: paths_of(trail) }
}

fn queue() -> Adapter<impl AuditSink> {
    let trail = Trail::default();
    Adapter { sink: QueueSink::new(trail.clone(), 1000).unwrap(), paths: paths_of(trail) }
}

fn json_lines() -> Adapter<impl AuditSink> {
    let lines = Buffer::default();
    let sink = JsonLinesSink::new(lines.clone());
    let path = |line: &str| -> String {
        let event: Value = serde_json::from_str(line).unwrap();
        event["path"].as_str().unwrap().to_owned()
    };
    Adapter { sink, paths: Box::new(move || lines.text().lines().map(path).collect()) }
}

fn tracing_events() -> Adapter<impl AuditSink> {
    /// The sink on whatever thread a request ends.
    struct Subscribed(Dispatch);
    impl AuditSink for Subscribed {
        fn accept(&self, event: AuditEvent) {
            tracing::dispatcher::with_default(&self.0, || TracingSink.accept(event));
        }
    }
    let recorder = Recorder::default();
    let sink = Subscribed(Recording::dispatch(recorder.clone(), Buffer::default()));
    let paths = move || {
        let events = recorder.events("tower_gate::audit");
        events.iter().map(|event| event.field("path").to_owned()).collect()
    };
    Adapter { sink, paths: Box::new(paths) }
}

fn get(path: &str) -> Request<TestBody> {
    Request::get(path).body(TestBody::default()).unwrap()
}

fn every_event_is_kept_once<S: AuditSink>(adapter: impl Fn() -> Adapter<S>) {
    let Adapter { sink, paths } = adapter();
    let service = AuditLayer::new(sink).layer(Probe::default());
    block_on(async {
        let mut tasks = Vec::new();
        for task in 0..8 {
            let service = service.clone();
            tasks.push(tokio::spawn(async move {
                for n in 0..100 {
                    send(&service, get(&format!("/{task}/{n:02}"))).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    drop(service);
    let mut kept = paths();
    kept.sort();
    let sent = (0..8).flat_map(|task| (0..100).map(move |n| format!("/{task}/{n:02}")));
    assert!(kept.iter().cloned().eq(sent), "AUDIT-1: {kept:?}");
}

fn events_stay_in_their_order<S: AuditSink>(adapter: impl Fn() -> Adapter<S>) {
    let Adapter { sink, paths } = adapter();
    let service = AuditLayer::new(sink).layer(Probe::default());
    let sent: Vec<_> = (0..100).map(|n| format!("/{n}")).collect();
    block_on(async {
        for path in &sent {
            send(&service, get(path)).await;
        }
    });
    drop(service);
    assert_eq!(paths(), sent, "AUDIT-10");
}

fn however_a_request_ends_its_event_is_kept<S: AuditSink>(adapter: impl Fn() -> Adapter<S>) {
    let Adapter { sink, paths } = adapter();
    let handler = service_fn(|request: Request<TestBody>| async move {
        match request.uri().path() {
            "/waits" => std::future::pending().await,
            "/panics" => panic!("out of luck"),
            _ => Ok::<_, Infallible>(Response::new(TestBody::default())),
        }
    });
    let optional = AuthenticateLayer::new(FixedVerifier::new()).optional();
    let service = AuditLayer::new(sink).layer(optional.layer(handler));
    block_on(async {
        send(&service, get("/answers")).await;
        let mut refused = get("/refused");
        refused.headers_mut().insert("authorization", "Bearer unknown".parse().unwrap());
        assert_eq!(send(&service, refused).await.status, 401);
        {
            let mut waits = pin!(service.clone().oneshot(get("/waits")));
            assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        tokio::spawn(service.clone().oneshot(get("/panics"))).await.unwrap_err();
    });
    drop(service);
    assert_eq!(paths(), ["/answers", "/refused", "/waits", "/panics"], "AUDIT-43");
}

fn a_client_cannot_make_two_events_of_one<S: AuditSink>(adapter: impl Fn() -> Adapter<S>) {
    let Adapter { sink, paths } = adapter();
    let service = AuditLayer::new(sink).layer(Probe::default());
    let path = "/a%0d%0a{\"path\":\"/b\"}|%1b[2J";
    let mut request = get(path);
    let user_agent = http::HeaderValue::from_bytes(b"a\t\"}{\"path\":\"/c\"}\xe2\x80\xa8\xff");
    request.headers_mut().insert("user-agent", user_agent.unwrap());
    block_on(send(&service, request));
    drop(service);
    assert_eq!(paths(), [path], "AUDIT-30, attack 45");
}

#[test]
fn the_null_sink_takes_whatever_comes() {
    let service = AuditLayer::new(NullSink).layer(Probe::default());
    assert_eq!(block_on(send(&service, get("/"))).status, 200);
}
