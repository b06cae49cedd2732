//! `/v1/chat/completions`, `/v1/completions` and `/v1/models`.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Clock;
use crate::engine::{Generation, Job, Kind, Outcome, Piece};
use crate::json::{Json, map};
use crate::model::Model;
use crate::native::joined;
use crate::prompt;
use crate::refusal::Refusal;
use crate::reply::{Encoder, Reply, SSE, Tokens, collect};
use crate::routes::Call;
use crate::world::Found;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Chat,
    Text,
}

pub(crate) async fn chat(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = prompt::wrapped_body(call)?;
    let messages = body.plain("messages").map_or(&[][..], Json::list);
    if messages.is_empty() {
        return Err(Refusal::bad("[] is too short - 'messages'"));
    }
    let tools = body.plain("tools").map_or(&[][..], Json::list);
    let rendered = prompt::render(messages, tools)?;
    run(call, &body, Route::Chat, rendered, prompt::tool_named(messages, tools)).await
}

pub(crate) async fn completions(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = prompt::wrapped_body(call)?;
    let text = body.string("prompt")?;
    let rendered = format!("<|user|>\n{text}<|end|>\n<|assistant|>\n");
    run(call, &body, Route::Text, rendered.into_bytes(), None).await
}

async fn run(
    call: &Arc<Call>,
    body: &Json,
    route: Route,
    rendered: Vec<u8>,
    tool: Option<String>,
) -> Result<Reply, Refusal> {
    let name = body.string("model")?;
    let verb = if route == Route::Chat { "chat" } else { "generate" };
    let found = prompt::model(call, &name, verb)?;
    let model = prompt::planned(&call.world, &found);
    let thinking = model.can("thinking") && body.string("reasoning_effort")? != "none";
    let job = Job {
        think: thinking && route == Route::Chat,
        want: prompt::want_plain(call, model)?,
        prompt: rendered,
        limit: prompt::limit(body.integer("max_tokens")?),
        tool,
        shift: true,
    };
    let asked = body.plain("stream_options").map_or(Ok(None), |o| o.flag("include_usage"))?;
    let stream = body.flag("stream")?.unwrap_or(false);
    let generation = prompt::start(call, found, job).await?;
    let shape = Shape {
        route,
        name,
        id: generation.root() % 999,
        usage: asked == Some(true),
        clock: call.world.clock,
    };
    if stream {
        let tokens = Tokens::primed(generation, Box::new(shape)).await;
        return Ok(Reply::stream(SSE, tokens));
    }
    let (pieces, outcome) = collect(generation).await;
    Ok(Reply::wrapped(&shape.whole(&pieces, &outcome)))
}

/// The objects that a route sends.
struct Shape {
    route: Route,
    name: String,
    id: u64,
    /// `stream_options.include_usage`.
    usage: bool,
    clock: Clock,
}

impl Shape {
    fn object(&self, kind: &str, choices: Vec<Json>) -> Json {
        let prefix = if self.route == Route::Chat { "chatcmpl" } else { "cmpl" };
        map! {
            "id" => format!("{prefix}-{}", self.id),
            "object" => kind,
            "created" => self.clock.unix(),
            "model" => self.name.as_str(),
            "system_fingerprint" => "fp_ollama",
            "choices" => choices,
        }
    }

    fn whole(&self, pieces: &[Piece], outcome: &Outcome) -> Json {
        let content = joined(pieces, Kind::Content);
        let reason = finish_reason(outcome);
        let (kind, choice) = match self.route {
            Route::Chat => {
                let mut message = map! {"role" => "assistant", "content" => content};
                let reasoning = joined(pieces, Kind::Thinking);
                if !reasoning.is_empty() {
                    message.push("reasoning", reasoning);
                }
                if let Some(tool) = &outcome.tool {
                    message.push("tool_calls", vec![tool_call(tool, self.id)]);
                }
                let choice =
                    map! {"index" => 0u32, "message" => message, "finish_reason" => reason};
                ("chat.completion", choice)
            }
            Route::Text => (
                "text_completion",
                map! {"text" => content, "index" => 0u32, "finish_reason" => reason},
            ),
        };
        let mut object = self.object(kind, vec![choice]);
        object.push("usage", usage(outcome.prompt_tokens, outcome.output_tokens));
        object
    }

    fn chunk(&self, delta: Json, reason: Option<&str>) -> Bytes {
        let choice = map! {"index" => 0u32, "delta" => delta, "finish_reason" => reason};
        event(&self.object("chat.completion.chunk", vec![choice]))
    }

    fn text_chunk(&self, text: &str, reason: Option<&str>) -> Bytes {
        let choice = map! {"text" => text, "index" => 0u32, "finish_reason" => reason};
        let mut object = self.object("text_completion", vec![choice]);
        if self.usage {
            object.push("usage", usage(0, 0));
        }
        event(&object)
    }

    fn usage_chunk(&self, outcome: &Outcome) -> Bytes {
        let kind = match self.route {
            Route::Chat => "chat.completion.chunk",
            Route::Text => "text_completion",
        };
        let mut object = self.object(kind, Vec::new());
        object.push("usage", usage(outcome.prompt_tokens, outcome.output_tokens));
        event(&object)
    }
}

impl Encoder for Shape {
    fn begin(&mut self, _: &Generation) -> Vec<Bytes> {
        match self.route {
            Route::Chat => vec![self.chunk(map! {"role" => "assistant", "content" => ""}, None)],
            Route::Text => Vec::new(),
        }
    }

    fn piece(&mut self, piece: &Piece) -> Vec<Bytes> {
        let text = piece.text.as_str();
        vec![match (self.route, piece.kind) {
            (Route::Text, _) => self.text_chunk(text, None),
            (Route::Chat, Kind::Content) => self.chunk(map! {"content" => text}, None),
            (Route::Chat, Kind::Thinking) => {
                self.chunk(map! {"content" => "", "reasoning" => text}, None)
            }
        }]
    }

    fn end(&mut self, outcome: &Outcome) -> Vec<Bytes> {
        let reason = finish_reason(outcome);
        let mut chunks = Vec::new();
        if let Some(tool) = &outcome.tool {
            let calls = vec![tool_call(tool, self.id)];
            chunks.push(self.chunk(map! {"content" => "", "tool_calls" => calls}, None));
        }
        chunks.push(match self.route {
            Route::Chat => self.chunk(map! {}, Some(reason)),
            Route::Text => self.text_chunk("", Some(reason)),
        });
        if self.usage {
            chunks.push(self.usage_chunk(outcome));
        }
        chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
        chunks
    }

    /// The wrapper loses the text: an empty delta, and no `[DONE]`.
    fn error(&mut self, _: &str) -> Vec<Bytes> {
        vec![match self.route {
            Route::Chat => self.chunk(map! {"content" => ""}, None),
            Route::Text => self.text_chunk("", None),
        }]
    }
}

fn finish_reason(outcome: &Outcome) -> &'static str {
    if outcome.tool.is_some() { "tool_calls" } else { outcome.reason }
}

fn tool_call(tool: &str, id: u64) -> Json {
    let function = map! {"name" => tool, "arguments" => "{}"};
    map! {
        "id" => format!("call_{id:08}"), "index" => 0u32, "type" => "function",
        "function" => function,
    }
}

pub(crate) fn usage(prompt: usize, output: usize) -> Json {
    map! {
        "prompt_tokens" => prompt,
        "completion_tokens" => output,
        "total_tokens" => prompt + output,
    }
}

/// One server-sent event.
fn event(object: &Json) -> Bytes {
    format!("data: {object}\n\n").into()
}

pub(crate) fn models(call: &Call) -> Reply {
    let data: Vec<Json> = call.world.models.all().iter().map(|m| entry(call, m)).collect();
    // a nil slice in Go
    let data = if data.is_empty() { Json::Null } else { Json::List(data) };
    Reply::wrapped(&map! {"object" => "list", "data" => data})
}

pub(crate) fn model(call: &Call, name: &str) -> Result<Reply, Refusal> {
    match call.world.find(name)? {
        Found::Local(model) => Ok(Reply::wrapped(&entry(call, &model))),
        Found::Cloud(_) => Err(Refusal::no_model(name)),
    }
}

fn entry(call: &Call, model: &Model) -> Json {
    let owner = if call.world.args.openai_only { "vllm" } else { "library" };
    map! {
        "id" => model.name.short(),
        "object" => "model",
        "created" => 1_767_225_600u64,
        "owned_by" => owner,
    }
}
