//! What sharing with other gateways costs, and what a Redis that stops in its tracks does.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use tokio::sync::watch;
use usher::auth::verdict::{Authenticator, Options};
use usher::auth::{Asking, Peers, Signed, Tokens, api_key};
use usher::config::{Config, Database};
use usher::store::{Actor, Fingerprint, KeyLimits, KeySpec, NewUser, Redis, Store};

use crate::client::open_loop;
use crate::machine;
use crate::peers::{Peer, Stage};
use crate::process::{Process, Running, cpu_of, signal};

/// Where what came of it is written.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/SHARING.md");
/// Requests a second, while Redis is frozen and beside that.
const RATE: u32 = 500;
/// Keys that are looked up in each layer.
const KEYS: usize = 1000;
/// How often each of them is looked up where that costs next to nothing.
const AGAIN: usize = 200;

/// A Redis of the bench's own.
pub struct Server {
    /// It ends with this.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts one on a free port; what it says goes into `directory`.
    pub fn start(directory: &Path) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]).arg("--dir").arg(directory);
        let process = Process::start(command, &directory.join("redis.log"))?;
        let begun = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "redis-server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, address })
    }
}

/// Freezes Redis under load, and says what that did.
pub async fn freeze(brief: bool) -> Result<()> {
    let scale = if brief { 5 } else { 1 };
    let (calm, frozen) = (Duration::from_secs(20) / scale, Duration::from_secs(20) / scale);
    let (stage, running) = tokio::task::block_in_place(|| {
        let stage = Stage::set(machine::cores())?;
        let running = stage.start(Peer::UsherSharing, &[])?;
        anyhow::Ok((stage, running))
    })?;
    let redis = stage.redis()?.process.id();
    let before = measured(&running, calm).await?;
    signal(redis, "STOP")?;
    let during = measured(&running, frozen).await;
    signal(redis, "CONT")?;
    let during = during?;
    let after = measured(&running, calm).await?;
    running.stop()?;
    let mut out = format!("Redis frozen for {frozen:?} at {RATE} requests/s, in ms:\n\n");
    out += "| | requests | p50 | p99 | p99.9 | most |\n|---|---|---|---|---|---|\n";
    for (when, times) in [("before", &before), ("frozen", &during), ("after", &after)] {
        let _ = writeln!(
            out,
            "| {when} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            times.len(),
            at(times, 0.5),
            at(times, 0.99),
            at(times, 0.999),
            at(times, 1.0)
        );
    }
    let _ = writeln!(
        out,
        "\np99 rose by {:.2} ms; nothing failed.",
        at(&during, 0.99) - at(&before, 0.99)
    );
    println!("{out}");
    Ok(())
}

/// Latencies in milliseconds, in order. Fails if a request does.
async fn measured(running: &Running, time: Duration) -> Result<Vec<f64>> {
    let request = running.target.chat(200);
    let times = open_loop(&running.target, &request, RATE, time).await?;
    let mut times: Vec<f64> = times.into_iter().map(|time| time as f64 / 1e6).collect();
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

fn at(sorted: &[f64], part: f64) -> f64 {
    let place = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(place - 1).copied().unwrap_or_default()
}

/// What an authentication costs by who answers it: the database, Redis, or this process itself.
pub async fn layers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let bench = Layers::new(directory.path(), &server).await?;
    let mut out = format!(
        "{}`cargo bench --bench load -- layers` writes this file.\n\n",
        machine::heading("Sharing")
    );
    out += "| who answers | µs each | CPU µs here | CPU µs of Redis |\n|---|---|---|---|\n";
    let alone = bench.authenticator(None);
    let [first, second] = [bench.sharing().await?, bench.sharing().await?];
    for (layer, authenticator, times) in [
        ("SQLite, one by one", &alone, 1),
        ("the process's own memory", &alone, AGAIN),
        ("SQLite, and Redis is told", &first, 1),
        ("Redis, told by another gateway", &second, 1),
    ] {
        let before = (cpu_of(std::process::id()), cpu_of(server.process.id()), Instant::now());
        for _ in 0..times {
            for headers in &bench.callers {
                bench.ask(authenticator, headers).await?;
            }
        }
        let each = |seconds: f64| seconds * 1e6 / (times * bench.callers.len()) as f64;
        let spent = |pid: u32, since: Option<f64>| {
            each(cpu_of(pid).zip(since).map_or(0.0, |(now, then)| now - then))
        };
        let _ = writeln!(
            out,
            "| {layer} | {:.2} | {:.2} | {:.2} |",
            each(before.2.elapsed().as_secs_f64()),
            spent(std::process::id(), before.0),
            spent(server.process.id(), before.1)
        );
        let asked = authenticator.asked();
        eprintln!("{layer}: {asked:?}");
    }
    println!("{out}");
    Ok(std::fs::write(RESULTS, out)?)
}

struct Layers {
    store: Arc<Store>,
    config: Config,
    tokens: Tokens,
    callers: Vec<HeaderMap>,
    end: watch::Sender<bool>,
}

impl Layers {
    async fn new(directory: &Path, server: &Server) -> Result<Self> {
        let text = format!(
            "upstreams: [ {{ name: a, url: 'http://127.0.0.1:1' }} ]\nredis: 'redis://{}/0'",
            server.address
        );
        let secret = |name: &str| (name == "JWT_SECRET").then(|| "a secret of a bench".repeat(3));
        let config = Config::parse(&text, &directory.join("usher.yaml"), &secret)?;
        let tokens = Tokens::load(&config.auth, None)?;
        let store = Store::open(&Database::Sqlite(directory.join("usher.db"))).await?;
        let ann = NewUser { username: "ann".into(), tier: "free".into(), ..NewUser::default() };
        store.create_user(&Actor::CLI, &ann).await?;
        let mut callers = Vec::new();
        for number in 0..KEYS {
            let key = api_key::generate()?;
            let print = Fingerprint { hash: key.hash, public_id: Some(&key.public_id) };
            let spec = KeySpec {
                user: "ann".into(),
                name: format!("key {number}"),
                tier: None,
                models: None,
                limits: KeyLimits::default(),
                delegating: false,
                expires_at: None,
            };
            store.create_key(&Actor::CLI, &spec, &print).await?;
            let value = HeaderValue::try_from(key.plaintext.expose())?;
            callers.push(HeaderMap::from_iter([(
                http::header::HeaderName::from_static("x-api-key"),
                value,
            )]));
        }
        let (end, _) = watch::channel(false);
        Ok(Self { store: Arc::new(store), config, tokens, callers, end })
    }

    fn authenticator(&self, peers: Option<Arc<dyn Peers>>) -> Arc<Authenticator> {
        let runtime = tokio::runtime::Handle::current();
        let options = Options { peers, ..Options::new(Duration::from_mins(2), runtime) };
        let authenticator = Arc::new(Authenticator::new(Arc::clone(&self.store) as _, &options));
        tokio::spawn(Arc::clone(&authenticator).watch(self.end.subscribe()));
        authenticator
    }

    /// One that asks this Redis, and is connected to it.
    async fn sharing(&self) -> Result<Arc<Authenticator>> {
        let settings = self.config.redis.as_ref().context("the configuration names it")?;
        let secret = usher::config::Secret::new("a secret of a bench".repeat(3));
        let redis = Redis::new(settings, &secret, "bench").map_err(anyhow::Error::msg)?;
        let redis = Arc::new(redis);
        tokio::spawn(Arc::clone(&redis).tend(self.end.subscribe()));
        let authenticator = self.authenticator(Some(Arc::clone(&redis) as _));
        let begun = Instant::now();
        while redis.is_away() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "Redis is not joined");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // until the revision is known nobody believes what others have read
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(authenticator)
    }

    async fn ask(&self, authenticator: &Authenticator, headers: &HeaderMap) -> Result<()> {
        let asking = Asking {
            headers,
            path_key: None,
            signed: Signed { method: "POST", path: "/api/chat", query: "", private: true },
            config: &self.config.auth,
            tokens: &self.tokens,
            now: Timestamp::now(),
            from: Ipv4Addr::LOCALHOST.into(),
            last: None,
        };
        authenticator.authenticate(asking).await.map(drop).map_err(anyhow::Error::from)
    }
}
