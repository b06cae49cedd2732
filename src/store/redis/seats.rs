//! The seats that users and keys may hold, shared by all gateways.
//!
//! They stand on the board as what gateways hold, without what they used: a permit is held or it is
//! not. What a gateway does not repeat for a while is a dead one's, and free again. Words between
//! gateways only make things quicker: whoever forges or holds them back gains nothing, for they
//! are sealed, and everybody asks again anyway.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Redis;
use super::board::{Board, Limit};
use super::lease::Report;
use super::seal::{Keys, Terms};
use crate::scheduler::sharing::{DEAD, Granted, Partners, Word};
use crate::scheduler::{Has, Holder};

/// The channel, and the name that its messages are sealed under.
pub(super) const CHANNEL: &str = "seats";
/// A word that is older is of no interest, in milliseconds.
const LIFE: u32 = 5_000;
/// The board counts by windows; seats have none.
const WINDOW: Duration = Duration::from_secs(1);

/// Seats that are shared through a Redis.
pub struct SharedSeats {
    redis: Arc<Redis>,
    board: Board,
    /// The generation of the link that was known last.
    known: AtomicU64,
}

impl SharedSeats {
    /// Seats that are shared through this Redis.
    pub fn new(redis: Arc<Redis>) -> Self {
        let board = Board::new(redis.node().to_owned(), DEAD);
        let known = AtomicU64::new(redis.link.generation());
        Self { redis, board, known }
    }
}

#[async_trait]
impl Partners for SharedSeats {
    async fn tell(&self, holder: Holder, has: Has) -> Option<Granted> {
        let name = self.redis.keys.name(&format!("seats:{}", Account(holder)));
        let limit = Limit { amount: has.limit.max(1).into(), window: WINDOW, batch: 1 };
        let report = Report {
            outstanding: has.permits.into(),
            used: Vec::new(),
            wanted: has.wanted.into(),
            amount: has.wanted.min(1).into(),
        };
        let reply = self.board.post(&self.redis.link, &name, &limit, &report).await.ok()?;
        let number = |it: u64| u32::try_from(it).unwrap_or(u32::MAX);
        Some(Granted { more: number(reply.granted), others: number(reply.others) })
    }

    async fn say(&self, word: Word) {
        // whoever does not hear it asks again soon
        let _ = self.redis.link.ask::<i64>(&message(&self.redis, word)).await;
    }

    async fn hear(&self) -> Word {
        self.redis.news.hear_word().await
    }

    fn has_forgotten(&self) -> bool {
        let generation = self.redis.link.generation();
        self.known.swap(generation, Ordering::Relaxed) != generation
    }
}

/// `user:7`, or `key:7:12` for one of that user's keys.
struct Account(Holder);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Holder { user, key: None } => write!(f, "user:{user}"),
            Holder { user, key: Some(key) } => write!(f, "key:{user}:{key}"),
        }
    }
}

impl Account {
    fn read(text: &str) -> Option<Holder> {
        let (kind, numbers) = text.split_once(':')?;
        let (user, key) = match kind {
            "user" => (numbers, None),
            "key" => numbers.split_once(':').map(|(user, key)| (user, Some(key)))?,
            _ => return None,
        };
        let key = key.map(str::parse).transpose().ok()?;
        Some(Holder { user: user.parse().ok()?, key })
    }
}

fn message(redis: &Redis, word: Word) -> redis::Cmd {
    let channel = redis.keys.name(CHANNEL);
    let (kind, holder) = match word {
        Word::Wanted(holder) => ("wanted", holder),
        Word::Freed(holder) => ("freed", holder),
        Word::Exceeded(holder) => ("exceeded", holder),
    };
    let content = format!("{kind} {} {}", Account(holder), redis.node());
    let terms = Terms { issued: Timestamp::now(), life: LIFE, revision: 0 };
    let mut publish = ::redis::cmd("PUBLISH");
    publish.arg(&channel).arg(redis.keys.seal(&channel, &terms, content.as_bytes()));
    publish
}

/// The word of another gateway.
pub(super) fn read(keys: &Keys, node: &str, channel: &str, message: &[u8]) -> Option<Word> {
    let (_, content) = keys.open(channel, message, Timestamp::now()).ok()?;
    let mut parts = std::str::from_utf8(content).ok()?.split(' ');
    let (kind, holder, from) = (parts.next()?, Account::read(parts.next()?)?, parts.next()?);
    match kind {
        // our own word comes back to us
        _ if from == node => None,
        "wanted" => Some(Word::Wanted(holder)),
        "freed" => Some(Word::Freed(holder)),
        "exceeded" => Some(Word::Exceeded(holder)),
        _ => None,
    }
}
