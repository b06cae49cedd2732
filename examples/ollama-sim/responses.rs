//! `/v1/responses`: OpenAI's newer, stateless here.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Clock;
use crate::engine::{Generation, Job, Kind, Outcome, Piece};
use crate::json::{Json, map};
use crate::native::joined;
use crate::prompt;
use crate::refusal::Refusal;
use crate::reply::{Encoder, Reply, SSE, Tokens, collect};
use crate::routes::Call;

pub(crate) async fn create(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = prompt::wrapped_body(call)?;
    let name = body.string("model")?;
    let found = prompt::model(call, &name, "chat")?;
    let tools = body.plain("tools").map_or(&[][..], Json::list);
    prompt::note_web_search(call, &name, tools);
    let messages = input(&body)?;
    let job = Job {
        want: prompt::want_plain(call, prompt::planned(&call.world, &found))?,
        prompt: prompt::render(&messages, tools)?,
        limit: prompt::limit(body.integer("max_output_tokens")?),
        think: false,
        tool: None,
        shift: true,
    };
    let stream = body.flag("stream")?.unwrap_or(false);
    let generation = prompt::start(call, found, job).await?;
    let (id, clock) = (generation.root() % 999_999, call.world.clock);
    let mut shape = Shape { name, id, clock, sequence: 0, text: String::new() };
    if stream {
        let tokens = Tokens::primed(generation, Box::new(shape)).await;
        let reply = Reply::stream(SSE, tokens);
        return Ok(reply.with("Cache-Control", "no-cache"));
    }
    let (pieces, outcome) = collect(generation).await;
    shape.text = joined(&pieces, Kind::Content);
    Ok(Reply::wrapped(&shape.response("completed", Some(&outcome))))
}

/// `input` as messages: a string is one from the user, `instructions` come first.
fn input(body: &Json) -> Result<Vec<Json>, Refusal> {
    let mut messages = Vec::new();
    let instructions = body.string("instructions")?;
    if !instructions.is_empty() {
        messages.push(map! {"role" => "system", "content" => instructions});
    }
    match body.plain("input") {
        Some(Json::Str(text)) => {
            messages.push(map! {"role" => "user", "content" => text.as_str()});
        }
        Some(Json::List(items)) => messages.extend(items.iter().cloned()),
        _ => return Err(Refusal::bad("input is required")),
    }
    Ok(messages)
}

struct Shape {
    name: String,
    id: u64,
    clock: Clock,
    sequence: u64,
    text: String,
}

impl Shape {
    fn response(&self, status: &str, outcome: Option<&Outcome>) -> Json {
        let output = if outcome.is_some() { vec![self.item("completed")] } else { Vec::new() };
        let usage = outcome.map(|o| {
            map! {
                "input_tokens" => o.prompt_tokens,
                "input_tokens_details" => map! {"cached_tokens" => 0u32},
                "output_tokens" => o.output_tokens,
                "output_tokens_details" => map! {"reasoning_tokens" => 0u32},
                "total_tokens" => o.prompt_tokens + o.output_tokens,
            }
        });
        map! {
            "id" => format!("resp_{}", self.id),
            "object" => "response",
            "created_at" => self.clock.unix(),
            "status" => status,
            "error" => Json::Null,
            "incomplete_details" => Json::Null,
            "instructions" => Json::Null,
            "model" => self.name.as_str(),
            "output" => output,
            "parallel_tool_calls" => true,
            "previous_response_id" => Json::Null,
            "tool_choice" => "auto",
            "tools" => Vec::<Json>::new(),
            "usage" => usage,
            "metadata" => map! {},
        }
    }

    fn item(&self, status: &str) -> Json {
        let content = if status == "completed" { vec![self.part()] } else { Vec::new() };
        map! {
            "id" => format!("msg_{}", self.id),
            "type" => "message",
            "status" => status,
            "role" => "assistant",
            "content" => content,
        }
    }

    fn part(&self) -> Json {
        map! {
            "type" => "output_text",
            "text" => self.text.as_str(),
            "annotations" => Vec::<Json>::new(),
            "logprobs" => Vec::<Json>::new(),
        }
    }

    fn event(&mut self, kind: &str, rest: Json) -> Bytes {
        let mut object = map! {"type" => kind, "sequence_number" => self.sequence};
        self.sequence += 1;
        if let Json::Map(entries) = rest {
            for (key, value) in entries {
                object.push(&key, value);
            }
        }
        format!("event: {kind}\ndata: {object}\n\n").into()
    }

    fn place(&self) -> Json {
        map! {"item_id" => format!("msg_{}", self.id), "output_index" => 0u32, "content_index" => 0u32}
    }
}

impl Encoder for Shape {
    fn begin(&mut self, _: &Generation) -> Vec<Bytes> {
        let pending = self.response("in_progress", None);
        let item = map! {"output_index" => 0u32, "item" => self.item("in_progress")};
        let mut part = self.place();
        part.push("part", self.part());
        vec![
            self.event("response.created", map! {"response" => pending.clone()}),
            self.event("response.in_progress", map! {"response" => pending}),
            self.event("response.output_item.added", item),
            self.event("response.content_part.added", part),
        ]
    }

    fn piece(&mut self, piece: &Piece) -> Vec<Bytes> {
        self.text.push_str(&piece.text);
        let mut rest = self.place();
        rest.push("delta", piece.text.as_str());
        rest.push("logprobs", Vec::<Json>::new());
        vec![self.event("response.output_text.delta", rest)]
    }

    fn end(&mut self, outcome: &Outcome) -> Vec<Bytes> {
        let mut text = self.place();
        text.push("text", self.text.as_str());
        text.push("logprobs", Vec::<Json>::new());
        let mut part = self.place();
        part.push("part", self.part());
        let item = map! {"output_index" => 0u32, "item" => self.item("completed")};
        let response = self.response("completed", Some(outcome));
        vec![
            self.event("response.output_text.done", text),
            self.event("response.content_part.done", part),
            self.event("response.output_item.done", item),
            self.event("response.completed", map! {"response" => response}),
        ]
    }

    fn error(&mut self, message: &str) -> Vec<Bytes> {
        vec![self.event("error", map! {"code" => "server_error", "message" => message})]
    }
}
