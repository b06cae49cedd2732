//! The deadlines of one request, kept by the client's own side.
//!
//! Pingora has one read time-out for an instance and no limit on a whole request, and no hook runs
//! while nothing arrives. But while it waits for the instance it always waits for the client too.
//! So the client's side is wrapped, HTTP/1's connection here and HTTP/2's streams in
//! [`super::h2`]: when the deadline passes, that wait ends with an error, the request is unwound as
//! if the client had left, and [`Watchdog::expired`] tells the difference. Writing to the client
//! still works then, so that it learns why. Comments to a client that waits are written here for the
//! same reason: see [`super::patience`].

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use pingora::proxy::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::patience::Aside;
use super::stage::{self, Stage, Step};
use crate::auth::verdict::Acquaintance;

/// The deadline of the request that a connection or stream is working on.
#[derive(Debug)]
pub(super) struct Watchdog {
    base: Instant,
    /// Milliseconds after `base`; `NEVER` when no deadline is set.
    phase: AtomicU64,
    total: AtomicU64,
    /// No request is under way, so that the connection may go as soon as the process wants to.
    between: AtomicBool,
    expired: AtomicU8,
    comfort: Comfort,
}

/// What a client hears while it waits.
#[derive(Debug)]
struct Comfort {
    /// The next time, in milliseconds after the watchdog's base; `NEVER` when it hears nothing.
    due: AtomicU64,
    every: AtomicU64,
    /// The head of its answer, until it has it.
    head: Mutex<Option<Box<ResponseHeader>>>,
    /// Whether it has it.
    begun: AtomicBool,
}

/// What a wrapper has to do for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Its time is over.
    Expired,
    /// Its client has waited for long, and should hear of it.
    Comfort,
}

/// Which of the deadlines passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// That of a step: the instance is too slow.
    Phase,
    /// That of the whole request: nobody's fault.
    Total,
    /// That of the process, which ends.
    Cut,
}

const NEVER: u64 = u64::MAX;

impl Watchdog {
    fn new() -> Self {
        Self {
            base: Instant::now(),
            phase: AtomicU64::new(NEVER),
            total: AtomicU64::new(NEVER),
            between: AtomicBool::new(false),
            expired: AtomicU8::new(0),
            comfort: Comfort {
                due: AtomicU64::new(NEVER),
                every: AtomicU64::new(NEVER),
                head: Mutex::new(None),
                begun: AtomicBool::new(false),
            },
        }
    }

    /// A request may take this long to come, unless the process ends earlier.
    pub(super) fn expect_request(&self, limit: Duration) {
        self.allow(limit);
        self.between.store(true, Ordering::Relaxed);
    }

    /// The step that begins now may take this long.
    pub(super) fn allow(&self, limit: Duration) {
        self.allow_from(std::time::Instant::now(), limit);
    }

    /// The same, for whoever has looked at the clock already: a chunk looks once.
    pub(super) fn allow_from(&self, now: std::time::Instant, limit: Duration) {
        self.phase.store(self.after(now, limit), Ordering::Relaxed);
    }

    /// Whatever the steps are, all of them together may take this long from now.
    pub(super) fn allow_in_all(&self, now: std::time::Instant, limit: Duration) {
        self.total.store(self.after(now, limit), Ordering::Relaxed);
    }

    /// No deadline until the next one is set.
    pub(super) fn rest(&self) {
        self.between.store(false, Ordering::Relaxed);
        self.phase.store(NEVER, Ordering::Relaxed);
        self.total.store(NEVER, Ordering::Relaxed);
    }

    /// While the client waits, it hears so each time that this much has passed: first by this head.
    pub(super) fn comfort(&self, head: Box<ResponseHeader>, every: Duration) {
        *self.comfort.head.lock() = Some(head);
        let millis = u64::try_from(every.as_millis()).unwrap_or(NEVER);
        self.comfort.every.store(millis, Ordering::Relaxed);
        self.comfort.due.store(self.after(std::time::Instant::now(), every), Ordering::Relaxed);
    }

    /// It waits no more.
    pub(super) fn comfort_no_more(&self) {
        self.comfort.due.store(NEVER, Ordering::Relaxed);
    }

    /// Whether the client was given the head of an answer in advance.
    pub(super) fn has_comforted(&self) -> bool {
        self.comfort.begun.load(Ordering::Relaxed)
    }

    /// The head that the client is to have before it is comforted, the first time.
    pub(super) fn take_head(&self) -> Option<Box<ResponseHeader>> {
        self.comfort.begun.store(true, Ordering::Relaxed);
        self.comfort.head.lock().take()
    }

    /// The request is over: nothing of it concerns the next one on this connection.
    pub(super) fn forget(&self) {
        self.rest();
        self.comfort_no_more();
        self.comfort.begun.store(false, Ordering::Relaxed);
        *self.comfort.head.lock() = None;
    }

    /// The deadline that has passed and ended the request.
    pub(super) fn expired(&self) -> Option<Deadline> {
        match self.expired.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Deadline::Phase),
            2 => Some(Deadline::Total),
            _ => Some(Deadline::Cut),
        }
    }

    fn expire(&self) {
        let total = self.total.load(Ordering::Relaxed) < self.phase.load(Ordering::Relaxed);
        self.expired.store(if total { 2 } else { 1 }, Ordering::Relaxed);
        self.rest();
        self.comfort_no_more();
    }

    fn cut(&self) {
        self.expired.store(3, Ordering::Relaxed);
        self.rest();
        self.comfort_no_more();
    }

    /// The step of the process that ends what is under way here.
    fn last_step(&self) -> Step {
        if self.between.load(Ordering::Relaxed) { Step::Closing } else { Step::Cut }
    }

    fn after(&self, now: std::time::Instant, limit: Duration) -> u64 {
        let age = Instant::from_std(now).saturating_duration_since(self.base);
        let due = age.saturating_add(limit).as_millis();
        u64::try_from(due).unwrap_or(NEVER)
    }

    /// What is due next, and when.
    fn due(&self) -> Option<(Instant, Call)> {
        let deadline = self.phase.load(Ordering::Relaxed).min(self.total.load(Ordering::Relaxed));
        let comfort = self.comfort.due.load(Ordering::Relaxed);
        let (due, call) = match comfort < deadline {
            true => (comfort, Call::Comfort),
            false => (deadline, Call::Expired),
        };
        (due != NEVER).then(|| (self.base + Duration::from_millis(due), call))
    }

    /// What was due is done: for a comment, until the next one.
    fn done(&self, call: Call) {
        match call {
            Call::Expired => self.expire(),
            Call::Comfort => {
                let every = Duration::from_millis(self.comfort.every.load(Ordering::Relaxed));
                let due = self.after(std::time::Instant::now(), every);
                self.comfort.due.store(due, Ordering::Relaxed);
            }
        }
    }
}

/// A watchdog and what wakes it.
pub(super) struct Alarm {
    watchdog: Arc<Watchdog>,
    timer: Option<Pin<Box<Sleep>>>,
    end: Option<End>,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("watchdog", &self.watchdog).finish_non_exhaustive()
    }
}

impl Alarm {
    /// One without a deadline but for the end of the process, as far as `stage` tells of it.
    pub(super) fn new(stage: Option<watch::Receiver<Stage>>) -> Self {
        Self { watchdog: Arc::new(Watchdog::new()), timer: None, end: stage.map(End::new) }
    }

    /// What sets its deadline.
    pub(super) fn watchdog(&self) -> Arc<Watchdog> {
        Arc::clone(&self.watchdog)
    }

    /// Ready once something is due, which then is over. Moves only when a timer fires, so that a
    /// busy stream pays a store for each chunk, not a timer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Call> {
        let last = self.watchdog.last_step();
        if self.end.as_mut().is_some_and(|end| end.has_come(last, cx)) {
            self.watchdog.cut();
            return Poll::Ready(Call::Expired);
        }
        let Some((due, call)) = self.watchdog.due() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                self.watchdog.done(call);
                return Poll::Ready(call);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// The end of the process.
struct End {
    stage: watch::Receiver<Stage>,
    /// Resolves when the stage moves.
    moving: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    /// Who is woken then, and the step at which that was arranged.
    arranged: Option<(Waker, Step)>,
}

impl End {
    fn new(stage: watch::Receiver<Stage>) -> Self {
        Self { moving: Box::pin(stage::moved(stage.clone())), stage, arranged: None }
    }

    /// Whether the process has come to this step, or further; if not, whoever asks is woken when
    /// it goes on. Connections ask at every turn, so nothing is arranged twice.
    fn has_come(&mut self, last: Step, cx: &mut Context<'_>) -> bool {
        loop {
            let step = self.stage.borrow().step;
            if step >= last {
                return true;
            }
            let arranged = self.arranged.as_ref();
            if arranged.is_some_and(|(waker, at)| *at == step && waker.will_wake(cx.waker())) {
                return false;
            }
            if self.moving.as_mut().poll(cx).is_pending() {
                self.arranged = Some((cx.waker().clone(), step));
                return false;
            }
            self.moving = Box::pin(stage::moved(self.stage.clone()));
        }
    }
}

/// What a request finds on the connection or stream that it came on.
#[derive(Clone)]
pub(super) struct Companions {
    /// Keeps its deadlines.
    pub watchdog: Arc<Watchdog>,
    /// Who came before on the same connection.
    pub last: Arc<Acquaintance>,
}

impl Companions {
    /// Those of this request.
    pub(super) fn of(session: &Session) -> Option<Self> {
        let Some(session) = session.as_downstream().as_http1() else {
            return session.req_header().extensions.get::<Self>().cloned();
        };
        let watched = session.stream().as_any().downcast_ref::<Watched>()?;
        Some(Self { watchdog: watched.watchdog(), last: Arc::clone(&watched.last) })
    }
}

/// A client's connection whose reads end when its watchdog's deadline passes.
pub(super) struct Watched {
    inner: Stream,
    alarm: Alarm,
    aside: Aside,
    last: Arc<Acquaintance>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("alarm", &self.alarm).finish_non_exhaustive()
    }
}

impl Watched {
    /// Wraps a connection.
    pub(super) fn new(inner: Stream, stage: Option<watch::Receiver<Stage>>) -> Self {
        Self { inner, alarm: Alarm::new(stage), aside: Aside::default(), last: Arc::default() }
    }

    /// What sets its deadline.
    pub(super) fn watchdog(&self) -> Arc<Watchdog> {
        self.alarm.watchdog()
    }

    /// Writes what is to be written past Pingora. Ready when nothing is left.
    fn pay(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(owed) = self.aside.owed() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, owed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.aside.paid(written),
            }
        }
        if self.aside.needs_flush() {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.aside.flushed();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(cx, buf) {
                return Poll::Ready(read);
            }
            if let Poll::Ready(Err(error)) = self.pay(cx) {
                return Poll::Ready(Err(error));
            }
            match ready!(self.alarm.poll(cx)) {
                Call::Expired => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Call::Comfort => {
                    let head = self.alarm.watchdog.take_head();
                    self.aside.comfort(head);
                }
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.pay(cx))?;
        if let Some(swallowed) = self.aside.swallow(buf) {
            return Poll::Ready(Ok(swallowed));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.pay(cx))?;
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if let Some(swallowed) = first.and_then(|buf| self.aside.swallow(buf)) {
            return Poll::Ready(Ok(swallowed));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

#[async_trait]
impl Peek for Watched {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Watched {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}
