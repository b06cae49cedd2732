//! The invariants of the house, read off its own source: each test is one of them, and fails with
//! the places that break it.

mod source;

use std::path::Path;

use source::{Source, files, root, sources};

/// Who may name which other module of this crate; `Nothing points back at gateway` follows.
const ARROWS: &[(&str, &[&str])] = &[
    ("client", &["config"]),
    ("config", &[]),
    ("limit", &["auth", "config", "model"]),
    ("model", &[]),
    ("payload", &["config", "model", "route"]),
    ("policy", &["auth", "config", "model", "route"]),
    ("route", &["config"]),
    ("store", &["auth", "config", "limit", "scheduler", "usage"]),
];

#[test]
fn only_server_gateway_and_peer_name_pingora() {
    let allowed = ["server", "gateway", "upstream/peer", "limit/login"];
    hold("names a pingora crate", |source| {
        !source.is_in(&allowed) && source.names_crate("pingora")
    });
}

#[test]
fn only_store_names_sqlx_or_redis() {
    hold("names sqlx or redis", |source| {
        !source.is_in(&["store"]) && (source.names_crate("sqlx") || source.names_crate("redis"))
    });
}

#[test]
fn judging_is_synchronous_without_io_clock_or_randomness() {
    let pure = [
        "policy",
        "route",
        "client",
        "model",
        "payload",
        "limit/quota",
        "scheduler/breaker",
        "scheduler/core",
        "scheduler/learn",
        "scheduler/placement",
        "scheduler/prefix",
        "scheduler/queue",
        "scheduler/room",
        "scheduler/station",
        "scheduler/wish",
    ];
    let impure = [
        "async fn",
        "async move",
        ".await",
        "::now(",
        "SystemTime",
        "std::fs",
        "std::io",
        "std::env",
        "std::thread",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "SystemRandom",
    ];
    hold("is not a pure function of its arguments", |source| {
        let crates = ["tokio", "reqwest", "rand"].iter().any(|name| source.names_crate(name));
        source.is_in(&pure) && (crates || impure.iter().any(|word| source.code.contains(word)))
    });
}

#[test]
fn a_plaintext_credential_lives_only_inside_auth() {
    // the commands that make a key show it once
    let allowed = ["auth", "config/secret", "config/file", "cli"];
    hold("handles a plaintext credential", |source| {
        let words = ["PlainKey", "Zeroizing"];
        !source.is_in(&allowed) && words.iter().any(|word| source.has_word(word))
    });
    hold("derives Debug for a plaintext credential", |source| {
        let derived = source.items("#[derive(");
        derived.iter().any(|item| item.contains("Debug") && item.contains("Zeroizing"))
    });
}

#[test]
fn every_refusal_passes_through_one_file() {
    // what wraps a stream of HTTP/2 only hands on; a head in advance is no refusal
    let allowed = ["gateway/refusal", "gateway/local", "gateway/h2", "gateway/patience"];
    let writing =
        ["write_response_header", "write_error_response", "respond_error", "ResponseHeader::build"];
    hold("answers a client by itself", |source| {
        !source.is_in(&allowed) && writing.iter().any(|word| source.code.contains(word))
    });
}

#[test]
fn there_is_no_state_outside_of_values() {
    let cells = ["OnceLock", "LazyLock", "OnceCell", "LazyCell", "lazy_static", "thread_local"];
    hold("keeps static state", |source| {
        // the one `static` that the language itself asks for
        let allocator =
            "static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;";
        let source = source.without(allocator);
        !source.is_in(&["telemetry/metrics"])
            && (source.has_static_state() || cells.iter().any(|word| source.has_word(word)))
    });
}

#[test]
fn scarce_things_are_freed_by_unwinding() {
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("panic = \"unwind\""), "the release profile must say so");
    assert!(!manifest.contains("panic = \"abort\""), "guards would not be freed");
    hold("keeps guards from being freed", |source| {
        source.code.contains("mem::forget")
            || source.has_word("ManuallyDrop")
            || (!source.is_in(&["main", "cli"]) && source.code.contains("process::exit"))
            || source.code.contains("process::abort")
    });
}

#[test]
fn modules_point_only_where_the_story_goes() {
    hold("points where it should not", |source| {
        let Some((_, allowed)) = ARROWS.iter().find(|(module, _)| source.is_in(&[module])) else {
            // the commands start the server, and the server the gateway
            let may = source.is_in(&["cli", "server", "gateway", "main", "lib"]);
            return !may && source.crate_modules().iter().any(|module| module == "gateway");
        };
        let own = source.module();
        source.crate_modules().iter().any(|to| *to != own && !allowed.contains(&to.as_str()))
    });
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long: Vec<_> = files()
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source::read(path))
        .filter(|source| source.lines_of_code() > 400)
        .map(|source| format!("{}: {} lines of code", source.path, source.lines_of_code()))
        .collect();
    assert!(long.is_empty(), "over 400 lines of code: {long:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    // put together here so that this file does not find itself
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["to", "do!("], ["#[ign", "ore"]];
    let words = words.map(|halves| halves.concat());
    let found = occurrences(|path| has_extension(path, &["rs", "py", "sql"]), &words);
    assert!(found.is_empty(), "unfinished by their own word: {found:#?}");
}

#[test]
fn the_repository_stands_alone() {
    let places =
        [["/ho", "me/"], ["/ro", "ot/"], ["/wo", "rk/"], ["/Us", "ers/"], ["../sh", "ared"]];
    let hosts =
        [["py", "pi.org"], ["index.cr", "ates"], ["registry.np", "mjs"], ["deb.deb", "ian"]];
    let words = [&places[..], &hosts[..]].concat().iter().map(|it| it.concat()).collect::<Vec<_>>();
    let found = occurrences(|path| !path.ends_with("Cargo.lock"), &words);
    assert!(found.is_empty(), "places outside of the repository: {found:#?}");
    let escaping: Vec<_> = files()
        .into_iter()
        .filter(|path| has_extension(path, &["md", "yaml", "yml", "toml", "sh"]))
        .filter(|path| climbs(path) >= path.components().count())
        .collect();
    assert!(escaping.is_empty(), "paths that leave the repository: {escaping:#?}");
}

#[test]
fn what_a_newcomer_looks_for_is_there() {
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"] {
        assert!(root().join(name).is_file(), "{name} is missing");
    }
}

/// Fails, naming the files of `src/` of which `broken` is true.
fn hold(fault: &str, broken: impl Fn(&Source) -> bool) {
    let culprits: Vec<_> =
        sources().into_iter().filter(|source| broken(source)).map(|source| source.path).collect();
    assert!(culprits.is_empty(), "{fault}: {culprits:?}");
}

/// Lines that hold one of `words`, as `file:line`.
fn occurrences(wanted: impl Fn(&Path) -> bool, words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in files().iter().filter(|path| wanted(path)) {
        for (index, line) in read(path).lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    found
}

/// How many levels the boldest `../../…` of a file climbs.
fn climbs(path: &Path) -> usize {
    let text = read(path);
    let runs = text.split(|c: char| c.is_whitespace() || "'\"`()[]{},;:=".contains(c));
    runs.map(|run| run.split('/').take_while(|part| *part == "..").count()).max().unwrap_or(0)
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    path.extension().is_some_and(|own| wanted.iter().any(|each| own == *each))
}

/// A file's text; empty if it is not text.
fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}
