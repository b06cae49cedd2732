//! Runs become tables. Times are modelled ones: what passed here, times the speed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::client::{End, Told};
use crate::house::{Counters, Door};
use crate::work::Work;
use crate::{SEED, SPEED, real};

/// Where the tables are kept, behind those of the simulator.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/schedule/RESULTS.md");
/// Where they begin.
const MARK: &str = "<!-- real time: what follows is written by benches/schedule/live -->";

/// What one workload was before one door.
pub struct Run {
    pub told: Vec<Told>,
    pub asked: usize,
    pub counters: Counters,
    pub lasted: Duration,
}

/// Everything so far.
pub struct Results {
    text: String,
    last: &'static str,
}

impl Results {
    pub fn new() -> Self {
        Self { text: String::new(), last: "" }
    }

    /// Adds a row to the workload's table, which begins with its first.
    pub fn note(&mut self, work: &Work, door: Door, run: &Run) {
        let groups = groups(work);
        if self.last != work.name {
            self.last = work.name;
            self.begin(work, &groups);
        }
        let ended = |end| run.told.iter().filter(|told| told.end == end).count();
        let (whole, left) = (ended(End::Whole), ended(End::Left));
        let broken = ended(End::Broken);
        let failed = run.asked.saturating_sub(whole + left + broken);
        let mut row = format!("| {} | {whole} | {failed} | {broken} | {left} |", door.name());
        let end = real(work.length);
        for group in &groups {
            let mut firsts: Vec<f64> = run
                .told
                .iter()
                .filter(|told| told.group == *group && told.end == End::Whole)
                .map(|told| told.first.as_secs_f64() * SPEED)
                .collect();
            firsts.sort_by(f64::total_cmp);
            let _ = write!(row, " {} | {} |", at(&firsts, 0.5), at(&firsts, 0.99));
            if groups.len() > 1 {
                let theirs = || run.told.iter().filter(|told| told.group == *group);
                let clients: HashSet<usize> = theirs().map(|told| told.client).collect();
                let tokens: u64 = theirs().filter(|told| told.at <= end).map(|t| t.tokens).sum();
                let _ = write!(row, " {} |", tokens / clients.len().max(1) as u64);
            }
        }
        let count = |name: &str| run.counters.get(name).copied().unwrap_or_default();
        let (computed, cached) = (count("prefill_tokens"), count("cache_hit_tokens"));
        let share = 100.0 * computed as f64 / (computed + cached).max(1) as f64;
        let _ = writeln!(
            row,
            " {} | {computed} ({share:.0} %) | {} | {:.0} |",
            count("loads"),
            count("cancelled_tokens"),
            run.lasted.as_secs_f64() * SPEED,
        );
        self.text.push_str(&row);
    }

    fn begin(&mut self, work: &Work, groups: &[&str]) {
        let _ = write!(self.text, "\n### {}: {}\n\n", work.name, work.about);
        let _ = writeln!(self.text, "{} requests in {} s.\n", work.asked(), work.length.as_secs());
        let mut head = "| door | whole | failed | broken | left |".to_owned();
        for group in groups {
            let who = if *group == "all" { String::new() } else { format!("{group}: ") };
            let _ = write!(head, " {who}first byte p50, s | p99, s |");
            if groups.len() > 1 {
                head.push_str(" tokens for each |");
            }
        }
        head.push_str(" loads | prompt tokens computed | decoded for nobody | over after, s |");
        let columns = head.matches('|').count() - 1;
        let _ = writeln!(self.text, "{head}\n|{}", "---|".repeat(columns));
    }

    /// The whole, with what it was taken on.
    pub fn text(&self, took: Duration) -> String {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let nginx = ["/usr/sbin/nginx", "nginx"]
            .iter()
            .find_map(|nginx| Command::new(nginx).arg("-v").output().ok())
            .map(|said| String::from_utf8_lossy(&said.stderr).trim().to_owned())
            .unwrap_or_default();
        format!(
            "## In real time\n\n\
             `make live`, seed {SEED}, \
             everything modelled {SPEED} times as fast as life; {cores} cores shared by all, load average at \
             the end {}, {nginx}, {} s in all. Times in the tables are modelled ones. Each door gets the same \
             requests at the same times; instances have the model in memory at the start unless the workload \
             is about loading. \"Tokens for each\" counts what a client of the group got until the last arrival. \"Failed\" is a refusal, or no answer {} s after the last arrival. One run each: \
             differences of a few per cent mean nothing.\n{}",
            load.split(' ').next().unwrap_or_default(),
            took.as_secs(),
            (crate::PATIENCE.as_secs_f64() * SPEED) as u64,
            self.text,
        )
    }
}

/// The groups of a workload, in the order in which they appear.
fn groups(work: &Work) -> Vec<&'static str> {
    let mut groups = Vec::new();
    for session in &work.sessions {
        if !groups.contains(&session.group) {
            groups.push(session.group);
        }
    }
    groups
}

/// A quantile of sorted numbers.
fn at(sorted: &[f64], share: f64) -> String {
    let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(place).map_or_else(|| "–".to_owned(), |number| format!("{number:.2}"))
}

/// Puts the tables in their place in the file.
pub fn keep(text: &str) -> Result<()> {
    let before = fs::read_to_string(RESULTS).unwrap_or_default();
    let before = before.split(MARK).next().unwrap_or_default().trim_end();
    let gap = if before.is_empty() { "" } else { "\n\n" };
    Ok(fs::write(RESULTS, format!("{before}{gap}{MARK}\n\n{text}"))?)
}
