//! `ollama-sim`: a faithful stand-in for Ollama, for tests, demos and benches.
//!
//! It speaks Ollama's three dialects over real sockets and keeps a model of Ollama's time (loads,
//! slots, prefill, decode) instead of weights. A second port shows counters and takes orders to
//! misbehave. README.md beside this file says what it models and what not.

mod anthropic;
mod audio;
mod cli;
mod clock;
mod control;
mod counters;
mod deliver;
mod embed;
mod engine;
mod faults;
mod guard;
mod info;
mod json;
mod knobs;
mod log;
mod manage;
mod model;
mod name;
mod native;
mod openai;
mod prompt;
mod refusal;
mod reply;
mod responses;
mod routes;
mod sched;
mod serve;
mod tap;
mod text;
mod units;
mod world;

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::world::World;

fn main() -> Result<()> {
    let args = cli::Args::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: cli::Args) -> Result<()> {
    // before anybody knows of this process: who reads the ready line may end it at once
    let mut terminated = signal(SignalKind::terminate())?;
    let listener = serve::bind(args.listen).with_context(|| format!("listen {}", args.listen))?;
    let control = serve::bind(args.control).with_context(|| format!("control {}", args.control))?;
    let (address, control_address) = (listener.local_addr()?, control.local_addr()?);
    let exit_with_parent = args.exit_with_parent;
    let world = World::new(args, address).map_err(anyhow::Error::msg)?;
    let clients = tokio::spawn(serve::clients(Arc::clone(&world), listener, address));
    let orders = tokio::spawn(control::serve(world, control));
    let ready = format!(r#"{{"listen":"{address}","control":"{control_address}"}}"#);
    writeln!(std::io::stdout(), "{ready}")?;
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminated.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = parent_gone(), if exit_with_parent => Ok(()),
        ended = clients => ended?.context("the listener failed"),
        ended = orders => ended?.context("the control port failed"),
    }
}

/// Returns when standard input is closed. The thread may stay in its read: the process is ending.
async fn parent_gone() {
    let (gone, closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = gone.send(());
    });
    let _ = closed.await;
}
