//! Which headers pass, in either direction: an allow-list out, a block-list back.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER,
    TRANSFER_ENCODING, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{ErrorType, OrErr, Result};

use super::cors;
use super::ctx::Ctx;
use crate::upstream::Instance;

/// The client's headers that an instance sees. Credentials, cookies, `Origin` (which Ollama
/// answers with an empty 403) and forwarding headers stay here.
const TO_INSTANCE: [HeaderName; 5] = [
    CONTENT_TYPE,
    ACCEPT,
    USER_AGENT,
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("openai-beta"),
];
/// What tells where a body ends that passes through unread.
const FRAMING: [HeaderName; 2] = [CONTENT_LENGTH, TRANSFER_ENCODING];
/// Headers that an instance gets, so that their map never grows.
const USUAL: usize = 12;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const X_USHER_UPSTREAM: HeaderName = HeaderName::from_static("x-usher-upstream");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// These three, six of limits, and what Pingora and CORS may add.
const ADDED: usize = 14;

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
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "upgrade"
            | "alt-svc"
            | "strict-transport-security"
            | "www-authenticate"
            | "x-request-id"
    );
    // limits are ours: those of an instance are about us, and would stand beside what we say
    listed || name.starts_with("access-control-") || name.starts_with("x-ratelimit-")
}

/// What an instance's `Connection` cannot take from the client.
const KEPT: [HeaderName; 3] = [CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING];

/// Puts the request as the instance gets it in place of the client's: built anew from what may
/// pass. Pingora copies this head for each attempt, so a credential is not even copied.
pub(super) fn to_instance(head: &mut RequestHeader, instance: &Instance, ctx: &Ctx) -> Result<()> {
    let (mut out, ()) = http::Request::new(()).into_parts();
    out.method = head.method.clone();
    out.uri = upstream_uri(ctx)?;
    // what the client speaks decides how it is answered; Pingora sets what the instance speaks
    out.version = head.version;
    out.extensions = std::mem::take(head.extensions_mut());
    out.headers.reserve(USUAL);
    let framing: &[HeaderName] = if ctx.body.is_some() { &[] } else { &FRAMING };
    // a request has a dozen headers: looking at each is cheaper than looking up all names
    for (name, value) in &head.headers {
        if TO_INSTANCE.contains(name) || framing.contains(name) {
            out.headers.append(name, value.clone());
        }
    }
    for name in nominated(&head.headers) {
        out.headers.remove(name);
    }
    out.headers.insert(HOST, instance.headers.host.clone());
    out.headers.insert(X_REQUEST_ID, ctx.request_id.value().clone());
    if let Some(key) = &instance.headers.authorization {
        out.headers.insert(AUTHORIZATION, key.clone());
    }
    if let Some(body) = &ctx.body {
        out.headers.insert(CONTENT_LENGTH, body.len().into());
    }
    *head = out.into();
    Ok(())
}

/// The table's own path.
fn upstream_uri(ctx: &Ctx) -> Result<Uri> {
    let path = match &ctx.upstream_path {
        Cow::Borrowed(path) => Bytes::from_static(path.as_bytes()),
        Cow::Owned(path) => Bytes::copy_from_slice(path.as_bytes()),
    };
    let path = PathAndQuery::from_maybe_shared(path);
    Ok(path.or_err(ErrorType::InternalError, "a path of the table")?.into())
}

/// Takes away what the client must not see, and adds what it may like to know.
pub(super) fn to_client(
    response: &mut ResponseHeader,
    instance: &Instance,
    ctx: &Ctx,
) -> Result<()> {
    let reason = response.get_reason_phrase();
    let own_reason = reason.filter(|it| Some(*it) != response.status.canonical_reason());
    let own_reason = own_reason.map(str::to_owned);
    let (nothing, ()) = http::Response::new(()).into_parts();
    let mut parts = http::response::Parts::from(std::mem::replace(response, nothing.into()));
    let headers = &mut parts.headers;
    headers.reserve(ADDED);
    // an answer has a handful of headers: looking at each is cheaper than looking up all names
    let hidden = headers.keys().filter(|name| stays_here(name)).cloned();
    let mut hidden: Vec<HeaderName> = hidden.collect();
    if headers.contains_key(CONNECTION) {
        hidden.extend(nominated(headers));
    }
    for name in &hidden {
        headers.remove(name);
    }
    headers.insert(X_REQUEST_ID, ctx.request_id.value().clone());
    headers.insert(X_USHER_UPSTREAM, instance.headers.name.clone());
    headers.insert(SERVER_TIMING, server_timing(ctx));
    ctx.quota.each_header(|name, value| _ = headers.insert(name, value));
    if parts.status == StatusCode::SERVICE_UNAVAILABLE {
        bound_retry(headers);
    }
    *response = parts.into();
    if own_reason.is_some() {
        response.set_reason_phrase(own_reason.as_deref())?;
    }
    cors::grant(response, ctx)
}

/// Tells in an answer that is made here where its time went and, if it came to one, which instance it
/// is about.
pub(super) fn tell(head: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    head.insert_header(SERVER_TIMING, server_timing(ctx))?;
    if let Some(instance) = &ctx.upstream {
        head.insert_header(X_USHER_UPSTREAM, instance.headers.name.clone())?;
    }
    Ok(())
}

/// Nobody is sent away for longer than by ourselves; a date is as good as the longest wait.
fn bound_retry(headers: &mut HeaderMap) {
    if let Some(wait) = headers.get_mut(RETRY_AFTER) {
        let seconds = wait.to_str().ok().and_then(|wait| wait.trim().parse::<u64>().ok());
        *wait = seconds.unwrap_or(60).clamp(1, 60).into();
    }
}

/// What one side calls its connection's own in `Connection`.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let values = headers.get_all(CONNECTION).into_iter();
    // by far the most usual values, and no names of headers
    let values = values.filter(|value| **value != "keep-alive" && **value != "close");
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| !KEPT.contains(name))
}

/// `auth`, `queue` and `upstream`, in milliseconds (W3C Server Timing).
fn server_timing(ctx: &Ctx) -> HeaderValue {
    let auth = ctx.timings.auth.unwrap_or_default();
    let queue = ctx.timings.queue.unwrap_or_default();
    let first_byte = ctx.timings.first_byte.unwrap_or_default();
    let upstream = first_byte.saturating_sub(auth + queue);
    let mut out = String::with_capacity(72);
    let mut digits = itoa::Buffer::new();
    for (name, took) in
        [("auth;dur=", auth), (", queue;dur=", queue), (", upstream;dur=", upstream)]
    {
        let micros = took.as_micros();
        out.push_str(name);
        out.push_str(digits.format(micros as u64 / 1000));
        out.push('.');
        // a thousand more makes three digits, zeros in front included
        out.push_str(digits.format(micros as u64 % 1000 + 1000).get(1..).unwrap_or_default());
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static("auth;dur=0"))
}
