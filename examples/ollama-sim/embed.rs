//! The three embedding routes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::engine::Embedded;
use crate::json::{self, Json, map};
use crate::openai::usage;
use crate::prompt;
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::routes::Call;
use crate::sched::Want;
use crate::world::Found;

pub(crate) async fn native(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = json::parse(&call.body.bytes)?;
    let (name, inputs) = (body.string("model")?, inputs(&body)?);
    let arrived = Instant::now();
    let batch = embed(call, &body, &name, &inputs).await?;
    let total: usize = batch.embedded.iter().map(|one| one.tokens).sum();
    let vectors = batch.embedded.into_iter().map(|one| Json::from(one.vector)).collect();
    let mut object = map! {"model" => name, "embeddings" => Json::List(vectors)};
    let clock = call.world.clock;
    let times = map! {
        "total_duration" => if clock.is_deterministic() { 2_000_000 } else { clock.since(arrived).as_nanos() },
        "load_duration" => if clock.is_deterministic() { 1_000_000 } else { batch.load },
        "prompt_eval_count" => total,
    };
    for (key, value) in times.without_empty().entries() {
        object.push(key, value.clone());
    }
    Ok(Reply::json(&object))
}

pub(crate) async fn legacy(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = json::parse(&call.body.bytes)?;
    let (name, text) = (body.string("model")?, body.string("prompt")?);
    let inputs = if text.is_empty() { Vec::new() } else { vec![text] };
    let batch = embed(call, &body, &name, &inputs).await?;
    let vector = batch.embedded.into_iter().next().map(|one| one.vector).unwrap_or_default();
    Ok(Reply::json(&map! {"embedding" => vector}))
}

pub(crate) async fn openai(call: &Arc<Call>) -> Result<Reply, Refusal> {
    let body = prompt::wrapped_body(call)?;
    let (name, inputs) = (body.string("model")?, inputs(&body)?);
    if inputs.is_empty() {
        return Err(Refusal::bad("invalid input"));
    }
    let base64 = body.string("encoding_format")? == "base64";
    let batch = embed(call, &body, &name, &inputs).await?;
    let total: usize = batch.embedded.iter().map(|one| one.tokens).sum();
    let entry = |(index, one): (usize, Embedded)| {
        let vector = if base64 { packed(&one.vector) } else { Json::from(one.vector) };
        map! {"object" => "embedding", "embedding" => vector, "index" => index}
    };
    let data: Vec<Json> = batch.embedded.into_iter().enumerate().map(entry).collect();
    let mut usage = usage(total, 0);
    if let Json::Map(entries) = &mut usage {
        entries.retain(|(key, _)| key != "completion_tokens");
    }
    let list = map! {"object" => "list", "data" => data, "model" => name, "usage" => usage};
    Ok(Reply::wrapped(&list))
}

struct Batch {
    embedded: Vec<Embedded>,
    /// Modelled nanoseconds until the model was there.
    load: u128,
}

/// Each input takes a slot of its own, all at once.
async fn embed(
    call: &Arc<Call>,
    body: &Json,
    name: &str,
    inputs: &[String],
) -> Result<Batch, Refusal> {
    let model = match call.world.find(name)? {
        Found::Local(model) => model,
        Found::Cloud(_) => {
            prompt::would_leave(call, "cloud model", name);
            return Err(Refusal::new(502, "cloud embeddings are not modelled"));
        }
    };
    let length = dimensions(body, model.embedding)?;
    let want: Want = prompt::want(call, model, body)?;
    let (engine, started) = (&call.world.engine, Instant::now());
    let mut leases = vec![call.world.scheduler.acquire(&want).await?];
    let load = call.world.clock.since(started).as_nanos();
    for _ in 1..inputs.len() {
        leases.push(call.world.scheduler.acquire(&want).await?);
    }
    let each = leases.into_iter().zip(inputs).map(|(lease, input)| engine.embed(lease, input));
    let mut embedded = join_all(each).await;
    for one in &mut embedded {
        one.vector.truncate(length);
    }
    Ok(Batch { embedded, load })
}

fn dimensions(body: &Json, whole: usize) -> Result<usize, Refusal> {
    Ok(prompt::limit(body.integer("dimensions")?).unwrap_or(whole))
}

/// `input`: a string or a list of strings.
fn inputs(body: &Json) -> Result<Vec<String>, Refusal> {
    match body.plain("input") {
        None => Ok(Vec::new()),
        Some(Json::Str(text)) => Ok(vec![text.clone()]),
        Some(Json::List(items)) => items
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| Refusal::bad("invalid input type")),
        Some(_) => Err(Refusal::bad("invalid input type")),
    }
}

/// Little-endian floats in base64.
fn packed(vector: &[f32]) -> Json {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    Json::Str(STANDARD.encode(bytes))
}
