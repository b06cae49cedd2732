//! How a gateway ends, and how another takes its place: nobody is cut off without a word.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::gateway::{Builder, Gateway, gateway};
use super::support::http::{Answer, Request};
use super::support::sim::{Sim, sim};
use super::support::{chat, eventually};

/// The contract says 0.5 s; the rest is for machines that run other tests meanwhile.
const SOON: Duration = Duration::from_millis(1500);

fn paced(rate: &str) -> Sim {
    let args = ["--load-base", "0s", "--load-rate", "1024GiB", "--prefill-rate", "1000000"];
    let more = ["--decode-sharing", "0", "--decode-rate", rate, "--slots", "4"];
    sim().args(&args).args(&more).start()
}

fn before(sim: &Sim) -> Builder {
    let wide = "tiers: { wide: { concurrency: 1000, requests: null, reads: null } }";
    gateway().upstream_with("gpu0", &sim.url(), "slots: 4").config(wide).user("ann", "wide")
}

/// A question whose answer is a stream of this many tokens.
fn question(tokens: u32) -> Value {
    let mut question = chat("llama3.2");
    question["stream"] = json!(true);
    question["max_tokens"] = json!(tokens);
    question["options"] = json!({ "num_predict": tokens });
    question
}

fn ask(gateway: &Gateway, path: &str, tokens: u32) -> Request {
    gateway.post(path, &question(tokens)).key(gateway.key("ann"))
}

fn is_whole(answer: &Answer) -> bool {
    let last = answer.lines().pop();
    answer.status == 200 && answer.cut.is_none() && last.is_some_and(|last| last["done"] == true)
}

/// Waits until the process has ended; how long that took, and its exit code.
fn end_of(gateway: &mut Gateway) -> (Duration, Option<i32>) {
    let begun = Instant::now();
    let mut status = None;
    eventually("the process ends", || {
        status = gateway.ended();
        status.is_some()
    });
    (begun.elapsed(), status.unwrap().code())
}

fn logged(gateway: &Gateway, text: &str) -> bool {
    gateway.log().iter().any(|line| line.contains(text))
}

#[test]
fn a_stopping_gateway_lets_nobody_in_says_so_and_ends_with_its_last_stream() {
    let sim = paced("50");
    let mut gateway = before(&sim).start();
    let mut stream = ask(&gateway, "/api/chat", 100).open();
    stream.chunk().unwrap();
    let mut probe = gateway.connect();
    let ready = gateway.get("/ready").bytes();
    probe.send(&ready);
    assert_eq!(probe.answer("GET").status, 200);
    probe.send(&ready[..10]);
    gateway.signal("TERM");
    eventually("nobody is let in", || TcpStream::connect(gateway.address()).is_err());
    probe.send(&ready[10..]);
    let answer = probe.answer("GET");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("connection"), Some("close"));
    let whole = stream.rest();
    assert!(is_whole(&whole), "{:?}", whole.cut);
    let (took, code) = end_of(&mut gateway);
    assert!(took < SOON && code == Some(0), "{took:?} {code:?}");
}

#[test]
fn an_idle_gateway_ends_at_once_whoever_keeps_a_connection_open() {
    let sim = paced("50");
    let mut gateway = before(&sim).start();
    let mut kept = gateway.connect();
    kept.send(gateway.get("/health").bytes());
    assert_eq!(kept.answer("GET").status, 200);
    let silent = gateway.connect();
    gateway.signal("TERM");
    let (took, code) = end_of(&mut gateway);
    assert!(took < SOON && code == Some(0), "{took:?} {code:?}");
    drop((kept, silent));
}

#[test]
fn a_request_that_was_on_its_way_when_the_end_began_is_answered() {
    let sim = paced("50");
    let mut gateway = before(&sim).start();
    let stream = ask(&gateway, "/api/chat", 20).start();
    let mut late = gateway.connect();
    late.send(gateway.get("/health").bytes());
    assert_eq!(late.answer("GET").status, 200);
    gateway.signal("TERM");
    // no waiting here: the end allows for what is on its way, and not for much more
    late.send(gateway.get("/health").bytes());
    let last = late.answer("GET");
    assert_eq!(last.status, 200);
    assert!(is_whole(&stream.exchange("POST").rest()));
    assert_eq!(end_of(&mut gateway).1, Some(0));
}

#[test]
fn what_outlasts_the_drain_ends_with_an_error_that_clients_see() {
    let sim = paced("20");
    let mut gateway = before(&sim).config("timeouts: { drain: 1s }").start();
    let mut native = ask(&gateway, "/api/chat", 1000).open();
    let mut openai = ask(&gateway, "/v1/chat/completions", 1000).open();
    let mut anthropic = ask(&gateway, "/v1/messages", 1000).open();
    let more = ask(&gateway, "/api/chat", 1000).open();
    for stream in [&mut native, &mut openai, &mut anthropic] {
        stream.chunk().unwrap();
    }
    let waits = ask(&gateway, "/api/chat", 5).start();
    eventually("all seats are taken", || sim.counter("slots_in_use") == 4);
    let begun = Instant::now();
    gateway.signal("TERM");
    let native = native.rest();
    assert!(begun.elapsed() >= Duration::from_millis(900), "they had their time");
    let last = native.lines().pop().unwrap();
    assert!(last["error"].as_str().unwrap().contains("stopping"), "{last}");
    assert!(native.cut.is_some(), "nobody takes the part for the whole");
    let openai = openai.rest();
    assert!(openai.cut.is_some() && openai.text().contains("stopping"), "{}", openai.text());
    assert!(!openai.text().contains("[DONE]"));
    let anthropic = anthropic.rest();
    assert!(anthropic.text().contains("event: error"), "{}", anthropic.text());
    let refused = waits.exchange("POST").rest();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.detail(), "The server is stopping");
    drop(more.rest());
    let (took, code) = end_of(&mut gateway);
    assert!(took < SOON && code == Some(0), "{took:?} {code:?}");
    eventually("its last words are read", || {
        logged(&gateway, "requests cut short")
            && logged(&gateway, "stopped: in_flight=0 seats=0 waiting=0 body_bytes=0")
    });
    sim.wait_for("inflight", 0);
}

#[test]
fn a_second_signal_ends_it_at_once_and_streams_still_see_why() {
    for (first, second) in [("TERM", Some("TERM")), ("INT", None), ("TERM", Some("INT"))] {
        let sim = paced("20");
        let mut gateway = before(&sim).start();
        let mut stream = ask(&gateway, "/api/chat", 1000).open();
        stream.chunk().unwrap();
        gateway.signal(first);
        if let Some(second) = second {
            eventually("the drain began", || logged(&gateway, "requests in flight get up to"));
            gateway.signal(second);
        }
        let (took, code) = end_of(&mut gateway);
        assert!(took < SOON && code == Some(0), "{took:?} {code:?}");
        let last = stream.rest().lines().pop().unwrap();
        assert!(last["error"].is_string(), "{last}");
    }
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_a_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let home = gateway().upstream("gpu0", "http://127.0.0.1:9").home();
    let file = home.path().join("usher.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
    home.usher_json(&["init"]);
    let ended = home.usher(&["serve"]);
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8(ended.stderr).unwrap();
    let last = told.lines().last().unwrap();
    assert!(last.starts_with(&format!("usher: cannot listen on {address}: ")), "{told}");
}

/// Ends the processes that took over, which no one else knows.
struct Successors<'g>(&'g Gateway);

impl Successors<'_> {
    fn all(&self) -> Vec<String> {
        let log = self.0.log();
        let told = log.iter().filter_map(|line| line.split_once("INFO  usher::server process "));
        told.filter_map(|(_, rest)| Some(rest.split_once(" serves")?.0.to_owned())).collect()
    }

    fn latest(&self) -> String {
        self.all().pop().expect("there is one")
    }
}

impl Drop for Successors<'_> {
    fn drop(&mut self) {
        for process in self.all() {
            signal(&process, "TERM");
            let gone = || !std::path::Path::new(&format!("/proc/{process}/stat")).exists();
            eventually("the successor ends", || gone() || is_zombie(&process));
        }
    }
}

fn signal(process: &str, name: &str) {
    Command::new("kill").args([&format!("-{name}"), process]).stderr(Stdio::null()).status().ok();
}

/// Where nobody reaps orphans, as in containers without an init, they stay as zombies.
fn is_zombie(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn an_upgrade_under_load_refuses_nobody_and_cuts_no_stream() {
    let sim = paced("50");
    let mut gateway = before(&sim).start();
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let begun = Instant::now();
    let mut loaded = Duration::ZERO;
    {
        let (gateway, successors) = (&gateway, Successors(&gateway));
        let stream = ask(gateway, "/api/chat", 250).start();
        sim.wait_for("slots_in_use", 1);
        std::thread::scope(|scope| {
            for path in ["/health", "/ready", "/api/tags", "/ready"] {
                let (stop, answered) = (&stop, &answered);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = gateway.get(path).key(gateway.key("ann")).send();
                        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                // it is told to go on even when an upgrade fails this test
                let ending = scopeguard(&stop);
                gateway.signal("USR2");
                eventually("a successor serves", || successors.all().len() == 1);
                signal(&successors.latest(), "USR2");
                eventually("another one serves", || successors.all().len() == 2);
                assert_eq!(ask(gateway, "/api/chat", 2).send().status, 200);
                // the first process closes its idle connections only now
                eventually("it had a steady load", || begun.elapsed() > Duration::from_secs(7));
                drop(ending);
            });
        });
        loaded += begun.elapsed();
        let whole = stream.exchange("POST").rest();
        assert!(is_whole(&whole), "{:?}", whole.cut);
        assert_eq!(whole.lines().len(), 251);
        assert!(begun.elapsed() >= Duration::from_secs(5), "the stream was a long one");
        let rate = answered.load(Ordering::Relaxed) as f64 / loaded.as_secs_f64();
        eprintln!("{rate:.0} connections a second");
        let listening =
            gateway.log().iter().filter(|line| line.contains("listening on http://")).count();
        assert_eq!(listening, 3);
    }
    assert_eq!(end_of(&mut gateway).1, Some(0));
}

/// Sets a flag when it is dropped.
fn scopeguard(flag: &AtomicBool) -> impl Drop + '_ {
    struct Guard<'f>(&'f AtomicBool);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    Guard(flag)
}

#[test]
fn an_upgrade_that_fails_leaves_everything_as_it_was() {
    let sim = paced("50");
    let gateway = before(&sim).start();
    let file = gateway.home().path().join("usher.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let another = format!("127.0.0.1:0 }}\n  - {{ address: {} }}", sim.address());
    let with_another = good.replace("127.0.0.1:0 }", &another);
    let bad = [(format!("{good}nonsense: 1\n"), "nonsense"), (with_another, "cannot listen on")];
    for (bad, why) in bad {
        std::fs::write(&file, bad).unwrap();
        let failures = || gateway.log().iter().filter(|l| l.contains("the upgrade failed")).count();
        let before = failures();
        gateway.signal("USR2");
        eventually("it says so", || failures() > before && logged(&gateway, why));
        assert!(is_whole(&ask(&gateway, "/api/chat", 2).send()));
    }
    assert!(!logged(&gateway, "serves from now on"));
}

#[test]
fn an_upgrade_loses_no_usage() {
    let sim = paced("50");
    let gateway = before(&sim).start();
    let successors = Successors(&gateway);
    let first = gateway.pid().to_string();
    assert_eq!(ask(&gateway, "/api/chat", 2).send().status, 200);
    gateway.signal("USR2");
    eventually("a successor serves", || successors.all().len() == 1);
    assert_eq!(ask(&gateway, "/api/chat", 2).send().status, 200);
    eventually("the first process has ended", || is_zombie(&first));
    let written = || gateway.home().usher_json(&["usage"])["data"][0]["requests"].clone();
    eventually("the requests of both are written down", || written() == 2);
}

#[test]
fn systemd_is_told_what_happens() {
    let sim = paced("50");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut told = Vec::new();
    let mut wait_for = |wanted: &str| loop {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap_or_else(|_| panic!("{wanted}; {told:?}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        told.push(text.clone());
        if text.lines().any(|line| line.starts_with(wanted)) {
            return text;
        }
    };
    let gateway = before(&sim)
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .start();
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    gateway.signal("HUP");
    let reloading = wait_for("RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    wait_for("READY=1");
    gateway.signal("USR2");
    let main = wait_for("MAINPID=");
    {
        let successors = Successors(&gateway);
        eventually("the log says so, too", || !successors.all().is_empty());
        assert_eq!(main, format!("MAINPID={}", successors.latest()));
        wait_for("WATCHDOG=1");
        signal(&successors.latest(), "TERM");
        wait_for("STOPPING=1");
    }
}

#[test]
fn a_socket_that_systemd_opened_is_used() {
    let sim = paced("50");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let home = before(&sim).home();
    let file = home.path().join("usher.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
    home.usher_json(&["init"]);
    let serve = home.command(&["serve"]);
    let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script, "activate"])
        .arg(serve.get_program())
        .args(serve.get_args())
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let answer = Request::new(address, "GET", "/health").send();
    signal(&child.id().to_string(), "TERM");
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{log}");
    assert_eq!(answer.status, 200, "{log}");
}
