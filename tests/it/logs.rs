//! A log that nobody reads: the service goes on, and counts what it dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};

use crate::support::eventually;
use crate::support::gateway::{Home, gateway};
use crate::support::http::{Request, Wire};

/// A gateway whose standard error is a pipe that is read up to a line and then no more.
struct Unread {
    child: Child,
    stderr: BufReader<ChildStderr>,
    clients: SocketAddr,
    metrics: SocketAddr,
    _home: Home,
}

impl Unread {
    fn start() -> Self {
        let home = gateway()
            .upstream("gpu0", "http://127.0.0.1:1")
            .config("metrics: { address: 127.0.0.1:0 }")
            .home();
        home.usher_json(&["init"]);
        let mut child =
            home.command(&["serve"]).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut find = |before: &str, after: &str| loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).expect("it can be read"), 0, "it ended");
            if let Some((_, rest)) = line.split_once(before) {
                break rest.trim_end().trim_end_matches(after).parse().expect("an address");
            }
        };
        let metrics = find("metrics on http://", "/metrics");
        let clients = find("listening on http://", "");
        Self { child, stderr, clients, metrics, _home: home }
    }

    fn dropped(&self) -> u64 {
        let metrics = Request::new(self.metrics, "GET", "/metrics").send().text();
        let line = metrics.lines().find_map(|it| it.strip_prefix("usher_log_dropped_total "));
        line.expect("it is always there").parse().expect("a number")
    }

    /// Knocks without a key, which is worth two lines each, until something was dropped.
    fn fill(&self) {
        let knock = Request::new(self.clients, "GET", "/api/tags").bytes();
        let mut wire = Wire::connect(self.clients);
        eventually("lines are dropped", || {
            for _ in 0..200 {
                wire.send(&knock);
                assert_eq!(wire.answer("GET").status, 401);
            }
            self.dropped() > 0
        });
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        let told = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.expect("kill runs").success());
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn the_service_goes_on_and_says_afterwards_how_much_is_missing() {
    let mut gateway = Unread::start();
    gateway.fill();
    for _ in 0..20 {
        let answer = Request::new(gateway.clients, "GET", "/health").send();
        assert_eq!(answer.status, 200, "nobody waits for the log");
    }
    let dropped = gateway.dropped();
    let mut confessed = 0;
    while confessed < dropped {
        let mut line = String::new();
        assert_ne!(gateway.stderr.read_line(&mut line).expect("it can be read"), 0, "it ended");
        if let Some((before, _)) = line.split_once(" log lines were dropped") {
            let number = before.rsplit(' ').next().expect("a number");
            confessed += number.parse::<u64>().expect("a number");
        }
    }
    // what was dropped while we asked is confessed, too
    assert_eq!(confessed, gateway.dropped(), "every dropped line was counted once");
}

#[test]
fn it_stops_although_nobody_takes_its_last_words() {
    let mut gateway = Unread::start();
    gateway.fill();
    gateway.terminate();
    let mut ended = None;
    eventually("it has ended", || {
        ended = gateway.child.try_wait().expect("a child can be waited for");
        ended.is_some()
    });
    assert!(ended.expect("found a moment ago").success());
}

#[test]
fn the_last_line_is_written_before_the_end() {
    let mut gateway = Unread::start();
    gateway.terminate();
    let lines: Vec<String> = (&mut gateway.stderr).lines().map_while(Result::ok).collect();
    let last = lines.last().expect("it says something");
    assert!(last.contains("stopped: in_flight=0"), "{lines:#?}");
}
