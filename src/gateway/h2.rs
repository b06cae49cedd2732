//! HTTP/2: bounds of a connection, and a stream as Pingora's proxy sees it.
//!
//! Pingora's own HTTP/2 session waits for its client without end, and no hook runs meanwhile. Here
//! it is wrapped in one of Pingora's custom sessions, which hands everything on to it but ends that
//! wait when the request's deadline passes; so deadlines are those of HTTP/1, and so is the way out.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream as MessageStream;
use http::HeaderMap;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::v2::server::{H2Options, HttpSession, default_h2_options};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::{Digest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType, Result};
use tokio::sync::watch;

use super::Gateway;
use super::front::KEEPALIVE;
use super::patience::COMMENT;
use super::stage::Stage;
use super::watchdog::{Alarm, Call, Companions, Watchdog, Watched};
use crate::auth::verdict::Acquaintance;
use crate::config::Config;

/// Requests of one connection at once.
const MOST_STREAMS: u32 = 100;
/// What one stream may send before it is read, bytes: uploads over a distance wait less.
const STREAM_WINDOW: u32 = 256 << 10;
/// What all streams of a connection may send before it is read: so much memory a client can hold
/// without having said who it is.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What waits to be sent of one stream, bytes.
const SEND_BUFFER: usize = 64 << 10;

/// Bytes of a head that h2 itself lets pass at the least; it counts 32 more for each field.
const LEAST_LIST: usize = 64 << 10;

/// How long the last words of a stream that is going to be cut get. A stream that is dropped
/// without its end is reset, and h2 throws away what waits to be sent then; nothing tells when that
/// is out, but the connection needs no more than a turn.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(50);

/// Serves a connection until it ends.
pub(super) async fn serve(
    proxy: &Arc<HttpProxy<Gateway>>,
    stream: Stream,
    config: &Config,
    stage: watch::Receiver<Stage>,
    shutdown: &ShutdownWatch,
) {
    // when the process ends, each stream says so before the connection goes
    let stream = Watched::new(stream, None);
    let greeting = stream.watchdog();
    // until the first request; from then on idle connections are closed by their time
    greeting.allow(config.timeouts.header);
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(KEEPALIVE);
    // what is refused here gets no body, no id and no access line: [`super::admit`] refuses before
    let headers = config.limits.headers.saturating_mul(2).max(LEAST_LIST);
    let headers = u32::try_from(headers).unwrap_or(u32::MAX);
    let last = Arc::default();
    let streams = Streams { proxy: Arc::clone(proxy), options, headers, greeting, last, stage };
    ServerApp::process_new(&Arc::new(streams), Box::new(stream), shutdown).await;
}

/// What Pingora would read messages from.
type Messages = Box<dyn MessageStream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// What Pingora runs for each stream of one connection.
struct Streams {
    proxy: Arc<HttpProxy<Gateway>>,
    options: HttpServerOptions,
    headers: u32,
    greeting: Arc<Watchdog>,
    last: Arc<Acquaintance>,
    stage: watch::Receiver<Stage>,
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.greeting.rest();
        let ServerSession::H2(stream) = session else { return None };
        let stream = WatchedStream::new(stream, self.stage.clone(), Arc::clone(&self.last));
        let session = ServerSession::new_custom(Box::new(stream));
        self.proxy.process_new_http(session, shutdown).await
    }

    /// Starts from Pingora's: without them, the bounds that h2 itself has are far too wide.
    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options
            .max_header_list_size(self.headers)
            .max_concurrent_streams(MOST_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// A stream whose wait for its client ends when its watchdog's deadline passes.
struct WatchedStream {
    inner: HttpSession,
    alarm: Alarm,
    /// The body was read to its end. Behind trailers, which nobody asks for, h2 would not say so.
    ended: bool,
    /// The body was kept elsewhere, to its end: see [`WatchedStream::get_retry_buffer`].
    kept: bool,
    /// Bytes of comments that were written past Pingora.
    comments: usize,
}

impl WatchedStream {
    fn new(mut inner: HttpSession, stage: watch::Receiver<Stage>, last: Arc<Acquaintance>) -> Self {
        let alarm = Alarm::new(Some(stage));
        let companions = Companions { watchdog: alarm.watchdog(), last };
        inner.req_header_mut().extensions_mut().insert(companions);
        Self { inner, alarm, ended: false, kept: false, comments: 0 }
    }

    /// What the client says, unless something is due before.
    async fn read_or_called(&mut self, idle: bool) -> Result<Result<Option<Bytes>>, Call> {
        let Self { inner, alarm, .. } = self;
        let mut reading = pin!(inner.read_body_or_idle(idle));
        poll_fn(|cx| {
            if let Poll::Ready(read) = reading.as_mut().poll(cx) {
                return Poll::Ready(Ok(read));
            }
            Poll::Ready(Err(ready!(alarm.poll(cx))))
        })
        .await
    }

    /// The client hears that it is not forgotten: see [`super::patience`].
    async fn comfort(&mut self) -> Result<()> {
        if let Some(head) = self.alarm.watchdog().take_head() {
            self.inner.write_response_header(head, false)?;
        }
        self.inner.write_body(COMMENT, false).await?;
        self.comments += COMMENT.len();
        Ok(())
    }

    /// Whether the client has a head already, so that Pingora's is not to be written.
    fn has_head(&self) -> bool {
        self.inner.response_written().is_some()
    }
}

#[async_trait]
impl CustomSession for WatchedStream {
    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let read = self.inner.read_body_bytes().await?;
        self.ended |= read.is_none();
        Ok(read)
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let idle = no_body_expected || self.is_body_done();
        loop {
            match self.read_or_called(idle).await {
                Ok(read) => {
                    let read = read?;
                    self.ended |= read.is_none();
                    return Ok(read);
                }
                Err(Call::Expired) => {
                    let why = "the request's time is over";
                    return Error::e_explain(ErrorType::ReadTimedout, why);
                }
                Err(Call::Comfort) => self.comfort().await?,
            }
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.ended || self.inner.is_body_done()
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner.drain_request_body().await
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.inner.shutdown();
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        match self.has_head() {
            true => Ok(()),
            false => self.inner.write_response_header(head, end),
        }
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(head.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner.write_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, mut tasks: Vec<HttpTask>) -> Result<bool> {
        if self.comments > 0 {
            for task in &mut tasks {
                if let HttpTask::Header(_, end) = task {
                    *task = HttpTask::Body(None, *end);
                }
            }
        }
        self.inner.response_duplex_vec(tasks).await
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }

    fn req_header(&self) -> &RequestHeader {
        self.inner.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner.req_header_mut()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner.response_written()
    }

    fn is_body_empty(&mut self) -> bool {
        self.inner.is_body_empty()
    }

    /// Of what Pingora has written.
    fn body_bytes_sent(&self) -> usize {
        self.inner.body_bytes_sent().saturating_sub(self.comments)
    }

    fn body_bytes_read(&self) -> usize {
        self.inner.body_bytes_read()
    }

    fn enable_retry_buffering(&mut self) {
        self.kept = self.ended;
        self.inner.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.inner.retry_buffer_truncated()
    }

    /// Where nothing is left to be buffered, a byte stands for the body: without any, Pingora would
    /// not call the filter that puts the kept bytes in its place.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        let buffered = self.inner.get_retry_buffer();
        buffered.or_else(|| self.kept.then(|| Bytes::from_static(b"x")))
    }

    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner.request_summary()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner.pseudo_raw_h1_request_header()
    }

    // HTTP/2 has no messages beside bodies

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
