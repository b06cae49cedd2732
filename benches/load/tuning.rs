//! How many threads, whether idle ones should take over the work of others, and what a module costs
//! that could compress answers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use crate::peers::{Peer, Stage};
use crate::{Extent, instructions, machine, runtime, scenes};

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/TUNING.md");
/// More than these need more cores for the load than they take themselves.
const MOST: usize = 8;
const COMPARED: [Peer; 3] = [Peer::Bare, Peer::BareSticky, Peer::Usher];

/// What a request costs in each setup, in turns.
pub fn compare(extent: &Extent) -> Result<()> {
    let mut out = machine::heading("Tuning");
    out += "`cargo bench --bench load -- tuning` writes this file.\n";
    modules(extent, &mut out)?;
    threads(extent, &mut out)?;
    println!("{out}");
    Ok(fs::write(RESULTS, out)?)
}

fn modules(extent: &Extent, out: &mut String) -> Result<()> {
    let stage = Stage::set(machine::cores())?;
    *out += "\n| | user instructions a request |\n|---|---:|\n";
    for peer in [Peer::Bare, Peer::BareLean, Peer::Usher] {
        eprintln!("instructions: {}", peer.name());
        let each = instructions::of(&stage, peer, extent.few, extent.many)?;
        let _ = writeln!(out, "| {} | {each:.0} |", peer.name());
    }
    Ok(())
}

fn threads(extent: &Extent, out: &mut String) -> Result<()> {
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
    *out += "\nMedian, smallest and largest:\n\n\
             | threads | | requests/s, 64 connections | CPU seconds for 100,000 requests |\n\
             |---:|---|---:|---:|\n";
    for ((threads, name), measured) in found {
        let (rates, cpu): (Vec<f64>, Vec<f64>) = measured.into_iter().unzip();
        let _ = writeln!(out, "| {threads} | {name} | {} | {} |", spread(rates, 0), spread(cpu, 2));
    }
    Ok(())
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
