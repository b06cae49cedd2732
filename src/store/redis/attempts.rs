//! Attempts to log in, counted by all gateways together.
//!
//! An attempt costs the hashing of a password, so nothing is lost by asking Redis about each. Every
//! attempt has a name of its own, and a gateway names those that it has allowed whenever it asks:
//! a Redis that was wiped learns them again, and nothing counts twice.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::Script;

use super::Redis;
use crate::config::Rate;
use crate::limit::login::SharedAttempts as Shared;

/// Attempts that are counted through a Redis.
pub struct SharedAttempts {
    redis: Arc<Redis>,
    script: Script,
    born: Instant,
    asked: AtomicU64,
}

impl SharedAttempts {
    /// Attempts that are counted through this Redis.
    pub fn new(redis: Arc<Redis>) -> Self {
        let script = Script::new(include_str!("attempts.lua"));
        Self { redis, script, born: Instant::now(), asked: AtomicU64::new(0) }
    }

    /// What an attempt of this gateway is called: no two of one address come in one nanosecond.
    fn name(&self, at: Instant) -> String {
        let since = at.saturating_duration_since(self.born).as_nanos();
        format!("{}:{since}", self.redis.node())
    }
}

#[async_trait]
impl Shared for SharedAttempts {
    async fn attempt(
        &self,
        from: IpAddr,
        limit: Rate,
        own: &[Instant],
    ) -> Option<Result<(), Duration>> {
        let (this, before) = own.split_last()?;
        let nonce = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let account = self.redis.keys.name_of("login", from.to_string().as_bytes());
        let mut call = self.script.key(account);
        call.arg(micros(limit.per.duration())).arg(limit.amount.get());
        call.arg(&nonce).arg(self.name(*this));
        for at in before {
            call.arg(self.name(*at)).arg(micros(at.elapsed()));
        }
        let link = &self.redis.link;
        let answer: Result<Vec<String>, _> =
            link.within(async |connection| call.invoke_async(connection).await).await;
        let answer = answer.ok()?;
        match answer.as_slice() {
            [echo, yes, _] if *echo == nonce && yes == "1" => Some(Ok(())),
            [echo, no, wait] if *echo == nonce && no == "0" => {
                let wait = Duration::from_micros(wait.parse().ok()?);
                Some(Err(wait.min(limit.per.duration())))
            }
            // an answer to somebody else's question means that the line is out of step
            _ => {
                link.out_of_step();
                None
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
