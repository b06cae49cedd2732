//! HTTP/1.1 as bytes on a socket: a test says exactly what it sends and sees exactly what came.
//!
//! [`Request`] is the comfortable way, [`Exchange`] follows one answer as it arrives, [`Wire`] is
//! the bare connection. Every wait has a deadline; passing it fails the test.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;

/// How long a single wait may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A request that is being put together.
#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Request {
    /// A request without headers of its own but for `Host`.
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            address,
            method: method.into(),
            path: path.into(),
            headers: vec![("Host".into(), address.to_string())],
            body: Vec::new(),
            chunked: false,
        }
    }

    /// Adds a header line.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Presents an API key in `X-API-Key`.
    pub fn key(self, key: &str) -> Self {
        self.header("X-API-Key", key)
    }

    /// Presents a credential in `Authorization: Bearer`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// The body, with its `Content-Length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// Sends the body as one chunk of a chunked one.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// The bytes that go over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            out += &format!("{name}: {value}\r\n");
        }
        let framing = match (self.chunked, self.body.len(), self.method.as_str()) {
            (true, ..) => "Transfer-Encoding: chunked\r\n".into(),
            (false, 0, "GET" | "HEAD" | "OPTIONS") => String::new(),
            (false, length, _) => format!("Content-Length: {length}\r\n"),
        };
        let mut out = (out + &framing + "\r\n").into_bytes();
        if self.chunked {
            out.extend(chunked(&[&self.body]));
        } else {
            out.extend(&self.body);
        }
        out
    }

    /// Sends it on a connection of its own and waits for the whole answer.
    pub fn send(&self) -> Answer {
        self.open().rest()
    }

    /// Sends it, if there is somebody to answer; an answer that is cut short is none.
    pub fn attempt(&self) -> Option<Answer> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        let mut wire = Wire { stream, received: Vec::new() };
        wire.try_send(&self.bytes()).ok()?;
        let answer = Exchange::try_begin(wire, &self.method).ok()?.rest();
        answer.cut.is_none().then_some(answer)
    }

    /// Sends it on a connection of its own and waits for the head of the answer.
    pub fn open(&self) -> Exchange {
        self.start().exchange(&self.method)
    }

    /// Sends it on a connection of its own and waits for nothing.
    pub fn start(&self) -> Wire {
        let mut wire = Wire::connect(self.address);
        // an answer may come, and the connection close, before a large body is out
        wire.try_send(&self.bytes()).ok();
        wire
    }
}

/// `pieces` as a chunked body, one chunk each.
pub fn chunked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        out.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        out.extend(*piece);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

/// A connection, driven byte by byte.
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        stream.set_nodelay(true).expect("a fresh socket takes options");
        stream.set_write_timeout(Some(PATIENCE)).expect("a fresh socket takes options");
        Self { stream, received: Vec::new() }
    }

    /// Sends these bytes; the other side must take them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes.as_ref()).expect("the other side reads");
        self
    }

    /// Sends these bytes, if the other side takes them.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends `bytes` in pieces of `size`, `pause` apart, for as long as the other side takes them.
    pub fn dribble(
        &mut self,
        bytes: &[u8],
        size: usize,
        pause: Duration,
    ) -> std::io::Result<&mut Self> {
        for piece in bytes.chunks(size) {
            self.try_send(piece)?;
            std::thread::sleep(pause);
        }
        Ok(self)
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn half_close(&mut self) -> &mut Self {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
        self
    }

    /// Leaves as a killed client does: a reset instead of a farewell.
    pub fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("an open socket takes options");
    }

    /// Waits for the head of the answer to a request with this method.
    pub fn exchange(self, method: &str) -> Exchange {
        Exchange::begin(self, method)
    }

    /// Waits for the whole answer to a request with this method, and keeps the connection.
    pub fn answer(&mut self, method: &str) -> Answer {
        let wire = Self {
            stream: self.stream.try_clone().expect("descriptors are left"),
            received: std::mem::take(&mut self.received),
        };
        let mut exchange = wire.exchange(method);
        while exchange.chunk().is_some() {}
        self.received = std::mem::take(&mut exchange.wire.received);
        exchange.into_answer()
    }

    /// The next line of an answer, without its end, for those who want to see it as it came.
    pub fn next_line(&mut self) -> String {
        self.line().unwrap_or_else(|error| panic!("no line: {error}"))
    }

    /// Whether the other side closes, within `limit`, without another byte.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        let before = self.received.len();
        matches!(self.fill(Instant::now() + limit), Ok(0)) && self.received.len() == before
    }

    /// Whatever the other side has sent when it closes or `limit` is over.
    pub fn drain(&mut self, limit: Duration) -> Vec<u8> {
        let until = Instant::now() + limit;
        while matches!(self.fill(until), Ok(1..)) {}
        std::mem::take(&mut self.received)
    }

    /// Reads what is there; `Ok(0)` is the end.
    fn fill(&mut self, until: Instant) -> std::io::Result<usize> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        self.received.extend(&buffer[..count]);
        Ok(count)
    }

    /// The next line without its end, once it is there.
    fn line(&mut self) -> Result<String, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.received.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|error| error.to_string());
            }
            self.more(until)?;
        }
    }

    fn more(&mut self, until: Instant) -> Result<(), String> {
        match self.fill(until) {
            Ok(0) => Err("the connection was closed".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// One answer as it arrives.
pub struct Exchange {
    /// Status.
    pub status: u16,
    /// Header lines in the order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Interim statuses before it, such as 100.
    pub interim: Vec<u16>,
    wire: Wire,
    framing: Framing,
    chunks: Vec<Chunk>,
    cut: Option<String>,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// When it was there in full.
    pub at: Instant,
    /// What it held.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
enum Framing {
    Chunked,
    Length(usize),
    UntilClose,
    Done,
}

impl Exchange {
    fn begin(wire: Wire, method: &str) -> Self {
        let begun = Self::try_begin(wire, method);
        begun.unwrap_or_else(|error| panic!("no answer to {method}: {error}"))
    }

    fn try_begin(mut wire: Wire, method: &str) -> Result<Self, String> {
        let mut interim = Vec::new();
        let (status, headers) = loop {
            let (status, headers) = head(&mut wire)?;
            if status >= 200 {
                break (status, headers);
            }
            interim.push(status);
        };
        let framing = framing(method, status, &headers);
        Ok(Self { status, headers, interim, wire, framing, chunks: Vec::new(), cut: None })
    }

    /// The next piece of the body; `None` at its end, whole or cut.
    pub fn chunk(&mut self) -> Option<Chunk> {
        if self.cut.is_some() {
            return None;
        }
        match self.piece() {
            Ok(piece) => {
                let chunk = piece.map(|bytes| Chunk { at: Instant::now(), bytes })?;
                self.chunks.push(chunk.clone());
                Some(chunk)
            }
            Err(error) => {
                self.cut = Some(error);
                None
            }
        }
    }

    /// Waits for the rest.
    pub fn rest(mut self) -> Answer {
        while self.chunk().is_some() {}
        self.into_answer()
    }

    /// Leaves in the middle, by a close.
    pub fn leave(self) {
        self.wire.stream.shutdown(Shutdown::Both).ok();
    }

    /// Leaves in the middle, by a reset.
    pub fn reset(self) {
        self.wire.reset();
    }

    fn piece(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self.framing {
            Framing::Chunked => {
                let line = self.wire.line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(|error| error.to_string())?;
                let bytes = self.take(size)?;
                let after = self.wire.line()?;
                if !after.is_empty() {
                    return Err(format!("{after:?} after a chunk"));
                }
                if size == 0 {
                    self.framing = Framing::Done;
                    return Ok(None);
                }
                Ok(Some(bytes))
            }
            Framing::Length(length) => {
                self.framing = Framing::Done;
                self.take(length).map(Some)
            }
            Framing::UntilClose => {
                let until = Instant::now() + PATIENCE;
                let end = self.wire.received.is_empty()
                    && self.wire.fill(until).map_err(|error| error.to_string())? == 0;
                Ok((!end).then(|| std::mem::take(&mut self.wire.received)))
            }
            Framing::Done => Ok(None),
        }
    }

    fn take(&mut self, size: usize) -> Result<Vec<u8>, String> {
        let until = Instant::now() + PATIENCE;
        while self.wire.received.len() < size {
            self.wire.more(until)?;
        }
        Ok(self.wire.received.drain(..size).collect())
    }

    fn into_answer(self) -> Answer {
        let body = self.chunks.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect();
        Answer {
            status: self.status,
            headers: self.headers,
            interim: self.interim,
            body,
            chunks: self.chunks,
            cut: self.cut,
        }
    }
}

/// An answer that is over.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Header lines in the order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Interim statuses before it, such as 100.
    pub interim: Vec<u16>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// The body as it came.
    pub chunks: Vec<Chunk>,
    /// Why the body is not whole, if it is not.
    pub cut: Option<String>,
}

impl Answer {
    /// The value of a header, if it came exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        single(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?} ({})", self.text(), self.status))
    }

    /// The body as NDJSON, one value a line.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
        self.text().lines().map(parse).collect()
    }

    /// The `data:` of a server-sent stream, in order.
    pub fn events(&self) -> Vec<String> {
        self.text().lines().filter_map(|line| line.strip_prefix("data: ").map(Into::into)).collect()
    }

    /// The `detail` of a refusal.
    pub fn detail(&self) -> String {
        let body = self.json();
        let detail = body["detail"].as_str();
        detail.unwrap_or_else(|| panic!("no detail in {body}")).to_owned()
    }
}

fn head(wire: &mut Wire) -> Result<(u16, Vec<(String, String)>), String> {
    let line = wire.line()?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("{line:?} is no status line"))?;
    let mut headers = Vec::new();
    loop {
        let line = wire.line()?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("header {line:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn framing(method: &str, status: u16, headers: &[(String, String)]) -> Framing {
    if method == "HEAD" || matches!(status, 204 | 304) {
        return Framing::Done;
    }
    if single(headers, "transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        return Framing::Chunked;
    }
    let length = single(headers, "content-length").and_then(|value| value.parse().ok());
    length.map_or(Framing::UntilClose, Framing::Length)
}

fn single<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter(|(each, _)| each.eq_ignore_ascii_case(name));
    let (_, value) = found.next()?;
    assert!(found.next().is_none(), "{name} came twice");
    Some(value)
}
