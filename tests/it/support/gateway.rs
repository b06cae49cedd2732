//! Usher as its users run it: the real binary, a configuration file, accounts made by its commands.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::http::{PATIENCE, Request, Wire};

/// A gateway that is being described.
pub fn gateway() -> Builder {
    Builder::default()
}

/// What the configuration and the database of a gateway shall hold.
#[derive(Default)]
pub struct Builder {
    upstreams: Vec<String>,
    users: Vec<(String, String)>,
    keys: Vec<(String, Vec<String>)>,
    fragments: Vec<String>,
    database: Option<String>,
    environment: Vec<(String, String)>,
    listeners: Vec<String>,
    unready: bool,
    /// Keys of the gateway whose accounts this one shares.
    joined: Option<BTreeMap<String, String>>,
}

impl Builder {
    /// Adds an instance with one slot.
    pub fn upstream(self, name: &str, url: &str) -> Self {
        self.upstream_with(name, url, "slots: 1")
    }

    /// Adds an instance with these further settings, such as `slots: 4, kind: openai`.
    pub fn upstream_with(mut self, name: &str, url: &str, settings: &str) -> Self {
        self.upstreams.push(format!("{{ name: {name}, url: '{url}', {settings} }}"));
        self
    }

    /// Adds a user of this tier, with a key.
    pub fn user(mut self, name: &str, tier: &str) -> Self {
        self.users.push((name.into(), tier.into()));
        self.key(name, &[])
    }

    /// Adds a key to a user, made with these further arguments of `usher keys create`. The last
    /// key of a user is the one that [`Gateway::key`] returns.
    pub fn key(mut self, user: &str, arguments: &[&str]) -> Self {
        self.keys.push((user.into(), arguments.iter().copied().map(Into::into).collect()));
        self
    }

    /// Adds lines to the configuration, at its top level.
    pub fn config(mut self, yaml: &str) -> Self {
        self.fragments.push(yaml.into());
        self
    }

    /// Keeps accounts in this database instead of the built-in one.
    pub fn database(mut self, url: &str) -> Self {
        self.database = Some(url.into());
        self
    }

    /// Sets an environment variable of the server and of its commands.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Listens on a further port with these settings, such as `tls: { cert: a, key: b }`.
    pub fn listener(mut self, settings: &str) -> Self {
        self.listeners.push(format!("{{ address: '127.0.0.1:0', {settings} }}"));
        self
    }

    /// Shares the accounts of a gateway on the same database, and makes none itself.
    pub fn joins(mut self, other: &Gateway) -> Self {
        self.joined = Some(other.keys.clone());
        self
    }

    /// Makes no accounts, not even that of the first admin.
    pub fn without_accounts(mut self) -> Self {
        self.joined = Some(BTreeMap::new());
        self
    }

    /// Does not wait for an instance: the gateway is there as soon as it listens.
    pub fn without_waiting(mut self) -> Self {
        self.unready = true;
        self
    }

    /// Writes the configuration, makes the accounts, and starts the server.
    pub fn start(self) -> Gateway {
        let home = self.home();
        let keys = self.joined.clone().unwrap_or_else(|| self.make_accounts(&home));
        let mut server = Server::start(&home);
        let address = server.address();
        let gateway = Gateway { home, server, address, keys };
        if !self.unready {
            eventually("the gateway is ready", || gateway.get("/ready").send().status == 200);
        }
        gateway
    }

    /// Makes the accounts, and returns a key of each.
    fn make_accounts(&self, home: &Home) -> BTreeMap<String, String> {
        let admin = home.usher_json(&["init"]);
        let mut keys = BTreeMap::from([("admin".to_owned(), key_of(&admin))]);
        for (name, tier) in &self.users {
            home.usher_json(&["users", "create", name, "--tier", tier]);
        }
        for (index, (user, arguments)) in self.keys.iter().enumerate() {
            let name = format!("test-{index}");
            let mut command = vec!["keys", "create", "--user", user, "--name", &name];
            command.extend(arguments.iter().map(String::as_str));
            keys.insert(user.clone(), key_of(&home.usher_json(&command)));
        }
        keys
    }

    /// Writes the configuration and no more, for tests of the commands.
    pub fn home(&self) -> Home {
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let mut yaml = "listen:\n  - { address: 127.0.0.1:0 }\n".to_owned();
        for listener in &self.listeners {
            yaml += &format!("  - {listener}\n");
        }
        yaml += "state_dir: state\n";
        if let Some(url) = &self.database {
            yaml += &format!("database: '{url}'\n");
        }
        if !self.upstreams.is_empty() {
            yaml += &format!("upstreams:\n  - {}\n", self.upstreams.join("\n  - "));
        }
        // a gateway of a test finds out quickly, unless the test has its own idea
        if !self.fragments.iter().any(|fragment| fragment.starts_with("health:")) {
            yaml += "health: { interval: 200ms, timeout: 1s, fall: 2, rise: 1 }\n";
        }
        // gateways of tests run beside each other
        if !self.fragments.iter().any(|fragment| fragment.starts_with("metrics:")) {
            yaml += "metrics: off\n";
        }
        // a test is held to no limit but its own, however often it looks whether something is so
        if !self.fragments.iter().any(|fragment| fragment.trim_start().starts_with("tiers:")) {
            let tiers = ["free", "premium", "admin"];
            let tiers = tiers.map(|tier| format!("{tier}: {{ requests: null, reads: null }}"));
            yaml += &format!("tiers: {{ {} }}\n", tiers.join(", "));
        }
        for fragment in &self.fragments {
            yaml += &format!("{fragment}\n");
        }
        let config = directory.path().join("usher.yaml");
        std::fs::write(&config, yaml).expect("the directory is ours");
        // it may hold secrets
        let own = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&config, own).expect("the file is ours");
        Home { directory, config, environment: self.environment.clone() }
    }
}

/// A configuration file and the state beside it.
pub struct Home {
    directory: TempDir,
    config: PathBuf,
    environment: Vec<(String, String)>,
}

impl Home {
    /// The directory of the configuration file.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command of `usher` on this configuration.
    pub fn usher(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Runs a command that must succeed, and returns the JSON that it prints.
    pub fn usher_json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).arg("--json").output().expect("the binary runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "usher {arguments:?}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("usher {arguments:?}: {error} in {:?}", String::from_utf8_lossy(&output.stdout))
        })
    }

    /// Gives a user a password.
    pub fn set_password(&self, user: &str, password: &str) {
        let output = self.feed(&["users", "set-password", user, "--password-stdin"], password);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a command that reads this from standard input.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        // a command that fails early reads nothing
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        child.wait_with_output().expect("a child can be waited for")
    }

    /// A command of `usher` on this configuration, to be run in a way of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(arguments).arg("-c").arg(&self.config);
        for inherited in ["USHER_CONFIG", "JWT_SECRET", "RUST_LOG"] {
            command.env_remove(inherited);
        }
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }
}

/// A running gateway; it is stopped, and its log searched for panics, when it is dropped.
pub struct Gateway {
    home: Home,
    server: Server,
    address: SocketAddr,
    keys: BTreeMap<String, String>,
}

impl Gateway {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its further listeners are, counted from 0.
    pub fn listener(&self, number: usize) -> SocketAddr {
        let mut address = None;
        eventually("all listeners are announced", || {
            let log = self.log();
            let mut all = log.iter().filter_map(|line| {
                let (_, url) = line.split_once("listening on http")?;
                url.trim_start_matches('s').strip_prefix("://")?.parse().ok()
            });
            address = all.nth(1 + number);
            address.is_some()
        });
        address.expect("found a moment ago")
    }

    /// Where its `/admin` is, if that has an address of its own.
    pub fn own_door(&self) -> SocketAddr {
        let mut door = None;
        eventually("the door is announced", || {
            door = self.log().iter().find_map(|line| {
                let (_, url) = line.split_once("administration on http://")?;
                url.strip_suffix("/admin")?.parse().ok()
            });
            door.is_some()
        });
        door.expect("found a moment ago")
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The key of a user; `admin` always has one.
    pub fn key(&self, user: &str) -> &str {
        self.keys.get(user).unwrap_or_else(|| panic!("{user} has no key"))
    }

    /// The key of a user, if this gateway's builder made or was given one.
    pub fn try_key(&self, user: &str) -> Option<&str> {
        self.keys.get(user).map(String::as_str)
    }

    /// A request to it.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path)
    }

    /// A GET request to it.
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// A POST request with a JSON body to it.
    pub fn post(&self, path: &str, body: &Value) -> Request {
        self.request("POST", path).json(body)
    }

    /// A bare connection to it.
    pub fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// Its configuration and state.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.child.id()
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.server.log.lock().clone()
    }

    /// The access lines so far.
    pub fn access_lines(&self) -> Vec<Value> {
        let log = self.log();
        let access = log.iter().filter(|line| line.starts_with('{'));
        access.map(|line| serde_json::from_str(line).expect("an access line is JSON")).collect()
    }

    /// The security lines so far, as text.
    pub fn security_lines(&self) -> Vec<String> {
        self.log().into_iter().filter(|line| line.contains("usher::security")).collect()
    }

    /// Waits for the access line of the request with this id.
    pub fn access_line(&self, request_id: &str) -> Value {
        let mut found = None;
        eventually(&format!("an access line of {request_id}"), || {
            found = self.access_lines().into_iter().find(|line| line["request_id"] == request_id);
            found.is_some()
        });
        found.expect("found a moment ago")
    }

    /// How its process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.server.child.try_wait().expect("a child can be waited for")
    }

    /// Asks it to stop, waits until it has, and returns its whole log.
    pub fn stop(mut self) -> Vec<String> {
        self.server.stop();
        self.log()
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} was not sent");
    }

    /// Starts another process beside it.
    pub fn twin(&self) -> Twin {
        let mut server = Server::start(&self.home);
        Twin { address: server.address(), _server: server }
    }

    /// Buries a process that was killed, and starts another on what it left.
    pub fn start_again(&mut self) {
        self.server.child.wait().expect("a child can be waited for");
        self.server.bury();
        self.server = Server::start(&self.home);
        self.address = self.server.address();
    }

    /// Waits until it ends by itself; returns how it ended, and its whole log.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let mut ended = None;
        eventually("the server ends", || {
            ended = self.server.child.try_wait().expect("a child can be waited for");
            ended.is_some()
        });
        self.server.bury();
        (ended.expect("it ended a moment ago"), self.log())
    }
}

/// Another process on the same configuration and database.
pub struct Twin {
    address: SocketAddr,
    _server: Server,
}

impl Twin {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The child process.
struct Server {
    child: Child,
    lifeline: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(home: &Home) -> Self {
        let mut child = home
            .command(&["serve"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let lifeline = lifeline(child.id());
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("piped");
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || follow(stderr, &log)
        });
        Self { child, lifeline, log, reader: Some(reader) }
    }

    /// Waits for the line that tells where it listens.
    fn address(&mut self) -> SocketAddr {
        let mut address = None;
        let log = Arc::clone(&self.log);
        let child = &mut self.child;
        eventually("the server listens", || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("the server ended with {status}:\n{}", log.lock().join("\n"));
            }
            address = log.lock().iter().find_map(|line| {
                line.split_once("listening on http://")?.1.split_whitespace().next()?.parse().ok()
            });
            address.is_some()
        });
        address.expect("found a moment ago")
    }

    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let gone = matches!(self.child.try_wait(), Ok(Some(_)));
        let asked = || Command::new("kill").args(["-TERM", &pid]).status();
        let until = Instant::now() + PATIENCE;
        let ended = gone
            || asked().is_ok_and(|status| status.success())
                && loop {
                    match self.child.try_wait() {
                        Ok(Some(_)) => break true,
                        Ok(None) if Instant::now() < until => {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        _ => break false,
                    }
                };
        if !ended {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        self.bury();
        let log = self.log.lock();
        if !std::thread::panicking() {
            assert!(ended, "the server did not stop in time:\n{}", log.join("\n"));
            let panic = log.iter().find(|line| line.contains("panicked at"));
            assert!(panic.is_none(), "the server panicked:\n{}", log.join("\n"));
        }
    }
}

impl Server {
    /// What is left to do for a server that has ended.
    fn bury(&mut self) {
        self.lifeline.kill().ok();
        self.lifeline.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.stop();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.lock().join("\n"));
        }
    }
}

/// Ends a process when this one ends, however it does: even a killed one closes its pipes.
fn lifeline(process: u32) -> Child {
    Command::new("sh")
        .args(["-c", "read -r _; kill -KILL \"$1\"", "lifeline", &process.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell runs")
}

fn follow(stderr: ChildStderr, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        log.lock().push(line);
    }
}

fn key_of(created: &Value) -> String {
    created["key"].as_str().unwrap_or_else(|| panic!("no key in {created}")).to_owned()
}
