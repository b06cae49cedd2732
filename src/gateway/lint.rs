//! Looks at a request head's bytes as they were sent, before anything forgives them.
//!
//! Pingora's parser accepts what other servers behind it might read differently: bare line feeds,
//! `Content-Length` beside `Transfer-Encoding`, the same length twice, a missing `Host`. Each of
//! these is a way to smuggle a second request past the one that was checked (RFC 9112, sections
//! 2.2, 3.2 and 6.3, allows to refuse them all).

use std::str;

use http::HeaderMap;
use http::uri::PathAndQuery;

/// Headers that one request may have.
const MOST_HEADERS: usize = 128;
/// The longest method; the longest registered one is half as long.
const LONGEST_METHOD: usize = 32;
/// Names that `Connection` may list. Pingora ends a request with more of them without an answer.
const MOST_NOMINATIONS: usize = 9;
/// Headers that `Connection` must not list: whoever could take them away in front of a server that
/// trusts them would choose what it believes. Pingora refuses the same ones, but without an answer.
const PROTECTED: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("Unsupported HTTP version")]
    Version,
    /// The request line or a header cannot be parsed.
    #[error("Malformed request head")]
    Syntax,
    /// A line ends without carriage return.
    #[error("Malformed line end in request head")]
    LineEnd,
    /// The target is not a path.
    #[error("Request target must be a path")]
    Target,
    /// A header's name has other characters than letters, digits and hyphens.
    #[error("Malformed header name")]
    HeaderName,
    /// More headers than any client sends.
    #[error("Too many headers")]
    TooMany,
    /// More bytes than the configuration allows.
    #[error("Request headers are too large")]
    TooLarge,
    /// Two ways to tell the body's length, one way twice, or one that is no number.
    #[error("Malformed Content-Length")]
    ContentLength,
    /// A transfer coding other than `chunked`.
    #[error("Unsupported Transfer-Encoding")]
    TransferEncoding,
    /// Not exactly one host.
    #[error("Exactly one Host header is required")]
    Host,
    /// A host with other characters than names, addresses and ports are made of.
    #[error("Malformed Host header")]
    HostName,
    /// A list of headers that are not the connection's own.
    #[error("Malformed Connection header")]
    Connection,
}

/// What the head says that an answer needs before anything else is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The method.
    pub method: &'a str,
    /// The target without its query.
    pub path: &'a str,
}

/// Checks a head that ends in an empty line. Returns the length of its body, unless chunks tell it.
pub(super) fn check(head: &[u8]) -> Result<Option<u64>, BadHead> {
    match read(head) {
        // a line that ends oddly may look like anything
        Err(_) if has_odd_line_end(head) => Err(BadHead::LineEnd),
        read => read,
    }
}

/// Checks what came over HTTP/2, whose framing leaves less to doubt: names as over HTTP/1, so that no
/// twin of a header that is trusted passes there, and as many and as large ones.
pub(super) fn check_fields(path: &[u8], headers: &HeaderMap, most: usize) -> Result<(), BadHead> {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    if path.len() + fields.sum::<usize>() > most {
        return Err(BadHead::TooLarge);
    }
    if headers.len() > MOST_HEADERS {
        return Err(BadHead::TooMany);
    }
    match headers.keys().all(|name| is_name(name.as_str().as_bytes())) {
        true => Ok(()),
        false => Err(BadHead::HeaderName),
    }
}

/// No part of a line takes a carriage return, so none is overlooked inside of one.
fn read(head: &[u8]) -> Result<Option<u64>, BadHead> {
    let mut from = 0;
    let mut lines = memchr::memchr_iter(b'\n', head).map(|end| {
        let line = head.get(from..end).and_then(|line| line.strip_suffix(b"\r"));
        from = end + 1;
        line.ok_or(BadHead::LineEnd)
    });
    let version = request_line(lines.next().unwrap_or(Err(BadHead::Syntax))?)?;
    let mut seen = Seen::default();
    while let Some(header) = lines.next() {
        match header? {
            b"" if lines.next().is_none() => break,
            header => seen.read(header)?,
        }
    }
    seen.verdict(version)?;
    Ok((seen.codings == 0).then_some(seen.length))
}

/// What can be read of the request line of a head that is refused; empty where unreadable.
pub(super) fn glance(head: &[u8]) -> Line<'_> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = str::from_utf8(line.trim_suffix_cr()).unwrap_or_default();
    let mut fields = line.split(' ');
    let method = fields.next().filter(|method| is_method(method)).unwrap_or_default();
    let target = fields.next().filter(|target| is_path(target)).unwrap_or_default();
    Line { method, path: without_query(target) }
}

/// The id that a head which is refused gives its request, if it gives one.
pub(super) fn request_id(head: &[u8]) -> Option<&[u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::trim_suffix_cr);
    let mut ids = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_at_checked("x-request-id:".len())?;
        name.eq_ignore_ascii_case(b"x-request-id:").then(|| trimmed(value))
    });
    let id = ids.next()?;
    ids.next().is_none().then_some(id)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn request_line(line: &[u8]) -> Result<Version, BadHead> {
    let line = str::from_utf8(line).map_err(|_| BadHead::Syntax)?;
    let mut fields = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(BadHead::Syntax);
    };
    let version = match version {
        "HTTP/1.1" => Version::Http11,
        "HTTP/1.0" => Version::Http10,
        _ => return Err(BadHead::Version),
    };
    if !is_method(method) {
        return Err(BadHead::Syntax);
    }
    // CONNECT takes a host instead of a path, and Pingora refuses it before any hook
    if !is_path(target) || method == "CONNECT" {
        return Err(BadHead::Target);
    }
    Ok(version)
}

fn is_method(method: &str) -> bool {
    (1..=LONGEST_METHOD).contains(&method.len())
        && method.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// A fragment belongs to no request (RFC 9112, 3.2), and parsers drop it silently. What Pingora's
/// own parser refuses has to be refused here, because there no hook would hear of it.
fn is_path(target: &str) -> bool {
    // what nobody could refuse need not be asked about
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte);
    target.starts_with('/')
        && (target.bytes().all(plain)
            || target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
                && PathAndQuery::try_from(target).is_ok())
}

fn without_query(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

#[derive(Default)]
struct Seen {
    headers: usize,
    length: u64,
    lengths: usize,
    codings: usize,
    hosts: usize,
    nominations: usize,
}

impl Seen {
    fn read(&mut self, header: &[u8]) -> Result<(), BadHead> {
        self.headers += 1;
        if self.headers > MOST_HEADERS {
            return Err(BadHead::TooMany);
        }
        let colon = memchr::memchr(b':', header).ok_or(BadHead::Syntax)?;
        let (name, value) = header.split_at_checked(colon).ok_or(BadHead::Syntax)?;
        let value = trimmed(value.get(1..).unwrap_or_default());
        // an underscore twin of a header we trust would pass unseen to servers that fold both
        if name.is_empty() || !is_name(name) {
            return Err(BadHead::HeaderName);
        }
        if !is_value(value) {
            return Err(BadHead::Syntax);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            self.length = number(value).ok_or(BadHead::ContentLength)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadHead::TransferEncoding);
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            self.hosts += usize::from(!value.is_empty()) + usize::from(value.is_empty()) * 2;
            if !value.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte)) {
                return Err(BadHead::HostName);
            }
        } else if name.eq_ignore_ascii_case(b"connection") {
            return self.read_nominations(value);
        }
        Ok(())
    }

    fn read_nominations(&mut self, value: &[u8]) -> Result<(), BadHead> {
        let names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        for name in names.filter(|name| !name.is_empty()) {
            self.nominations += 1;
            let is_name = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
            let is_protected =
                PROTECTED.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()));
            if !is_name || is_protected || self.nominations > MOST_NOMINATIONS {
                return Err(BadHead::Connection);
            }
        }
        Ok(())
    }

    fn verdict(&self, version: Version) -> Result<(), BadHead> {
        if self.lengths + self.codings > 1 {
            return Err(BadHead::ContentLength);
        }
        if version == Version::Http10 && self.codings > 0 {
            return Err(BadHead::TransferEncoding);
        }
        // HTTP/1.0 has no Host, and load testers still speak it
        let required = usize::from(version == Version::Http11);
        if self.hosts < required || self.hosts > 1 { Err(BadHead::Host) } else { Ok(()) }
    }
}

/// A carriage return without a line feed behind it, or a line feed without one before it.
fn has_odd_line_end(head: &[u8]) -> bool {
    let mut rest = head;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        let Some(behind) = rest.get(at..).and_then(|end| end.strip_prefix(b"\r\n")) else {
            return true;
        };
        rest = behind;
    }
    false
}

/// Digits alone, and so few that they fit.
fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, byte: &u8| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    };
    (1..=18).contains(&digits.len()).then(|| digits.iter().try_fold(0, add)).flatten()
}

/// Whether a head would have the connection speak something else, so that nobody can tell what the
/// bytes behind its body are.
pub(super) fn asks_for_upgrade(head: &[u8]) -> bool {
    let name = b"upgrade:";
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.any(|line| line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name)))
}

/// Whether a line of what has come of a head ends in a line feed alone: its end may never come.
pub(super) fn has_bare_feed(head: &[u8]) -> bool {
    let mut feeds = memchr::memchr_iter(b'\n', head);
    feeds.any(|at| at.checked_sub(1).and_then(|before| head.get(before)) != Some(&b'\r'))
}

/// Letters, digits and hyphens. Every byte of every head is judged, so each costs one look into a
/// table.
fn is_name(bytes: &[u8]) -> bool {
    const NAMES: [bool; 256] = {
        let mut names = [false; 256];
        let mut byte = 0_u8;
        loop {
            // a constant cannot be built with an iterator
            #[expect(clippy::indexing_slicing, reason = "a byte is always within 256 places")]
            {
                names[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-';
            }
            if byte == u8::MAX {
                break names;
            }
            byte += 1;
        }
    };
    bytes.iter().all(|byte| NAMES.get(usize::from(*byte)).copied().unwrap_or_default())
}

/// Without the space around it, which is blanks and tabs alone (RFC 9110, 5.6.3).
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Anything but control characters; without a way out, so that many bytes are judged at once.
fn is_value(bytes: &[u8]) -> bool {
    let control = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    bytes.iter().fold(0, |any, byte| any | u8::from(control(*byte))) == 0
}

trait TrimSuffix {
    fn trim_suffix_cr(&self) -> &[u8];
}

impl TrimSuffix for [u8] {
    fn trim_suffix_cr(&self) -> &[u8] {
        self.strip_suffix(b"\r").unwrap_or(self)
    }
}

#[cfg(test)]
mod tests;
