//! Which path does what, as gin and Go's mux before it see paths.

use std::sync::Arc;

use http::request::Parts;

use crate::refusal::{Dialect, Refusal};
use crate::reply::Reply;
use crate::serve::Received;
use crate::world::World;
use crate::{anthropic, audio, embed, guard, info, manage, native, openai, responses};

/// A request, read to its end.
pub(crate) struct Call {
    pub(crate) world: Arc<World>,
    pub(crate) head: Parts,
    pub(crate) body: Received,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Root,
    Version,
    Status,
    Tags,
    Ps,
    Show,
    Generate,
    Chat,
    Embed,
    Embeddings,
    OpenAiChat,
    OpenAiCompletions,
    OpenAiEmbeddings,
    OpenAiModels,
    OpenAiModel,
    Responses,
    Transcriptions,
    Messages,
    Pull,
    Push,
    Create,
    Duplicate,
    Delete,
    BlobExists,
    BlobUpload,
    Account,
    Recommendations,
    Health,
}

use Op::{
    Account, BlobExists, BlobUpload, Chat, Create, Delete, Duplicate, Embed, Embeddings, Generate,
    Health, Messages, OpenAiChat, OpenAiCompletions, OpenAiEmbeddings, OpenAiModel, OpenAiModels,
    Ps, Pull, Push, Recommendations, Responses, Root, Show, Status, Tags, Transcriptions, Version,
};

/// A last segment that begins with `:` matches anything but a slash.
const OLLAMA: &[(&str, &str, Op)] = &[
    ("GET", "/", Root),
    ("HEAD", "/", Root),
    ("GET", "/api/version", Version),
    ("HEAD", "/api/version", Version),
    ("GET", "/api/status", Status),
    ("GET", "/api/tags", Tags),
    ("HEAD", "/api/tags", Tags),
    ("GET", "/api/ps", Ps),
    ("POST", "/api/show", Show),
    ("POST", "/api/generate", Generate),
    ("POST", "/api/chat", Chat),
    ("POST", "/api/embed", Embed),
    ("POST", "/api/embeddings", Embeddings),
    ("POST", "/v1/chat/completions", OpenAiChat),
    ("POST", "/v1/completions", OpenAiCompletions),
    ("POST", "/v1/embeddings", OpenAiEmbeddings),
    ("GET", "/v1/models", OpenAiModels),
    ("GET", "/v1/models/:model", OpenAiModel),
    ("POST", "/v1/responses", Responses),
    ("POST", "/v1/audio/transcriptions", Transcriptions),
    ("POST", "/v1/messages", Messages),
    ("POST", "/api/pull", Pull),
    ("POST", "/api/push", Push),
    ("POST", "/api/create", Create),
    ("POST", "/api/copy", Duplicate),
    ("DELETE", "/api/delete", Delete),
    ("HEAD", "/api/blobs/:digest", BlobExists),
    ("POST", "/api/blobs/:digest", BlobUpload),
    ("POST", "/api/me", Account),
    ("POST", "/api/signout", Account),
    ("DELETE", "/api/user/keys/:key", Account),
    ("POST", "/api/experimental/web_search", Account),
    ("POST", "/api/experimental/web_fetch", Account),
    ("GET", "/api/experimental/model-recommendations", Recommendations),
];

const OPENAI_ONLY: &[(&str, &str, Op)] = &[
    ("GET", "/health", Health),
    ("GET", "/v1/models", OpenAiModels),
    ("GET", "/v1/models/:model", OpenAiModel),
    ("POST", "/v1/chat/completions", OpenAiChat),
    ("POST", "/v1/completions", OpenAiCompletions),
    ("POST", "/v1/embeddings", OpenAiEmbeddings),
];

/// Answers a request.
pub(crate) async fn answer(call: Arc<Call>) -> Reply {
    if call.world.args.openai_only {
        return openai_only(&call).await;
    }
    let path = decoded(call.head.uri.path());
    if let Some(reply) = redirected(&call, &path) {
        return reply;
    }
    let cross = match guard::check(&call) {
        guard::Verdict::Answered(reply) => return reply,
        guard::Verdict::Pass(headers) => headers,
    };
    let reply = match matched(OLLAMA, call.head.method.as_str(), &path) {
        Match::Op(op, argument) => run(op, &call, argument).await,
        Match::WrongMethod(allowed) => {
            Reply::text(405, "405 method not allowed").with("Allow", &allowed)
        }
        Match::Missing => slash(&call, &path),
    };
    cross.into_iter().fold(reply, |reply, (name, value)| reply.with(name, &value))
}

async fn openai_only(call: &Arc<Call>) -> Reply {
    let path = decoded(call.head.uri.path());
    if let Some(key) = &call.world.args.api_key
        && path.starts_with("/v1")
        && call.header("authorization") != Some(&format!("Bearer {key}"))
    {
        return Reply::new(401, crate::reply::JSON, r#"{"error":"Unauthorized"}"#);
    }
    let detail = |status, text: &str| {
        Reply::new(status, crate::reply::JSON, format!("{{\"detail\":\"{text}\"}}"))
    };
    match matched(OPENAI_ONLY, call.head.method.as_str(), &path) {
        Match::Op(op, argument) => run(op, call, argument).await,
        Match::WrongMethod(allowed) => detail(405, "Method Not Allowed").with("Allow", &allowed),
        Match::Missing => detail(404, "Not Found"),
    }
}

async fn run(op: Op, call: &Arc<Call>, argument: &str) -> Reply {
    let reply = match op {
        Root => Ok(Reply::new(200, "text/plain; charset=utf-8", "Ollama is running")),
        Version => Ok(info::version(call)),
        Status => Ok(info::status(call)),
        Tags => Ok(info::tags(call)),
        Ps => Ok(info::ps(call).await),
        Show => info::show(call),
        Health => Ok(Reply::empty(200)),
        Generate => native::generate(call).await,
        Chat => native::chat(call).await,
        Embed => embed::native(call).await,
        Embeddings => embed::legacy(call).await,
        OpenAiChat => openai::chat(call).await,
        OpenAiCompletions => openai::completions(call).await,
        OpenAiEmbeddings => embed::openai(call).await,
        OpenAiModels => Ok(openai::models(call)),
        OpenAiModel => openai::model(call, argument),
        Responses => responses::create(call).await,
        Transcriptions => audio::transcribe(call).await,
        Messages => anthropic::messages(call).await,
        Pull => manage::pull(call),
        Push => manage::push(call),
        Create => manage::create(call),
        Duplicate => manage::copy(call),
        Delete => manage::delete(call),
        BlobExists => Ok(manage::blob_exists(call, argument)),
        BlobUpload => manage::blob_upload(call, argument),
        Account => Ok(manage::account(call)),
        Recommendations => Ok(manage::recommendations(call)),
    };
    reply.unwrap_or_else(|refusal: Refusal| Reply::refused(&refusal, dialect(op)))
}

const fn dialect(op: Op) -> Dialect {
    match op {
        Messages => Dialect::Anthropic,
        OpenAiChat | OpenAiCompletions | OpenAiEmbeddings | OpenAiModels | OpenAiModel
        | Responses | Transcriptions => Dialect::OpenAi,
        _ => Dialect::Native,
    }
}

enum Match<'a> {
    Op(Op, &'a str),
    /// The methods that the path has.
    WrongMethod(String),
    Missing,
}

fn matched<'a>(table: &[(&str, &str, Op)], method: &str, path: &'a str) -> Match<'a> {
    let mut allowed = Vec::new();
    for (wanted, pattern, op) in table {
        match fits(pattern, path) {
            Some(argument) if *wanted == method => return Match::Op(*op, argument),
            Some(_) => allowed.push(*wanted),
            None => {}
        }
    }
    if allowed.is_empty() { Match::Missing } else { Match::WrongMethod(allowed.join(", ")) }
}

/// The argument of a path that fits the pattern.
fn fits<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.split_once(':') {
        None => (pattern == path).then_some(""),
        Some((prefix, _)) => {
            path.strip_prefix(prefix).filter(|rest| !rest.is_empty() && !rest.contains('/'))
        }
    }
}

/// Go routes by the decoded path.
fn decoded(path: &str) -> String {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let mut ahead = bytes.clone();
        let pair = (byte == b'%').then(|| (hex(ahead.next()), hex(ahead.next())));
        if let Some((Some(high), Some(low))) = pair {
            bytes = ahead;
            out.extend(u8::try_from(high * 16 + low));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Go's mux sends unclean paths to their clean form.
fn redirected(call: &Call, path: &str) -> Option<Reply> {
    let clean = cleaned(path);
    (clean != path).then(|| moved(call, 301, &clean))
}

fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

/// gin offers the path without its trailing slash, if that is one.
fn slash(call: &Call, path: &str) -> Reply {
    let method = call.head.method.as_str();
    match path.strip_suffix('/') {
        Some(bare) if matches!(matched(OLLAMA, method, bare), Match::Op(..)) => {
            moved(call, if method == "GET" { 301 } else { 307 }, bare)
        }
        _ => Reply::text(404, "404 page not found"),
    }
}

fn moved(call: &Call, status: u16, path: &str) -> Reply {
    let query = call.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let body = format!("<a href=\"{path}\">Moved Permanently</a>.\n\n");
    let body = if call.head.method == http::Method::GET { body } else { String::new() };
    Reply::new(status, "text/html; charset=utf-8", body).with("Location", &format!("{path}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_cleaned_as_go_does() {
        assert_eq!(decoded("/api/%63hat%2"), "/api/chat%2");
        assert_eq!(cleaned("//api/./x/../chat/"), "/api/chat/");
        assert_eq!(cleaned("/"), "/");
        assert_eq!(cleaned("/.."), "/");
    }

    #[test]
    fn an_argument_is_one_segment() {
        assert_eq!(fits("/v1/models/:model", "/v1/models/a:b"), Some("a:b"));
        assert_eq!(fits("/v1/models/:model", "/v1/models/a/b"), None);
        assert_eq!(fits("/v1/models/:model", "/v1/models/"), None);
    }
}
