//! The real `ollama`, `openai` and `anthropic` SDKs, as people hold them, through Usher.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::python::{python, snippet};
use crate::support::sim::{Sim, sim};

const MODEL: &str = "llama3.2";
const OLLAMA: &str = "ollama_walk.py";
const OPENAI: &str = "openai_walk.py";
const ANTHROPIC: &str = "anthropic_walk.py";

#[test]
fn the_ollama_sdk_lists_chats_generates_embeds_and_streams() {
    let house = House::open();
    let steps =
        ["version", "list", "show", "chat", "chat_stream", "generate", "generate_stream", "embed"];
    let done = house.walk(OLLAMA, house.key(), &steps);
    assert!(done["version"]["version"].is_string(), "{}", done["version"]);
    assert!(listed(&done["list"]).contains(&"llama3.2:latest".to_owned()), "{}", done["list"]);
    assert_eq!(done["show"]["details"]["family"], "llama");
    assert!(is_text(&done["chat"]["message"]["content"]), "{}", done["chat"]);
    assert!(is_text(&done["generate"]["response"]), "{}", done["generate"]);
    assert_eq!(done["embed"]["embeddings"].as_array().map(Vec::len), Some(2));
    for (stream, piece) in [("chat_stream", "/message/content"), ("generate_stream", "/response")] {
        let parts = done[stream].as_array().unwrap_or_else(|| panic!("{}", done[stream]));
        let (last, before) = parts.split_last().expect("a stream has parts");
        assert!(before.len() > 2, "{stream} came in {} pieces", before.len());
        assert!(before.iter().all(|part| is_text(part.pointer(piece).unwrap_or(&Value::Null))));
        assert_eq!(last["done"], true);
        assert!(last["eval_count"].as_u64() > Some(0), "{last}");
    }
}

#[test]
fn the_openai_sdk_lists_chats_completes_embeds_and_streams() {
    let house = House::open();
    let steps = [
        "list",
        "retrieve",
        "chat",
        "chat_stream",
        "chat_stream_usage",
        "completion",
        "completion_stream",
        "embed",
        "response",
        "response_stream",
    ];
    let done = house.walk(OPENAI, house.key(), &steps);
    assert!(listed(&done["list"]).contains(&"llama3.2:latest".to_owned()), "{}", done["list"]);
    assert!(is_text(&done["retrieve"]), "{}", done["retrieve"]);
    assert!(is_text(&done["chat"]["choices"][0]["message"]["content"]), "{}", done["chat"]);
    assert!(done["chat"]["usage"]["completion_tokens"].as_u64() > Some(0));
    assert!(is_text(&done["completion"]["choices"][0]["text"]), "{}", done["completion"]);
    assert_eq!(done["embed"]["data"].as_array().map(Vec::len), Some(2));
    assert!(is_text(&done["response"]["output"][0]["content"][0]["text"]), "{}", done["response"]);

    let plain = done["chat_stream"].as_array().unwrap_or_else(|| panic!("{}", done["chat_stream"]));
    assert!(plain.len() > 2, "a stream comes in pieces");
    assert!(
        plain.iter().all(|part| part["usage"].is_null() && part["choices"][0].is_object()),
        "who did not ask for usage gets no chunk of it: {plain:?}",
    );
    let counted = done["chat_stream_usage"].as_array().expect("a stream");
    let last = counted.last().expect("a stream has parts");
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["completion_tokens"].as_u64() > Some(0), "{last}");
    let pieces = done["completion_stream"].as_array().expect("a stream");
    assert!(pieces.len() > 2, "a stream comes in pieces");
    let events = done["response_stream"].as_array().expect("a stream");
    assert_eq!(events.first().expect("events")["type"], "response.created");
    assert_eq!(events.last().expect("events")["type"], "response.completed");
}

#[test]
fn the_anthropic_sdk_sends_streams_and_counts() {
    let house = House::open();
    let steps = ["message", "message_stream", "text_stream", "count_tokens"];
    let by_header = house.walk(ANTHROPIC, house.key(), &steps);
    let by_bearer = house.walk(ANTHROPIC, &format!("token:{}", house.key()), &["message"]);
    for done in [&by_header, &by_bearer] {
        assert!(is_text(&done["message"]["content"][0]["text"]), "{}", done["message"]);
    }
    let events = by_header["message_stream"].as_array().expect("a stream");
    assert_eq!(events.first().expect("events")["type"], "message_start");
    assert_eq!(events.last().expect("events")["type"], "message_stop");
    let text = &by_header["text_stream"];
    let pieces: String =
        text["pieces"].as_array().expect("pieces").iter().filter_map(Value::as_str).collect();
    assert_eq!(text["message"]["content"][0]["text"], json!(pieces));
    assert!(text["message"]["usage"]["output_tokens"].as_u64() > Some(0), "{text}");
    assert!(by_header["count_tokens"].as_u64() > Some(0), "{}", by_header["count_tokens"]);
}

#[test]
fn the_readmes_snippets_work_as_they_stand() {
    let house = House::open();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("there is a README");
    let blocks = readme.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<_> = blocks.collect();
    for library in ["ollama", "openai", "anthropic"] {
        let code = blocks.iter().find(|code| code.contains(&format!("from {library} import")));
        let code = code.unwrap_or_else(|| panic!("the README shows no {library}"));
        let here = code.replace("http://127.0.0.1:8080", &house.gateway.url());
        let printed = snippet(&here, house.key());
        assert!(printed.len() > 20, "{library} printed {printed:?}");
    }
}

#[test]
fn a_wrong_key_reads_well_in_every_sdk() {
    let house = House::open();
    let wrong = "usk_000000000000_not-a-key";
    for (sdk, step, class) in [
        (OLLAMA, "chat", "ResponseError"),
        (OLLAMA, "list", "ResponseError"),
        (OPENAI, "chat", "AuthenticationError"),
        (OPENAI, "list", "AuthenticationError"),
        (ANTHROPIC, "message", "AuthenticationError"),
    ] {
        let told = &house.walk(sdk, wrong, &[step])[step];
        expect(told, class, 401, "Invalid API key");
    }
}

#[test]
fn no_key_reads_well_in_the_ollama_sdk() {
    let house = House::open();
    let told = &house.walk(OLLAMA, "", &["chat"])["chat"];
    expect(told, "ResponseError", 401, "Not authenticated");
}

#[test]
fn an_unknown_model_reads_well_in_every_sdk() {
    let house = House::open();
    for (sdk, class) in
        [(OLLAMA, "ResponseError"), (OPENAI, "NotFoundError"), (ANTHROPIC, "NotFoundError")]
    {
        let told = &house.walk(sdk, house.key(), &["unknown_model"])["unknown_model"];
        expect(told, class, 404, "no-such-model");
    }
}

#[test]
fn a_forbidden_route_reads_well_in_the_ollama_sdk() {
    let house = House::open();
    let told = &house.walk(OLLAMA, house.key(), &["pull"])["pull"];
    expect(told, "ResponseError", 403, "Role 'free' not authorized for this endpoint");
}

#[test]
fn a_limit_reads_well_in_every_sdk_and_is_not_tried_again_when_that_is_pointless() {
    let sim = sim().args(&["--speed", "20"]).start();
    let gateway = gateway()
        .upstream("only", &sim.url())
        .config("tiers: { free: { requests: 1/h } }")
        .user("ann", "free")
        .start();
    let walk = |sdk: &str, step: &str| {
        run(sdk, &gateway.url(), gateway.key("ann"), &[step])["steps"][step].take()
    };
    assert!(is_text(&walk(OPENAI, "chat")["choices"][0]["message"]["content"]));
    for (sdk, step, class) in [
        (OLLAMA, "chat", "ResponseError"),
        (OPENAI, "patient", "RateLimitError"),
        (ANTHROPIC, "patient", "RateLimitError"),
    ] {
        expect(&walk(sdk, step), class, 429, "Rate limit exceeded. Limit: 1/hour");
    }
    let last = gateway.get("/health").header("X-Request-Id", "last").send();
    assert_eq!(last.status, 200);
    gateway.access_line("last");
    let lines = gateway.access_lines();
    let refused = lines.iter().filter(|line| line["status"] == 429);
    assert_eq!(refused.count(), 3, "each asked once: {lines:?}");
}

#[test]
fn an_sdk_that_hangs_up_frees_the_instance() {
    for sdk in [OLLAMA, OPENAI, ANTHROPIC] {
        let house = House::open();
        let taken = &house.walk(sdk, house.key(), &["leave"])["leave"];
        assert!(taken.is_array(), "{sdk}: {taken}");
        eventually("no instance works for a client that left", || house.counted("inflight") == 0);
        assert_eq!(house.counted("cancelled_requests"), 1, "{sdk}");
    }
}

#[test]
fn the_ollama_sdk_receives_what_the_instance_sent_byte_for_byte() {
    same_bytes(
        OLLAMA,
        &["chat", "chat_stream", "generate", "generate_stream", "embed", "show", "version"],
    );
}

#[test]
fn the_openai_sdk_receives_what_the_instance_sent_byte_for_byte() {
    let steps = [
        "chat",
        "chat_stream",
        "chat_stream_usage",
        "completion",
        "completion_stream",
        "embed",
        "response",
        "response_stream",
    ];
    same_bytes(OPENAI, &steps);
}

#[test]
fn the_anthropic_sdk_receives_what_the_instance_sent_byte_for_byte() {
    same_bytes(ANTHROPIC, &["message", "message_stream", "text_stream"]);
}

/// Walks the same steps directly and through Usher: bodies, types and parsed objects are the same.
fn same_bytes(sdk: &str, steps: &[&str]) {
    let sim = sim().args(&["--deterministic", "--speed", "50"]).start();
    let gateway = gateway().upstream("only", &sim.url()).user("ann", "free").start();
    let walk = |base: &str| run(sdk, base, gateway.key("ann"), steps);
    let (direct, through) = (walk(&sim.url()), walk(&gateway.url()));
    let received = |walk: &Value| walk["received"].as_array().cloned().unwrap_or_default();
    assert_eq!(received(&direct).len(), steps.len(), "one response a step: {direct}");
    for (direct, through) in received(&direct).iter().zip(received(&through).iter()) {
        assert_eq!(through, direct, "{sdk} {}", direct["path"]);
        assert!(is_text(&direct["body"]) && direct["status"] == 200, "{direct}");
    }
    assert_eq!(through["steps"], direct["steps"]);
}

/// Three instances, a gateway, and a user.
struct House {
    sims: Vec<Sim>,
    gateway: Gateway,
}

impl House {
    fn open() -> Self {
        let sims: Vec<_> = (0..3).map(|_| sim().args(&["--speed", "20"]).start()).collect();
        let each = sims.iter().enumerate();
        let described = each.fold(gateway().user("ann", "free"), |described, (index, sim)| {
            described.upstream(&format!("sim{index}"), &sim.url())
        });
        Self { gateway: described.start(), sims }
    }

    fn key(&self) -> &str {
        self.gateway.key("ann")
    }

    fn walk(&self, sdk: &str, key: &str, steps: &[&str]) -> Value {
        run(sdk, &self.gateway.url(), key, steps)["steps"].take()
    }

    /// The sum of a counter over the instances.
    fn counted(&self, counter: &str) -> u64 {
        self.sims.iter().map(|sim| sim.counter(counter)).sum()
    }
}

fn run(sdk: &str, base: &str, key: &str, steps: &[&str]) -> Value {
    python(sdk, &[&[base, key, MODEL], steps].concat())
}

fn expect(told: &Value, class: &str, status: u16, text: &str) {
    assert_eq!(told["raised"], class, "{told}");
    assert_eq!(told["status"], status, "{told}");
    assert!(told["text"].as_str().is_some_and(|told| told.contains(text)), "{told}");
}

fn listed(names: &Value) -> Vec<String> {
    names.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}
