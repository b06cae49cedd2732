//! What is compared: each proxy as a process of its own, with a configuration of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bare::Setup;
use crate::client::Target;
use crate::process::{Process, Running};
use crate::sharing::Server;
use crate::tls::Tls;

/// Limits that nobody reaches, and none.
const LIMITS: &str = "requests: 1000M/h, reads: 1000M/h, tokens: 1000000M/h";
const NO_LIMITS: &str = "requests: null, reads: null";

/// What a run compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// No proxy.
    Direct,
    /// Pingora and nothing else.
    Bare,
    /// The same, set up otherwise: in no table of all.
    BareSticky,
    BareLean,
    /// nginx: a key, a rate limit, the least busy instance, an access log.
    Nginx,
    /// HAProxy: the same.
    Haproxy,
    /// Usher, everything on.
    Usher,
    /// Usher without limits: in no table, for comparison with the two around it.
    UsherUnlimited,
    /// Usher, everything on, and a Redis that it would share with others: in no table either.
    UsherSharing,
    /// Pingora, with TLS.
    BareTls,
    /// nginx, with TLS.
    NginxTls,
    /// HAProxy, with TLS.
    HaproxyTls,
    /// Usher, everything on, with TLS.
    UsherTls,
}

impl Peer {
    /// In the order in which tables show them.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Bare,
        Self::Nginx,
        Self::Haproxy,
        Self::Usher,
        Self::BareTls,
        Self::NginxTls,
        Self::HaproxyTls,
        Self::UsherTls,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bare => "bare Pingora",
            Self::BareSticky => "bare Pingora, no stealing",
            Self::BareLean => "bare Pingora, no module",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Usher => "Usher",
            Self::UsherUnlimited => "Usher, no limits",
            Self::UsherSharing => "Usher, limits and Redis",
            Self::BareTls => "bare Pingora, TLS",
            Self::NginxTls => "nginx, TLS",
            Self::HaproxyTls => "HAProxy, TLS",
            Self::UsherTls => "Usher, TLS",
        }
    }

    /// Whether it speaks TLS with its clients.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::BareTls | Self::NginxTls | Self::HaproxyTls | Self::UsherTls)
    }

    /// What its numbers are multiples of; none for what is no proxy, and for Pingora itself.
    pub fn yardstick(self) -> Option<Self> {
        match self {
            Self::Direct | Self::Bare | Self::BareTls => None,
            Self::Nginx | Self::Haproxy | Self::Usher => Some(Self::Bare),
            Self::BareSticky | Self::BareLean => Some(Self::Bare),
            Self::UsherUnlimited | Self::UsherSharing => Some(Self::Usher),
            Self::NginxTls | Self::HaproxyTls | Self::UsherTls => Some(Self::BareTls),
        }
    }

    /// Whether its program is here.
    pub fn is_installed(self) -> bool {
        match self {
            Self::Nginx | Self::NginxTls => version("nginx", "-v").is_some(),
            Self::Haproxy | Self::HaproxyTls => version("haproxy", "-v").is_some(),
            Self::UsherSharing => version("redis-server", "--version").is_some(),
            Self::Direct | Self::Bare | Self::BareTls => true,
            Self::BareSticky | Self::BareLean => true,
            Self::Usher | Self::UsherUnlimited | Self::UsherTls => true,
        }
    }
}

/// First line of what a program says of its version.
pub fn version(program: &str, flag: &str) -> Option<String> {
    // Debian keeps servers out of the path of ordinary users
    let found = ["", "/usr/sbin/"]
        .iter()
        .find_map(|place| Command::new(format!("{place}{program}")).arg(flag).output().ok())?;
    let said = [found.stdout, found.stderr].concat();
    Some(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// The backend, and where everything is written; what was started ends with it.
pub struct Stage {
    directory: tempfile::TempDir,
    backends: Vec<SocketAddr>,
    backend: Option<Process>,
    redis: OnceLock<Server>,
    /// For those that speak TLS.
    pub tls: Tls,
    /// Threads of each proxy.
    pub threads: usize,
}

impl Stage {
    /// Starts the backend, on two ports: two instances.
    pub fn set(threads: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let backends = vec![free_port()?, free_port()?];
        let tls = Tls::new(directory.path())?;
        let mut stage =
            Self { directory, backends, backend: None, redis: OnceLock::new(), tls, threads };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("backend").args(stage.backends.iter().map(ToString::to_string));
        stage.backend = Some(Process::start(command, &stage.path("backend.log"))?);
        for address in &stage.backends {
            wait_for(*address)?;
        }
        Ok(stage)
    }

    /// The instance that stands behind the ones that know only one.
    fn first(&self) -> Result<SocketAddr> {
        self.backends.first().copied().context("there is a backend")
    }

    /// A file of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The Redis of this run, which is started for the first who asks.
    pub fn redis(&self) -> Result<&Server> {
        if self.redis.get().is_none() {
            let server = Server::start(self.directory.path())?;
            let _ = self.redis.set(server);
        }
        self.redis.get().context("it was just started")
    }

    /// Starts a proxy, under `wrapper` if that is not empty, and waits until it answers.
    pub fn start(&self, peer: Peer, wrapper: &[String]) -> Result<Running> {
        let address = match peer {
            Peer::Direct => self.first()?,
            _ => free_port()?,
        };
        let (command, key) = match peer {
            Peer::Direct => (None, "none".to_owned()),
            Peer::Bare | Peer::BareSticky | Peer::BareLean | Peer::BareTls => {
                (Some(self.bare(peer, address)?), "none".to_owned())
            }
            Peer::Nginx | Peer::NginxTls => {
                (Some(self.nginx(peer, address)?), "bench-key".to_owned())
            }
            Peer::Haproxy | Peer::HaproxyTls => {
                (Some(self.haproxy(peer, address)?), "bench-key".to_owned())
            }
            Peer::Usher | Peer::UsherUnlimited | Peer::UsherSharing | Peer::UsherTls => {
                let (command, key) = self.usher(peer, address, !wrapper.is_empty())?;
                (Some(command), key)
            }
        };
        let log = self.path(&format!("{}.log", peer.name()));
        let process = command.map(|command| Process::start(wrap(command, wrapper), &log));
        let tls = peer.is_tls().then(|| self.tls.connector()).transpose()?;
        let target = Target { address, key, tls };
        let running = Running { target, process: process.transpose()?, successor: None };
        wait_until_ready(peer, &running.target).with_context(|| {
            format!(
                "{} does not answer: {}",
                peer.name(),
                fs::read_to_string(&log).unwrap_or_default()
            )
        })?;
        Ok(running)
    }

    fn bare(&self, peer: Peer, address: SocketAddr) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        let backend = self.first()?.to_string();
        let setup = match peer {
            Peer::BareSticky => Setup::Sticky,
            Peer::BareLean => Setup::Lean,
            _ => Setup::Usual,
        };
        let threads = self.threads.to_string();
        command.args(["bare", &address.to_string(), &backend, &threads, setup.word()]);
        if peer.is_tls() {
            command.args([&self.tls.cert, &self.tls.key]);
        }
        Ok(command)
    }

    fn nginx(&self, peer: Peer, address: SocketAddr) -> Result<Command> {
        let servers: String =
            self.backends.iter().map(|backend| format!("server {backend};")).collect();
        let place = self.path("nginx");
        fs::create_dir_all(&place)?;
        let (cert, key) = (show(&self.tls.cert), show(&self.tls.key));
        let tls = match peer.is_tls() {
            true => format!("ssl_certificate {cert}; ssl_certificate_key {key};"),
            false => String::new(),
        };
        let file = self.fill(
            "nginx.conf",
            include_str!("nginx.conf"),
            &[
                ("ADDRESS", &address.to_string()),
                ("SSL", if peer.is_tls() { "ssl" } else { "" }),
                ("TLS", &tls),
                ("THREADS", &self.threads.to_string()),
                ("SERVERS", &servers),
                ("PLACE", show(&place)),
            ],
        )?;
        let mut command = Command::new(program("nginx"));
        command.args(["-c", show(&file), "-e", "stderr"]);
        Ok(command)
    }

    fn haproxy(&self, peer: Peer, address: SocketAddr) -> Result<Command> {
        let server = |(number, backend)| format!("  server s{number} {backend}\n");
        let servers: String = self.backends.iter().enumerate().map(server).collect();
        let both = self.path("haproxy.pem");
        fs::write(&both, [fs::read(&self.tls.cert)?, fs::read(&self.tls.key)?].concat())?;
        let tls = if peer.is_tls() { format!("ssl crt {}", show(&both)) } else { String::new() };
        let file = self.fill(
            "haproxy.cfg",
            include_str!("haproxy.cfg"),
            &[
                ("ADDRESS", &address.to_string()),
                ("TLS", &tls),
                ("THREADS", &self.threads.to_string()),
                ("SERVERS", &servers),
            ],
        )?;
        let mut command = Command::new(program("haproxy"));
        command.args(["-db", "-f", show(&file)]);
        Ok(command)
    }

    fn usher(&self, peer: Peer, address: SocketAddr, wrapped: bool) -> Result<(Command, String)> {
        let state = tempfile::tempdir_in(self.directory.path())?.keep();
        let upstream = |(number, backend)| {
            format!("  - {{ name: gpu{number}, url: 'http://{backend}', slots: 10000 }}\n")
        };
        let upstreams: String = self.backends.iter().enumerate().map(upstream).collect();
        let (cert, key) = (show(&self.tls.cert), show(&self.tls.key));
        let tls = match peer.is_tls() {
            true => format!(", tls: {{ cert: '{cert}', key: '{key}' }}"),
            false => String::new(),
        };
        // under valgrind a machine takes its time to read what Redis has answered at once
        let more = match peer {
            Peer::UsherSharing if wrapped => {
                format!("redis: 'redis://{}/0'\nredis_timeout: 5s", self.redis()?.address)
            }
            Peer::UsherSharing => format!("redis: 'redis://{}/0'", self.redis()?.address),
            _ => String::new(),
        };
        let file = self.fill(
            "usher.yaml",
            include_str!("usher.yaml"),
            &[
                ("ADDRESS", &address.to_string()),
                ("TLS", &tls),
                ("STATE", show(&state)),
                ("THREADS", &self.threads.to_string()),
                ("UPSTREAMS", &upstreams),
                ("LIMITS", if peer == Peer::UsherUnlimited { NO_LIMITS } else { LIMITS }),
                ("MORE", &more),
            ],
        )?;
        let usher = env!("CARGO_BIN_EXE_usher");
        let made = Command::new(usher).args(["init", "--json", "-c", show(&file)]).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let made: Value = serde_json::from_slice(&made.stdout)?;
        let key = made.get("key").and_then(Value::as_str).context("usher init prints a key")?;
        let mut command = Command::new(usher);
        command.args(["serve", "-c", show(&file)]);
        Ok((command, key.to_owned()))
    }

    /// Writes a configuration with `@NAME@` replaced.
    fn fill(&self, name: &str, text: &str, values: &[(&str, &str)]) -> Result<PathBuf> {
        let filled = values
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value));
        let file = self.path(name);
        fs::write(&file, filled)?;
        Ok(file)
    }
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn program(name: &str) -> String {
    let there = format!("/usr/sbin/{name}");
    if Path::new(&there).exists() { there } else { name.to_owned() }
}

fn wrap(command: Command, wrapper: &[String]) -> Command {
    let Some((program, arguments)) = wrapper.split_first() else { return command };
    let mut wrapped = Command::new(program);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    wrapped
}

/// A port that nobody listens on.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn wait_for(address: SocketAddr) -> Result<()> {
    patiently(|| std::net::TcpStream::connect(address).is_ok())
}

/// Ready is what answers a request as the bench will send it.
fn wait_until_ready(peer: Peer, target: &Target) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = target.chat(21);
    let answers = || {
        let asked = runtime
            .block_on(async { crate::client::Wire::open(target).await?.ask(&request).await });
        asked.is_ok()
    };
    patiently(answers).with_context(|| format!("{} at {}", peer.name(), target.address))
}

fn patiently(is_true: impl Fn() -> bool) -> Result<()> {
    // valgrind takes its time
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if is_true() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("no answer in time")
}
