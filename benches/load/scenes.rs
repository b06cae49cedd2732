//! What is done to each proxy, in which order, and what is read off it.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use crate::client::{Bound, Streaming, Target, closed_loop, open_loop};
use crate::peers::{Peer, Stage};
use crate::process::Running;
use crate::report::{Metric, Results};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;
const NANOS_PER_MILLI: f64 = 1e6;

/// How long things last.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Of each steady load.
    pub load: Duration,
    /// Streams for the time to the first chunk.
    pub firsts: usize,
    /// Streams that are held open at once, and again many more where files may be opened.
    pub open: &'static [usize],
}

/// One proxy, from its start to its end.
pub async fn play(stage: &Stage, peer: Peer, pace: Pace, results: &mut Results) -> Result<()> {
    let running = tokio::task::block_in_place(|| stage.start(peer, &[]))?;
    let mut scene = Scene { peer, running: &running, pace, results };
    scene.memory().await?;
    scene.saturation().await?;
    scene.first_chunks().await?;
    scene.chunks().await?;
    scene.steady().await?;
    for (clients, rate, cpu) in [
        (20, Metric::LargeRate20, Metric::LargeCpu20),
        (200, Metric::LargeRate200, Metric::LargeCpu200),
    ] {
        scene.large_prompts(clients, rate, cpu).await?;
    }
    tokio::task::block_in_place(|| running.stop())
}

/// Requests a second and CPU seconds for 100,000 of them, of a proxy that has nothing else to do.
pub async fn saturate(stage: &Stage, peer: Peer, pace: Pace) -> Result<(f64, f64)> {
    let running = tokio::task::block_in_place(|| stage.start(peer, &[]))?;
    let measured = measure(&running, pace.load).await?;
    tokio::task::block_in_place(|| running.stop())?;
    Ok(measured)
}

async fn measure(running: &Running, time: Duration) -> Result<(f64, f64)> {
    let request = running.target.chat(200);
    closed_loop(&running.target, &request, 64, Bound::Requests(2000)).await?;
    let before = running.cpu();
    let (answered, took) = closed_loop(&running.target, &request, 64, Bound::Time(time)).await?;
    let cpu = running.cpu() - before;
    Ok((answered as f64 / took.as_secs_f64(), cpu * 1e5 / answered as f64))
}

struct Scene<'a> {
    peer: Peer,
    running: &'a Running,
    pace: Pace,
    results: &'a mut Results,
}

impl Scene<'_> {
    fn note(&mut self, metric: Metric, value: f64) {
        self.results.note(metric, self.peer, value);
    }

    fn target(&self) -> &Target {
        &self.running.target
    }

    /// Idle, with streams open, and after they ended: of a process that has done nothing else.
    async fn memory(&mut self) -> Result<()> {
        if self.peer == Peer::Direct {
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
        let idle = self.running.memory() as f64;
        self.note(Metric::Idle, idle / MIB);
        for count in self.pace.open {
            let held = self.hold(*count).await?;
            let (each, after, wait) = match count {
                1000 => (Metric::Stream1000, Metric::After1000, 2),
                _ => (Metric::Stream5000, Metric::After5000, 12),
            };
            self.note(each, (held - idle) / *count as f64 / KIB);
            sleep(Duration::from_secs(wait)).await;
            self.note(after, self.running.memory() as f64 / MIB);
        }
        Ok(())
    }

    /// Memory while so many streams are open.
    async fn hold(&self, count: usize) -> Result<f64> {
        /// Connections that are made at once.
        const BATCH: usize = 50;
        let request = self.target().stream(3600, Duration::from_secs(1));
        let mut streams = Vec::with_capacity(count);
        while streams.len() < count {
            let opening = (0..BATCH).map(|_| Streaming::open(self.target(), &request));
            streams.extend(try_join_all(opening).await?);
        }
        sleep(Duration::from_millis(1500)).await;
        Ok(self.running.memory() as f64)
    }

    async fn saturation(&mut self) -> Result<()> {
        let (rate, cpu) = measure(self.running, self.pace.load).await?;
        self.note(Metric::Rate, rate);
        self.note(Metric::Cpu, cpu);
        Ok(())
    }

    async fn steady(&mut self) -> Result<()> {
        let request = self.target().chat(200);
        let mut all = open_loop(self.target(), &request, 500, self.pace.load).await?;
        all.sort_unstable();
        self.note(Metric::P50, percentile(&all, 50) / NANOS_PER_MILLI);
        self.note(Metric::P99, percentile(&all, 99) / NANOS_PER_MILLI);
        Ok(())
    }

    async fn first_chunks(&mut self) -> Result<()> {
        let request = self.target().stream(1, Duration::ZERO);
        let mut all = Vec::new();
        for _ in 0..self.pace.firsts {
            let mut stream = Streaming::open(self.target(), &request).await?;
            all.extend(stream.next().await?.first().map(|arrival| arrival.since_request));
            stream.finish().await?;
        }
        all.sort_unstable();
        self.note(Metric::FirstChunk, percentile(&all, 50) / NANOS_PER_MILLI);
        Ok(())
    }

    /// A hundred streams at fifty tokens a second, begun one after the other within one gap.
    async fn chunks(&mut self) -> Result<()> {
        const GAP: Duration = Duration::from_millis(20);
        let tokens = u32::try_from(self.pace.load.as_millis() / GAP.as_millis())?;
        let request = self.target().stream(tokens, GAP);
        let begun = Instant::now();
        let before = self.running.cpu();
        let read = (0..100_u32).map(|number| {
            let (target, request) = (self.target().clone(), request.clone());
            let delays = tokio::spawn(async move {
                tokio::time::sleep_until(begun + GAP * number / 100).await;
                let mut stream = Streaming::open(&target, &request).await?;
                let mut delays = Vec::new();
                loop {
                    let arrived = stream.next().await?;
                    if arrived.is_empty() {
                        return anyhow::Ok(delays);
                    }
                    delays.extend(arrived.iter().map(|arrival| arrival.since_sent));
                }
            });
            async { anyhow::Ok(delays.await??) }
        });
        let mut all = try_join_all(read).await?.concat();
        let cpu = self.running.cpu() - before;
        all.sort_unstable();
        self.note(Metric::ChunkDelay, percentile(&all, 50) / NANOS_PER_MILLI);
        self.note(Metric::ChunkCpu, cpu * 1e5 / all.len() as f64);
        Ok(())
    }

    async fn large_prompts(&mut self, clients: usize, rate: Metric, cpu: Metric) -> Result<()> {
        let request = self.target().chat(220_000);
        let before = self.running.cpu();
        let bound = Bound::Time(self.pace.load / 2);
        let (answered, took) = closed_loop(self.target(), &request, clients, bound).await?;
        let spent = self.running.cpu() - before;
        self.note(rate, answered as f64 / took.as_secs_f64());
        self.note(cpu, spent * 1e3 / answered as f64);
        Ok(())
    }
}

/// Of sorted values.
pub fn percentile(sorted: &[u64], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default() as f64
}
