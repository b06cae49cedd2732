//! The real client libraries, from the project's own virtual environment.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a script may run before the test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a script of `tests/it/sdk/` and returns the JSON value that it prints.
pub fn python(script: &str, arguments: &[&str]) -> Value {
    let mut command = interpreter();
    command.arg(root().join("tests/it/sdk").join(script)).args(arguments);
    let output = run(command, &format!("{script} {arguments:?}"));
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{script}: {error} in {output:?}"))
}

/// Runs a piece of code with this key in `USHER_KEY`, and returns what it prints.
pub fn snippet(code: &str, key: &str) -> String {
    let mut command = interpreter();
    command.args(["-c", code]).env("USHER_KEY", key);
    run(command, code)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn interpreter() -> Command {
    let interpreter = root().join(".venv/bin/python");
    assert!(interpreter.exists(), "the client libraries are not installed: run `make setup`");
    let mut command = Command::new(interpreter);
    // a proxy or key of the machine's own must not take part
    command.arg("-B").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn run(mut command: Command, what: &str) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python starts");
    let output = collect(child.stdout.take().expect("piped"));
    let complaints = collect(child.stderr.take().expect("piped"));
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if Instant::now() > until => break None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if status.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    let output = output.join().expect("the reader ends with its pipe");
    let complaints = complaints.join().expect("the reader ends with its pipe");
    let succeeded = status.is_some_and(|status| status.success());
    assert!(succeeded, "{what} ended with {status:?}\n{output}\n{complaints}");
    output
}

fn collect(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
