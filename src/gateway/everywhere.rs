//! What is done on every instance at once, and answered as if one had done it.
//!
//! The client hears how far the slowest has come, at once what has failed and where, and in the
//! end one outcome. Nothing is taken back where it was done: the outcome names who has done it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora::Result;
use pingora::proxy::Session;
use serde_json::json;

use super::body::{self, Unread};
use super::ctx::Ctx;
use super::headers::{X_REQUEST_ID, X_USHER_UPSTREAM};
use super::local;
use super::refusal::{self, Refusal};
use super::seating::client_gone;
use crate::config::EVERY_INSTANCE;
use crate::route::ManageOp;
use crate::upstream::Instance;
use crate::upstream::chorus::piped::{self, Pipe};
use crate::upstream::chorus::progress::{Progress, line};
use crate::upstream::chorus::{Act, Chorus, Failure, News, Outcome, alike, verdict};

/// What is to be done everywhere.
pub(super) struct Round {
    /// What.
    pub op: ManageOp,
    /// Where: more than one.
    pub instances: Vec<Arc<Instance>>,
    /// Whether the client wants to hear how far it has come.
    pub streams: bool,
}

/// Has it done, and answers; or says why not.
pub(super) async fn conduct(
    session: &mut Session,
    ctx: &mut Ctx,
    round: Round,
) -> Result<Option<Refusal>> {
    // a large model takes its time, as it does on one instance
    if let Some(watchdog) = &ctx.watchdog {
        watchdog.rest();
    }
    ctx.decided();
    let timeouts = &ctx.config.timeouts;
    let patience = timeouts.first_byte.max(timeouts.idle);
    let count = round.instances.len();
    let (pipes, bodies) = match (&ctx.body, &session.req_header().method) {
        (Some(body), _) => (Vec::new(), alike(body, count)),
        (None, &Method::HEAD) => (Vec::new(), alike(&Bytes::new(), count)),
        (None, _) => piped::bodies(count, body::declared_length(session)),
    };
    let started = Chorus::start(&round.instances, &act(session, ctx), bodies, timeouts.connect);
    let chorus = match started {
        Ok(chorus) => chorus,
        Err(error) => return Ok(Some(Refusal::internal(error.to_string()))),
    };
    match upload(session, pipes, timeouts.body).await {
        Ok(()) => {}
        Err(Unread::Gone(error)) => return Err(error),
        Err(Unread::Refused(refusal)) => return Ok(Some(refusal)),
    }
    let names = round.instances.iter().map(|instance| instance.config.name.clone()).collect();
    let mut stand = Stand {
        names,
        outcomes: vec![None; count],
        progress: Progress::of(count),
        streams: round.streams,
        early: Vec::new(),
        begun: false,
    };
    stand.listen(session, ctx, chorus, patience).await?;
    round.instances.iter().for_each(|instance| instance.suspect());
    stand.conclude(session, ctx, &round).await
}

fn act(session: &Session, ctx: &Ctx) -> Act {
    let head = session.req_header();
    let mut headers = HeaderMap::new();
    for name in [CONTENT_TYPE, ACCEPT, USER_AGENT] {
        headers.extend(head.headers.get(&name).map(|value| (name, value.clone())));
    }
    headers.insert(X_REQUEST_ID, ctx.request_id.value().clone());
    Act { method: head.method.clone(), path: ctx.upstream_path.to_string(), headers }
}

/// Passes an upload on as it comes, to all who still take it.
async fn upload(
    session: &mut Session,
    mut pipes: Vec<Pipe>,
    patience: Duration,
) -> Result<(), Unread> {
    if pipes.is_empty() {
        return Ok(());
    }
    body::send_continue(session).await?;
    while let Some(piece) = session.read_request_body().await? {
        let mut still = Vec::with_capacity(pipes.len());
        for pipe in pipes {
            if pipe.pass(&piece, patience).await {
                still.push(pipe);
            }
        }
        pipes = still;
        if pipes.is_empty() {
            // all have answered, or failed
            return Ok(());
        }
    }
    for pipe in pipes {
        pipe.end(patience).await;
    }
    Ok(())
}

/// How things stand.
struct Stand {
    names: Vec<String>,
    outcomes: Vec<Option<Outcome>>,
    progress: Progress,
    streams: bool,
    /// Failures that the client will hear of once there is something to hear.
    early: Vec<Bytes>,
    /// Whether the client has the head of its answer.
    begun: bool,
}

impl Stand {
    /// Hears all of them to the end, for as long as one of them says something in time and the
    /// client is there.
    async fn listen(
        &mut self,
        session: &mut Session,
        ctx: &mut Ctx,
        mut chorus: Chorus,
        patience: Duration,
    ) -> Result<()> {
        loop {
            let heard = tokio::select! {
                biased;
                heard = tokio::time::timeout(patience, chorus.next()) => heard,
                gone = client_gone(&mut session.downstream_session),
                    if session.is_body_done() => return Err(gone),
            };
            let Ok(Some((number, news))) = heard else { return Ok(()) };
            let told = match news {
                News::Begun => self.begin(session, ctx).await?,
                News::Said(report) => self.progress.hear(number, report),
                News::Over(outcome) => self.note(number, outcome),
            };
            match told {
                Some(told) if self.begun => self.tell(session, told, false).await?,
                Some(told) => self.early.push(told),
                None => {}
            }
        }
    }

    /// Somebody does what was asked: a client that wants to hear of it hears from now on.
    async fn begin(&mut self, session: &mut Session, ctx: &mut Ctx) -> Result<Option<Bytes>> {
        if self.begun || !self.streams {
            return Ok(None);
        }
        self.begun = true;
        ctx.streams = true;
        ctx.timings.first_byte = Some(ctx.start.elapsed());
        local::begin(session, ctx, &headers("application/x-ndjson")).await?;
        let early = std::mem::take(&mut self.early).concat();
        Ok((!early.is_empty()).then(|| early.into()))
    }

    /// What came of it on one of them; a failure is told at once.
    fn note(&mut self, number: usize, outcome: Outcome) -> Option<Bytes> {
        self.progress.over(number);
        let name = self.names.get(number)?;
        let told = outcome.as_ref().err().map(|failure| format!("{name}: {}", failure.words));
        *self.outcomes.get_mut(number)? = Some(outcome);
        self.progress.tell(told?)
    }

    async fn tell(&self, session: &mut Session, told: Bytes, last: bool) -> Result<()> {
        session.write_response_body(Some(told), last).await
    }

    /// One outcome for all.
    async fn conclude(
        self,
        session: &mut Session,
        ctx: &mut Ctx,
        round: &Round,
    ) -> Result<Option<Refusal>> {
        let late = || Err(Failure::late());
        let outcomes: Vec<Outcome> =
            self.outcomes.iter().map(|outcome| outcome.clone().unwrap_or_else(late)).collect();
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let asks = session.req_header().method == Method::HEAD;
        let outcome = match round.op {
            // a blob that one of them lacks has to be uploaded
            ManageOp::Blob if asks => verdict_of_blob(&names, &outcomes),
            ManageOp::Copy | ManageOp::Delete => verdict(&names, &outcomes, true),
            _ => verdict(&names, &outcomes, false),
        };
        if self.begun {
            let last = match &outcome {
                Ok(_) => line(&json!({ "status": "success" })),
                Err(failure) => line(&json!({ "error": failure.words })),
            };
            self.tell(session, last, true).await?;
            refusal::linger(session).await;
            ctx.complete = true;
            ctx.refusal = outcome.err().map(refuse);
            return Ok(None);
        }
        match outcome {
            Ok(status) => {
                let (kind, body) = match round.op {
                    ManageOp::Copy | ManageOp::Delete | ManageOp::Blob => ("text/plain", ""),
                    ManageOp::Pull | ManageOp::Create | ManageOp::Push => {
                        ("application/json; charset=utf-8", r#"{"status":"success"}"#)
                    }
                };
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                local::write(session, ctx, status, &headers(kind), body.into()).await?;
                Ok(None)
            }
            Err(failure) => Ok(Some(refuse(failure))),
        }
    }
}

fn headers(kind: &'static str) -> [(HeaderName, HeaderValue); 2] {
    [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (X_USHER_UPSTREAM, HeaderValue::from_static(EVERY_INSTANCE)),
    ]
}

fn verdict_of_blob(names: &[&str], outcomes: &[Outcome]) -> Outcome {
    let missing = |outcome: &&Outcome| matches!(outcome, Err(no) if no.status == Some(404));
    match outcomes.iter().find(missing) {
        Some(missing) => missing.clone(),
        None => verdict(names, outcomes, false),
    }
}

fn refuse(failure: Failure) -> Refusal {
    match failure.status {
        Some(status) => Refusal::new(status, "upstream_refused", failure.words),
        None => Refusal::new(502, "upstream_failed", failure.words),
    }
}
