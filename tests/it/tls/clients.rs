//! The programs that people point at an HTTPS port.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::House;

/// What curl saw.
#[derive(Debug)]
pub struct Answer {
    /// 0 if there was none.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// curl's own: 0 if the answer is whole.
    pub exit: i32,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The value of a header that came once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let (Some((_, value)), None) = (found.next(), found.next()) else { return None };
        Some(value)
    }
}

/// A request to the port with TLS.
pub fn curl(house: &House, path: &str, arguments: &[&str]) -> Answer {
    let url = format!("https://localhost:{}{path}", house.port());
    let cert = house.identity.path("cert.pem").display().to_string();
    run_curl(&url, &[&["--cacert", &cert][..], arguments].concat())
}

/// A request to anywhere.
pub fn run_curl(url: &str, arguments: &[&str]) -> Answer {
    let output = command(url).args(arguments).stdin(Stdio::null()).output().expect("curl runs");
    read(&output.stdout, output.status.code().unwrap_or(-1))
}

fn command(url: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-N", "-i", "--max-time", "30", "-w", "\n%{http_version}", url]);
    // a proxy of the environment is no part of the test; interim answers are no answers
    command.args(["--noproxy", "*", "-H", "Expect:"]);
    command
}

/// A request under way to the port with TLS; it ends when it is dropped.
pub fn start_curl(house: &House, path: &str, arguments: &[&str]) -> Running {
    let url = format!("https://localhost:{}{path}", house.port());
    let child = command(&url)
        .arg("--cacert")
        .arg(house.identity.path("cert.pem"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs");
    Running(Some(child))
}

/// A program under way.
pub struct Running(Option<Child>);

impl Running {
    /// Waits for curl's end.
    pub fn answer(mut self) -> Answer {
        let child = self.0.take().expect("it was not waited for");
        let output = child.wait_with_output().expect("a child can be waited for");
        read(&output.stdout, output.status.code().unwrap_or(-1))
    }

    /// Fails the test if it does not end by itself.
    pub fn ends_within(mut self, limit: Duration) {
        let child = self.0.as_mut().expect("it was not waited for");
        let until = Instant::now() + limit;
        while child.try_wait().expect("a child can be waited for").is_none() {
            assert!(Instant::now() < until, "it is still connected");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn read(output: &[u8], exit: i32) -> Answer {
    let text = String::from_utf8_lossy(output);
    let (text, version) = text.rsplit_once('\n').unwrap_or_default();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let pair = |line: &str| {
        line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.filter_map(pair).collect();
    Answer { status, version: version.to_owned(), headers, body: body.to_owned(), exit }
}

/// What `openssl s_client` says about a handshake.
pub fn handshake(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A connection that has shaken hands and says nothing more, until it is dropped.
pub fn idle(port: u16, protocol: &str) -> Running {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-alpn", protocol])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    // it says so when the handshake is over
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    while !line.starts_with("SSL handshake has read") {
        line.clear();
        let read = std::io::BufRead::read_line(&mut stdout, &mut line).expect("it speaks text");
        assert_ne!(read, 0, "there was no handshake");
    }
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    Running(Some(child))
}
