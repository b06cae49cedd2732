//! The seats that users may hold, shared by all gateways.
//!
//! They stand on the board as what gateways hold, without what they used: a permit is held or it is
//! not. What a gateway does not repeat for a while is a dead one's, and free again. Words between
//! gateways only make things quicker: whoever forges or holds them back gains nothing, for they
//! are sealed, and everybody asks again anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Redis;
use super::board::{Board, Limit};
use super::lease::Report;
use super::seal::{Keys, Terms};
use crate::scheduler::Has;
use crate::scheduler::sharing::{DEAD, Granted, Partners, Word};

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
    async fn tell(&self, user: i64, has: Has) -> Option<Granted> {
        let name = self.redis.keys.name(&format!("seats:user:{user}"));
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

fn message(redis: &Redis, word: Word) -> redis::Cmd {
    let channel = redis.keys.name(CHANNEL);
    let (kind, user) = match word {
        Word::Wanted(user) => ("wanted", user),
        Word::Freed(user) => ("freed", user),
    };
    let content = format!("{kind} {user} {}", redis.node());
    let terms = Terms { issued: Timestamp::now(), life: LIFE, revision: 0 };
    let mut publish = ::redis::cmd("PUBLISH");
    publish.arg(&channel).arg(redis.keys.seal(&channel, &terms, content.as_bytes()));
    publish
}

/// The word of another gateway.
pub(super) fn read(keys: &Keys, node: &str, channel: &str, message: &[u8]) -> Option<Word> {
    let (_, content) = keys.open(channel, message, Timestamp::now()).ok()?;
    let mut parts = std::str::from_utf8(content).ok()?.split(' ');
    let (kind, user, from) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    match kind {
        // our own word comes back to us
        _ if from == node => None,
        "wanted" => Some(Word::Wanted(user)),
        "freed" => Some(Word::Freed(user)),
        _ => None,
    }
}
