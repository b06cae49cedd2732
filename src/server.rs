//! LISTEN: configuration to sockets, services, signals and the end.
//!
//! Pingora's services run here without Pingora's `Server`, which sleeps a whole grace period even
//! when nothing is left to do, and which goes on deaf when an address cannot be bound.

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
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
use crate::live::Live;
use crate::live::reload::{self, Reloader};
use crate::live::watch::FileWatch;
use crate::scheduler::Scheduler;
use crate::store::Store;
use crate::telemetry::{self, Logging};
use crate::upstream::health;

/// Attempts that Pingora may make for one request; ours end earlier.
const MOST_ATTEMPTS: usize = 6;
/// How long what still runs gets when the drain is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the gateway until it is told to stop; `file` is where the configuration is from.
pub fn serve(config: Config, file: PathBuf) -> anyhow::Result<()> {
    let logging = telemetry::init(config.log.level);
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
    let ended = runtime.block_on(run(Start { config, file, logging }, sockets));
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

/// What a gateway starts with.
struct Start {
    config: Config,
    file: PathBuf,
    logging: Logging,
}

async fn run(start: Start, sockets: Sockets) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (stop, stopping) = watch::channel(false);
    // probes and revocations are watched until the last stream is over
    let (end, ending) = watch::channel(false);
    let draining = Arc::new(AtomicBool::new(false));
    let changes = FileWatch::new(&start.file);
    let Assembled { front, gauges, live, reloader } = assemble(start, &draining, &ending).await?;
    reloader.start_probes();
    let reloading = tokio::spawn(keep_up(Arc::clone(&reloader), changes)?);
    let mut service = service(front, sockets.addresses());
    sockets.announce();
    let fds = sockets.into_fds();
    let serving = tokio::spawn(async move {
        service.start_service(Some(fds), stopping, 1).await;
    });
    let manner = signals.next().await;
    reloading.abort();
    draining.store(true, Ordering::Relaxed);
    // accepting ends at once; what is under way goes on
    let _ = stop.send(true);
    if manner == Manner::Gently {
        let patience = live.load().config.timeouts.drain;
        drain(&gauges, patience, &mut signals).await;
    }
    let _ = tokio::time::timeout(LAST_WORDS, serving).await;
    let _ = end.send(true);
    log::info!("stopped: {gauges}");
    Ok(())
}

/// Rereads the configuration when its file changes and when `SIGHUP` says so, for ever.
fn keep_up(
    reloader: Arc<Reloader>,
    mut changes: FileWatch,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                () = changes.changed() => {}
                _ = hangup.recv() => changes.settle(),
            }
            // what came of it is in the log
            let _ = reloader.reload().await;
        }
    })
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

/// The gateway with everything that it needs, watching for revocations.
async fn assemble(
    Start { config, file, logging }: Start,
    draining: &Arc<AtomicBool>,
    ending: &watch::Receiver<bool>,
) -> anyhow::Result<Assembled> {
    let store = Arc::new(Store::open(&config.database).await?);
    let options = Options::new(config.auth.max_stale, Handle::current());
    let authenticator = Arc::new(Authenticator::new(store, &options));
    tokio::spawn(Arc::clone(&authenticator).watch(ending.clone()));
    let scheduler = Arc::new(Scheduler::new(&config.balance));
    let live = Arc::new(Live::new(config, &scheduler)?);
    let gateway = Gateway::new(Parts {
        live: Arc::clone(&live),
        authenticator,
        scheduler: Arc::clone(&scheduler),
        draining: Arc::clone(draining),
    });
    let gauges = gateway.gauges();
    let conf = Arc::new(ServerConf { max_retries: MOST_ATTEMPTS, ..ServerConf::default() });
    let front = Front::new(http_proxy(&conf, gateway), Arc::clone(&live));
    let (client, ending) = (health::client()?, ending.clone());
    let live_too = Arc::clone(&live);
    let parts = reload::Parts { file, live: live_too, scheduler, logging, client, ending };
    Ok(Assembled { front, gauges, live, reloader: Arc::new(Reloader::new(parts)) })
}

struct Assembled {
    front: Front,
    gauges: Gauges,
    live: Arc<Live>,
    reloader: Arc<Reloader>,
}

fn service(front: Front, addresses: Vec<String>) -> Service<Front> {
    let mut service = Service::new("usher".to_owned(), front);
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
