//! Requests, and the clients who send them.

use std::sync::Arc;

use usher::payload::Prompt;

use crate::dice::Dice;
use crate::gateway::prompt;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub client: usize,
    pub user: usize,
    pub model: usize,
    pub topic: usize,
    pub prompt: u64,
    pub output: u64,
    pub most_output: Option<u64>,
    pub text: Arc<Prompt>,
    /// Tokens of its prompt that its conversation had sent before.
    pub repeated: u64,
    /// Seconds after which the client leaves.
    pub leaves_after: Option<f64>,
    pub arrives: f64,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub enum Habit {
    /// Requests by chance, with this mean of seconds between them.
    Poisson(f64),
    /// The next one so many seconds (a mean; 0 is at once) after the last was answered.
    Closed(f64),
    /// So many at once, every so many seconds.
    Burst(usize, f64),
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Client {
    pub user: usize,
    pub habit: Habit,
    /// Models, with how often each is asked for.
    pub models: Vec<(usize, f64)>,
    /// Mean and spread of the prompt's tokens.
    pub prompt: (f64, f64),
    /// Mean and spread of the answer's tokens; 0 for embeddings.
    pub output: (f64, f64),
    /// Whether each request goes on where the last one ended, for so many turns.
    pub turns: Option<usize>,
    /// Share of its requests that it leaves, after about so many seconds.
    pub leaves: Option<(f64, f64)>,
    /// Heard no more from then on.
    pub until: f64,
}

impl Client {
    /// Somebody who asks now and then.
    pub fn new(user: usize, habit: Habit) -> Self {
        Self {
            user,
            habit,
            models: vec![(0, 1.0)],
            prompt: (400.0, 0.8),
            output: (150.0, 0.8),
            turns: None,
            leaves: None,
            until: f64::MAX,
        }
    }
}

/// A client at work.
pub struct Mind {
    pub client: Client,
    pub dice: Dice,
    at: usize,
    topic: usize,
    messages: Vec<u64>,
    asked: usize,
}

/// Conversations of a client never meet those of another.
const TOPICS: usize = 1_000_000;

impl Mind {
    pub fn new(client: Client, at: usize, seed: u64) -> Self {
        let dice = Dice::new(seed, &format!("client {at}"));
        Self { client, dice, at, topic: at * TOPICS, messages: Vec::new(), asked: 0 }
    }

    /// Seconds until its next request, after the last one came or was answered.
    pub fn pause(&mut self) -> f64 {
        match self.client.habit {
            Habit::Poisson(mean) | Habit::Closed(mean) => self.dice.exponential(mean),
            Habit::Burst(_, every) => every,
        }
    }

    pub fn ask(&mut self, now: f64) -> Request {
        let mut size = |(mean, sigma): (f64, f64)| {
            self.dice.lognormal(mean, sigma).min(mean * 40.0).max(1.0) as u64
        };
        let (new, output) = (size(self.client.prompt).max(8), size(self.client.output));
        let embeds = self.client.output.0 == 0.0;
        let output = if embeds { 1 } else { output };
        let again = self.client.turns.is_some_and(|turns| !self.asked.is_multiple_of(turns));
        if !again {
            self.topic += 1;
            self.messages.clear();
        }
        self.asked += 1;
        let repeated = self.messages.iter().sum();
        self.messages.push(new);
        let text = prompt(self.topic, &self.messages);
        let total = text.tokens;
        self.messages.push(output);
        let roll = self.dice.unit();
        let leaves = self.client.leaves.filter(|(share, _)| roll < *share);
        let leaves_after = leaves.map(|(_, mean)| self.dice.exponential(mean));
        Request {
            client: self.at,
            user: self.client.user,
            model: self.model(),
            topic: self.topic,
            prompt: total,
            output,
            most_output: embeds.then_some(0),
            text,
            repeated,
            leaves_after,
            arrives: now,
        }
    }

    fn model(&mut self) -> usize {
        let total: f64 = self.client.models.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.dice.unit() * total;
        for (model, weight) in &self.client.models {
            roll -= weight;
            if roll < 0.0 {
                return *model;
            }
        }
        self.client.models.first().map_or(0, |(model, _)| *model)
    }
}
