//! Real servers, each of them a process of the test that starts it.
#![allow(dead_code, reason = "each test binary uses the servers that it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod front;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

/// A server that ends when this is dropped, and with the test, whatever ends that: also one in a
/// `static`, which nobody drops.
pub(crate) struct Process {
    keeper: Child,
    pid: u32,
}

/// Says the server's number and waits until its own input ends, which is when the test does. It
/// removes the directory of a server that does not come back.
const KEEPER: &str = r#"
    directory=$1; shift
    "$@" >>"$directory/log" 2>&1 &
    echo $!
    read -r comes_back; ended=$?
    kill -KILL $!; wait
    test $ended = 0 || rm -rf "$directory"
"#;

impl Process {
    /// Starts a program in the foreground; what it prints goes to the directory's file `log`.
    ///
    /// # Panics
    ///
    /// When the program is not there: a test that needs it never passes without it.
    pub(crate) fn start<A: AsRef<str>>(package: &str, directory: &Path, program: &[A]) -> Self {
        let program = program.iter().map(AsRef::as_ref);
        assert_installed(program.clone().next().unwrap(), package);
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh", directory.to_str().unwrap()]).args(program);
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        Self { keeper, pid: pid.trim().parse().unwrap() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops it where it stands: it accepts connections, which the system does for it, and answers
    /// nothing.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Kills it, and leaves its directory for the one that comes after it.
    pub(crate) fn stop_to_restart(mut self) {
        self.keeper.stdin.take().unwrap().write_all(b"comes back\n").unwrap();
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid);
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Panics with the package to install when the program is neither on the path nor a file.
pub(crate) fn assert_installed(program: &str, package: &str) {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(is_there, "`{program}` is not installed: apt-get install {package}");
}

/// A directory of its own, which goes with it.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tower-gate-{}-{next}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A loopback port that nobody listens on. Somebody else may take it before it is used, so whoever
/// starts a server looks whether the one that answers is its own.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Asks until the answer is there, for ten seconds.
pub(crate) fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
