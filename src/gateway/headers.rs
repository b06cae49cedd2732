//! Which headers pass, in either direction: an allow-list out, a block-list back.

use std::fmt::Write as _;

use http::HeaderName;
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::cors;
use super::ctx::Ctx;
use super::quota;
use crate::upstream::Instance;

/// The client's headers that an instance sees. Credentials, cookies, `Origin` (which Ollama
/// answers with an empty 403) and forwarding headers stay here.
const TO_INSTANCE: [HeaderName; 5] = [
    http::header::CONTENT_TYPE,
    http::header::ACCEPT,
    http::header::USER_AGENT,
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("openai-beta"),
];

/// Whether this header of an instance's is one that no client sees: who it is, where it would send
/// the client, what it would store there, and whatever belongs to its own connection (RFC 9110,
/// 7.6.1).
fn stays_here(name: &HeaderName) -> bool {
    let name = name.as_str();
    let listed = matches!(
        name,
        "set-cookie"
            | "location"
            | "server"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "trailer"
            | "upgrade"
            | "alt-svc"
            | "strict-transport-security"
            | "www-authenticate"
            | "x-request-id"
    );
    listed || name.starts_with("access-control-")
}

/// What an instance's `Connection` cannot take from the client.
const KEPT: [HeaderName; 3] =
    [http::header::CONTENT_LENGTH, http::header::CONTENT_TYPE, http::header::TRANSFER_ENCODING];

/// The request as the instance gets it, built anew from what may pass. `passing` is the client's
/// without what belongs to its connection, as Pingora would have sent it.
pub(super) fn to_instance(
    client: &RequestHeader,
    passing: &RequestHeader,
    instance: &Instance,
    ctx: &Ctx,
) -> Result<RequestHeader> {
    let path = ctx.upstream_path.as_bytes();
    let mut out = RequestHeader::build_no_case(client.method.clone(), path, Some(12))?;
    out.set_version(http::Version::HTTP_11);
    out.insert_header("Host", &instance.authority)?;
    for name in &TO_INSTANCE {
        for value in passing.headers.get_all(name) {
            out.append_header(name, value)?;
        }
    }
    out.insert_header("X-Request-Id", &ctx.request_id)?;
    if let Some(key) = &instance.config.api_key {
        out.insert_header("Authorization", format!("Bearer {}", key.expose()))?;
    }
    match &ctx.body {
        Some(body) => out.insert_header("Content-Length", body.len())?,
        None => copy_framing(passing, &mut out)?,
    }
    Ok(out)
}

/// A body that passes through unread keeps the framing that Pingora chose for it.
fn copy_framing(framing: &RequestHeader, out: &mut RequestHeader) -> Result<()> {
    for name in [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING] {
        if let Some(value) = framing.headers.get(&name) {
            out.insert_header(name, value)?;
        }
    }
    Ok(())
}

/// Takes away what the client must not see, and adds what it may like to know.
pub(super) fn to_client(
    response: &mut ResponseHeader,
    instance: &Instance,
    ctx: &Ctx,
) -> Result<()> {
    // an answer has a handful of headers: looking at each is cheaper than looking up all names
    let hidden = response.headers.keys().filter(|name| stays_here(name)).cloned();
    let hidden: Vec<HeaderName> = hidden.chain(nominated(response)).collect();
    for name in &hidden {
        response.remove_header(name);
    }
    response.insert_header("X-Request-Id", &ctx.request_id)?;
    response.insert_header("X-Usher-Upstream", &instance.config.name)?;
    response.insert_header("Server-Timing", server_timing(ctx))?;
    quota::tell(response, ctx)?;
    cors::grant(response, ctx)
}

/// What the instance calls its connection's own in `Connection`.
fn nominated(response: &ResponseHeader) -> impl Iterator<Item = HeaderName> {
    let values = response.headers.get_all(http::header::CONNECTION).into_iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| !KEPT.contains(name))
}

/// `auth`, `queue` and `upstream`, in milliseconds (W3C Server Timing).
fn server_timing(ctx: &Ctx) -> String {
    let auth = ctx.timings.auth.unwrap_or_default();
    let queue = ctx.timings.queue.unwrap_or_default();
    let first_byte = ctx.timings.first_byte.unwrap_or_default();
    let upstream = first_byte.saturating_sub(auth + queue);
    let mut out = String::with_capacity(72);
    for (name, took) in [("auth", auth), (", queue", queue), (", upstream", upstream)] {
        // whole microseconds: printing a fraction costs more than everything else here
        let micros = took.as_micros();
        let _ = write!(out, "{name};dur={}.{:03}", micros / 1000, micros % 1000);
    }
    out
}
