//! What must not disturb anybody, done while many are there: reloads, upgrades, a new certificate,
//! the end. Run on demand, for they take minutes; the tests hold the same in small.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::{Streaming, Target, Wire};
use crate::machine;
use crate::peers::{Peer, Stage};
use crate::process::Running;

/// Where what came of them is written.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/DRILLS.md");

/// All of them, one after the other.
pub async fn run(brief: bool) -> Result<()> {
    let stage = block_in_place(|| Stage::set(machine::cores()))?;
    let scale = if brief { 6 } else { 1 };
    let mut out = format!("{}`make drills` writes this file.\n\n", machine::heading("Drills"));
    for said in [
        reloads(&stage, Duration::from_mins(1) / scale).await?,
        upgrades(&stage, Duration::from_secs(18) / scale).await?,
        renewal(&stage, Duration::from_secs(12) / scale).await?,
        ends(&stage, if brief { 2 } else { 5 }).await?,
    ] {
        println!("{said}");
        let _ = writeln!(out, "- {said}");
    }
    Ok(fs::write(RESULTS, out)?)
}

/// What became of many requests.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Tally {
    fn note(&self, outcome: Result<()>) {
        match outcome {
            Ok(()) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.first.lock().get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn said(&self) -> String {
        let first = self.first.lock().take().map(|first| format!(" (the first: {first})"));
        format!(
            "{} answered, {} failed{}",
            self.answered.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            first.unwrap_or_default()
        )
    }
}

/// Asks on these many keep-alive connections for so long, and opens a new one after a failure.
fn keep_asking(
    target: &Target,
    connections: usize,
    time: Duration,
    tally: &Arc<Tally>,
) -> JoinSet<()> {
    let request = target.chat(200);
    let mut asking = JoinSet::new();
    let until = Instant::now() + time;
    for _ in 0..connections {
        let (target, request, tally) = (target.clone(), Arc::clone(&request), Arc::clone(tally));
        asking.spawn(async move {
            let mut wire = None;
            while Instant::now() < until {
                let asked = async {
                    let mut open = match wire.take() {
                        Some(open) => open,
                        None => Wire::open(&target).await?,
                    };
                    open.ask(&request).await?;
                    Ok(open)
                };
                let asked = asked.await;
                tally.note(asked.map(|open| wire = Some(open)));
            }
        });
    }
    asking
}

/// Asks on a new connection, so many times a second for so long.
fn knock(target: &Target, rate: u64, time: Duration, tally: &Arc<Tally>) -> JoinSet<()> {
    let request = target.chat(200);
    let mut knocking = JoinSet::new();
    let (target, tally) = (target.clone(), Arc::clone(tally));
    knocking.spawn(async move {
        let mut ticks = interval(Duration::from_micros(1_000_000 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let until = Instant::now() + time;
        let mut under_way = JoinSet::new();
        while Instant::now() < until {
            ticks.tick().await;
            let (target, request, tally) =
                (target.clone(), Arc::clone(&request), Arc::clone(&tally));
            under_way.spawn(async move {
                let asked = async { Wire::open(&target).await?.ask(&request).await };
                tally.note(asked.await);
            });
            while under_way.try_join_next().is_some() {}
        }
        under_way.join_all().await;
    });
    knocking
}

/// Streams that last so long; each counts as answered if it comes to its own end.
async fn streams(
    target: &Target,
    count: usize,
    time: Duration,
    tally: &Arc<Tally>,
) -> Result<JoinSet<()>> {
    const GAP: Duration = Duration::from_millis(50);
    let tokens = u32::try_from(time.as_millis() / GAP.as_millis())?;
    let request = target.stream(tokens, GAP);
    let mut open = JoinSet::new();
    for _ in 0..count {
        let mut stream = Streaming::open(target, &request).await?;
        let tally = Arc::clone(tally);
        open.spawn(async move { tally.note(stream.finish().await) });
    }
    Ok(open)
}

/// A reload every 100 ms while everybody asks.
async fn reloads(stage: &Stage, time: Duration) -> Result<String> {
    let running = block_in_place(|| stage.start(Peer::Usher, &[]))?;
    let file = stage.path("usher.yaml");
    let text = fs::read_to_string(&file)?;
    let other = text.replace("concurrency: 20000", "concurrency: 20001");
    ensure!(other != text, "the configuration has something to change");
    let tally = Arc::default();
    let asking = keep_asking(&running.target, 16, time, &tally);
    let mut ticks = interval(Duration::from_millis(100));
    let begun = Instant::now();
    let mut signals = 0_u32;
    while begun.elapsed() < time {
        ticks.tick().await;
        let next = if signals.is_multiple_of(2) { &other } else { &text };
        let fresh = stage.path("usher.yaml.new");
        fs::write(&fresh, next)?;
        fs::rename(&fresh, &file)?;
        running.signal("HUP")?;
        signals += 1;
    }
    asking.join_all().await;
    let log = fs::read_to_string(stage.path("Usher.log"))?;
    let taken = log.lines().filter(|line| line.contains("is in force")).count();
    block_in_place(|| running.stop())?;
    Ok(format!(
        "A reload every 100 ms for {} s, 16 connections asking: {signals} signals, {taken} reloads; {}.",
        time.as_secs(),
        tally.said()
    ))
}

/// Two upgrades while a thousand clients a second connect, and streams are open.
async fn upgrades(stage: &Stage, time: Duration) -> Result<String> {
    let mut running = block_in_place(|| stage.start(Peer::Usher, &[]))?;
    let (knocks, open) = (Arc::default(), Arc::default());
    let streaming = streams(&running.target, 50, time, &open).await?;
    let knocking = knock(&running.target, 1000, time, &knocks);
    let mut processes = vec![running.pid()];
    for _ in 0..2 {
        sleep(time / 4).await;
        running.signal("USR2")?;
        let next = successor(stage, processes.len()).await?;
        processes.push(next);
        running.follow(next);
    }
    knocking.join_all().await;
    streaming.join_all().await;
    block_in_place(|| running.stop())?;
    Ok(format!(
        "Two upgrades in {} s, 1,000 new connections a second: {}; 50 streams over both: {}.",
        time.as_secs(),
        knocks.said(),
        open.said()
    ))
}

/// The process that took over, as the log names it.
async fn successor(stage: &Stage, number: usize) -> Result<u32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        let log = fs::read_to_string(stage.path("Usher.log"))?;
        let mut named = log.lines().filter_map(|line| {
            line.split_once("process ")?.1.strip_suffix(" serves from now on")?.parse().ok()
        });
        if let Some(process) = named.nth(number - 1) {
            return Ok(process);
        }
        sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("nobody took over")
}

/// A new certificate while clients connect, and streams are open.
async fn renewal(stage: &Stage, time: Duration) -> Result<String> {
    let running = block_in_place(|| stage.start(Peer::UsherTls, &[]))?;
    let old = stage.tls.connector()?;
    let (knocks, open) = (Arc::default(), Arc::default());
    let streaming = streams(&running.target, 50, time, &open).await?;
    let next = stage.tls.successor()?;
    let both = Target { tls: Some(stage.tls.connector_for_both(&next)?), ..running.target.clone() };
    let only_new = Target { tls: Some(next.connector()?), ..running.target.clone() };
    let knocking = knock(&both, 200, time, &knocks);
    sleep(time / 4).await;
    ensure!(Wire::open(&only_new).await.is_err(), "the new certificate is not there yet");
    stage.tls.replace(&next)?;
    let begun = Instant::now();
    while Wire::open(&only_new).await.is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(10), "the new certificate never came");
        sleep(Duration::from_millis(20)).await;
    }
    let seen = begun.elapsed();
    let only_old = Target { tls: Some(old), ..running.target.clone() };
    ensure!(Wire::open(&only_old).await.is_err(), "the old certificate is gone");
    knocking.join_all().await;
    streaming.join_all().await;
    block_in_place(|| running.stop())?;
    Ok(format!(
        "A new certificate, seen by new connections after {:.1} s; 200 handshakes a second: {}; 50 \
         streams: {}.",
        seen.as_secs_f64(),
        knocks.said(),
        open.said()
    ))
}

/// How long the process takes to end: idle, and behind the last byte of its last stream.
async fn ends(stage: &Stage, times: usize) -> Result<String> {
    let (mut idle, mut behind) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let running = block_in_place(|| stage.start(Peer::Usher, &[]))?;
        // connections that are open and bring nothing
        let _waiting = Wire::open(&running.target).await?;
        running.signal("TERM")?;
        idle.push(ended(&running).await?);
    }
    for _ in 0..times {
        let running = block_in_place(|| stage.start(Peer::Usher, &[]))?;
        let request = running.target.stream(100, Duration::from_millis(100));
        let mut stream = Streaming::open(&running.target, &request).await?;
        sleep(Duration::from_secs(1)).await;
        running.signal("TERM")?;
        stream.finish().await.context("the stream was cut")?;
        behind.push(ended(&running).await?);
    }
    Ok(format!(
        "From SIGTERM to the end, idle: {}; from the last byte of a stream of 10 s to the end: {}.",
        spread(idle),
        spread(behind)
    ))
}

async fn ended(running: &Running) -> Result<Duration> {
    let begun = Instant::now();
    while running.is_alive() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "it does not end");
        sleep(Duration::from_millis(2)).await;
    }
    Ok(begun.elapsed())
}

fn spread(mut all: Vec<Duration>) -> String {
    all.sort_unstable();
    let of = |duration: Option<&Duration>| duration.map_or(0, Duration::as_millis);
    let (least, median, most) = (all.first(), all.get(all.len() / 2), all.last());
    format!("{} ms (of {}: {} to {})", of(median), all.len(), of(least), of(most))
}
