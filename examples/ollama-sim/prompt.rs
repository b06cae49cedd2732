//! What a request asks of the engine: rendered prompt, options, model.

use std::sync::Arc;

use crate::engine::{Generation, Job};
use crate::json::{self, Json};
use crate::log::{Egress, header_list};
use crate::model::Model;
use crate::name::Name;
use crate::refusal::Refusal;
use crate::routes::Call;
use crate::sched::{RunnerOptions, Want};
use crate::units::Stay;
use crate::world::{Found, World};

/// The options beside `num_ctx` whose change reloads a model.
const RUNNER_OPTIONS: [&str; 6] =
    ["draft_num_predict", "main_gpu", "num_batch", "num_gpu", "num_thread", "use_mmap"];

/// The Runner options of a request: those named, the rest by default.
pub(crate) fn runner_options(
    world: &World,
    model: &Model,
    body: &Json,
) -> Result<RunnerOptions, Refusal> {
    let options = body.merged("options")?;
    let given = option_number(&options, "num_ctx")?.and_then(|n| u64::try_from(n).ok());
    let context = given.filter(|n| *n > 0).unwrap_or_else(|| world.args.default_context());
    let mut others: Vec<(String, Json)> = RUNNER_OPTIONS
        .iter()
        .filter_map(|name| options.plain(name).map(|value| ((*name).to_owned(), value.clone())))
        .collect();
    if body.flag("shift")? == Some(false) {
        others.push(("shift".to_owned(), Json::Bool(false)));
    }
    Ok(RunnerOptions { context: context.min(model.context), others })
}

pub(crate) fn option_number(options: &Json, name: &str) -> Result<Option<i64>, Refusal> {
    match options.plain(name) {
        None => Ok(None),
        Some(Json::Num(digits)) =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "saturates")]
            Ok(digits.parse::<f64>().ok().map(|number| number as i64))
        }
        Some(_) => Err(Refusal::bad(format!("option \"{name}\" must be of type integer"))),
    }
}

/// What a request wants of the scheduler.
pub(crate) fn want(call: &Call, model: Arc<Model>, body: &Json) -> Result<Want, Refusal> {
    let options = runner_options(&call.world, &model, body)?;
    let keep_alive = Stay::from_json(body.get("keep_alive"))?;
    Ok(Want { model, options, keep_alive })
}

/// What a `/v1` request wants: it can set neither options nor `keep_alive`.
pub(crate) fn want_plain(call: &Call, model: Arc<Model>) -> Result<Want, Refusal> {
    want(call, model, &Json::Null)
}

/// A token limit: a positive number, or none.
pub(crate) fn limit(number: Option<i64>) -> Option<usize> {
    number.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

/// Messages as a chat template would render them: tools and system first.
pub(crate) fn render(messages: &[Json], tools: &[Json]) -> Result<Vec<u8>, Refusal> {
    let mut out = String::new();
    if !tools.is_empty() {
        out.push_str(&format!("<|tools|>{}<|end|>\n", Json::List(tools.to_vec())));
    }
    for message in messages {
        let role = message.string("role")?;
        out.push_str(&format!("<|{role}|>\n{}<|end|>\n", content(message)));
    }
    out.push_str("<|assistant|>\n");
    Ok(out.into_bytes())
}

/// The text of a message: a string, or the texts of a list of parts.
pub(crate) fn content(message: &Json) -> String {
    match message.plain("content") {
        None => String::new(),
        Some(Json::Str(text)) => text.clone(),
        Some(other) => {
            let part = |part: &Json| match part.plain("text") {
                Some(Json::Str(text)) => text.clone(),
                _ => part.to_string(),
            };
            other.list().iter().map(part).collect()
        }
    }
}

/// The tool that the last message names, as a model would choose to call it.
pub(crate) fn tool_named(messages: &[Json], tools: &[Json]) -> Option<String> {
    let last = content(messages.last()?);
    let name = |tool: &Json| {
        let holder = tool.plain("function").unwrap_or(tool);
        holder.plain("name").and_then(Json::text).map(str::to_owned)
    };
    tools.iter().filter_map(name).find(|name| last.contains(name.as_str()))
}

/// The model of a request, checked for a capability.
pub(crate) fn model(call: &Call, name: &str, verb: &str) -> Result<Found, Refusal> {
    let found = call.world.find(name)?;
    if let Found::Local(model) = &found
        && !model.can("completion")
    {
        return Err(Refusal::bad(format!("\"{name}\" does not support {verb}")));
    }
    Ok(found)
}

/// A generation for a local model, or a recorded answer in the place of a cloud one.
pub(crate) async fn start(call: &Call, found: Found, mut job: Job) -> Result<Generation, Refusal> {
    match found {
        Found::Local(_) => call.world.engine.start(job).await,
        Found::Cloud(name) => {
            would_leave(call, "cloud model", &name.short());
            job.limit = job.limit.or(Some(call.world.args.default_tokens));
            Ok(call.world.engine.start_remote(&job))
        }
    }
}

/// The model to plan with: a cloud one has no entry here, so it gets a nominal one.
pub(crate) fn planned(world: &World, found: &Found) -> Arc<Model> {
    match found {
        Found::Local(model) => Arc::clone(model),
        Found::Cloud(name) => Arc::new(world.models.nominal(name)),
    }
}

/// Records a request that a real Ollama would have forwarded, with all headers but hop-by-hop ones.
pub(crate) fn would_leave(call: &Call, reason: &'static str, model: &str) {
    const HOP: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let mut headers = header_list(&call.head.headers);
    headers.retain(|(name, _)| !HOP.contains(&name.as_str()));
    let path = call.head.uri.path().to_owned();
    call.world.counters.add(|c| &c.egress, 1);
    call.world.log.would_leave(Egress { reason, path, model: model.to_owned(), headers });
}

/// Web-search tools make Ollama ask ollama.com.
pub(crate) fn note_web_search(call: &Call, model: &str, tools: &[Json]) {
    let kind = |tool: &Json| tool.plain("type").and_then(Json::text).unwrap_or("").to_owned();
    if tools.iter().any(|tool| kind(tool).starts_with("web_search")) {
        would_leave(call, "web search", model);
    }
}

/// The JSON body of a `/v1` request, which may be compressed.
pub(crate) fn wrapped_body(call: &Call) -> Result<Json, Refusal> {
    const MOST: u64 = 20 << 20;
    let encoded = call.header("content-encoding").is_some_and(|e| e.eq_ignore_ascii_case("zstd"));
    if !encoded || call.world.args.openai_only {
        return json::parse(&call.body.bytes);
    }
    let unreadable = |_| Refusal::bad("failed to decompress request body");
    let mut reader = zstd::Decoder::new(&*call.body.bytes).map_err(unreadable)?;
    reader.window_log_max(23).map_err(unreadable)?;
    let mut plain = Vec::new();
    let mut capped = std::io::Read::take(reader, MOST + 1);
    std::io::Read::read_to_end(&mut capped, &mut plain).map_err(unreadable)?;
    if plain.len() as u64 > MOST {
        return Err(Refusal::new(413, "request body too large"));
    }
    json::parse(&plain)
}

/// The name of a cloud model's home, for answers that show it.
pub(crate) const fn remote(found: &Found) -> Option<&Name> {
    match found {
        Found::Local(_) => None,
        Found::Cloud(name) => Some(name),
    }
}
