//! Mistakes in a configuration file, all at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// Every mistake of one configuration file, sorted by line.
///
/// `Display` gives one line each: `FILE:LINE: path.to.key: what is wrong and what would be right`.
#[derive(Debug)]
pub struct Problems {
    file: PathBuf,
    found: Vec<Problem>,
}

impl Problems {
    /// Puts the mistakes of `file` in order.
    pub(super) fn new(file: &Path, mut found: Vec<Problem>) -> Self {
        found.sort_by_key(|problem| problem.line);
        Self { file: file.to_owned(), found }
    }

    /// The one reason why `file` cannot be looked into at all.
    pub(super) fn whole_file(file: &Path, text: String) -> Self {
        Self::new(file, vec![Problem { line: None, path: String::new(), text }])
    }

    /// Whether there is no mistake.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Each mistake as its own line of text, in the order of the file.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.found.iter().map(|problem| problem.located(&self.file))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Line in the file, from 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    /// Key, as in `tiers.free.requests`; empty when it is about the document.
    pub path: String,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Problem {
    /// A mistake at a line.
    pub(super) fn at(line: usize, path: &str, text: impl Into<String>) -> Self {
        Self { line: Some(line), path: path.to_owned(), text: text.into() }
    }

    /// `FILE:LINE: path: text`, always on one line.
    pub(super) fn located(&self, file: &Path) -> String {
        let mut out = printable(&file.to_string_lossy());
        if let Some(line) = self.line {
            out.push_str(&format!(":{line}"));
        }
        for part in [&self.path, &self.text] {
            if !part.is_empty() {
                out.push_str(": ");
                out.push_str(&printable(part));
            }
        }
        out
    }
}

/// Text whose control characters cannot move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
