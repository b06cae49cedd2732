//! How many threads, and whether idle ones should take over the work of others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use crate::peers::{Peer, Stage};
use crate::{Extent, machine, runtime, scenes};

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/THREADS.md");
/// More than these need more cores for the load than they take themselves.
const MOST: usize = 8;
const COMPARED: [Peer; 3] = [Peer::Bare, Peer::BareSticky, Peer::Usher];

/// What a request costs with one thread and with more, in turns.
pub fn compare(extent: &Extent) -> Result<()> {
    let mut dice = machine::Dice::new();
    let counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(within_reason).collect();
    let mut runs: Vec<(usize, Peer)> =
        counts.iter().flat_map(|count| COMPARED.map(|peer| (*count, peer))).collect();
    let mut found: BTreeMap<(usize, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for round in 1..=extent.rounds {
        dice.shuffle(&mut runs);
        for (threads, peer) in &runs {
            eprintln!("round {round} of {}: {}, {threads} threads", extent.rounds, peer.name());
            let mut stage = Stage::set(machine::cores())?;
            stage.threads = *threads;
            let measured = runtime()?.block_on(scenes::saturate(&stage, *peer, extent.pace))?;
            found.entry((*threads, peer.name())).or_default().push(measured);
        }
    }
    let mut out = machine::heading("Threads");
    out += "`cargo bench --bench load -- threads` writes this file: medians, smallest and largest.\n\n\
            | threads | | requests/s, 64 connections | CPU seconds for 100,000 requests |\n\
            |---:|---|---:|---:|\n";
    for ((threads, name), measured) in found {
        let (rates, cpu): (Vec<f64>, Vec<f64>) = measured.into_iter().unzip();
        let _ = writeln!(out, "| {threads} | {name} | {} | {} |", spread(rates, 0), spread(cpu, 2));
    }
    println!("{out}");
    Ok(fs::write(RESULTS, out)?)
}

fn within_reason(threads: &usize) -> bool {
    *threads <= machine::cores().min(MOST)
}

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or_default();
    let (least, median, most) = (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)));
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}
