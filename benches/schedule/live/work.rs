//! What is asked for, when and by whom: the same for every door. Times are modelled ones.

use std::time::Duration;

use crate::dice::Dice;

/// The one model of most workloads, and the one for embeddings.
pub const MODEL: &str = "chat";
pub const EMBEDDER: &str = "embed";

/// An afternoon.
pub struct Work {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Command lines of the instances, beside what all have.
    pub instances: Vec<&'static str>,
    /// What the operator says of each instance's slots.
    pub slots: u32,
    /// Who asks for what.
    pub sessions: Vec<Session>,
    /// What happens to instances.
    pub events: Vec<(Duration, Event)>,
    /// The instance that answers 503 at once.
    pub busy: Option<usize>,
    /// How long requests go on arriving.
    pub length: Duration,
}

/// Something that happens to an instance.
#[derive(Clone, Copy)]
pub enum Event {
    /// It is killed.
    Dies(usize),
    /// It is started again, at the same address.
    Returns(usize),
}

/// One who asks, once or several times, each time after the last answer.
#[derive(Clone)]
pub struct Session {
    /// The account.
    pub client: usize,
    /// What it is counted under.
    pub group: &'static str,
    /// When the first turn is asked.
    pub at: Duration,
    pub model: &'static str,
    /// What stands before the first question.
    pub system: String,
    pub turns: Vec<Turn>,
    /// How long it waits for a first byte before it leaves.
    pub leaves_after: Option<Duration>,
}

/// One question.
#[derive(Clone)]
pub struct Turn {
    /// Time since the last answer.
    pub thinks: Duration,
    pub question: String,
    /// Tokens of the answer; 0 asks for an embedding.
    pub tokens: u32,
}

/// Weights that fill most of a card, so that two do not fit.
const LARGE: &str = "size:8GiB,vram:8GiB,kv:0";

impl Work {
    /// All of them, with `share` of their full length.
    pub fn all(seed: u64, share: f64) -> Vec<Self> {
        let makers = [heavy, models, steady, chats, embeddings, busy, dying];
        makers.map(|make| make(seed, Duration::from_secs_f64(60.0 * share))).into()
    }

    /// Accounts that ask.
    pub fn clients(&self) -> usize {
        self.sessions.iter().map(|session| session.client + 1).max().unwrap_or(0)
    }

    /// Whether embeddings are among what is asked for.
    pub fn embeds(&self) -> bool {
        self.sessions.iter().any(|session| session.model == EMBEDDER)
    }

    /// Questions in all.
    pub fn asked(&self) -> usize {
        self.sessions.iter().map(|session| session.turns.len()).sum()
    }

    fn new(name: &'static str, about: &'static str, length: Duration) -> Self {
        Self {
            name,
            about,
            instances: Vec::new(),
            slots: 2,
            sessions: Vec::new(),
            events: Vec::new(),
            busy: None,
            length,
        }
    }

    /// Adds single questions that come `rate` a second, as `ask` words them.
    fn stream(&mut self, dice: &mut Dice, rate: f64, mut ask: impl FnMut(&mut Dice) -> Session) {
        let mut at = dice.gap(rate);
        while at < self.length {
            let session = Session { at, ..ask(dice) };
            self.sessions.push(session);
            at += dice.gap(rate);
        }
    }
}

fn question(client: usize, group: &'static str, prompt: String, tokens: u32) -> Session {
    Session {
        client,
        group,
        at: Duration::ZERO,
        model: MODEL,
        system: String::new(),
        turns: vec![Turn { thinks: Duration::ZERO, question: prompt, tokens }],
        leaves_after: None,
    }
}

/// Four slots serve 3.6 of these a second.
fn heavy(seed: u64, length: Duration) -> Work {
    let about = "one client sends ten times as much as each of nine others; 1.3 times what two \
        instances with two slots can serve";
    let mut work = Work::new("heavy", about, length);
    work.instances = vec!["--slots 2"; 2];
    for client in 0..10 {
        let mut dice = Dice::new(seed, &format!("heavy {client}"));
        let (group, rate) = if client == 0 { ("heavy", 2.5) } else { ("light", 0.25) };
        work.stream(&mut dice, rate, |dice| question(client, group, dice.text(200), 20));
    }
    work
}

fn models(seed: u64, length: Duration) -> Work {
    let about = "three models on two instances with room for one each; a load takes 4 s";
    let mut work = Work::new("models", about, length);
    work.instances = vec!["--slots 2 --vram 12GiB"; 2];
    for client in 0..6 {
        let mut dice = Dice::new(seed, &format!("models {client}"));
        work.stream(&mut dice, 0.13, |dice| Session {
            model: ["chat", "code", "docs"].get(dice.roll(3)).copied().unwrap_or(MODEL),
            ..question(client, "all", dice.text(100), 10)
        });
    }
    work
}

/// Three slots serve 2.3 of these a second.
fn steady(seed: u64, length: Duration) -> Work {
    let about = "80 % load of three instances with one slot; one request in ten has a long prompt \
        and a long answer";
    let mut work = Work::new("steady", about, length);
    work.instances = vec!["--slots 1"; 3];
    work.slots = 1;
    for client in 0..8 {
        let mut dice = Dice::new(seed, &format!("steady {client}"));
        work.stream(&mut dice, 0.23, |dice| match dice.roll(10) {
            0 => question(client, "all", dice.text(3000), 80),
            _ => question(client, "all", dice.text(200), 14),
        });
    }
    work
}

fn chats(seed: u64, length: Duration) -> Work {
    let about = "eight conversations with instructions of 3,000 tokens each, on two instances with \
        four slots";
    let mut work = Work::new("chats", about, length);
    work.instances = vec!["--slots 4"; 2];
    work.slots = 4;
    let turns = (length.as_secs() / 6).max(2);
    for client in 0..8 {
        let mut dice = Dice::new(seed, &format!("chats {client}"));
        let turn = |dice: &mut Dice| Turn {
            thinks: Duration::from_secs_f64(2.0 + 4.0 * dice.fraction()),
            question: dice.text(80),
            tokens: 16,
        };
        work.sessions.push(Session {
            at: Duration::from_secs_f64(4.0 * dice.fraction()),
            system: dice.text(3000),
            turns: (0..turns).map(|_| turn(&mut dice)).collect(),
            ..question(client, "all", String::new(), 0)
        });
    }
    work
}

fn embeddings(seed: u64, length: Duration) -> Work {
    let about = "every ten seconds one client wants 30 embeddings at once; six others chat";
    let mut work = Work::new("embeddings", about, length);
    work.instances = vec!["--slots 2"; 2];
    let mut dice = Dice::new(seed, "embeddings");
    let mut at = Duration::from_secs(4);
    while at < length {
        for _ in 0..30 {
            let asks = question(0, "embeddings", dice.text(600), 0);
            work.sessions.push(Session { at, model: EMBEDDER, ..asks });
        }
        at += Duration::from_secs(10);
    }
    for client in 1..7 {
        let mut dice = Dice::new(seed, &format!("embeddings {client}"));
        work.stream(&mut dice, 0.3, |dice| question(client, "chats", dice.text(200), 20));
    }
    work
}

/// Two of three can do it; the third would be the quickest, by its own account.
fn busy(seed: u64, length: Duration) -> Work {
    let about = "one of three instances answers 503 at once; 60 % of what the others can serve";
    let mut work = Work::new("busy", about, length);
    work.instances = vec!["--slots 2"; 3];
    work.busy = Some(2);
    for client in 0..6 {
        let mut dice = Dice::new(seed, &format!("busy {client}"));
        work.stream(&mut dice, 0.36, |dice| question(client, "all", dice.text(200), 20));
    }
    work
}

fn dying(seed: u64, length: Duration) -> Work {
    let about = "one of three instances is killed after a third of the time and is back after two; \
        a client in four leaves when it has waited for 3 s";
    let mut work = Work::new("dying", about, length);
    work.instances = vec!["--slots 2"; 3];
    work.events = vec![(length / 3, Event::Dies(1)), (length * 2 / 3, Event::Returns(1))];
    for client in 0..8 {
        let mut dice = Dice::new(seed, &format!("dying {client}"));
        let leaves_after = (client % 4 == 0).then_some(Duration::from_secs(3));
        let group = if leaves_after.is_some() { "hasty" } else { "patient" };
        work.stream(&mut dice, 0.5, |dice| Session {
            leaves_after,
            ..question(client, group, dice.text(200), 20)
        });
    }
    work
}

/// The models that instances have.
pub fn models_argument() -> String {
    let large = ["chat", "code", "docs"].map(|name| format!("{name}={LARGE},digest:{name}"));
    format!(
        "{};{EMBEDDER}=size:1GiB,vram:1GiB,kv:0,family:nomic-bert,embed:768,caps:embedding",
        large.join(";")
    )
}
