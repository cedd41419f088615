//! Who may use whom: vocabulary, then outcomes, then ports, then adapters and layers, then edges.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// The ranks, lowest first. A file may use rooms of its own rank and below.
const RANKS: [&[&str]; 5] = [
    &[
        "claims",
        "client_ip",
        "clock",
        "json",
        "panics",
        "partition",
        "prehashed",
        "principal",
        "quota",
        "random",
        "requirement",
        "revocation",
        "scope",
        "seldom",
        "sharded",
        "token",
    ],
    &["attempt", "event", "limit_fields", "rejection", "trace"],
    &["fetch", "sink", "store", "verifier"],
    &["audit", "authenticate", "concurrency_limit", "failure_limit", "rate_limit", "require_scope"],
    &["extract", "guide", "metadata", "test_util"],
];
const PORTS: usize = 2;
const LAYERS: usize = 3;
const EDGES: usize = 4;

fn rank(room: &str) -> usize {
    RANKS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("`{room}` has no rank: add it to RANKS"))
}

/// Every source file below a folder. The guide's prose is none.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_none_or(|extension| extension != "md")).collect()
}

/// The room of a file, and what it uses, without tests.
fn read(path: &Path, src: &Path) -> (String, Vec<String>) {
    let relative = path.strip_prefix(src).unwrap();
    let first = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
    let room = if first == "trace_off" { "trace" } else { first };
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    let uses = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = uses.flat_map(|line| line.split("crate::").skip(1));
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = |rest: &str| rest.find(|c| !is_path(c)).unwrap_or(rest.len());
    (room.to_owned(), paths.map(|rest| rest[..end(rest)].to_owned()).collect())
}

#[test]
fn rooms_use_only_what_stands_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in sources(&src) {
        if path.ends_with("lib.rs") {
            continue;
        }
        let (room, uses) = read(&path, &src);
        let is_test_room = room == "test_util";
        for used in uses {
            let other = used.split("::").next().unwrap();
            seen += 1;
            let (from, to) = (rank(&room), rank(other));
            let place = format!("{}: `{used}`", path.display());
            assert!(to <= from, "{place} stands above `{room}`");
            if room == other {
                continue;
            }
            assert!(from != LAYERS || to != LAYERS, "{place}: a layer uses another layer");
            let is_port = from == PORTS && path == src.join(&room).join("mod.rs");
            assert!(!is_port || to != PORTS, "{place}: a port uses another port");
            let names_adapter = to == PORTS
                && used
                    .split("::")
                    .nth(1)
                    .is_some_and(|part| part.starts_with(char::is_lowercase) && !part.is_empty());
            assert!(!names_adapter || is_test_room, "{place}: names an adapter");
            assert!(from != EDGES || other != "extract", "{place}: an edge uses another edge");
        }
    }
    assert!(seen > 100, "only {seen} uses were found: is this test still reading the sources?");
}

#[test]
fn adapters_know_nothing_of_tower() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in RANKS[..=PORTS].concat() {
        for path in sources(&src).iter().filter(|path| path.starts_with(src.join(room))) {
            let text = fs::read_to_string(path).unwrap();
            for name in ["tower_layer", "tower_service"] {
                assert!(!text.contains(name), "{} uses {name}", path.display());
            }
        }
    }
}

/// Numbers of statuses and texts of challenges are made in one room.
#[test]
fn only_the_room_of_refusals_knows_status_numbers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src).iter().filter(|path| !path.starts_with(src.join("rejection"))) {
        let text = fs::read_to_string(path).unwrap();
        for word in ["StatusCode::", "WWW_AUTHENTICATE", "header::RETRY_AFTER"] {
            let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let found = code.any(|line| line.contains(word));
            assert!(!found, "{} uses {word}", path.display());
        }
    }
}
