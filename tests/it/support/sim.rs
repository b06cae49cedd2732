//! A simulated Ollama: a process of its own on free ports, its counters, and orders to misbehave.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::eventually;
use super::http::{Exchange, Request};

/// A stand-in for Ollama at real speed, with its usual models, that ends with this process.
pub fn sim() -> Builder {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Builder { args: Vec::new(), held: None, listen }
}

/// A simulated instance that is being described.
pub struct Builder {
    args: Vec<String>,
    held: Option<String>,
    listen: SocketAddr,
}

impl Builder {
    /// Adds command-line arguments; `examples/ollama-sim/README.md` lists them.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Has it hold this model in memory, for good, before anybody comes: a gateway then has nothing
    /// to load, and all that arrives is what clients sent.
    pub fn holding(mut self, model: &str) -> Self {
        self.held = Some(model.to_owned());
        self
    }

    /// Has it listen where another one did that was killed.
    pub fn in_the_place_of(mut self, killed: &Sim) -> Self {
        self.listen = killed.address;
        self
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Sim {
        let binary = binary();
        let mut child = Command::new(&binary)
            .args(["--listen", &self.listen.to_string(), "--exit-with-parent"])
            .args(self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; build it: cargo build --example ollama-sim", binary.display())
            });
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("it says when it is ready");
        let ready: Value = serde_json::from_str(&ready).expect("it says where it listens");
        let address = |name: &str| {
            let text = ready[name].as_str().expect("it says where it listens");
            text.parse::<SocketAddr>().expect("that is an address")
        };
        let sim = Sim { address: address("listen"), control: address("control"), child };
        if let Some(model) = self.held {
            let load = serde_json::json!({ "model": model, "keep_alive": -1, "stream": false });
            assert_eq!(sim.post("/api/generate", &load).send().status, 200);
            sim.reset();
        }
        sim
    }
}

/// A simulated instance. Dropped, it is killed.
pub struct Sim {
    child: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl Sim {
    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request to it.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path)
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// A POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Request {
        self.request("POST", path).json(body)
    }

    /// A call of its control port.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = Request::new(self.control, method, path).json(body).send();
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
        answer.json()
    }

    /// All counters.
    pub fn counters(&self) -> Value {
        self.control("GET", "/counters", &Value::Null)
    }

    /// One counter.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.counters();
        counters[name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {counters}"))
    }

    /// Waits until a counter has this value.
    pub fn wait_for(&self, name: &str, value: u64) {
        eventually(&format!("{name} is {value}"), || self.counter(name) == value);
    }

    /// Turns knobs: the named ones; the others stay. Whether it lets anybody connect is so when this
    /// returns: what connects while its socket closes is reset, which is another fault.
    pub fn turn(&self, knobs: &Value) {
        self.control("POST", "/knobs", knobs);
        if let Some(refuse) = knobs["refuse"].as_bool() {
            eventually("its socket is closed, or open again", || {
                TcpStream::connect(self.address).is_err() == refuse
            });
        }
    }

    /// Orders a misbehaviour.
    pub fn misbehave(&self, rule: &Value) {
        self.control("POST", "/faults", rule);
    }

    /// Forgets all ordered misbehaviour.
    pub fn behave(&self) {
        self.control("DELETE", "/faults", &Value::Null);
    }

    /// Sets totals and logs to nothing.
    pub fn reset(&self) {
        self.control("POST", "/reset", &Value::Null);
    }

    /// Cuts all open connections.
    pub fn cut(&self) {
        self.control("POST", "/cut", &Value::Null);
    }

    /// The requests that it remembers, oldest first.
    pub fn requests(&self) -> Vec<Value> {
        list(self.control("GET", "/requests", &Value::Null))
    }

    /// The requests that would have left the box.
    pub fn egress(&self) -> Vec<Value> {
        list(self.control("GET", "/egress", &Value::Null))
    }

    /// The models that are loaded, the one with the latest expiry first.
    pub fn loaded(&self) -> Vec<Value> {
        list(self.control("GET", "/loaded", &Value::Null))
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The pieces of an answer's body until it ends or `count` have come.
pub fn pieces(exchange: &mut Exchange, count: usize) -> Vec<String> {
    let next = || exchange.chunk().map(|chunk| String::from_utf8_lossy(&chunk.bytes).into_owned());
    std::iter::from_fn(next).take(count).collect()
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(items) = value { items } else { panic!("{value} is no list") }
}

/// `target/PROFILE/examples/ollama-sim`, seen from `target/PROFILE/deps/it-…`.
fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its binary");
    let profile = own.ancestors().nth(2).expect("tests run from target/PROFILE/deps");
    profile.join("examples").join("ollama-sim")
}
