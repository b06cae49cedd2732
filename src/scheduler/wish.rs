//! What a request needs of an instance, and why it may get no place.

use std::sync::Arc;
use std::time::Duration;

use super::permits::Holder;
use crate::model::ModelKey;
use crate::payload::{Prompt, Runner};

/// What a request needs of an instance.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The model; `None` takes any instance.
    pub model: Option<ModelKey>,
    /// Which interface the request speaks.
    pub surface: Surface,
    /// The options that a loaded model cannot change: another set of them is another load.
    pub runner: Runner,
    /// Who is asking.
    pub payer: Payer,
    /// Seats that this user may hold at once.
    pub concurrency: u32,
    /// Seats that may be held through their key at once.
    pub key_concurrency: u32,
    /// What is to be read before the first token.
    pub prompt: Arc<Prompt>,
    /// Most tokens that the answer may have, if the request says; 0 for embeddings.
    pub most_output: Option<u64>,
    /// Whether the answer comes piece by piece; one that does not is silent until it is complete.
    pub streams: bool,
    /// Whether it has the model unloaded: for that nothing has to be loaded.
    pub unloads: bool,
    /// How long the client waits for a first byte, if it says.
    pub deadline: Option<Duration>,
    /// Instances that have failed it already.
    pub excluded: Vec<usize>,
    /// Its place in the queue from an earlier attempt.
    pub number: Option<u64>,
}

/// Whose clock runs for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payer {
    /// The user: the unit of fairness, and of the bounds on the queue.
    pub user: i64,
    /// The key through which the user asks, whose seats are counted by themselves too.
    pub key: Option<i64>,
    /// The end user that a delegating key names, as one of [`END_USERS`] numbers; they share what
    /// the user gets. 0 for all others.
    pub end_user: u64,
    /// Share of the box, beside those of others.
    pub weight: u32,
}

/// Numbers that end users are told apart by: two who meet in one share a clock, and a client that
/// makes up names fills no memory.
pub const END_USERS: u64 = 4096;

/// Which interface a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Surface {
    /// Ollama's own `/api`.
    Ollama,
    /// The OpenAI-compatible `/v1`, which every kind of instance has.
    V1,
}

/// What requests have in common that any instance can or cannot serve alike; they form one line.
/// In their order, lines that wish for the same model with the same options are neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) model: Option<ModelKey>,
    pub(super) runner: Runner,
    pub(super) unloads: bool,
    pub(super) surface: Surface,
    pub(super) excluded: Vec<usize>,
}

impl Class {
    /// The least of those with this model and these options, and, with the least of all options,
    /// of those with this model.
    pub(super) fn first_of(model: ModelKey, runner: Runner) -> Self {
        let (model, excluded) = (Some(model), Vec::new());
        Self { model, runner, unloads: false, surface: Surface::Ollama, excluded }
    }
}

impl Wish {
    /// The key, if it may hold fewer seats than its user.
    pub(super) fn limited_key(&self) -> Option<i64> {
        self.payer.key.filter(|_| self.key_concurrency < self.concurrency)
    }

    /// Who may hold how many seats for this: the user, and the key if it may hold fewer.
    /// Twice the user, if it may not.
    pub(super) fn bounds(&self) -> [(Holder, u32); 2] {
        let user = self.payer.user;
        let of_user = (Holder { user, key: None }, self.concurrency);
        let key = self.limited_key();
        let through = (Holder { user, key }, self.key_concurrency);
        [of_user, if key.is_some() { through } else { of_user }]
    }

    /// How many seats may be held.
    pub(super) fn limit_of(&self, holder: Holder) -> u32 {
        if holder.key.is_some() { self.key_concurrency } else { self.concurrency }
    }

    pub(super) fn class(&self) -> Class {
        Class {
            model: self.model.clone(),
            runner: self.runner,
            unloads: self.unloads,
            surface: self.surface,
            excluded: self.excluded.clone(),
        }
    }
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no room to wait.
    #[error(transparent)]
    Full(#[from] Full),
    /// There is nowhere to go.
    #[error(transparent)]
    Nowhere(#[from] Nowhere),
    /// The client would be gone before its first byte.
    #[error("the client's own deadline cannot be met")]
    TooLate,
}

/// There is no room to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The whole queue is full.
    #[error("the queue is full")]
    Box,
    /// This user has as many requests waiting as one user may.
    #[error("this user's queue is full")]
    User,
}

/// There is nowhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// Instances are up, and none has the model.
    #[error("no instance has the model")]
    NoModel,
    /// Every instance that could serve it is down, or has failed it already.
    #[error("no healthy instance")]
    NoInstance,
}
