//! A look at Redis from outside a gateway, for a report.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jiff::Timestamp;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use tokio::time::timeout;

use super::Redis;
use super::link;
use super::news;
use super::seal::Terms;

/// Nobody waits for a report in a hurry.
const PATIENCE: Duration = Duration::from_secs(2);
/// Gateways tell each other something every second.
const HEARING: Duration = Duration::from_millis(2500);
/// How long the entry stays that is written to see whether it comes back, in milliseconds.
const LIFE: u32 = 10_000;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct RedisSeen {
    /// How it is reached: `TCP`, `TLS` or `socket`.
    pub line: &'static str,
    /// How long a question and its answer take, in milliseconds.
    pub answer_ms: f64,
    /// Its version, if it says.
    pub version: Option<String>,
    /// `standalone`, `sentinel` or `cluster`, if it says.
    pub mode: Option<String>,
    /// `master` or `slave`, if it says.
    pub role: Option<String>,
    /// Whether what was sealed and written came back whole.
    pub sealed: bool,
    /// Whether a gateway that seals with the same secret is at work there.
    pub heard: bool,
}

impl RedisSeen {
    /// What should be different.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |text: &str| warnings.push(format!("Redis {text}"));
        if self.role.as_deref() == Some("slave") {
            warn("is a replica, which cannot be written: name the master");
        }
        if self.mode.as_deref() == Some("cluster") {
            warn("is a cluster, which is not supported: name a single server");
        }
        if !self.sealed {
            warn("does not give back what was written to it");
        }
        if !self.heard {
            warn(
                "has no word of a running gateway that seals with the same secret: is the JWT \
                 secret (or redis_secret) the same on all of them?",
            );
        }
        warnings
    }
}

impl Redis {
    /// Looks at the server as a gateway would use it.
    ///
    /// # Errors
    /// It does not answer, and why.
    pub async fn examine(&self) -> Result<RedisSeen, String> {
        let mut connection = self.link.connect_once(PATIENCE).await?;
        let asked = Instant::now();
        let ping = redis::cmd("PING");
        link::in_time(PATIENCE, ping.query_async::<String>(&mut connection)).await?;
        let answer_ms = asked.elapsed().as_secs_f64() * 1000.0;
        let mut info = redis::cmd("INFO");
        // an account of its own may not be allowed to ask this, and need not
        let info = info.arg("server").arg("replication").query_async::<String>(&mut connection);
        let info = timeout(PATIENCE, info).await.ok().and_then(Result::ok).unwrap_or_default();
        let fact = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        Ok(RedisSeen {
            line: self.link.line(),
            answer_ms: (answer_ms * 100.0).round() / 100.0,
            version: fact("redis_version"),
            mode: fact("redis_mode"),
            role: fact("role"),
            sealed: self.comes_back(&mut connection).await.is_ok(),
            heard: self.hears_a_gateway().await,
        })
    }

    /// Writes something sealed, and reads it again.
    async fn comes_back(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let name = self.keys.name(&format!("doctor:{}", self.node));
        let terms = Terms { issued: Timestamp::now(), life: LIFE, revision: 0 };
        let entry = self.keys.seal(&name, &terms, b"whole");
        let (mut set, mut get) = (redis::cmd("SET"), redis::cmd("GET"));
        set.arg(&name).arg(entry).arg("PX").arg(LIFE);
        link::in_time(PATIENCE, set.query_async::<()>(connection)).await?;
        let found: Vec<u8> =
            link::in_time(PATIENCE, get.arg(&name).query_async(connection)).await?;
        let opened = self.keys.open(&name, &found, Timestamp::now());
        opened.map(drop).map_err(|broken| broken.to_string())
    }

    async fn hears_a_gateway(&self) -> bool {
        let channel = self.keys.name(news::CHANNEL);
        let Some(mut hearing) = self.link.subscribe(std::slice::from_ref(&channel)).await else {
            return false;
        };
        let mut messages = hearing.on_message();
        let word = async {
            while let Some(message) = messages.next().await {
                let bytes = message.get_payload_bytes();
                if self.keys.open(&channel, bytes, Timestamp::now()).is_ok() {
                    return true;
                }
            }
            false
        };
        timeout(HEARING, word).await.unwrap_or(false)
    }
}
