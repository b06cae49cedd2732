//! A Redis server of a test's own, on a free port.
//!
//! A shell watches over the server: its standard input is a pipe from the test process, so when
//! that ends, however it ends, the server ends too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

use super::authority::Authority;
use super::eventually;

const REMEDY: &str = "redis-server is needed: run `make setup`";

/// A running Redis; it ends when this is dropped.
pub struct Redis {
    address: SocketAddr,
    process: Option<Process>,
    arguments: Vec<String>,
    directory: TempDir,
}

struct Process {
    watcher: Child,
    pid: String,
}

/// Starts a Redis with these further arguments, such as `--maxmemory 1mb`.
pub fn redis(arguments: &[&str]) -> Redis {
    redis_with(|_| arguments.iter().copied().map(Into::into).collect())
}

/// Starts a Redis that also speaks TLS, on a port of its own, with this authority's certificate
/// for `localhost`.
pub fn secured(authority: &Authority) -> Secured {
    let mut port = 0;
    let redis = redis_with(|directory| {
        authority.issue(&["localhost"], directory);
        port = free_port().port();
        let file = |name: &str| directory.join(name).display().to_string();
        let mut arguments = vec!["--tls-port".to_owned(), port.to_string()];
        for (name, value) in [
            ("--tls-cert-file", file("server.pem")),
            ("--tls-key-file", file("server.key")),
            ("--tls-ca-cert-file", authority.file().display().to_string()),
            ("--tls-auth-clients", "no".to_owned()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        arguments
    });
    Secured { redis, port }
}

/// Starts a Redis that also listens at a socket.
pub fn with_socket() -> (Redis, PathBuf) {
    let socket = |directory: &Path| directory.join("redis.sock");
    let redis = redis_with(|directory| {
        vec!["--unixsocket".to_owned(), socket(directory).display().to_string()]
    });
    let path = socket(redis.directory.path());
    (redis, path)
}

/// A running Redis that also speaks TLS.
pub struct Secured {
    pub redis: Redis,
    port: u16,
}

impl Secured {
    /// Its URL by TLS, with this name for its host.
    pub fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}/0", self.port)
    }
}

fn redis_with(mut arguments: impl FnMut(&Path) -> Vec<String>) -> Redis {
    let directory = tempfile::tempdir().expect("temporary directories can be made");
    // somebody else may take the port between its choice and the server's start: then another one
    for _ in 0..20 {
        let address = free_port();
        let arguments = arguments(directory.path());
        if let Some(process) = Process::start(address, &arguments, &directory) {
            let mut redis = Redis { address, process: Some(process), arguments, directory };
            redis.wait();
            return redis;
        }
    }
    panic!("redis-server finds no port")
}

impl Redis {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks it something, and returns its answer: text as it is, lists line by line.
    pub fn ask(&self, command: &[&str]) -> String {
        let command: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        String::from_utf8_lossy(&self.ask_bytes(&command)).into_owned()
    }

    /// The same in bytes.
    pub fn ask_bytes(&self, command: &[&[u8]]) -> Vec<u8> {
        ask(self.address, command).expect("Redis answers")
    }

    /// The names that begin so.
    pub fn names(&self, pattern: &str) -> Vec<String> {
        self.ask(&["KEYS", pattern]).lines().map(Into::into).collect()
    }

    /// Kills it as a crash does. What it held is gone.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal("KILL");
            process.bury();
        }
    }

    /// Starts it again, empty, where it was.
    pub fn restart(&mut self) {
        self.kill();
        eventually("Redis starts again on its port", || {
            self.process = Process::start(self.address, &self.arguments, &self.directory);
            self.process.is_some()
        });
        self.wait();
    }

    /// Stops it in its tracks: connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.process.as_ref().expect("it runs").signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.as_ref().expect("it runs").signal("CONT");
    }

    fn wait(&mut self) {
        eventually("Redis answers", || ask(self.address, &[b"PING"]).is_some());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// `None` if the port is taken.
    fn start(address: SocketAddr, arguments: &Vec<String>, directory: &TempDir) -> Option<Self> {
        const SCRIPT: &str = r#"
            "$@" </dev/null &
            echo $!
            read -r _
            kill -CONT $!
            kill -KILL $!
        "#;
        let port = address.port().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "watcher", "redis-server", "--port", &port]);
        shell.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]).arg("--dir");
        shell.arg(directory.path()).args(["--enable-debug-command", "local"]).args(arguments);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut watcher = shell.spawn().expect("sh");
        let mut lines = BufReader::new(watcher.stdout.take().expect("piped"));
        let mut pid = String::new();
        lines.read_line(&mut pid).expect("a line");
        let process = Self { watcher, pid: pid.trim().to_owned() };
        // the rest is the server's own log, which ends when it does
        let mut log = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).is_err() || line.is_empty() {
                process.bury();
                assert!(log.contains("in use"), "{REMEDY}: {log}");
                return None;
            }
            log += &line;
            if line.contains("eady to accept connections") {
                std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                return Some(process);
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} was not sent");
    }

    fn bury(mut self) {
        drop(self.watcher.stdin.take());
        self.watcher.wait().ok();
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// One command over a connection of its own; `None` if there is no answer.
fn ask(address: SocketAddr, command: &[&[u8]]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(super::http::PATIENCE)).ok()?;
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    stream.write_all(&bytes).ok()?;
    read_reply(&mut BufReader::new(stream))
}

fn read_reply(from: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    let (kind, rest) = line.trim_end().split_at_checked(1)?;
    match kind {
        "*" => {
            let count: usize = rest.parse().ok()?;
            let replies: Option<Vec<_>> = (0..count).map(|_| read_reply(from)).collect();
            Some(replies?.join(&b'\n'))
        }
        "$" if rest == "-1" => Some(Vec::new()),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>().ok()? + 2];
            from.read_exact(&mut bytes).ok()?;
            bytes.truncate(bytes.len() - 2);
            Some(bytes)
        }
        _ => Some(rest.as_bytes().to_vec()),
    }
}
