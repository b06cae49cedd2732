//! What changes the models of an instance is written down: who, from where, what, where.

use serde_json::{Value, json};

use super::{FAST, Office};
use crate::support::eventually;
use crate::support::gateway::gateway;
use crate::support::http::Answer;
use crate::support::sim::{Sim, sim};

const DIGEST: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn management_is_written_down_with_model_and_instance() {
    let sims = [0, 1].map(|_| sim().args(&FAST).start());
    let gateway = gateway()
        .upstream("left", &sims[0].url())
        .upstream("right", &sims[1].url())
        .user("ann", "premium")
        .start();
    let office = Office::of(gateway);
    let manage = |method: &str, path: &str, body: &Value| -> Answer {
        let request = office.gateway.request(method, path).key(office.gateway.key("admin"));
        request.header("X-Usher-Upstream", "right").json(body).send()
    };
    let done = |answer: &Answer, what: &str| {
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    };
    done(&manage("POST", "/api/pull", &json!({ "model": "mistral" })), "pull");
    let copy = json!({ "source": "llama3.2", "destination": "mine" });
    done(&manage("POST", "/api/copy", &copy), "copy");
    done(&manage("DELETE", "/api/delete", &json!({ "model": "mine" })), "delete");
    let upload = office.gateway.request("POST", &format!("/api/blobs/{DIGEST}"));
    let upload = upload.key(office.gateway.key("admin")).header("X-Usher-Upstream", "right");
    let uploaded = upload.body("hello").send();
    assert!((200..300).contains(&uploaded.status), "{} {}", uploaded.status, uploaded.text());
    let asked = office.gateway.request("HEAD", &format!("/api/blobs/{DIGEST}"));
    asked.key(office.gateway.key("admin")).header("X-Usher-Upstream", "right").send();
    // what is refused, and what names no instance, is no act
    let pull = office.gateway.post("/api/pull", &json!({ "model": "mistral" }));
    assert_eq!(pull.clone().key(office.gateway.key("ann")).send().status, 403);
    assert_eq!(pull.key(office.gateway.key("admin")).send().status, 400);

    let trail = office.get("/admin/audit?target=right");
    let acts: Vec<[String; 4]> = trail["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|act| ["actor", "address", "action", "detail"].map(|name| super::text(act, name)))
        .collect();
    let row =
        |action: &str, detail: &str| ["admin", "127.0.0.1", action, detail].map(str::to_owned);
    assert_eq!(
        acts,
        [
            row("model.upload", DIGEST),
            row("model.delete", "mine"),
            row("model.copy", "llama3.2 to mine"),
            row("model.pull", "mistral"),
        ]
    );
    let all = office.get("/admin/audit");
    let models = all["data"].as_array().expect("a list").iter();
    let models = models.filter(|act| super::text(act, "action").starts_with("model."));
    assert_eq!(models.count(), 4, "{all}");
    eventually("the security log tells it too", || {
        let lines = office.gateway.security_lines();
        lines.iter().any(|line| line.contains("reason=\"model.pull mistral on right\""))
    });
}

#[test]
fn what_two_readers_could_understand_differently_is_not_managed() {
    let (office, sim) = Office::open();
    for body in [
        r#"{"model":"harmless","Model":"mistral"}"#,
        r#"{"model":"harmless","model":"mistral"}"#,
        r#"{"MODEL":"mistral"}"#,
        r#"["mistral"]"#,
    ] {
        let request = office.gateway.request("POST", "/api/pull").key(office.gateway.key("admin"));
        let answer = request.body(body).send();
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    let pulls = sim.requests().into_iter().filter(|request| request["target"] == "/api/pull");
    assert_eq!(pulls.count(), 0);
    assert_eq!(office.get("/admin/audit?action=model.pull")["data"], json!([]));
}

/// What of the acts on models is written down, newest first.
fn written(office: &Office) -> Vec<[String; 2]> {
    let trail = office.get("/admin/audit");
    let acts = trail["data"].as_array().expect("a list").iter();
    let acts = acts.map(|act| ["action", "detail"].map(|name| super::text(act, name)));
    acts.filter(|[action, _]| action.starts_with("model.")).collect()
}

#[test]
fn an_act_is_named_and_judged_however_its_body_is_framed() {
    let (office, sim) = Office::open();
    let request = |method: &str, path: &str| {
        office.gateway.request(method, path).key(office.gateway.key("admin"))
    };
    let copy =
        request("POST", "/api/copy").json(&json!({ "source": "llama3.2", "destination": "b" }));
    assert_eq!(copy.chunked().send().status, 200);
    let delete = request("DELETE", "/api/delete").json(&json!({ "model": "b" }));
    assert_eq!(delete.chunked().send().status, 200);
    let twice = request("DELETE", "/api/delete").body(r#"{"model":"a","model":"llama3.2"}"#);
    assert_eq!(twice.chunked().send().status, 400);
    let nameless = request("DELETE", "/api/delete");
    assert_eq!(nameless.send().status, 400);
    let padded = format!(r#"{{"model":"llama3.2","x":"{}"}}"#, "x".repeat(64 << 10));
    let large = request("DELETE", "/api/delete").body(padded);
    assert_eq!(large.send().status, 413);
    assert_eq!(large.chunked().send().status, 411);
    let reached = sim.requests().into_iter().filter(|it| it["target"] == "/api/delete");
    assert_eq!(reached.count(), 1, "of five deletions the one that says what");
    let row = |action: &str, detail: &str| [action, detail].map(str::to_owned);
    assert_eq!(written(&office), [row("model.delete", "b"), row("model.copy", "llama3.2 to b")]);
}

#[test]
fn what_creates_a_model_may_be_long() {
    let (office, _sim) = Office::open();
    let licence = "x".repeat(1 << 20);
    let body = json!({ "model": "mine", "from": "llama3.2", "license": licence, "stream": false });
    let create = office.gateway.post("/api/create", &body).key(office.gateway.key("admin"));
    for create in [create.clone(), create.chunked()] {
        let answer = create.send();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let row = ["model.create", "mine"].map(str::to_owned);
    assert_eq!(written(&office), [row.clone(), row]);
}

/// `ann` may manage, but only `llama3…` and what runs elsewhere by the lists of her tier and her key.
fn listed() -> (Office, Sim) {
    let sim = sim().args(&FAST).start();
    let tiers =
        "tiers: { ops: { allow: [read, manage], models: ['llama3*', 'qwen3*', '*cloud'] } }";
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .config(tiers)
        .user("ann", "ops")
        .key("ann", &["--models", "llama3*,*cloud"])
        .start();
    (Office::of(gateway), sim)
}

fn as_ann(office: &Office, method: &str, path: &str, body: &Value) -> Answer {
    let request = office.gateway.request(method, path).key(office.gateway.key("ann"));
    request.json(body).send()
}

/// Nothing reached the instance, and nothing was written down.
fn assert_untouched(office: &Office, sim: &Sim) {
    assert_eq!(sim.requests().iter().filter(|it| it["method"] != "GET").count(), 0);
    assert_eq!(written(office), [] as [[String; 2]; 0]);
}

const MINE: &str = "llama3:mine";
const OTHER: &str = "qwen3:8b";

#[test]
fn what_a_key_or_a_tier_may_not_use_it_may_not_change_either() {
    let (office, sim) = listed();
    let copy = |from: &str, to: &str| json!({ "source": from, "destination": to });
    let create = |model: &str, from: &str| json!({ "model": model, "from": from });
    for (method, path, body, named) in [
        ("DELETE", "/api/delete", json!({ "model": OTHER }), OTHER),
        ("DELETE", "/api/delete", json!({ "name": OTHER }), OTHER),
        ("POST", "/api/pull", json!({ "model": "mistral" }), "mistral"),
        ("POST", "/api/pull", json!({ "model": "example.com/a/llama3" }), "example.com/a/llama3"),
        ("POST", "/api/push", json!({ "model": OTHER }), OTHER),
        ("POST", "/api/copy", copy(OTHER, MINE), OTHER),
        ("POST", "/api/copy", copy("llama3.2", OTHER), OTHER),
        ("POST", "/api/create", create(OTHER, "llama3.2"), OTHER),
        ("POST", "/api/create", create(MINE, OTHER), OTHER),
    ] {
        let answer = as_ann(&office, method, path, &body);
        assert_eq!(answer.status, 403, "{path} {body}: {}", answer.text());
        assert_eq!(answer.detail(), format!("Model '{named}' is not allowed for this key"));
    }
    let away = as_ann(&office, "POST", "/api/pull", &json!({ "model": "llama3:cloud" }));
    assert_eq!(away.status, 403, "no tier says cloud: {}", away.text());
    assert_untouched(&office, &sim);
    eventually("each denial is told", || {
        let lines = office.gateway.security_lines();
        lines.iter().filter(|line| line.contains("denied address=127.0.0.1")).count() == 10
    });
    let made = json!({ "model": MINE, "from": "llama3.2", "stream": false });
    assert_eq!(as_ann(&office, "POST", "/api/create", &made).status, 200);
    assert_eq!(as_ann(&office, "DELETE", "/api/delete", &json!({ "model": MINE })).status, 200);
}

#[test]
fn an_act_names_models_in_the_way_that_ollama_reads() {
    let (office, sim) = listed();
    for (path, body, complaint) in [
        ("/api/pull", json!({}), "field 'model': model is required"),
        ("/api/copy", json!({ "source": "llama3" }), "field 'destination': model is required"),
        (
            "/api/create",
            json!({ "model": MINE, "from": "a b" }),
            "field 'from': invalid model name",
        ),
        ("/api/create", json!({ "model": MINE, "from": 7 }), "field 'from' must be a string"),
        (
            "/api/create",
            json!({ "model": MINE, "From": OTHER }),
            "field 'From' must be spelt 'from'",
        ),
    ] {
        let answer = as_ann(&office, "POST", path, &body);
        assert_eq!((answer.status, answer.detail().as_str()), (400, complaint), "{path}");
    }
    assert_untouched(&office, &sim);
}
