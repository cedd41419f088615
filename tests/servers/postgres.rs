//! A PostgreSQL of the tests' own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A server on a free port of the loopback interface, with its data in a temporary folder. It is
/// gone when it is dropped, and when the test program ends.
pub(crate) struct Postgres {
    port: u16,
    folder: PathBuf,
    server: Mutex<Child>,
    /// A shell that waits for its standard input to end, which it does with this process, and then
    /// takes away what is left.
    _undertaker: Child,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::SeqCst);
        let name = format!("tower-gate-postgres-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&folder).status().unwrap().success());
        }
        let data = folder.join("data");
        let made = program("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "initdb");
        let undertaker = Command::new("sh")
            .arg("-c")
            .arg("cat >&2; kill -KILL $(cat \"$0/data/postmaster.pid\" | head -n 1); rm -rf \"$0\"")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Mutex::new(Self::serve(&data, port));
        let postgres = Self { port, folder, server, _undertaker: undertaker.unwrap() };
        postgres.wait();
        postgres
    }

    /// The address of the database of this name.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// An address of a fresh database.
    pub(crate) fn fresh_url(&self) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let database = format!("test_{}", MADE.fetch_add(1, Ordering::SeqCst));
        self.run(&format!("CREATE DATABASE {database}"));
        self.url(&database)
    }

    /// Nothing answers any more, and no connection breaks.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Every connection breaks, as on a failing machine.
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
        self.server.lock().unwrap().wait().unwrap();
        // Nobody else's process is killed in the place of one that is gone.
        fs::remove_file(self.folder.join("data/postmaster.pid")).unwrap();
    }

    /// Serves again after a [`kill`](Self::kill), with what was committed.
    pub(crate) fn restart(&self) {
        *self.server.lock().unwrap() = Self::serve(&self.folder.join("data"), self.port);
        self.wait();
    }

    /// Runs one statement, in a session of its own.
    pub(crate) fn run(&self, statement: &str) {
        let mut psql = program("psql");
        psql.args(["-q", "-d", &self.url("postgres"), "-c", statement]).stdout(Stdio::null());
        assert!(psql.status().unwrap().success(), "{statement}");
    }

    /// All that is in a database, as text.
    pub(crate) fn dump(&self, url: &str) -> String {
        let output = program("pg_dump").args(["--inserts", "-d", url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn serve(data: &Path, port: u16) -> Child {
        program("postgres")
            .arg("-D")
            .arg(data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
            .args(["-c", "max_connections=200"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        let began = Instant::now();
        let is_ready = || {
            let ready = program("pg_isready").args(["-q", "-d", &self.url("postgres")]).status();
            ready.unwrap().success()
        };
        while !is_ready() {
            assert!(began.elapsed() < Duration::from_secs(60), "PostgreSQL does not start");
            sleep(Duration::from_millis(20));
        }
    }

    /// To the server and the processes that serve its connections, each of which is the leader of a
    /// group of its own.
    fn signal(&self, signal: &str) {
        let server = self.server.lock().unwrap().id().to_string();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &server]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let children: Vec<&str> = children.split_whitespace().collect();
        // A server that goes on would start new ones in their place.
        assert!(Command::new("kill").args([signal, &server]).status().unwrap().success());
        let _ = Command::new("kill").arg(signal).args(children).stderr(Stdio::null()).status();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A test may end while it is killed.
        let is_running = |mut server: MutexGuard<'_, Child>| matches!(server.try_wait(), Ok(None));
        if self.server.lock().is_ok_and(is_running) {
            self.kill();
        }
    }
}

/// One of PostgreSQL's programs, which must not run as root.
fn program(name: &str) -> Command {
    let path = Path::new("/usr/lib/postgresql")
        .read_dir()
        .ok()
        .and_then(|versions| {
            let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
            folders.filter(|folder| folder.join(name).exists()).max()
        })
        .unwrap_or_else(|| panic!("there is no {name}: apt-get install postgresql"));
    let path = path.join(name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir("/").env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}
