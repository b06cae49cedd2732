//! Every no: its status, its headers, its body in the caller's dialect.
//!
//! The modules say no with small errors of their own; here, and only here, they become what the
//! client reads. The client reads a calm sentence, the log the cause.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use serde::Serialize;

use super::cors;
use super::ctx::Ctx;
use super::headers;
use super::lint::BadHead;
use super::quota;
use super::request_id::RequestId;
use crate::admin::Fault;
use crate::auth::{AuthError, TokenFault};
use crate::config::Rate;
use crate::limit::What;
use crate::payload::BadPayload;
use crate::policy::Denied;
use crate::route::{Dialect, NoRoute};
use crate::scheduler::{Full, Nowhere, Refused};

/// How long the rest of a refused upload is swallowed. Closing on a client that still sends makes
/// HTTP/1 clients see a reset instead of the answer, and HTTP/2 clients lose it.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A no.
#[derive(Debug)]
pub(super) struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What the client reads.
    pub detail: Cow<'static, str>,
    /// One word for logs and metrics.
    pub reason: &'static str,
    /// What the log reads besides.
    pub cause: Option<String>,
    /// Mistakes that are listed besides, on routes of no dialect.
    problems: Vec<String>,
    extra: Extra,
}

/// Headers that some refusals carry.
#[derive(Debug, Default)]
struct Extra {
    retry_after: Option<u64>,
    allow: Option<&'static str>,
    challenge: bool,
    hopeless: bool,
    code: Option<&'static str>,
}

impl Refusal {
    /// A refusal with this status and sentence.
    pub(super) fn new(
        status: u16,
        reason: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (detail, problems, extra) = (detail.into(), Vec::new(), Extra::default());
        Self { status, detail, reason, cause: None, problems, extra }
    }

    /// The request cannot be understood.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "bad_request", detail)
    }

    /// The body is larger than `limit` bytes.
    pub(super) fn body_too_large(limit: u64) -> Self {
        Self::new(413, "body_too_large", format!("Request body is larger than {limit} bytes"))
    }

    /// A body that announced no length is larger than `limit` bytes.
    pub(super) fn length_required(limit: u64) -> Self {
        let detail = format!("Request body is larger than {limit} bytes and has no Content-Length");
        Self::new(411, "length_required", detail)
    }

    /// The body was not there in time.
    pub(super) fn body_too_slow() -> Self {
        Self::new(408, "body_timeout", "Request body was not received in time")
    }

    /// The chunks of the body are none.
    pub(super) fn malformed_chunks(error: &pingora::Error) -> Self {
        Self::bad_request("Malformed chunked body").because(error.to_string())
    }

    /// No instance has the model.
    pub(super) fn model_not_found(model: &str) -> Self {
        let mut no = Self::new(404, "model_not_found", format!("model '{model}' not found"));
        no.extra.code = Some("model_not_found");
        no
    }

    /// The box is busy or down; `retry_after` is in seconds.
    pub(super) fn unavailable(
        reason: &'static str,
        detail: impl Into<Cow<'static, str>>,
        retry_after: u64,
    ) -> Self {
        let mut no = Self::new(503, reason, detail);
        no.extra.retry_after = Some(retry_after.clamp(1, 60));
        no
    }

    /// This user has too much under way; `retry_after` is in seconds.
    pub(super) fn too_many(reason: &'static str, detail: &'static str, retry_after: u64) -> Self {
        let mut no = Self::new(429, reason, detail);
        no.extra.retry_after = Some(retry_after.clamp(1, 60));
        no
    }

    /// Too many attempts to log in; `retry_after` is how long to wait.
    pub(super) fn too_many_logins(limit: Rate, retry_after: Duration) -> Self {
        let detail = format!("Too many login attempts. Limit: {limit}");
        let mut no = Self::new(429, "login_limit", detail);
        no.extra.retry_after = Some(retry_after.as_secs().saturating_add(1).clamp(1, 86_400));
        no
    }

    /// A limit is reached. People read which rate it is, programs when to come again, and whether
    /// that is so far away that they should not wait.
    pub(super) fn limited(what: What, rate: Rate, wait: Duration, hopeless: bool) -> Self {
        let mut no = Self::new(429, what.word(), format!("Rate limit exceeded. Limit: {rate}"));
        no.extra.retry_after = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        no.extra.hopeless = hopeless;
        no.extra.code = Some("rate_limit_exceeded");
        no
    }

    /// The instance failed before its response head. Names the instance, never its address.
    pub(super) fn bad_gateway(instance: &str, what: &str) -> Self {
        Self::new(502, "upstream_failed", format!("Upstream '{instance}' {what}"))
    }

    /// The instance ended a stream without its last message.
    pub(super) fn broken(instance: &str) -> Self {
        Self::new(502, "broken", format!("Upstream '{instance}' ended its answer too early"))
    }

    /// No first byte in time.
    pub(super) fn gateway_timeout(instance: &str) -> Self {
        let detail = format!("Upstream '{instance}' did not answer in time");
        Self::new(504, "upstream_timeout", detail)
    }

    /// Our own fault.
    pub(super) fn internal(cause: String) -> Self {
        Self::new(500, "internal", "Internal error").because(cause)
    }

    /// What the log reads besides.
    pub(super) fn because(mut self, cause: String) -> Self {
        self.cause = Some(cause);
        self
    }

    /// The place in the queue that was refused.
    pub(super) fn from_scheduler(refused: Refused, model: &str, retry_after: u64) -> Self {
        match refused {
            Refused::Full(Full::Box) => {
                Self::unavailable("queue_full", "The queue is full", retry_after)
            }
            Refused::Full(Full::User) => {
                Self::too_many("user_queue_full", "Too many requests waiting", retry_after)
            }
            Refused::TooLate => {
                let detail = "The wait would be longer than this client waits";
                Self::unavailable("too_late", detail, retry_after)
            }
            Refused::Nowhere(Nowhere::NoModel) => Self::model_not_found(model),
            Refused::Nowhere(Nowhere::NoInstance) => {
                Self::unavailable("no_instance", "No healthy upstream", 2)
            }
        }
    }

    /// The configured bound that was reached, as the configuration names it.
    pub(super) fn limit(&self) -> Option<&'static str> {
        Some(match self.reason {
            "body_memory" => "body_memory",
            "body_timeout" | "body_too_large" | "length_required" => "body",
            "connections" => "connections",
            "connections_per_ip" => "connections_per_ip",
            word @ ("requests" | "reads" | "tokens") => word,
            "head_timeout" | "head_too_large" => "headers",
            "login_limit" | "login_locked" => "login",
            "queue_full" => "queue",
            "queue_timeout" => "max_queue_wait",
            "too_late" => "deadline",
            "user_queue_full" => "queue_per_user",
            _ => return None,
        })
    }

    /// The response head for a body of this length.
    pub(super) fn head(
        &self,
        request_id: &RequestId,
        length: usize,
    ) -> Result<Box<ResponseHeader>> {
        let mut head = ResponseHeader::build(self.status, Some(8))?;
        head.insert_header("Content-Type", "application/json")?;
        head.insert_header("Content-Length", length)?;
        head.insert_header("X-Request-Id", request_id.value())?;
        // some of these statuses may be cached unless told otherwise (RFC 9110, 15.1)
        head.insert_header("Cache-Control", "no-store")?;
        if self.extra.challenge {
            head.insert_header("WWW-Authenticate", "Bearer")?;
        }
        if let Some(allow) = self.extra.allow {
            head.insert_header("Allow", allow)?;
        }
        if let Some(seconds) = self.extra.retry_after {
            head.insert_header("Retry-After", seconds)?;
        }
        // these never get better by trying again, and SDKs retry some of them unasked
        if self.extra.hopeless || matches!(self.status, 401 | 403 | 411 | 413 | 415) {
            head.insert_header("x-should-retry", "false")?;
        }
        Ok(Box::new(head))
    }

    /// The body, in the shape that the route's clients show to people.
    pub(super) fn body(&self, dialect: Dialect) -> Bytes {
        Bytes::from(match dialect {
            Dialect::Plain => json(&Plain { detail: &self.detail, problems: &self.problems }),
            Dialect::Native => json(&Native { detail: &self.detail, error: &self.detail }),
            Dialect::Anthropic => json(&Anthropic {
                detail: &self.detail,
                r#type: "error",
                error: Typed { r#type: self.anthropic_type(), message: &self.detail },
            }),
            Dialect::OpenAi => json(&OpenAi { detail: &self.detail, error: self.openai_error() }),
        })
    }

    /// What a stream that has begun ends with: an error in its own dialect. `number` is the next one
    /// of a stream whose events are numbered, which those of Responses are.
    pub(super) fn stream_end(&self, dialect: Dialect, sse: bool, number: Option<u64>) -> Bytes {
        Bytes::from(match (dialect, sse) {
            (Dialect::Anthropic, true) => {
                let error = Typed { r#type: self.anthropic_type(), message: &self.detail };
                let event = json(&AnthropicEvent { r#type: "error", error });
                format!("event: error\ndata: {event}\n\n")
            }
            (_, true) if number.is_some() => {
                let event = json(&ResponsesEvent {
                    r#type: "error",
                    code: self.extra.code,
                    message: &self.detail,
                    param: None,
                    sequence_number: number.unwrap_or_default(),
                    error: self.openai_error(),
                });
                format!("event: error\ndata: {event}\n\n")
            }
            (_, true) => {
                format!("data: {}\n\n", json(&OpenAiEvent { error: self.openai_error() }))
            }
            (_, false) => format!("{}\n", json(&NativeEvent { error: &self.detail })),
        })
    }

    fn openai_error(&self) -> OpenAiError<'_> {
        OpenAiError {
            message: &self.detail,
            r#type: match self.status {
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                429 => "rate_limit_error",
                400..500 => "invalid_request_error",
                _ => "api_error",
            },
            param: None,
            code: self.extra.code,
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        }
    }
}

/// Writes the answer first and only then swallows what the client still sends.
pub(super) async fn write(session: &mut Session, refusal: &Refusal, ctx: &Ctx) -> Result<()> {
    let body = refusal.body(ctx.dialect);
    let mut head = refusal.head(&ctx.request_id, body.len())?;
    headers::tell(&mut head, ctx)?;
    quota::tell(&mut head, ctx)?;
    cors::grant(&mut head, ctx)?;
    let bodiless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(head, bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    linger(session).await;
    Ok(())
}

/// Swallows the rest of an upload that was answered early.
pub(super) async fn linger(session: &mut Session) {
    if !session.is_body_done() {
        let _ = tokio::time::timeout(LINGER, session.drain_request_body()).await;
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        let mut no = match &error {
            AuthError::Missing => Self::new(401, "missing_credential", "Not authenticated"),
            AuthError::InvalidKey { .. } => Self::new(401, "invalid_key", "Invalid API key"),
            AuthError::InvalidSignature { .. } => {
                Self::new(401, "invalid_signature", "Invalid signature")
            }
            AuthError::InvalidToken { reason: TokenFault::Expired, .. } => {
                Self::new(401, "token_expired", "Token expired")
            }
            AuthError::InvalidToken { .. } => Self::new(401, "invalid_token", "Invalid token"),
            AuthError::Malformed(what) => Self::new(400, "malformed_credential", *what),
            AuthError::Unavailable(_) => {
                Self::unavailable("identity_unavailable", "Identity cannot be checked now", 2)
            }
        };
        no.extra.challenge = no.status == 401;
        no.extra.code = matches!(error, AuthError::InvalidKey { .. }).then_some("invalid_api_key");
        no.because(error.to_string())
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let mut no = Self::new(fault.status.as_u16(), fault.reason, fault.detail);
        no.cause = fault.cause;
        no.problems = fault.problems;
        let soon = (no.status == 503).then_some(2);
        no.extra.retry_after = fault.retry_after.or(soon).map(|wait| wait.clamp(1, 3600));
        no.extra.challenge = no.status == 401;
        no
    }
}

impl From<BadHead> for Refusal {
    fn from(bad: BadHead) -> Self {
        match bad {
            BadHead::TooLarge | BadHead::TooMany => {
                Self::new(431, "head_too_large", bad.to_string())
            }
            bad => Self::bad_request(bad.to_string()),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::new(403, "forbidden", denied.to_string())
    }
}

impl From<NoRoute> for Refusal {
    fn from(no_route: NoRoute) -> Self {
        match no_route {
            NoRoute::NotFound(_) => Self::new(404, "no_route", "Not Found"),
            NoRoute::MethodNotAllowed { allow, .. } => {
                let mut no = Self::new(405, "method", "Method Not Allowed");
                no.extra.allow = Some(allow);
                no
            }
        }
    }
}

impl From<BadPayload> for Refusal {
    fn from(bad: BadPayload) -> Self {
        Self::bad_request(bad.to_string())
    }
}

#[derive(Serialize)]
struct Plain<'a> {
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [String],
}

#[derive(Serialize)]
struct Native<'a> {
    detail: &'a str,
    error: &'a str,
}

#[derive(Serialize)]
struct NativeEvent<'a> {
    error: &'a str,
}

#[derive(Serialize)]
struct OpenAi<'a> {
    detail: &'a str,
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiEvent<'a> {
    error: OpenAiError<'a>,
}

/// As OpenAI documents it, and with `error` beside that, by which its SDKs know one.
#[derive(Serialize)]
struct ResponsesEvent<'a> {
    r#type: &'static str,
    code: Option<&'static str>,
    message: &'a str,
    param: Option<&'static str>,
    sequence_number: u64,
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    detail: &'a str,
    r#type: &'static str,
    error: Typed<'a>,
}

#[derive(Serialize)]
struct AnthropicEvent<'a> {
    r#type: &'static str,
    error: Typed<'a>,
}

#[derive(Serialize)]
struct Typed<'a> {
    r#type: &'static str,
    message: &'a str,
}

fn json(value: &impl Serialize) -> String {
    // structs of strings serialise into memory without fail
    serde_json::to_string(value).unwrap_or_default()
}
