//! One instance among several: asked, and heard to the end.

use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::sync::mpsc;

use super::progress::Report;
use super::{Failure, News, Outcome};

/// The longest line of a report, and the most that is read of a no, bytes.
const LONGEST: usize = 64 << 10;

const BROKEN: &str = "failed while it worked on the request";
const EARLY: &str = "ended its answer too early";

/// Asks, and passes on what is said.
pub(super) async fn ask(
    request: RequestBuilder,
    number: usize,
    say: &mpsc::Sender<(usize, News)>,
) -> Outcome {
    let mut answer = request.send().await.map_err(|error| unanswered(&error))?;
    let status = answer.status().as_u16();
    if !answer.status().is_success() {
        return Err(no(status, &mut answer).await);
    }
    // whoever listened may have left: then this task ends too
    let _ = say.send((number, News::Begun)).await;
    let kind = answer.headers().get(CONTENT_TYPE);
    let lines = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-ndjson"));
    if !lines {
        while answer.chunk().await.map_err(|_| Failure::ours(BROKEN))?.is_some() {}
        return Ok(status);
    }
    let mut done = false;
    let mut kept = BytesMut::new();
    loop {
        let piece = answer.chunk().await.map_err(|_| Failure::ours(BROKEN))?;
        let over = piece.is_none();
        kept.extend_from_slice(&piece.unwrap_or_default());
        while let Some(line) = next_line(&mut kept, over) {
            match Report::read(&line) {
                Report::Success => done = true,
                Report::Failed(words) => return Err(Failure { status: None, words }),
                Report::Nothing => {}
                report => {
                    let _ = say.send((number, News::Said(report))).await;
                }
            }
        }
        if kept.len() > LONGEST {
            return Err(Failure::ours("said more in one line than anybody would read"));
        }
        match (over, done) {
            (false, _) => {}
            (true, true) => return Ok(status),
            (true, false) => return Err(Failure::ours(EARLY)),
        }
    }
}

/// The next whole line; at the end, what is left is one.
fn next_line(kept: &mut BytesMut, over: bool) -> Option<BytesMut> {
    match memchr::memchr(b'\n', kept) {
        Some(end) => Some(kept.split_to(end + 1)),
        None if over && !kept.is_empty() => Some(kept.split()),
        None => None,
    }
}

fn unanswered(error: &reqwest::Error) -> Failure {
    Failure::ours(match () {
        () if error.is_connect() => "cannot be reached",
        () if error.is_timeout() => "did not answer in time",
        () => BROKEN,
    })
}

/// An instance's no, in its own words if it has any.
async fn no(status: u16, answer: &mut Response) -> Failure {
    let mut body = BytesMut::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST {
            break;
        }
    }
    match status {
        // the client would throw away a good key for our bad one
        401 | 403 => Failure::ours("refused the gateway"),
        300..=399 => Failure::ours("answered with a redirect"),
        _ => {
            let said = serde_json::from_slice::<Value>(&body).ok();
            let words = said.as_ref().and_then(|said| said.get("error")?.as_str());
            let words = words.map_or_else(|| format!("answered {status}"), str::to_owned);
            Failure { status: Some(status).filter(|status| *status < 500), words }
        }
    }
}
