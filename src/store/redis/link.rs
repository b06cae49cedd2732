//! The connection to Redis, and the breaker before it.
//!
//! Nobody waits long for Redis: a question has a budget, and after three failures in a row, or one
//! lost connection, the breaker opens and questions fail at once. One task looks after it: once a
//! second it tries what a request would, and only when that succeeds the breaker closes. Requests
//! never connect, so a Redis that comes back meets one connection of each gateway, not a crowd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, RedisError, TlsCertificates,
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::timeout;

use crate::config::{self, NamedFile};
use crate::store::mark;

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
    /// The URL or the certificates cannot be read, and where they are named; the text shows nothing
    /// of the URL.
    pub(super) fn new(config: &config::Redis) -> Result<Self, String> {
        let url = config.url.expose();
        let client = match &config.ca {
            // the crate's text might show the URL, and with it a password
            None => Client::open(url)
                .map_err(|e| format!("{}: its URL cannot be used: {:?}", config.place, e.kind())),
            Some(file) => with_authority(url, file),
        }?;
        Ok(Self {
            client,
            budget: config.timeout,
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

    /// A connection that hears what is published on these channels.
    pub(super) async fn subscribe(&self, channels: &[String]) -> Option<PubSub> {
        let subscribing = async {
            let mut hearing = self.client.get_async_pubsub().await?;
            hearing.subscribe(channels).await?;
            Ok::<_, RedisError>(hearing)
        };
        timeout(CONNECT, subscribing).await.ok()?.ok()
    }

    /// A connection of its own, which nothing looks after.
    pub(super) async fn connect_once(
        &self,
        patience: Duration,
    ) -> Result<MultiplexedConnection, String> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&settings);
        in_time(patience, connecting).await
    }

    /// How the server is reached.
    pub(super) fn line(&self) -> &'static str {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::TcpTls { .. } => "TLS",
            ConnectionAddr::Unix(_) => "socket",
            _ => "TCP",
        }
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
        let mut connection = self.connect_once(CONNECT).await?;
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

/// A client that believes servers whom this authority vouches for, and no others.
fn with_authority(url: &str, file: &NamedFile) -> Result<Client, String> {
    let NamedFile { path, place } = file;
    let shown = path.display();
    let root =
        std::fs::read(path).map_err(|error| format!("{place}: {shown} cannot be read: {error}"))?;
    let is_pem = memchr::memmem::find(&root, b"-----BEGIN CERTIFICATE-----").is_some();
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(root) };
    let client = Client::build_with_tls(url, certificates).ok().filter(|_| is_pem);
    client.ok_or_else(|| format!("{place}: {shown} holds no certificate in PEM that can be read"))
}

/// What an error means, and what to do about it where that is known.
fn meaning(error: &RedisError) -> String {
    let text = error.to_string();
    let known = [
        ("UnknownIssuer", "no authority that we trust vouches for its certificate: redis_ca"),
        ("BadSignature", "no authority that we trust vouches for its certificate: redis_ca"),
        ("not valid for name", "its certificate is for another name than its URL's"),
        ("expired", "its certificate has expired"),
        ("InvalidContentType", "it speaks no TLS: write redis:// or another port"),
    ];
    let found = known.iter().find(|(word, _)| text.contains(word));
    found.map_or(text, |(_, meaning)| (*meaning).to_owned())
}

pub(super) async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, String> {
    let outcome = timeout(limit, work).await.map_err(|_| "no answer in time".to_owned())?;
    outcome.map_err(|error| meaning(&error))
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

/// `time`, give or take a quarter.
pub(super) fn jittered(time: Duration) -> Duration {
    let mut byte = [128_u8];
    // without randomness the gateways are in step, and that is all
    let _ = SystemRandom::new().fill(&mut byte);
    let [byte] = byte;
    time * 3 / 4 + time / 2 * u32::from(byte) / 256
}
