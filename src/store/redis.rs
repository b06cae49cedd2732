//! Redis: what several gateways share, and none of them needs.
//!
//! Whatever Redis does (lie, hang, forget, die), a gateway goes on with what it has in memory and
//! in the database. [`seal`] is why it may lie, [`link`] why it may hang, and the rules of
//! [`Peers`] why it may forget.

mod attempts;
mod board;
mod examine;
mod lease;
mod link;
mod news;
mod quota;
mod seal;
mod seats;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::auth::{Heard, Holder, Identity, Peers, Subject};
use crate::config::{self, Secret};
use crate::store::mark;
pub use attempts::SharedAttempts;
pub use examine::RedisSeen;
use link::Link;
use news::News;
pub use quota::SharedQuotas;
use seal::{Broken, Keys, Terms};
pub use seats::SharedSeats;

/// How long an identity is of use to other gateways. The database's revision ends it sooner.
const LIFE: Duration = Duration::from_secs(30);

/// Several gateways' shared memory.
pub struct Redis {
    link: Link,
    keys: Keys,
    news: News,
    /// This process, among those that share.
    node: String,
    recalled: AtomicU64,
    missed: AtomicU64,
    ignored: AtomicU64,
}

/// How often Redis was asked who somebody is, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// It knew.
    pub hits: u64,
    /// It did not know, or did not answer.
    pub misses: u64,
    /// It had an entry that was not ours, not of this time or revision, or not to be read.
    pub ignored: u64,
}

impl Redis {
    /// Makes ready; [`tend`](Self::tend) connects. `secret` is what entries are sealed with unless
    /// the configuration names another; `origin` is the database that they are about.
    ///
    /// # Errors
    /// What is wrong with the URL or the certificates and where, without showing either.
    pub fn new(config: &config::Redis, secret: &Secret, origin: &str) -> Result<Self, String> {
        let keys = Keys::derive(config.secret.as_ref().unwrap_or(secret), origin);
        Ok(Self {
            link: Link::new(config)?,
            keys: keys.ok_or("its keys cannot be derived")?,
            news: News::new(),
            node: mark(),
            recalled: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
        })
    }

    /// What is wrong with the settings, as far as that can be known without asking the server.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn check(config: &config::Redis) -> Result<(), String> {
        Link::new(config).map(drop)
    }

    /// Looks after the connection and listens to the other gateways, until told to end.
    pub async fn tend(self: Arc<Self>, mut ending: watch::Receiver<bool>) {
        let trace = self.keys.name(&format!("trace:{}", self.node));
        tokio::select! {
            () = self.link.tend(&trace) => {}
            () = self.news.listen(&self.link, &self.keys, &self.node) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }

    fn node(&self) -> &str {
        &self.node
    }

    /// Whether this gateway goes on alone.
    pub fn is_away(&self) -> bool {
        self.link.is_away()
    }

    /// Questions and reports that got no good answer in time, so far.
    pub fn failures(&self) -> u64 {
        self.link.failures()
    }

    /// What came of asking who somebody is.
    pub fn recalled(&self) -> Recalled {
        Recalled {
            hits: self.recalled.load(Ordering::Relaxed),
            misses: self.missed.load(Ordering::Relaxed),
            ignored: self.ignored.load(Ordering::Relaxed),
        }
    }

    /// The name of the entry about a holder. The kinds are apart, and so are the parts of each.
    fn name_of(&self, holder: &Holder) -> String {
        let whole = |parts: &[&str]| serde_json::to_vec(parts).unwrap_or_default();
        match holder {
            Holder::Key(hash) => self.keys.name_of("key", hash.to_hex().as_bytes()),
            Holder::PublicKey(key) => self.keys.name_of("ssh", key.as_bytes()),
            Holder::Token { user, id } => {
                self.keys.name_of("token", &whole(&[&user.to_string(), id]))
            }
            Holder::Subject(subject) => {
                let Subject { issuer, subject, token, .. } = &**subject;
                self.keys.name_of("subject", &whole(&[issuer, subject, token]))
            }
        }
    }

    /// The entry of this name, if it is ours and of this revision.
    async fn find(&self, name: &str, revision: i64) -> Option<Vec<u8>> {
        let mut get = redis::cmd("GET");
        get.arg(name);
        let entry: Option<Vec<u8>> = self.link.ask(&get).await.ok()?;
        let entry = entry?;
        let opened = self.keys.open(name, &entry, Timestamp::now());
        match opened {
            Ok((terms, content)) if terms.revision == revision => Some(content.to_vec()),
            // another revision is the ordinary end of an entry
            Ok(_) | Err(Broken::Untimely) => None,
            Err(Broken::Forged) => {
                if self.ignored.fetch_add(1, Ordering::Relaxed) == 0 {
                    log::warn!(
                        "Redis holds an entry that no gateway with our secret has written; such \
                         entries are ignored and counted"
                    );
                }
                None
            }
        }
    }
}

#[async_trait]
impl Peers for Redis {
    async fn recall(&self, holder: &Holder, revision: i64) -> Option<Identity> {
        let name = self.name_of(holder);
        let content = self.find(&name, revision).await;
        let identity = content.and_then(|content| serde_json::from_slice(&content).ok());
        let count = if identity.is_some() { &self.recalled } else { &self.missed };
        count.fetch_add(1, Ordering::Relaxed);
        identity
    }

    async fn remember(&self, holder: &Holder, revision: i64, identity: &Identity) {
        let Ok(content) = serde_json::to_vec(identity) else { return };
        let name = self.name_of(holder);
        let life = u32::try_from(LIFE.as_millis()).unwrap_or(u32::MAX);
        let terms = Terms { issued: Timestamp::now(), life, revision };
        let entry = self.keys.seal(&name, &terms, &content);
        let mut set = redis::cmd("SET");
        set.arg(&name).arg(entry).arg("PX").arg(life);
        // another gateway asks the database, then
        let _ = self.link.ask::<()>(&set).await;
    }

    async fn tell(&self, revision: i64) {
        // who does not hear it polls the database
        let _ = self.link.ask::<i64>(&news::message(&self.keys, revision)).await;
    }

    async fn hear(&self) -> Heard {
        self.news.hear().await
    }
}

/// How long ago that was; nothing for what comes from a clock that is ahead of ours.
fn age(moment: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(moment)).unwrap_or_default()
}
