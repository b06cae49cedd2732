//! The blackboard: what all gateways use of each account, summed by a script in one step.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use redis::Script;

use super::lease::{self, Reply, Report, STRETCHES};
use super::link::{Away, Link};

/// Asks the board, and knows what time it has.
pub(super) struct Board {
    script: Script,
    /// This process, on the board.
    node: String,
    /// What a gateway holds and does not speak of for so long is a dead one's, and free again.
    dead: Duration,
    born: Instant,
    /// The board's time at our beginning, microseconds; the wall clock's until it has spoken.
    offset: AtomicI64,
    asked: AtomicU64,
}

/// What an account is bound by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Of this much, in
    pub amount: u64,
    /// this time;
    pub window: Duration,
    /// so much at once is granted for use without asking again.
    pub batch: u64,
}

impl Board {
    pub(super) fn new(node: String, dead: Duration) -> Self {
        Self {
            script: Script::new(include_str!("board.lua")),
            node,
            dead,
            born: Instant::now(),
            offset: AtomicI64::new(Timestamp::now().as_microsecond()),
            asked: AtomicU64::new(0),
        }
    }

    /// Microseconds since our beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The stretch of a window that the board is in.
    pub(super) fn stretch(&self, window: Duration) -> u64 {
        let time = self.now().saturating_add_signed(self.offset.load(Ordering::Relaxed));
        time / lease::stretch_of(window)
    }

    /// Writes down what an account's report says, and returns what the board says.
    pub(super) async fn post(
        &self,
        link: &Link,
        account: &str,
        limit: &Limit,
        report: &Report,
    ) -> Result<Reply, Away> {
        let nonce = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let asked = i64::try_from(self.now()).unwrap_or(i64::MAX);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut call = self.script.key(account);
        call.arg(&self.node).arg(limit.amount).arg(micros(limit.window));
        call.arg(lease::stretch_of(limit.window)).arg(STRETCHES).arg(micros(self.dead));
        call.arg(report.outstanding).arg(report.amount).arg(report.wanted).arg(limit.batch);
        call.arg(&nonce);
        for (stretch, sum) in &report.used {
            call.arg(stretch).arg(sum);
        }
        let answer: Vec<String> =
            link.within(async |connection| call.invoke_async(connection).await).await?;
        // an answer to somebody else's question means that the line is out of step
        let reply = read(&answer, &nonce, limit).ok_or_else(|| link.out_of_step())?;
        let offset = i64::try_from(reply.time).unwrap_or(i64::MAX);
        // as if the answer had been given when it was asked for: an answer that was long on its way
        // must not put what is used from now on into the past, out of which it would leave early
        self.offset.store(offset.saturating_sub(asked), Ordering::Relaxed);
        Ok(reply)
    }
}

/// What the board may say, and no more: nobody is granted more than the limit.
fn read(answer: &[String], nonce: &str, limit: &Limit) -> Option<Reply> {
    let [echo, granted, others, wait, reset, time] = answer else { return None };
    let number = |text: &String| text.parse::<u64>().ok();
    let reply = Reply {
        granted: number(granted)?,
        others: number(others)?,
        wait: number(wait)?,
        reset: number(reset)?,
        time: number(time)?,
    };
    (echo == nonce && reply.granted <= limit.amount).then_some(reply)
}
