//! The connection to Redis, and the breaker before it.
//!
//! Nobody waits long for Redis: a question has a budget, and after three failures in a row, or one
//! lost connection, the breaker opens and questions fail at once. One task looks after it: once a
//! second it tries what a request would, and only when that succeeds the breaker closes. Requests
//! never connect, so a Redis that comes back meets one connection of each gateway, not a crowd.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, TlsCertificates};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::timeout;

/// Failures in a row that open the breaker.
const FALL: u32 = 3;
/// For connecting, which no request waits for.
const CONNECT: Duration = Duration::from_secs(1);
/// Between two looks at Redis, give or take a quarter, so that gateways do not come in step.
const LOOK: Duration = Duration::from_secs(1);
/// How long what a look writes stays.
const TRACE: Duration = Duration::from_secs(10);

/// Redis does not answer, or not in time; the log says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away;

/// A connection that breaks, is given up, and comes back.
pub(super) struct Link {
    client: Client,
    budget: Duration,
    /// `None` is an open breaker.
    wire: ArcSwapOption<Wire>,
    /// Whether the log has it that Redis is away, or has not heard of it yet.
    away: AtomicBool,
    greeted: AtomicBool,
    failures: AtomicU64,
    /// Counts the times that Redis may have come to hold nothing of ours.
    generation: AtomicU64,
    /// What the last look wrote, and when.
    trace: Mutex<Option<(String, Instant)>>,
}

struct Wire {
    connection: MultiplexedConnection,
    /// In a row; of this connection alone, so that a late failure of the one before counts not.
    failures: AtomicU32,
}

impl Link {
    /// A link that is not connected yet.
    ///
    /// # Errors
    /// The URL or the certificates cannot be read; the text shows nothing of the URL.
    pub(super) fn new(url: &str, ca: Option<&Path>, budget: Duration) -> Result<Self, String> {
        let client = match ca {
            None => Client::open(url),
            Some(path) => {
                let root = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(root) };
                Client::build_with_tls(url, certificates)
            }
        };
        // the crate's text might show the URL, and with it a password
        let client = client.map_err(|error| format!("cannot be used: {:?}", error.kind()))?;
        Ok(Self {
            client,
            budget,
            wire: ArcSwapOption::empty(),
            away: AtomicBool::new(true),
            greeted: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            trace: Mutex::new(None),
        })
    }

    /// Whether questions fail at once.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Questions that were put to Redis and got no good answer, so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Goes up when Redis may have lost what it held.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// An answer was none to the question: the line is not to be trusted any more.
    pub(super) fn out_of_step(&self) -> Away {
        match self.wire.load_full() {
            Some(wire) => self.failed(&wire, true, "it answers another question"),
            None => Away,
        }
    }

    /// Puts a question to Redis, and waits for the answer within the budget.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        self.within(async |connection| command.query_async(connection).await).await
    }

    /// Does something that asks Redis, and waits for its outcome within the budget.
    pub(super) async fn within<T>(
        &self,
        work: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        let Some(wire) = self.wire.load_full() else { return Err(Away) };
        let mut connection = wire.connection.clone();
        match timeout(self.budget, work(&mut connection)).await {
            Ok(Ok(answer)) => {
                wire.failures.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                let lost = error.is_io_error() || error.is_connection_dropped();
                Err(self.failed(&wire, lost, &error.to_string()))
            }
            Err(_) => Err(self.failed(&wire, false, "no answer in time")),
        }
    }

    /// Looks after the link for ever.
    pub(super) async fn tend(&self, trace: &str) {
        loop {
            self.look(trace).await;
            tokio::time::sleep(jittered(LOOK)).await;
        }
    }

    /// A connection that hears what is published on a channel.
    pub(super) async fn subscribe(&self, channel: &str) -> Option<PubSub> {
        let subscribing = async {
            let mut hearing = self.client.get_async_pubsub().await?;
            hearing.subscribe(channel).await?;
            Ok::<_, RedisError>(hearing)
        };
        timeout(CONNECT, subscribing).await.ok()?.ok()
    }

    /// Tries what requests would do, writing included: a Redis that is full or a replica answers
    /// questions and is of no use.
    async fn look(&self, trace: &str) {
        let Some(wire) = self.wire.load_full() else { return self.join(trace).await };
        let mut connection = wire.connection.clone();
        let mark = mark();
        // should this get no answer, nobody knows which mark stays
        let before = self.trace.lock().take();
        let looked = timeout(self.budget, leave(&mut connection, trace, &mark)).await;
        match looked {
            Ok(Ok(found)) => {
                wire.failures.store(0, Ordering::Relaxed);
                *self.trace.lock() = Some((mark, Instant::now()));
                match (found, before) {
                    (Some(found), Some((left, _))) if found != left => drop(self.out_of_step()),
                    (None, Some((_, at))) if at.elapsed() < TRACE / 2 => self.is_blank(),
                    _ => {}
                }
            }
            // what it says so clearly it would say to everybody
            Ok(Err(error)) => drop(self.failed(&wire, true, &error.to_string())),
            Err(_) => drop(self.failed(&wire, false, "no answer in time")),
        }
    }

    async fn join(&self, trace: &str) {
        let mark = mark();
        match self.connect(trace, &mark).await {
            Ok(connection) => {
                let wire = Wire { connection, failures: AtomicU32::new(0) };
                *self.trace.lock() = Some((mark, Instant::now()));
                self.wire.store(Some(Arc::new(wire)));
                self.is_blank();
                self.is_back();
            }
            Err(cause) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.is_gone(&cause);
            }
        }
    }

    async fn connect(&self, trace: &str, mark: &str) -> Result<MultiplexedConnection, String> {
        // a budget of our own stands in for the crate's
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&settings);
        let mut connection = in_time(CONNECT, connecting).await?;
        // the server meets the connection for the first time here, which may take it a little
        in_time(CONNECT, leave(&mut connection, trace, mark)).await?;
        // and this is what a request would meet
        in_time(self.budget, leave(&mut connection, trace, mark)).await?;
        Ok(connection)
    }

    fn failed(&self, wire: &Arc<Wire>, lost: bool, cause: &str) -> Away {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if wire.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FALL || lost {
            // a late failure must not open the breaker before a connection that is new
            let before = self.wire.compare_and_swap(wire, None);
            if before.as_ref().is_some_and(|current| Arc::ptr_eq(current, wire)) {
                self.is_gone(cause);
            }
        }
        Away
    }

    fn is_blank(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn is_gone(&self, cause: &str) {
        let was_away = self.away.swap(true, Ordering::Relaxed);
        if !was_away || !self.greeted.swap(true, Ordering::Relaxed) {
            log::warn!("Redis is away, so this gateway goes on alone: {cause}");
        }
    }

    fn is_back(&self) {
        self.away.store(false, Ordering::Relaxed);
        if self.greeted.swap(true, Ordering::Relaxed) {
            log::info!("Redis answers again");
        } else {
            log::info!("Redis answers");
        }
    }
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, String> {
    let outcome = timeout(limit, work).await.map_err(|_| "no answer in time".to_owned())?;
    outcome.map_err(|error| error.to_string())
}

/// Leaves a mark, and returns the one that was there.
async fn leave(
    connection: &mut MultiplexedConnection,
    trace: &str,
    mark: &str,
) -> Result<Option<String>, RedisError> {
    let life = u64::try_from(TRACE.as_millis()).unwrap_or(u64::MAX);
    let mut set = redis::cmd("SET");
    set.arg(trace).arg(mark).arg("PX").arg(life).arg("GET");
    set.query_async(connection).await
}

/// Sixteen digits that are like no others.
pub(super) fn mark() -> String {
    let mut bytes = [0_u8; 8];
    // without randomness marks are alike, and nothing is noticed by them
    let _ = SystemRandom::new().fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// `time`, give or take a quarter.
pub(super) fn jittered(time: Duration) -> Duration {
    let mut byte = [128_u8];
    // without randomness the gateways are in step, and that is all
    let _ = SystemRandom::new().fill(&mut byte);
    let [byte] = byte;
    time * 3 / 4 + time / 2 * u32::from(byte) / 256
}
