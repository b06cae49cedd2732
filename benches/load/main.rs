//! The load test: Usher beside what else could stand in its place, in one run.
//!
//! `make bench` runs it; see RESULTS.md for what it prints.
#![allow(
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a program for people at a terminal; nothing depends on it"
)]

mod backend;
mod bare;
mod client;
mod drills;
mod instructions;
mod logins;
mod machine;
mod peers;
mod process;
mod report;
mod scenes;
mod sharing;
mod tls;
mod tuning;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use bare::Setup;
use peers::{Peer, Stage};
use report::{Metric, Results};
use scenes::Pace;

/// Bare Pingora gets the allocator that Usher has.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Where the numbers are written.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/RESULTS.md");

fn main() -> Result<()> {
    // cargo adds `--bench` to what it runs
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["backend", addresses @ ..] => {
            let addresses =
                addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>().context("ADDRESS")?;
            runtime()?.block_on(backend::run(addresses))
        }
        ["bare", listen, backend, threads, setup, tls @ ..] => {
            let tls = match tls {
                [cert, key] => Some((*cert, *key)),
                _ => None,
            };
            let setup = Setup::of(setup).context("SETUP")?;
            Ok(bare::run(listen.parse()?, backend.parse()?, threads.parse()?, setup, tls)?)
        }
        [] => compare(&Extent::full()),
        ["quick"] => compare(&Extent::quick()),
        ["instructions"] => count(&Extent::full()),
        ["instructions", "quick"] => count(&Extent::quick()),
        ["instructions", "sharing"] => count_sharing(&Extent::full()),
        ["frozen"] => runtime()?.block_on(sharing::freeze(false)),
        ["frozen", "quick"] => runtime()?.block_on(sharing::freeze(true)),
        ["layers"] => runtime()?.block_on(sharing::layers()),
        ["tuning"] => tuning::compare(&Extent::full()),
        ["drills"] => runtime()?.block_on(drills::run(false)),
        ["drills", "quick"] => runtime()?.block_on(drills::run(true)),
        ["logins"] => runtime()?.block_on(logins::run(false)),
        ["logins", "quick"] => runtime()?.block_on(logins::run(true)),
        ["burn", threads, percent] => logins::burn(threads.parse()?, percent.parse()?),
        _ => bail!(
            "usage: load [quick | instructions [quick | sharing] | tuning | drills [quick] | \
             logins [quick] | frozen [quick] | layers]"
        ),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// How much is done.
struct Extent {
    rounds: u32,
    counts: u32,
    /// Requests under callgrind: the difference of two numbers is what counts.
    few: u64,
    many: u64,
    pace: Pace,
    /// No round but the first begins later.
    time: Duration,
}

impl Extent {
    fn full() -> Self {
        let open: &[usize] = if machine::open_files() > 11_000 { &[1000, 5000] } else { &[1000] };
        let pace = Pace { load: Duration::from_secs(3), firsts: 200, open };
        let time = Duration::from_mins(15);
        Self { rounds: 5, counts: 2, few: 2000, many: 4000, pace, time }
    }

    fn quick() -> Self {
        let pace = Pace { load: Duration::from_secs(1), firsts: 50, open: &[1000] };
        let time = Duration::from_mins(1);
        Self { rounds: 1, counts: 1, few: 500, many: 1500, pace, time }
    }
}

/// Every number of every proxy, round by round, each round in an order of its own.
fn compare(extent: &Extent) -> Result<()> {
    let begun = Instant::now();
    let stage = Stage::set(machine::cores())?;
    let mut results = Results::default();
    count_into(&stage, extent, &mut results)?;
    let mut peers: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| peer.is_installed()).collect();
    let mut dice = machine::Dice::new();
    let mut rounds = 0;
    while rounds == 0 || (rounds < extent.rounds && begun.elapsed() < extent.time) {
        dice.shuffle(&mut peers);
        for peer in &peers {
            eprintln!("round {} of {}: {}", rounds + 1, extent.rounds, peer.name());
            runtime()?
                .block_on(scenes::play(&stage, *peer, extent.pace, &mut results))
                .with_context(|| peer.name())?;
        }
        rounds += 1;
    }
    let text = format!(
        "{}`make bench` (all of it, some 20 minutes) or `make bench QUICK=1` (one short round) writes\n\
         this file. Proxies, backend and load share one machine; trust ratios more than numbers, and\n\
         instructions more than times.\n\n{} rounds, {} threads each, in {} s.\n\n{}",
        machine::heading("Load test"),
        rounds,
        stage.threads,
        begun.elapsed().as_secs(),
        results.tables()
    );
    println!("{text}");
    Ok(std::fs::write(RESULTS, text)?)
}

fn count(extent: &Extent) -> Result<()> {
    let stage = Stage::set(machine::cores())?;
    let mut results = Results::default();
    count_into(&stage, extent, &mut results)?;
    println!("{}", results.tables());
    Ok(())
}

/// What limits cost, and what sharing them does, beside Usher without either.
fn count_sharing(extent: &Extent) -> Result<()> {
    let stage = Stage::set(machine::cores())?;
    let mut least = None;
    for peer in [Peer::UsherUnlimited, Peer::Usher, Peer::UsherSharing] {
        let each = instructions::of(&stage, peer, extent.few, extent.many)?;
        let part = each / *least.get_or_insert(each);
        println!("{}: {each:.0} instructions a request, {part:.3} times the first", peer.name());
    }
    Ok(())
}

fn count_into(stage: &Stage, extent: &Extent, results: &mut Results) -> Result<()> {
    for number in 0..extent.counts {
        for peer in [Peer::Bare, Peer::Usher] {
            eprintln!("instructions, {} of {}: {}", number + 1, extent.counts, peer.name());
            let each = instructions::of(stage, peer, extent.few, extent.many)?;
            results.note(Metric::Instructions, peer, each);
        }
    }
    Ok(())
}
