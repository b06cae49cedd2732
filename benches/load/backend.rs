//! The instance behind every proxy: answers at once, always the same, so that the proxies are what
//! is measured.
//!
//! A body that says `tokens=N gap=D` (D in milliseconds) gets a stream of N lines, one every D;
//! each carries the time at which it was sent.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// The one model of the bench.
pub const MODEL: &str = "bench:latest";

const ANSWER: &str = r#"{"model":"bench:latest","created_at":"2026-01-01T00:00:00.000000000Z","message":{"role":"assistant","content":"Light is scattered by molecules that are much smaller than its wavelength, and the more so the shorter that is."},"done":true,"done_reason":"stop","total_duration":4883583458,"load_duration":1334875,"prompt_eval_count":26,"prompt_eval_duration":342546000,"eval_count":24,"eval_duration":4535599000}"#;
const LAST_LINE: &str = r#"{"model":"bench:latest","created_at":"2026-01-01T00:00:00.000000000Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":26,"eval_count":24}"#;
const LONGEST_HEAD: usize = 16 * 1024;

/// Serves until it is killed.
pub async fn run(addresses: Vec<SocketAddr>) -> Result<()> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(TcpListener::bind(address).await?);
    }
    let serving = listeners.into_iter().map(|listener| tokio::spawn(accept(listener)));
    for server in serving.collect::<Vec<_>>() {
        server.await??;
    }
    Ok(())
}

async fn accept(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // a client that leaves is no error
        tokio::spawn(async move { serve(stream).await.ok() });
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    let answers = Answers::new();
    let mut bytes = Vec::with_capacity(LONGEST_HEAD);
    let mut rest = vec![0; 64 * 1024];
    loop {
        bytes.clear();
        let end = loop {
            if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
                break end + 4;
            }
            if bytes.len() > LONGEST_HEAD || stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let (head, body) = bytes.split_at(end);
        let mut missing = content_length(head).saturating_sub(body.len());
        let mut wish = Stream::read(body);
        while missing > 0 {
            let count = stream.read(&mut rest).await?;
            if count == 0 {
                return Ok(());
            }
            missing = missing.saturating_sub(count);
            wish = wish.or_else(|| Stream::read(rest.get(..count).unwrap_or_default()));
        }
        match wish {
            Some(wish) => wish.write(&mut stream).await?,
            None => stream.write_all(answers.to(head)).await?,
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head);
    let line = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    line.unwrap_or_default()
}

struct Answers {
    chat: Vec<u8>,
    version: Vec<u8>,
    tags: Vec<u8>,
    running: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let details = r#""details":{"format":"gguf","family":"llama","families":["llama"],"parameter_size":"3.2B","quantization_level":"Q4_K_M"}"#;
        let model = format!(r#""name":"{MODEL}","model":"{MODEL}","size":1,"digest":"00"#);
        Self {
            chat: whole(ANSWER),
            version: whole(r#"{"version":"0.13.0"}"#),
            tags: whole(&format!(
                r#"{{"models":[{{{model}","modified_at":"2026-01-01T00:00:00Z",{details}}}]}}"#
            )),
            running: whole(&format!(
                r#"{{"models":[{{{model}","expires_at":"2036-01-01T00:00:00Z","size_vram":1,{details}}}]}}"#
            )),
        }
    }

    fn to(&self, head: &[u8]) -> &[u8] {
        match head {
            head if head.starts_with(b"GET /api/version") => &self.version,
            head if head.starts_with(b"GET /api/tags") => &self.tags,
            head if head.starts_with(b"GET /api/ps") => &self.running,
            _ => &self.chat,
        }
    }
}

fn whole(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[derive(Clone, Copy)]
struct Stream {
    tokens: u32,
    gap: Duration,
}

impl Stream {
    fn read(body: &[u8]) -> Option<Self> {
        let at = memchr::memmem::find(body, b"tokens=")?;
        let text = std::str::from_utf8(body.get(at..(at + 40).min(body.len()))?).ok()?;
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let tokens = words.nth(1)?.parse().ok()?;
        let gap = words.nth(1)?.parse().ok()?;
        Some(Self { tokens, gap: Duration::from_millis(gap) })
    }

    async fn write(self, stream: &mut TcpStream) -> Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                    Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let begun = Instant::now();
        for number in 0..self.tokens {
            sleep_until(begun + self.gap * number).await;
            let line = format!(
                "{{\"model\":\"{MODEL}\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\
                 \"message\":{{\"role\":\"assistant\",\"content\":\"@{}\"}},\"done\":false}}\n",
                nanoseconds()
            );
            stream.write_all(&chunk(&line)).await?;
        }
        let mut last = chunk(&format!("{LAST_LINE}\n"));
        last.extend_from_slice(b"0\r\n\r\n");
        Ok(stream.write_all(&last).await?)
    }
}

fn chunk(line: &str) -> Vec<u8> {
    format!("{:x}\r\n{line}\r\n", line.len()).into_bytes()
}

/// The machine's clock, which its processes share, in nanoseconds: always 19 digits.
pub fn nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}
