//! What commands print: for people, or with `--json` for programs.

use std::io::{self, Write};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

/// How a command answers.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// Whether for programs.
    pub(super) json: bool,
}

impl Output {
    /// Prints `value`, or to people `text`.
    pub(super) fn say(self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        let text = if self.json { &serde_json::to_string(value)? } else { text };
        print(&format!("{text}\n"))
    }

    /// Prints a list: the admin API's whole and only page, or to people a table.
    pub(super) fn list<T: Serialize, const N: usize>(
        self,
        items: &[T],
        head: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        let rows: Vec<[String; N]> =
            std::iter::once(head.map(str::to_owned)).chain(items.iter().map(row)).collect();
        self.say(&Page { data: items, next: None }, &table(&rows))
    }
}

/// Prints `text` as it is.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
}

/// A page of a list, as the admin API answers it.
#[derive(Serialize)]
struct Page<'a, T> {
    data: &'a [T],
    next: Option<i64>,
}

/// One line on standard error.
pub(super) fn complain(text: &str) {
    // there is nobody left to tell
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether an error is only that nobody reads the output any more.
pub(super) fn reader_left(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().map(io::Error::kind)
    };
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

/// A moment to the second, or `-`.
pub(super) fn when(moment: Option<Timestamp>) -> String {
    moment.map_or_else(absent, |moment| moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A value, or `-`.
pub(super) fn or_dash(value: Option<&str>) -> String {
    value.map_or_else(absent, str::to_owned)
}

fn absent() -> String {
    "-".to_owned()
}

/// Names and values under each other.
pub(super) fn facts(pairs: &[(&str, String)]) -> String {
    let rows: Vec<[String; 2]> =
        pairs.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]).collect();
    table(&rows)
}

/// Columns as wide as their widest cell, two spaces between them, nothing after the last.
pub(super) fn table(rows: &[impl AsRef<[String]>]) -> String {
    let width = |cell: &String| cell.chars().count();
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let widths = rows.iter().fold(vec![0; columns], |mut widest, row| {
        for (place, cell) in widest.iter_mut().zip(row.as_ref()) {
            *place = width(cell).max(*place);
        }
        widest
    });
    let line = |row: &_| {
        let cells = AsRef::<[String]>::as_ref(row).iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, &width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ID", "NAME", "TIER"], ["1", "Zoë", "free"], ["12", "bartholomew", ""]]
            .map(|row| row.map(str::to_owned));
        let lines = ["ID  NAME         TIER", "1   Zoë          free", "12  bartholomew"];
        assert_eq!(table(&rows), lines.join("\n"));
    }

    #[test]
    fn a_moment_is_shown_to_the_second() {
        let moment = Timestamp::from_millisecond(1_700_000_000_999).unwrap();
        assert_eq!(when(Some(moment)), "2023-11-14 22:13:20Z");
        assert_eq!(when(None), "-");
    }

    #[test]
    fn a_broken_pipe_is_told_from_other_troubles() {
        let pipe = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(reader_left(&pipe.context("cannot write")));
        assert!(!reader_left(&io::Error::from(io::ErrorKind::StorageFull).into()));
    }
}
