//! Patience made visible: comments to a client that waits for a stream of events.
//!
//! A proxy on the client's side takes a long silence for death. So a client of `/v1` that has waited
//! for `balance.keep_alive_comments` gets the head of its answer, and then a comment each time that
//! passes again; every reader of server-sent events skips them. It does not matter what the client
//! waits for: a seat, a model that loads, a long prompt.
//!
//! No hook of Pingora's runs meanwhile, but the client's side is always waited for. So it is there,
//! in the wrappers of [`super::watchdog`] (HTTP/1) and [`super::h2`], that they are written, past
//! Pingora; and there the head is swallowed that Pingora writes when the instance answers. From the
//! first head on, nothing but a stream of events can follow it: [`Belated`] makes one event of an
//! instance's refusal.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderValue;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use serde_json::Value;

use super::cors;
use super::ctx::Ctx;
use super::quota;
use super::refusal::Refusal;
use crate::route::{Inference, StreamFormat};

/// What a client hears that waits. The empty line ends an event of nothing, which is none.
pub(super) const COMMENT: Bytes = Bytes::from_static(b": waiting\n\n");

/// The most that is kept of an instance's refusal, bytes.
const MOST_KEPT: usize = 16 << 10;

impl Ctx {
    /// Whether the client has the head of an answer that no instance has given yet.
    pub(super) fn is_comforted(&self) -> bool {
        self.watchdog.as_ref().is_some_and(|watchdog| watchdog.has_comforted())
    }
}

/// From now on the client of this request hears that it is not forgotten, if it is one that can.
pub(super) fn begin(session: &mut Session, ctx: &Ctx, inference: Inference) -> Result<()> {
    let events = match inference.stream {
        StreamFormat::Chunks | StreamFormat::Responses | StreamFormat::Messages => ctx.streams,
        StreamFormat::Never | StreamFormat::Ndjson => false,
    };
    // HTTP/1.0 knows no chunks, in which alone something can be put between what Pingora writes
    let old = session.req_header().version == http::Version::HTTP_10;
    let every = ctx.config.comments.filter(|_| events && !old);
    let (Some(every), Some(watchdog)) = (every, &ctx.watchdog) else { return Ok(()) };
    // an interim answer would come behind the final one
    session.downstream_session.set_ignore_info_resp(true);
    watchdog.comfort(head(ctx)?, every);
    Ok(())
}

/// The head of every answer that is a stream of events.
pub(super) fn head(ctx: &Ctx) -> Result<Box<ResponseHeader>> {
    let mut head = ResponseHeader::build(200, Some(8))?;
    head.insert_header("Date", date())?;
    head.insert_header("Content-Type", "text/event-stream")?;
    head.insert_header("Cache-Control", "no-cache")?;
    head.insert_header("Transfer-Encoding", "chunked")?;
    head.insert_header("X-Request-Id", ctx.request_id.value())?;
    quota::tell(&mut head, ctx)?;
    cors::grant(&mut head, ctx)?;
    Ok(Box::new(head))
}

/// Lets Pingora know of the head that the client has, where it does not: it writes no body before
/// one, and this one is swallowed.
pub(super) async fn make_known(session: &mut Session, ctx: &Ctx) -> Result<()> {
    match session.response_written() {
        Some(_) => Ok(()),
        None => session.write_response_header(head(ctx)?, false).await,
    }
}

/// RFC 9110, 5.6.7.
fn date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Makes the instance's head one that the client could have, framed as what it has.
pub(super) fn conform(response: &mut ResponseHeader) -> Result<()> {
    response.set_status(200)?;
    response.remove_header(&http::header::CONTENT_LENGTH);
    response.insert_header(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))
}

/// What HTTP/1's wrapper writes past Pingora, and what it keeps Pingora from writing.
#[derive(Debug, Default)]
pub(super) struct Aside {
    owed: BytesMut,
    unflushed: bool,
    /// How much of the blank line behind Pingora's head has been seen, while one is to be swallowed.
    swallowing: Option<usize>,
}

impl Aside {
    /// One more comment is due, and before the first of them the head. A client that has not taken
    /// the last one is told nothing new.
    pub(super) fn comfort(&mut self, head: Option<Box<ResponseHeader>>) {
        if let Some(head) = head {
            self.owed.put_slice(b"HTTP/1.1 200 OK\r\n");
            for (name, value) in &head.headers {
                self.owed.put_slice(name.as_str().as_bytes());
                self.owed.put_slice(b": ");
                self.owed.put_slice(value.as_bytes());
                self.owed.put_slice(b"\r\n");
            }
            self.owed.put_slice(b"\r\n");
            self.swallowing = Some(0);
        } else if !self.owed.is_empty() {
            return;
        }
        self.owed.put_slice(format!("{:x}\r\n", COMMENT.len()).as_bytes());
        self.owed.put_slice(&COMMENT);
        self.owed.put_slice(b"\r\n");
    }

    /// What is to be written next.
    pub(super) fn owed(&self) -> Option<&[u8]> {
        Some(self.owed.as_ref()).filter(|owed| !owed.is_empty())
    }

    /// So much of it was.
    pub(super) fn paid(&mut self, bytes: usize) {
        self.owed.advance(bytes.min(self.owed.len()));
        self.unflushed = true;
    }

    /// Whether something was written and not sent off; asked once.
    pub(super) fn needs_flush(&self) -> bool {
        self.unflushed
    }

    /// It was sent off.
    pub(super) fn flushed(&mut self) {
        self.unflushed = false;
    }

    /// How many of the bytes that Pingora writes are those of a head that the client has already.
    pub(super) fn swallow(&mut self, bytes: &[u8]) -> Option<usize> {
        const END: [u8; 4] = *b"\r\n\r\n";
        let mut seen = self.swallowing?;
        let end = bytes.iter().position(|byte| {
            seen = match END.get(seen) {
                Some(expected) if expected == byte => seen + 1,
                _ => usize::from(*byte == b'\r'),
            };
            seen == END.len()
        });
        self.swallowing = (end.is_none()).then_some(seen);
        Some(end.map_or(bytes.len(), |end| end + 1))
    }
}

/// A refusal of the instance's that comes when the client already has the head of a stream: it is
/// gathered, and becomes the stream's only event.
#[derive(Debug)]
pub(super) struct Belated {
    status: u16,
    body: BytesMut,
}

impl Belated {
    /// None if the answer is what the client was promised. What has no body is never heard of
    /// again, so that is an error at once.
    ///
    /// # Errors
    /// The refusal, if that is all.
    pub(super) fn of(
        response: &ResponseHeader,
        instance: &str,
    ) -> std::result::Result<Option<Self>, Refusal> {
        let kind = response.headers.get(http::header::CONTENT_TYPE);
        let events = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let status = response.status.as_u16();
        if status == 200 && events {
            return Ok(None);
        }
        let belated = Self { status, body: BytesMut::new() };
        let length = response.headers.get(http::header::CONTENT_LENGTH);
        match matches!(status, 204 | 304) || length.is_some_and(|length| length == "0") {
            true => Err(belated.refusal(instance)),
            false => Ok(Some(belated)),
        }
    }

    /// Takes a piece of its body.
    pub(super) fn hear(&mut self, piece: Option<Bytes>) {
        let piece = piece.unwrap_or_default();
        let room = MOST_KEPT.saturating_sub(self.body.len()).min(piece.len());
        self.body.extend_from_slice(piece.get(..room).unwrap_or_default());
    }

    /// What the client is told: the instance's own words, if it has any.
    pub(super) fn refusal(&self, instance: &str) -> Refusal {
        let status = match self.status {
            status @ 400..600 => status,
            _ => 502,
        };
        let words = self.words().unwrap_or_else(|| {
            format!("Upstream '{instance}' answered {} where a stream was due", self.status)
        });
        Refusal::new(status, "upstream_refused", words)
    }

    fn words(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let places = ["/error/message", "/error", "/message", "/detail"];
        places.iter().find_map(|place| body.pointer(place)?.as_str()).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_swallowed_to_its_end_however_it_is_cut() {
        let head = b"HTTP/1.1 200 OK\r\nA: b\r\r\nC: d\r\n\r\n";
        let body = b"5\r\nhello\r\n";
        let all = [&head[..], body].concat();
        for size in 1..=all.len() {
            let mut aside = Aside { swallowing: Some(0), ..Aside::default() };
            let mut passed: Vec<u8> = Vec::new();
            for mut piece in all.chunks(size) {
                while !piece.is_empty() {
                    match aside.swallow(piece) {
                        Some(taken) => piece = &piece[taken..],
                        None => passed.extend(std::mem::take(&mut piece)),
                    }
                }
            }
            assert_eq!(passed, body, "in pieces of {size}");
        }
        assert_eq!(Aside::default().swallow(head), None, "nothing was promised");
    }

    #[test]
    fn comments_are_chunks_and_do_not_pile_up() {
        let mut aside = Aside::default();
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("Content-Type", "text/event-stream").unwrap();
        aside.comfort(Some(Box::new(head)));
        let first =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nb\r\n: waiting\n\n\r\n";
        assert_eq!(aside.owed(), Some(first.as_bytes()));
        aside.comfort(None);
        assert_eq!(aside.owed(), Some(first.as_bytes()), "the last one was not taken yet");
        aside.paid(first.len());
        assert!(aside.owed().is_none() && aside.needs_flush());
        aside.comfort(None);
        assert_eq!(aside.owed(), Some(&b"b\r\n: waiting\n\n\r\n"[..]));
    }

    #[test]
    fn an_instances_refusal_is_told_in_its_own_words() {
        let told = |status, body: &str| {
            let mut belated = Belated { status, body: BytesMut::new() };
            belated.hear(Some(Bytes::copy_from_slice(body.as_bytes())));
            let refusal = belated.refusal("gpu0");
            (refusal.status, refusal.detail.into_owned())
        };
        assert_eq!(told(400, r#"{"error":{"message":"no tools"}}"#), (400, "no tools".into()));
        assert_eq!(told(404, r#"{"error":"no model"}"#), (404, "no model".into()));
        let dull = "Upstream 'gpu0' answered 500 where a stream was due";
        assert_eq!(told(500, "<html>"), (500, dull.into()));
        let whole = "Upstream 'gpu0' answered 200 where a stream was due";
        assert_eq!(told(200, r#"{"choices":[]}"#), (502, whole.into()));
    }

    #[test]
    fn a_date_is_one_of_http() {
        let date = date();
        assert!(date.len() == 29 && date.ends_with(" GMT") && date.contains(", "), "{date}");
    }
}
