//! What a client gets through the gateway is what it would get without it, byte for byte.

use serde_json::{Value, json};

use super::{about_usage, streaming, unbroken};
use crate::support::crowd::{before, paced, question, stops_clean, with};

#[test]
fn every_answer_is_the_instances_own_byte_for_byte() {
    let sims = [paced(5000, 2, &["--deterministic"])];
    let gateway = before(&sims, 2).start();
    let mut questions = unbroken(12);
    for (path, question) in streaming(12) {
        if matches!(path, "/v1/chat/completions" | "/v1/completions") {
            questions.push((path, about_usage(question.clone(), true)));
            questions.push((path, about_usage(question.clone(), false)));
        }
        questions.push((path, question));
    }
    questions.extend(unusual());
    for (path, question) in questions {
        let direct = sims[0].post(path, &question).send();
        let through = gateway.post(path, &question).key(gateway.key("ann")).send();
        let about = format!("{path} {question}");
        assert!(!direct.body.is_empty() && direct.cut.is_none(), "{about}");
        assert_eq!(through.text(), direct.text(), "{about}");
        assert_eq!(through.cut, None, "{about}");
        assert_eq!(through.status, direct.status, "{about}");
        assert_eq!(through.header("content-type"), direct.header("content-type"), "{about}");
    }
    stops_clean(gateway);
}

/// Thinking, tools, an error of the instance's own.
fn unusual() -> Vec<(&'static str, Value)> {
    let thinking = with(question(20), "model", json!("qwen3:8b"));
    let tool = json!({ "type": "function", "function": {
        "name": "weather", "description": "Tells the weather",
        "parameters": { "type": "object", "properties": {} },
    } });
    let tools = with(question(20), "tools", json!([tool]));
    let mut all = Vec::new();
    for question in [thinking, tools] {
        all.push(("/api/chat", question.clone()));
        all.push(("/v1/chat/completions", question));
    }
    all.push(("/v1/chat/completions", with(question(3), "messages", json!([]))));
    all.push(("/api/embed", with(question(3), "input", json!("x"))));
    all
}
