//! Routes that change what is installed, and those that touch the owner's account: recorded,
//! answered in Ollama's shapes, and carried out on the list of models alone.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::json::{self, Json, map};
use crate::model::Model;
use crate::name::{Asked, Name};
use crate::prompt::would_leave;
use crate::refusal::Refusal;
use crate::reply::{NDJSON, Reply, Source};
use crate::routes::Call;

pub(crate) fn pull(call: &Call) -> Result<Reply, Refusal> {
    let (body, name) = named(call)?;
    let model = call.world.models.nominal(&name);
    let digest = format!("sha256:{}", model.digest);
    let pulling = format!("pulling {}", model.digest.get(..12).unwrap_or_default());
    let progress = |completed: u64| {
        let mut line = map! {
            "status" => pulling.as_str(), "digest" => digest.as_str(), "total" => model.size,
        };
        if completed > 0 {
            line.push("completed", completed);
        }
        line
    };
    let mut lines = vec![status("pulling manifest")];
    lines.extend((0..=4).map(|quarter| progress(model.size / 4 * quarter)));
    lines.extend(["verifying sha256 digest", "writing manifest", "success"].map(status));
    call.world.models.put(model);
    progressing(&body, lines)
}

pub(crate) fn push(call: &Call) -> Result<Reply, Refusal> {
    let (body, name) = named(call)?;
    let model = call.world.models.find(&name);
    let model = model.ok_or_else(|| Refusal::no_model(&name.short()))?;
    would_leave(call, "push", &name.short());
    let digest = format!("sha256:{}", model.digest);
    let pushing = format!("pushing {}", model.digest.get(..12).unwrap_or_default());
    let upload = map! {"status" => pushing, "digest" => digest, "total" => model.size};
    let lines =
        vec![status("retrieving manifest"), upload, status("pushing manifest"), status("success")];
    progressing(&body, lines)
}

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let (body, name) = named(call)?;
    let from = body.string("from")?;
    let base = if from.is_empty() {
        call.world.models.nominal(&name)
    } else {
        let found = Name::parse(&from).and_then(|from| call.world.models.find(&from));
        (*found.ok_or_else(|| Refusal::no_model(&from))?).clone()
    };
    call.world.models.put(Model { name, ..base });
    let lines = ["reading model metadata", "writing manifest", "success"].map(status);
    progressing(&body, lines.into())
}

pub(crate) fn copy(call: &Call) -> Result<Reply, Refusal> {
    let body = json::parse(&call.body.bytes)?;
    let (source, destination) = (body.string("source")?, body.string("destination")?);
    let parse = |text: &str, which: &str| {
        Name::parse(text).ok_or_else(|| Refusal::bad(format!("{which} \"{text}\" is invalid")))
    };
    let (from, to) = (parse(&source, "source")?, parse(&destination, "destination")?);
    let model = call.world.models.find(&from);
    let model = model.ok_or_else(|| Refusal::new(404, format!("model \"{source}\" not found")))?;
    call.world.models.put(Model { name: to, ..(*model).clone() });
    Ok(Reply::empty(200))
}

pub(crate) fn delete(call: &Call) -> Result<Reply, Refusal> {
    let (_, name) = named(call)?;
    if let Some(model) = call.world.models.find(&name) {
        call.world.scheduler.expire(&model);
    }
    if call.world.models.remove(&name) {
        Ok(Reply::empty(200))
    } else {
        Err(Refusal::no_model(&name.short()))
    }
}

pub(crate) fn blob_exists(call: &Call, digest: &str) -> Reply {
    let known = call.world.blobs.lock().iter().any(|blob| blob == digest);
    Reply::empty(if known { 200 } else { 404 })
}

pub(crate) fn blob_upload(call: &Call, digest: &str) -> Result<Reply, Refusal> {
    if digest.strip_prefix("sha256:") != Some(call.body.sha256.as_str()) {
        let actual = &call.body.sha256;
        let message = format!("digest mismatch, expected \"{digest}\", got \"sha256:{actual}\"");
        return Err(Refusal::bad(message));
    }
    let mut blobs = call.world.blobs.lock();
    if blobs.iter().any(|blob| blob == digest) {
        return Ok(Reply::empty(200));
    }
    blobs.push(digest.to_owned());
    Ok(Reply::empty(201))
}

/// Signed-in user, sign-out, web search: nobody is signed in here.
pub(crate) fn account(call: &Call) -> Reply {
    call.world.counters.add(|c| &c.account, 1);
    would_leave(call, "account", "");
    let body = map! {"error" => "unauthorized", "signin_url" => "https://ollama.com/connect"};
    Reply::new(401, crate::reply::JSON_UTF8, body.to_string())
}

pub(crate) fn recommendations(call: &Call) -> Reply {
    would_leave(call, "recommendations", "");
    Reply::json(&map! {"recommendations" => Vec::<Json>::new()})
}

/// The body and the name in it: `model`, else the older `name`.
fn named(call: &Call) -> Result<(Json, Name), Refusal> {
    let body = json::parse(&call.body.bytes)?;
    let text = match body.string("model")? {
        model if model.is_empty() => body.string("name")?,
        model => model,
    };
    Ok((body, Asked::parse(&text)?.name))
}

fn status(text: &str) -> Json {
    map! {"status" => text}
}

/// Progress as NDJSON, or only its last line.
fn progressing(body: &Json, mut lines: Vec<Json>) -> Result<Reply, Refusal> {
    if body.flag("stream")? == Some(false) {
        return Ok(Reply::json(&lines.pop().unwrap_or(Json::Null)));
    }
    let pause = Duration::from_millis(50);
    let paced = |line: Json| (pause, Bytes::from(format!("{line}\n")));
    let chunks: VecDeque<(Duration, Bytes)> = lines.into_iter().map(paced).collect();
    Ok(Reply::from(200, NDJSON, Source::Paced(chunks)))
}
