//! One list for the whole box.

use serde_json::{Value, json};

use super::ask;
use crate::support::crowd::{all_up, before, paced, stops_clean, whole, with};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::sim::Sim;

const MODELS: [&str; 3] = [
    "shared:1b=size:1GiB,vram:1GiB,digest:one;alpha:1b=size:1GiB,vram:1GiB",
    "shared:1b=size:1GiB,vram:1GiB,digest:two;hf.co/Org/Beta:Q4_K_M=size:1GiB,vram:1GiB",
    "gamma:1b=size:1GiB,vram:1GiB",
];

fn three(versions: [&str; 3]) -> Vec<Sim> {
    let sim = |(models, version): (&&str, &str)| {
        paced(1000, 2, &["--models", models, "--ollama-version", version])
    };
    MODELS.iter().zip(versions).map(sim).collect()
}

fn get(gateway: &Gateway, user: &str, path: &str) -> Value {
    let answer = gateway.get(path).key(gateway.key(user)).send();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn names(list: &Value, name: &str) -> Vec<String> {
    let text = |entry: &Value| entry[name].as_str().expect("a name").to_owned();
    let mut names: Vec<String> = list.as_array().expect("a list").iter().map(text).collect();
    names.sort();
    names
}

fn tags(gateway: &Gateway, user: &str) -> Vec<String> {
    names(&get(gateway, user, "/api/tags")["models"], "name")
}

fn catalogue(gateway: &Gateway, user: &str) -> Vec<String> {
    names(&get(gateway, user, "/v1/models")["data"], "id")
}

const ALL: [&str; 4] = ["alpha:1b", "gamma:1b", "hf.co/Org/Beta:Q4_K_M", "shared:1b"];

#[test]
fn lists_are_the_union_over_all_instances_in_their_own_words() {
    let sims = three(["0.33.0", "0.9.6", "0.30.1"]);
    let gateway = before(&sims, 2).start();
    all_up(&gateway, 3);
    assert_eq!(tags(&gateway, "ann"), ALL);
    assert_eq!(catalogue(&gateway, "ann"), ALL);
    let listed = get(&gateway, "ann", "/api/tags");
    let direct = sims[0].get("/api/tags").send().json();
    let entry = |list: &Value, name: &str| {
        let found = list["models"].as_array().expect("a list").iter().find(|m| m["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    };
    for name in ["shared:1b", "alpha:1b"] {
        assert_eq!(entry(&listed, name), entry(&direct, name), "the first who has it speaks");
    }
    let v1 = get(&gateway, "ann", "/v1/models");
    assert_eq!(v1["object"], "list");
    for model in sims[0].get("/v1/models").send().json()["data"].as_array().expect("a list") {
        assert!(v1["data"].as_array().expect("a list").contains(model), "{model} in {v1}");
    }
    assert_eq!(get(&gateway, "ann", "/api/version"), json!({ "version": "0.9.6" }));
    stops_clean(gateway);
}

#[test]
fn one_model_of_the_list_is_found_by_every_spelling_of_its_name() {
    let sims = three(["0.33.0"; 3]);
    let gateway = before(&sims, 2).start();
    all_up(&gateway, 3);
    for (path, id) in [
        ("/v1/models/alpha:1b", "alpha:1b"),
        ("/v1/models/ALPHA:1b", "alpha:1b"),
        ("/v1/models/hf.co%2FOrg%2FBeta:Q4_K_M", "hf.co/Org/Beta:Q4_K_M"),
        ("/v1/models/hf.co%2forg%2fbeta:q4_k_m", "hf.co/Org/Beta:Q4_K_M"),
    ] {
        let model = get(&gateway, "ann", path);
        assert_eq!((&model["id"], &model["object"]), (&json!(id), &json!("model")), "{path}");
    }
    let answer = gateway.get("/v1/models/delta").key(gateway.key("ann")).send();
    assert_eq!((answer.status, answer.detail().as_str()), (404, "model 'delta' not found"));
    assert_eq!(answer.json()["error"]["code"], "model_not_found");
    stops_clean(gateway);
}

#[test]
fn lists_are_cut_down_to_what_the_caller_may_use() {
    let sims = three(["0.33.0"; 3]);
    let gateway = before(&sims, 2)
        .user("bob", "wide")
        .key("bob", &["--models", "alpha*,hf.co/*"])
        .user("eve", "wide")
        .key("eve", &["--models", "nothing-of-this"])
        .start();
    all_up(&gateway, 3);
    ["alpha:1b", "gamma:1b"].iter().for_each(|model| load(&gateway, model));
    eventually("both are in memory", || residents(&gateway, "ann").len() == 2);
    let allowed = ["alpha:1b", "hf.co/Org/Beta:Q4_K_M"];
    assert_eq!(tags(&gateway, "bob"), allowed);
    assert_eq!(catalogue(&gateway, "bob"), allowed);
    assert_eq!(residents(&gateway, "bob"), ["alpha:1b"]);
    let hidden = gateway.get("/v1/models/gamma:1b").key(gateway.key("bob")).send();
    assert_eq!(hidden.status, 404, "what one may not use is not there");
    let none = gateway.get("/v1/models").key(gateway.key("eve")).send();
    assert_eq!(none.text(), r#"{"object":"list","data":[]}"#);
    let none = gateway.get("/api/tags").key(gateway.key("eve")).send();
    assert_eq!(none.text(), r#"{"models":[]}"#);
    stops_clean(gateway);
}

#[test]
fn residents_are_listed_once_for_each_instance_that_holds_them() {
    let sims = three(["0.33.0"; 3]);
    for sim in &sims[..2] {
        assert_eq!(sim.post("/api/chat", &about("shared:1b")).send().status, 200);
    }
    let gateway = before(&sims, 2).start();
    all_up(&gateway, 3);
    assert_eq!(residents(&gateway, "ann"), ["shared:1b", "shared:1b"]);
    stops_clean(gateway);
}

#[test]
fn an_instance_that_dies_drops_out_of_the_lists_and_comes_back() {
    let sims = three(["0.33.0"; 3]);
    let gateway = before(&sims, 2).start();
    all_up(&gateway, 3);
    sims[2].turn(&json!({ "refuse": true }));
    sims[2].cut();
    let without: Vec<&str> = ALL.into_iter().filter(|name| *name != "gamma:1b").collect();
    eventually("it dropped out", || tags(&gateway, "ann") == without);
    assert_eq!(catalogue(&gateway, "ann"), without);
    let answer = ask(&gateway, &about("gamma:1b"));
    assert_eq!(answer.status, 503, "it exists, and is away: {}", answer.text());
    sims[2].turn(&json!({ "refuse": false }));
    eventually("it is back", || tags(&gateway, "ann") == ALL);
    assert_eq!(ask(&gateway, &about("gamma:1b")).status, 200);
    stops_clean(gateway);
}

#[test]
fn a_box_without_models_has_empty_lists() {
    let sims = [paced(1000, 1, &["--models", ""])];
    let gateway = before(&sims, 1).start();
    let text = |path: &str| gateway.get(path).key(gateway.key("ann")).send().text();
    assert_eq!(text("/v1/models"), r#"{"object":"list","data":[]}"#);
    assert_eq!(text("/api/tags"), r#"{"models":[]}"#);
    assert_eq!(text("/api/ps"), r#"{"models":[]}"#);
    stops_clean(gateway);
}

fn about(model: &str) -> Value {
    with(whole(1), "model", json!(model))
}

fn load(gateway: &Gateway, model: &str) {
    assert_eq!(ask(gateway, &about(model)).status, 200, "{model}");
}

fn residents(gateway: &Gateway, user: &str) -> Vec<String> {
    names(&get(gateway, user, "/api/ps")["models"], "name")
}
