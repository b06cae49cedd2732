//! `usher usage`: who used how much.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;
use serde_json::json;

use super::output::{self, Output};
use super::with_store;
use crate::config::Config;
use crate::usage::report::{self, By, Period, parse_moment};

#[derive(Args)]
pub(super) struct Question {
    /// What to add up by
    #[arg(long, default_value = "user", value_parser = by_parser())]
    by: By,
    /// From this day or moment on, in whole hours: 2026-01-31, 2026-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    from: Option<Timestamp>,
    /// Until before this day or moment
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    to: Option<Timestamp>,
    /// Comma-separated values, for spreadsheets
    #[arg(long)]
    csv: bool,
}

pub(super) fn run(question: &Question, config: &Config, output: Output) -> anyhow::Result<()> {
    let Question { by, from, to, csv } = *question;
    let period = Period::of(from, to);
    let lines = with_store(config, async |store| Ok(store.usage(by, period).await?))?;
    if csv && !output.json {
        return output::print(&report::csv(by, &lines));
    }
    let columns = report::columns(by);
    let head = columns.iter().map(|(name, _)| name.replace('_', " ").to_uppercase()).collect();
    let row = |line| columns.iter().map(|(_, of)| or_dash(of(line))).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(lines.iter().map(row)).collect();
    output.say(&json!({ "data": lines }), &output::table(&rows))
}

fn or_dash(text: String) -> String {
    if text.is_empty() { output::or_dash(None) } else { text }
}

fn by_parser() -> impl TypedValueParser<Value = By> {
    PossibleValuesParser::new(By::ALL.map(|(word, _)| word))
        .try_map(|word| By::parse(&word).ok_or("no such word"))
}
