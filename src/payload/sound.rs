//! JSON that is known to be sound, walked over without a parser.
//!
//! One pass finds out whether a text is JSON (RFC 8259), a second one finds its members, and both
//! leap over strings, of which bodies mostly consist. What is not sound is `serde_json`'s to
//! explain, and the tests hold the two together.

use super::quote::quote_or_escape;

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A value.
    Value,
    /// A value, or the end of the array that has just begun.
    FirstElement,
    /// A name.
    Name,
    /// A name, or the end of the object that has just begun.
    FirstName,
    /// What separates values, or the end of what they are in.
    Behind,
}

/// Whether this is one JSON value and nothing else, nested 127 levels deep at most.
pub(super) fn is_sound(text: &[u8]) -> bool {
    check(text).is_some()
}

fn check(text: &[u8]) -> Option<()> {
    /// A bit a level, of which the lowest belongs to the innermost; set for objects.
    const DEEPEST: u32 = 127;
    let (mut levels, mut depth) = (0_u128, 0_u32);
    let mut next = Next::Value;
    let mut rest = text;
    loop {
        rest = behind_space(rest);
        let Some((byte, behind)) = rest.split_first() else {
            return (next == Next::Behind && depth == 0).then_some(());
        };
        let in_object = levels & 1 == 1;
        (next, rest) = match (next, byte) {
            (Next::Value | Next::FirstElement, b'{' | b'[') if depth < DEEPEST => {
                let object = *byte == b'{';
                (levels, depth) = (levels << 1 | u128::from(object), depth + 1);
                (if object { Next::FirstName } else { Next::FirstElement }, behind)
            }
            (Next::Value | Next::FirstElement, b'"') => (Next::Behind, behind_string(behind)?),
            (Next::FirstElement | Next::Behind, b']') if depth > 0 && !in_object => {
                (levels, depth) = (levels >> 1, depth - 1);
                (Next::Behind, behind)
            }
            (Next::FirstName | Next::Behind, b'}') if in_object => {
                (levels, depth) = (levels >> 1, depth - 1);
                (Next::Behind, behind)
            }
            (Next::FirstName | Next::Name, b'"') => {
                let colon = behind_space(behind_string(behind)?);
                (Next::Value, colon.strip_prefix(b":")?)
            }
            (Next::Behind, b',') if depth > 0 => {
                (if in_object { Next::Name } else { Next::Value }, behind)
            }
            (Next::Value | Next::FirstElement, _) => (Next::Behind, behind_word(rest)?),
            _ => return None,
        };
    }
}

fn behind_space(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let space = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    text.get(space..).unwrap_or_default()
}

/// What follows the string that `text` begins in, if it has an end and nothing that strings must
/// not have.
fn behind_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let (inside, end) = text.split_at_checked(quote_or_escape(text)?)?;
        // without a way out, so that many bytes are judged at once
        if inside.iter().fold(0, |control, byte| control | u8::from(*byte < b' ')) != 0 {
            return None;
        }
        text = match end {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'u', code @ ..] => {
                let (digits, behind) = code.split_at_checked(4)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(behind)?
            }
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', behind @ ..] => behind,
            _ => return None,
        };
    }
}

/// What follows `true`, `false`, `null` or a number.
fn behind_word(text: &[u8]) -> Option<&[u8]> {
    for word in [&b"true"[..], b"false", b"null"] {
        if let Some(behind) = text.strip_prefix(word) {
            return Some(behind);
        }
    }
    let whole = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = match whole {
        [b'0', behind @ ..] => behind,
        _ => behind_digits(whole)?,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = behind_digits(fraction)?;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let digits = match exponent {
            [b'+' | b'-', digits @ ..] => digits,
            digits => digits,
        };
        rest = behind_digits(digits)?;
    }
    Some(rest)
}

/// What follows one digit or more.
fn behind_digits(text: &[u8]) -> Option<&[u8]> {
    let digits = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.get(digits..).filter(|_| digits > 0)
}

/// The members of an object, or the elements of an array, in a text that is sound.
pub(super) struct Members<'a> {
    text: &'a str,
    named: bool,
    at: usize,
}

/// The name as written, quotes included, and empty for an element; and the value as written.
pub(super) type Member<'a> = (&'a str, &'a str);

impl<'a> Members<'a> {
    /// Those of this object or array.
    pub(super) fn of(text: &'a str) -> Self {
        let mut members = Self { text, named: false, at: 0 };
        members.skip_space();
        members.named = members.byte() == Some(b'{');
        members.at += 1;
        members
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.byte().is_some_and(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Goes behind the string that begins here.
    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(rest) = self.text.as_bytes().get(self.at..)
            && let Some(found) = quote_or_escape(rest)
        {
            let escape = rest.get(found) == Some(&b'\\');
            self.at += found + 1 + usize::from(escape);
            if !escape {
                return;
            }
        }
    }

    /// Goes behind the value that begins here.
    fn skip_value(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    self.skip_string();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 1 => depth -= 1,
                b'}' | b']' => {
                    // the end of this value, or of what it is in
                    self.at += depth;
                    return;
                }
                b',' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn since(&self, start: usize) -> Option<&'a str> {
        self.text.get(start..self.at)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        self.skip_space();
        if matches!(self.byte()?, b'}' | b']') {
            return None;
        }
        let start = self.at;
        if self.named {
            self.skip_string();
        }
        let name = self.since(start)?;
        if self.named {
            self.skip_space();
            self.at += 1;
            self.skip_space();
        }
        let start = self.at;
        self.skip_value();
        let value = self.since(start)?;
        self.skip_space();
        if self.byte() == Some(b',') {
            self.at += 1;
        }
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, value::RawValue};

    use super::*;

    fn is_json(text: &str) -> bool {
        serde_json::from_str::<&RawValue>(text).is_ok()
    }

    #[rustfmt::skip]
    const TEXTS: &[&str] = &[
        "", " ", "{}", "[]", " [ ] ", "{ }", "1", "01", "-", "-0", "-0.0", "1.", "1.5e", "1E+9",
        "+1", ".5", "1e05", "true", "tru", "truefalse", "nul", "null ", "\"", "\"a\"", "\"\\\"",
        "\"\\x\"", "\"\\u00e9\"", "\"\\u00eg\"", "\"\\ud800\"", "\"\\u12\"", "\"\t\"",
        "\"\u{7f}\"", "[1,2]", "[1,]", "[,1]", "[1 2]", "[1}", "{\"a\":1}", "{\"a\" : 1 }",
        "{\"a\":1,}", "{\"a\"}", "{\"a\":}", "{a:1}", "{1:1}", "{\"a\":1]", "{}{}", "{},", "[[]]",
        "[[}]", "\u{feff}{}", "{\"a\":[{\"b\":[]}],\"c\":null}", "]", "}", ",", ":", "{\"a\",1}",
        "[1:2]",
    ];

    #[test]
    fn what_is_sound_is_what_serde_json_takes() {
        for text in TEXTS {
            assert_eq!(is_sound(text.as_bytes()), is_json(text), "{text:?}");
        }
    }

    #[test]
    fn depth_is_bounded_where_others_stop() {
        let nested =
            |open: &str, close: &str, depth| open.repeat(depth) + "1" + &close.repeat(depth);
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            assert!(is_sound(nested(open, close, 127).as_bytes()));
            assert!(!is_sound(nested(open, close, 128).as_bytes()));
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,30}".prop_map(Value::from),
            r#"[\\"{}\[\],: \n]{0,9}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(".{0,8}", inner, 0..6)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_sound_and_so_is_nothing_that_serde_json_refuses(
            value in json(), pretty: bool, at: prop::sample::Index, byte in r#"[{}\[\]",:\\0-9eE.+\- truefalsn\n]"#,
        ) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&value),
                false => serde_json::to_string(&value),
            };
            let text = text.expect("a value can be written");
            prop_assert!(is_sound(text.as_bytes()), "{}", text);
            // one character more, less, or another
            let place = at.index(text.len());
            if let (Some(before), Some(after)) = (text.get(..place), text.get(place..)) {
                let mut rest = after.chars();
                rest.next();
                for other in [
                    format!("{before}{byte}{after}"),
                    format!("{before}{byte}{}", rest.as_str()),
                    format!("{before}{}", rest.as_str()),
                ] {
                    prop_assert_eq!(is_sound(other.as_bytes()), is_json(&other), "{}", other);
                }
            }
        }

        #[test]
        fn members_are_those_that_serde_json_finds(value in json(), pretty: bool) {
            let text = match pretty {
                true => format!(" {}\n", serde_json::to_string_pretty(&value).expect("JSON")),
                false => serde_json::to_string(&value).expect("JSON"),
            };
            let expected: Vec<(String, String)> = match value {
                Value::Object(_) => {
                    let all: std::collections::BTreeMap<String, &RawValue> =
                        serde_json::from_str(&text).expect("an object");
                    let raw = |(name, value): (String, &RawValue)| {
                        (serde_json::to_string(&name).expect("a text"), value.get().to_owned())
                    };
                    all.into_iter().map(raw).collect()
                }
                Value::Array(_) => {
                    let all: Vec<&RawValue> = serde_json::from_str(&text).expect("an array");
                    all.into_iter().map(|value| (String::new(), value.get().to_owned())).collect()
                }
                _ => return Ok(()),
            };
            let mut found: Vec<_> =
                Members::of(&text).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            if text.trim_start().starts_with('{') {
                found.sort_by(|a, b| {
                    let name = |it: &(String, String)| -> String {
                        serde_json::from_str(&it.0).expect("a name")
                    };
                    name(a).cmp(&name(b))
                });
            }
            prop_assert_eq!(found, expected);
        }
    }
}
