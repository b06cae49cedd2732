//! Walking over JSON without building it: names and raw values, in the order of the bytes.

use std::{borrow::Cow, collections::HashSet, fmt, iter};

use memchr::memchr2;
use serde::{
    Deserialize, Deserializer as _,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::BadPayload;

/// What `serde_json` builds at most; it does not count while it skips, so [`object`] does.
pub(crate) const MAX_DEPTH: usize = 127;

/// Bounds what is remembered to find duplicates.
pub(crate) const MAX_FIELDS: usize = 1024;

/// Shown of a name in an error, in characters.
const SHOWN: usize = 64;

/// A member of an object.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    /// Its name, escapes decoded.
    pub(crate) name: Cow<'a, str>,
    /// Its value as written, without the whitespace around it.
    pub(crate) value: &'a str,
    /// Where the value begins, in bytes from the beginning of the text walked over.
    pub(crate) start: usize,
}

impl Field<'_> {
    pub(crate) fn must_be(&self, meant: &'static str) -> BadPayload {
        let field = shown(&self.name);
        BadPayload::Type { field, meant }
    }

    /// A value's first character tells its type.
    pub(crate) fn starts_with(&self, first: char, meant: &'static str) -> Result<(), BadPayload> {
        let starts = self.value.starts_with(first);
        starts.then_some(()).ok_or_else(|| self.must_be(meant))
    }
}

/// The text of a body that begins as an object and is not too deep; [`each_field`] checks the rest.
pub(crate) fn object(body: &[u8]) -> Result<&str, BadPayload> {
    let text = std::str::from_utf8(body).map_err(|_| BadPayload::NotUtf8)?;
    match text.trim_ascii_start().bytes().next() {
        None => Err(BadPayload::Empty),
        Some(b'{') if is_deep(body) => Err(BadPayload::TooDeep),
        Some(b'{') => Ok(text),
        Some(_) => Err(BadPayload::NotObject),
    }
}

/// Shows `visit` every member of the object in `text`, which ends with it. Names that appear twice
/// are refused after decoding: `"\u006dodel"` is `model`.
pub(crate) fn each_field<'a>(
    text: &'a str,
    mut visit: impl FnMut(Field<'a>) -> Result<(), BadPayload>,
) -> Result<(), BadPayload> {
    let mut seen = HashSet::new();
    each(text, |name: Option<Cow<'a, str>>, value: &'a str| {
        let name = name.unwrap_or_default();
        if !seen.insert(name.clone()) {
            return Err(BadPayload::Twice(shown(&name)));
        }
        if seen.len() > MAX_FIELDS {
            return Err(BadPayload::TooManyFields);
        }
        // `value` is a part of `text`: the distance of their addresses is its place
        let start = value.as_ptr().addr() - text.as_ptr().addr();
        visit(Field { name, value, start })
    })
}

/// Shows `visit` every element of the array in `text`, as written.
pub(crate) fn each_element<'a>(
    text: &'a str,
    mut visit: impl FnMut(&'a str) -> Result<(), BadPayload>,
) -> Result<(), BadPayload> {
    each(text, |_, value| visit(value))
}

/// Whether the value is an array of nothing.
pub(crate) fn is_empty_array(json: &str) -> bool {
    let inner = json.strip_prefix('[').and_then(|json| json.strip_suffix(']'));
    inner.is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// Refuses a name that is one of `known` to a reader that folds letter case, but not to all.
///
/// Go folds by Unicode's simple folding, in which exactly two characters from beyond ASCII meet
/// ASCII letters: the long s (U+017F) and the Kelvin sign (U+212A).
pub(crate) fn spelling(name: &str, known: &[&'static str]) -> Result<(), BadPayload> {
    let folded = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    let meant = match name.is_ascii() {
        true => known.iter().find(|meant| name.eq_ignore_ascii_case(meant)),
        false => known.iter().find(|meant| name.chars().map(folded).eq(meant.chars())),
    };
    match meant {
        Some(meant) if *meant != name => {
            let found = shown(name);
            Err(BadPayload::Spelling { found, meant })
        }
        _ => Ok(()),
    }
}

/// A client's own name, fit for a message: short and without control characters.
pub(crate) fn shown(name: &str) -> String {
    let short = name.chars().take(SHOWN).flat_map(char::escape_debug);
    match name.chars().nth(SHOWN) {
        None => short.collect(),
        Some(_) => short.chain(iter::once('…')).collect(),
    }
}

/// The visitor below, with its refusals carried around `serde_json`'s own errors.
fn each<'a>(
    text: &'a str,
    visit: impl FnMut(Option<Cow<'a, str>>, &'a str) -> Result<(), BadPayload>,
) -> Result<(), BadPayload> {
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let walk = Walk { visit, refused: &mut refused };
    let walked = json.deserialize_any(walk).and_then(|()| json.end());
    walked.map_err(|error| refused.unwrap_or_else(|| BadPayload::NotJson(error.to_string())))
}

struct Walk<'w, F> {
    visit: F,
    refused: &'w mut Option<BadPayload>,
}

impl<F> Walk<'_, F> {
    fn step<'a, E: serde::de::Error>(
        &mut self,
        name: Option<Cow<'a, str>>,
        value: &'a RawValue,
    ) -> Result<(), E>
    where
        F: FnMut(Option<Cow<'a, str>>, &'a str) -> Result<(), BadPayload>,
    {
        (self.visit)(name, value.get()).map_err(|flaw| {
            *self.refused = Some(flaw);
            E::custom("refused")
        })
    }
}

impl<'de, F> Visitor<'de> for Walk<'_, F>
where
    F: FnMut(Option<Cow<'de, str>>, &'de str) -> Result<(), BadPayload>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            self.step(Some(name), map.next_value()?)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element()? {
            self.step(None, value)?;
        }
        Ok(())
    }
}

/// Borrowed unless escapes had to be decoded.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn is_deep(json: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' if depth == MAX_DEPTH => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => bytes = behind_string(bytes.as_slice()).iter(),
            _ => {}
        }
    }
    false
}

/// What follows the closing quote of the string that `rest` begins in.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let escape = rest.get(at) == Some(&b'\\');
        rest = rest.get(at + 1 + usize::from(escape)..).unwrap_or_default();
        if !escape {
            return rest;
        }
    }
    &[]
}
