//! A proxy as a process: what it takes, and how it ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::client::Target;

/// A proxy that answers.
pub struct Running {
    /// Where it listens, and the key that it accepts.
    pub target: Target,
    /// What was started; none for no proxy.
    pub process: Option<Process>,
    /// The process that serves, if another has taken over from the one that was started.
    pub successor: Option<u32>,
}

impl Running {
    /// CPU time of its processes so far, in seconds; zero for no proxy.
    pub fn cpu(&self) -> f64 {
        self.pids().iter().filter_map(|pid| cpu_of(*pid)).sum()
    }

    /// Memory of its processes, in bytes, what they share with each other counted once.
    pub fn memory(&self) -> u64 {
        self.pids().iter().filter_map(|pid| memory_of(*pid)).sum()
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        let started = self.process.as_ref().map(|process| process.0.id());
        self.successor.or(started).unwrap_or_default()
    }

    /// Takes this process for the one that serves.
    pub fn follow(&mut self, successor: u32) {
        self.successor = Some(successor);
    }

    /// Sends a signal to the process that serves.
    pub fn signal(&self, name: &str) -> Result<()> {
        signal(self.pid(), name)
    }

    /// Whether the process that was started has not ended.
    pub fn is_alive(&self) -> bool {
        let state = |pid| fs::read_to_string(format!("/proc/{pid}/stat"));
        let stat = state(self.pid()).unwrap_or_default();
        // the state stands behind the name; a zombie has ended
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
    }

    fn pids(&self) -> Vec<u32> {
        let Some(process) = &self.process else { return Vec::new() };
        let mut pids = vec![process.0.id()];
        let children = format!("/proc/{0}/task/{0}/children", process.0.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        pids
    }

    /// Tells it to stop, and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        if let Some(successor) = self.successor {
            signal(successor, "TERM")?;
        }
        self.process.take().map_or(Ok(()), Process::stop)
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    ensure!(sent.success(), "cannot send {name} to {pid}");
    Ok(())
}

/// User and system time, from `/proc/PID/stat`, in seconds.
pub fn cpu_of(pid: u32) -> Option<f64> {
    /// `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux that this runs on.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
    Some(f64::from(ticks) / TICKS)
}

/// Proportional set size where the kernel tells it, else resident set size.
fn memory_of(pid: u32) -> Option<u64> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:"))
}

/// A child that does not outlive its owner.
pub struct Process(Child);

impl Process {
    /// Starts it; what it says goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        let name = format!("{:?}", command.get_program());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // a group of its own: an interrupt at the terminal ends the bench, which ends this
        command.process_group(0);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {name}"))?))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    fn stop(mut self) -> Result<()> {
        // it may have ended by itself
        let _ = signal(self.0.id(), "TERM");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if self.0.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("a proxy does not stop")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // a child that is gone already is no error
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
