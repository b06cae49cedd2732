//! Server-sent events, of which only the `data` is read: every dialect says there what it means.

use memchr::{memchr, memmem::Finder};

use super::{Counts, Format, scan::Scan};

/// As long as the longest line that is compared whole, `data: [DONE]`, and one more.
const HEAD: usize = 13;

#[derive(Debug)]
pub(super) struct Events {
    /// Of the event's data, lines joined.
    scan: Scan,
    /// The current line's first bytes.
    head: Vec<u8>,
    /// The current line is data.
    data: bool,
    /// One of these stands in each chunk that says something.
    words: Vec<Finder<'static>>,
}

impl Events {
    pub(super) fn new(format: Format) -> Self {
        let words: &[&str] = match format {
            Format::SseOpenAi => &[r#""usage""#, "[DONE]", r#""error""#],
            Format::SseAnthropic => &[r#""usage""#, "message_stop", r#""error""#],
            _ => &["response.completed", "response.incomplete", "response.failed", r#""error""#],
        };
        Self {
            scan: Scan::default(),
            head: Vec::with_capacity(HEAD),
            data: false,
            words: words.iter().map(Finder::new).collect(),
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8], counts: &mut Counts) {
        if self.is_dull(chunk) {
            return;
        }
        let mut rest = chunk;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, behind) = rest.split_at_checked(end + 1).unwrap_or_default();
            self.piece(line, counts);
            self.end_line(counts);
            rest = behind;
        }
        self.piece(rest, counts);
    }

    /// The last line may lack its end.
    pub(super) fn finish(&mut self, counts: &mut Counts) {
        self.end_line(counts);
    }

    /// Whole events without a word of interest: nearly every chunk of a stream.
    fn is_dull(&self, chunk: &[u8]) -> bool {
        self.head.is_empty()
            && self.scan.is_fresh()
            && (chunk.ends_with(b"\n\n") || chunk.ends_with(b"\r\n\r\n"))
            && self.words.iter().all(|word| word.find(chunk).is_none())
    }

    fn piece(&mut self, piece: &[u8], counts: &mut Counts) {
        let mut data = piece;
        if !self.data {
            let known = self.head.len();
            self.head.extend(piece.iter().take(HEAD.saturating_sub(known)));
            self.data = self.head.starts_with(b"data:");
            data = piece.get(b"data:".len().saturating_sub(known)..).unwrap_or_default();
        } else {
            let room = HEAD.saturating_sub(self.head.len());
            self.head.extend(piece.iter().take(room));
        }
        if self.data {
            self.scan.push(data, &mut |path, value| counts.learn(path, value));
        }
    }

    fn end_line(&mut self, counts: &mut Counts) {
        match self.head.trim_ascii_end() {
            b"" => self.scan.reset(),
            b"data: [DONE]" | b"data:[DONE]" => counts.finished = true,
            _ => {}
        }
        self.head.clear();
        self.data = false;
    }
}
