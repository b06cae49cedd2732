//! Ollama's scheduler: which models are loaded, and who waits for a load.
//!
//! A request for a loaded model with the same Runner options takes it at once. Every other request
//! passes one FIFO gate and loads, evicts or reloads there by itself: when its client leaves, its
//! future is dropped and the load with it, as in Ollama.

mod lease;
mod table;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Gate, MutexGuard, Notify};
use tokio::time::Instant;

use crate::cli::Args;
use crate::clock::Clock;
use crate::counters::{Counters, Held};
use crate::engine::{Lanes, Runner};
use crate::knobs::Panel;
use crate::model::Model;
use crate::refusal::Refusal;
use crate::units::Stay;

pub(crate) use lease::Lease;
pub(crate) use table::{Resident, RunnerOptions};
use table::{Room, Table, Tenant};

/// What a request needs before it can run.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) model: Arc<Model>,
    pub(crate) options: RunnerOptions,
    pub(crate) keep_alive: Option<Stay>,
}

pub(crate) struct Scheduler {
    args: Arc<Args>,
    clock: Clock,
    counters: Arc<Counters>,
    panel: Arc<Panel>,
    default_stay: Stay,
    /// Fair: the first to wait is the first to load.
    gate: Gate<()>,
    table: Mutex<Table>,
    /// A model was released, unloaded or loaded.
    changed: Notify,
}

impl Scheduler {
    pub(crate) fn new(
        args: Arc<Args>,
        clock: Clock,
        counters: Arc<Counters>,
        panel: Arc<Panel>,
    ) -> Result<Self, Refusal> {
        let default_stay = Stay::parse(&args.keep_alive)?;
        let table = Mutex::new(Table::new(args.vram, args.max_loaded));
        let (gate, changed) = (Gate::new(()), Notify::new());
        Ok(Self { args, clock, counters, panel, default_stay, gate, table, changed })
    }

    /// A loaded model, held until the lease is dropped. 503 when too many wait for a load.
    pub(crate) async fn acquire(self: &Arc<Self>, want: &Want) -> Result<Lease, Refusal> {
        if let Some(lease) = self.loaded(want) {
            return Ok(lease);
        }
        let _gate = self.enter().await?;
        if let Some(lease) = self.loaded(want) {
            return Ok(lease);
        }
        self.make_room(want).await;
        self.load(want).await
    }

    /// Unloads a model as soon as it is idle: an empty request with `keep_alive` 0.
    pub(crate) fn expire(&self, model: &Model) {
        let gone = self.table.lock().doom(&model.digest);
        if gone {
            self.unloaded();
        }
    }

    pub(crate) fn residents(&self) -> Vec<Resident> {
        self.table.lock().residents(self.clock)
    }

    /// When the memory of the last unload has come back.
    pub(crate) fn recovered_at(&self) -> Option<Instant> {
        self.table.lock().recovering_until
    }

    fn loaded(self: &Arc<Self>, want: &Want) -> Option<Lease> {
        let (id, runner) = self.table.lock().take(want)?;
        Some(Lease::new(Arc::clone(self), id, runner))
    }

    async fn enter(&self) -> Result<MutexGuard<'_, ()>, Refusal> {
        if let Ok(gate) = self.gate.try_lock() {
            return Ok(gate);
        }
        let Some(_queued) = self.place() else {
            self.counters.add(|c| &c.refused_busy, 1);
            return Err(Refusal::busy());
        };
        Ok(self.gate.lock().await)
    }

    /// A place in the pending queue, unless it is full; the lock makes the bound exact.
    fn place(&self) -> Option<Held> {
        let _table = self.table.lock();
        let full = self.counters.read(|c| &c.queued) >= self.args.max_queue;
        (!full).then(|| self.counters.hold(|c| &c.queued, None))
    }

    /// Evicts until the wanted model fits. Busy victims are waited for.
    async fn make_room(&self, want: &Want) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let room = self.table.lock().make_room(want, self.lanes(&want.model));
            match room {
                Room::Enough => return,
                Room::Busy => changed.await,
                Room::Evicted => self.counters.add(|c| &c.evictions, 1),
                Room::Reloading => self.counters.add(|c| &c.reloads, 1),
            }
            if matches!(room, Room::Evicted | Room::Reloading) {
                self.unloaded();
            }
            self.recover().await;
        }
    }

    async fn recover(&self) {
        if let Some(until) = self.recovered_at() {
            tokio::time::sleep_until(until).await;
        }
    }

    async fn load(self: &Arc<Self>, want: &Want) -> Result<Lease, Refusal> {
        let attempt = Attempt::new(&self.counters);
        let read = self.read_weights(want.model.size).await;
        attempt.ended();
        read?;
        self.counters.add(|c| &c.loads, 1);
        Ok(self.install(want))
    }

    /// The time of a load, and the ways it can fail. vLLM has its model before it listens.
    async fn read_weights(&self, bytes: u64) -> Result<(), Refusal> {
        if self.args.openai_only {
            return Ok(());
        }
        let reading = Duration::from_secs_f64(bytes as f64 / self.args.load_rate.max(1) as f64);
        self.clock.pass(self.args.load_base + reading).await;
        let patience = self.clock.real(self.args.load_timeout);
        let moving = self.panel.wait(|knobs| !knobs.load_stall);
        tokio::time::timeout(patience, moving).await.map_err(|_| {
            Refusal::new(500, "timed out waiting for llama-server to start - progress 0.00 - ")
        })?;
        match self.panel.now().load_error {
            Some(reason) => {
                Err(Refusal::new(500, format!("llama-server process has terminated: {reason}")))
            }
            None => Ok(()),
        }
    }

    fn install(self: &Arc<Self>, want: &Want) -> Lease {
        let lanes = self.lanes(&want.model);
        let runner = Arc::new(Runner {
            model: Arc::clone(&want.model),
            context: want.options.context,
            seats: Arc::new(tokio::sync::Semaphore::new(lanes)),
            lanes: Mutex::new(Lanes::new(lanes, self.args.cache_ram, want.model.kv)),
        });
        let stay = want.keep_alive.unwrap_or(self.default_stay);
        let id = self.table.lock().install(Tenant::new(Arc::clone(&runner), want, stay, lanes));
        self.changed.notify_waiters();
        Lease::new(Arc::clone(self), id, runner)
    }

    fn lanes(&self, model: &Model) -> usize {
        model.lanes(self.args.slots)
    }

    /// Books the end of a model; its memory takes a while to come back.
    fn unloaded(&self) {
        self.counters.add(|c| &c.unloads, 1);
        let back = Instant::now() + self.clock.real(self.args.vram_recovery);
        self.table.lock().recovering_until = Some(back);
        self.changed.notify_waiters();
    }

    /// The end of a lease: an idle model starts to expire.
    fn release(self: &Arc<Self>, id: u64) {
        let released = self.table.lock().release(id, self.clock);
        match released {
            table::Released::Gone => self.unloaded(),
            table::Released::Idle { until, epoch } => self.expire_at(id, until, epoch),
            table::Released::Kept => {}
        }
        self.changed.notify_waiters();
    }

    fn expire_at(self: &Arc<Self>, id: u64, until: Instant, epoch: u64) {
        // no runtime: the process is ending
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let scheduler = Arc::clone(self);
        runtime.spawn(async move {
            tokio::time::sleep_until(until).await;
            let gone = scheduler.table.lock().expire(id, epoch);
            if gone {
                scheduler.unloaded();
            }
        });
    }
}

/// A load under way; dropped before it ended, it counts as aborted.
struct Attempt {
    counters: Arc<Counters>,
    loading: Option<Held>,
}

impl Attempt {
    fn new(counters: &Arc<Counters>) -> Self {
        let loading = Some(counters.hold(|c| &c.loading, None));
        Self { counters: Arc::clone(counters), loading }
    }

    fn ended(mut self) {
        self.loading = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.loading.is_some() {
            self.counters.aborted_loads.fetch_add(1, Ordering::SeqCst);
        }
    }
}
