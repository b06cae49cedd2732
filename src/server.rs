//! LISTEN: configuration to sockets, services, signals and the end.
//!
//! Pingora's services run here without Pingora's `Server`, which sleeps a whole grace period even
//! when nothing is left to do, and which goes on deaf when an address cannot be bound.

pub mod certificate;

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use pingora::listeners::TcpSocketOptions;
use pingora::protocols::TcpKeepalive;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Admin};
use crate::auth::verdict::{Authenticator, Options};
use crate::config::{Config, Listen};
use crate::gateway::entrance::Entrance;
use crate::gateway::front::Front;
use crate::gateway::{Gateway, Gauges, Parts};
use crate::scheduler::Scheduler;
use crate::store::Store;
use crate::telemetry::Logs;
use crate::telemetry::metrics::{self, Metrics};
use crate::upstream::health::Prober;
use crate::upstream::{Fleet, peer};
use certificate::Certificate;

/// Attempts that Pingora may make for one request; ours end earlier.
const MOST_ATTEMPTS: usize = 6;
/// How long what still runs gets when the drain is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the gateway until it is told to stop.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let logs = crate::telemetry::init(config.log.level).context("cannot start the log")?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    prepare_tls();
    raise_file_limit(config.limits.connections);
    let certificates = certificates(&config)?;
    let sockets = Sockets::bind(&config)?;
    let metrics = bind_metrics(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads)
        .thread_name("usher")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(run(config, certificates, sockets, metrics, &logs));
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

/// Chooses the TLS implementation that reqwest and Pingora share; a second call changes nothing.
pub fn prepare_tls() {
    pingora::tls::install_default_crypto_provider();
}

/// A connection takes one file, and up to one more to an instance. Shells and old service managers
/// start programs with 1024, and running out makes accepting stop for a second at a time.
fn raise_file_limit(connections: usize) {
    let wanted = connections as u64 * 2 + 256;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let raised = wanted.min(hard).max(soft);
    if setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_err() || raised < wanted {
        log::warn!(
            "limits.connections: {connections} connections can need {wanted} open files, and the \
             system allows {raised}: raise the limit (ulimit -n, LimitNOFILE) or lower the setting"
        );
    }
}

/// The certificate of each listener that has one, in their order.
type Certificates = Vec<Option<Arc<Certificate>>>;

fn certificates(config: &Config) -> anyhow::Result<Certificates> {
    let load = |listen: &Listen| listen.tls.as_ref().map(Certificate::load).transpose();
    Ok(config.listen.iter().map(load).collect::<Result<_, _>>()?)
}

async fn run(
    config: Config,
    certificates: Certificates,
    sockets: Sockets,
    metrics: Option<TcpListener>,
    logs: &Logs,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (stop, stopping) = watch::channel(false);
    // probes and revocations are watched until the last stream is over
    let (end, ending) = watch::channel(false);
    let draining = Arc::new(AtomicBool::new(false));
    let patience = config.timeouts.drain;
    let entrances = entrances(&config, certificates, &ending)?;
    let (gateway, gauges, mut sources) = assemble(config, entrances, &draining, &ending).await?;
    sources.log_dropped = logs.dropped();
    if let Some(listener) = metrics {
        let counted = Arc::clone(&gateway.metrics);
        tokio::spawn(async move {
            if let Err(error) = metrics::serve(listener, counted, sources, ending).await {
                log::error!("metrics are no longer served: {error}");
            }
        });
    }
    let services = gateway.services(sockets.addresses());
    sockets.announce();
    let fds = sockets.into_fds();
    let mut serving = JoinSet::new();
    for mut service in services {
        let (fds, stopping) = (Arc::clone(&fds), stopping.clone());
        serving.spawn(async move { service.start_service(Some(fds), stopping, 1).await });
    }
    let manner = signals.next().await;
    draining.store(true, Ordering::Relaxed);
    // accepting ends at once; what is under way goes on
    let _ = stop.send(true);
    if manner == Manner::Gently {
        drain(&gauges, patience, &mut signals).await;
    }
    let accepting = async { while serving.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS, accepting).await;
    let _ = end.send(true);
    log::info!("stopped: {gauges}");
    Ok(())
}

/// What each listener asks of its connections; the certificates are followed from here on.
fn entrances(
    config: &Config,
    certificates: Certificates,
    ending: &watch::Receiver<bool>,
) -> anyhow::Result<Vec<Entrance>> {
    let entrance = |(listen, certificate): (&Listen, Option<Arc<Certificate>>)| {
        let tls = certificate.map(|certificate| {
            tokio::spawn(Arc::clone(&certificate).follow(ending.clone()));
            certificate.server_config()
        });
        Ok(Entrance::new(tls.transpose()?, listen.balancers.clone()))
    };
    config.listen.iter().zip(certificates).map(entrance).collect()
}

async fn drain(gauges: &Gauges, patience: Duration, signals: &mut Signals) {
    log::info!("stopping: {} requests in flight get up to {patience:?}", gauges.in_flight());
    let empty = async {
        while gauges.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = empty => {}
        () = tokio::time::sleep(patience) => log::warn!("{} requests cut short", gauges.in_flight()),
        _ = signals.next() => log::warn!("told twice: {} requests cut short", gauges.in_flight()),
    }
}

/// The gateway with everything that it needs, its probes and its watchers running.
async fn assemble(
    config: Config,
    entrances: Vec<Entrance>,
    draining: &Arc<AtomicBool>,
    ending: &watch::Receiver<bool>,
) -> anyhow::Result<(Assembled, Gauges, metrics::Sources)> {
    let store = Arc::new(Store::open(&config.database).await?);
    let options = Options::new(config.auth.max_stale, Handle::current());
    let authenticator = Arc::new(Authenticator::new(Arc::clone(&store) as _, &options));
    tokio::spawn(Arc::clone(&authenticator).watch(ending.clone()));
    let fleet = Arc::new(Fleet::new(&config));
    let scheduler = Arc::new(Scheduler::new(&config.upstreams, &config.balance));
    let mut peers = Vec::with_capacity(fleet.instances().len());
    for (number, instance) in fleet.instances().iter().enumerate() {
        peers.push(peer::prototype(instance, &config.timeouts)?);
        let prober = Prober::new(
            Arc::clone(instance),
            number,
            Arc::clone(&scheduler),
            config.health.clone(),
        )?;
        tokio::spawn(prober.run(ending.clone()));
    }
    let conf = Arc::new(ServerConf { max_retries: MOST_ATTEMPTS, ..ServerConf::default() });
    let config = Arc::new(ArcSwap::from_pointee(config));
    let metrics = Metrics::new()?;
    let sources = metrics::Sources {
        authenticator: Arc::clone(&authenticator),
        scheduler: Arc::clone(&scheduler),
        fleet: Arc::clone(&fleet),
        log_dropped: Arc::default(),
    };
    let admin = admin::router(Admin {
        fleet: Arc::clone(&fleet),
        scheduler: Arc::clone(&scheduler),
        store,
    });
    let gateway = Gateway::new(Parts {
        config: Arc::clone(&config),
        authenticator,
        scheduler,
        fleet,
        peers,
        draining: Arc::clone(draining),
        metrics: Arc::clone(&metrics),
        admin,
    });
    let gauges = gateway.gauges();
    let idle = config.load().timeouts.idle;
    let fronts = Front::all(entrances, http_proxy(&conf, gateway), &config, &metrics);
    Ok((Assembled { fronts, idle, metrics }, gauges, sources))
}

/// One front for each listener, in their order.
struct Assembled {
    fronts: Vec<Front>,
    idle: Duration,
    metrics: Arc<Metrics>,
}

impl Assembled {
    fn services(self, addresses: Vec<String>) -> impl Iterator<Item = Service<Front>> {
        self.fronts.into_iter().zip(addresses).map(move |(front, address)| {
            let mut service = Service::new("usher".to_owned(), front);
            // a client that vanished without a word is noticed within a minute, one that stops
            // reading gets the time that it may idle
            let mut options = TcpSocketOptions::default();
            options.tcp_keepalive = Some(TcpKeepalive {
                idle: Duration::from_secs(30),
                interval: Duration::from_secs(10),
                count: 3,
                user_timeout: self.idle,
            });
            service.add_tcp_with_settings(&address, options);
            service
        })
    }
}

/// The socket of the metrics, if they are wanted: bound early, like those of the clients.
fn bind_metrics(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.metrics else { return Ok(None) };
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| {
            format!("cannot listen on {address} for metrics (`metrics: off` does without)")
        })?;
    log::info!("metrics on http://{}/metrics", listener.local_addr()?);
    Ok(Some(listener))
}

/// The sockets, bound before anything else is started: a busy address ends the start.
struct Sockets(Vec<Socket>);

struct Socket {
    listener: TcpListener,
    address: String,
    scheme: &'static str,
}

impl Sockets {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = |listen: &Listen| {
            let address = listen.address;
            let listener = TcpListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .with_context(|| format!("cannot listen on {address}"))?;
            // port 0 is the system's choice, which only the socket knows
            let address = listener.local_addr()?.to_string();
            let scheme = if listen.tls.is_some() { "https" } else { "http" };
            Ok(Socket { listener, address, scheme })
        };
        config.listen.iter().map(bind).collect::<anyhow::Result<_>>().map(Self)
    }

    fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|socket| socket.address.clone()).collect()
    }

    fn announce(&self) {
        for Socket { address, scheme, .. } in &self.0 {
            log::info!("listening on {scheme}://{address}");
        }
    }

    fn into_fds(self) -> ListenFds {
        let mut fds = Fds::new();
        for Socket { address, listener, .. } in self.0 {
            fds.add(address, listener.into_raw_fd());
        }
        Arc::new(Mutex::new(fds))
    }
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Let what is under way finish.
    Gently,
    /// Now.
    Now,
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Manner {
        tokio::select! {
            _ = self.interrupt.recv() => Manner::Now,
            _ = self.terminate.recv() => Manner::Gently,
        }
    }
}
