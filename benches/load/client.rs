//! The load: keep-alive connections, closed loop and open loop, and streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use crate::backend::{MODEL, nanoseconds};

/// Nothing that is asked for here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where to send requests, and with which key.
#[derive(Clone)]
pub struct Target {
    /// What listens there.
    pub address: SocketAddr,
    /// The credential that each request shows.
    pub key: String,
    /// What makes TLS of a connection, if that is what is spoken there.
    pub tls: Option<TlsConnector>,
}

impl Target {
    /// A chat request whose prompt has about this many bytes.
    pub fn chat(&self, prompt: usize) -> Arc<[u8]> {
        self.post(&"why is the sky blue? ".repeat(prompt.div_ceil(21)), false)
    }

    /// A request for a stream of this many tokens, one every `gap`.
    pub fn stream(&self, tokens: u32, gap: Duration) -> Arc<[u8]> {
        self.post(&format!("tokens={tokens} gap={}", gap.as_millis()), true)
    }

    fn post(&self, prompt: &str, stream: bool) -> Arc<[u8]> {
        let body = format!(
            r#"{{"model":"{MODEL}","stream":{stream},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
        );
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nHost: {}\r\nUser-Agent: ollama-python/0.6.1 (x86_64 linux)\r\n\
             Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
             Content-Type: application/json\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            self.key,
            body.len()
        );
        (head + &body).into_bytes().into()
    }
}

/// What bytes go through.
trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Pipe for S {}

/// One keep-alive connection.
pub struct Wire {
    stream: Box<dyn Pipe>,
    bytes: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(target.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Pipe> = match &target.tls {
            Some(tls) => {
                let name = ServerName::from(target.address.ip());
                Box::new(tls.connect(name, stream).await.context("handshake")?)
            }
            None => Box::new(stream),
        };
        Ok(Self { stream, bytes: Vec::with_capacity(8192) })
    }

    /// Sends a request and reads its whole answer, which must be a 200.
    pub async fn ask(&mut self, request: &[u8]) -> Result<()> {
        timeout(PATIENCE, self.exchange(request)).await.context("no answer in time")?
    }

    /// Sends a request and reads its whole answer, whatever its status is.
    pub async fn status(&mut self, request: &[u8]) -> Result<u16> {
        timeout(PATIENCE, self.any(request)).await.context("no answer in time")?
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        let end = self.head(request).await?;
        self.rest(end).await
    }

    async fn any(&mut self, request: &[u8]) -> Result<u16> {
        let end = self.any_head(request).await?;
        let status = self.bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        let status = status.and_then(|digits| digits.parse().ok()).context("no status line")?;
        self.rest(end).await?;
        Ok(status)
    }

    /// Reads what is missing of a body behind a head that ends there.
    async fn rest(&mut self, end: usize) -> Result<()> {
        let head = self.bytes.get(..end).unwrap_or_default();
        let length = content_length(head).context("the answer has no Content-Length")?;
        while self.bytes.len() < end + length {
            ensure!(self.stream.read_buf(&mut self.bytes).await? > 0, "cut off in the body");
        }
        Ok(())
    }

    /// Sends a request and reads the head of its answer, a 200; returns where that ends.
    async fn head(&mut self, request: &[u8]) -> Result<usize> {
        let end = self.any_head(request).await?;
        if !self.bytes.starts_with(b"HTTP/1.1 200") {
            bail!("not a 200: {}", String::from_utf8_lossy(&self.bytes));
        }
        Ok(end)
    }

    async fn any_head(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request).await?;
        // of TLS a part may wait in memory
        self.stream.flush().await?;
        self.bytes.clear();
        loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
                return Ok(end + 4);
            }
            ensure!(self.stream.read_buf(&mut self.bytes).await? > 0, "cut off in the head");
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

/// A stream that is being read.
pub struct Streaming {
    wire: Wire,
    sent_at: u64,
    /// What belongs to a token whose rest is not here yet.
    carry: Vec<u8>,
    ended: bool,
}

/// When a token came: after its request, and after it was sent, in nanoseconds.
pub struct Arrival {
    pub since_request: u64,
    pub since_sent: u64,
}

impl Streaming {
    /// Opens a connection, sends the request, reads the answer's head.
    pub async fn open(target: &Target, request: &[u8]) -> Result<Self> {
        let mut wire = Wire::open(target).await?;
        let sent_at = nanoseconds();
        let end = timeout(PATIENCE, wire.head(request)).await.context("no head in time")??;
        let carry = wire.bytes.split_off(end);
        Ok(Self { wire, sent_at, carry, ended: false })
    }

    /// The tokens that come next; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Arrival>> {
        loop {
            let found = self.tokens();
            if !found.is_empty() || self.ended {
                return Ok(found);
            }
            let read = self.wire.stream.read_buf(&mut self.carry);
            ensure!(timeout(PATIENCE, read).await?? > 0, "cut off in the stream");
        }
    }

    /// Reads to the end.
    pub async fn finish(&mut self) -> Result<()> {
        while !self.ended {
            self.next().await?;
        }
        Ok(())
    }

    fn tokens(&mut self) -> Vec<Arrival> {
        let now = nanoseconds();
        let mut found = Vec::new();
        let mut read = 0;
        for at in memchr::memchr_iter(b'@', &self.carry) {
            let Some(digits) = self.carry.get(at + 1..at + 20) else { break };
            read = at + 20;
            let sent = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
            found.push(Arrival {
                since_request: now.saturating_sub(self.sent_at),
                since_sent: now.saturating_sub(sent.unwrap_or(now)),
            });
        }
        self.carry.drain(..read);
        self.ended = self.carry.ends_with(b"0\r\n\r\n");
        found
    }
}

/// Asks as fast as answers come, on this many connections; returns the requests that were
/// answered and the time that it took.
pub async fn closed_loop(
    target: &Target,
    request: &Arc<[u8]>,
    connections: usize,
    bound: Bound,
) -> Result<(u64, Duration)> {
    let asked = Arc::new(AtomicU64::new(0));
    let mut wires = Vec::new();
    for _ in 0..connections {
        wires.push(Wire::open(target).await?);
    }
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for mut wire in wires {
        let (asked, request) = (Arc::clone(&asked), Arc::clone(request));
        workers.spawn(async move {
            let mut answered = 0_u64;
            while bound.allows(asked.fetch_add(1, Ordering::Relaxed), begun) {
                wire.ask(&request).await?;
                answered += 1;
            }
            anyhow::Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(done) = workers.join_next().await {
        answered += done??;
    }
    Ok((answered, begun.elapsed()))
}

/// How long a closed loop goes on.
#[derive(Clone, Copy)]
pub enum Bound {
    /// So many requests.
    Requests(u64),
    /// So long.
    Time(Duration),
}

impl Bound {
    fn allows(self, asked: u64, begun: Instant) -> bool {
        match self {
            Self::Requests(most) => asked < most,
            Self::Time(most) => begun.elapsed() < most,
        }
    }
}

/// Asks at a steady rate, whatever the answers do; returns the latencies in nanoseconds, counted
/// from when a request was due.
pub async fn open_loop(
    target: &Target,
    request: &Arc<[u8]>,
    rate: u32,
    time: Duration,
) -> Result<Vec<u64>> {
    const LANES: u32 = 16;
    let begun = Instant::now() + Duration::from_millis(20);
    let step = Duration::from_secs(1) / rate;
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let mut wire = Wire::open(target).await?;
        let request = Arc::clone(request);
        lanes.spawn(async move {
            let mut latencies = Vec::new();
            let mut number = lane;
            loop {
                let due = begun + step * number;
                if due > begun + time {
                    return anyhow::Ok(latencies);
                }
                sleep_until(due).await;
                wire.ask(&request).await?;
                latencies.push(u64::try_from(due.elapsed().as_nanos())?);
                number += LANES;
            }
        });
    }
    let mut all = Vec::new();
    while let Some(done) = lanes.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}
