//! Connections that are kept open, until the endpoint closes one just as it is used again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower_gate::ManualClock;

use crate::scene::{Api, active, builder, ok, unavailable};

/// How many questions each connection answers before it is closed on the next one, unanswered; and
/// how many questions came over each.
#[derive(Clone)]
struct Plan(Arc<Mutex<(VecDeque<usize>, Vec<usize>)>>);

impl Plan {
    fn new(answered: &[usize]) -> Self {
        Self(Arc::new(Mutex::new((answered.iter().copied().collect(), Vec::new()))))
    }

    fn asked(&self) -> Vec<usize> {
        self.0.lock().unwrap().1.clone()
    }

    async fn serve(self, listener: TcpListener, answer: String) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (number, answered) = {
                let (answered, asked) = &mut *self.0.lock().unwrap();
                asked.push(0);
                (asked.len() - 1, answered.pop_front().unwrap_or(usize::MAX))
            };
            connections.spawn(self.clone().answer(stream, number, answered, answer.clone()));
        }
    }

    async fn answer(self, mut stream: TcpStream, number: usize, answered: usize, answer: String) {
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len(),
        );
        for _ in 0..=answered {
            let mut question = Vec::new();
            // The form is its end.
            while !question.ends_with(b"token_type_hint=access_token") {
                if stream.read_buf(&mut question).await.is_ok_and(|read| read == 0) {
                    return;
                }
            }
            let asked = {
                let counts = &mut self.0.lock().unwrap().1;
                counts[number] += 1;
                counts[number]
            };
            if asked <= answered {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }
}

/// What an API says whose endpoint does this to its connections, about three tokens.
async fn says(plan: &Plan) -> [(u16, String); 3] {
    let clock = ManualClock::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/introspect", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(plan.clone().serve(listener, active(&clock, json!({})).to_string()));
    let api = Api::new(builder(&url).build().unwrap(), &clock);
    [api.says("one").await, api.says("two").await, api.says("three").await]
}

#[tokio::test]
async fn a_kept_connection_that_ends_as_it_is_used_costs_no_request() {
    let plan = Plan::new(&[1, 1]);
    assert_eq!(says(&plan).await, [(); 3].map(|()| ok()), "OPAQUE-34");
    assert_eq!(plan.asked(), [2, 2, 1], "the question is asked once more, over another connection");
}

/// No question is asked more than twice.
#[tokio::test]
async fn an_endpoint_that_closes_every_connection_is_an_outage() {
    let plan = Plan::new(&[0; 6]);
    assert_eq!(says(&plan).await, [(); 3].map(|()| unavailable()), "OPAQUE-34");
    assert_eq!(plan.asked(), [1; 6], "attack 26");
}
