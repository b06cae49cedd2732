//! LISTEN: configuration to sockets, services, signals and the end.
//!
//! Pingora's services run here without Pingora's `Server`, which sleeps a whole grace period even
//! when nothing is left to do, and which goes on deaf when an address cannot be bound.

pub mod certificate;
pub mod cluster;
mod ending;
mod handover;
mod signals;
mod sockets;
mod systemd;
mod welcome;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pingora::listeners::TcpSocketOptions;
use pingora::protocols::TcpKeepalive;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::session::Logins;
use crate::admin::{self, Admin};
use crate::auth::Tokens;
use crate::auth::password::Passwords;
use crate::config::{Config, Listen};
use crate::gateway::entrance::Entrance;
use crate::gateway::front::Front;
use crate::gateway::stage::Stage;
use crate::gateway::{Gateway, Gauges, Parts};
use crate::limit::Limits;
use crate::live::Live;
use crate::live::reload::{self, Reloader};
use crate::live::watch::FileWatch;
use crate::route::Door;
use crate::scheduler::Scheduler;
use crate::store::{Store, mark};
use crate::telemetry::Logs;
use crate::telemetry::metrics::{self, Metrics};
use crate::upstream::health;
use crate::usage::ledger::Ledger;
use certificate::{Certificate, Certificates};
use ending::{Ending, Last};
use handover::{Inherited, Program};
use signals::{Order, Signals};
use sockets::Sockets;
use systemd::Manager;

/// Attempts that Pingora may make for one request; ours end earlier.
const MOST_ATTEMPTS: usize = 6;
/// How long what still runs gets when the drain is over.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the database gets to take what was used in the end.
const LAST_ENTRIES: Duration = Duration::from_secs(5);

/// Runs the gateway until it is told to stop; `file` is where the configuration is from.
pub fn serve(config: Config, file: PathBuf) -> anyhow::Result<()> {
    let program = Program::this().context("cannot find this program")?;
    welcome::believe_clock(Timestamp::now())?;
    let logs = crate::telemetry::init(config.log.level).context("cannot start the log")?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    prepare_tls();
    raise_file_limit(config.limits.connections);
    let certificates = Certificates::load(&config)?;
    let mut inherited = Inherited::receive()?;
    let sockets = Sockets::open(&config, &mut inherited)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads)
        .thread_name("usher")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let start = Start { config, file, logs: &logs, certificates, inherited, program };
    let ended = runtime.block_on(run(start, sockets));
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

/// What a gateway starts with.
struct Start<'l> {
    config: Config,
    file: PathBuf,
    logs: &'l Logs,
    certificates: Certificates,
    inherited: Inherited,
    program: Program,
}

async fn run(start: Start<'_>, sockets: Sockets) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let manager = Manager::from_env();
    let (stop, stopping) = watch::channel(false);
    let (stage, staged) = watch::channel(Stage::SERVING);
    // probes and revocations are watched until the last stream is over
    let (end, ending) = watch::channel(false);
    let changes = FileWatch::new(&start.file);
    let Start { config, file, logs, certificates, mut inherited, program } = start;
    let doors = entrances(&config, certificates.clone(), &ending)?;
    let settings = (config, file, logs, certificates);
    let assembled = assemble(settings, doors, (staged, ending.clone())).await?;
    let Assembled { fronts, gauges, live, reloader, metrics, sources, keeping } = assembled;
    // a successor knows its instances before it serves: nobody is refused in between
    reloader.start_probes(inherited.is_succession()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_up(reloader, changes, manager.clone())?);
    tasks.spawn(manager.clone().keep_alive());
    let idle = live.load().config.timeouts.idle;
    let services = services(fronts, idle, sockets.addresses());
    log::info!("known by {}", welcome::ways_in(&live.load().config.auth));
    sockets.announce();
    let handles = sockets.handles()?;
    let (listener, fds) = sockets.into_parts();
    let scraping = listener.map(|listener| {
        let serving = metrics::serve(listener, metrics, sources, ending);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                log::error!("metrics are no longer served: {error}");
            }
        })
    });
    let mut serving = JoinSet::new();
    for mut service in services {
        let (fds, stopping) = (Arc::clone(&fds), stopping.clone());
        serving.spawn(async move { service.start_service(Some(fds), stopping, 1).await });
    }
    inherited.ready();
    manager.ready();
    let last = until_told(&mut signals, &program, &handles, &manager).await;
    // while a handle is open its socket takes connections that nobody would accept
    drop(handles);
    tasks.abort_all();
    if let (Last::Replaced, Some(scraping)) = (last, scraping) {
        // whoever scrapes wants the process that serves
        scraping.abort();
    }
    let ending = Ending { stage, gauges, live, signals };
    // accepting ends at once; what is under way goes on
    let accepting_ends = || {
        let _ = stop.send(true);
    };
    ending.end(last, accepting_ends).await;
    let accepting = async { while serving.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS, accepting).await;
    let _ = end.send(true);
    if tokio::time::timeout(LAST_ENTRIES, keeping).await.is_err() {
        log::error!("usage of the last moments is lost: the database does not answer");
    }
    Ok(())
}

/// Serves until an order that ends this process. An upgrade that fails is none.
async fn until_told(
    signals: &mut Signals,
    program: &Program,
    handles: &[(SocketAddr, TcpListener)],
    manager: &Manager,
) -> Last {
    let stopping = |order| {
        manager.stopping();
        if order == Order::StopNow { Last::StopNow } else { Last::Stop }
    };
    loop {
        let order = signals.next().await;
        if order != Order::Upgrade {
            return stopping(order);
        }
        log::info!("upgrading: starting the new process");
        let succeeded = tokio::select! {
            succeeded = program.succeed(handles) => succeeded,
            order = other_than_upgrade(signals) => return stopping(order),
        };
        match succeeded {
            Ok(process) => {
                log::info!("process {process} serves from now on");
                manager.replaced_by(process);
                return Last::Replaced;
            }
            Err(error) => log::error!("the upgrade failed, this process goes on: {error:#}"),
        }
    }
}

async fn other_than_upgrade(signals: &mut Signals) -> Order {
    loop {
        let order = signals.next().await;
        if order != Order::Upgrade {
            return order;
        }
    }
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
    config.listen.iter().zip(certificates.into_each()).map(entrance).collect()
}

/// Rereads the configuration when its file changes and when `SIGHUP` says so, for ever.
fn keep_up(
    reloader: Arc<Reloader>,
    mut changes: FileWatch,
    manager: Manager,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                () = changes.changed() => {}
                _ = hangup.recv() => changes.settle(),
            }
            manager.reloading();
            // what came of it is in the log
            let _ = reloader.reload().await;
            manager.ready();
        }
    })
}

/// The gateway with everything that it needs, watching for revocations.
async fn assemble(
    (config, file, logs, certificates): (Config, PathBuf, &Logs, Certificates),
    doors: Vec<Entrance>,
    (stage, ending): (watch::Receiver<Stage>, watch::Receiver<bool>),
) -> anyhow::Result<Assembled> {
    let tokens = Tokens::load(&config.auth, None)?;
    let store = Arc::new(Store::open_whole(&config.database).await?);
    let redis = cluster::redis(&config, &store.origin().await?, &ending)?;
    let authenticator = cluster::authenticator(&config, Arc::clone(&store), redis.clone());
    tokio::spawn(Arc::clone(&authenticator).watch(ending.clone()));
    let scheduler = Arc::new(Scheduler::new(&config.balance));
    tokens.keep_fresh();
    let live = Arc::new(Live::new(config, tokens, &scheduler)?);
    let metrics = Metrics::new()?;
    let ledger = Ledger::new(Arc::clone(&store) as _, &mark());
    let seats = cluster::seats(redis.as_ref(), &scheduler);
    let keeping = cluster::keep(seats, Arc::clone(&ledger).keep(ending.clone()), &ending);
    let limits = Limits::new(cluster::quotas(redis.as_ref(), &ending));
    tokio::spawn(Arc::clone(&limits).keep_small());
    let sources = metrics::Sources {
        authenticator: Arc::clone(&authenticator),
        redis: redis.clone(),
        ledger: Arc::clone(&ledger),
        scheduler: Arc::clone(&scheduler),
        live: Arc::clone(&live),
        log_dropped: logs.dropped(),
    };
    let parts = reload::Parts {
        file,
        live: Arc::clone(&live),
        scheduler: Arc::clone(&scheduler),
        certificates: Arc::new(certificates),
        logging: logs.logging(),
        client: health::client()?,
        ending,
    };
    let reloader = Arc::new(Reloader::new(parts));
    let admin = admin::router(Admin {
        live: Arc::clone(&live),
        scheduler: Arc::clone(&scheduler),
        store: Arc::clone(&store),
        authenticator: Arc::clone(&authenticator),
        reloader: Arc::clone(&reloader),
        limits: Arc::clone(&limits),
        logins: Logins::new(Passwords::start().context("cannot start threads for passwords")?),
    });
    let gateway = Gateway::new(Parts {
        live: Arc::clone(&live),
        authenticator,
        logins: cluster::logins(redis.as_ref()),
        redis,
        limits,
        ledger,
        scheduler,
        stage: stage.clone(),
        metrics: Arc::clone(&metrics),
        store,
        admin,
        client: health::client()?,
    });
    let gauges = gateway.gauges();
    let fronts = fronts(&gateway, doors, (&live, &metrics), &stage);
    Ok(Assembled { fronts, gauges, live, reloader, metrics, sources, keeping })
}

/// What stands before the gateway at each listener; at that of `/admin`, if it has its own, last.
fn fronts(
    gateway: &Gateway,
    doors: Vec<Entrance>,
    (live, metrics): (&Arc<Live>, &Arc<Metrics>),
    stage: &watch::Receiver<Stage>,
) -> Vec<Front> {
    let connections = gateway.connections();
    let conf = Arc::new(ServerConf { max_retries: MOST_ATTEMPTS, ..ServerConf::default() });
    let before = |door, entrances| {
        let proxy = http_proxy(&conf, gateway.at(door));
        Front::all(entrances, proxy, (live, metrics), &connections, stage)
    };
    if live.load().config.admin.is_none() {
        return before(Door::Both, doors);
    }
    let mut fronts = before(Door::Data, doors);
    fronts.extend(before(Door::Admin, vec![Entrance::new(None, None)]));
    fronts
}

struct Assembled {
    /// One for each listener, in the order of the sockets.
    fronts: Vec<Front>,
    gauges: Gauges,
    live: Arc<Live>,
    reloader: Arc<Reloader>,
    metrics: Arc<Metrics>,
    sources: metrics::Sources,
    /// Ends when all usage is written down.
    keeping: JoinHandle<()>,
}

fn services(
    fronts: Vec<Front>,
    idle: Duration,
    addresses: Vec<String>,
) -> impl Iterator<Item = Service<Front>> {
    fronts.into_iter().zip(addresses).map(move |(front, address)| {
        let mut service = Service::new("usher".to_owned(), front);
        // a client that vanished without a word is noticed within a minute, one that stops
        // reading gets the time that it may idle
        let mut options = TcpSocketOptions::default();
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            count: 3,
            user_timeout: idle,
        });
        service.add_tcp_with_settings(&address, options);
        service
    })
}
