//! The runner of a loaded model: slots, prefix cache, prefill, decode.

mod generation;
mod lanes;
mod seat;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cli::Args;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::knobs::Panel;
use crate::model::Model;
use crate::refusal::Refusal;
use crate::sched::{Lease, Scheduler, Want};
use crate::text::{self, tokens};

pub(crate) use generation::{Generation, Kind, Outcome, Piece};
pub(crate) use lanes::Lanes;
use seat::Seat;

/// A loaded model.
pub(crate) struct Runner {
    pub(crate) model: Arc<Model>,
    /// Context of each slot, in tokens.
    pub(crate) context: u64,
    /// One permit a slot; fair, and without any bound on its queue.
    pub(crate) seats: Arc<Semaphore>,
    pub(crate) lanes: Mutex<Lanes>,
}

/// One prompt to work on.
pub(crate) struct Job {
    pub(crate) want: Want,
    /// The rendered prompt.
    pub(crate) prompt: Vec<u8>,
    /// `num_predict`; none lets the model end by itself.
    pub(crate) limit: Option<usize>,
    pub(crate) think: bool,
    /// A tool to call at the end.
    pub(crate) tool: Option<String>,
    /// Cut prompts that exceed the context, instead of refusing them.
    pub(crate) shift: bool,
}

/// What generations share.
pub(crate) struct Engine {
    pub(crate) args: Arc<Args>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) panel: Arc<Panel>,
    pub(crate) scheduler: Arc<Scheduler>,
}

/// Numbers of one embedded input.
pub(crate) struct Embedded {
    pub(crate) vector: Vec<f32>,
    pub(crate) tokens: usize,
}

impl Engine {
    /// Waits for the model, a slot and the prefill; then the tokens can be asked for.
    pub(crate) async fn start(self: &Arc<Self>, job: Job) -> Result<Generation, Refusal> {
        let arrived = Instant::now();
        let lease = self.scheduler.acquire(&job.want).await?;
        let loaded = self.clock.since(arrived);
        let job = fit(job, lease.runner.context)?;
        let mut seat = self.sit(lease, &job.prompt).await;
        let started = Instant::now();
        self.prefill(&mut seat, job.prompt.len()).await;
        let prefilled = self.clock.since(started);
        let plan = generation::Plan::new(&self.args, &job);
        Ok(Generation::new(
            Arc::clone(self),
            seat,
            plan,
            generation::Times { arrived, load: loaded, prefill: prefilled },
        ))
    }

    /// A model that would be asked elsewhere: no load, no slot.
    pub(crate) fn start_remote(self: &Arc<Self>, job: &Job) -> Generation {
        let times = generation::Times::none();
        Generation::new(
            Arc::clone(self),
            Seat::remote(),
            generation::Plan::new(&self.args, job),
            times,
        )
    }

    /// Loads a model and does nothing with it.
    pub(crate) async fn preload(&self, want: &Want) -> Result<(), Refusal> {
        self.scheduler.acquire(want).await.map(drop)
    }

    /// Embeds one input, which takes a slot of its own.
    pub(crate) async fn embed(&self, lease: Lease, input: &str) -> Embedded {
        let model = Arc::clone(&lease.runner.model);
        let mut seat = self.sit(lease, b"").await;
        self.prefill(&mut seat, input.len()).await;
        let root = text::root(self.args.seed, &model.digest, input.as_bytes());
        Embedded { vector: text::embedding(root, model.embedding), tokens: tokens(input.len()) }
    }

    async fn sit(&self, lease: Lease, prompt: &[u8]) -> Seat {
        let waiting = self.counters.hold(|c| &c.waiting_slot, None);
        let permit = Arc::clone(&lease.runner.seats).acquire_owned().await.ok();
        drop(waiting);
        self.counters.add(|c| &c.slot_acquisitions, 1);
        let held = self.counters.hold(|c| &c.slots_in_use, Some(|c| &c.max_concurrent));
        let taken = lease.runner.lanes.lock().take(prompt);
        Seat::new(lease, permit, held, taken, prompt)
    }

    /// Works on the part of the prompt that is not cached, batch by batch.
    async fn prefill(&self, seat: &mut Seat, bytes: usize) {
        let total = tokens(bytes);
        let cached = tokens(seat.cached_bytes()).min(total.saturating_sub(1));
        self.counters.add(|c| &c.cache_hit_tokens, cached);
        let rate = self.args.prefill_rate;
        let cost = |tokens: usize| self.clock.real(Duration::from_secs_f64(tokens as f64 / rate));
        let mut now = Instant::now();
        let end = now + cost(total - cached);
        let mut left = total - cached;
        while left > 0 {
            self.panel.wait(|knobs| !knobs.wedged).await;
            let batch = left.min(self.args.batch as usize);
            now += cost(batch);
            seat.busy_until(match self.args.prefill_cancel {
                crate::cli::PrefillCancel::Batch => now,
                crate::cli::PrefillCancel::End => end,
            });
            sleep_until(now).await;
            left -= batch;
            self.counters.add(|c| &c.prefill_tokens, batch);
            seat.prefilled(bytes - left.saturating_mul(4).min(bytes));
        }
        seat.prefilled(bytes);
    }
}

/// The job with its prompt cut to the context, or Ollama's refusal.
fn fit(mut job: Job, context: u64) -> Result<Job, Refusal> {
    let most = usize::try_from(context).unwrap_or(usize::MAX).saturating_mul(4);
    if job.prompt.len() > most {
        if !job.shift {
            return Err(Refusal::bad(
                "the prompt is longer than the context length currently available",
            ));
        }
        job.prompt.drain(..job.prompt.len() - most);
    }
    Ok(job)
}

/// Sleeps unless the moment has passed: many short sleeps must not add up their rounding.
async fn sleep_until(moment: Instant) {
    if moment > Instant::now() {
        tokio::time::sleep_until(moment).await;
    }
}
