//! What changes the models of an instance is written down: who, from where, what, where.

use serde_json::{Value, json};

use super::{FAST, Office};
use crate::support::eventually;
use crate::support::gateway::gateway;
use crate::support::http::Answer;
use crate::support::sim::sim;

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
