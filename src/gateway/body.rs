//! Reads a whole request body so that Pingora still sends it, on every attempt.
//!
//! Pingora replays a body that a hook has read only from a buffer of its own, and silently sends
//! nothing when the body is larger than that. So the bytes are kept here, and Pingora's buffer is
//! switched on for the tail alone: then the body counts as read, its filter is called once an
//! attempt with `end = true`, and that is where [`super::Gateway`] puts the kept bytes in place of
//! the tail. This module alone knows of that buffer.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession as SessionV1;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::refusal::Refusal;

/// Size of Pingora's private retry buffer.
const PINGORA_BUFFER: u64 = 64 * 1024;
/// How much room is made before the client has sent anything: the length is only its claim.
const FIRST_ROOM: u64 = 256 * 1024;

/// What Pingora says of chunks that are none. Its own names for them are private.
const MALFORMED: [ErrorType; 2] =
    [ErrorType::Custom("InvalidChunk"), ErrorType::Custom("InvalidTrailerEnd")];

/// Why a body was not read.
pub(super) enum Unread {
    /// The client left.
    Gone(Box<Error>),
    /// It may not be read, or cannot be.
    Refused(Refusal),
}

impl From<Box<Error>> for Unread {
    fn from(error: Box<Error>) -> Self {
        match error.etype() {
            ErrorType::ReadTimedout => Self::Refused(Refusal::body_too_slow()),
            _ if is_malformed(&error) => Self::Refused(Refusal::malformed_chunks(&error)),
            _ => Self::Gone(error.into_down()),
        }
    }
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether a body could not be read because its chunks are malformed.
pub(super) fn is_malformed(error: &Error) -> bool {
    MALFORMED.contains(error.etype())
}

/// The length that the client declared.
pub(super) fn declared_length(session: &Session) -> Option<u64> {
    session.get_header(http::header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Reads the body: at most `limit` bytes, within `time`, as `reservation` has room.
pub(super) async fn read(
    session: &mut Session,
    limit: u64,
    time: Duration,
    reservation: &mut Reservation,
) -> Result<Bytes, Unread> {
    if session.is_body_empty() {
        return Ok(Bytes::new());
    }
    let length = declared_length(session);
    if length.is_some_and(|length| length > limit) {
        return Err(Refusal::body_too_large(limit).into());
    }
    let reading = async {
        send_continue(session).await?;
        match length {
            Some(length) => read_known(session, length, reservation).await,
            None => read_unannounced(session, limit, reservation).await,
        }
    };
    let read = tokio::time::timeout(time, reading).await;
    let read = read.unwrap_or_else(|_| Err(Refusal::body_too_slow().into()));
    if read.is_err() {
        // where the body ends is unknown: what follows must not be taken for a request
        session.set_keepalive(None);
    }
    read
}

async fn read_known(
    session: &mut Session,
    length: u64,
    reservation: &mut Reservation,
) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    loop {
        // while more than a buffer is missing, one read returns at most a buffer: so the tail
        // that Pingora keeps is never overrun, and never empty
        if length.saturating_sub(body.len() as u64) <= PINGORA_BUFFER {
            session.enable_retry_buffering();
        }
        let Some(piece) = session.read_request_body().await? else { break };
        reservation.grow(piece.len() as u64)?;
        let done = session.is_body_done();
        if done && body.is_empty() {
            // most bodies come whole, and need no second copy
            return Ok(piece);
        }
        if body.is_empty() {
            body.reserve(usize_of(length.min(FIRST_ROOM)));
        }
        body.extend_from_slice(&piece);
        if done {
            break;
        }
    }
    Ok(body.freeze())
}

/// A body of which nobody says how long it is: chunked, or over HTTP/2.
async fn read_unannounced(
    session: &mut Session,
    limit: u64,
    reservation: &mut Reservation,
) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    while let Some(piece) = session.read_request_body().await? {
        if (body.len() + piece.len()) as u64 > limit {
            return Err(Refusal::length_required(limit).into());
        }
        reservation.grow(piece.len() as u64)?;
        body.extend_from_slice(&piece);
    }
    match session.as_downstream().as_http1() {
        Some(_) => renew(session).await?,
        // behind the end this makes up the byte that is replayed: see [`super::h2`]
        None => session.enable_retry_buffering(),
    }
    Ok(body.freeze())
}

/// Puts a fresh session with a body of one byte, which replays like any other, in place of one
/// whose chunked body was read. The connection closes afterwards.
async fn renew(session: &mut Session) -> Result<()> {
    let head = head_with_one_byte(session);
    let (placeholder, _) = tokio::io::duplex(1);
    let placeholder = ServerSession::new_http1(Box::new(placeholder));
    let ServerSession::H1(consumed) =
        std::mem::replace(&mut *session.downstream_session, placeholder)
    else {
        return Error::e_explain(ErrorType::InternalError, "chunked body outside HTTP/1");
    };
    let mut fresh = SessionV1::new(consumed.into_inner());
    fresh.set_pipelined_prefix(head);
    fresh.read_request().await?;
    fresh.enable_retry_buffering();
    while fresh.read_body_bytes().await?.is_some() {}
    *session.downstream_session = ServerSession::H1(fresh);
    session.set_keepalive(None);
    Ok(())
}

fn head_with_one_byte(session: &Session) -> BytesMut {
    let request = session.req_header();
    let mut head = BytesMut::with_capacity(1024);
    head.extend_from_slice(request.method.as_str().as_bytes());
    head.extend_from_slice(b" ");
    head.extend_from_slice(request.raw_path());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let framing = ["transfer-encoding", "content-length", "expect"];
    for (name, value) in &request.headers {
        if !framing.contains(&name.as_str()) {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"connection: close\r\ncontent-length: 1\r\n\r\nx");
    head
}

/// Answers `Expect: 100-continue`, which HTTP/1.0 does not know, and refuses to meet any other
/// expectation (RFC 9110, 10.1.1). Pingora takes the interim answer for an early one and would turn
/// keep-alive off.
pub(super) async fn send_continue(session: &mut Session) -> Result<(), Unread> {
    let old = session.req_header().version == http::Version::HTTP_10;
    let expected = session.get_header(http::header::EXPECT).filter(|_| !old);
    let Some(expected) = expected else { return Ok(()) };
    let keepalive = session.get_keepalive();
    if !expected.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        // whether the body comes is anybody's guess
        session.set_keepalive(None);
        let detail = "Only 'Expect: 100-continue' can be met";
        return Err(Refusal::new(417, "expectation", detail).into());
    }
    session.write_continue_response().await?;
    session.set_keepalive(keepalive);
    Ok(())
}

fn usize_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// The memory that request bodies may take, in all and for each user.
#[derive(Debug)]
pub(super) struct Budget {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: u64,
    by_user: HashMap<i64, u64>,
}

impl Budget {
    /// A budget of which nothing is taken.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default() })
    }

    /// A share for one request, empty so far.
    pub(super) fn share(self: &Arc<Self>, user: i64, in_all: u64, per_user: u64) -> Reservation {
        Reservation { budget: Arc::clone(self), user, in_all, per_user, bytes: 0 }
    }

    /// Bytes taken in all.
    pub(super) fn taken(&self) -> u64 {
        self.taken.lock().in_all
    }
}

/// One request's share of the [`Budget`]; dropping it gives the share back.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    user: i64,
    in_all: u64,
    per_user: u64,
    bytes: u64,
}

impl Reservation {
    fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        const DETAIL: &str = "Too many large requests at once";
        let mut taken = self.budget.taken.lock();
        let Taken { in_all, by_user } = &mut *taken;
        let entry = by_user.entry(self.user);
        let of_user = match &entry {
            Entry::Occupied(entry) => *entry.get() + bytes,
            Entry::Vacant(_) => bytes,
        };
        if of_user > self.per_user {
            return Err(Refusal::too_many("body_memory", DETAIL, 1));
        }
        if *in_all + bytes > self.in_all {
            return Err(Refusal::unavailable("body_memory", DETAIL, 1));
        }
        *in_all += bytes;
        entry.insert_entry(of_user);
        self.bytes += bytes;
        Ok(())
    }

    /// The body was changed, and has this many bytes now.
    pub(super) fn hold(&mut self, bytes: u64) -> Result<(), Refusal> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.give_back(self.bytes - bytes);
                Ok(())
            }
        }
    }

    fn give_back(&mut self, bytes: u64) {
        let mut taken = self.budget.taken.lock();
        taken.in_all = taken.in_all.saturating_sub(bytes);
        if let Entry::Occupied(mut of_user) = taken.by_user.entry(self.user) {
            *of_user.get_mut() = of_user.get().saturating_sub(bytes);
            if *of_user.get() == 0 {
                of_user.remove();
            }
        }
        self.bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_taken_and_dropped_the_budget_is_whole_again(
            steps in prop::collection::vec((0_i64..3, 1_u64..100, 1_u64..100), 0..60)
        ) {
            let budget = Budget::new();
            let mut held = Vec::new();
            for (user, bytes, later) in steps {
                let mut share = budget.share(user, 500, 200);
                let before = budget.taken();
                match share.grow(bytes) {
                    Ok(()) => prop_assert_eq!(budget.taken(), before + bytes),
                    Err(_) => prop_assert_eq!(budget.taken(), before),
                }
                let (before, had) = (budget.taken(), share.bytes);
                match share.hold(later) {
                    Ok(()) => prop_assert_eq!(budget.taken(), before - had + later),
                    Err(_) => prop_assert!(later > had && budget.taken() == before),
                }
                prop_assert!(budget.taken() <= 500);
                held.push(share);
                if held.len() > 8 {
                    held.remove(0);
                }
            }
            held.clear();
            prop_assert_eq!(budget.taken(), 0);
            prop_assert!(budget.taken.lock().by_user.is_empty());
        }
    }
}
