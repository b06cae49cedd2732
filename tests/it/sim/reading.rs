//! How requests are read: names, keys, compression, paths, where they come from, where they go.

use serde_json::{Value, json};

use super::{FAST, chat};
use crate::support::sim::sim;

const MODEL: &str = "llama3.2";

#[test]
fn every_spelling_of_a_name_is_one_model() {
    let sim = sim().args(&FAST).start();
    for spelling in [
        "LLAMA3.2",
        "llama3.2:latest",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2:LATEST",
        "https://registry.ollama.ai/library/llama3.2",
        " llama3.2:local ",
    ] {
        assert_eq!(chat(&sim, spelling, "hi", 1).send().status, 200, "{spelling}");
    }
    assert_eq!(sim.counter("loads"), 1);
    assert_eq!(chat(&sim, "other/llama3.2", "hi", 1).send().status, 404);
}

#[test]
fn keys_match_in_any_case_the_last_one_wins_and_what_follows_is_ignored() {
    let sim = sim().args(&FAST).start();
    let body = r#"{"model":"none","MODEL":"llama3.2","mOdel":null,
        "Messages":[{"ROLE":"user","Content":"hi"}],"STREAM":false} and more"#;
    let answer = sim.request("POST", "/api/chat").body(body).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["model"], MODEL);
    let folded = "{\"model\":\"llama3.2\",\"me\u{17f}\u{17f}ages\":[],\"stream\":false}";
    let answer = sim.request("POST", "/api/chat").body(folded).send();
    assert_eq!(answer.json()["done_reason"], "load", "Go folds the long s");
}

#[test]
fn zstd_is_read_on_v1_and_not_on_the_native_routes() {
    let sim = sim().args(&FAST).start();
    let body =
        json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
    let packed = zstd::encode_all(body.to_string().as_bytes(), 3).unwrap();
    let send = |path: &str, body: Vec<u8>| {
        sim.request("POST", path).header("Content-Encoding", "zstd").body(body).send()
    };
    for path in ["/v1/chat/completions", "/v1/messages"] {
        assert_eq!(send(path, packed.clone()).status, 200, "{path}");
    }
    assert_eq!(send("/api/chat", packed).status, 400);
    let bomb = zstd::encode_all(vec![b' '; 21 << 20].as_slice(), 3).unwrap();
    assert_eq!(send("/v1/chat/completions", bomb).status, 413);
}

#[test]
fn unknown_paths_and_methods_answer_in_text() {
    let sim = sim().args(&FAST).start();
    let missing = sim.get("/health").send();
    assert_eq!((missing.status, missing.text().as_str()), (404, "404 page not found"));
    assert_eq!(missing.header("content-type"), Some("text/plain"));
    let wrong = sim.get("/api/chat").send();
    assert_eq!((wrong.status, wrong.text().as_str()), (405, "405 method not allowed"));
    for path in ["/", "/api/tags", "/api/version"] {
        let head = sim.request("HEAD", path).send();
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    assert_eq!(sim.request("HEAD", "/api/ps").send().status, 405);
    assert_eq!(sim.get("/").send().text(), "Ollama is running");
    let count = sim.post("/v1/messages/count_tokens", &json!({})).send();
    assert_eq!(count.status, 404);
}

#[test]
fn paths_are_decoded_cleaned_and_redirected_as_go_does() {
    let sim = sim().args(&FAST).start();
    assert_eq!(sim.get("/api/%74ags").send().status, 200);
    for (path, status, location) in [
        ("//api/tags", 301, "/api/tags"),
        ("/v1/../api/tags?x=1", 301, "/api/tags?x=1"),
        ("/api/tags/", 301, "/api/tags"),
    ] {
        let moved = sim.get(path).send();
        assert_eq!((moved.status, moved.header("location")), (status, Some(location)), "{path}");
    }
    assert_eq!(sim.post("/api/chat/", &json!({})).send().status, 307);
    assert_eq!(sim.get("/v1/models/qwen3:8b").send().json()["id"], "qwen3:8b");
    assert_eq!(sim.get("/v1/models/library/qwen3:8b").send().status, 404);
}

#[test]
fn foreign_hosts_and_origins_get_an_empty_403() {
    let sim = sim().args(&FAST).start();
    let ask = |host: &str, origin: Option<&str>| {
        let mut bytes = format!("GET /api/tags HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(origin) = origin {
            bytes += &format!("Origin: {origin}\r\n");
        }
        let mut wire = crate::support::http::Wire::connect(sim.address());
        wire.send(bytes + "\r\n");
        wire.exchange("GET").rest()
    };
    for (host, origin) in [
        ("gw.example", None),
        ("localhost", Some("https://example.com")),
        ("localhost", Some("null")),
    ] {
        let answer = ask(host, origin);
        assert_eq!((answer.status, answer.body.len()), (403, 0), "{host} {origin:?}");
    }
    assert_eq!(sim.counter("forbidden"), 3);
    for host in ["localhost:11434", "127.0.0.1", "box.internal"] {
        assert_eq!(ask(host, None).status, 200, "{host}");
    }
    let near = ask("localhost", Some("http://localhost:3000"));
    assert_eq!(near.header("access-control-allow-origin"), Some("http://localhost:3000"));
}

#[test]
fn cloud_names_are_recorded_with_the_headers_that_would_have_left() {
    let sim = sim().args(&FAST).start();
    for name in ["gpt-oss:120b-cloud", "qwen3:8b:cloud"] {
        let answer =
            chat(&sim, name, "secret", 1).header("X-API-Key", "k").header("Cookie", "c").send();
        let last = answer.lines().pop().unwrap();
        assert_eq!(last["remote_host"], "https://ollama.com:443", "{last}");
    }
    let search = json!({
        "model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    });
    sim.post("/v1/messages", &search).send();
    let egress = sim.egress();
    assert_eq!(egress.len(), 3);
    assert_eq!(egress[0]["model"], "gpt-oss:120b");
    let headers = egress[0]["headers"].to_string();
    assert!(headers.contains(r#"["x-api-key","k"]"#) && headers.contains("cookie"), "{headers}");
    assert!(!headers.contains("host"), "hop-by-hop ones stay: {headers}");
    assert_eq!(egress[2]["reason"], "web search");
    assert_eq!(sim.counter("loads"), 1, "only the local model was loaded");
}

#[test]
fn cloud_can_be_switched_off() {
    let sim = sim().args(&FAST).args(&["--no-cloud"]).start();
    assert_eq!(chat(&sim, "qwen3:8b-cloud", "x", 1).send().status, 403);
    let status = json!({"cloud": {"disabled": true, "source": "env"}});
    assert_eq!(sim.get("/api/status").send().json(), status);
    assert!(sim.egress().is_empty());
}

#[test]
fn account_routes_are_recorded_and_refused() {
    let sim = sim().args(&FAST).start();
    assert_eq!(sim.post("/api/me", &json!({})).send().status, 401);
    assert_eq!(sim.post("/api/signout", &json!({})).send().status, 401);
    assert_eq!(sim.request("DELETE", "/api/user/keys/abc").send().status, 401);
    assert_eq!(sim.post("/api/experimental/web_search", &json!({})).send().status, 401);
    assert_eq!((sim.counter("account"), sim.egress().len()), (4, 4));
}

#[test]
fn what_is_installed_can_be_changed() {
    let sim = sim().args(&FAST).start();
    let names = || {
        let tags = sim.get("/api/tags").send().json();
        let models = tags["models"].as_array().unwrap().clone();
        models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let pulled = sim.post("/api/pull", &json!({"name": "mistral"})).send();
    assert_eq!(pulled.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(pulled.lines().last(), Some(&json!({"status": "success"})));
    assert!(pulled.lines()[3]["completed"].as_u64() < pulled.lines()[4]["completed"].as_u64());
    let body = json!({"source": "mistral", "destination": "me/copy:1"});
    assert_eq!(sim.post("/api/copy", &body).send().status, 200);
    let body = json!({"model": "made", "from": "mistral", "stream": false});
    assert_eq!(sim.post("/api/create", &body).send().json(), json!({"status": "success"}));
    assert_eq!(names()[3..], ["mistral:latest", "me/copy:1", "made:latest"]);
    let delete =
        |name: &str| sim.request("DELETE", "/api/delete").json(&json!({"model": name})).send();
    assert_eq!((delete("mistral").status, delete("mistral").status), (200, 404));
    assert_eq!(sim.post("/api/push", &json!({"model": "made"})).send().status, 200);
    assert_eq!(sim.egress()[0]["reason"], "push");
}

#[test]
fn blobs_are_kept_by_their_digest() {
    let sim = sim().args(&FAST).start();
    let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let path = format!("/api/blobs/{digest}");
    assert_eq!(sim.request("HEAD", &path).send().status, 404);
    assert_eq!(sim.request("POST", &path).body("abd").send().status, 400);
    assert_eq!(sim.request("POST", &path).body("abc").chunked().send().status, 201);
    assert_eq!(sim.request("HEAD", &path).send().status, 200);
}

#[test]
fn requests_are_remembered_as_they_came() {
    let sim = sim().args(&FAST).start();
    let body = "x".repeat(5000);
    sim.request("POST", "/api/chat?a=%20b").header("X-Odd", "é").body(body).send();
    let requests = sim.requests();
    let last = requests.last().unwrap();
    assert_eq!((&last["method"], &last["target"]), (&json!("POST"), &json!("/api/chat?a=%20b")));
    assert!(last["headers"].as_array().unwrap().contains(&json!(["x-odd", "é"])));
    assert_eq!((&last["body_bytes"], &last["status"]), (&json!(5000), &json!(400)));
    assert_eq!(last["body_head"].as_str().map(str::len), Some(4096));
    assert_eq!(last["body_sha256"].as_str().map(str::len), Some(64));
    assert_eq!(last["outcome"], "complete");
    sim.reset();
    assert_eq!((sim.requests().len(), sim.counter("requests")), (0, 0));
}

#[test]
fn show_tells_even_what_it_should_not() {
    let sim = sim().args(&FAST).start();
    let shown = sim.post("/api/show", &json!({"name": "qwen3:8b"})).send().json();
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "thinking"]));
    assert_eq!(shown["model_info"]["qwen3.context_length"], 40960);
    assert!(shown["system"].is_string());
    let rendered =
        json!({"model": MODEL, "prompt": "p", "system": "s", "_debug_render_only": true});
    let rendered: Value = sim.post("/api/generate", &rendered).send().json();
    assert!(rendered["_debug_info"]["rendered_template"].as_str().unwrap().contains("s"));
}

#[test]
fn a_prompt_beyond_the_context_is_cut_or_refused() {
    let sim = sim().args(&FAST).start();
    let mut body = super::chat_body(MODEL, &"x".repeat(10_000), 1);
    body["options"]["num_ctx"] = json!(512);
    let last = sim.post("/api/chat", &body).send().lines().pop().unwrap();
    assert_eq!(last["prompt_eval_count"], 512);
    body["shift"] = json!(false);
    let refused = sim.post("/api/chat", &body).send();
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("longer than the context length currently available"));
}
