//! Models managed on every instance at once: one report, one outcome, and each failure by name.

use serde_json::{Value, json};

use super::{FAST, Office};
use crate::support::eventually;
use crate::support::gateway::{Builder, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, sim};

/// Two instances and an admin; `manage.default` is `all`.
fn house(further: impl FnOnce(Builder) -> Builder) -> ([Sim; 2], Office) {
    let sims = [0, 1].map(|_| sim().args(&FAST).start());
    let builder = gateway()
        .upstream("left", &sims[0].url())
        .upstream("right", &sims[1].url())
        .config("manage: { default: all }");
    let office = Office::of(further(builder).start());
    (sims, office)
}

fn request(office: &Office, method: &str, path: &str) -> Request {
    office.gateway.request(method, path).key(office.gateway.key("admin"))
}

fn manage(office: &Office, method: &str, path: &str, body: &Value) -> Answer {
    request(office, method, path).json(body).send()
}

fn pull(office: &Office) -> Answer {
    manage(office, "POST", "/api/pull", &json!({ "model": "mistral" }))
}

fn has(sim: &Sim, model: &str) -> bool {
    let tags = sim.get("/api/tags").send().json();
    let models = tags["models"].as_array().expect("a list").iter();
    models.clone().any(|it| it["name"] == format!("{model}:latest"))
}

/// Whether it was asked for this.
fn was_asked(sim: &Sim, path: &str) -> usize {
    sim.requests().iter().filter(|request| request["target"] == path).count()
}

/// Waits until its requests for this are in this state.
fn wait_until(sim: &Sim, path: &str, outcome: &str) {
    eventually(&format!("{path} is {outcome}"), || {
        let requests = sim.requests();
        let mut asked = requests.iter().filter(|request| request["target"] == path).peekable();
        asked.peek().is_some() && asked.all(|request| request["outcome"] == outcome)
    });
}

fn statuses(answer: &Answer) -> Vec<String> {
    let lines = answer.lines().into_iter().filter(|line| line.get("digest").is_none());
    lines.map(|line| line["status"].as_str().unwrap_or_else(|| panic!("{line}")).into()).collect()
}

#[test]
fn a_pull_comes_to_all_and_is_told_as_one() {
    let (sims, office) = house(|it| it);
    let answer = pull(&office);
    assert_eq!((answer.status, answer.cut.as_deref()), (200, None));
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.header("x-usher-upstream"), Some("all"));
    assert!(answer.header("x-request-id").is_some());
    let expected = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"];
    assert_eq!(statuses(&answer), expected, "each of them once: {}", answer.text());
    let layers = answer.lines().into_iter().filter(|line| line.get("digest").is_some());
    let completed: Vec<u64> =
        layers.map(|line| line["completed"].as_u64().unwrap_or_default()).collect();
    assert!(completed.is_sorted() && completed.len() > 1, "{completed:?}");
    assert!(sims.iter().all(|sim| has(sim, "mistral")));
    let trail = office.get("/admin/audit?action=model.pull");
    let rows: Vec<_> = trail["data"].as_array().expect("a list").iter().collect();
    let told: Vec<[String; 2]> =
        rows.iter().map(|act| ["target", "detail"].map(|name| super::text(act, name))).collect();
    assert_eq!(told, [["right", "mistral"], ["left", "mistral"]].map(|it| it.map(str::to_owned)));
    eventually("the security log tells it too", || {
        let lines = office.gateway.security_lines();
        lines.iter().any(|line| line.contains("reason=\"model.pull mistral on left, right\""))
    });
    eventually("it can be used at once", || {
        office
            .gateway
            .get("/api/tags")
            .key(office.gateway.key("admin"))
            .send()
            .text()
            .contains("mistral")
    });
    let whole = json!({ "model": "mistral", "stream": false });
    let answer = manage(&office, "POST", "/api/pull", &whole);
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "success" })));
}

#[test]
fn what_fails_on_one_is_told_by_name_and_done_on_the_other() {
    let (sims, office) = house(|it| it);
    sims[1].turn(&json!({ "refuse": true }));
    let answer = pull(&office);
    assert_eq!(answer.status, 200);
    let lines = answer.lines();
    let error = "Failed on right (cannot be reached); done on left";
    assert_eq!(lines.last(), Some(&json!({ "error": error })), "{}", answer.text());
    let early = json!({ "status": "right: cannot be reached" });
    assert!(lines.contains(&early), "at once: {}", answer.text());
    assert!(!lines.contains(&json!({ "status": "success" })));
    assert!(has(&sims[0], "mistral"));
    let request = request(&office, "POST", "/api/pull").header("X-Request-Id", "half-done");
    let whole = request.json(&json!({ "model": "mistral", "stream": false })).send();
    assert_eq!((whole.status, whole.detail().as_str()), (502, error));
    assert_eq!(whole.json()["error"], error);
    assert_eq!(office.gateway.access_line("half-done")["outcome"], "upstream_failed");
    sims[1].turn(&json!({ "refuse": false }));
    assert_eq!(statuses(&pull(&office)).last().map(String::as_str), Some("success"));
}

#[test]
fn one_that_breaks_in_the_middle_does_not_stop_the_other() {
    let (sims, office) = house(|it| it);
    for (fault, words) in [
        (json!({ "kind": "cut_after", "after": 2 }), "failed while it worked on the request"),
        (json!({ "kind": "end_after", "after": 2 }), "ended its answer too early"),
        (json!({ "kind": "status", "status": 503, "body": "{\"error\":\"busy\"}" }), "busy"),
        (json!({ "kind": "status", "status": 401, "body": "" }), "refused the gateway"),
        (json!({ "kind": "garbage" }), "failed while it worked on the request"),
    ] {
        let mut rule = fault.clone();
        rule["path"] = json!("/api/pull");
        rule["times"] = json!(1);
        sims[0].misbehave(&rule);
        let answer = pull(&office);
        let error = format!("Failed on left ({words}); done on right");
        assert_eq!(answer.lines().last(), Some(&json!({ "error": error })), "{fault}");
        sims[0].behave();
    }
}

#[test]
fn one_that_says_nothing_is_not_waited_for_for_ever() {
    let (sims, office) = house(|it| it.config("timeouts: { first_byte: 1s, idle: 1s }"));
    sims[1].misbehave(&json!({ "path": "/api/pull", "kind": "hang" }));
    let answer = pull(&office);
    let error = "Failed on right (did not answer in time); done on left";
    assert_eq!(answer.lines().last(), Some(&json!({ "error": error })), "{}", answer.text());
}

#[test]
fn a_no_of_all_is_told_as_one_of_them_says_it() {
    let (_sims, office) = house(|it| it);
    let absent = json!({ "model": "nobody-has-it" });
    let answer = manage(&office, "DELETE", "/api/delete", &absent);
    assert_eq!(
        (answer.status, answer.detail().as_str()),
        (404, "model 'nobody-has-it:latest' not found")
    );
    let created =
        manage(&office, "POST", "/api/create", &json!({ "model": "a", "from": "absent" }));
    assert_eq!(created.status, 404, "{}", created.text());
    let malformed = request(&office, "POST", "/api/pull").body("{").send();
    assert_eq!(malformed.status, 400);
}

#[test]
fn copies_and_deletions_pass_over_those_who_do_not_have_the_model() {
    let (sims, office) = house(|it| it);
    let pull = json!({ "model": "mistral", "stream": false });
    assert_eq!(sims[1].post("/api/pull", &pull).send().status, 200);
    let copy = json!({ "source": "mistral", "destination": "mine" });
    let copied = manage(&office, "POST", "/api/copy", &copy);
    assert_eq!((copied.status, copied.text().as_str()), (200, ""), "{}", copied.text());
    assert!(!has(&sims[0], "mine") && has(&sims[1], "mine"));
    let both = json!({ "source": "llama3.2", "destination": "mine" });
    assert_eq!(manage(&office, "POST", "/api/copy", &both).status, 200);
    assert!(has(&sims[0], "mine"));
    for model in ["mistral", "mine"] {
        let answer = manage(&office, "DELETE", "/api/delete", &json!({ "model": model }));
        assert_eq!((answer.status, answer.text().as_str()), (200, ""), "{model}");
        assert!(sims.iter().all(|sim| !has(sim, model)), "{model}");
    }
    let created = json!({ "model": "yours", "from": "llama3.2", "stream": false });
    assert_eq!(manage(&office, "POST", "/api/create", &created).status, 200);
    assert!(sims.iter().all(|sim| has(sim, "yours")));
}

#[test]
fn a_blob_is_there_when_it_is_everywhere_and_an_upload_passes_through() {
    use ring::digest::{SHA256, digest};
    let (sims, office) = house(|it| it);
    let blob: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let hash = digest(&SHA256, &blob);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = format!("/api/blobs/sha256:{hex}");
    let asked = || request(&office, "HEAD", &path).send().status;
    assert_eq!(asked(), 404);
    assert_eq!(sims[0].request("POST", &path).body(blob.clone()).send().status, 201);
    assert_eq!(asked(), 404, "not on the other one");
    let upload = request(&office, "POST", &path).body(blob.clone()).send();
    assert_eq!(upload.status, 201, "{}", upload.text());
    assert_eq!(asked(), 200);
    let chunked = request(&office, "POST", &path).body(blob.clone()).chunked().send();
    assert_eq!(chunked.status, 200, "they have it: {}", chunked.text());
    let other = format!("/api/blobs/sha256:{}", "0".repeat(64));
    let wrong = request(&office, "POST", &other).body(blob).send();
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert!(wrong.detail().starts_with("digest mismatch"), "{}", wrong.text());
    let uploads = office.get("/admin/audit?action=model.upload");
    assert_eq!(uploads["data"].as_array().map(Vec::len), Some(6), "for each of them");
}

#[test]
fn an_upload_that_breaks_off_is_finished_nowhere() {
    let (sims, office) = house(|it| it);
    let path = format!("/api/blobs/sha256:{}", "1".repeat(64));
    let mut wire = office.gateway.connect();
    let key = office.gateway.key("admin");
    wire.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 1000\r\n\r\n12345"
    ));
    for sim in &sims {
        wait_until(sim, &path, "open");
    }
    wire.reset();
    for sim in &sims {
        wait_until(sim, &path, "cancelled");
    }
}

#[test]
fn a_push_goes_to_the_one_that_has_the_model() {
    let (sims, office) = house(|it| it);
    let pulled = json!({ "model": "mistral", "stream": false });
    let right = request(&office, "POST", "/api/pull").header("X-Usher-Upstream", "right");
    assert_eq!(right.json(&pulled).send().status, 200);
    eventually("it is known to be there", || {
        let push = manage(&office, "POST", "/api/push", &pulled);
        push.status == 200 && push.header("x-usher-upstream") == Some("right")
    });
    assert_eq!(was_asked(&sims[0], "/api/pull"), 0, "named, the default does not matter");
    assert_eq!(sims[0].egress().len(), 0);
}

#[test]
fn who_leaves_stops_them_all() {
    let (sims, office) = house(|it| it);
    for sim in &sims {
        sim.misbehave(&json!({ "path": "/api/pull", "kind": "hang_after", "after": 2 }));
    }
    let body = json!({ "model": "mistral" });
    let mut exchange = request(&office, "POST", "/api/pull").json(&body).open();
    assert!(exchange.chunk().is_some());
    exchange.leave();
    for sim in &sims {
        wait_until(sim, "/api/pull", "cancelled");
    }
}

#[test]
fn all_can_be_named_where_it_is_not_the_default_and_old_clients_understand() {
    let sims = [0, 1].map(|_| sim().args(&FAST).start());
    let gateway = gateway().upstream("left", &sims[0].url()).upstream("right", &sims[1].url());
    let office = Office::of(gateway.start());
    let unnamed = pull(&office);
    let choice = "Name the instance in X-Usher-Upstream, one of: left, right; or all";
    assert_eq!((unnamed.status, unnamed.detail().as_str()), (400, choice));
    let body = r#"{"model":"mistral"}"#;
    let key = office.gateway.key("admin");
    let mut wire = office.gateway.connect();
    wire.send(format!(
        "POST /api/pull HTTP/1.0\r\nHost: a\r\nX-API-Key: {key}\r\nX-Usher-Upstream: all\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let answer = wire.exchange("POST").rest();
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert_eq!(answer.lines().last(), Some(&json!({ "status": "success" })), "{}", answer.text());
    assert!(sims.iter().all(|sim| has(sim, "mistral")));
}
