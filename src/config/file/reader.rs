//! Reading sections: each value is asked for by its key, each mistake is noted with its place.
//!
//! A section that has been read knows which keys were asked for; any other key is a mistake. So
//! there is no second list of keys that could disagree with the code.

use std::cell::RefCell;
use std::path::Path;

use super::fill::join;
use super::problems::Problem;
use super::tree::{Entry, Node, Scalar, Style, Value};
use crate::config::Place;

/// Keys of a map, items of a list: more are no configuration, and would take long to compare.
const MANY: usize = 1_000;

/// What all readers of one file share.
pub(super) struct Context<'a> {
    /// The file, as messages name it.
    pub file: &'a Path,
    /// The directory that relative paths start from.
    pub base: &'a Path,
    pub problems: RefCell<Vec<Problem>>,
    /// What deserves a word but is no mistake.
    pub warnings: RefCell<Vec<Problem>>,
    /// Every key that was asked for, and whether the file has it.
    #[cfg(test)]
    pub asked: RefCell<Vec<(String, bool)>>,
}

impl<'a> Context<'a> {
    /// Starts with the mistakes that filling the environment in has found.
    pub(super) fn new(file: &'a Path, problems: Vec<Problem>) -> Self {
        Self {
            file,
            base: file.parent().unwrap_or_else(|| Path::new("")),
            problems: RefCell::new(problems),
            warnings: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub cx: &'a Context<'a>,
    pub node: &'a Node,
    pub path: String,
}

/// A map whose keys are known.
pub(super) struct Section<'a> {
    pub cx: &'a Context<'a>,
    entries: &'a [Entry],
    line: usize,
    path: String,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Item<'a> {
    /// Notes a mistake here.
    pub(super) fn wrong(&self, text: impl Into<String>) {
        self.cx.problems.borrow_mut().push(Problem::at(self.node.line, &self.path, text));
    }

    /// Notes what deserves a word here.
    pub(super) fn warn(&self, text: impl Into<String>) {
        self.cx.warnings.borrow_mut().push(Problem::at(self.node.line, &self.path, text));
    }

    /// Where it stands, for what is found wrong only later.
    pub(super) fn place(&self) -> Place {
        Place::new(Problem::at(self.node.line, &self.path, "").located(self.cx.file))
    }

    /// Whether it says nothing: `null`, `~`, or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// Whether it is `[]`.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// The scalar, if it is one.
    pub(super) fn as_scalar(&self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Reads a single value; one whose variable is missing is wrong already.
    pub(super) fn scalar<T>(&self, read: impl FnOnce(&Scalar) -> Result<T, String>) -> Option<T> {
        let result = match &self.node.value {
            Value::Scalar(scalar) if scalar.style == Style::Missing => return None,
            Value::Scalar(scalar) => read(scalar),
            Value::List(_) => Err("expected a single value, found a list".to_owned()),
            Value::Map(_) => Err("expected a single value, found a map".to_owned()),
        };
        result.map_err(|text| self.wrong(text)).ok()
    }

    /// Reads each item of a list; those that are wrong are left out.
    pub(super) fn list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Vec<T> {
        let Value::List(items) = &self.node.value else {
            self.wrong(format!("expected a list, found {}", self.kind()));
            return Vec::new();
        };
        if items.len() > MANY {
            self.wrong(format!("has {} items: at most {MANY}", items.len()));
            return Vec::new();
        }
        let item =
            |(index, node)| Item { cx: self.cx, node, path: format!("{}[{index}]", self.path) };
        items.iter().enumerate().filter_map(|pair| read(&item(pair))).collect()
    }

    /// Reads each value of a map whose keys the operator chooses.
    pub(super) fn entries<T>(&self, read: impl Fn(&'a str, &Self) -> Option<T>) -> Vec<T> {
        let item = |entry: &'a Entry| {
            let path = join(&self.path, &entry.key);
            (entry.key.as_str(), Item { cx: self.cx, node: &entry.node, path })
        };
        self.map().iter().map(item).filter_map(|(key, item)| read(key, &item)).collect()
    }

    /// Reads a map whose keys are known; `null` is an empty one.
    pub(super) fn section<T>(&self, read: impl FnOnce(&Section<'a>) -> T) -> T {
        Section::read(self.cx, self.map(), (self.node.line, self.path.clone()), read)
    }

    /// The entries of a map; none if it is something else, which is noted.
    fn map(&self) -> &'a [Entry] {
        match &self.node.value {
            Value::Map(entries) if entries.len() <= MANY => return entries,
            Value::Map(entries) => {
                self.wrong(format!("has {} keys: at most {MANY}", entries.len()))
            }
            Value::Scalar(scalar) if scalar.is_null() => {}
            Value::Scalar(scalar) if scalar.written.contains(':') => {
                self.wrong("expected a map: write `key: value`, with a space after the colon");
            }
            _ => self.wrong(format!("expected a map, found {}", self.kind())),
        }
        &[]
    }

    /// What stands here, in a word; never the text, which might be a secret in the wrong place.
    fn kind(&self) -> &'static str {
        match &self.node.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar(_) if self.is_null() => "nothing",
            Value::Scalar(_) => "a single value",
        }
    }
}

impl<'a> Section<'a> {
    fn read<T>(
        cx: &'a Context<'a>,
        entries: &'a [Entry],
        (line, path): (usize, String),
        read: impl FnOnce(&Self) -> T,
    ) -> T {
        let section = Self { cx, entries, line, path, asked: RefCell::default() };
        let value = read(&section);
        section.refuse_the_rest();
        value
    }

    /// The value of a key, if the file has it.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'a>> {
        self.asked.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let path = join(&self.path, key);
        #[cfg(test)]
        self.cx.asked.borrow_mut().push((path.clone(), entry.is_some()));
        Some(Item { cx: self.cx, node: &entry?.node, path })
    }

    /// The value of a key; `None` if it is absent or wrong.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        self.item(key)?.scalar(read)
    }

    /// The value of a key that may be `null`; `None` stands for both.
    pub(super) fn nullable<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        self.item(key).filter(|item| !item.is_null())?.scalar(read)
    }

    /// The value of a key that must be there.
    pub(super) fn must<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        match self.item(key) {
            Some(item) => item.scalar(read),
            None => {
                self.wrong(key, "is missing: add it");
                None
            }
        }
    }

    /// A section under a key; an absent one reads as empty, so that defaults stand in one place.
    pub(super) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        match self.item(key) {
            Some(item) => item.section(read),
            None => Section::read(self.cx, &[], (self.line, join(&self.path, key)), read),
        }
    }

    /// A list under a key; absent is empty.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        read: impl Fn(&Item<'a>) -> Option<T>,
    ) -> Vec<T> {
        self.item(key).map(|item| item.list(read)).unwrap_or_default()
    }

    /// Notes a mistake about a key, at its line if the file has it.
    pub(super) fn wrong(&self, key: &str, text: impl Into<String>) {
        let problem = self.about(key, text);
        self.cx.problems.borrow_mut().push(problem);
    }

    /// Where a key stands, or would, for what is found wrong only later.
    pub(super) fn place(&self, key: &str) -> Place {
        Place::new(self.about(key, "").located(self.cx.file))
    }

    fn about(&self, key: &str, text: impl Into<String>) -> Problem {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let line = entry.map_or(self.line, |entry| entry.node.line);
        Problem::at(line, &join(&self.path, key), text)
    }

    fn refuse_the_rest(&self) {
        let asked = self.asked.borrow();
        for entry in self.entries.iter().filter(|entry| !asked.contains(&&*entry.key)) {
            let text = format!("unknown key: {}", remedy(&entry.key, &asked));
            let path = join(&self.path, &entry.key);
            self.cx.problems.borrow_mut().push(Problem::at(entry.node.line, &path, text));
        }
    }
}

impl Scalar {
    /// Whether it is YAML's null; an empty variable of the environment counts.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.style, Style::Plain | Style::Filled)
            && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }

    /// The value as the file has it, for messages: never what the environment filled in.
    pub(super) fn shown(&self) -> String {
        const LONG: usize = 60;
        match self.written.chars().count() {
            0 => "nothing".to_owned(),
            1..=LONG => format!("`{}`", self.written),
            _ => format!("`{}…`", self.written.chars().take(LONG).collect::<String>()),
        }
    }
}

/// "did you mean", or all that could be meant.
pub(super) fn remedy(found: &str, known: &[&str]) -> String {
    match closest(found, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("expected {}", one_of(known)),
    }
}

/// `a`, `b` or `c`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => "nothing".to_owned(),
    }
}

fn closest<'k>(found: &str, known: &[&'k str]) -> Option<&'k str> {
    // a typo, not another word: a third of the letters; long keys are not worth the arithmetic
    let near = found.chars().count().div_ceil(3);
    if found.len() > 64 {
        return None;
    }
    let found = found.to_lowercase().replace('-', "_");
    let distance = |word: &str| strsim::damerau_levenshtein(&found, word);
    let ranked = known.iter().map(|word| (distance(word), *word));
    ranked.filter(|(distance, _)| *distance <= near).min().map(|(_, word)| word)
}
