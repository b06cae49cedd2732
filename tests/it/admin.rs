//! What administrators see and do while the gateway runs.

mod browsers;
mod config;
mod crash;
mod document;
mod door;
mod elsewhere;
mod everywhere;
mod keys;
mod lists;
mod managed;
mod mistakes;
mod readme;
mod users;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

const FAST: [&str; 2] = ["--speed", "50"];

fn two(first: &Sim, second: &Sim) -> Gateway {
    gateway()
        .upstream("gpu0", &first.url())
        .upstream_with("gpu1", &second.url(), "slots: 3")
        .user("ann", "premium")
        .start()
}

fn as_admin(gateway: &Gateway, method: &str, path: &str) -> Answer {
    gateway.request(method, path).key(gateway.key("admin")).send()
}

/// What administrators ask, and the document that their answers are held against.
struct Office {
    gateway: Gateway,
    document: document::Document,
}

impl Office {
    /// An office of a gateway before one instance; `ann` is a free user.
    fn open() -> (Self, Sim) {
        let sim = sim().args(&FAST).start();
        let gateway = gateway().upstream("gpu0", &sim.url()).user("ann", "free").start();
        (Self::of(gateway), sim)
    }

    fn of(gateway: Gateway) -> Self {
        let document = document::Document::of(&as_admin(&gateway, "GET", "/admin/openapi.json"));
        Self { gateway, document }
    }

    /// Asks, expects this status, and holds the answer against the document.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Value {
        let request = self.gateway.request(method, path).key(self.gateway.key("admin"));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send();
        assert_eq!(answer.status, status, "{method} {path} {body:?}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {path}");
        if status < 400 {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{method} {path}");
        }
        assert_eq!(answer.header("set-cookie"), None, "nobody is known by a cookie");
        self.document.holds(method, path, &answer);
        if status == 204 {
            assert!(answer.body.is_empty() && answer.header("content-length").is_none());
            return Value::Null;
        }
        answer.json()
    }

    fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None, 200)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", path, Some(body), 201)
    }

    /// What is said about a refusal.
    fn refusal(&self, method: &str, path: &str, body: &Value, status: u16) -> String {
        let answer = self.ask(method, path, Some(body), status);
        answer["detail"].as_str().expect("a detail").to_owned()
    }

    /// The status that a request with this key gets.
    fn status_of(&self, key: &str) -> u16 {
        self.gateway.get("/api/tags").key(key).send().status
    }
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("no {field} in {object}")).to_owned()
}

fn ids(list: &Value) -> Vec<i64> {
    let entries = list["data"].as_array().unwrap_or_else(|| panic!("{list} is no list"));
    entries.iter().map(|entry| entry["id"].as_i64().expect("an id")).collect()
}

fn upstreams(gateway: &Gateway) -> Value {
    let answer = as_admin(gateway, "GET", "/admin/upstreams");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn order(gateway: &Gateway, name: &str, what: &str) -> Value {
    let answer = as_admin(gateway, "POST", &format!("/admin/upstreams/{name}/{what}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn ask(gateway: &Gateway) -> Request {
    gateway.post("/api/chat", &chat("llama3.2")).key(gateway.key("ann"))
}

#[test]
fn the_instances_are_shown_with_what_they_have_and_do() {
    let (first, second) = (sim().args(&FAST).start(), sim().args(&FAST).start());
    let gateway = two(&first, &second);
    let mut seen = Value::Null;
    eventually("both instances are up", || {
        seen = upstreams(&gateway);
        [0, 1].iter().all(|index| seen["data"][index]["state"] == "up")
    });
    let second_seen = &seen["data"][1];
    assert_eq!(second_seen["name"], "gpu1");
    assert_eq!(second_seen["kind"], "ollama");
    assert_eq!(second_seen["breaker"], "closed");
    assert_eq!(second_seen["slots"], 3);
    assert_eq!(second_seen["in_flight"], 0);
    assert_eq!(
        second_seen["models"],
        json!(["llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b"])
    );
    assert_eq!(second_seen["residents"], json!([]));
    assert_eq!(
        seen["queue"],
        json!({ "waiting": 0, "capacity": 512, "lines": [], "requests": [] })
    );
    let answer = as_admin(&gateway, "GET", "/admin/upstreams");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn only_admins_come_in_and_every_no_is_json() {
    let (first, second) = (sim().args(&FAST).start(), sim().args(&FAST).start());
    let gateway = two(&first, &second);
    let path = "/admin/upstreams";
    assert_eq!(gateway.get(path).send().status, 401);
    let denied = gateway.get(path).key(gateway.key("ann")).send();
    assert_eq!((denied.status, denied.header("cache-control")), (403, Some("no-store")));
    assert_eq!(denied.detail(), "Role 'premium' not authorized for this endpoint");
    let drain = gateway.request("POST", "/admin/upstreams/gpu0/drain").key(gateway.key("ann"));
    assert_eq!(drain.send().status, 403);
    for (method, path, status) in [
        ("POST", "/admin/upstreams", 405),
        ("GET", "/admin/upstreams/gpu0/drain", 405),
        ("GET", "/admin", 404),
        ("POST", "/admin/upstreams/gpu0", 404),
        ("POST", "/admin/upstreams//drain", 404),
        ("POST", "/admin/upstreams/gpu%30/drain", 404),
        ("POST", "/admin/upstreams/gpu7/drain", 404),
        ("POST", "/admin/upstreams/gpu7/resume", 404),
    ] {
        let answer = as_admin(&gateway, method, path);
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(!answer.detail().is_empty(), "{method} {path}");
    }
    let unknown = as_admin(&gateway, "POST", "/admin/upstreams/gpu7/drain");
    assert_eq!(unknown.detail(), "There is no upstream 'gpu7'");
    eventually("nothing of this did anything", || upstreams(&gateway)["data"][0]["state"] == "up");
}

#[test]
fn a_drained_instance_keeps_its_streams_and_gets_nobody_new_until_it_is_resumed() {
    let (first, second) = (sim().args(&FAST).start(), sim().args(&FAST).start());
    let gateway = two(&first, &second);
    eventually("both instances are up", || {
        upstreams(&gateway)["data"][1]["state"] == "up"
            && upstreams(&gateway)["data"][0]["state"] == "up"
    });
    first.turn(&json!({ "wedged": true }));
    second.turn(&json!({ "wedged": true }));
    let held = ask(&gateway).start();
    let name = "gpu0";
    // the gateway's own count: to the stand-in a probe is a request like any other
    let works = |place: usize| upstreams(&gateway)["data"][place]["in_flight"] == 1;
    eventually("one of them works", || works(0) || works(1));
    let (busy, idle, name) = match works(0) {
        true => (&first, &second, name),
        false => (&second, &first, "gpu1"),
    };
    assert_eq!(order(&gateway, name, "drain")["state"], "draining");
    idle.turn(&json!({ "wedged": false }));
    for _ in 0..3 {
        assert_eq!(ask(&gateway).send().status, 200);
    }
    assert!(works(usize::from(name == "gpu1")), "nobody new came");
    busy.turn(&json!({ "wedged": false }));
    assert_eq!(held.exchange("POST").rest().status, 200, "who was there is served to the end");
    eventually("it is empty", || order(&gateway, name, "drain")["state"] == "drained");
    let other = if name == "gpu0" { "gpu1" } else { "gpu0" };
    order(&gateway, other, "drain");
    let ready = gateway.get("/ready").send();
    assert_eq!((ready.status, ready.detail().as_str()), (503, "No healthy upstream"));
    let refused = ask(&gateway).send();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(order(&gateway, name, "resume")["state"], "up");
    assert_eq!(gateway.get("/ready").send().status, 200);
    assert_eq!(ask(&gateway).send().status, 200);
}

#[test]
fn acts_are_written_down_in_the_log_and_in_the_database_and_empty_ones_are_not() {
    let (first, second) = (sim().args(&FAST).start(), sim().args(&FAST).start());
    let gateway = two(&first, &second);
    order(&gateway, "gpu1", "drain");
    order(&gateway, "gpu1", "drain");
    order(&gateway, "gpu1", "resume");
    order(&gateway, "gpu0", "resume");
    let acts = || -> Vec<String> {
        let lines = gateway.security_lines().into_iter().filter(|line| line.contains(" admin "));
        lines.collect()
    };
    eventually("both acts are logged", || acts().len() == 2);
    assert!(acts()[0].contains("address=127.0.0.1") && acts()[0].contains("upstream.drain gpu1"));
    assert!(acts()[1].contains("upstream.resume gpu1"), "{:?}", acts());
    assert_eq!(
        audit(&gateway),
        [
            ["admin", "127.0.0.1", "upstream.drain", "gpu1"].map(str::to_owned),
            ["admin", "127.0.0.1", "upstream.resume", "gpu1"].map(str::to_owned)
        ]
    );
}

/// Actor, address, action and target of the acts on instances, oldest first.
fn audit(gateway: &Gateway) -> Vec<[String; 4]> {
    let trail = as_admin(gateway, "GET", "/admin/audit").json();
    let acts = trail["data"].as_array().expect("a list").iter().rev();
    let acts = acts.filter(|act| act["action"].as_str().is_some_and(|it| it.starts_with("upstr")));
    let text = |act: &Value, name: &str| act[name].as_str().expect("a text").to_owned();
    acts.map(|act| ["actor", "address", "action", "target"].map(|name| text(act, name))).collect()
}

#[test]
fn status_shows_people_a_table_and_programs_the_admin_object() {
    let (first, second) = (sim().args(&FAST).start(), sim().args(&FAST).start());
    let gateway = two(&first, &second);
    let status = |key: &str, arguments: &[&str]| {
        let url = gateway.url();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(["status", "--url", &url]).args(arguments).env("USHER_KEY", key);
        command.output().expect("the binary runs")
    };
    let table = status(gateway.key("admin"), &[]);
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.status.success());
    assert!(text.starts_with("NAME  STATE  BREAKER") && text.contains("gpu1"), "{text}");
    assert!(text.ends_with("0 of 512 waiting\n"), "{text}");
    let json = status(gateway.key("admin"), &["--json"]);
    let value: Value = serde_json::from_slice(&json.stdout).expect("it prints JSON");
    assert_eq!(value["data"][1]["name"], "gpu1");
    let denied = status(gateway.key("ann"), &[]);
    assert_eq!(denied.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&denied.stderr).into_owned();
    let reason = "answered 403: Role 'premium' not authorized for this endpoint\n";
    assert_eq!(complaint, format!("usher: {} {reason}", gateway.address()));
    assert_eq!(status("", &[]).status.code(), Some(1), "no key, no table");
}
