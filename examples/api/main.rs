//! The reference API: the layers with every option as a flag.
//!
//! ```text
//! cargo run --release --example api --features full -- --demo --audit audit.jsonl
//! ```
//!
//! The first line that it prints says where it listens. `--help` lists the flags; a wrong one is
//! explained in one line, and the exit code is 2.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the one who runs it")]

mod demo;
mod flags;
mod limits;
mod revocations;
mod routes;
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres")), path = "tokens_off.rs")]
mod tokens;
mod verifier;

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower_gate::AuditSink;
use tower_gate::sink::{JsonLinesSink, NullSink, QueueSink};
use tower_gate::verifier::revocable::RevocableVerifier;

use crate::flags::Flags;

/// An error that is explained to the one who runs the program.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = match Flags::parse(lexopt::Parser::from_env()) {
        Ok(Some(flags)) => flags,
        Ok(None) => {
            print!("{}", flags::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&*error),
    };
    match serve(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&*error),
    }
}

fn refuse(error: &(dyn std::error::Error + Send + Sync)) -> ExitCode {
    let text = error.to_string().replace('\n', " ");
    eprintln!("api: {text}");
    ExitCode::from(2)
}

async fn serve(flags: Flags) -> Result<(), Error> {
    let revocations = revocations::start(&flags).await?;
    let tokens = tokens::open(&flags, &revocations).await?;
    let mut built = verifier::build(&flags, tokens.as_ref())?;
    if let Some(tokens) = tokens.as_ref().filter(|_| !built.tokens.is_empty()) {
        built.tokens.push(("opaque", tokens.demo().await?));
    }
    let sink: Arc<dyn AuditSink> = match &flags.audit {
        None => Arc::new(NullSink),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|error| format!("--audit {}: {error}", path.display()))?;
            Arc::new(QueueSink::new(JsonLinesSink::new(file), 8192)?)
        }
    };
    let limits = limits::limits(&flags, routes::client_ip(&flags)).await?;
    let verifier = RevocableVerifier::new(built.verifier, &revocations);
    let router =
        routes::router(&flags, verifier, tokens.clone(), revocations, limits, sink.clone())?;
    let listener = TcpListener::bind(flags.listen).await;
    let listener = listener.map_err(|error| format!("--listen {}: {error}", flags.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    for (name, token) in built.tokens {
        println!("token {name} {token}");
    }
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stopped()?).await?;
    if let Some(tokens) = tokens {
        tokens.close().await;
    }
    // The last owner of the queue writes down what is still in it.
    drop(sink);
    Ok(())
}

/// SIGINT or SIGTERM.
fn stopped() -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
