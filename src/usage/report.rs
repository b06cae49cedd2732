//! What people see of usage: sums by key, user, model or hour.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::ledger::HOUR;

/// What sums are made by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Hour, the oldest first.
    Hour,
    /// Key, the busiest first.
    Key,
    /// Model, the busiest first.
    Model,
    /// User, the busiest first.
    #[default]
    User,
}

impl By {
    /// All of them, with the words that name them.
    pub const ALL: [(&str, Self); 4] =
        [("hour", Self::Hour), ("key", Self::Key), ("model", Self::Model), ("user", Self::User)];

    /// The one that this word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, by)| by)
    }
}

/// A stretch of whole hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first hour, in milliseconds since 1970.
    pub from: i64,
    /// The hour behind the last one.
    pub to: i64,
}

impl Period {
    /// The hours that have something in common with the time between these moments; a moment that
    /// is missing leaves that side open.
    pub fn of(from: Option<Timestamp>, to: Option<Timestamp>) -> Self {
        let begun = |moment: Timestamp| moment.as_millisecond().div_euclid(HOUR) * HOUR;
        let over = |moment: Timestamp| match moment.as_millisecond().rem_euclid(HOUR) {
            0 => moment.as_millisecond(),
            _ => begun(moment).saturating_add(HOUR),
        };
        Self { from: from.map_or(i64::MIN, begun), to: to.map_or(i64::MAX, over) }
    }
}

/// A moment as people write it: `2026-01-31`, which is its first moment in UTC, or RFC 3339.
///
/// # Errors
/// Says what a moment looks like.
pub fn parse_moment(text: &str) -> Result<Timestamp, BadMoment> {
    let whole_day = || format!("{text}T00:00:00Z").parse();
    text.parse().or_else(|_| whole_day()).map_err(|_| BadMoment)
}

/// The text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a day such as 2026-01-31, or a moment such as 2026-01-31T12:00:00Z")]
pub struct BadMoment;

/// One sum, and what it is a sum of: that which was not asked for is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Line {
    /// When the hour began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub hour: Option<Timestamp>,
    /// The key's id; 0 stands for whatever was proven without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<i64>,
    /// How the key begins, if it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What its user calls the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<i64>,
    /// The user's name; absent if there is no such user any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Requests that an instance was given.
    pub requests: i64,
    /// Tokens of their prompts.
    pub prompt_tokens: i64,
    /// Tokens of their answers.
    pub completion_tokens: i64,
    /// Seconds of work on them.
    pub gpu_seconds: f64,
    /// Those that failed.
    pub errors: i64,
}

/// A column of a table: its name, and how a line fills it.
pub type Column = (&'static str, fn(&Line) -> String);

/// The columns of a table by `by`; the figures come last.
pub fn columns(by: By) -> Vec<Column> {
    let mut columns: Vec<Column> = match by {
        By::Hour => vec![("hour", |line| shown(line.hour.as_ref()))],
        By::Key => vec![
            ("key_id", |line| shown(line.key_id.as_ref())),
            ("prefix", |line| shown(line.prefix.as_ref())),
            ("name", |line| shown(line.name.as_ref())),
            ("user", |line| shown(line.user.as_ref())),
        ],
        By::Model => vec![("model", |line| shown(line.model.as_ref()))],
        By::User => vec![
            ("user_id", |line| shown(line.user_id.as_ref())),
            ("user", |line| shown(line.user.as_ref())),
        ],
    };
    columns.push(("requests", |line| line.requests.to_string()));
    columns.push(("prompt_tokens", |line| line.prompt_tokens.to_string()));
    columns.push(("completion_tokens", |line| line.completion_tokens.to_string()));
    columns.push(("gpu_seconds", |line| format!("{:.3}", line.gpu_seconds)));
    columns.push(("errors", |line| line.errors.to_string()));
    columns
}

fn shown(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// The lines as comma-separated values (RFC 4180), with their names first.
pub fn csv(by: By, lines: &[Line]) -> String {
    let columns = columns(by);
    let mut out = String::new();
    let mut row = |values: Vec<String>| {
        for (index, value) in values.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // what a spreadsheet would take for a formula is shown as the text that it is
            let text = if value.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
            match value.contains(['"', ',', '\n', '\r']) {
                true => {
                    let _ = write!(out, "{comma}\"{text}{}\"", value.replace('"', "\"\""));
                }
                false => {
                    let _ = write!(out, "{comma}{text}{value}");
                }
            }
        }
        out.push_str("\r\n");
    };
    row(columns.iter().map(|(name, _)| (*name).to_owned()).collect());
    for line in lines {
        row(columns.iter().map(|(_, of)| of(line)).collect());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_covers_every_hour_that_it_touches() {
        let at = |text: &str| parse_moment(text).unwrap();
        let hour = |text: &str| at(text).as_millisecond();
        let some = Period::of(Some(at("2026-01-31T10:30:00Z")), Some(at("2026-01-31T12:00:01Z")));
        assert_eq!(some.from, hour("2026-01-31T10:00:00Z"));
        assert_eq!(some.to, hour("2026-01-31T13:00:00Z"));
        let day = Period::of(Some(at("2026-01-31")), Some(at("2026-02-01")));
        assert_eq!(day.to - day.from, 24 * HOUR);
        assert_eq!(Period::of(None, None), Period { from: i64::MIN, to: i64::MAX });
        assert_eq!(at("2026-01-31T01:00:00+01:00"), at("2026-01-31"));
        for bad in ["", "yesterday", "2026-02-30", "2026-01-31 ", "1700000000"] {
            assert_eq!(parse_moment(bad), Err(BadMoment), "{bad}");
        }
    }

    #[test]
    fn values_with_commas_quotes_or_formulas_stay_what_they_are() {
        let line = Line {
            key_id: Some(7),
            prefix: Some("usk_abc".to_owned()),
            name: Some("my \"lap\", top".to_owned()),
            user: Some("@SUM".to_owned()),
            requests: 3,
            gpu_seconds: 1.25,
            ..Line::default()
        };
        assert_eq!(
            csv(By::Key, &[line]),
            "key_id,prefix,name,user,requests,prompt_tokens,completion_tokens,gpu_seconds,errors\r\n\
             7,usk_abc,\"my \"\"lap\"\", top\",'@SUM,3,0,0,1.250,0\r\n"
        );
    }

    #[test]
    fn every_word_names_one_way_to_sum() {
        for (word, by) in By::ALL {
            assert_eq!(By::parse(word), Some(by));
        }
        assert_eq!(By::parse("tier"), None);
    }
}
