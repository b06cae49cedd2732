//! Streams: what passes, how soon, what is counted, and how they end.

mod breaks;
mod counts;
mod exact;
mod pace;

use serde_json::{Value, json};

use crate::support::crowd::{MODEL, question, whole, with};

/// Every route that can stream, with a question for it.
fn streaming(tokens: u32) -> Vec<(&'static str, Value)> {
    let generate = json!({
        "model": MODEL, "prompt": "Why?", "stream": true, "max_tokens": tokens,
        "options": { "num_predict": tokens },
    });
    let responses = json!({
        "model": MODEL, "input": "Why?", "stream": true, "max_output_tokens": tokens,
    });
    vec![
        ("/api/chat", question(tokens)),
        ("/api/generate", generate.clone()),
        ("/v1/chat/completions", question(tokens)),
        ("/v1/completions", generate),
        ("/v1/responses", responses),
        ("/v1/messages", question(tokens)),
    ]
}

/// The same questions for an answer in one piece, and those that never stream.
fn unbroken(tokens: u32) -> Vec<(&'static str, Value)> {
    let mut all: Vec<_> = streaming(tokens)
        .into_iter()
        .map(|(path, body)| (path, with(body, "stream", json!(false))))
        .collect();
    let texts = json!({ "model": "nomic-embed-text", "input": ["Why?", "Because."] });
    let text = json!({ "model": "nomic-embed-text", "prompt": "Why?" });
    all.extend([
        ("/api/embed", texts.clone()),
        ("/api/embeddings", text),
        ("/v1/embeddings", texts),
        ("/api/chat", whole(3)),
    ]);
    all
}

/// The question with `stream_options` that ask for usage, or say that they do not.
fn about_usage(question: Value, wanted: bool) -> Value {
    with(question, "stream_options", json!({ "include_usage": wanted }))
}
