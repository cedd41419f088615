//! Nodes that are processes of their own, on one Redis and on one PostgreSQL.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tower_gate::Revocation;
use tower_gate::verifier::opaque::NewToken;
use tower_gate::verifier::revocable::Revocations;

use crate::node::{ISSUER, Node, principals};
use crate::proofs::{token_store, tokens};
use crate::shared::{database, postgres, postgres_store, redis, redis_store};

const STORE: &str = "TOWER_GATE_TEST_STORE";

/// Where opaque tokens are, for nodes that have some.
const TOKENS_AT: &str = "TOWER_GATE_TEST_TOKENS";

/// The age after which a node here refuses everybody.
const MAX_AGE: Duration = Duration::from_secs(3);

/// This test program once more, as a node that does what it is told line by line.
struct Remote {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Remote {
    fn start(store: &str) -> Self {
        Self::start_with(store, "")
    }

    fn start_with(store: &str, tokens: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::node", "--ignored", "--nocapture"])
            .env(STORE, store)
            .env(TOKENS_AT, tokens)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut remote = Self { child, input, output };
        assert_eq!(remote.answer(), "ready");
        remote
    }

    fn tell(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.answer()
    }

    /// The next line that is not the test harness's.
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the node has ended");
            if let Some((_, answer)) = line.trim_end().split_once("> ") {
                return answer.to_owned();
            }
        }
    }

    fn refuses_within(&mut self, token: &str, since: Instant, limit: Duration) -> Duration {
        loop {
            let answer = self.tell(&format!("get {token}"));
            let took = since.elapsed();
            if answer == "401 token_revoked revoked" {
                return took;
            }
            assert_eq!(answer, "200");
            assert!(took < limit, "still accepted after {took:?}");
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "what `Remote` starts"]
fn node() {
    let Ok(url) = std::env::var(STORE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (tokens, node) = runtime.block_on(async {
        let builder = if url.starts_with("redis:") {
            Revocations::builder(redis_store(&url).await)
        } else {
            Revocations::builder(postgres_store(&url).await)
        };
        let builder = builder.with_max_age(MAX_AGE);
        let (tokens, node) = match std::env::var(TOKENS_AT).unwrap().as_str() {
            "" => (None, Node::of(builder, principals())),
            url => {
                let (tokens, node) = tokens(token_store(url).await, &builder.start().unwrap());
                (Some(tokens), node)
            }
        };
        node.revocations.ready().await.unwrap();
        (tokens, node)
    });
    println!("> ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, name) = line.split_once(' ').unwrap();
        let answer = runtime.block_on(async {
            match verb {
                "get" => node.get(name).await.text,
                "issue" => {
                    let issued = tokens.as_ref().unwrap().issue(NewToken::new(name)).await.unwrap();
                    format!("{} {}", issued.record.id, issued.token.expose())
                }
                "end" => match tokens.as_ref().unwrap().revoke(name).await {
                    Ok(true) => "done".to_owned(),
                    other => format!("{other:?}"),
                },
                _ => match node.revocations.revoke(Revocation::token(ISSUER, name)).await {
                    Ok(()) => "done".to_owned(),
                    Err(error) => error.to_string(),
                },
            }
        });
        println!("> {answer}");
    }
}

/// All that can be revoked, by token and id.
const TOKENS: [(&str, &str); 6] = [
    ("base", "t-1"),
    ("subject", "t-2"),
    ("client", "t-3"),
    ("token", "t-4"),
    ("key", "t-5"),
    ("young", "t-6"),
];

/// Three of them, and the time from the return of `revoke` on one until the others refuse.
fn revocations_reach_other_processes(store: &str, cut_off: impl Fn()) {
    let mut nodes = [Remote::start(store), Remote::start(store), Remote::start(store)];
    let mut longest = Duration::ZERO;
    for (n, (token, id)) in TOKENS.into_iter().enumerate() {
        for node in &mut nodes {
            assert_eq!(node.tell(&format!("get {token}")), "200");
        }
        nodes.rotate_left(n % 3);
        let [revoking, others @ ..] = &mut nodes;
        assert_eq!(revoking.tell(&format!("revoke {id}")), "done");
        let since = Instant::now();
        let at_once = revoking.tell(&format!("get {token}"));
        assert_eq!(at_once, "401 token_revoked revoked", "OPAQUE-70");
        for other in others {
            // What is promised with news is less; without, it is the poll interval.
            let took = other.refuses_within(token, since, Duration::from_secs(1));
            longest = longest.max(took);
        }
    }
    eprintln!("revoked elsewhere within {longest:?}: {store}");
    cut_off();
    let began = Instant::now();
    for node in &mut nodes {
        loop {
            let answer = node.tell("get no-id");
            if answer == "503 temporarily_unavailable verifier_unavailable" {
                break;
            }
            assert_eq!(answer, "200", "OPAQUE-72");
            assert!(began.elapsed() < MAX_AGE + Duration::from_secs(1), "OPAQUE-72");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The same with opaque tokens, which each node remembers for an hour unless it is told.
fn ends_of_opaque_tokens_reach_other_processes(store: &str, database: &str) {
    let start = || Remote::start_with(store, database);
    let mut nodes = [start(), start(), start()];
    let mut longest = Duration::ZERO;
    for n in 0..12 {
        nodes.rotate_left(n % 3);
        let issued = nodes[0].tell(&format!("issue user-{n}"));
        let (id, text) = issued.split_once(' ').unwrap();
        for node in &mut nodes {
            for _ in 0..2 {
                assert_eq!(node.tell(&format!("get {text}")), "200");
            }
        }
        let [_, revoking, other] = &mut nodes;
        assert_eq!(revoking.tell(&format!("end {id}")), "done");
        let since = Instant::now();
        let at_once = revoking.tell(&format!("get {text}"));
        assert_eq!(at_once, "401 token_revoked revoked", "OPAQUE-70");
        longest = longest.max(other.refuses_within(text, since, Duration::from_secs(1)));
        longest = longest.max(nodes[0].refuses_within(text, since, Duration::from_secs(1)));
    }
    eprintln!("opaque tokens revoked elsewhere within {longest:?}: {store}");
}

#[test]
fn three_processes_with_opaque_tokens_share_a_redis() {
    let (server, database) = (redis(), database());
    ends_of_opaque_tokens_reach_other_processes(&server.url(), database.url());
}

#[test]
fn three_processes_with_opaque_tokens_share_a_postgres() {
    let database = database();
    ends_of_opaque_tokens_reach_other_processes(database.url(), database.url());
}

#[test]
fn three_processes_share_a_redis() {
    let server = redis();
    revocations_reach_other_processes(&server.url(), || server.pause());
}

#[test]
fn three_processes_share_a_postgres() {
    let server = postgres();
    revocations_reach_other_processes(server.url(), || crate::shared::Server::pause(&server));
}
