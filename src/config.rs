//! The configuration in force: every value in it is already valid.
//!
//! What the operator wrote is read by [`mod@file`] (as written → as meant, all mistakes at once), so
//! nothing behind this module ever meets a half-checked value.

pub mod file;
mod place;
mod restart;
pub mod secret;
mod show;
pub mod taming;
pub mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use file::{Draft, Problems, URL_FILES, locate};
pub use place::{NamedFile, Place};
pub use secret::Secret;
pub use show::show;
pub use taming::Taming;
pub use units::{ByteSize, Rate, Window};

/// What stands for all instances where one can be named; none has this name.
pub const EVERY_INSTANCE: &str = "all";

/// Everything that `usher.yaml` says, defaults filled in and every value checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets to accept clients on; at least one.
    pub listen: Vec<Listen>,
    /// Where `/admin` is served alone; `None` is beside everything else. Port 0 lets the system
    /// choose.
    pub admin: Option<SocketAddr>,
    /// Names under which `/admin` may be asked for in the clear, in lower case.
    pub admin_hosts: BTreeSet<String>,
    /// Where Prometheus text is served; `None` is nowhere. Port 0 lets the system choose.
    pub metrics: Option<SocketAddr>,
    /// Directory of the SQLite file and of generated secrets.
    pub state_dir: PathBuf,
    /// Where users and keys are kept.
    pub database: Database,
    /// Where the configuration says so, or would.
    pub database_place: Place,
    /// What several gateways share; `None` is a gateway on its own.
    pub redis: Option<Redis>,
    /// Who may come in.
    pub auth: Auth,
    /// Tiers by name; `free`, `premium` and `admin` always exist.
    pub tiers: BTreeMap<String, Tier>,
    /// Extra restrictions: route path → the only tiers that may use it.
    pub restrict: BTreeMap<String, BTreeSet<String>>,
    /// The instances; at least one, names unique.
    pub upstreams: Vec<Upstream>,
    /// Bounds of the queue in front of the instances.
    pub balance: Balance,
    /// How often a client that waits for a stream of events hears so; `None` is never.
    pub comments: Option<Duration>,
    /// How instances are probed.
    pub health: Health,
    /// The origins whose pages may call from a browser, as browsers write them.
    pub cors_origins: BTreeSet<String>,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// How large things may grow.
    pub limits: Limits,
    /// The instance that model management goes to when the client names none, or
    /// [`EVERY_INSTANCE`].
    pub manage_default: Option<String>,
    /// Worker threads of the proxy; at least 1.
    pub threads: usize,
    /// What is logged.
    pub log: Log,
    /// What deserves a word but is no mistake, each as `FILE:LINE: path.to.key: text`.
    pub warnings: Vec<String>,
}

/// One socket to accept clients on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What it proves its name with; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Balancers, the only ones that may connect: each connection begins with their PROXY header,
    /// which names the client. `None` is everybody, without such a header.
    pub balancers: Option<Vec<IpNet>>,
}

impl Listen {
    /// Whether both are one socket that asks the same of its clients. Which files a certificate is
    /// in does not matter: a reload takes others.
    pub fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.tls.is_some() == other.tls.is_some()
            && self.balancers == other.balancers
    }
}

/// The files of a certificate and its key, both PEM. They are read by whoever needs what is in
/// them: a command that administers keys does not, and may not be allowed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and behind it those between it and a root.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Where the configuration names them.
    pub place: Place,
}

/// Where users and keys are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Database {
    /// A PostgreSQL server; the URL may hold a password.
    Postgres(Secret),
    /// The built-in database in this file.
    Sqlite(PathBuf),
}

/// The Redis that several gateways share, and how far it is trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Where it is; may hold a password.
    pub url: Secret,
    /// Where the configuration says so.
    pub place: Place,
    /// What its entries are sealed with, the same on every gateway; `None` is the secret that
    /// tokens are signed with.
    pub secret: Option<Secret>,
    /// The certificates that a `rediss://` server's must come from, PEM; `None` is the public ones.
    pub ca: Option<NamedFile>,
    /// How long an answer may take before it is done without.
    pub timeout: Duration,
}

/// Who may come in.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Name of the header that carries an API key.
    pub api_key_header: http::HeaderName,
    /// Whether a key may stand in the path, as `/k/<key>/…`.
    pub key_in_path: bool,
    /// The tokens that Usher makes.
    pub jwt: Jwt,
    /// Who else makes tokens that are believed; names and issuers are unique.
    pub issuers: Vec<Issuer>,
    /// Attempts to log in, of one client address.
    pub login_attempts: Rate,
    /// How long known identities are served while the database does not answer.
    pub max_stale: Duration,
    /// How long a key still works when another has taken its place.
    pub rotation_grace: Duration,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// The tokens that Usher makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// What signs them. It is read by whoever needs it: a command that administers keys does not,
    /// and may not be allowed to.
    pub secret: JwtSecret,
    /// Secrets that signed earlier: what they signed is believed until it expires.
    pub previous: Vec<NamedFile>,
    /// Claim `iss`.
    pub issuer: String,
    /// Claim `aud`.
    pub audience: String,
    /// How long a token lives, in whole seconds.
    pub ttl: Duration,
    /// How wrong clocks may be.
    pub leeway: Duration,
}

/// Where the secret of tokens is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtSecret {
    /// In the environment, as `JWT_SECRET`.
    Environment(Secret),
    /// In this file, which the configuration names.
    File(NamedFile),
    /// In this file, which `usher init` makes.
    Made(NamedFile),
}

/// Somebody else who makes tokens that are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in logs and usernames.
    pub name: String,
    /// Claim `iss`.
    pub issuer: String,
    /// Claim `aud`.
    pub audience: String,
    /// Secrets shared with it, for HS256, and where each is written or named.
    pub secrets: Vec<(Secret, Place)>,
    /// Where it publishes its keys, `https`.
    pub jwks_url: Option<String>,
    /// A file with its keys.
    pub jwks_file: Option<NamedFile>,
    /// The claim that says what a user is, as the steps that lead to it; empty: none does.
    pub role_claim: Vec<String>,
    /// What that claim may say, and the tier that it means.
    pub roles: BTreeMap<String, Arc<str>>,
    /// The tier of tokens without the claim; `None`: they are refused.
    pub default_tier: Option<Arc<str>>,
    /// How long its tokens may be good for: others are refused.
    pub max_lifetime: Duration,
}

/// A tier: a role with limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Route classes that the tier may use.
    pub allow: BTreeSet<RouteClass>,
    /// Patterns of the models it may use (`*` matches any run of characters); `None` is all.
    pub models: Option<Vec<String>>,
    /// Seats that one user holds at once.
    pub concurrency: u32,
    /// Requests for inference of one user; `None` is without limit.
    pub requests: Option<Rate>,
    /// Other requests of one user; `None` is without limit.
    pub reads: Option<Rate>,
    /// Tokens of one user, of prompts and of answers; `None` is without limit.
    pub tokens: Option<Rate>,
    /// Longest wait in the queue; `None` is `balance.max_queue_wait`.
    pub max_queue_wait: Option<Duration>,
    /// Share of the box, beside those of others who want it too; at least 1.
    pub weight: u32,
    /// Whether requests may leave the box (models named `…:cloud`, web-search tools).
    pub cloud: bool,
    /// What its requests may do to a model that others share.
    pub taming: Taming,
}

/// What a route is for; a tier allows classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteClass {
    /// Administration of Usher itself.
    Admin,
    /// Costs GPU time.
    Inference,
    /// Changes the models on an instance.
    Manage,
    /// Reads without cost.
    Read,
}

/// One instance behind the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name in logs, headers and answers.
    pub name: String,
    /// Where the configuration has its URL.
    pub place: Place,
    /// What it speaks.
    pub kind: UpstreamKind,
    /// `http` or `https`.
    pub tls: bool,
    /// Host, lower case, IPv6 without its brackets; for `Host` and TLS server name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Requests that it works on at once.
    pub slots: u32,
    /// Slots of particular models, by the name as written.
    pub model_slots: BTreeMap<String, u32>,
    /// The graphics card that it uses; instances of one card share its memory.
    pub gpu: Option<u32>,
    /// The credential that it wants, sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
}

impl Upstream {
    /// Whether both are the same instance: of the same name, kind and address.
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |it: &Self| (it.kind, it.tls, it.port);
        identity(self) == identity(other) && self.name == other.name && self.host == other.host
    }
}

/// What an instance speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    /// Ollama: `/api` and `/v1`.
    Ollama,
    /// Any other OpenAI-compatible server: `/v1` alone.
    OpenAi,
}

/// Bounds of the queue in front of the instances.
#[derive(Clone, Debug)]
pub struct Balance {
    /// Requests that wait, in all.
    pub queue: usize,
    /// Requests that wait, of one user.
    pub queue_per_user: usize,
    /// Longest wait.
    pub max_queue_wait: Duration,
}

/// How instances are probed.
#[derive(Clone, Debug)]
pub struct Health {
    /// Time between two probes of an instance.
    pub interval: Duration,
    /// Time that a probe may take.
    pub timeout: Duration,
    /// Failures in a row that take an instance out.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
}

/// How long each step may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// The whole request head.
    pub header: Duration,
    /// The whole request body.
    pub body: Duration,
    /// Connecting to an instance.
    pub connect: Duration,
    /// From the request's last byte to the response's first, model load included.
    pub first_byte: Duration,
    /// Between two bytes of a response; also a client that stops reading.
    pub idle: Duration,
    /// The whole request.
    pub total: Duration,
    /// How long a stopping server lets streams finish.
    pub drain: Duration,
}

/// How large things may grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// One request body, bytes.
    pub body: u64,
    /// Request bodies held at once, bytes.
    pub body_memory: u64,
    /// Request bodies held at once for one user, bytes.
    pub body_memory_per_user: u64,
    /// One request head, bytes.
    pub headers: usize,
    /// Open client connections.
    pub connections: usize,
    /// Open connections of one client address.
    pub connections_per_ip: usize,
}

/// What is logged.
#[derive(Clone, Debug)]
pub struct Log {
    /// Form of the access log.
    pub access: AccessFormat,
    /// Level of everything else, unless `RUST_LOG` says otherwise.
    pub level: log::LevelFilter,
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// No access lines.
    Off,
    /// `key=value` pairs.
    Text,
}
