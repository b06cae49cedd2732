//! `/api/generate` and `/api/chat`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::engine::{Generation, Job, Kind, Outcome, Piece};
use crate::json::{self, Json, map};
use crate::prompt;
use crate::refusal::Refusal;
use crate::reply::{Encoder, NDJSON, Reply, Tokens, collect};
use crate::routes::Call;
use crate::units::Stay;
use crate::world::Found;

/// Which of the two routes, as their shapes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Generate,
    Chat,
}

pub(crate) async fn generate(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = json::parse(&call.body.bytes)?;
    let name = body.string("model")?;
    let found = match prompt::model(call, &name, "generate") {
        Err(refusal) if refusal.status == 400 && name.trim().is_empty() => {
            return Err(Refusal::no_model(&name));
        }
        found => found?,
    };
    let text = body.string("prompt")?;
    let suffix = body.string("suffix")?;
    let images = body.plain("images").map_or(&[][..], Json::list);
    let idle = text.is_empty() && suffix.is_empty() && images.is_empty();
    let mut rendered = String::new();
    if body.flag("raw")? != Some(true) {
        let system = body.string("system")?;
        if !system.is_empty() {
            rendered.push_str(&format!("<|system|>\n{system}<|end|>\n"));
        }
    }
    let images: String = images.iter().map(ToString::to_string).collect();
    rendered.push_str(&format!("<|user|>\n{images}{text}{suffix}<|end|>\n<|assistant|>\n"));
    if body.flag("_debug_render_only")? == Some(true) {
        return Ok(debug_render(call, &name, &rendered));
    }
    run(
        call,
        &body,
        Ask { route: Route::Generate, name, found, idle, prompt: rendered.into(), tool: None },
    )
    .await
}

pub(crate) async fn chat(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = json::parse(&call.body.bytes)?;
    let name = body.string("model")?;
    let found = prompt::model(call, &name, "chat")?;
    let messages = body.plain("messages").map_or(&[][..], Json::list);
    let tools = body.plain("tools").map_or(&[][..], Json::list);
    if let (Found::Local(model), false) = (&found, tools.is_empty())
        && !model.can("tools")
    {
        return Err(Refusal::bad(format!("{} does not support tools", model.name.short())));
    }
    let ask = Ask {
        route: Route::Chat,
        name,
        found,
        idle: messages.is_empty(),
        prompt: prompt::render(messages, tools)?,
        tool: prompt::tool_named(messages, tools),
    };
    run(call, &body, ask).await
}

/// A request of either route, understood.
struct Ask {
    route: Route,
    name: String,
    found: Found,
    /// Nothing to say: load or unload.
    idle: bool,
    prompt: Vec<u8>,
    tool: Option<String>,
}

async fn run(call: &Arc<Call>, body: &Json, ask: Ask) -> Result<Reply, Refusal> {
    let world = &call.world;
    let model = prompt::planned(world, &ask.found);
    let want = prompt::want(call, Arc::clone(&model), body)?;
    let shape = Shape::new(&ask, world.clock);
    if ask.idle && prompt::remote(&ask.found).is_none() {
        let unload = want.keep_alive == Some(Stay::NONE);
        if unload {
            world.scheduler.expire(&model);
        } else {
            world.engine.preload(&want).await?;
        }
        return Ok(Reply::json(&shape.idle(if unload { "unload" } else { "load" })));
    }
    let think = match body.get("think") {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(_) if model.can("thinking") || prompt::remote(&ask.found).is_some() => true,
        Some(_) => return Err(Refusal::bad(format!("\"{}\" does not support thinking", ask.name))),
    };
    let predict = prompt::option_number(&body.merged("options")?, "num_predict")?;
    let job = Job {
        want,
        prompt: ask.prompt,
        limit: prompt::limit(predict),
        think,
        tool: ask.tool,
        shift: body.flag("shift")? != Some(false),
    };
    let generation = prompt::start(call, ask.found, job).await?;
    if body.flag("stream")?.unwrap_or(true) {
        let tokens = Tokens::primed(generation, Box::new(shape)).await;
        return Ok(Reply::stream(NDJSON, tokens));
    }
    let (pieces, outcome) = collect(generation).await;
    Ok(Reply::json(&shape.last(
        &joined(&pieces, Kind::Thinking),
        &joined(&pieces, Kind::Content),
        &outcome,
    )))
}

pub(crate) fn joined(pieces: &[Piece], kind: Kind) -> String {
    pieces.iter().filter(|p| p.kind == kind).map(|p| p.text.as_str()).collect()
}

fn debug_render(call: &Call, name: &str, rendered: &str) -> Reply {
    Reply::json(&map! {
        "model" => name,
        "created_at" => call.world.clock.stamp(),
        "_debug_info" => map! {"rendered_template" => rendered},
    })
}

/// The objects that a route sends.
struct Shape {
    route: Route,
    /// As requested, not as installed.
    name: String,
    remote: Option<String>,
    clock: Clock,
}

impl Shape {
    fn new(ask: &Ask, clock: Clock) -> Self {
        let remote = prompt::remote(&ask.found).map(crate::name::Name::short);
        Self { route: ask.route, name: ask.name.clone(), remote, clock }
    }

    fn head(&self) -> Json {
        let mut object = map! {"model" => self.name.as_str()};
        if let Some(remote) = &self.remote {
            object.push("remote_model", remote.as_str());
            object.push("remote_host", "https://ollama.com:443");
        }
        object.push("created_at", self.clock.stamp());
        object
    }

    fn says(&self, object: &mut Json, thinking: &str, content: &str, tool: Option<&str>) {
        let thought = Some(thinking).filter(|t| !t.is_empty());
        match self.route {
            Route::Generate => {
                object.push("response", content);
                if let Some(thought) = thought {
                    object.push("thinking", thought);
                }
            }
            Route::Chat => {
                let mut message = map! {"role" => "assistant", "content" => content};
                if let Some(thought) = thought {
                    message.push("thinking", thought);
                }
                if let Some(tool) = tool {
                    let function = map! {"name" => tool, "arguments" => map! {}};
                    message.push("tool_calls", vec![map! {"function" => function}]);
                }
                object.push("message", message);
            }
        }
    }

    fn idle(&self, reason: &str) -> Json {
        let mut object = self.head();
        self.says(&mut object, "", "", None);
        object.push("done", true);
        object.push("done_reason", reason);
        object
    }

    fn last(&self, thinking: &str, content: &str, outcome: &Outcome) -> Json {
        let mut object = self.head();
        self.says(&mut object, thinking, content, outcome.tool.as_deref());
        object.push("done", true);
        object.push("done_reason", outcome.reason);
        if self.route == Route::Generate {
            object.push("context", outcome.context.clone());
        }
        let Json::Map(metrics) = metrics(outcome) else { return object };
        for (key, value) in metrics {
            object.push(&key, value);
        }
        object
    }
}

/// Nanoseconds and counts; zeros are left out.
fn metrics(outcome: &Outcome) -> Json {
    let nanos = |time: Duration| time.as_nanos();
    map! {
        "total_duration" => nanos(outcome.total),
        "load_duration" => nanos(outcome.load),
        "prompt_eval_count" => outcome.prompt_tokens,
        "prompt_eval_duration" => nanos(outcome.prefill),
        "eval_count" => outcome.output_tokens,
        "eval_duration" => nanos(outcome.decode),
    }
    .without_empty()
}

impl Encoder for Shape {
    fn begin(&mut self, _: &Generation) -> Vec<Bytes> {
        Vec::new()
    }

    fn piece(&mut self, piece: &Piece) -> Vec<Bytes> {
        let mut object = self.head();
        match piece.kind {
            Kind::Thinking => self.says(&mut object, &piece.text, "", None),
            Kind::Content => self.says(&mut object, "", &piece.text, None),
        }
        object.push("done", false);
        vec![line(&object)]
    }

    fn end(&mut self, outcome: &Outcome) -> Vec<Bytes> {
        vec![line(&self.last("", "", outcome))]
    }

    fn error(&mut self, message: &str) -> Vec<Bytes> {
        vec![line(&map! {"error" => message})]
    }
}

fn line(object: &Json) -> Bytes {
    format!("{object}\n").into()
}
