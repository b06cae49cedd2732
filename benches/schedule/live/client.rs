//! Those who ask: Ollama's own dialect, streaming, a connection for each request.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::house::Target;
use crate::real;
use crate::work::{Session, Turn};

/// How one question ended. Times are as they passed, not modelled.
#[derive(Clone, Copy)]
pub struct Told {
    /// What it is counted under.
    pub group: &'static str,
    /// Who asked.
    pub client: usize,
    /// From the question to the first byte of its answer.
    pub first: Duration,
    pub end: End,
    /// Tokens of the answer.
    pub tokens: u64,
    /// When it ended, since the beginning of the run.
    pub at: Duration,
}

/// The end of a question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The whole answer is there.
    Whole,
    /// A refusal, or nothing at all.
    Failed,
    /// The answer broke off.
    Broken,
    /// The client had waited for long enough.
    Left,
}

/// Asks all questions of a session, one after the other.
pub async fn follow(target: &Arc<Target>, session: &Session, begun: Instant) -> Vec<Told> {
    sleep_until(begun + real(session.at)).await;
    let mut messages = Vec::new();
    if !session.system.is_empty() {
        messages.push(json!({ "role": "system", "content": session.system }));
    }
    let mut told = Vec::new();
    for turn in &session.turns {
        sleep(real(turn.thinks)).await;
        messages.push(json!({ "role": "user", "content": turn.question }));
        let asked = Instant::now();
        let mut answer = Answer::default();
        let request = request(target, session, turn, &messages);
        let patience = session.leaves_after.map_or(Duration::from_secs(600), real);
        let end = answer.hear(target, &request, patience).await;
        let first = answer.first.map_or_else(|| asked.elapsed(), |at| at - asked);
        let (group, client) = (session.group, session.client);
        let (tokens, at) = (answer.tokens, begun.elapsed());
        told.push(Told { group, client, first, end, tokens, at });
        messages.push(json!({ "role": "assistant", "content": answer.content }));
    }
    told
}

fn request(target: &Target, session: &Session, turn: &Turn, messages: &[Value]) -> Vec<u8> {
    let (path, body) = match turn.tokens {
        0 => ("/api/embed", json!({ "model": session.model, "input": turn.question })),
        tokens => (
            "/api/chat",
            json!({ "model": session.model, "messages": messages, "stream": true,
                "options": { "num_predict": tokens } }),
        ),
    };
    let body = body.to_string();
    let key = target.key(session.client);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        target.address,
        body.len()
    );
    (head + &body).into_bytes()
}

#[derive(Default)]
struct Answer {
    first: Option<Instant>,
    content: String,
    tokens: u64,
    done: bool,
}

impl Answer {
    async fn hear(&mut self, target: &Target, request: &[u8], patience: Duration) -> End {
        let Ok(mut stream) = TcpStream::connect(target.address).await else { return End::Failed };
        if stream.write_all(request).await.is_err() {
            return End::Failed;
        }
        let mut bytes = Vec::new();
        match timeout(patience, head(&mut stream, &mut bytes)).await {
            Err(_) => return End::Left,
            Ok(Some(200)) => {}
            Ok(_) => return End::Failed,
        }
        loop {
            if !bytes.is_empty() && self.first.is_none() {
                self.first = Some(Instant::now());
            }
            self.read(&mut bytes);
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        if self.done { End::Whole } else { End::Broken }
    }

    /// Takes whole lines; those of the framing are no JSON.
    fn read(&mut self, bytes: &mut Vec<u8>) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            self.line(&line);
        }
        // an embedding is one object without a line's end
        if bytes.starts_with(b"{") && bytes.ends_with(b"}") {
            let line = std::mem::take(bytes);
            self.line(&line);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else { return };
        if let Some(piece) = value.pointer("/message/content").and_then(Value::as_str) {
            self.content.push_str(piece);
        }
        let embedded = value.get("embeddings").is_some();
        if embedded || value.get("done") == Some(&Value::Bool(true)) {
            self.done = true;
            self.tokens = value.get("eval_count").and_then(Value::as_u64).unwrap_or_default();
        }
    }
}

/// Reads to the end of the head, and leaves what follows.
async fn head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<u16> {
    loop {
        if let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") {
            let status = std::str::from_utf8(bytes.get(9..12)?).ok()?.parse().ok();
            bytes.drain(..end + 4);
            return status;
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}
