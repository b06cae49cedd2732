//! From an answer to the bytes of a body, with the misbehaviour that was ordered for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;

use crate::clock::Clock;
use crate::faults::Fault;
use crate::log::Ticket;
use crate::reply::{Reply, Source, Tokens};
use crate::tap::{Conn, Sabotage};

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The HTTP response of a reply.
pub(crate) fn deliver(
    mut reply: Reply,
    fault: Option<Fault>,
    ticket: Ticket,
    conn: Arc<Conn>,
    clock: Clock,
) -> Response<Body> {
    if let Some(Fault::Headers { headers }) = &fault {
        for (name, value) in headers {
            reply = reply.with(name, value);
        }
    }
    ticket.status(reply.status);
    let length = match &reply.source {
        Source::Whole(body) => Some(body.len()),
        _ => None,
    };
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(reply.status).unwrap_or_default();
    *response.headers_mut() = reply.headers;
    if let Some(length) = length.filter(|_| !matches!(reply.status, 204 | 304)) {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if clock.is_deterministic() {
        let date = HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT");
        response.headers_mut().insert(http::header::DATE, date);
    }
    let feed = Feed::new(reply.source, fault, ticket, conn, clock);
    let frames = stream::unfold(feed, |mut feed| async move {
        let frame = feed.frame().await?;
        Some((frame.map(Frame::data), feed))
    });
    response.map(|()| UnsyncBoxBody::new(StreamBody::new(Box::pin(frames))))
}

/// Chunks on their way out.
struct Feed {
    chunks: Chunks,
    fault: Option<Fault>,
    ticket: Ticket,
    conn: Arc<Conn>,
    clock: Clock,
    /// Chunks that left.
    passed: usize,
    /// Bytes of a chunk that is sent one by one.
    drops: VecDeque<u8>,
    /// They are of the last chunk.
    last: bool,
}

enum Chunks {
    Ready(VecDeque<(Duration, Bytes)>),
    Tokens(Box<Tokens>),
}

impl Feed {
    fn new(
        source: Source,
        fault: Option<Fault>,
        ticket: Ticket,
        conn: Arc<Conn>,
        clock: Clock,
    ) -> Self {
        let chunks = match source {
            Source::Whole(body) => {
                // two halves, so that a fault can come between them
                let cut = if fault.is_some() { body.len() / 2 } else { 0 };
                let halves = [body.slice(..cut), body.slice(cut..)];
                let halves = halves.into_iter().filter(|half| !half.is_empty());
                Chunks::Ready(halves.map(|half| (Duration::ZERO, half)).collect())
            }
            Source::Paced(chunks) => Chunks::Ready(chunks),
            Source::Tokens(tokens) => Chunks::Tokens(tokens),
        };
        let drops = VecDeque::new();
        let mut feed = Self { chunks, fault, ticket, conn, clock, passed: 0, drops, last: false };
        if matches!(&feed.chunks, Chunks::Ready(chunks) if chunks.is_empty()) {
            // hyper does not ask for a body of no length
            feed.ticket.ended("complete");
        }
        feed
    }

    async fn frame(&mut self) -> Option<io::Result<Bytes>> {
        match self.fault.clone() {
            Some(Fault::HangAfter { after }) if after <= self.passed => {
                std::future::pending::<Infallible>().await;
            }
            Some(Fault::CutAfter { after }) if after <= self.passed => {
                flushed().await;
                self.ticket.ended("fault");
                return Some(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            Some(Fault::EndAfter { after }) if after <= self.passed => {
                self.ticket.ended("fault");
                return None;
            }
            Some(Fault::ErrorAfter { after, message }) if after == self.passed => {
                self.fail(&message);
            }
            Some(Fault::ResetAfter { after }) if after <= self.passed => {
                flushed().await;
                self.conn.sabotage(Sabotage::Reset);
                self.ticket.ended("fault");
            }
            Some(Fault::Trickle { every_ms }) => return self.trickle(every_ms).await,
            _ => {}
        }
        let (chunk, last) = self.next().await?;
        self.passed += 1;
        self.sent(chunk.len(), last);
        Some(Ok(chunk))
    }

    /// The next chunk, and whether it is the last.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        match &mut self.chunks {
            Chunks::Ready(chunks) => {
                let (pause, chunk) = chunks.pop_front()?;
                self.clock.pass(pause).await;
                Some((chunk, chunks.is_empty()))
            }
            Chunks::Tokens(tokens) => {
                let chunk = tokens.next().await?;
                Some((chunk, tokens.ready.is_empty() && tokens.generation.is_none()))
            }
        }
    }

    fn sent(&mut self, bytes: usize, last: bool) {
        self.ticket.sent(bytes);
        if last {
            self.ticket.ended("complete");
        }
    }

    /// The stream goes on with the dialect's error and ends there; the slot is free at once.
    fn fail(&mut self, message: &str) {
        self.ticket.ended("fault");
        let ready = match &mut self.chunks {
            Chunks::Tokens(tokens) => tokens.encoder.error(message),
            Chunks::Ready(_) => return,
        };
        self.fault = None;
        self.chunks = Chunks::Ready(ready.into_iter().map(|c| (Duration::ZERO, c)).collect());
    }

    async fn trickle(&mut self, every_ms: u64) -> Option<io::Result<Bytes>> {
        if self.drops.is_empty() {
            let (chunk, last) = self.next().await?;
            (self.drops, self.last) = (chunk.into_iter().collect(), last);
        }
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        let byte = self.drops.pop_front()?;
        self.sent(1, self.last && self.drops.is_empty());
        Some(Ok(Bytes::copy_from_slice(&[byte])))
    }
}

/// hyper flushes what it has whenever the body has nothing for it: what was let through has left.
async fn flushed() {
    tokio::task::yield_now().await;
}
