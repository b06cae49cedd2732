//! User instructions for each request, counted by callgrind: what a machine that is busy with
//! other things cannot disturb.
//!
//! Each proxy runs twice, for two numbers of requests; starting and stopping cost the same both
//! times and vanish from the difference.

use std::path::Path;

use anyhow::{Context, Result};

use crate::client::{Bound, closed_loop};
use crate::peers::{Peer, Stage};

const CONNECTIONS: usize = 4;

/// Instructions of one request.
pub fn of(stage: &Stage, peer: Peer, few: u64, many: u64) -> Result<f64> {
    let less = run(stage, peer, few)?;
    let more = run(stage, peer, many)?;
    Ok((more - less) / (many - few) as f64)
}

fn run(stage: &Stage, peer: Peer, requests: u64) -> Result<f64> {
    let out = match std::env::var("CALLGRIND_OUT") {
        Ok(place) => Path::new(&place).join(format!("{}.{requests}", peer.name())),
        Err(_) => stage.path("callgrind.out"),
    };
    let wrapper = ["valgrind", "--tool=callgrind"].map(str::to_owned);
    let mut wrapper = wrapper.to_vec();
    wrapper.push(format!("--callgrind-out-file={}", out.display()));
    let running = stage.start(peer, &wrapper)?;
    let request = running.target.chat(200);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bound = Bound::Requests(requests);
    runtime.block_on(closed_loop(&running.target, &request, CONNECTIONS, bound))?;
    running.stop()?;
    total(&out)
}

fn total(out: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(out).context("callgrind wrote nothing")?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    line.and_then(|number| number.trim().parse().ok()).context("callgrind wrote no total")
}
