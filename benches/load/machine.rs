//! What the numbers were taken on, and with what.

use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::process::Command;

use crate::peers::version;

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Files that a process may have open.
pub fn open_files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The beginning of results: machine and versions.
pub fn heading(title: &str) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": ").map(|(_, name)| name.to_owned()));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut out = format!("# {title}\n\n");
    let _ = writeln!(
        out,
        "- {} × {}, Linux {}, load average at the end {}",
        cores(),
        model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    );
    for line in [
        usher(),
        version("rustc", "--version"),
        version("nginx", "-v"),
        version("haproxy", "-v"),
        version("valgrind", "--version"),
    ]
    .into_iter()
    .flatten()
    {
        let _ = writeln!(out, "- {line}");
    }
    out.push('\n');
    out
}

fn usher() -> Option<String> {
    let said = Command::new(env!("CARGO_BIN_EXE_usher")).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Chance that differs from run to run: no proxy always comes first.
pub struct Dice(RandomState, u64);

impl Dice {
    /// New ones.
    pub fn new() -> Self {
        Self(RandomState::new(), 0)
    }

    /// Any order is as likely as any other.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            self.1 += 1;
            let number = self.0.hash_one(self.1) % (last as u64 + 1);
            items.swap(last, usize::try_from(number).unwrap_or_default());
        }
    }
}
