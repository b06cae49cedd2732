//! The stock `ollama` command: it signs requests, or brings a key in its path.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use crate::support::chat;
use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, sim};

fn house(further: impl FnOnce(Builder) -> Builder) -> (Sim, Gateway) {
    let instance = sim().args(&["--speed", "50"]).start();
    let builder = gateway().upstream("gpu0", &instance.url()).user("ann", "free");
    let gateway = further(builder).start();
    (instance, gateway)
}

/// Signs as the `ollama` command does under `OLLAMA_AUTH=1`.
struct Client(Ed25519KeyPair);

impl Client {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn public(&self) -> String {
        let kind = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice();
        BASE64_STANDARD.encode([kind, self.0.public_key().as_ref()].concat())
    }

    /// Registers the key, as it stands in `id_ed25519.pub`.
    fn register(&self, gateway: &Gateway) -> i64 {
        let file = gateway.home().path().join("id_ed25519.pub");
        std::fs::write(&file, format!("ssh-ed25519 {} ann@laptop\n", self.public())).unwrap();
        let added =
            gateway.home().usher_json(&["users", "add-ssh-key", "ann", file.to_str().unwrap()]);
        added["id"].as_i64().unwrap()
    }

    fn signed(&self, gateway: &Gateway, method: &str, path: &str, at: i64) -> Request {
        let made = self.0.sign(format!("{method},{path}?ts={at}").as_bytes());
        let value = format!("{}:{}", self.public(), BASE64_STANDARD.encode(made));
        gateway.request(method, &format!("{path}?ts={at}")).header("Authorization", &value)
    }

    fn send(&self, gateway: &Gateway, method: &str, path: &str) -> Answer {
        self.signed(gateway, method, path, now()).send()
    }
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

#[test]
fn a_registered_key_lets_its_user_in_until_it_is_removed() {
    let (_instance, gateway) = house(|it| it);
    let client = Client::new(1);
    let tags = || client.send(&gateway, "GET", "/api/tags");
    assert_eq!((tags().status, tags().detail().as_str()), (401, "Invalid signature"));
    let id = client.register(&gateway);
    eventually("it is known", || tags().status == 200);
    let me = client.send(&gateway, "GET", "/auth/me").json();
    assert_eq!((&me["username"], &me["method"]), (&json!("ann"), &json!("signature")));
    let question = client.signed(&gateway, "POST", "/api/chat", now()).json(&chat("llama3.2"));
    assert_eq!(question.send().status, 200);
    let shown = gateway.home().usher(&["users", "show", "ann"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("SHA256:"));
    gateway.home().usher_json(&["users", "remove-ssh-key", "ann", &id.to_string()]);
    eventually("it is over", || tags().status == 401);
    let gone = gateway.home().usher(&["users", "remove-ssh-key", "ann", &id.to_string()]);
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn a_signature_is_good_for_one_request_of_this_minute() {
    let (_instance, gateway) = house(|it| it);
    let client = Client::new(2);
    client.register(&gateway);
    eventually("it is known", || client.send(&gateway, "GET", "/api/tags").status == 200);
    for at in [now() - 120, now() + 120, 0] {
        let stale = client.signed(&gateway, "GET", "/api/tags", at).send();
        assert_eq!((stale.status, stale.detail().as_str()), (401, "Invalid signature"), "{at}");
    }
    let made = client.0.sign(format!("GET,/api/tags?ts={}", now()).as_bytes());
    let value = format!("{}:{}", client.public(), BASE64_STANDARD.encode(made));
    let elsewhere = gateway.get(&format!("/api/ps?ts={}", now()));
    assert_eq!(elsewhere.header("Authorization", &value).send().status, 401);
    let none = gateway.get("/api/tags").header("Authorization", &value).send();
    assert_eq!(none.status, 401, "the time stands in the query");
    eventually("it is logged", || {
        gateway.security_lines().iter().any(|line| line.contains("signature of another time"))
    });
    assert!(!gateway.log().join("\n").contains(&client.public()), "no key is logged");
}

#[test]
fn what_is_no_public_key_is_not_registered() {
    let (_instance, gateway) = house(|it| it);
    let add = |text: &str| gateway.home().feed(&["users", "add-ssh-key", "ann", "-"], text);
    let bad = add("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ ann@laptop");
    let complaint = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(complaint.contains("expected the line of an Ed25519 public key"), "{complaint}");
    let line = format!("ssh-ed25519 {}", Client::new(3).public());
    assert!(add(&line).status.success());
    let twice = add(&line);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("this key is registered already"));
}

#[test]
fn a_key_in_the_path_is_a_key_where_that_is_allowed() {
    let (_instance, gateway) = house(|it| it.config("auth: { api_keys: { path: true } }"));
    let key = gateway.key("ann");
    let at = |method: &str, path: &str| gateway.request(method, &format!("/k/{key}{path}"));
    assert_eq!(at("HEAD", "/").send().status, 200, "the first thing that the command asks");
    assert_eq!(at("GET", "/").send().text(), "usher");
    assert_eq!(at("GET", "/api/tags").send().status, 200);
    let answer = at("POST", "/api/chat").json(&chat("llama3.2")).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let beside = at("GET", "/api/tags").bearer("ollama").send();
    assert_eq!(beside.status, 200, "what else a tool sends does not matter");
    let wrong = gateway.get("/k/usk_nonsense/api/tags").send();
    assert_eq!((wrong.status, wrong.detail().as_str()), (401, "Invalid API key"));
    assert_eq!(gateway.get("/k/usk_nonsense/api/tags").key(key).send().status, 200);
    for path in ["/api/%74ags", "//api/tags", "/api/../api/tags", "", "/nowhere"] {
        assert_eq!(at("GET", path).send().status, 404, "{path}");
    }
    let lines = || gateway.access_lines();
    eventually("all is logged", || lines().iter().any(|line| line["route"] == "/api/chat"));
    let log = gateway.stop().join("\n");
    assert!(!log.contains("usk_nonsense"), "{log}");
}

#[test]
fn a_key_in_the_path_is_nothing_where_it_was_not_allowed() {
    let (_instance, gateway) = house(|it| it);
    let key = gateway.key("ann");
    assert_eq!(gateway.get(&format!("/k/{key}/api/tags")).send().status, 404);
    assert_eq!(gateway.request("HEAD", "/").send().status, 200);
    eventually("it is logged", || !gateway.access_lines().is_empty());
    assert!(!gateway.log().join("\n").contains(key));
}
