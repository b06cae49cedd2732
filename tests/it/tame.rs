//! A model that several share is nobody's to bend: what instances see of options, `keep_alive`,
//! answers' lengths and empty requests, in every dialect.

use serde_json::{Value, json};

use crate::support::crowd::{MODEL, before, paced, question, seen, stops_clean, with};
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Answer;
use crate::support::sim::Sim;

const TIERS: &str = "tiers:
  wide: { concurrency: 100 }
  lab: { num_ctx: max 8192, keep_alive: drop, max_output: 6 }
  pinned: { num_ctx: pin 2048 }
  open: { runner_options: allow, keep_alive: allow }";

/// A gateway before one stand-in, with a user in each of the tiers.
fn house() -> (Sim, Gateway) {
    let sim = paced(2000, 4, &[]);
    let settings = "slots: 4";
    let builder = gateway().config(TIERS);
    let tiers = ["free", "wide", "lab", "pinned", "open"];
    let builder = tiers.iter().fold(builder, |builder, tier| builder.user(tier, tier));
    let gateway = builder.upstream_with("gpu0", &sim.url(), settings).start();
    (sim, gateway)
}

fn ask(gateway: &Gateway, user: &str, path: &str, body: &Value) -> Answer {
    gateway.post(path, body).key(gateway.key(user)).send()
}

/// The bodies of clients that the stand-in has seen at a path, oldest first: the gateway's own
/// requests, by which it has models loaded, bear no id.
fn bodies(sim: &Sim, path: &str) -> Vec<Value> {
    let requests = sim.requests();
    let has_id = |entry: &Value| entry["headers"].to_string().contains("\"x-request-id\"");
    let here = requests.iter().filter(|entry| entry["target"] == path && has_id(entry));
    here.map(|entry| {
        let body = entry["body_head"].as_str().expect("text");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    })
    .collect()
}

/// What the stand-in saw of a request that must succeed.
fn arrived(house: &(Sim, Gateway), user: &str, path: &str, body: &Value) -> Value {
    let (sim, gateway) = house;
    let answer = ask(gateway, user, path, body);
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
    bodies(sim, path).pop().expect("it arrived")
}

/// A request for an answer on every native route, with these further members.
fn native(more: &Value) -> Vec<(&'static str, Value)> {
    let base = [
        ("/api/chat", json!({ "messages": [{ "role": "user", "content": "hi" }] })),
        ("/api/generate", json!({ "prompt": "hi" })),
        ("/api/embed", json!({ "input": "hi" })),
        ("/api/embeddings", json!({ "prompt": "hi" })),
    ];
    let models = |path: &str| if path.contains("embed") { "nomic-embed-text" } else { MODEL };
    base.into_iter()
        .map(|(path, body)| {
            let body = with(with(body, "model", json!(models(path))), "stream", json!(false));
            let members = more.as_object().expect("members").clone().into_iter();
            (path, members.fold(body, |body, (name, value)| with(body, &name, value)))
        })
        .collect()
}

#[test]
fn options_that_would_reload_a_model_do_not_arrive_and_others_do() {
    let house = house();
    let options = json!({ "num_gpu": 0, "num_batch": 64, "num_thread": 1, "main_gpu": 1,
        "use_mmap": false, "draft_num_predict": 1, "num_predict": 3, "temperature": 0.5 });
    for (path, body) in native(&json!({ "options": options, "shift": false })) {
        let seen = arrived(&house, "free", path, &body);
        for name in
            ["num_gpu", "num_batch", "num_thread", "main_gpu", "use_mmap", "draft_num_predict"]
        {
            assert!(seen["options"][name].is_null(), "{path}: {name} in {seen}");
        }
        assert!(seen["shift"].is_null(), "{path}: {seen}");
        assert_eq!(seen["options"]["temperature"], 0.5, "{path}");
        assert_eq!(seen["options"]["num_predict"], 3, "{path}");
        // whoever may change models, and a tier that says so, may do this too
        for user in ["admin", "open"] {
            assert_eq!(arrived(&house, user, path, &body), body, "{user} {path}");
        }
    }
    stops_clean(house.1);
}

#[test]
fn a_context_is_bounded_or_pinned_and_a_foreign_one_does_not_reload_a_pinned_model() {
    let house = house();
    for (path, body) in native(&json!({ "options": { "num_ctx": 100_000, "num_predict": 1 } })) {
        assert_eq!(arrived(&house, "free", path, &body)["options"]["num_ctx"], 100_000, "{path}");
        assert_eq!(arrived(&house, "lab", path, &body)["options"]["num_ctx"], 8192, "{path}");
        assert_eq!(arrived(&house, "pinned", path, &body)["options"]["num_ctx"], 2048, "{path}");
    }
    let (sim, gateway) = &house;
    let chat = |num_ctx: Value| {
        let options = json!({ "num_predict": 1, "num_ctx": num_ctx });
        let answer = ask(gateway, "pinned", "/api/chat", &with(question(1), "options", options));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    chat(json!(2048));
    sim.reset();
    for num_ctx in [json!(512), json!(1_000_000_000), json!(4096.5), json!(-1), Value::Null] {
        chat(num_ctx);
    }
    let silent = json!({ "model": MODEL, "prompt": "hi", "stream": false });
    assert_eq!(ask(gateway, "pinned", "/api/generate", &silent).status, 200);
    assert_eq!((sim.counter("loads"), sim.counter("reloads")), (0, 0));
    let loaded = sim.loaded();
    assert!(loaded.iter().any(|runner| runner["num_ctx"] == 2048), "{loaded:?}");
    stops_clean(house.1);
}

#[test]
fn nobody_keeps_a_model_for_ever_or_sends_it_away() {
    let house = house();
    for (asked, arrives) in [
        (json!(-1), json!("1800s")),
        (json!("-1m"), json!("1800s")),
        (json!("24h"), json!("1800s")),
        (json!(86_400), json!("1800s")),
        (json!(1e300), json!("1800s")),
        (json!(0), Value::Null),
        (json!("1ms"), Value::Null),
        (json!("10m"), json!("10m")),
        (json!(1800), json!(1800)),
    ] {
        for (path, body) in native(&json!({ "keep_alive": asked })) {
            let seen = |user| arrived(&house, user, path, &body)["keep_alive"].clone();
            assert_eq!(seen("free"), arrives, "{path} {asked}");
            assert_eq!(seen("lab"), Value::Null, "{path} {asked}");
            assert_eq!(seen("open"), asked, "{path} {asked}");
        }
    }
    stops_clean(house.1);
}

#[test]
fn an_answer_is_no_longer_than_its_tier_may_have() {
    let house = house();
    let messages = json!([{ "role": "user", "content": "Why is the sky blue?" }]);
    let mut number = 0;
    for (path, question, asked) in [
        ("/api/chat", json!({ "messages": messages }), json!({ "options": { "num_predict": 50 } })),
        ("/api/generate", json!({ "prompt": "Why?" }), json!({ "options": { "num_predict": -1 } })),
        ("/v1/chat/completions", json!({ "messages": messages }), json!({ "max_tokens": 50 })),
        (
            "/v1/chat/completions",
            json!({ "messages": messages }),
            json!({ "max_completion_tokens": 50 }),
        ),
        ("/v1/completions", json!({ "prompt": "Why?" }), json!({ "max_tokens": 50 })),
        ("/v1/messages", json!({ "messages": messages }), json!({ "max_tokens": 50 })),
        ("/v1/responses", json!({ "input": "Why?" }), json!({ "max_output_tokens": 50 })),
    ] {
        for stream in [true, false] {
            for more in [asked.clone(), json!({})] {
                let body =
                    with(with(question.clone(), "model", json!(MODEL)), "stream", json!(stream));
                let members = more.as_object().expect("members").clone().into_iter();
                let body = members.fold(body, |body, (name, value)| with(body, &name, value));
                let (_, gateway) = &house;
                number += 1;
                let id = format!("bound-{number}");
                let request = gateway.post(path, &body).key(gateway.key("lab"));
                let answer = request.header("X-Request-Id", &id).send();
                assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
                let line = gateway.access_line(&id);
                assert_eq!(line["tokens_out"], 6, "{path} {body}: {line}");
            }
        }
    }
    stops_clean(house.1);
}

#[test]
fn an_empty_request_unloads_for_those_alone_who_manage_models() {
    let (sim, gateway) = house();
    let load = json!({ "model": MODEL });
    assert_eq!(ask(&gateway, "free", "/api/generate", &load).status, 200, "it may load");
    let loaded = || sim.loaded().len();
    assert_eq!(loaded(), 1);
    let empty = [
        ("/api/generate", json!({ "model": MODEL, "keep_alive": 0 })),
        ("/api/generate", json!({ "model": MODEL, "prompt": "", "keep_alive": "0s" })),
        ("/api/chat", json!({ "model": MODEL, "messages": [], "keep_alive": 1e-12 })),
        ("/api/chat", json!({ "model": MODEL, "keep_alive": "-0h" })),
    ];
    for (path, body) in &empty {
        let before = seen(&sim);
        for user in ["free", "lab", "pinned", "open"] {
            let answer = ask(&gateway, user, path, body);
            assert_eq!(answer.status, 403, "{user} {path} {body}: {}", answer.text());
            assert_eq!(answer.detail(), "Unloading a model is not allowed for this key");
        }
        assert_eq!((seen(&sim), loaded()), (before, 1), "{path} {body}");
    }
    for (path, body) in &empty {
        ask(&gateway, "free", "/api/generate", &load);
        let answer = ask(&gateway, "admin", path, body);
        assert_eq!(answer.json()["done_reason"], "unload", "{path} {body}: {}", answer.text());
        assert_eq!(loaded(), 0, "{path} {body}");
    }
    stops_clean(gateway);
}

#[test]
fn what_cannot_be_tamed_is_refused_before_an_instance_sees_it() {
    let (sim, gateway) = house();
    for (path, member, says) in [
        ("/api/chat", r#""options":{"num_ctx":1,"num_ctx":2}"#, "'options.num_ctx' appears twice"),
        ("/api/chat", r#""options":{"NUM_GPU":1}"#, "must be spelt 'num_gpu'"),
        ("/api/chat", r#""options":"all""#, "'options' must be an object"),
        ("/api/chat", r#""options":{"num_predict":"9"}"#, "must be a number"),
        ("/v1/messages", r#""max_tokens":"9""#, "'max_tokens' must be a number"),
        ("/v1/messages", r#""MAX_TOKENS":9"#, "must be spelt 'max_tokens'"),
        ("/api/generate", r#""Keep_Alive":-1"#, "must be spelt 'keep_alive'"),
        ("/api/generate", r#""_Debug_Render_Only":true"#, "must be spelt '_debug_render_only'"),
    ] {
        let body = format!(
            r#"{{"model":"{MODEL}","prompt":"x","messages":[{{"role":"user","content":"x"}}],{member}}}"#
        );
        let request = gateway.request("POST", path).key(gateway.key("lab"));
        let answer = request.body(body).send();
        assert_eq!(answer.status, 400, "{path} {member}: {}", answer.text());
        assert!(answer.detail().contains(says), "{path} {member}: {}", answer.text());
    }
    let render = json!({ "model": MODEL, "prompt": "x", "_debug_render_only": true });
    for user in ["free", "admin"] {
        let answer = ask(&gateway, user, "/api/generate", &render);
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert_eq!(answer.json()["error"], "'_debug_render_only' is not allowed");
    }
    assert_eq!(seen(&sim), 0);
    stops_clean(gateway);
}

#[test]
fn a_key_is_bound_by_its_own_tier_and_its_users() {
    let sim = paced(2000, 4, &[]);
    let gateway = gateway()
        .config(TIERS)
        .user("ann", "open")
        .key("ann", &["--tier", "lab"])
        .upstream_with("gpu0", &sim.url(), "slots: 4")
        .start();
    let asked = json!({ "model": MODEL, "prompt": "x", "stream": false, "keep_alive": -1,
        "options": { "num_gpu": 1, "num_ctx": 100_000 } });
    let answer = ask(&gateway, "ann", "/api/generate", &asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = bodies(&sim, "/api/generate").pop().expect("it arrived");
    assert_eq!(seen["options"], json!({ "num_gpu": null, "num_ctx": 8192, "num_predict": 6 }));
    assert_eq!(seen["keep_alive"], Value::Null);
    stops_clean(gateway);
}

#[test]
fn a_large_body_is_changed_in_its_middle_and_arrives_whole() {
    let sims = [paced(2000, 4, &[])];
    let gateway = before(&sims, 4).start();
    let text = "é\\u00e9\\\"{".repeat(40_000);
    let halves = |middle: &str| {
        format!(
            r#"{{"system":"{text}","options":{{"num_predict":1{middle}}},"stream":false,"prompt":"{text}","model":"{MODEL}"}}"#
        )
    };
    let request = gateway.request("POST", "/api/generate").key(gateway.key("ann"));
    let answer = request.clone().body(halves(r#","num_gpu":12345"#)).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let chunked = request.body(halves(r#","num_gpu":12345"#)).chunked().send();
    assert_eq!(chunked.status, 200, "{}", chunked.text());
    let expected = halves(r#","num_gpu":null"#);
    let direct = sims[0].request("POST", "/api/generate").body(expected).send();
    assert_eq!(direct.status, 200, "{}", direct.text());
    let requests = sims[0].requests();
    let large = |entry: &&Value| entry["body_bytes"].as_u64() > Some(100_000);
    let of_answers: Vec<_> = requests.iter().filter(large).collect();
    assert_eq!(of_answers.len(), 3);
    for entry in &of_answers {
        assert_eq!(entry["body_sha256"], of_answers[2]["body_sha256"], "the same bytes");
    }
    stops_clean(gateway);
}
