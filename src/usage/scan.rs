//! JSON that arrives in pieces: a few members are shown as they pass, the rest is skipped.
//!
//! Answers can be megabytes of embeddings or one line with a whole conversation in it, so nothing
//! is kept but the current path and the current word. It is no validator: what is not JSON yields
//! little or nothing, and disturbs nobody.

use memchr::memchr2;

/// Members worth a name; all others are "".
const NAMES: [&str; 16] = [
    "usage",
    "message",
    "response",
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "prompt_eval_count",
    "eval_count",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "total_duration",
    "done",
    "type",
    "error",
];

/// Members worth opening.
const OPENED: [&str; 3] = ["usage", "message", "response"];

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
    /// The members that lead here; as long as `depth` once the innermost has been named.
    path: Vec<&'static str>,
    /// The innermost object's member is named: its value is next or has passed.
    named: bool,
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
        self.path.clear();
        self.named = false;
        self.closed = false;
    }

    /// Reads the next piece and shows each member of interest with its path.
    pub(super) fn push(&mut self, piece: &[u8], show: &mut impl FnMut(&[&str], &Value<'_>)) {
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.at {
                At::Between => {
                    self.begin(byte, show);
                    behind
                }
                At::Text { escaped } => self.text(escaped, rest, show),
                At::Bare => self.bare(rest, show),
                At::Skipped { nest, string: true, escaped } => {
                    self.skip_string(nest, escaped, rest)
                }
                At::Skipped { nest, string: false, .. } => self.skip(nest, rest),
            };
        }
    }

    fn begin(&mut self, byte: u8, show: &mut impl FnMut(&[&str], &Value<'_>)) {
        match byte {
            b'"' => {
                self.word.clear();
                self.at = At::Text { escaped: false };
            }
            b'{' | b'[' => {
                self.show(show, &Value::Opening);
                if byte == b'{' && self.opens() {
                    self.depth += 1;
                    self.named = false;
                } else {
                    self.at = At::Skipped { nest: 1, string: false, escaped: false };
                }
            }
            b'}' if self.depth > 0 => {
                self.depth -= 1;
                self.path.truncate(self.depth);
                self.named = true;
                self.closed |= self.depth == 0;
            }
            b',' => self.named = false,
            b':' | b' ' | b'\t' | b'\r' | b'\n' | b'}' | b']' => {}
            _ => {
                self.word.clear();
                self.word.push(byte);
                self.at = At::Bare;
            }
        }
    }

    /// Whether an object that begins here is worth looking into.
    fn opens(&self) -> bool {
        let member = self.path.last().filter(|_| self.named);
        match self.depth {
            0 => !self.closed,
            depth => depth < DEPTH && member.is_some_and(|member| OPENED.contains(member)),
        }
    }

    fn text<'p>(
        &mut self,
        escaped: bool,
        piece: &'p [u8],
        show: &mut impl FnMut(&[&str], &Value<'_>),
    ) -> &'p [u8] {
        let (inside, end) = string_part(escaped, piece);
        let (word, behind) = piece.split_at_checked(inside).unwrap_or_default();
        self.keep(word);
        match end {
            End::Piece { escaped } => self.at = At::Text { escaped },
            End::String => {
                self.at = At::Between;
                self.text_ends(show);
            }
        }
        behind
    }

    fn text_ends(&mut self, show: &mut impl FnMut(&[&str], &Value<'_>)) {
        self.word.pop(); // the quote
        if self.depth == 0 {
            return;
        }
        if self.named {
            self.show(show, &Value::Text(&self.word));
            return;
        }
        let known = NAMES.iter().find(|name| name.as_bytes() == self.word);
        self.path.truncate(self.depth - 1);
        self.path.push(known.copied().unwrap_or_default());
        self.named = true;
    }

    fn bare<'p>(
        &mut self,
        piece: &'p [u8],
        show: &mut impl FnMut(&[&str], &Value<'_>),
    ) -> &'p [u8] {
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let inside = piece.iter().position(ends).unwrap_or(piece.len());
        let (word, behind) = piece.split_at_checked(inside).unwrap_or_default();
        self.keep(word);
        if !behind.is_empty() {
            self.at = At::Between;
            self.show(show, &Value::Bare(&self.word));
        }
        behind
    }

    /// Keeps of a longer word one byte too many (and its quote), so that it equals no shorter one.
    fn keep(&mut self, part: &[u8]) {
        let room = (WORD + 2).saturating_sub(self.word.len());
        self.word.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn show(&self, show: &mut impl FnMut(&[&str], &Value<'_>), value: &Value<'_>) {
        let wanted = self.path.last().is_some_and(|member| !member.is_empty());
        if self.named && self.depth > 0 && wanted {
            show(&self.path, value);
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
