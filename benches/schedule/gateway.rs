//! Who chooses: Usher's own core, or one of those that stand in its place elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use usher::config::Config;
use usher::model::{ModelKey, ModelName};
use usher::payload::{Prompt, Runner};
use usher::scheduler::core::{Admitted, Claim, Core, Ending, Notice};
use usher::scheduler::{Facts, Payer, Post, Refused, Surface, Wish};

use crate::dice::Dice;
use crate::work::Request;

/// Who chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    Usher,
    LeastConn,
    Random,
    RoundRobin,
}

pub const ALL: [Policy; 4] = [Policy::Usher, Policy::LeastConn, Policy::Random, Policy::RoundRobin];

impl Policy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Usher => "Usher",
            Self::LeastConn => "least_conn",
            Self::Random => "random",
            Self::RoundRobin => "round robin",
        }
    }
}

/// nginx leaves a peer alone for so long after a failed connection (`fail_timeout`).
const FAIL_TIMEOUT: f64 = 10.0;

/// A peer: it sends each request on as it comes.
pub struct Peer {
    policy: Policy,
    dice: Dice,
    turn: usize,
    connections: Vec<usize>,
    failed_until: Vec<f64>,
}

impl Peer {
    pub fn new(policy: Policy, instances: usize, seed: u64) -> Self {
        Self {
            policy,
            dice: Dice::new(seed, "peer"),
            turn: 0,
            connections: vec![0; instances],
            failed_until: vec![f64::MIN; instances],
        }
    }

    /// The instance for a request that `tried` has failed already; none if all have.
    pub fn choose(&mut self, tried: &[usize], now: f64) -> Option<usize> {
        let all = 0..self.connections.len();
        let mut able: Vec<usize> = all
            .clone()
            .filter(|at| {
                !tried.contains(at) && self.failed_until.get(*at).is_some_and(|t| *t <= now)
            })
            .collect();
        if able.is_empty() {
            // if all have failed, nginx forgets it
            able = all.filter(|at| !tried.contains(at)).collect();
        }
        let count = able.len();
        self.turn += 1;
        // ties go round, as nginx's least_conn does
        able.rotate_left(self.turn % count.max(1));
        let chosen = match self.policy {
            Policy::Random => able.get(self.dice.below(count)).copied(),
            Policy::RoundRobin => able.first().copied(),
            _ => able.into_iter().min_by_key(|at| self.connections.get(*at).copied()),
        }?;
        if let Some(count) = self.connections.get_mut(chosen) {
            *count += 1;
        }
        Some(chosen)
    }

    pub fn left(&mut self, instance: usize) {
        if let Some(count) = self.connections.get_mut(instance) {
            *count -= 1;
        }
    }

    pub fn unreachable(&mut self, instance: usize, now: f64) {
        if let Some(until) = self.failed_until.get_mut(instance) {
            *until = now + FAIL_TIMEOUT;
        }
    }
}

/// Usher's core, in the time of the simulation.
pub struct Usher {
    pub core: Core,
    /// Requests by their numbers in the core's queue.
    pub waiting: HashMap<u64, usize>,
    begin: Instant,
    models: Vec<ModelKey>,
    size: u64,
}

impl Usher {
    pub fn new(slots: &[usize], models: usize, size: u64, per_user: usize) -> Self {
        let mut text = format!(
            "state_dir: s\nbalance: {{ queue: 100000, queue_per_user: {per_user} }}\nupstreams:\n"
        );
        for (at, slots) in slots.iter().enumerate() {
            text += &format!(
                "  - {{ name: gpu{at}, url: 'http://127.0.0.1:{}', slots: {slots} }}\n",
                at + 1
            );
        }
        let config = match Config::parse(&text, std::path::Path::new("."), &|_| None) {
            Ok(config) => config,
            Err(problems) => unreachable!("{problems}"),
        };
        let begin = Instant::now();
        let mut core = Core::new(&config.balance);
        let posts = (0..).zip(&config.upstreams);
        let posts = posts.map(|(id, upstream)| Post { id, upstream, facts: None }).collect();
        core.reconfigure(posts, &config.balance, begin);
        let names = (0..models).filter_map(|at| ModelName::parse(&format!("m{at}")).ok());
        let models = names.map(|name| name.key().clone()).collect();
        Self { core, waiting: HashMap::new(), begin, models, size }
    }

    pub fn at(&self, now: f64) -> Instant {
        self.begin + Duration::from_secs_f64(now)
    }

    /// A probe has found this.
    pub fn learn(
        &mut self,
        instance: usize,
        (up, answered): (bool, bool),
        residents: impl Iterator<Item = usize>,
        now: f64,
    ) {
        let residents: HashSet<ModelKey> =
            residents.filter_map(|model| self.models.get(model).cloned()).collect();
        let sizes = |keys: &mut dyn Iterator<Item = &ModelKey>| {
            Arc::new(keys.map(|key| (key.clone(), self.size)).collect())
        };
        let facts = Facts {
            up,
            answered,
            models: Arc::new(self.models.iter().cloned().collect()),
            remote: Arc::default(),
            sizes: sizes(&mut self.models.iter()),
            memory: sizes(&mut residents.iter()),
            residents: Arc::new(residents),
        };
        self.core.learn(instance, &facts, self.at(now));
    }

    pub fn arrive(
        &mut self,
        request: &Request,
        (tried, number): (&[usize], Option<u64>),
        now: f64,
    ) -> Result<Admitted, Refused> {
        let wish = Wish {
            model: self.models.get(request.model).cloned(),
            surface: Surface::Ollama,
            runner: Runner::default(),
            payer: Payer { user: request.user as i64, key: None, end_user: 0, weight: 1 },
            concurrency: u32::MAX,
            key_concurrency: u32::MAX,
            prompt: Arc::clone(&request.text),
            most_output: request.most_output,
            streams: true,
            unloads: false,
            deadline: None,
            excluded: tried.to_vec(),
            number,
        };
        self.core.arrive(wish, self.at(now))
    }

    pub fn release(&mut self, claim: &Claim, ending: &Ending, now: f64) {
        let at = self.at(now);
        self.core.release(claim, ending, at);
    }

    /// The loads for which nobody waits any more.
    pub fn abandoned(&mut self) -> Vec<u64> {
        let notices = self.core.notices().into_iter();
        notices
            .filter_map(|notice| match notice {
                Notice::Abandoned(claim) => Some(claim),
                _ => None,
            })
            .collect()
    }
}

/// A prompt of these messages, each of about so many tokens.
pub fn prompt(topic: usize, messages: &[u64]) -> Arc<Prompt> {
    let text = |(at, tokens): (usize, &u64)| {
        let mut text = format!("{topic} {at} ");
        text.extend(std::iter::repeat_n('.', (*tokens as usize * 4).saturating_sub(text.len())));
        text
    };
    let messages: Vec<String> = messages.iter().enumerate().map(text).collect();
    Arc::new(Prompt::of_messages(&messages))
}
