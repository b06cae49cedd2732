//! Numbers become tables: medians of what was measured, and ratios to bare Pingora.
//!
//! A ratio is taken within a round, so that a machine that was busy then was busy for both.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::peers::Peer;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    Instructions,
    Rate,
    Cpu,
    P50,
    P99,
    FirstChunk,
    ChunkDelay,
    ChunkCpu,
    Idle,
    Stream1000,
    After1000,
    Stream5000,
    After5000,
    LargeRate20,
    LargeCpu20,
    LargeRate200,
    LargeCpu200,
}

/// How a metric is shown.
struct Shown {
    name: &'static str,
    /// Digits behind the point.
    digits: usize,
    /// Whether what counts is the difference to no proxy at all.
    added: bool,
    /// What Usher may take, as a multiple of bare Pingora.
    bar: Option<f64>,
}

impl Metric {
    /// In the order in which tables show them: the most trustworthy first.
    pub const ALL: [Self; 17] = [
        Self::Instructions,
        Self::Cpu,
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::FirstChunk,
        Self::ChunkDelay,
        Self::ChunkCpu,
        Self::Idle,
        Self::Stream1000,
        Self::After1000,
        Self::Stream5000,
        Self::After5000,
        Self::LargeRate20,
        Self::LargeCpu20,
        Self::LargeRate200,
        Self::LargeCpu200,
    ];

    fn shown(self) -> Shown {
        let plain = |name, digits| Shown { name, digits, added: false, bar: None };
        let added = |name, bar| Shown { name, digits: 3, added: true, bar };
        let barred = |name, digits, bar| Shown { name, digits, added: false, bar: Some(bar) };
        match self {
            Self::Instructions => barred("user instructions a request", 0, 1.25),
            Self::Cpu => barred("CPU seconds for 100,000 requests", 2, 1.25),
            Self::Rate => plain("requests/s, 64 connections", 0),
            Self::P50 => added("added p50 at 500 requests/s, ms", None),
            Self::P99 => added("added p99 at 500 requests/s, ms", None),
            Self::FirstChunk => added("added time to first chunk, ms", Some(1.1)),
            Self::ChunkDelay => added("added delay of a chunk, 100 streams at 50/s, ms", Some(1.1)),
            Self::ChunkCpu => plain("CPU seconds for 100,000 chunks", 2),
            Self::Idle => plain("memory idle, MiB", 1),
            Self::Stream1000 => barred("memory of a stream, 1,000 open, KiB", 1, 1.1),
            Self::After1000 => plain("memory 2 s after they ended, MiB", 1),
            Self::Stream5000 => barred("memory of a stream, 5,000 open, KiB", 1, 1.1),
            Self::After5000 => plain("memory 12 s after they ended, MiB", 1),
            Self::LargeRate20 => plain("220 KB prompts/s, 20 clients", 0),
            Self::LargeCpu20 => plain("CPU ms for one of them", 2),
            Self::LargeRate200 => plain("220 KB prompts/s, 200 clients", 0),
            Self::LargeCpu200 => plain("CPU ms for one of them", 2),
        }
    }
}

/// Everything that was measured, a value a round.
#[derive(Default)]
pub struct Results(HashMap<(Metric, Peer), Vec<f64>>);

impl Results {
    /// Takes a value of this round.
    pub fn note(&mut self, metric: Metric, peer: Peer, value: f64) {
        self.0.entry((metric, peer)).or_default().push(value);
    }

    /// The values of the rounds; for added times, without what no proxy takes.
    fn values(&self, metric: Metric, peer: Peer) -> Vec<f64> {
        let of = |peer| self.0.get(&(metric, peer)).cloned().unwrap_or_default();
        if !metric.shown().added {
            return of(peer);
        }
        of(peer).iter().zip(of(Peer::Direct)).map(|(value, direct)| value - direct).collect()
    }

    /// Two tables: medians, then ratios.
    pub fn tables(&self) -> String {
        let peers: Vec<Peer> =
            Peer::ALL.into_iter().filter(|peer| self.0.keys().any(|(_, p)| p == peer)).collect();
        let mut out = "Medians of the rounds.\n\n| |".to_owned();
        for peer in &peers {
            let _ = write!(out, " {} |", peer.name());
        }
        let _ = writeln!(out, "\n|---|{}", "---:|".repeat(peers.len()));
        for metric in Metric::ALL {
            self.median_row(&mut out, metric, &peers);
        }
        out += "\nMultiples of bare Pingora in the same round, of those with TLS multiples of bare \
                Pingora with TLS: median (smallest to largest).\n\n";
        let rivals: Vec<Peer> =
            peers.into_iter().filter(|peer| peer.yardstick().is_some()).collect();
        out += "| |";
        for peer in &rivals {
            let _ = write!(out, " {} |", peer.name());
        }
        let _ = writeln!(out, " aim for Usher |\n|---|{}", "---:|".repeat(rivals.len() + 1));
        for metric in Metric::ALL {
            self.ratio_row(&mut out, metric, &rivals);
        }
        out
    }

    fn median_row(&self, out: &mut String, metric: Metric, peers: &[Peer]) {
        let Shown { name, digits, .. } = metric.shown();
        let medians: Vec<_> =
            peers.iter().map(|peer| Spread::of(self.values(metric, *peer))).collect();
        if medians.iter().all(Option::is_none) {
            return;
        }
        let _ = write!(out, "| {name} |");
        for median in medians {
            let _ = match median {
                Some(spread) => write!(out, " {:.digits$} |", spread.median),
                None => write!(out, " |"),
            };
        }
        out.push('\n');
    }

    fn ratio_row(&self, out: &mut String, metric: Metric, rivals: &[Peer]) {
        let Shown { name, bar, .. } = metric.shown();
        let ratios: Vec<_> = rivals
            .iter()
            .map(|peer| {
                let own = self.values(metric, *peer);
                let bare = self.values(metric, peer.yardstick()?);
                Spread::of(own.iter().zip(&bare).map(|(own, bare)| own / bare).collect())
            })
            .collect();
        if ratios.iter().all(Option::is_none) {
            return;
        }
        let _ = write!(out, "| {name} |");
        for ratio in ratios {
            let _ = match ratio {
                Some(Spread { least, median, most }) => {
                    write!(out, " {median:.2} ({least:.2} to {most:.2}) |")
                }
                None => write!(out, " |"),
            };
        }
        let _ = match bar {
            Some(bar) => writeln!(out, " ≤ {bar} |"),
            None => writeln!(out, " |"),
        };
    }
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_unstable_by(f64::total_cmp);
        let median = values.get(values.len() / 2).copied()?;
        Some(Self { least: values.first().copied()?, median, most: values.last().copied()? })
    }
}
