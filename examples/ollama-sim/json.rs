//! JSON as Go's `encoding/json` reads and writes it.
//!
//! Keys match whatever their case, the last duplicate wins, `null` leaves a plain field as it was,
//! bytes after the first value are ignored, and `<`, `>`, `&` leave escaped.

mod read;
mod write;

pub(crate) use read::parse;

use crate::refusal::Refusal;

/// A JSON value that keeps the order and the duplicates of its keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// The digits as they were written.
    Num(String),
    Str(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// Builds a [`Json::Map`] in the order written.
macro_rules! map {
    ($($key:expr => $value:expr),* $(,)?) => {
        $crate::json::Json::Map(vec![$(($key.to_string(), $crate::json::Json::from($value))),*])
    };
}
pub(crate) use map;

impl Json {
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    pub(crate) fn number(&self) -> Option<f64> {
        if let Self::Num(digits) = self { digits.parse().ok() } else { None }
    }

    pub(crate) fn list(&self) -> &[Self] {
        if let Self::List(items) = self { items } else { &[] }
    }

    pub(crate) fn entries(&self) -> &[(String, Self)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    /// The last value under `key`, `null` included.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().rev().find(|(k, _)| same_key(k, key)).map(|(_, v)| v)
    }

    /// The last value under `key` that is not `null`: a Go field that is no pointer.
    pub(crate) fn plain(&self, key: &str) -> Option<&Self> {
        let hit = |(k, v): &&(String, Self)| same_key(k, key) && *v != Self::Null;
        self.entries().iter().rev().find(hit).map(|(_, v)| v)
    }

    pub(crate) fn string(&self, key: &str) -> Result<String, Refusal> {
        match self.plain(key) {
            None => Ok(String::new()),
            Some(Self::Str(text)) => Ok(text.clone()),
            Some(other) => Err(mismatch(other, key, "string")),
        }
    }

    /// A `*bool`: absent and `null` are both unset.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.get(key) {
            None | Some(Self::Null) => Ok(None),
            Some(Self::Bool(set)) => Ok(Some(*set)),
            Some(other) => Err(mismatch(other, key, "bool")),
        }
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, Refusal> {
        match self.plain(key) {
            None => Ok(None),
            Some(Self::Num(digits)) if digits.parse::<i64>().is_ok() => Ok(digits.parse().ok()),
            Some(other) => Err(mismatch(other, key, "int")),
        }
    }

    /// A Go map: duplicates of the key are merged, entry by entry.
    pub(crate) fn merged(&self, key: &str) -> Result<Self, Refusal> {
        let mut all = Vec::new();
        for (_, value) in self.entries().iter().filter(|(k, _)| same_key(k, key)) {
            match value {
                Self::Map(entries) => all.extend(entries.iter().cloned()),
                Self::Null => all.clear(),
                other => return Err(mismatch(other, key, "map[string]interface {}")),
            }
        }
        Ok(Self::Map(all))
    }

    /// The map without the entries that Go's `omitempty` leaves out.
    pub(crate) fn without_empty(self) -> Self {
        let Self::Map(mut entries) = self else { return self };
        entries.retain(|(_, value)| match value {
            Self::Null => false,
            Self::Str(text) => !text.is_empty(),
            Self::Num(digits) => digits != "0",
            Self::List(items) => !items.is_empty(),
            Self::Bool(_) | Self::Map(_) => true,
        });
        Self::Map(entries)
    }

    pub(crate) fn push(&mut self, key: &str, value: impl Into<Self>) {
        if let Self::Map(entries) = self {
            entries.push((key.to_owned(), value.into()));
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Num(_) => "number",
            Self::Str(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }
}

fn mismatch(found: &Json, key: &str, wanted: &str) -> Refusal {
    let kind = found.kind();
    Refusal::bad(format!(
        "json: cannot unmarshal {kind} into Go struct field .{key} of type {wanted}"
    ))
}

/// Go folds keys by Unicode's simple folding, which brings two foreign letters home to ASCII.
fn same_key(written: &str, field: &str) -> bool {
    written.chars().map(fold).eq(field.chars().map(fold))
}

const fn fold(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl From<bool> for Json {
    fn from(set: bool) -> Self {
        Self::Bool(set)
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Json {
            fn from(number: $kind) -> Self {
                Self::Num(number.to_string())
            }
        }
    )*};
}
numbers!(u16, u32, u64, u128, usize, i64, f32, f64);

impl<T: Into<Self>> From<Vec<T>> for Json {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Self>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Json {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_last_key_wins_whatever_its_case() {
        let doc = read(r#"{"model":"a","MODEL":"b","mOdel":null} trailing"#);
        assert_eq!(doc.string("model").unwrap(), "b");
        assert_eq!(read("{\"me\u{17f}\u{17f}ages\":\"x\"}").string("messages").unwrap(), "x");
    }

    #[test]
    fn null_unsets_a_pointer_but_not_a_value() {
        let doc = read(r#"{"stream":false,"stream":null,"n":3,"n":null}"#);
        assert_eq!(doc.flag("stream").unwrap(), None);
        assert_eq!(doc.integer("n").unwrap(), Some(3));
    }

    #[test]
    fn maps_merge() {
        let doc = read(r#"{"options":{"a":1},"Options":{"b":2}}"#);
        assert_eq!(doc.merged("options").unwrap().entries().len(), 2);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let doc =
            map! {"a" => "x<\u{1}\"\\\n&é", "b" => vec![1u64, 2], "c" => Json::Null, "d" => 0.5};
        let text = doc.to_string();
        assert!(text.contains("\\u003c") && text.contains("\\u0026"));
        assert_eq!(read(&text), doc);
    }

    #[test]
    fn escapes_are_read_as_go_reads_them() {
        assert_eq!(read(r#""\ud83d\ude00\ud800\/""#), Json::Str("😀\u{fffd}/".into()));
        assert_eq!(parse(b"\"\xff\"").unwrap(), Json::Str("\u{fffd}".into()));
    }

    #[test]
    fn broken_texts_are_refused() {
        for text in ["{", "[1,", "{\"a\"}", "tru", "\"a", "01x", "-", "{,}", "\"\\q\"", "\"\n\""] {
            assert!(parse(text.as_bytes()).is_err() || text == "01x", "{text}");
        }
        assert_eq!(parse(b"").unwrap_err().message, "missing request body");
        assert!(parse("[".repeat(20_000).as_bytes()).is_err());
    }
}
