//! The writer: compact, escaped as Go's `json.Marshal` does.

use std::fmt::{self, Display, Formatter, Write};

use super::Json;

impl Display for Json {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(set) => write!(out, "{set}"),
            Self::Num(digits) => out.write_str(digits),
            Self::Str(text) => quoted(text, out),
            Self::List(items) => {
                out.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    write!(out, "{}{item}", comma(i))?;
                }
                out.write_char(']')
            }
            Self::Map(entries) => {
                out.write_char('{')?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    out.write_str(comma(i))?;
                    quoted(key, out)?;
                    write!(out, ":{value}")?;
                }
                out.write_char('}')
            }
        }
    }
}

const fn comma(index: usize) -> &'static str {
    if index == 0 { "" } else { "," }
}

fn quoted(text: &str, out: &mut Formatter<'_>) -> fmt::Result {
    out.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..' ' => {
                write!(out, "\\u{:04x}", u32::from(letter))?;
            }
            plain => out.write_char(plain)?,
        }
    }
    out.write_char('"')
}
