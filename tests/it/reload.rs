//! The configuration is reread while requests go on: what changes, what stays, what is refused.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::gateway::{Gateway, gateway};
use super::support::sim::{Sim, sim};
use super::support::{chat, eventually};

const TIERS: &str = "tiers: { wide: { concurrency: 1000, requests: null, reads: null } }";

/// A stand-in that loads at once and writes 50 tokens a second to each request.
fn paced(slots: &str) -> Sim {
    quick(slots, "50")
}

fn quick(slots: &str, rate: &str) -> Sim {
    let args = ["--load-base", "0s", "--load-rate", "1024GiB", "--prefill-rate", "1000000"];
    let more = ["--decode-sharing", "0", "--decode-rate", rate, "--slots", slots];
    sim().args(&args).args(&more).start()
}

/// A question whose answer is a stream of this many tokens.
fn question(tokens: u32) -> Value {
    let messages = json!([{ "role": "user", "content": "Why is the sky blue?" }]);
    let options = json!({ "num_predict": tokens });
    json!({ "model": "llama3.2", "messages": messages, "stream": true, "options": options })
}

/// Whether a native stream came to its own end.
fn is_whole(answer: &super::support::http::Answer) -> bool {
    let last = answer.lines().pop();
    answer.status == 200 && answer.cut.is_none() && last.is_some_and(|last| last["done"] == true)
}

fn file(gateway: &Gateway) -> PathBuf {
    gateway.home().path().join("usher.yaml")
}

/// The configuration with one text in the place of another.
fn edited(gateway: &Gateway, old: &str, new: &str) -> String {
    let text = std::fs::read_to_string(file(gateway)).unwrap();
    assert!(text.contains(old), "{old} in {text}");
    text.replace(old, new)
}

/// Puts a file in the place of the old one, as editors do.
fn replace(gateway: &Gateway, text: &str) {
    let beside = file(gateway).with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, file(gateway)).unwrap();
}

fn count(gateway: &Gateway, text: &str) -> usize {
    gateway.log().iter().filter(|line| line.contains(text)).count()
}

/// Waits until this has been logged once more than before `act`.
fn logs(gateway: &Gateway, text: &str, act: impl FnOnce()) {
    let before = count(gateway, text);
    act();
    eventually(&format!("`{text}` in the log"), || count(gateway, text) > before);
}

const TAKEN: &str = "usher.yaml is in force";
const REFUSED: &str = "usher.yaml was not taken";

/// Changes the configuration, says so, and waits until it is in force.
fn change(gateway: &Gateway, old: &str, new: &str) {
    let text = edited(gateway, old, new);
    logs(gateway, TAKEN, || {
        replace(gateway, &text);
        gateway.signal("HUP");
    });
}

#[test]
fn a_changed_file_is_in_force_without_being_told_however_it_was_written() {
    let sim = paced("1");
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .user("ann", "free")
        .config("tiers: { free: { models: ['llama3*'] } }")
        .start();
    let ask = || gateway.post("/api/chat", &chat("llama3.2")).key(gateway.key("ann")).send().status;
    assert_eq!(ask(), 200);
    let text = edited(&gateway, "['llama3*']", "['qwen*']");
    logs(&gateway, TAKEN, || replace(&gateway, &text));
    assert_eq!(ask(), 403);
    let text = edited(&gateway, "['qwen*']", "['*']");
    logs(&gateway, TAKEN, || std::fs::write(file(&gateway), text).unwrap());
    assert_eq!(ask(), 200);
}

#[test]
fn everything_that_a_request_is_judged_by_is_changed_by_a_signal() {
    let sim = paced("1");
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .user("ann", "free")
        .config("limits: { body: 1MiB }")
        .config("log: { access: json, level: info }")
        .config("restrict: {}")
        .start();
    let mut long = chat("llama3.2");
    long["messages"][0]["content"] = json!("why? ".repeat(400));
    let ask = |path: &str| gateway.post(path, &long).key(gateway.key("ann")).send().status;
    assert_eq!(ask("/api/chat"), 200);
    change(&gateway, "restrict: {}", "restrict: { /api/chat: [admin] }");
    assert_eq!(ask("/api/chat"), 403);
    assert_eq!(ask("/v1/chat/completions"), 200);
    change(&gateway, "body: 1MiB", "body: 1KiB");
    assert_eq!(ask("/v1/chat/completions"), 413);
    change(&gateway, "access: json", "access: off");
    let before = gateway.access_lines().len();
    assert_eq!(ask("/v1/chat/completions"), 413);
    change(&gateway, "level: info", "level: debug");
    // a list that cannot be read is told at this level alone
    sim.misbehave(&json!({ "kind": "status", "status": 500, "path": "/api/tags", "body": "" }));
    eventually("lines of the new level", || count(&gateway, "DEBUG") > 0);
    assert_eq!(gateway.access_lines().len(), before, "no access lines any more");
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_with_its_lines() {
    let sim = paced("1");
    let gateway = gateway().upstream("gpu0", &sim.url()).start();
    let good = std::fs::read_to_string(file(&gateway)).unwrap();
    let deep = "[".repeat(100_000);
    let bomb: String = (1..40)
        .map(|level| format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1))
        .collect();
    let huge = format!("{good}# {}\n", "x".repeat(10 << 20));
    let hostile = [
        (format!("{good}thread: 1\n"), "usher.yaml:"),
        (format!("{good}threads: many\n"), "threads: "),
        (good[..good.find("url: '").unwrap() + 9].to_owned(), "usher.yaml:"),
        (String::new(), "usher.yaml"),
        (format!("{good}x: {deep}"), "usher.yaml:"),
        (format!("{good}a0: &a0 [x]\n{bomb}"), "usher.yaml:"),
        (huge, "is larger than 1MiB"),
        (good.replace(&sim.url(), "http://no.invalid"), "upstreams[0].url: cannot resolve no."),
    ];
    for (text, told) in hostile {
        std::fs::write(file(&gateway), &text).unwrap();
        let begun = Instant::now();
        logs(&gateway, REFUSED, || gateway.signal("HUP"));
        eventually(&format!("{told} in the log"), || {
            let log = gateway.log();
            let last = log.iter().rposition(|line| line.contains(REFUSED)).unwrap();
            log[last + 1..].iter().any(|line| line.contains(told))
        });
        assert!(begun.elapsed() < Duration::from_secs(10), "it costs no time: {:.40}", text);
        let status = gateway.post("/api/chat", &chat("llama3.2")).key(gateway.key("admin")).send();
        assert_eq!(status.status, 200);
    }
    std::fs::remove_file(file(&gateway)).unwrap();
    logs(&gateway, "cannot be read", || gateway.signal("HUP"));
    assert_eq!(count(&gateway, TAKEN), 0);
    logs(&gateway, TAKEN, || std::fs::write(file(&gateway), good).unwrap());
}

#[test]
fn a_secret_that_is_gone_is_told_with_the_line_that_could_name_another() {
    let sim = paced("1");
    let gateway = gateway().upstream("gpu0", &sim.url()).start();
    std::fs::remove_file(gateway.home().path().join("state/jwt_secret")).unwrap();
    let told = "usher.yaml:1: auth.jwt.secret_file: there is no secret to sign tokens with";
    logs(&gateway, told, || gateway.signal("HUP"));
    assert_eq!(count(&gateway, TAKEN), 0);
}

#[test]
fn what_needs_a_restart_is_named_and_stays_as_it_was() {
    let sim = paced("1");
    let gateway = gateway().upstream("gpu0", &sim.url()).config("threads: 1").start();
    let token = gateway.home().usher_json(&["token", "--user", "admin"]);
    let token = token["access_token"].as_str().unwrap();
    let text = edited(&gateway, "threads: 1", "threads: 3\nmanage: { default: all }")
        .replace("127.0.0.1:0 }", "127.0.0.1:0 }\n  - { address: '[::1]:0' }")
        .replace("state_dir: state", "state_dir: elsewhere");
    logs(&gateway, TAKEN, || replace(&gateway, &text));
    for key in ["listen", "state_dir", "database", "threads"] {
        let line = format!("{key} has changed, which needs a restart");
        assert_eq!(count(&gateway, &line), 1, "{key}");
    }
    // the secret of tokens is beside the database, which has not moved
    let shown = gateway.get("/admin/config").bearer(token).send();
    assert_eq!(shown.status, 200, "a token is as good as before: {}", shown.text());
    let shown = shown.json();
    let state = gateway.home().path().join("state");
    assert_eq!(shown["state_dir"], state.display().to_string(), "what is in force is shown");
    assert_eq!(shown["database"], format!("sqlite:{}", state.join("usher.db").display()));
    assert_eq!((&shown["threads"], &shown["manage"]["default"]), (&json!(1), &json!("all")));
    assert_eq!(shown["listen"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_removed_instance_finishes_its_streams_and_gets_nothing_new() {
    let (old, new) = (paced("2"), paced("2"));
    let gateway = gateway().upstream("gpu0", &old.url()).config(TIERS).user("ann", "wide").start();
    let ask = |tokens| gateway.post("/api/chat", &question(tokens)).key(gateway.key("ann"));
    let mut stream = ask(100).open();
    stream.chunk().unwrap();
    let waits = ask(5).start();
    let another = ask(100).start();
    change(
        &gateway,
        &format!("name: gpu0, url: '{}'", old.url()),
        &format!("name: gpu1, url: '{}'", new.url()),
    );
    let seated = waits.exchange("POST").rest();
    assert!(is_whole(&seated));
    assert_eq!(seated.header("x-usher-upstream"), Some("gpu1"), "who waited sees the new set");
    let answer = ask(3).send();
    assert_eq!(answer.header("x-usher-upstream"), Some("gpu1"));
    assert!(is_whole(&another.exchange("POST").rest()));
    let whole = stream.rest();
    assert_eq!(whole.header("x-usher-upstream"), Some("gpu0"));
    assert!(is_whole(&whole), "{}", whole.text());
    assert_eq!(old.counter("max_concurrent"), 1);
    let log = gateway.stop();
    let last = log.iter().find(|line| line.contains("stopped: ")).unwrap();
    assert!(last.contains("in_flight=0 seats=0 waiting=0"), "{last}");
}

#[test]
fn slots_grow_for_those_who_wait_and_shrink_without_cutting_anybody_off() {
    let sim = paced("4");
    let gateway = gateway().upstream("gpu0", &sim.url()).config(TIERS).user("ann", "wide").start();
    let ask = |tokens| gateway.post("/api/chat", &question(tokens)).key(gateway.key("ann"));
    let streams: Vec<_> = (0..3).map(|_| ask(60).start()).collect();
    sim.wait_for("slots_in_use", 1);
    change(&gateway, "slots: 1", "slots: 3");
    sim.wait_for("slots_in_use", 3);
    change(&gateway, "slots: 3", "slots: 1");
    let last = ask(2).start();
    for stream in streams {
        assert!(is_whole(&stream.exchange("POST").rest()));
    }
    assert!(is_whole(&last.exchange("POST").rest()));
    assert_eq!(sim.counter("max_concurrent"), 3);
}

#[test]
fn reloads_in_a_row_under_load_fail_no_request() {
    let sims = [quick("4", "2000"), quick("4", "2000"), quick("4", "2000")];
    let gateway = gateway()
        .upstream_with("gpu0", &sims[0].url(), "slots: 4")
        .upstream_with("gpu1", &sims[1].url(), "slots: 4")
        .config(TIERS)
        .user("ann", "wide")
        .start();
    eventually("both are up", || count(&gateway, " is up: ") == 2);
    let full = std::fs::read_to_string(file(&gateway)).unwrap();
    let variants = [
        full.replace(&sims[1].url(), &sims[2].url()),
        full.replace("gpu1", "gpu9"),
        full.replace("slots: 4", "slots: 2"),
        full.lines().filter(|line| !line.contains("gpu0")).collect::<Vec<_>>().join("\n") + "\n",
        full.clone() + "timeouts: { connect: 2s }\n",
        "nonsense".to_owned(),
        full.clone(),
    ];
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let asked = gateway.post("/api/chat", &question(10)).key(gateway.key("ann"));
                    let answer = asked.send();
                    assert!(is_whole(&answer), "{} {}", answer.status, answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(6);
            let mut tick = Instant::now();
            for text in variants.iter().cycle() {
                if Instant::now() >= until {
                    break;
                }
                replace(&gateway, text);
                gateway.signal("HUP");
                tick += Duration::from_millis(100);
                std::thread::sleep(tick.saturating_duration_since(Instant::now()));
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
    assert!(answered.load(Ordering::Relaxed) > 50, "there was a load");
    assert!(count(&gateway, TAKEN) > 20, "there were reloads");
    assert!(count(&gateway, REFUSED) > 1, "and refused ones");
    let log = gateway.stop();
    let last = log.iter().find(|line| line.contains("stopped: ")).unwrap();
    assert!(last.contains("in_flight=0 seats=0 waiting=0 body_bytes=0"), "{last}");
}
