//! LISTEN: configuration to sockets, services, signals and the end.
//!
//! Pingora's services run here without Pingora's `Server`, which sleeps a whole grace period even
//! when nothing is left to do, and which goes on deaf when an address cannot be bound.

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
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

use crate::auth::verdict::{Authenticator, Options};
use crate::config::Config;
use crate::gateway::front::Front;
use crate::gateway::{Gateway, Gauges, Parts};
use crate::scheduler::Scheduler;
use crate::store::Store;
use crate::telemetry;
use crate::upstream::health::Prober;
use crate::upstream::{Fleet, peer};

/// Attempts that Pingora may make for one request; ours end earlier.
const MOST_ATTEMPTS: usize = 6;
/// How long what still runs gets when the drain is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the gateway until it is told to stop.
pub fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(config.log.level);
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    // reqwest and Pingora share one TLS implementation; a second installation changes nothing
    pingora::tls::install_default_crypto_provider();
    let sockets = Sockets::bind(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads)
        .thread_name("usher")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(run(config, sockets));
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

async fn run(config: Config, sockets: Sockets) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (stop, stopping) = watch::channel(false);
    // probes and revocations are watched until the last stream is over
    let (end, ending) = watch::channel(false);
    let draining = Arc::new(AtomicBool::new(false));
    let patience = config.timeouts.drain;
    let (gateway, gauges) = assemble(config, &draining, &ending).await?;
    let mut service = gateway.service(sockets.addresses());
    sockets.announce();
    let fds = sockets.into_fds();
    let serving = tokio::spawn(async move {
        service.start_service(Some(fds), stopping, 1).await;
    });
    let manner = signals.next().await;
    draining.store(true, Ordering::Relaxed);
    // accepting ends at once; what is under way goes on
    let _ = stop.send(true);
    if manner == Manner::Gently {
        drain(&gauges, patience, &mut signals).await;
    }
    let _ = tokio::time::timeout(LAST_WORDS, serving).await;
    let _ = end.send(true);
    log::info!("stopped: {gauges}");
    Ok(())
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
    draining: &Arc<AtomicBool>,
    ending: &watch::Receiver<bool>,
) -> anyhow::Result<(Assembled, Gauges)> {
    let store = Arc::new(Store::open(&config.database).await?);
    let options = Options::new(config.auth.max_stale, Handle::current());
    let authenticator = Arc::new(Authenticator::new(store, &options));
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
    let gateway = Gateway::new(Parts {
        config: Arc::clone(&config),
        authenticator,
        scheduler,
        fleet,
        peers,
        draining: Arc::clone(draining),
    });
    let gauges = gateway.gauges();
    Ok((Assembled { front: Front::new(http_proxy(&conf, gateway), config) }, gauges))
}

struct Assembled {
    front: Front,
}

impl Assembled {
    fn service(self, addresses: Vec<String>) -> Service<Front> {
        let mut service = Service::new("usher".to_owned(), self.front);
        for address in addresses {
            // a client that vanished without a word is noticed within a minute
            let mut options = TcpSocketOptions::default();
            options.tcp_keepalive = Some(TcpKeepalive {
                idle: Duration::from_secs(30),
                interval: Duration::from_secs(10),
                count: 3,
                user_timeout: Duration::from_secs(60),
            });
            service.add_tcp_with_settings(&address, options);
        }
        service
    }
}

/// The sockets, bound before anything else is started: a busy address ends the start.
struct Sockets(Vec<(String, TcpListener)>);

impl Sockets {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = |listen: &crate::config::Listen| {
            let address = listen.address;
            let listener = TcpListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .with_context(|| format!("cannot listen on {address}"))?;
            // port 0 is the system's choice, which only the socket knows
            Ok((listener.local_addr()?.to_string(), listener))
        };
        config.listen.iter().map(bind).collect::<anyhow::Result<_>>().map(Self)
    }

    fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|(address, _)| address.clone()).collect()
    }

    fn announce(&self) {
        for (address, _) in &self.0 {
            log::info!("listening on http://{address}");
        }
    }

    fn into_fds(self) -> ListenFds {
        let mut fds = Fds::new();
        for (address, listener) in self.0 {
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
