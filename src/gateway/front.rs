//! Before Pingora reads a request: how many connections there may be, how long a head may take and
//! how large it may be, and whether its bytes are in order.
//!
//! Pingora's own time-out is for each read, so that a byte every minute keeps a connection for
//! ever, and its parser is lenient. What is refused here is answered and logged like any other
//! refusal.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use http::HeaderValue;
use jiff::Timestamp;
use parking_lot::Mutex;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Gateway;
use super::entrance::Entrance;
use super::h2;
use super::lint::{self, BadHead};
use super::refusal::{LINGER, Refusal};
use super::request_id::RequestId;
use super::stage::Stage;
use super::watchdog::{Deadline, Watchdog, Watched};
use crate::client::ClientAddr;
use crate::config::Limits;
use crate::live::Live;
use crate::route;
use crate::telemetry::access_log::AccessLine;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::security_log::SecurityEvent;

/// How long a connection may idle between two requests.
pub const KEEPALIVE: Duration = Duration::from_secs(75);
/// What is read of a head and of the body behind it before Pingora takes over: less than its
/// buffer, because [`super::body`] relies on the body's tail being read later.
const MOST_READ: usize = 64 * 1024 - 1;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// The application that Pingora runs for each connection of a listener.
pub struct Front {
    entrance: Entrance,
    proxy: Arc<HttpProxy<Gateway>>,
    live: Arc<Live>,
    connections: Arc<Connections>,
    stage: watch::Receiver<Stage>,
    metrics: Arc<Metrics>,
}

impl Front {
    /// Puts one before the proxy for each of these entrances; they count connections together.
    pub fn all(
        entrances: Vec<Entrance>,
        proxy: HttpProxy<Gateway>,
        (live, metrics): (&Arc<Live>, &Arc<Metrics>),
        connections: &Arc<Connections>,
        stage: &watch::Receiver<Stage>,
    ) -> Vec<Self> {
        let proxy = Arc::new(proxy);
        let front = |entrance| Self {
            entrance,
            proxy: Arc::clone(&proxy),
            live: Arc::clone(live),
            connections: Arc::clone(connections),
            stage: stage.clone(),
            metrics: Arc::clone(metrics),
        };
        entrances.into_iter().map(front).collect()
    }

    async fn serve(&self, stream: Stream, client: IpAddr, shutdown: &ShutdownWatch) {
        let mut idle = self.live.load().config.timeouts.header;
        let watched = Watched::new(stream, Some(self.stage.clone()));
        let watchdog = watched.watchdog();
        let mut next = Some((Box::new(watched) as Stream, None));
        let mut behind = BytesMut::new();
        while let Some((mut stream, settings)) = next.take() {
            let arrival = Arrival { client, begun: Clock::now() };
            let begun = std::mem::take(&mut behind);
            let head = self.read_head(&mut stream, &watchdog, idle, begun).await;
            watchdog.rest();
            let head = match head {
                Ok(Head { bytes, behind: rest }) => {
                    behind = rest;
                    bytes
                }
                Err(Unfit::Closed) => return,
                Err(Unfit::Refused(bytes, refusal)) => {
                    self.refuse(&mut stream, arrival, &bytes, &refusal).await;
                    return;
                }
            };
            next = self.proxy_one(stream, settings, head, shutdown).await;
            idle = KEEPALIVE;
        }
    }

    async fn proxy_one(
        &self,
        stream: Stream,
        settings: Option<HttpPersistentSettings>,
        head: BytesMut,
        shutdown: &ShutdownWatch,
    ) -> Option<(Stream, Option<HttpPersistentSettings>)> {
        let mut session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        session.set_pipelined_prefix(head);
        let reused = self.proxy.process_new_http(session, shutdown).await?;
        Some(reused.consume())
    }

    /// Reads until the end of a head, which may have `begun`; what came behind it comes along.
    async fn read_head(
        &self,
        stream: &mut Stream,
        watchdog: &Watchdog,
        idle: Duration,
        begun: BytesMut,
    ) -> Result<Head, Unfit> {
        let mut bytes = begun;
        if bytes.is_empty() {
            bytes = BytesMut::with_capacity(2048);
            watchdog.expect_request(idle);
            if !matches!(read_some(stream, &mut bytes).await, Ok(1..)) {
                return Err(Unfit::Closed);
            }
            watchdog.rest();
        }
        let generation = self.live.load();
        let config = &generation.config;
        if let Some(end) = end_of_head(&mut bytes) {
            return judge(bytes, end, &config.limits);
        }
        let (limits, time) = (config.limits.clone(), config.timeouts.header);
        drop(generation);
        watchdog.allow(time);
        loop {
            if bytes.len() > limits.headers {
                return Err(Unfit::Refused(bytes, BadHead::TooLarge.into()));
            }
            // the empty line that is waited for might never come
            if lint::has_bare_feed(&bytes) {
                return Err(Unfit::Refused(bytes, BadHead::LineEnd.into()));
            }
            match read_some(stream, &mut bytes).await {
                Ok(1..) => {}
                Err(_) if watchdog.expired() == Some(Deadline::Phase) => {
                    let detail = "Request head was not received in time";
                    return Err(Unfit::Refused(bytes, Refusal::new(408, "head_timeout", detail)));
                }
                _ => return Err(Unfit::Closed),
            }
            if let Some(end) = end_of_head(&mut bytes) {
                return judge(bytes, end, &limits);
            }
        }
    }

    /// Answers a request that is none.
    async fn refuse(&self, stream: &mut Stream, from: Arrival, head: &[u8], refusal: &Refusal) {
        let line = lint::glance(head);
        let given = lint::request_id(head).and_then(|id| HeaderValue::from_bytes(id).ok());
        let id = RequestId::of(given.as_ref());
        let body = refusal.body(route::dialect_of(line.path));
        let written = match refusal.head(&id, body.len()) {
            Ok(head) if line.method == "HEAD" => write_raw(stream, &head, b"").await,
            Ok(head) => write_raw(stream, &head, &body).await,
            Err(_) => return,
        };
        let status = if written { refusal.status } else { 0 };
        self.count(status, &from, refusal);
        let access = AccessLine { method: line.method, status, ..from.line(&id, refusal) };
        access.write(self.live.load().config.log.access);
    }

    /// Answers a connection that is one too many, and lets go of it at once: whoever floods must
    /// not hold more of them by being refused.
    async fn turn_away(&self, stream: &mut Stream, from: Arrival, refusal: &Refusal) {
        let id = RequestId::new();
        let body = refusal.body(route::Dialect::Plain);
        let written = match refusal.head(&id, body.len()) {
            Ok(head) => {
                let answer = raw(&head, &body);
                let writing = timeout(Duration::from_millis(100), stream.write_all(&answer));
                matches!(writing.await, Ok(Ok(())))
            }
            Err(_) => false,
        };
        self.turned_away(if written { refusal.status } else { 0 }, &from, (&id, refusal));
    }

    fn turned_away(&self, status: u16, from: &Arrival, (id, refusal): (&RequestId, &Refusal)) {
        from.tell(id, refusal);
        self.count(status, from, refusal);
        let line = AccessLine { status, ..from.line(id, refusal) };
        line.write(self.live.load().config.log.access);
    }

    fn count(&self, status: u16, from: &Arrival, refusal: &Refusal) {
        self.metrics.unfit(status, from.begun.elapsed());
        if let Some(limit) = refusal.limit() {
            self.metrics.limited(limit);
        }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let visitor = self.entrance.meet(stream).await?;
        let config = Arc::clone(&self.live.load().config);
        let client = ClientAddr::of(visitor.address);
        // a proxy that speaks for many is no single client
        let share = (!client.is_in(&config.auth.trusted_proxies)).then(|| client.bucket());
        let admitted = self.connections.enter(share, &config.limits);
        let arrival = Arrival { client: client.ip(), begun: Clock::now() };
        if let (Err(refusal), true) = (&admitted, self.entrance.is_tls()) {
            // a handshake costs more than the connection that there is no room for
            self.turned_away(0, &arrival, (&RequestId::new(), refusal));
            return None;
        }
        let mut stream = self.entrance.secure(visitor).await?;
        match admitted {
            Ok(_guard) if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) => {
                h2::serve(&self.proxy, stream, &config, self.stage.clone(), shutdown).await;
            }
            Ok(_guard) => self.serve(stream, arrival.client, shutdown).await,
            Err(refusal) => self.turn_away(&mut stream, arrival, &refusal).await,
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Who connected, and when the request began.
#[derive(Clone, Copy)]
struct Arrival {
    client: IpAddr,
    begun: Clock,
}

impl Arrival {
    /// Tells the security log of a connection that is one too many.
    fn tell(&self, request_id: &str, refusal: &Refusal) {
        SecurityEvent {
            event: "limited",
            address: self.client,
            request_id,
            route: "-",
            key: None,
            user_id: None,
            reason: &refusal.detail,
        }
        .write();
    }

    /// The access line of what is refused before it is a request.
    fn line<'a>(&self, request_id: &'a str, refusal: &'a Refusal) -> AccessLine<'a> {
        AccessLine {
            time: Timestamp::now(),
            request_id,
            client: self.client,
            user_id: None,
            key_id: None,
            tier: None,
            method: "",
            route: "-",
            model: None,
            upstream: None,
            status: refusal.status,
            bytes: 0,
            tokens_in: None,
            tokens_out: None,
            auth: None,
            queue: None,
            seats: None,
            first_byte: None,
            total: self.begun.elapsed(),
            outcome: refusal.reason,
            cause: None,
        }
    }
}

/// A head that is in order, and what came with it.
struct Head {
    /// The head, and of its body what was there.
    bytes: BytesMut,
    /// The beginning of another request.
    behind: BytesMut,
}

/// Why a connection brings no request.
enum Unfit {
    /// It was closed, or idled for too long.
    Closed,
    /// It brought these bytes, which are refused.
    Refused(BytesMut, Refusal),
}

async fn read_some(stream: &mut Stream, bytes: &mut BytesMut) -> std::io::Result<usize> {
    let room = MOST_READ.saturating_sub(bytes.len());
    stream.read_buf(&mut bytes.limit(room)).await
}

fn judge(bytes: BytesMut, end: usize, limits: &Limits) -> Result<Head, Unfit> {
    if end > limits.headers {
        return Err(Unfit::Refused(bytes, BadHead::TooLarge.into()));
    }
    match lint::check(bytes.get(..end).unwrap_or_default()) {
        Ok(Some(length)) if (bytes.len() - end) as u64 > length => Ok(part(bytes, end, length)),
        Ok(_) => Ok(Head { bytes, behind: BytesMut::new() }),
        Err(bad) => Err(Unfit::Refused(bytes, bad.into())),
    }
}

/// Cuts off what came behind a body: Pingora would answer the one request, promise to keep the
/// connection, and close it.
fn part(mut bytes: BytesMut, end: usize, length: u64) -> Head {
    if lint::asks_for_upgrade(bytes.get(..end).unwrap_or_default()) {
        return Head { bytes, behind: BytesMut::new() };
    }
    // a length below that of the bytes that are there
    let mut behind = bytes.split_off(end + usize::try_from(length).unwrap_or_default());
    skip_empty_lines(&mut behind);
    Head { bytes, behind }
}

/// Some clients send an empty line behind a body (RFC 9112, 2.2, asks to ignore it).
fn skip_empty_lines(bytes: &mut BytesMut) {
    while bytes.starts_with(b"\r\n") {
        let _ = bytes.split_to(2);
    }
}

/// Where the head ends, if its end is there.
fn end_of_head(bytes: &mut BytesMut) -> Option<usize> {
    skip_empty_lines(bytes);
    // line by line: a search for four bytes costs more to prepare than a head has lines
    let mut ends = memchr::memchr_iter(b'\n', bytes).map(|at| at + 1);
    ends.find(|end| bytes.get(..*end).is_some_and(|head| head.ends_with(END_OF_HEAD)))
}

/// Writes an answer, then swallows for a while what the client still sends: see [`LINGER`].
async fn write_raw(stream: &mut Stream, head: &pingora::http::ResponseHeader, body: &[u8]) -> bool {
    let out = raw(head, body);
    let writing = async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    let written = matches!(timeout(LINGER, writing).await, Ok(Ok(())));
    let mut rest = BytesMut::with_capacity(8192);
    let _ = timeout(LINGER, async {
        while matches!(stream.read_buf(&mut rest).await, Ok(1..)) {
            rest.clear();
        }
    })
    .await;
    written
}

fn raw(head: &pingora::http::ResponseHeader, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).as_bytes());
    for (name, value) in &head.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"connection: close\r\n\r\n");
    out.extend_from_slice(body);
    out
}

/// The open connections, in all and of each address.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    in_all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One open connection.
struct Connection {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open.lock().in_all
    }

    /// Counts one more; without an address, in all alone.
    fn enter(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Connection, Refusal> {
        let mut open = self.open.lock();
        if open.in_all >= limits.connections {
            return Err(Refusal::unavailable("connections", "Too many connections", 1));
        }
        if let Some(address) = address {
            let of_address = open.by_address.entry(address).or_default();
            if *of_address >= limits.connections_per_ip {
                let detail = "Too many connections from this address";
                return Err(Refusal::too_many("connections_per_ip", detail, 1));
            }
            *of_address += 1;
        }
        open.in_all += 1;
        drop(open);
        Ok(Connection { connections: Arc::clone(self), address })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        open.in_all = open.in_all.saturating_sub(1);
        let Some(address) = self.address else { return };
        if let Some(count) = open.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}
