//! Cutting out of an OpenAI stream the usage that the client had not asked for.
//!
//! With `include_usage` Ollama sends one more event, `"choices":[]` with the counts, before
//! `[DONE]`; on `/v1/completions` it also puts a `usage` of zeros on every other event, and other
//! servers put `"usage":null` there. Without it there is none of these, and none is what remains.

use std::{mem, ops::Range};

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter, memmem::Finder};

use crate::payload::walk;

/// An event whose end is this many bytes away is not waited for.
const HELD: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Cutter {
    /// The beginning of an event whose blank line has not come.
    held: BytesMut,
    /// The current event is too long to be held: its rest passes.
    passing: bool,
    line: Line,
    usage: Finder<'static>,
}

/// What the current line has so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Nothing,
    Return,
    Text,
}

impl Default for Cutter {
    fn default() -> Self {
        Self {
            held: BytesMut::new(),
            passing: false,
            line: Line::Nothing,
            usage: Finder::new(r#""usage""#),
        }
    }
}

impl Cutter {
    pub(super) fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.is_dull(&chunk) {
            return chunk;
        }
        let mut out = Vec::new();
        let mut rest = chunk;
        while let Some(end) = self.event_end(&rest) {
            let end = rest.split_to(end);
            if mem::take(&mut self.passing) {
                out.push(end);
            } else {
                let event = self.whole(end);
                self.cut(event, &mut out);
            }
        }
        self.hold(rest, &mut out);
        joined(out)
    }

    pub(super) fn finish(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        let event = self.whole(Bytes::new());
        self.cut(event, &mut out);
        Some(joined(out)).filter(|out| !out.is_empty())
    }

    /// Whole events without usage: nearly every chunk of a chat.
    fn is_dull(&self, chunk: &[u8]) -> bool {
        self.held.is_empty()
            && !self.passing
            && self.line == Line::Nothing
            && (chunk.ends_with(b"\n\n") || chunk.ends_with(b"\n\r\n"))
            && self.usage.find(chunk).is_none()
    }

    /// Where the current event ends in `bytes`, its blank line included.
    fn event_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut from = 0;
        for end in memchr_iter(b'\n', bytes) {
            let line = self.line.and(bytes.get(from..end).unwrap_or_default());
            self.line = Line::Nothing;
            from = end + 1;
            if line != Line::Text {
                return Some(from);
            }
        }
        self.line = self.line.and(bytes.get(from..).unwrap_or_default());
        None
    }

    fn whole(&mut self, end: Bytes) -> Bytes {
        if self.held.is_empty() {
            return end;
        }
        self.held.extend_from_slice(&end);
        self.held.split().freeze()
    }

    fn hold(&mut self, part: Bytes, out: &mut Vec<Bytes>) {
        if part.is_empty() {
            return;
        }
        if self.passing {
            out.push(part);
            return;
        }
        self.held.extend_from_slice(&part);
        if self.held.starts_with(b":") && part.contains(&b'\n') {
            let mut begun = self.held.split().freeze();
            pass_comments(&mut begun, out);
            self.held.extend_from_slice(&begun);
        }
        if self.held.len() > HELD {
            self.passing = true;
            out.push(self.held.split().freeze());
        }
    }

    fn cut(&self, mut event: Bytes, out: &mut Vec<Bytes>) {
        pass_comments(&mut event, out);
        let verdict = self.usage.find(&event).and_then(|_| judge(&event));
        match verdict {
            None => out.push(event),
            Some(Verdict::Drop) => {}
            Some(Verdict::Cut(range)) => {
                out.push(event.slice(..range.start));
                out.push(event.slice(range.end..));
            }
        }
    }
}

impl Line {
    fn and(self, more: &[u8]) -> Self {
        match (self, more) {
            (so_far, b"") => so_far,
            (Self::Nothing, b"\r") => Self::Return,
            _ => Self::Text,
        }
    }
}

/// Comments before an event pass at once: they are heartbeats, and no part of what may be cut.
fn pass_comments(event: &mut Bytes, out: &mut Vec<Bytes>) {
    while event.starts_with(b":")
        && let Some(end) = memchr(b'\n', event)
    {
        out.push(event.split_to(end + 1));
    }
}

enum Verdict {
    /// The event is there for its usage alone.
    Drop,
    /// The member, with one of the commas around it.
    Cut(Range<usize>),
}

/// None where there is nothing to be cut, or nothing is understood.
fn judge(event: &[u8]) -> Option<Verdict> {
    let (start, json) = data(event)?;
    let mut usage = None;
    let mut counts = false;
    let mut no_choices = false;
    let mut previous = None;
    walk::each_field(json, |field| {
        let end = field.start + field.value.len();
        match &*field.name {
            "usage" => {
                counts = field.value.starts_with('{');
                usage = Some((previous, end));
            }
            "choices" => no_choices = walk::is_empty_array(field.value),
            _ => {}
        }
        previous = Some(end);
        Ok(())
    })
    .ok()?;
    let (previous, end) = usage?;
    if no_choices && counts {
        return Some(Verdict::Drop);
    }
    let range = match previous {
        Some(previous) => previous..end,
        None => 1..end + following_comma(json.get(end..)?),
    };
    Some(Verdict::Cut(start + range.start..start + range.end))
}

/// The event's only data line, if it is an object, and where it begins.
fn data(event: &[u8]) -> Option<(usize, &str)> {
    let event = std::str::from_utf8(event).ok()?;
    let mut lines = event.split('\n').filter_map(|line| line.strip_prefix("data:"));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let json = line.trim_ascii();
    let start = json.as_ptr().addr() - event.as_ptr().addr();
    json.starts_with('{').then_some((start, json))
}

/// Up to and with the comma that follows, if one does.
fn following_comma(behind: &str) -> usize {
    let trimmed = behind.trim_ascii_start();
    match trimmed.starts_with(',') {
        true => behind.len() - trimmed.len() + 1,
        false => 0,
    }
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 | 1 => parts.pop().unwrap_or_default(),
        _ => parts.concat().into(),
    }
}
