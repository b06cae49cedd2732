//! JSON that arrives in pieces: a few members are shown as they pass, the rest is skipped.
//!
//! Answers can be megabytes of embeddings or one line with a whole conversation in it, so nothing
//! is kept but the current path and the current word. It is no validator: what is not JSON yields
//! little or nothing, and disturbs nobody.

use memchr::memchr2;

/// Members worth a name; all others are [`Name::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Name {
    Usage,
    Message,
    Response,
    PromptTokens,
    CompletionTokens,
    InputTokens,
    OutputTokens,
    PromptEvalCount,
    EvalCount,
    LoadDuration,
    PromptEvalDuration,
    EvalDuration,
    TotalDuration,
    Done,
    Type,
    Error,
    #[default]
    Other,
}

impl Name {
    fn of(word: &[u8]) -> Self {
        match word {
            b"usage" => Self::Usage,
            b"message" => Self::Message,
            b"response" => Self::Response,
            b"prompt_tokens" => Self::PromptTokens,
            b"completion_tokens" => Self::CompletionTokens,
            b"input_tokens" => Self::InputTokens,
            b"output_tokens" => Self::OutputTokens,
            b"prompt_eval_count" => Self::PromptEvalCount,
            b"eval_count" => Self::EvalCount,
            b"load_duration" => Self::LoadDuration,
            b"prompt_eval_duration" => Self::PromptEvalDuration,
            b"eval_duration" => Self::EvalDuration,
            b"total_duration" => Self::TotalDuration,
            b"done" => Self::Done,
            b"type" => Self::Type,
            b"error" => Self::Error,
            _ => Self::Other,
        }
    }

    /// Whether an object of this name is worth opening.
    fn is_opened(self) -> bool {
        matches!(self, Self::Usage | Self::Message | Self::Response)
    }
}

/// Deepest path: `response.usage.input_tokens`.
const DEPTH: usize = 3;

/// Longer words are none that anybody here wants: names, numbers, types.
const WORD: usize = 32;

/// A member's value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number, `true`, `false` or `null`, as written.
    Bare(&'a [u8]),
    /// A string, as written; of a longer one its first 33 bytes.
    Text(&'a [u8]),
    /// The beginning of an object or array.
    Opening,
}

impl Value<'_> {
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Bare(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }
}

/// Where in the text the last piece ended.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: At,
    /// Objects open, the root included.
    depth: usize,
    /// The members that lead here, `depth` of them once the innermost has been named.
    path: [Name; DEPTH],
    /// The innermost object's member is named: its value is next or has passed.
    named: bool,
    /// What came of a word whose end is in the next piece.
    word: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum At {
    #[default]
    Between,
    Text {
        escaped: bool,
    },
    Bare,
    /// In something of no interest, `nest` brackets deep.
    Skipped {
        nest: usize,
        string: bool,
        escaped: bool,
    },
}

impl Scan {
    /// Nothing read, or nothing but whitespace.
    pub(super) fn is_fresh(&self) -> bool {
        self.depth == 0 && !self.closed && matches!(self.at, At::Between)
    }

    /// The root object was closed.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.at = At::Between;
        self.depth = 0;
        self.named = false;
        self.closed = false;
    }

    /// Reads the next piece and shows each member of interest with its path.
    pub(super) fn push(&mut self, piece: &[u8], show: &mut impl FnMut(&[Name], &Value<'_>)) {
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.at {
                At::Between => match byte {
                    b'"' => self.text(false, behind, show),
                    b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' | b']' => {
                        self.named &= byte != b',';
                        behind
                    }
                    b'{' | b'[' | b'}' => {
                        self.bracket(byte, show);
                        behind
                    }
                    _ => self.bare(rest, show),
                },
                At::Text { escaped } => self.text(escaped, rest, show),
                At::Bare => self.bare(rest, show),
                At::Skipped { nest, string: true, escaped } => {
                    self.skip_string(nest, escaped, rest)
                }
                At::Skipped { nest, string: false, .. } => self.skip(nest, rest),
            };
        }
    }

    fn bracket(&mut self, byte: u8, show: &mut impl FnMut(&[Name], &Value<'_>)) {
        if byte == b'}' {
            if let Some(depth) = self.depth.checked_sub(1) {
                self.depth = depth;
                self.named = true;
                self.closed |= depth == 0;
            }
            return;
        }
        self.show(show, &Value::Opening);
        if byte == b'{' && self.opens() {
            self.depth += 1;
            self.named = false;
        } else {
            self.at = At::Skipped { nest: 1, string: false, escaped: false };
        }
    }

    /// Whether an object that begins here is worth looking into.
    fn opens(&self) -> bool {
        match self.depth {
            0 => !self.closed,
            depth => depth < DEPTH && self.named && self.member().is_opened(),
        }
    }

    /// The innermost member that was named.
    fn member(&self) -> Name {
        let innermost = self.depth.checked_sub(1).and_then(|last| self.path.get(last));
        innermost.copied().unwrap_or_default()
    }

    /// The rest of a string, or of what a piece has of it.
    fn text<'p>(
        &mut self,
        escaped: bool,
        piece: &'p [u8],
        show: &mut impl FnMut(&[Name], &Value<'_>),
    ) -> &'p [u8] {
        let (inside, end) = string_part(escaped, piece);
        let (part, behind) = piece.split_at_checked(inside).unwrap_or_default();
        match end {
            End::Piece { escaped } => {
                self.at = At::Text { escaped };
                self.keep(part);
            }
            End::String => {
                self.at = At::Between;
                let part = part.strip_suffix(b"\"").unwrap_or(part);
                self.end(part, show, Self::text_ends);
            }
        }
        behind
    }

    fn text_ends(&mut self, word: &[u8], show: &mut impl FnMut(&[Name], &Value<'_>)) {
        if self.named {
            self.show(show, &Value::Text(cut(word)));
        } else if let Some(place) = self.depth.checked_sub(1).and_then(|i| self.path.get_mut(i)) {
            *place = Name::of(word);
            self.named = true;
        }
    }

    fn bare<'p>(
        &mut self,
        piece: &'p [u8],
        show: &mut impl FnMut(&[Name], &Value<'_>),
    ) -> &'p [u8] {
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let inside = piece.iter().position(ends).unwrap_or(piece.len());
        let (part, behind) = piece.split_at_checked(inside).unwrap_or_default();
        if behind.is_empty() {
            self.at = At::Bare;
            self.keep(part);
        } else {
            self.at = At::Between;
            self.end(part, show, |scan, word, show| scan.show(show, &Value::Bare(cut(word))));
        }
        behind
    }

    /// Keeps what the next piece may complete; of a longer word no more than tells it from others.
    fn keep(&mut self, part: &[u8]) {
        let room = (WORD + 1).saturating_sub(self.word.len());
        self.word.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    /// A word has ended, with what was kept of it before `part`.
    fn end<S: FnMut(&[Name], &Value<'_>)>(
        &mut self,
        part: &[u8],
        show: &mut S,
        ends: impl FnOnce(&mut Self, &[u8], &mut S),
    ) {
        if self.word.is_empty() {
            return ends(self, part, show);
        }
        self.keep(part);
        let word = std::mem::take(&mut self.word);
        ends(self, &word, show);
        self.word = word;
        self.word.clear();
    }

    fn show(&self, show: &mut impl FnMut(&[Name], &Value<'_>), value: &Value<'_>) {
        if self.named && self.member() != Name::Other {
            show(self.path.get(..self.depth).unwrap_or_default(), value);
        }
    }

    fn skip_string<'p>(&mut self, nest: usize, escaped: bool, piece: &'p [u8]) -> &'p [u8] {
        let (inside, end) = string_part(escaped, piece);
        self.at = match end {
            End::Piece { escaped } => At::Skipped { nest, string: true, escaped },
            End::String => At::Skipped { nest, string: false, escaped: false },
        };
        piece.get(inside..).unwrap_or_default()
    }

    fn skip<'p>(&mut self, mut nest: usize, piece: &'p [u8]) -> &'p [u8] {
        let mut bytes = piece.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'{' | b'[' => nest += 1,
                b'}' | b']' => nest -= 1,
                b'"' => {
                    self.at = At::Skipped { nest, string: true, escaped: false };
                    return bytes.as_slice();
                }
                _ => {}
            }
            if nest == 0 {
                self.at = At::Between;
                return bytes.as_slice();
            }
        }
        self.at = At::Skipped { nest, string: false, escaped: false };
        &[]
    }
}

/// Of a longer word one byte too many, so that it equals no shorter one.
fn cut(word: &[u8]) -> &[u8] {
    word.get(..=WORD).unwrap_or(word)
}

/// How a string's part in a piece ended.
enum End {
    Piece { escaped: bool },
    String,
}

/// The length of the part of `piece` that belongs to the string it begins in, its quote included.
fn string_part(mut escaped: bool, piece: &[u8]) -> (usize, End) {
    let mut from = usize::from(escaped && !piece.is_empty());
    escaped &= piece.is_empty();
    while let Some(at) = piece.get(from..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        let at = from + at;
        if piece.get(at) == Some(&b'"') {
            return (at + 1, End::String);
        }
        from = at + 2;
        escaped = from > piece.len();
    }
    (piece.len(), End::Piece { escaped })
}
