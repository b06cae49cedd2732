//! `/v1/messages`: Anthropic's dialect.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Generation, Job, Kind, Outcome, Piece};
use crate::json::{Json, map};
use crate::native::joined;
use crate::prompt;
use crate::refusal::{Refusal, anthropic_type};
use crate::reply::{Encoder, Reply, SSE, Tokens, collect};
use crate::routes::Call;

pub(crate) async fn messages(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = prompt::wrapped_body(call)?;
    let name = body.string("model")?;
    if name.is_empty() {
        return Err(Refusal::bad("model is required"));
    }
    let limit = prompt::limit(body.integer("max_tokens")?);
    if limit.is_none() {
        return Err(Refusal::bad("max_tokens is required and must be positive"));
    }
    let given = body.plain("messages").map_or(&[][..], Json::list);
    if given.is_empty() {
        return Err(Refusal::bad("messages is required"));
    }
    let found = prompt::model(call, &name, "chat")?;
    let tools = body.plain("tools").map_or(&[][..], Json::list);
    prompt::note_web_search(call, &name, tools);
    let mut all = Vec::new();
    if let Some(system) = body.plain("system") {
        all.push(map! {"role" => "system", "content" => system.clone()});
    }
    all.extend(given.iter().cloned());
    let model = prompt::planned(&call.world, &found);
    let enabled = body.plain("thinking").map_or(Ok(String::new()), |t| t.string("type"))?;
    let job = Job {
        think: model.can("thinking") && enabled == "enabled",
        want: prompt::want_plain(call, model)?,
        prompt: prompt::render(&all, tools)?,
        limit,
        tool: prompt::tool_named(given, tools),
        shift: true,
    };
    let stream = body.flag("stream")?.unwrap_or(false);
    let generation = prompt::start(call, found, job).await?;
    let mut shape = Shape { name, id: generation.root(), block: None, blocks: 0 };
    if stream {
        let tokens = Tokens::primed(generation, Box::new(shape)).await;
        return Ok(Reply::stream(SSE, tokens).with("Cache-Control", "no-cache"));
    }
    let (pieces, outcome) = collect(generation).await;
    Ok(Reply::wrapped(&shape.whole(&pieces, &outcome)))
}

/// What a content block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

struct Shape {
    name: String,
    id: u64,
    /// The block that is open in a stream.
    block: Option<Block>,
    blocks: usize,
}

impl Shape {
    fn message(&self, content: Vec<Json>, stop: Option<&str>, tokens: (usize, usize)) -> Json {
        map! {
            "id" => format!("msg_{:024x}", self.id),
            "type" => "message",
            "role" => "assistant",
            "model" => self.name.as_str(),
            "content" => content,
            "stop_reason" => stop,
            "stop_sequence" => Json::Null,
            "usage" => map! {"input_tokens" => tokens.0, "output_tokens" => tokens.1},
        }
    }

    fn whole(&mut self, pieces: &[Piece], outcome: &Outcome) -> Json {
        let mut content = Vec::new();
        let thinking = joined(pieces, Kind::Thinking);
        if !thinking.is_empty() {
            content.push(map! {"type" => "thinking", "thinking" => thinking, "signature" => ""});
        }
        content.push(map! {"type" => "text", "text" => joined(pieces, Kind::Content)});
        if let Some(tool) = &outcome.tool {
            content.push(self.tool_use(tool));
        }
        let tokens = (outcome.prompt_tokens, outcome.output_tokens);
        self.message(content, Some(stop_reason(outcome)), tokens)
    }

    fn tool_use(&self, tool: &str) -> Json {
        let id = format!("toolu_{:08x}", self.id & 0xffff_ffff);
        map! {"type" => "tool_use", "id" => id, "name" => tool, "input" => map! {}}
    }

    /// Closes the open block and opens another.
    fn switch(&mut self, to: Option<Block>, out: &mut Vec<Bytes>) {
        if self.block == to {
            return;
        }
        if self.block.is_some() {
            out.push(event("content_block_stop", map! {"index" => self.blocks}));
            self.blocks += 1;
        }
        self.block = to;
        let opening = match to {
            Some(Block::Thinking) => {
                map! {"type" => "thinking", "thinking" => "", "signature" => ""}
            }
            Some(Block::Text) => map! {"type" => "text", "text" => ""},
            None => return,
        };
        let rest = map! {"index" => self.blocks, "content_block" => opening};
        out.push(event("content_block_start", rest));
    }

    fn tool_block(&mut self, tool: &str, out: &mut Vec<Bytes>) {
        let index = self.blocks;
        let start = map! {"index" => index, "content_block" => self.tool_use(tool)};
        out.push(event("content_block_start", start));
        let delta = map! {"type" => "input_json_delta", "partial_json" => "{}"};
        out.push(event("content_block_delta", map! {"index" => index, "delta" => delta}));
        out.push(event("content_block_stop", map! {"index" => index}));
        self.blocks += 1;
    }
}

impl Encoder for Shape {
    fn begin(&mut self, generation: &Generation) -> Vec<Bytes> {
        // an estimate, as in Ollama: the real count comes with `message_delta`
        let estimate = generation.prompt_tokens() * 9 / 10;
        vec![event(
            "message_start",
            map! {"message" => self.message(Vec::new(), None, (estimate, 0))},
        )]
    }

    fn piece(&mut self, piece: &Piece) -> Vec<Bytes> {
        let mut out = Vec::new();
        let text = piece.text.as_str();
        let (block, delta) = match piece.kind {
            Kind::Thinking => {
                (Block::Thinking, map! {"type" => "thinking_delta", "thinking" => text})
            }
            Kind::Content => (Block::Text, map! {"type" => "text_delta", "text" => text}),
        };
        self.switch(Some(block), &mut out);
        let rest = map! {"index" => self.blocks, "delta" => delta};
        out.push(event("content_block_delta", rest));
        out
    }

    fn end(&mut self, outcome: &Outcome) -> Vec<Bytes> {
        let mut out = Vec::new();
        self.switch(None, &mut out);
        if let Some(tool) = &outcome.tool {
            self.tool_block(tool, &mut out);
        }
        let delta = map! {"stop_reason" => stop_reason(outcome), "stop_sequence" => Json::Null};
        let usage = map! {
            "input_tokens" => outcome.prompt_tokens,
            "output_tokens" => outcome.output_tokens,
        };
        out.push(event("message_delta", map! {"delta" => delta, "usage" => usage}));
        out.push(event("message_stop", map! {}));
        out
    }

    fn error(&mut self, message: &str) -> Vec<Bytes> {
        let error = map! {"type" => anthropic_type(500), "message" => message};
        vec![event("error", map! {"error" => error})]
    }
}

fn stop_reason(outcome: &Outcome) -> &'static str {
    match outcome.reason {
        _ if outcome.tool.is_some() => "tool_use",
        "length" => "max_tokens",
        _ => "end_turn",
    }
}

fn event(kind: &str, rest: Json) -> Bytes {
    let mut object = map! {"type" => kind};
    if let Json::Map(entries) = rest {
        for (key, value) in entries {
            object.push(&key, value);
        }
    }
    format!("event: {kind}\ndata: {object}\n\n").into()
}
