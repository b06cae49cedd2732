//! ACCOUNT: token counts, read from passing chunks; [`ledger`] adds them up and [`report`] is what
//! people see of the sums.
//!
//! A stream is never held for its counts: what comes in goes out, the very same buffer, and only a
//! few words are remembered. The one thing that is cut is the usage that Usher itself asked for.

pub mod ledger;
mod ndjson;
pub mod report;
mod scan;
mod sse;
mod strip;

use bytes::Bytes;

use ndjson::Lines;
use scan::{Name, Scan, Value};
use sse::Events;
use strip::Cutter;

/// How an answer is written, which the route and `stream` decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `/api/*`, streaming: a JSON object a line.
    Ndjson,
    /// `/api/*`, whole.
    OllamaJson,
    /// `/v1/chat/completions` and `/v1/completions`, streaming: `data:` events, then `[DONE]`.
    SseOpenAi,
    /// `/v1/responses`, streaming.
    SseResponses,
    /// `/v1/messages`, streaming.
    SseAnthropic,
    /// `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`, whole.
    OpenAiJson,
    /// `/v1/responses`, whole.
    ResponsesJson,
    /// `/v1/messages`, whole.
    AnthropicJson,
    /// Nothing to be read.
    None,
}

/// What an answer has said so far. Zeros count as nothing said: Ollama leaves them out of its own
/// format, and fills them into OpenAI's before it knows better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the prompt, cached ones included.
    pub prompt: Option<u64>,
    /// Tokens generated.
    pub completion: Option<u64>,
    /// Nanoseconds until a runner was ready, waiting behind other loads included.
    pub load_ns: Option<u64>,
    /// Nanoseconds of work on the uncached part of the prompt.
    pub prompt_eval_ns: Option<u64>,
    /// Nanoseconds of generation.
    pub eval_ns: Option<u64>,
    /// Nanoseconds in all; what the parts leave of it was a wait inside the instance.
    pub total_ns: Option<u64>,
    /// The answer came to its proper end: `done`, `[DONE]`, `message_stop`, `response.completed`,
    /// `response.incomplete` (the limit of tokens), or the closing brace of a whole answer.
    pub finished: bool,
    /// An error stood in the answer.
    pub errored: bool,
}

impl Counts {
    /// One table for every format: no two of them mean different things by the same path.
    fn learn(&mut self, path: &[Name], value: &Value<'_>) {
        use Name::*;
        let slot = match path {
            [PromptEvalCount]
            | [Usage, PromptTokens | InputTokens]
            | [Message | Response, Usage, InputTokens] => &mut self.prompt,
            [EvalCount]
            | [Usage, CompletionTokens | OutputTokens]
            | [Message | Response, Usage, OutputTokens] => &mut self.completion,
            [LoadDuration] => &mut self.load_ns,
            [PromptEvalDuration] => &mut self.prompt_eval_ns,
            [EvalDuration] => &mut self.eval_ns,
            [TotalDuration] => &mut self.total_ns,
            [Done] => return self.finished |= *value == Value::Bare(b"true"),
            [Error] => return self.errored |= *value != Value::Bare(b"null"),
            [Type] => return self.learn_type(value),
            _ => return,
        };
        if let Some(number) = value.number().filter(|number| *number > 0) {
            *slot = Some(number);
        }
    }

    fn learn_type(&mut self, value: &Value<'_>) {
        match value {
            Value::Text(b"message_stop" | b"response.completed" | b"response.incomplete") => {
                self.finished = true;
            }
            Value::Text(b"error" | b"response.failed") => self.errored = true,
            _ => {}
        }
    }
}

/// Reads the counts of one answer as its chunks pass. Whatever the bytes are, they pass.
#[derive(Debug)]
pub struct Meter {
    counts: Counts,
    reader: Reader,
    cutter: Option<Box<Cutter>>,
    /// Ends of lines that have passed, in answers that stream.
    lines: u64,
    /// How many of them a piece has; 0 in answers that come whole.
    lines_each: u64,
}

#[derive(Debug)]
enum Reader {
    Lines(Box<Lines>),
    Events(Box<Events>),
    Whole(Box<Scan>),
    Nothing,
}

impl Meter {
    /// `strip_usage`: the usage in an OpenAI stream is there because
    /// [`prepare`](crate::payload::prepare) asked for it, and not for the client's eyes.
    #[must_use]
    pub fn new(format: Format, strip_usage: bool) -> Self {
        let reader = match format {
            Format::Ndjson => Reader::Lines(Box::default()),
            Format::SseOpenAi | Format::SseResponses | Format::SseAnthropic => {
                Reader::Events(Box::new(Events::new(format)))
            }
            Format::OllamaJson
            | Format::OpenAiJson
            | Format::ResponsesJson
            | Format::AnthropicJson => Reader::Whole(Box::default()),
            Format::None => Reader::Nothing,
        };
        let strips = strip_usage && format == Format::SseOpenAi;
        let cutter = strips.then(Box::default);
        let lines_each = match format {
            Format::Ndjson => 1,
            Format::SseOpenAi => 2,
            // a line for the event's name, too
            Format::SseResponses | Format::SseAnthropic => 3,
            _ => 0,
        };
        Self { counts: Counts::default(), reader, cutter, lines: 0, lines_each }
    }

    /// Takes what came from the instance, returns what goes to the client now: the same buffer,
    /// unless usage is stripped and an event has to be cut or waited for.
    #[must_use]
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.lines_each > 0 {
            self.lines += memchr::memchr_iter(b'\n', &chunk).count() as u64;
        }
        match &mut self.reader {
            Reader::Lines(lines) => lines.push(&chunk, &mut self.counts),
            Reader::Events(events) => events.push(&chunk, &mut self.counts),
            Reader::Whole(scan) => {
                scan.push(&chunk, &mut |path, value| self.counts.learn(path, value));
                self.counts.finished = scan.closed();
            }
            Reader::Nothing => {}
        }
        match &mut self.cutter {
            Some(cutter) => cutter.push(chunk),
            None => chunk,
        }
    }

    /// At the clean end of the answer: what was still held back, if anything.
    #[must_use]
    pub fn finish(&mut self) -> Option<Bytes> {
        if let Reader::Events(events) = &mut self.reader {
            events.finish(&mut self.counts);
        }
        self.cutter.as_mut()?.finish()
    }

    /// Pieces of the answer that have passed: of a stream that does not come to its end, about
    /// the tokens that were generated. None of an answer that comes whole.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.lines.checked_div(self.lines_each).unwrap_or(0)
    }

    /// What has been read so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests;
