//! The whole box in virtual time: the scheduler's own core, and what stands in its place elsewhere,
//! before the same modelled instances with the same requests. Hours pass in seconds, and the same
//! seed gives the same numbers.
//!
//! `make schedule` runs it and writes RESULTS.md and its pictures.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program for people at a terminal; nothing depends on it"
)]

mod bars;
mod dice;
mod gateway;
mod instance;
mod measure;
mod picture;
mod report;
mod scenes;
mod work;
mod world;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};

use bars::Bar;
use gateway::{ALL, Policy};
use world::{Scene, World};

/// Where the numbers are written.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/schedule");
const SEED: u64 = 20_260_101;
/// What must be shown is shown with so many seeds: that one, and those behind it.
const SEEDS: u64 = 5;

fn main() -> Result<()> {
    // cargo adds `--bench` to what it runs
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seed, seeds, writes) = match words.as_slice() {
        [] => (SEED, SEEDS, true),
        ["seed", seed] => (seed.parse()?, 1, false),
        ["seeds", seeds] => (SEED, seeds.parse()?, false),
        _ => bail!("usage: schedule [seed NUMBER | seeds COUNT]"),
    };
    let begun = std::time::Instant::now();
    let (runs, judged) = all(seed, seeds);
    let text = report::write(&runs, &judged, seed);
    println!("{text}");
    eprintln!("{seeds} seeds in {:.1} s", begun.elapsed().as_secs_f64());
    if writes {
        // the tables in real time behind it are those of benches/schedule/live
        let before = std::fs::read_to_string(format!("{FOLDER}/RESULTS.md")).unwrap_or_default();
        let kept = before.find("<!-- real time").and_then(|at| before.get(at..));
        let kept = kept.map_or_else(String::new, |kept| format!("\n{kept}"));
        std::fs::write(format!("{FOLDER}/RESULTS.md"), text + &kept)?;
        picture::draw(&runs)?;
    }
    Ok(())
}

/// Every workload with the first seed, and what is judged with each of them.
fn all(seed: u64, seeds: u64) -> (Runs, Vec<Judged>) {
    let others: Vec<u64> = (1..seeds).map(|further| seed.wrapping_add(further)).collect();
    let next = AtomicUsize::new(0);
    let judge = || {
        let mut judged = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&seed) = others.get(at) else { return judged };
            let runs = Runs::new(seed, &[Policy::Usher, Policy::LeastConn]);
            judged.push((at, Judged { bars: bars::all(&runs), bounds: bars::bounds(&runs) }));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..cores).map(|_| scope.spawn(judge)).collect();
        let runs = Runs::new(seed, &ALL);
        let mut judged = judge();
        judged.extend(helpers.into_iter().flat_map(|it| it.join().unwrap_or_default()));
        judged.sort_unstable_by_key(|(at, _)| *at);
        let first = Judged { bars: bars::all(&runs), bounds: bars::bounds(&runs) };
        let judged = judged.into_iter().map(|(_, it)| it);
        (runs, std::iter::once(first).chain(judged).collect())
    })
}

/// What was found with one seed.
pub struct Judged {
    pub bars: Vec<Bar>,
    pub bounds: Vec<Bar>,
}

/// Every workload with everybody who chooses.
pub struct Runs(HashMap<(&'static str, Policy), World>);

/// A workload and its name.
type Named = (&'static str, fn() -> Scene);

const SCENES: [Named; 16] = [
    ("greedy", scenes::greedy),
    ("alone", || scenes::light(false)),
    ("beset", || scenes::light(true)),
    ("mixed", scenes::mixed),
    ("three on two", scenes::three_on_two),
    ("eighty", scenes::eighty),
    ("strangers", || scenes::strangers(false)),
    ("in order", || scenes::strangers(true)),
    ("chats", scenes::chats),
    ("bursts", scenes::bursts),
    ("large prompts", scenes::large_prompts),
    ("refusing", scenes::refusing),
    ("killed", || scenes::killed(false)),
    ("killed, in order", || scenes::killed(true)),
    ("leavers", scenes::leavers),
    ("hung", scenes::hung),
];

impl Runs {
    fn new(seed: u64, policies: &[Policy]) -> Self {
        let mut runs = HashMap::new();
        for (name, scene) in SCENES {
            for &policy in policies {
                runs.insert((name, policy), world::run(&scene(), policy, seed));
            }
        }
        Self(runs)
    }

    /// # Panics
    /// There is no such workload.
    pub fn of(&self, scene: &'static str, policy: Policy) -> &World {
        match self.0.get(&(scene, policy)) {
            Some(world) => world,
            None => unreachable!("{scene} is no workload"),
        }
    }
}
