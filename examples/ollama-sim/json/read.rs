//! The reader: one value from the front of some bytes.

use super::Json;
use crate::refusal::Refusal;

/// Go stops at 10,000; this reader recurses, so it stops earlier.
const MAX_DEPTH: usize = 500;

/// Reads the first value; what follows it is ignored, as Go's stream decoder does.
pub(crate) fn parse(bytes: &[u8]) -> Result<Json, Refusal> {
    let mut reader = Reader { rest: bytes, depth: 0 };
    reader.space();
    if reader.rest.is_empty() {
        return Err(Refusal::bad("missing request body"));
    }
    reader.value()
}

struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

type Read<T> = Result<T, Refusal>;

impl Reader<'_> {
    fn value(&mut self) -> Read<Json> {
        self.space();
        match self.peek()? {
            b'{' => self.nested(Self::map),
            b'[' => self.nested(Self::list),
            b'"' => self.string().map(Json::Str),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'n' => self.word("null", Json::Null),
            b'-' | b'0'..=b'9' => self.number(),
            other => Err(unexpected(other, "looking for beginning of value")),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Read<Json>) -> Read<Json> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Refusal::bad("exceeded max depth"));
        }
        self.next()?;
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn map(&mut self) -> Read<Json> {
        let mut entries = Vec::new();
        self.space();
        if self.peek()? == b'}' {
            self.next()?;
            return Ok(Json::Map(entries));
        }
        loop {
            self.space();
            let key = match self.peek()? {
                b'"' => self.string()?,
                other => {
                    return Err(unexpected(other, "looking for beginning of object key string"));
                }
            };
            self.space();
            match self.next()? {
                b':' => entries.push((key, self.value()?)),
                other => return Err(unexpected(other, "after object key")),
            }
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Ok(Json::Map(entries)),
                other => return Err(unexpected(other, "after object key:value pair")),
            }
        }
    }

    fn list(&mut self) -> Read<Json> {
        let mut items = Vec::new();
        self.space();
        if self.peek()? == b']' {
            self.next()?;
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            match self.next()? {
                b',' => {}
                b']' => return Ok(Json::List(items)),
                other => return Err(unexpected(other, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Read<String> {
        self.next()?;
        let mut out = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Ok(String::from_utf8_lossy(&out).into_owned()),
                b'\\' => self.escape(&mut out)?,
                control @ 0..0x20 => return Err(unexpected(control, "in string literal")),
                byte => out.push(byte),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Read<()> {
        let plain = match self.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            same @ (b'"' | b'\\' | b'/') => same,
            b'u' => {
                let letter = self.unicode()?;
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            other => return Err(unexpected(other, "in string escape code")),
        };
        out.push(plain);
        Ok(())
    }

    /// A `\u` escape; half a surrogate pair becomes U+FFFD.
    fn unicode(&mut self) -> Read<char> {
        let high = self.hex()?;
        if !(0xd800..0xdc00).contains(&high) || !self.rest.starts_with(b"\\u") {
            return Ok(char::from_u32(high).unwrap_or('\u{fffd}'));
        }
        let before = self.rest;
        self.next()?;
        self.next()?;
        let low = self.hex()?;
        if (0xdc00..0xe000).contains(&low) {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
        }
        self.rest = before;
        Ok('\u{fffd}')
    }

    fn hex(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.next()?;
            let value = char::from(digit)
                .to_digit(16)
                .ok_or_else(|| unexpected(digit, "in \\u hexadecimal character escape"))?;
            code = code * 16 + value;
        }
        Ok(code)
    }

    fn number(&mut self) -> Read<Json> {
        let digits = self.rest;
        let len = digits
            .iter()
            .take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .count();
        let (number, rest) = digits.split_at(len);
        self.rest = rest;
        let text = String::from_utf8_lossy(number).into_owned();
        match text.parse::<f64>() {
            Ok(_) => Ok(Json::Num(text)),
            Err(_) => Err(Refusal::bad("invalid character in numeric literal")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Read<Json> {
        for expected in word.bytes() {
            let found = self.next()?;
            if found != expected {
                return Err(unexpected(found, &format!("in literal {word}")));
            }
        }
        Ok(value)
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn peek(&self) -> Read<u8> {
        self.rest.first().copied().ok_or_else(|| Refusal::bad("unexpected EOF"))
    }

    fn next(&mut self) -> Read<u8> {
        let (first, rest) =
            self.rest.split_first().ok_or_else(|| Refusal::bad("unexpected EOF"))?;
        self.rest = rest;
        Ok(*first)
    }
}

fn unexpected(byte: u8, context: &str) -> Refusal {
    Refusal::bad(format!("invalid character '{}' {context}", char::from(byte).escape_default()))
}
