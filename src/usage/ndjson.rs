//! A JSON object a line, of which the last holds the counts.

use memchr::{memchr_iter, memmem::Finder};

use super::{Counts, scan::Scan};

#[derive(Debug)]
pub(super) struct Lines {
    scan: Scan,
    /// What a line with `"done": true` has, and few others.
    truth: Finder<'static>,
    error: Finder<'static>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { scan: Scan::default(), truth: Finder::new("true"), error: Finder::new(r#""error""#) }
    }
}

impl Lines {
    pub(super) fn push(&mut self, chunk: &[u8], counts: &mut Counts) {
        if self.is_dull(chunk) {
            return;
        }
        let mut from = 0;
        for end in memchr_iter(b'\n', chunk) {
            self.scan(chunk.get(from..=end), counts);
            self.scan.reset();
            from = end + 1;
        }
        self.scan(chunk.get(from..), counts);
    }

    /// Whole lines without a word of interest: nearly every chunk of a stream.
    fn is_dull(&self, chunk: &[u8]) -> bool {
        self.scan.is_fresh()
            && chunk.ends_with(b"\n")
            && self.truth.find(chunk).is_none()
            && self.error.find(chunk).is_none()
    }

    fn scan(&mut self, piece: Option<&[u8]>, counts: &mut Counts) {
        let piece = piece.unwrap_or_default();
        self.scan.push(piece, &mut |path, value| counts.learn(path, value));
    }
}
