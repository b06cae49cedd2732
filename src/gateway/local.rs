//! The routes that are answered here.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::Gateway;
use super::cors::{self, Preflight};
use super::ctx::Ctx;
use super::headers::tell;
use super::quota;
use super::refusal::{self, Refusal};
use crate::model::ModelName;
use crate::route::Action;
use crate::upstream::models::{self, List};

/// What is answered.
struct Answer {
    content_type: &'static str,
    body: Bytes,
}

const JSON: &str = "application/json; charset=utf-8";

/// Answers a local route, or says why not.
pub(super) async fn answer(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    action: Action,
) -> Result<Option<Refusal>> {
    let composed = compose(gateway, ctx, action);
    ctx.decided();
    match composed {
        Ok(answer) => {
            let content_type = HeaderValue::from_static(answer.content_type);
            let headers = [(CONTENT_TYPE, content_type)];
            write(session, ctx, StatusCode::OK, &headers, answer.body).await.map(|()| None)
        }
        Err(refusal) => Ok(Some(refusal)),
    }
}

fn compose(gateway: &Gateway, ctx: &Ctx, action: Action) -> Result<Answer, Refusal> {
    let json = |body: Vec<u8>| Ok(Answer { content_type: JSON, body: body.into() });
    let healthy: Vec<_> = ctx.fleet.healthy().collect();
    let lists = || healthy.iter().map(AsRef::as_ref);
    let visible = |name: &ModelName| ctx.permit.as_ref().is_some_and(|permit| permit.may_see(name));
    match action {
        Action::Banner => {
            Ok(Answer { content_type: "text/plain; charset=utf-8", body: "usher".into() })
        }
        Action::Health => json(br#"{"status":"ok"}"#.to_vec()),
        Action::Ready if gateway.stage.borrow().is_stopping() => {
            Err(Refusal::unavailable("draining", "Shutting down", 5))
        }
        Action::Ready if !gateway.scheduler.is_ready() => Err(no_instance()),
        Action::Ready => json(ready(&gateway.missing())),
        Action::Tags => json(models::merged_ollama(lists(), List::Installed, &visible)),
        Action::Ps => json(models::merged_ollama(lists(), List::Resident, &visible)),
        Action::Models => json(models::merged_openai(lists(), &visible)),
        Action::Model => {
            let id = ctx.parameter.as_deref().unwrap_or_default();
            let name = ModelName::parse(id).unwrap_or_else(|_| ModelName::opaque(id));
            let found = models::find_openai(lists(), name.key()).filter(|_| visible(&name));
            found.map_or_else(|| Err(Refusal::model_not_found(id)), json)
        }
        Action::Version => {
            // clients look at it to learn what they may ask for: the oldest speaks for all
            let versions = healthy.iter().filter_map(|lists| lists.version.as_deref());
            let oldest = versions.min_by_key(|version| numbers(version));
            oldest.map_or_else(
                || Err(no_instance()),
                |version| json(serde_json::json!({ "version": version }).to_string().into_bytes()),
            )
        }
        Action::CountTokens => {
            json(serde_json::json!({ "input_tokens": ctx.estimate }).to_string().into_bytes())
        }
        Action::Account
        | Action::Admin
        | Action::Login
        | Action::Show
        | Action::Infer(_)
        | Action::Manage(_) => {
            Err(Refusal::internal("another's route reached the local answers".to_owned()))
        }
    }
}

/// Permits a page what its browser asks for; nobody has to say who they are for that.
pub(super) async fn permit(session: &mut Session, ctx: &Ctx, preflight: &Preflight) -> Result<()> {
    let mut head = ResponseHeader::build(204, Some(8))?;
    head.insert_header("X-Request-Id", ctx.request_id.value())?;
    cors::grant(&mut head, ctx)?;
    preflight.grant(&mut head)?;
    session.write_response_header(Box::new(head), true).await?;
    refusal::linger(session).await;
    Ok(())
}

/// Ready, be it without some of the parts.
fn ready(missing: &[&str]) -> Vec<u8> {
    let answer = match missing {
        [] => serde_json::json!({ "status": "ready" }),
        degraded => serde_json::json!({ "status": "ready", "degraded": degraded }),
    };
    answer.to_string().into_bytes()
}

fn no_instance() -> Refusal {
    Refusal::unavailable("no_instance", "No healthy upstream", 2)
}

/// `0.33.0-rc2` as numbers, so that 0.9 comes before 0.33.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).map_while(|digits| digits.parse().ok()).collect()
}

/// Begins an answer that comes piece by piece.
pub(super) async fn begin(
    session: &mut Session,
    ctx: &Ctx,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<()> {
    let mut head = ResponseHeader::build(200, Some(6))?;
    for (name, value) in headers {
        head.insert_header(name, value)?;
    }
    // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer
    if session.req_header().version != http::Version::HTTP_10 {
        head.insert_header(http::header::TRANSFER_ENCODING, "chunked")?;
    }
    head.insert_header("X-Request-Id", ctx.request_id.value())?;
    tell(&mut head, ctx)?;
    quota::tell(&mut head, ctx)?;
    cors::grant(&mut head, ctx)?;
    session.write_response_header(Box::new(head), false).await
}

/// Sends an answer that was made here.
pub(super) async fn write(
    session: &mut Session,
    ctx: &Ctx,
    status: StatusCode,
    headers: &[(HeaderName, HeaderValue)],
    body: Bytes,
) -> Result<()> {
    let mut head = ResponseHeader::build(status, Some(4))?;
    for (name, value) in headers {
        head.insert_header(name, value)?;
    }
    // a 204 has neither a body nor a length (RFC 9110, 8.6)
    let empty = status == StatusCode::NO_CONTENT;
    if !empty {
        head.insert_header("Content-Length", body.len())?;
    }
    head.insert_header("X-Request-Id", ctx.request_id.value())?;
    tell(&mut head, ctx)?;
    quota::tell(&mut head, ctx)?;
    cors::grant(&mut head, ctx)?;
    let bodiless = empty || session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(head), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    refusal::linger(session).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("0.9.6") < numbers("0.33.0"));
        assert!(numbers("0.33.0") < numbers("0.33.1-rc2"));
    }
}
