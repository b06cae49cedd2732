//! What a body may say: refused is whatever two readers could understand differently.

use super::posted;
use crate::support::gateway::gateway;
use crate::support::http::Answer;
use crate::support::sim::sim;

#[test]
fn bodies_that_two_readers_could_understand_differently_are_refused_by_field() {
    let sim = sim().args(&["--speed", "1000"]).start();
    let gateway = gateway().upstream("a", &sim.url()).start();
    let post = |path: &str, body: &[u8]| -> Answer {
        let request = gateway.request("POST", path).key(gateway.key("admin"));
        request.header("Content-Type", "application/json").body(body).send()
    };
    let bodies: &[(&str, &str)] = &[
        (r#"{"model":"llama3.2","model":"qwen3:8b"}"#, "field 'model' appears twice"),
        (r#"{"model":"llama3.2","mod\u0065l":"qwen3:8b"}"#, "field 'model' appears twice"),
        (r#"{"model":"llama3.2","Model":"qwen3:8b"}"#, "field 'Model' must be spelt 'model'"),
        (r#"{"MODEL":"llama3.2"}"#, "field 'MODEL' must be spelt 'model'"),
        (r#"{"model":"llama3.2","ſtream":false}"#, "field 'ſtream' must be spelt 'stream'"),
        (r#"{"model":"llama3.2","toolſ":[]}"#, "field 'toolſ' must be spelt 'tools'"),
        (r#"{"model":"llama3.2","\u212aeep_alive":-1}"#, "must be spelt 'keep_alive'"),
        (r#"{"model":"llama3.2","stream":true,"stream":false}"#, "field 'stream' appears twice"),
        (r#"{"model":["llama3.2"]}"#, "field 'model' must be a string"),
        (r#"{"model":"llama3.2","stream":"yes"}"#, "field 'stream' must be true or false"),
        (r#"{"model":"llama3.2"}{"model":"qwen3:8b"}"#, "not valid JSON"),
        (r#"{"model":"llama3.2"} x"#, "not valid JSON"),
        (r#"{"model":"llama3.2""#, "not valid JSON"),
        (r#"{'model':'llama3.2'}"#, "not valid JSON"),
        (r#"["llama3.2"]"#, "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("   ", "missing request body"),
        ("{}", "field 'model': model is required"),
        (r#"{"model":null}"#, "field 'model'"),
        (r#"{"model":""}"#, "field 'model': model is required"),
        (r#"{"model":"../../etc/passwd"}"#, "field 'model'"),
        (r#"{"model":"llama3.2\u0000"}"#, "field 'model'"),
        ("{\"model\":\"llama3.2\"}\0", "not valid JSON"),
    ];
    for path in ["/api/chat", "/api/generate", "/api/show", "/v1/chat/completions", "/v1/messages"]
    {
        for (body, sentence) in bodies {
            let answer = post(path, body.as_bytes());
            assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
            assert!(answer.detail().contains(sentence), "{path} {body}: {}", answer.detail());
        }
        let answer = post(path, b"{\"model\":\"llama3.2\",\"x\":\"\xff\"}");
        assert_eq!(answer.detail(), "request body is not valid UTF-8");
    }
    assert_eq!(posted(&sim).len(), 0, "nothing of it reached the instance");
}

#[test]
fn a_models_name_is_escaped_wherever_it_is_repeated() {
    let sim = sim().args(&["--speed", "1000"]).start();
    let gateway = gateway().upstream("a", &sim.url()).start();
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let hostile = r#"{"model":"no\"such\u001b[31m\r\nmodel","stream":true}"#;
        let answer = gateway.request("POST", path).key(gateway.key("admin")).body(hostile).send();
        assert!(matches!(answer.status, 400 | 404), "{}", answer.text());
        // that it is JSON is the proof
        answer.detail();
        let unknown = r#"{"model":"no-such-model","stream":true}"#;
        let answer = gateway.request("POST", path).key(gateway.key("admin")).body(unknown).send();
        assert_eq!(
            (answer.status, answer.detail().as_str()),
            (404, "model 'no-such-model' not found")
        );
    }
    let log = gateway.stop();
    assert!(log.iter().all(|line| !line.contains('\u{1b}')), "{log:#?}");
}

#[test]
fn encoded_bodies_are_refused_unread() {
    let sim = sim().args(&["--speed", "1000"]).start();
    let gateway = gateway().upstream("a", &sim.url()).start();
    for coding in ["zstd", "gzip", "br", "deflate", "gzip, identity", "x"] {
        for path in [
            "/api/chat",
            "/v1/chat/completions",
            "/v1/responses",
            "/v1/messages/count_tokens",
            "/api/show",
            "/api/pull",
            "/api/create",
            "/auth/logout",
            "/admin/users",
        ] {
            let request = gateway.request("POST", path).key(gateway.key("admin"));
            let answer = request.header("Content-Encoding", coding).body([0x28; 300]).send();
            assert_eq!(answer.status, 415, "{coding}: {}", answer.text());
            assert!(answer.detail().starts_with("Content-Encoding is not supported"));
        }
    }
    assert_eq!(posted(&sim).len(), 0);
}

#[test]
fn of_two_codings_none_hides_behind_the_other() {
    let sim = sim().args(&["--speed", "1000"]).start();
    let gateway = gateway().upstream("a", &sim.url()).start();
    let request = gateway.request("POST", "/v1/chat/completions").key(gateway.key("admin"));
    let request = request.header("Content-Encoding", "identity");
    let answer = request.header("Content-Encoding", "zstd").body([0x28; 300]).send();
    assert_eq!(answer.status, 415, "{}", answer.text());
}
