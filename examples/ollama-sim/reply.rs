//! Answers: a head, and a body that comes at once or token by token.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::engine::{Generation, Outcome, Piece};
use crate::json::Json;
use crate::refusal::{Dialect, Refusal};

/// Turns tokens into the chunks of one dialect.
pub(crate) trait Encoder: Send {
    /// Chunks before the first token; they leave together with it.
    fn begin(&mut self, generation: &Generation) -> Vec<Bytes>;
    fn piece(&mut self, piece: &Piece) -> Vec<Bytes>;
    fn end(&mut self, outcome: &Outcome) -> Vec<Bytes>;
    /// What Ollama says when its runner fails in the middle.
    fn error(&mut self, message: &str) -> Vec<Bytes>;
}

/// Where a body comes from.
pub(crate) enum Source {
    /// All of it, with its length.
    Whole(Bytes),
    /// Chunks, each after a modelled pause.
    Paced(VecDeque<(Duration, Bytes)>),
    /// Tokens; the chunks of the first one are ready.
    Tokens(Box<Tokens>),
}

/// A stream of tokens.
pub(crate) struct Tokens {
    pub(crate) generation: Option<Generation>,
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) ready: VecDeque<Bytes>,
}

impl Tokens {
    /// Waits for the first token: until then not even the head may leave.
    pub(crate) async fn primed(mut generation: Generation, mut encoder: Box<dyn Encoder>) -> Self {
        let first = generation.next().await;
        let mut ready: VecDeque<Bytes> = encoder.begin(&generation).into();
        let mut tokens = match first {
            Some(piece) => {
                ready.extend(encoder.piece(&piece));
                Self { generation: Some(generation), encoder, ready }
            }
            None => {
                ready.extend(encoder.end(&generation.finish()));
                Self { generation: None, encoder, ready }
            }
        };
        tokens.ready.retain(|chunk| !chunk.is_empty());
        tokens
    }

    /// The next chunk, or none at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() {
            let generation = self.generation.as_mut()?;
            let chunks = match generation.next().await {
                Some(piece) => self.encoder.piece(&piece),
                None => {
                    let outcome = generation.finish();
                    self.generation = None;
                    self.encoder.end(&outcome)
                }
            };
            self.ready.extend(chunks.into_iter().filter(|chunk| !chunk.is_empty()));
        }
        self.ready.pop_front()
    }
}

/// Reads a generation to its end.
pub(crate) async fn collect(mut generation: Generation) -> (Vec<Piece>, Outcome) {
    let mut pieces = Vec::new();
    while let Some(piece) = generation.next().await {
        pieces.push(piece);
    }
    let outcome = generation.finish();
    (pieces, outcome)
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) source: Source,
}

pub(crate) const JSON_UTF8: &str = "application/json; charset=utf-8";
pub(crate) const JSON: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const SSE: &str = "text/event-stream";

impl Reply {
    pub(crate) fn new(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self::from(status, kind, Source::Whole(body.into()))
    }

    pub(crate) fn from(status: u16, kind: &'static str, source: Source) -> Self {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Self { status, headers, source }
    }

    /// gin's JSON.
    pub(crate) fn json(body: &Json) -> Self {
        Self::new(200, JSON_UTF8, body.to_string())
    }

    /// The `/v1` wrappers' JSON, with the newline of Go's encoder.
    pub(crate) fn wrapped(body: &Json) -> Self {
        Self::new(200, JSON, format!("{body}\n"))
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self::new(status, "", Bytes::new())
    }

    pub(crate) fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain", body)
    }

    pub(crate) fn refused(refusal: &Refusal, dialect: Dialect) -> Self {
        let kind = if dialect == Dialect::Native { JSON_UTF8 } else { JSON };
        Self::new(refusal.status, kind, refusal.body(dialect).to_string())
    }

    pub(crate) fn stream(kind: &'static str, tokens: Tokens) -> Self {
        Self::from(200, kind, Source::Tokens(Box::new(tokens)))
    }

    /// Sets a header; one that HTTP does not allow is left out.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            self.headers.append(name, value);
        }
        self
    }
}
