//! What gateways tell each other: the revision of the database, and words about seats.
//!
//! Each gateway publishes the revision that it read, at once when it is new and every second when
//! it is not. So all of them learn of a revocation within moments, and one that cannot reach the
//! database itself knows that it has missed nothing for as long as another one can. Messages are
//! sealed like entries: who can write to Redis may hold them back, and no more.

use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use redis::aio::PubSub;
use tokio::sync::{Mutex, mpsc};

use super::link::{Link, jittered};
use super::seal::{Keys, Terms};
use super::seats;
use crate::auth::Heard;
use crate::scheduler::sharing::Word;

/// The channel, and the name that its messages are sealed under.
pub(super) const CHANNEL: &str = "news";
/// A message that is older was held back, and says nothing of now.
const LIFE: u32 = 5_000;
/// A gateway hears itself every second; one that does not has lost its connection.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two attempts to listen.
const PAUSE: Duration = Duration::from_secs(1);
/// Messages that wait to be acted upon; the next ones say what they said.
const BACKLOG: usize = 64;

/// What was heard and not acted upon yet.
pub(super) struct News {
    heard: Mutex<mpsc::Receiver<Heard>>,
    hearing: mpsc::Sender<Heard>,
    words: Mutex<mpsc::Receiver<Word>>,
    telling: mpsc::Sender<Word>,
}

impl News {
    pub(super) fn new() -> Self {
        let (hearing, heard) = mpsc::channel(BACKLOG);
        let (telling, words) = mpsc::channel(BACKLOG);
        Self { heard: Mutex::new(heard), hearing, words: Mutex::new(words), telling }
    }

    /// The next that is heard.
    pub(super) async fn hear(&self) -> Heard {
        match self.heard.lock().await.recv().await {
            Some(heard) => heard,
            // never: the other end is held beside this one
            None => std::future::pending().await,
        }
    }

    /// The next word about seats.
    pub(super) async fn hear_word(&self) -> Word {
        match self.words.lock().await.recv().await {
            Some(word) => word,
            // never: the other end is held beside this one
            None => std::future::pending().await,
        }
    }

    /// Listens for ever.
    pub(super) async fn listen(&self, link: &Link, keys: &Keys, node: &str) {
        let channels = [CHANNEL, seats::CHANNEL].map(|name| keys.name(name));
        loop {
            if let Some(hearing) = link.subscribe(&channels).await {
                self.follow(hearing, keys, (&channels, node)).await;
            }
            tokio::time::sleep(jittered(PAUSE)).await;
        }
    }

    /// Takes messages until there are no more.
    async fn follow(
        &self,
        mut hearing: PubSub,
        keys: &Keys,
        ([news, seats], node): (&[String; 2], &str),
    ) {
        let mut messages = hearing.on_message();
        while let Ok(Some(message)) = tokio::time::timeout(SILENCE, messages.next()).await {
            let (now, bytes) = (Timestamp::now(), message.get_payload_bytes());
            if message.get_channel_name() == seats {
                if let Some(word) = seats::read(keys, node, seats, bytes) {
                    let _ = self.telling.try_send(word);
                }
                continue;
            }
            let Ok((terms, _)) = keys.open(news, bytes, now) else { continue };
            let age = super::age(terms.issued);
            let _ = self.hearing.try_send(Heard { revision: terms.revision, age });
        }
    }
}

/// The command that tells everybody.
pub(super) fn message(keys: &Keys, revision: i64) -> redis::Cmd {
    let channel = keys.name(CHANNEL);
    let terms = Terms { issued: Timestamp::now(), life: LIFE, revision };
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(&channel).arg(keys.seal(&channel, &terms, &[]));
    publish
}
