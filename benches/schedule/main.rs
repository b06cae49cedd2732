//! The whole box in virtual time: the scheduler's own core, and what stands in its place elsewhere,
//! before the same modelled instances with the same requests. Hours pass in seconds, and the same
//! seed gives the same numbers.
//!
//! `make schedule` runs it and writes RESULTS.md and its pictures.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
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

use anyhow::{Result, bail};

use gateway::{ALL, Policy};
use world::{Scene, World};

/// Where the numbers are written.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/schedule");
const SEED: u64 = 20_260_101;

fn main() -> Result<()> {
    // cargo adds `--bench` to what it runs
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seed, writes) = match words.as_slice() {
        [] => (SEED, true),
        ["seed", seed] => (seed.parse()?, false),
        _ => bail!("usage: schedule [seed NUMBER]"),
    };
    let runs = Runs::new(seed);
    let text = report::write(&runs, seed);
    println!("{text}");
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

/// Every workload with everybody who chooses.
pub struct Runs(HashMap<(&'static str, Policy), World>);

/// A workload and its name.
type Named = (&'static str, fn() -> Scene);

const SCENES: [Named; 14] = [
    ("greedy", scenes::greedy),
    ("alone", || scenes::light(false)),
    ("beset", || scenes::light(true)),
    ("mixed", scenes::mixed),
    ("three on two", scenes::three_on_two),
    ("eighty", scenes::eighty),
    ("strangers", scenes::strangers),
    ("chats", scenes::chats),
    ("bursts", scenes::bursts),
    ("large prompts", scenes::large_prompts),
    ("refusing", scenes::refusing),
    ("killed", scenes::killed),
    ("leavers", scenes::leavers),
    ("hung", scenes::hung),
];

impl Runs {
    fn new(seed: u64) -> Self {
        let mut runs = HashMap::new();
        for (name, scene) in SCENES {
            for policy in ALL {
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
