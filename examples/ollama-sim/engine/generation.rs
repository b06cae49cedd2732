//! Tokens, one at a time, and what they cost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::seat::Seat;
use super::{Engine, Job, sleep_until};
use crate::cli::Args;
use crate::counters::Held;
use crate::text::{self, tokens};

/// What a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Thinking,
    Content,
}

/// One token.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// How a generation ended. Durations are modelled ones.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Cached tokens included.
    pub(crate) prompt_tokens: usize,
    pub(crate) output_tokens: usize,
    pub(crate) total: Duration,
    pub(crate) load: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
    /// `stop` or `length`.
    pub(crate) reason: &'static str,
    pub(crate) tool: Option<String>,
    /// Cached context in the deprecated form of `/api/generate`.
    pub(crate) context: Vec<u32>,
}

/// When things happened before the first token.
pub(super) struct Times {
    pub(super) arrived: Instant,
    pub(super) load: Duration,
    pub(super) prefill: Duration,
}

impl Times {
    pub(super) fn none() -> Self {
        Self { arrived: Instant::now(), load: Duration::ZERO, prefill: Duration::ZERO }
    }
}

/// What will be said.
pub(super) struct Plan {
    root: u64,
    thinking: usize,
    count: usize,
    reason: &'static str,
    tool: Option<String>,
    prompt: Vec<u8>,
}

/// Tokens of thought before the answer, when thought is asked for.
const THOUGHT: usize = 8;

impl Plan {
    pub(super) fn new(args: &Args, job: &Job) -> Self {
        let (count, reason) = match job.limit {
            Some(limit) => (limit, "length"),
            None => (args.default_tokens, "stop"),
        };
        let model = &job.want.model.digest;
        Self {
            root: text::root(args.seed, model, &job.prompt),
            thinking: if job.think { THOUGHT.min(count / 2) } else { 0 },
            count,
            reason,
            tool: job.tool.clone(),
            prompt: job.prompt.clone(),
        }
    }
}

/// A running generation. Dropping it cancels the rest.
pub(crate) struct Generation {
    engine: Arc<Engine>,
    seat: Option<Seat>,
    plan: Plan,
    times: Times,
    started: Instant,
    next_at: Instant,
    emitted: usize,
    decoding: Option<Held>,
}

impl Generation {
    pub(super) fn new(engine: Arc<Engine>, seat: Seat, plan: Plan, times: Times) -> Self {
        let decoding = Some(engine.counters.hold(|c| &c.decoding, None));
        let started = Instant::now();
        let (seat, next_at) = (Some(seat), started);
        Self { engine, seat, plan, times, started, next_at, emitted: 0, decoding }
    }

    /// What ids of this answer follow from.
    pub(crate) const fn root(&self) -> u64 {
        self.plan.root
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        tokens(self.plan.prompt.len())
    }

    /// The next token, once the card had time for it; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        if self.emitted >= self.plan.count {
            return None;
        }
        self.engine.panel.wait(|knobs| !knobs.wedged).await;
        self.pace().await;
        let text = text::word(self.plan.root, self.emitted);
        let thinking = self.emitted < self.plan.thinking;
        let kind = if thinking { Kind::Thinking } else { Kind::Content };
        self.emitted += 1;
        self.engine.counters.add(|c| &c.decoded_tokens, 1);
        if let Some(seat) = &mut self.seat {
            seat.decoded(&text);
        }
        Some(Piece { kind, text })
    }

    /// Frees the slot and says what it all cost.
    pub(crate) fn finish(&mut self) -> Outcome {
        self.seat = None;
        self.decoding = None;
        let prompt_tokens = self.prompt_tokens();
        let mut outcome = Outcome {
            prompt_tokens,
            output_tokens: self.emitted,
            total: self.engine.clock.since(self.times.arrived),
            load: self.times.load,
            prefill: self.times.prefill,
            decode: self.engine.clock.since(self.started),
            reason: self.plan.reason,
            tool: self.plan.tool.clone(),
            context: context(&self.plan.prompt),
        };
        if self.engine.clock.is_deterministic() {
            self.settle(&mut outcome);
        }
        outcome
    }

    /// Durations as the model has them for a loaded model, an empty cache and no neighbours.
    fn settle(&self, outcome: &mut Outcome) {
        let args = &self.engine.args;
        outcome.load = Duration::from_millis(1);
        outcome.prefill = seconds(outcome.prompt_tokens, args.prefill_rate);
        outcome.decode = seconds(outcome.output_tokens, args.decode_rate);
        outcome.total = outcome.load + outcome.prefill + outcome.decode;
    }

    /// Waits for one token's time, which grows with the number of requests that decode now.
    async fn pace(&mut self) {
        let active = self.engine.counters.read(|c| &c.decoding).max(1);
        let args = &self.engine.args;
        let crowd = args.decode_sharing.mul_add((active - 1) as f64, 1.0);
        let time = Duration::from_secs_f64(crowd.max(0.0) / args.decode_rate);
        self.next_at = (self.next_at + self.engine.clock.real(time)).max(self.behind());
        sleep_until(self.next_at).await;
    }

    /// A client that reads slowly holds the runner up; lost time is not made good in a burst.
    fn behind(&self) -> Instant {
        let grace = Duration::from_millis(20);
        Instant::now().checked_sub(grace).unwrap_or(self.next_at)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.decoding.is_some() {
            let counters = &self.engine.counters;
            counters.add(|c| &c.cancelled_tokens, self.emitted);
            counters.add(|c| &c.saved_tokens, self.plan.count - self.emitted);
        }
    }
}

fn seconds(tokens: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(tokens as f64 / rate)
}

/// The newest tokens of a prompt, as numbers.
fn context(prompt: &[u8]) -> Vec<u32> {
    const MOST: usize = 1024;
    let start = prompt.len().saturating_sub(MOST);
    let number = |chunk: &[u8]| chunk.iter().fold(0u32, |n, b| (n * 31 + u32::from(*b)) % 128_000);
    prompt.get(start..).unwrap_or_default().chunks(4).map(number).collect()
}
