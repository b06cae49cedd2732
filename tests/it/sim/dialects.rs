//! The shapes of the three dialects: streams, usage, errors, lists.

use serde_json::{Value, json};

use super::{FAST, chat};
use crate::support::sim::{Sim, sim};

const MODEL: &str = "llama3.2";

fn openai(sim: &Sim, extra: &Value) -> crate::support::http::Answer {
    let mut body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 3,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    sim.post("/v1/chat/completions", &body).send()
}

fn events(answer: &crate::support::http::Answer) -> Vec<Value> {
    let parse = |event: &String| serde_json::from_str(event).unwrap();
    answer.events().iter().filter(|event| *event != "[DONE]").map(parse).collect()
}

#[test]
fn native_routes_stream_unless_told_not_to_and_v1_routes_the_other_way_round() {
    let sim = sim().args(&FAST).start();
    let native = chat(&sim, MODEL, "hi", 3).send();
    assert_eq!(native.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(native.header("transfer-encoding"), Some("chunked"));
    assert_eq!(native.lines().len(), 4);
    assert_eq!(native.chunks.len(), 4, "one HTTP chunk a line");
    let body = json!({"model": MODEL, "prompt": "hi", "stream": false});
    let whole = sim.post("/api/generate", &body).send();
    assert_eq!(whole.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(whole.json()["done_reason"], "stop");
    assert_eq!(openai(&sim, &json!({})).json()["object"], "chat.completion");
    let stream = openai(&sim, &json!({"stream": true}));
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.events().last().map(String::as_str), Some("[DONE]"));
}

#[test]
fn the_last_native_line_counts_tokens_and_nanoseconds() {
    let sim = sim().args(&FAST).start();
    let lines = chat(&sim, "LLAMA3.2", "hi", 3).send().lines();
    let last = lines.last().unwrap();
    assert_eq!(last["model"], "LLAMA3.2", "the name as it was asked for");
    assert_eq!((&last["eval_count"], &last["done_reason"]), (&json!(3), &json!("length")));
    for key in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[key].as_u64() > Some(1000), "{key} in {last}");
    }
    let prompt = "<|user|>\nhi<|end|>\n<|assistant|>\n".len().div_ceil(4);
    assert_eq!(last["prompt_eval_count"], prompt);
}

#[test]
fn usage_is_in_a_stream_only_when_asked_for() {
    let sim = sim().args(&FAST).start();
    let without = events(&openai(&sim, &json!({"stream": true})));
    assert!(without.iter().all(|event| event.get("usage").is_none()));
    let with =
        events(&openai(&sim, &json!({"stream": true, "stream_options": {"include_usage": true}})));
    assert_eq!(with.len(), without.len() + 1);
    let last = with.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 3);
    assert!(with[..with.len() - 1].iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn completions_carry_a_zero_usage_on_every_chunk_when_asked_for() {
    let sim = sim().args(&FAST).start();
    let body = json!({
        "model": MODEL, "prompt": "hi", "max_tokens": 2, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let events = events(&sim.post("/v1/completions", &body).send());
    let totals: Vec<&Value> = events.iter().map(|event| &event["usage"]["total_tokens"]).collect();
    assert_eq!(totals.len(), 4);
    assert!(totals[..3].iter().all(|total| **total == 0), "{totals:?}");
    assert!(totals[3].as_u64() > Some(2));
}

#[test]
fn max_completion_tokens_is_not_known() {
    let sim = sim().args(&FAST).args(&["--default-tokens", "7"]).start();
    let body = json!({
        "model": MODEL, "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 2,
    });
    let answer = sim.post("/v1/chat/completions", &body).send().json();
    assert_eq!(answer["usage"]["completion_tokens"], 7);
}

#[test]
fn the_responses_route_streams_its_events_in_order() {
    let sim = sim().args(&FAST).start();
    let body = json!({"model": MODEL, "input": "hi", "max_output_tokens": 2, "stream": true});
    let events = events(&sim.post("/v1/responses", &body).send());
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(events[9]["response"]["usage"]["output_tokens"], 2);
    let whole = json!({"model": MODEL, "input": "hi", "max_output_tokens": 2});
    let whole = sim.post("/v1/responses", &whole).send().json();
    assert_eq!(whole["output"], events[9]["response"]["output"]);
}

#[test]
fn the_messages_route_streams_its_events_in_order() {
    let sim = sim().args(&FAST).start();
    let body = json!({
        "model": MODEL, "max_tokens": 2, "stream": true,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    });
    let answer = sim.post("/v1/messages", &body).send();
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    let kinds: Vec<String> =
        events(&answer).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(kinds, expected);
    let usage = &events(&answer)[5]["usage"];
    assert_eq!(usage["output_tokens"], 2);
}

#[test]
fn thought_comes_first_where_a_model_can_think() {
    let sim = sim().args(&FAST).start();
    let mut body = super::chat_body("qwen3:8b", "hi", 4);
    body["think"] = json!(true);
    let lines = sim.post("/api/chat", &body).send().lines();
    assert!(lines[0]["message"]["thinking"].is_string(), "{}", lines[0]);
    assert!(lines[3]["message"].get("thinking").is_none());
    body["model"] = json!(MODEL);
    let refused = sim.post("/api/chat", &body).send();
    assert_eq!(refused.json()["error"], "\"llama3.2\" does not support thinking");
}

#[test]
fn a_tool_that_the_user_names_is_called() {
    let sim = sim().args(&FAST).start();
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]);
    let mut body = super::chat_body(MODEL, "use weather now", 2);
    body["tools"] = tools.clone();
    let lines = sim.post("/api/chat", &body).send().lines();
    assert_eq!(lines[2]["message"]["tool_calls"][0]["function"]["name"], "weather");
    let messages = json!([{"role": "user", "content": "use weather now"}]);
    let answer = openai(&sim, &json!({"tools": tools, "messages": messages})).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let last = chat(&sim, MODEL, "use weather now", 2).send().lines();
    assert!(last[2]["message"].get("tool_calls").is_none(), "without tools there is none");
}

#[test]
fn errors_have_the_shape_of_their_dialect() {
    let sim = sim().args(&FAST).start();
    let hi = json!([{"role": "user", "content": "hi"}]);
    let body =
        json!({"model": "none", "messages": hi, "max_tokens": 1, "prompt": "x", "input": "x"});
    for path in ["/api/chat", "/api/generate", "/api/show", "/api/embed"] {
        let answer = sim.post(path, &body).send();
        assert_eq!(
            (answer.status, answer.json()),
            (404, json!({"error": "model 'none' not found"}))
        );
    }
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"] {
        let answer = sim.post(path, &body).send();
        let error = json!({
            "message": "model 'none' not found", "type": "not_found_error",
            "param": null, "code": null,
        });
        assert_eq!((answer.status, answer.json()), (404, json!({"error": error})), "{path}");
    }
    let answer = sim.post("/v1/messages", &body).send();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"]["type"], "not_found_error");
    assert_eq!(answer.json()["type"], "error");
    let wrong = json!({"model": "nomic-embed-text", "messages": hi});
    let answer = sim.post("/api/chat", &wrong).send();
    assert_eq!(answer.text(), r#"{"error":"\"nomic-embed-text\" does not support chat"}"#);
    let empty = sim.request("POST", "/api/chat").send();
    assert_eq!((empty.status, empty.json()["error"].as_str()), (400, Some("missing request body")));
}

#[test]
fn an_empty_list_of_models_is_null_in_one_dialect_only() {
    let sim = sim().args(&["--models", ""]).start();
    assert_eq!(sim.get("/v1/models").send().text().trim(), r#"{"object":"list","data":null}"#);
    assert_eq!(sim.get("/api/tags").send().text(), r#"{"models":[]}"#);
    assert_eq!(sim.get("/api/ps").send().text(), r#"{"models":[]}"#);
}

#[test]
fn embeddings_come_in_three_shapes() {
    let sim = sim().args(&FAST).start();
    let name = "nomic-embed-text";
    let native = sim.post("/api/embed", &json!({"model": name, "input": "a", "dimensions": 4}));
    let native = native.send().json();
    assert_eq!(native["embeddings"][0].as_array().map(Vec::len), Some(4));
    let legacy = sim.post("/api/embeddings", &json!({"model": name, "prompt": "a"})).send().json();
    assert_eq!(legacy["embedding"][0], native["embeddings"][0][0]);
    let body = json!({"model": name, "input": ["a", "b"], "encoding_format": "base64"});
    let packed = sim.post("/v1/embeddings", &body).send().json();
    assert_eq!(packed["data"][1]["index"], 1);
    assert_eq!(packed["data"][0]["embedding"].as_str().map(str::len), Some(768 * 4 / 3 * 4));
}

#[test]
fn a_recording_is_transcribed() {
    let sim = sim().args(&FAST).start();
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nllama3.2\r\n\
        --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--b--\r\n";
    let request = sim
        .request("POST", "/v1/audio/transcriptions")
        .header("Content-Type", "multipart/form-data; boundary=b")
        .body(form);
    assert!(request.send().json()["text"].as_str().is_some_and(|text| !text.is_empty()));
    let nameless = sim.request("POST", "/v1/audio/transcriptions").body("x").send();
    assert_eq!(nameless.status, 400);
}
