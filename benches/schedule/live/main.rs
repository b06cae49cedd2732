//! The same afternoon before different doors: workloads in real time, through simulated instances,
//! for Usher and for what people put before Ollama otherwise.
//!
//! `make live` runs it, and `make live QUICK=1` is a short look. Its tables are the second half of
//! `benches/schedule/RESULTS.md`.
#![allow(
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a program for people at a terminal; nothing depends on it"
)]

mod client;
mod dice;
mod house;
mod report;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;

use client::Told;
use house::{Door, House};
use report::{Results, Run};
use work::{Event, Work};

/// How many times faster than life everything that is modelled goes.
const SPEED: f64 = 4.0;
/// The seed of every arrival: each door gets the same ones.
const SEED: u64 = 20_261_125;
/// Who is not served so long after the last arrival is counted as not served.
const PATIENCE: Duration = Duration::from_secs(25);

fn main() -> Result<()> {
    // cargo adds `--bench` to what it runs
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let quick = words.iter().any(|word| word == "quick");
    let wanted: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| *word != "quick").collect();
    let works = Work::all(SEED, if quick { 0.3 } else { 1.0 });
    if let Some(unknown) = wanted.iter().find(|name| !works.iter().any(|work| work.name == **name))
    {
        let names: Vec<_> = works.iter().map(|work| work.name).collect();
        bail!("no workload `{unknown}`; there are: {}", names.join(" "));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begun = Instant::now();
    let mut results = Results::new();
    for work in works.iter().filter(|work| wanted.is_empty() || wanted.contains(&work.name)) {
        for door in Door::ALL {
            eprintln!("{}: {}", work.name, door.name());
            let run = runtime.block_on(play(work, door));
            let run = run.with_context(|| format!("{} before {}", door.name(), work.name))?;
            results.note(work, door, &run);
        }
    }
    let text = results.text(begun.elapsed());
    println!("{text}");
    // a short look is no result
    if quick || !wanted.is_empty() { Ok(()) } else { report::keep(&text) }
}

/// One workload before one door.
async fn play(work: &Work, door: Door) -> Result<Run> {
    let mut house = House::open(work, door).await?;
    let begun = tokio::time::Instant::now();
    let target = Arc::new(house.target());
    let mut under_way = JoinSet::new();
    for session in &work.sessions {
        let (target, session) = (Arc::clone(&target), session.clone());
        under_way.spawn(async move { client::follow(&target, &session, begun).await });
    }
    let mut events = work.events.clone();
    let end = begun + real(work.length) + PATIENCE;
    let mut told: Vec<Told> = Vec::new();
    loop {
        let next = events.first().map(|(at, _)| begun + real(*at));
        tokio::select! {
            () = tokio::time::sleep_until(next.unwrap_or(end)), if next.is_some() => {
                let (_, event) = events.remove(0);
                happen(&mut house, event).await?;
            }
            ended = under_way.join_next() => match ended {
                Some(ended) => told.extend(ended?),
                None => break,
            },
            () = tokio::time::sleep_until(end) => break,
        }
    }
    under_way.abort_all();
    let lasted = begun.elapsed();
    let counters = house.counters().await?;
    Ok(Run { told, asked: work.asked(), counters, lasted })
}

async fn happen(house: &mut House, event: Event) -> Result<()> {
    match event {
        Event::Dies(number) => house.kill(number).await,
        Event::Returns(number) => house.revive(number),
    }
}

/// Modelled time as it passes here.
fn real(modelled: Duration) -> Duration {
    modelled.div_f64(SPEED)
}
