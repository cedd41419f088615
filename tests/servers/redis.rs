//! Redis, alone and as a cluster, and Valkey.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use super::{Directory, Process, free_port, wait_for};

/// The program, and the package that has it.
#[derive(Clone, Copy)]
struct Program(&'static str, &'static str);

const REDIS: Program = Program("redis-server", "redis-server");
const VALKEY: Program = Program("valkey-server", "valkey-server, or let scripts/test do it");

/// One server that keeps nothing on disk.
pub(crate) struct Redis {
    program: Program,
    port: u16,
    options: Vec<String>,
    directory: Directory,
    /// `None` while it is killed.
    process: Mutex<Option<Process>>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With options of the command line, such as `["--maxmemory", "2mb"]`.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        Self::start_program(REDIS, options)
    }

    /// Valkey in its place.
    pub(crate) fn start_valkey() -> Self {
        Self::start_program(VALKEY, &[])
    }

    fn start_program(program: Program, options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        for _ in 0..10 {
            let redis = Self {
                program,
                port: free_port(),
                options: options.clone(),
                directory: Directory::new(),
                process: Mutex::default(),
            };
            if redis.run() {
                return redis;
            }
        }
        panic!("no port is free for long enough");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Asks by another client than the one that is tested; what it prints for people.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().replace('\r', "")
    }

    /// How often a command has run, also inside of scripts, since `CONFIG RESETSTAT`.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]);
        let name = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// Every key that there is.
    pub(crate) fn keys(&self) -> Vec<String> {
        let keys = self.command(&["KEYS", "*"]);
        keys.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
    }

    pub(crate) fn pause(&self) {
        self.process().as_ref().unwrap().pause();
    }

    pub(crate) fn resume(&self) {
        self.process().as_ref().unwrap().resume();
    }

    pub(crate) fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.stop_to_restart();
        }
    }

    /// Starts it again on the same port. It knows nothing of before.
    pub(crate) fn restart(&self) {
        self.kill();
        assert!(self.run(), "port {} is taken by somebody else", self.port);
    }

    /// Starts the process, and says whether it got its port.
    fn run(&self) -> bool {
        let log = self.directory.path().join("log");
        let _ = fs::remove_file(&log);
        let (port, directory) = (self.port.to_string(), self.directory.path().to_str().unwrap());
        let Program(program, package) = self.program;
        let mut command = vec![program, "--port", &port, "--bind", "127.0.0.1"];
        command.extend(["--dir", directory, "--save", "", "--appendonly", "no"]);
        command.extend(self.options.iter().map(String::as_str));
        let process = Process::start(package, self.directory.path(), &command);
        let itself = format!("process_id:{}\n", process.pid());
        let is_up = wait_for("Redis", || {
            let says = fs::read_to_string(&log).unwrap_or_default();
            let is_taken = says.contains("Address already in use");
            let is_up = self.command(&["INFO", "server"]).contains(&itself);
            (is_taken || is_up).then_some(is_up)
        });
        *self.process() = is_up.then_some(process);
        is_up
    }

    fn is_up(&self) -> bool {
        self.process().is_some()
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap()
    }
}

/// Three masters, each with a replica.
pub(crate) struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With options of the command line for every node.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        let node = |_| {
            // A node without a reachable master starts an election after this.
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
            let options = [&options[..], &["--repl-diskless-sync-delay", "0"], more].concat();
            let bus = free_port().to_string();
            Redis::start_with(&[&options[..], &["--cluster-port", &bus]].concat())
        };
        let nodes: Vec<_> = (0..6).map(node).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        let output = create.args(["--cluster-replicas", "1", "--cluster-yes"]).output().unwrap();
        let says = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "no cluster was made:\n{says}");
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    pub(crate) fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The node that answers for a key.
    pub(crate) fn master_of(&self, key: &str) -> &Redis {
        self.find_master(key).unwrap()
    }

    /// Kills the master of a key, and waits until its replica answers in its place.
    pub(crate) fn fail_over(&self, key: &str) {
        let master = self.master_of(key);
        master.kill();
        wait_for("a new master", || self.find_master(key));
    }

    /// The replica of a master.
    pub(crate) fn replica_of(&self, master: &Redis) -> &Redis {
        let of = format!("master_port:{}\n", master.port);
        let is_replica = |node: &&Redis| node.command(&["INFO", "replication"]).contains(&of);
        self.nodes.iter().find(is_replica).unwrap()
    }

    /// The others send their clients on, or say that the cluster is down.
    fn find_master(&self, key: &str) -> Option<&Redis> {
        let is_master = |node: &&Redis| {
            let says = node.command(&["GET", key]);
            !says.starts_with("MOVED") && !says.starts_with("CLUSTERDOWN")
        };
        self.nodes.iter().filter(|node| node.is_up()).find(is_master)
    }

    /// A replica that has never had its master's data is not elected in its place.
    fn wait_until_whole(&self) {
        for node in &self.nodes {
            wait_for("a whole cluster", || {
                let knows_all = node.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                let replication = node.command(&["INFO", "replication"]);
                let is_linked = ["master_link_status:up", "state=online"];
                let is_linked = is_linked.iter().any(|state| replication.contains(state));
                (knows_all && is_linked).then_some(())
            });
        }
    }
}
