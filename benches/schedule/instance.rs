//! An Ollama in virtual time, as its sources say it behaves: loads one after the other, first
//! come first served and given up when their requester leaves; an unbounded queue in front of a
//! loaded model; slots that share the card; prompts cached from the first difference on.

use std::collections::VecDeque;

/// How one is made.
#[derive(Clone, Debug)]
pub struct Make {
    /// Requests for a model that it works on at once.
    pub slots: usize,
    /// Models in memory at once.
    pub room: usize,
    /// Conversations whose prompts it keeps.
    pub cache: usize,
    /// Tokens a second.
    pub prefill: f64,
    /// Tokens a second of a lone request.
    pub decode: f64,
    /// How much each further request at work slows the others down.
    pub sharing: f64,
    /// Seconds that loading takes.
    pub load: f64,
}

/// Work for it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The request.
    pub id: usize,
    /// Its model.
    pub model: usize,
    /// The conversation, whose earlier prompts may be cached.
    pub topic: usize,
    /// Tokens to read, and to write.
    pub prompt: u64,
    /// Tokens to write.
    pub output: u64,
    /// Only to load the model.
    pub warms: bool,
}

/// Tokens of a prompt that are read in one go.
const BATCH: u64 = 512;

#[derive(Debug)]
struct Active {
    job: Job,
    /// Its client has left; it ends with the token, or with the batch of its prompt, that it is at.
    left_alone: bool,
    /// Seconds of a lone request's work that are left of this phase.
    left: f64,
    reading: bool,
    read: u64,
    begun: f64,
    prefilled: f64,
}

impl Active {
    fn stop(&mut self, make: &Make) {
        self.left_alone = true;
        self.left = if self.reading {
            let done = self.read as f64 - self.left * make.prefill;
            let batch = BATCH as f64;
            ((batch - done % batch) / make.prefill).min(self.left)
        } else {
            (self.left * make.decode).fract() / make.decode
        };
    }
}

#[derive(Debug)]
struct Loaded {
    model: usize,
    waiting: VecDeque<Job>,
    active: Vec<Active>,
    used: f64,
    cache: VecDeque<(usize, u64)>,
}

/// What happened in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Happened {
    /// A model is in memory.
    Loaded(usize),
    /// A request that only had it loaded is done.
    Warm(usize),
    /// A request's first token.
    First(usize),
    /// A request whose client left holds nothing any more.
    Freed(usize),
    /// A request is done; seconds of reading and of writing, as the last chunk tells, and tokens
    /// that were read.
    Done {
        /// The request.
        id: usize,
        /// Seconds.
        prefill: f64,
        /// Seconds.
        decode: f64,
        /// Tokens.
        read: u64,
    },
}

/// One instance.
#[derive(Debug)]
pub struct Instance {
    /// How it is made.
    pub make: Make,
    /// Answers 503 at once.
    pub refuses: bool,
    /// Nothing moves, although its probes succeed.
    pub hangs: bool,
    /// It is not there.
    pub dead: bool,
    /// Loads, since the beginning.
    pub loads: usize,
    /// Tokens of prompts that were read, since the beginning.
    pub read: u64,
    loaded: Vec<Loaded>,
    pending: VecDeque<Job>,
    /// The model that is loaded now, for whom, and until when.
    loading: Option<(usize, usize, f64)>,
    now: f64,
}

impl Instance {
    pub fn new(make: Make) -> Self {
        Self {
            make,
            refuses: false,
            hangs: false,
            dead: false,
            loads: 0,
            read: 0,
            loaded: Vec::new(),
            pending: VecDeque::new(),
            loading: None,
            now: 0.0,
        }
    }

    /// The models in memory.
    pub fn residents(&self) -> impl Iterator<Item = usize> + '_ {
        self.loaded.iter().map(|loaded| loaded.model)
    }

    /// Takes a job.
    pub fn take(&mut self, job: Job, now: f64) -> Vec<Happened> {
        let mut happened = self.advance(now);
        self.admit(job, &mut happened);
        self.proceed(&mut happened);
        happened
    }

    fn admit(&mut self, job: Job, happened: &mut Vec<Happened>) {
        match self.loaded.iter_mut().find(|loaded| loaded.model == job.model) {
            Some(loaded) => {
                loaded.used = self.now;
                if job.warms {
                    happened.push(Happened::Warm(job.id));
                } else {
                    loaded.waiting.push_back(job);
                }
            }
            None => self.pending.push_back(job),
        }
    }

    /// A client left, or the gateway hung up. Whoever waits is gone at once; what is worked on ends
    /// between two tokens, or between two batches of its prompt.
    pub fn drop_job(&mut self, id: usize, now: f64) -> Vec<Happened> {
        let mut happened = self.advance(now);
        // the requester's leaving ends the load, whoever else waits for it
        if self.loading.is_some_and(|(_, whose, _)| whose == id) {
            self.loading = None;
        }
        self.pending.retain(|job| job.id != id);
        for loaded in &mut self.loaded {
            loaded.waiting.retain(|job| job.id != id);
            let at_work = loaded.active.iter_mut().filter(|active| active.job.id == id);
            at_work.for_each(|active| active.stop(&self.make));
        }
        let at_work = self.loaded.iter().flat_map(|loaded| &loaded.active);
        if !at_work.into_iter().any(|active| active.job.id == id) {
            happened.push(Happened::Freed(id));
        }
        self.proceed(&mut happened);
        happened
    }

    /// It is killed: whom it worked for is told by a reset.
    pub fn die(&mut self, now: f64) -> Vec<usize> {
        self.advance(now);
        self.dead = true;
        self.loading = None;
        let pending = self.pending.drain(..).map(|job| job.id).collect::<Vec<_>>();
        let inside = self.loaded.drain(..).flat_map(|loaded| {
            let active = loaded.active.into_iter().filter(|active| !active.left_alone);
            let active = active.map(|active| active.job.id);
            loaded.waiting.into_iter().map(|job| job.id).chain(active).collect::<Vec<_>>()
        });
        inside.chain(pending).collect()
    }

    /// When something will happen by itself.
    pub fn next(&self) -> Option<f64> {
        if self.hangs || self.dead {
            return None;
        }
        let speed = self.speed();
        let active = self.loaded.iter().flat_map(|loaded| &loaded.active);
        let phases = active.map(|active| self.now + active.left / speed);
        phases.chain(self.loading.map(|(_, _, until)| until)).min_by(f64::total_cmp)
    }

    /// Lets time pass until then.
    pub fn run(&mut self, now: f64) -> Vec<Happened> {
        let mut happened = self.advance(now);
        self.proceed(&mut happened);
        happened
    }

    fn speed(&self) -> f64 {
        let active = self.loaded.iter().map(|loaded| loaded.active.len()).sum::<usize>();
        1.0 / (1.0 + self.make.sharing * active.saturating_sub(1) as f64)
    }

    fn advance(&mut self, now: f64) -> Vec<Happened> {
        let mut happened = Vec::new();
        let passed = if self.hangs { 0.0 } else { (now - self.now).max(0.0) * self.speed() };
        self.now = now;
        let decode = self.make.decode;
        for loaded in &mut self.loaded {
            for active in &mut loaded.active {
                active.left -= passed;
            }
            let mut at = 0;
            while let Some(active) = loaded.active.get_mut(at) {
                if active.left > 1e-9 {
                    at += 1;
                } else if active.left_alone {
                    happened.push(Happened::Freed(active.job.id));
                    loaded.active.remove(at);
                    loaded.used = now;
                } else if active.reading {
                    active.reading = false;
                    active.prefilled = now;
                    active.left = active.job.output as f64 / decode;
                    self.read += active.read;
                    happened.push(Happened::First(active.job.id));
                } else {
                    let done = loaded.active.remove(at);
                    loaded.used = now;
                    happened.push(Happened::Done {
                        id: done.job.id,
                        prefill: done.prefilled - done.begun,
                        decode: now - done.prefilled,
                        read: done.read,
                    });
                }
            }
        }
        if let Some((model, _, until)) = self.loading.filter(|_| !self.hangs)
            && until <= now + 1e-9
        {
            self.loading = None;
            self.loads += 1;
            happened.push(Happened::Loaded(model));
            let (waiting, active, cache) = (VecDeque::new(), Vec::new(), VecDeque::new());
            self.loaded.push(Loaded { model, waiting, active, used: now, cache });
        }
        happened
    }

    fn proceed(&mut self, happened: &mut Vec<Happened>) {
        if self.dead {
            return;
        }
        // whoever waited for a load that is done bypasses the rest
        for job in std::mem::take(&mut self.pending) {
            self.admit(job, happened);
        }
        self.begin_load();
        let Make { slots, cache, prefill, .. } = self.make;
        for loaded in &mut self.loaded {
            while loaded.active.len() < slots
                && let Some(job) = loaded.waiting.pop_front()
            {
                let known = loaded.cache.iter().find(|(topic, _)| *topic == job.topic);
                let cached =
                    known.map_or(0, |(_, tokens)| *tokens).min(job.prompt.saturating_sub(1));
                loaded.cache.retain(|(topic, _)| *topic != job.topic);
                loaded.cache.push_front((job.topic, job.prompt + job.output));
                loaded.cache.truncate(cache);
                let read = job.prompt - cached;
                loaded.active.push(Active {
                    left_alone: false,
                    left: read as f64 / prefill,
                    job,
                    reading: true,
                    read,
                    begun: self.now,
                    prefilled: self.now,
                });
            }
        }
    }

    /// One load at a time, for the first who waits; an idle model makes room, a busy one is waited
    /// for.
    fn begin_load(&mut self) {
        if self.loading.is_some() || self.hangs {
            return;
        }
        let Some(first) = self.pending.front() else { return };
        let (model, whose) = (first.model, first.id);
        while self.loaded.len() >= self.make.room {
            let idle = self
                .loaded
                .iter()
                .enumerate()
                .filter(|(_, loaded)| loaded.active.is_empty() && loaded.waiting.is_empty());
            let Some((at, _)) = idle.min_by(|(_, a), (_, b)| a.used.total_cmp(&b.used)) else {
                return;
            };
            self.loaded.remove(at);
        }
        self.loading = Some((model, whose, self.now + self.make.load));
    }
}
