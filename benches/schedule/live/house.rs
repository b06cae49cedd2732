//! The box of one run: simulated instances, and one of the doors before them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::SPEED;
use crate::work::{EMBEDDER, MODEL, Work, models_argument};

/// What stands before the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Usher,
    LeastConn,
    Random,
    RoundRobin,
}

impl Door {
    /// In the order of tables.
    pub const ALL: [Self; 4] = [Self::Usher, Self::LeastConn, Self::Random, Self::RoundRobin];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usher => "Usher",
            Self::LeastConn => "nginx, least_conn",
            Self::Random => "nginx, random",
            Self::RoundRobin => "nginx, round robin",
        }
    }

    /// The line of nginx's `upstream` that chooses.
    fn method(self) -> &'static str {
        match self {
            Self::LeastConn => "least_conn;",
            Self::Random => "random;",
            Self::Usher | Self::RoundRobin => "",
        }
    }
}

/// Where requests go, and what they show there.
pub struct Target {
    pub address: SocketAddr,
    keys: Vec<String>,
}

impl Target {
    /// The key of a client.
    pub fn key(&self, client: usize) -> &str {
        self.keys.get(client).map_or("none", String::as_str)
    }
}

/// What the instances counted, by name, all of them together.
pub type Counters = BTreeMap<String, u64>;

/// The instances and their door; all of it ends with this.
pub struct House {
    directory: tempfile::TempDir,
    instances: Vec<Instance>,
    address: SocketAddr,
    keys: Vec<String>,
    door: Option<Process>,
    /// Of instances that were killed.
    lost: Counters,
}

impl House {
    /// Starts everything, with the usual model in every instance's memory unless the workload is
    /// about loading.
    pub async fn open(work: &Work, door: Door) -> Result<Self> {
        let instances = work.instances.iter().map(|arguments| Instance::start(arguments, None));
        let mut house = Self {
            directory: tempfile::tempdir()?,
            instances: instances.collect::<Result<_>>()?,
            address: free_port()?,
            keys: Vec::new(),
            door: None,
            lost: Counters::new(),
        };
        for (number, instance) in house.instances.iter().enumerate() {
            if work.name != "models" {
                let load = json!({ "model": MODEL, "keep_alive": -1 });
                call(instance.address, "POST", "/api/generate", &load).await?;
            }
            if work.busy == Some(number) {
                let body = r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;
                let fault = json!({ "path": "/api/chat", "kind": "status", "status": 503, "body": body,
                    "headers": [["Content-Type", "application/json"]] });
                call(instance.control, "POST", "/faults", &fault).await?;
            }
            call(instance.control, "POST", "/reset", &Value::Null).await?;
        }
        match door {
            Door::Usher => house.start_usher(work).await?,
            other => house.start_nginx(other).await?,
        }
        Ok(house)
    }

    /// Where the door is.
    pub fn target(&self) -> Target {
        Target { address: self.address, keys: self.keys.clone() }
    }

    /// Kills an instance.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        let instance = self.instances.get_mut(number).context("no such instance")?;
        let counters = instance.counters().await?;
        instance.process.kill();
        add(&mut self.lost, &counters);
        Ok(())
    }

    /// Starts an instance that was killed, where it was.
    pub fn revive(&mut self, number: usize) -> Result<()> {
        let instance = self.instances.get_mut(number).context("no such instance")?;
        *instance = Instance::start(&instance.arguments, Some(instance.address))?;
        Ok(())
    }

    /// What all instances have counted.
    pub async fn counters(&self) -> Result<Counters> {
        let mut sum = self.lost.clone();
        for instance in &self.instances {
            add(&mut sum, &instance.counters().await?);
        }
        Ok(sum)
    }

    async fn start_usher(&mut self, work: &Work) -> Result<()> {
        // an instance has that many slots for the model of the chats, and one for the embeddings
        // beside them: `slots` is for both together
        let settings = match work.embeds() {
            true => format!(
                "slots: {}, model_slots: {{ {MODEL}: {}, {EMBEDDER}: 1 }}",
                work.slots + 1,
                work.slots
            ),
            false => format!("slots: {}", work.slots),
        };
        let upstream = |(number, instance): (usize, &Instance)| {
            let address = instance.address;
            format!("  - {{ name: gpu{number}, url: 'http://{address}', {settings} }}\n")
        };
        let upstreams: String = self.instances.iter().enumerate().map(upstream).collect();
        let state = self.path("state");
        let text = include_str!("usher.yaml")
            .replace("@ADDRESS@", &self.address.to_string())
            .replace("@STATE@", show(&state))
            .replace("@UPSTREAMS@", &upstreams);
        let file = self.path("usher.yaml");
        fs::write(&file, text)?;
        let admin = key_of(&usher(&file, &["init"])?)?;
        for client in 0..work.clients() {
            let name = format!("client{client}");
            usher(&file, &["users", "create", &name, "--tier", "bench"])?;
            let made = usher(&file, &["keys", "create", "--user", &name, "--name", "bench"])?;
            self.keys.push(key_of(&made)?);
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(["serve", "-c", show(&file)]);
        self.door = Some(Process::start(command, &self.path("usher.log"))?);
        let all_up = async || {
            let headed = format!("/admin/upstreams\r\nX-API-Key: {admin}");
            let known = call(self.address, "GET", &headed, &Value::Null).await.ok();
            let list = known.as_ref().and_then(|known| known.get("data")?.as_array());
            list.is_some_and(|list| {
                let up = list.iter().filter(|it| it.get("state") == Some(&json!("up")));
                up.count() == self.instances.len()
            })
        };
        patiently(all_up).await.context("Usher does not see its instances")
    }

    async fn start_nginx(&mut self, door: Door) -> Result<()> {
        let server = |instance: &Instance| format!("    server {};\n", instance.address);
        let servers: String = self.instances.iter().map(server).collect();
        let place = self.path("nginx");
        fs::create_dir_all(&place)?;
        let text = include_str!("nginx.conf")
            .replace("@ADDRESS@", &self.address.to_string())
            .replace("@PLACE@", show(&place))
            .replace("@METHOD@", door.method())
            .replace("@SERVERS@", &servers);
        let file = self.path("nginx.conf");
        fs::write(&file, text)?;
        let mut command = Command::new(program("nginx"));
        command.args(["-c", show(&file), "-e", "stderr"]);
        self.door = Some(Process::start(command, &self.path("nginx.log"))?);
        let address = self.address;
        patiently(async || TcpStream::connect(address).await.is_ok()).await.context("nginx")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A simulated instance.
struct Instance {
    arguments: String,
    address: SocketAddr,
    control: SocketAddr,
    process: Process,
}

impl Instance {
    fn start(arguments: &str, at: Option<SocketAddr>) -> Result<Self> {
        let listen = at.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let mut command = Command::new(simulator()?);
        command
            .args(["--listen", &listen.to_string(), "--exit-with-parent", "--keep-alive", "-1"])
            .args(["--speed", &SPEED.to_string(), "--models", &models_argument()])
            .args(["--prefill-rate", "2000", "--decode-rate", "20", "--decode-sharing", "0"])
            .args(["--load-base", "2s", "--load-rate", "4GiB"])
            .args(arguments.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start ollama-sim")?;
        let stdout = child.stdout.take().context("it is piped")?;
        let process = Process(child);
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        let ready: Value = serde_json::from_str(&ready).context("ollama-sim does not start")?;
        let address = |name: &str| {
            let text = ready.get(name).and_then(Value::as_str).context("an address")?;
            Ok::<SocketAddr, anyhow::Error>(text.parse()?)
        };
        let (address, control) = (address("listen")?, address("control")?);
        Ok(Self { arguments: arguments.to_owned(), address, control, process })
    }

    async fn counters(&self) -> Result<Counters> {
        let all = call(self.control, "GET", "/counters", &Value::Null).await?;
        let all = all.as_object().context("counters")?;
        Ok(all.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect())
    }
}

fn add(sum: &mut Counters, more: &Counters) {
    for (name, count) in more {
        *sum.entry(name.clone()).or_default() += count;
    }
}

/// `target/PROFILE/examples/ollama-sim`, seen from `target/PROFILE/deps/live-…`.
fn simulator() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.ancestors().nth(2).context("it runs from target/PROFILE/deps")?;
    let binary = profile.join("examples/ollama-sim");
    ensure!(binary.exists(), "there is no stand-in: `make live` builds it");
    Ok(binary)
}

/// Runs a command of `usher` and returns the JSON that it prints.
fn usher(config: &Path, arguments: &[&str]) -> Result<Value> {
    let binary = env!("CARGO_BIN_EXE_usher");
    let made =
        Command::new(binary).args(arguments).args(["--json", "-c", show(config)]).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(serde_json::from_slice(&made.stdout)?)
}

fn key_of(made: &Value) -> Result<String> {
    Ok(made.get("key").and_then(Value::as_str).context("it prints a key")?.to_owned())
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn program(name: &str) -> String {
    // Debian keeps servers out of the path of ordinary users
    let there = format!("/usr/sbin/{name}");
    if Path::new(&there).exists() { there } else { name.to_owned() }
}

/// A child that does not outlive its owner.
struct Process(Child);

impl Process {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // a group of its own: an interrupt at the terminal ends the bench, which ends this
        command.process_group(0);
        let name = format!("{:?}", command.get_program());
        Ok(Self(command.spawn().with_context(|| format!("cannot start {name}"))?))
    }

    fn kill(&mut self) {
        // a child that is gone already is no error
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        // nginx's workers end with their master only if it is asked to stop
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        for _ in 0..100 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

/// A port that nobody listens on.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

async fn patiently(is_true: impl AsyncFn() -> bool) -> Result<()> {
    for _ in 0..400 {
        if is_true().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("no answer in time")
}

/// One request that must succeed, and the JSON of its answer; further header lines may stand behind
/// the path.
async fn call(address: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value> {
    let (path, headers) = path.split_once("\r\n").unwrap_or((path, "X-Bench: live"));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
    // what streams is of no interest here
    Ok(serde_json::from_str(body).unwrap_or(Value::Null))
}
