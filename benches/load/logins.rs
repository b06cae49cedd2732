//! Logins: whether the time of an answer tells who exists, and what a flood of them costs others.
//!
//! A hash takes a core for tens of milliseconds, so a flood takes what nobody else wants of the
//! machine, and the fair rival is another process that takes as much, as far behind all others.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Target, Wire, open_loop};
use crate::machine::{self, Dice};
use crate::peers::{Peer, Stage};
use crate::process::{Process, Running};
use crate::scenes::percentile;

/// Where what came of them is written.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/LOGINS.md");

const PASSWORD: &str = "correct horse battery staple";
/// Failures of one account that slow nobody yet are a few more.
const EACH: usize = 40;
/// Requests for inference a second, and logins a second: several times what can be hashed.
const ASKED: u32 = 300;
const FLOOD: u32 = 150;
/// Who logs in at once; each waits for the answer.
const LANES: u32 = 64;
/// What the threads that hash are called.
const HASHER: &str = "usher-hash";

/// How much is done.
struct Extent {
    samples: usize,
    rounds: u32,
    scene: Duration,
}

/// Both, one after the other.
pub async fn run(brief: bool) -> Result<()> {
    let extent = match brief {
        false => Extent { samples: 1000, rounds: 7, scene: Duration::from_secs(4) },
        true => Extent { samples: 80, rounds: 2, scene: Duration::from_secs(2) },
    };
    let stage = block_in_place(|| Stage::set(machine::cores()))?;
    let house = House::open(&stage, extent.samples.div_ceil(EACH)).await?;
    let mut out = format!("{}`make logins` writes this file.\n\n", machine::heading("Logins"));
    for said in [house.timing(extent.samples).await?, house.flood(&extent).await?] {
        println!("{said}");
        let _ = writeln!(out, "{said}");
    }
    block_in_place(|| house.running.stop())?;
    Ok(fs::write(RESULTS, out)?)
}

/// Burns so much of a core on each of so many threads, by hashing, as far behind all others as the
/// system goes: until it is killed.
pub fn burn(threads: usize, percent: u32) -> Result<()> {
    let burning = move || {
        let password = usher::auth::password::Password::new(PASSWORD.to_owned());
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let begun = std::time::Instant::now();
        loop {
            let used = Duration::try_from(cpu()).unwrap_or_default();
            match used * 100 < begun.elapsed() * percent {
                true => drop(usher::auth::password::hash_now(&password)),
                false => thread::sleep(Duration::from_millis(1)),
            }
        }
    };
    // threads inherit it
    rustix::process::setpriority_process(None, 19)?;
    let all: Vec<_> = (0..threads).map(|_| thread::spawn(burning)).collect();
    all.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// A gateway with accounts, behind a proxy that says who logs in.
struct House {
    running: Running,
    stage_log: std::path::PathBuf,
    users: usize,
    /// Nobody comes from the same address twice.
    next: Arc<AtomicU64>,
}

impl House {
    async fn open(stage: &Stage, users: usize) -> Result<Self> {
        let running = block_in_place(|| stage.start(Peer::Usher, &[]))?;
        let file = stage.path("usher.yaml");
        for number in 0..users {
            block_in_place(|| account(&file, &format!("user{number:05}")))?;
        }
        let text = fs::read_to_string(&file)? + "auth: { trusted_proxies: [127.0.0.1] }\n";
        fs::write(&file, text)?;
        running.signal("HUP")?;
        let stage_log = stage.path("Usher.log");
        let begun = Instant::now();
        while !fs::read_to_string(&stage_log)?.contains("is in force") {
            ensure!(begun.elapsed() < Duration::from_secs(10), "the configuration is not taken");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { running, stage_log, users, next: Arc::default() })
    }

    fn target(&self) -> &Target {
        &self.running.target
    }

    /// Wrong passwords of those who exist and names of those who do not, in any order, one by one.
    async fn timing(&self, samples: usize) -> Result<String> {
        let mut order: Vec<(bool, usize)> =
            (0..samples).flat_map(|number| [(true, number), (false, number)]).collect();
        Dice::new().shuffle(&mut order);
        let mut wire = Wire::open(self.target()).await?;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (exists, number) in order {
            let name = match exists {
                true => format!("user{:05}", number % self.users),
                false => format!("nope{number:05}"),
            };
            let request = login(self.target(), &name, self.next.fetch_add(1, Ordering::Relaxed));
            let begun = Instant::now();
            let status = wire.status(&request).await?;
            let took = u64::try_from(begun.elapsed().as_nanos())?;
            ensure!(status == 401, "a login was answered with {status}");
            if exists { known.push(took) } else { unknown.push(took) }
        }
        known.sort_unstable();
        unknown.sort_unstable();
        let [known_half, unknown_half] = [&known, &unknown].map(|all| millis(percentile(all, 50)));
        let [known_tenth, unknown_tenth] =
            [&known, &unknown].map(|all| millis(percentile(all, 10)));
        Ok(format!(
            "- A wrong password of somebody takes {known_half:.3} ms, an unknown name {unknown_half:.3} \
             ms (medians of {samples} each, interleaved): {:+.3} ms apart, the bar is 1 ms. The \
             quickest tenths end at {known_tenth:.3} and {unknown_tenth:.3} ms.",
            known_half - unknown_half
        ))
    }

    /// Inference that nobody disturbs, beside a flood of logins, and beside another process that
    /// takes as much of the machine as the flood's hashes did.
    async fn flood(&self, extent: &Extent) -> Result<String> {
        let (before, begun) = (hashers(self.running.pid())?, Instant::now());
        let (first, tally) = self.beside_flood(extent.scene).await?;
        let hashers_now = hashers(self.running.pid())?;
        let used = cpu(&hashers_now) - cpu(&before);
        let threads = hashers_now.len();
        // whoever came last still waits when the asking is over
        let percent = used * 100.0 / begun.elapsed().as_secs_f64() / threads as f64;
        drop(first);
        let mut scenes = [Scene::Quiet, Scene::Flood, Scene::Burner];
        let mut found = [const { Vec::new() }; 3];
        let mut dice = Dice::new();
        for round in 0..extent.rounds {
            dice.shuffle(&mut scenes);
            for scene in scenes {
                eprintln!("round {} of {}: {}", round + 1, extent.rounds, scene.name());
                let latencies = match scene {
                    Scene::Quiet => self.ask(extent.scene).await?,
                    Scene::Flood => self.beside_flood(extent.scene).await?.0,
                    Scene::Burner => self.beside_burner(extent.scene, threads, percent).await?,
                };
                if let Some(found) = found.get_mut(scene as usize) {
                    found.push(millis(percentile(&latencies, 99)));
                }
                sleep(Duration::from_millis(500)).await;
            }
        }
        let mut out = format!(
            "- {threads} threads hash, at nice {}; all others of the process at nice {}. A flood of \
             {FLOOD} logins a second, each from another address: {}. Hashing took {percent:.0} % \
             of a core on each.\n- p99 of {ASKED} requests a second for inference over {} rounds:",
            nices(&hashers_now),
            nices(&others(self.running.pid())?),
            tally.said(),
            extent.rounds
        );
        let mut medians = Vec::new();
        for scene in [Scene::Quiet, Scene::Flood, Scene::Burner] {
            let mut all = found.get(scene as usize).cloned().unwrap_or_default();
            all.sort_unstable_by(f64::total_cmp);
            let of = |place: usize| all.get(place).copied().unwrap_or_default();
            let median = of(all.len() / 2);
            let _ = write!(
                out,
                "\n  - {}: {median:.2} ms ({:.2} to {:.2})",
                scene.name(),
                of(0),
                of(all.len().saturating_sub(1))
            );
            medians.push(median);
        }
        let [_, flood, burner] = medians[..] else { return Ok(out) };
        let _ = write!(out, "\n- The flood's is {:.2} of the other process's.", flood / burner);
        Ok(out)
    }

    async fn ask(&self, time: Duration) -> Result<Vec<u64>> {
        let request = self.target().chat(200);
        let mut all = open_loop(self.target(), &request, ASKED, time).await?;
        all.sort_unstable();
        Ok(all)
    }

    async fn beside_flood(&self, time: Duration) -> Result<(Vec<u64>, Tally)> {
        let tally = Arc::new(Tally::default());
        let flooding = self.start_flood(time, &tally);
        let asked = self.ask(time).await?;
        for outcome in flooding.join_all().await {
            outcome?;
        }
        let tally = Arc::into_inner(tally).context("nobody else counts any more")?;
        Ok((asked, tally))
    }

    fn start_flood(&self, time: Duration, tally: &Arc<Tally>) -> JoinSet<Result<()>> {
        let begun = Instant::now() + Duration::from_millis(20);
        let step = Duration::from_secs(1) / FLOOD;
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let (target, next, tally) =
                (self.target().clone(), Arc::clone(&self.next), Arc::clone(tally));
            lanes.spawn(async move {
                let mut wire = Wire::open(&target).await?;
                let mut number = lane;
                while begun + step * number < begun + time {
                    sleep_until(begun + step * number).await;
                    let from = next.fetch_add(1, Ordering::Relaxed);
                    let request = login(&target, &format!("flood{from}"), from);
                    tally.note(wire.status(&request).await?)?;
                    number += LANES;
                }
                Ok(())
            });
        }
        lanes
    }

    async fn beside_burner(
        &self,
        time: Duration,
        threads: usize,
        percent: f64,
    ) -> Result<Vec<u64>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["burn", &threads.to_string(), &format!("{percent:.0}")]);
        let burner =
            block_in_place(|| Process::start(command, &self.stage_log.with_extension("burn")))?;
        sleep(Duration::from_millis(100)).await;
        let asked = self.ask(time).await;
        drop(burner);
        asked
    }
}

#[derive(Clone, Copy)]
enum Scene {
    Quiet,
    Flood,
    Burner,
}

impl Scene {
    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Flood => "during a flood of logins",
            Self::Burner => "beside another process that hashes as much",
        }
    }
}

/// How logins were answered.
#[derive(Default)]
struct Tally {
    judged: AtomicU64,
    busy: AtomicU64,
}

impl Tally {
    fn note(&self, status: u16) -> Result<()> {
        match status {
            401 => self.judged.fetch_add(1, Ordering::Relaxed),
            503 => self.busy.fetch_add(1, Ordering::Relaxed),
            other => anyhow::bail!("a login was answered with {other}"),
        };
        Ok(())
    }

    fn said(&self) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!("{} judged, {} turned away with 503", of(&self.judged), of(&self.busy))
    }
}

/// A login as somebody at this number's address sends it through a proxy.
fn login(target: &Target, name: &str, from: u64) -> Vec<u8> {
    let body = format!(r#"{{"username":"{name}","password":"wrong horse battery staple"}}"#);
    let [_, a, b, c] = u32::try_from(from).unwrap_or_default().to_be_bytes();
    format!(
        "POST /auth/login HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         X-Forwarded-For: 10.{a}.{b}.{c}\r\nContent-Length: {}\r\n\r\n{body}",
        target.address,
        body.len()
    )
    .into_bytes()
}

fn account(file: &std::path::Path, name: &str) -> Result<()> {
    let usher = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.arg("users").stdout(Stdio::null());
        command
    };
    let made = usher().args(["create", name, "-c"]).arg(file).status()?;
    ensure!(made.success(), "no account for {name}");
    let mut setting = usher();
    setting.args(["set-password", name, "--password-stdin", "-c"]).arg(file);
    let mut setting = setting.stdin(Stdio::piped()).spawn()?;
    setting.stdin.take().context("it is piped")?.write_all(PASSWORD.as_bytes())?;
    ensure!(setting.wait()?.success(), "no password for {name}");
    Ok(())
}

/// A thread of the gateway: how far behind others it is, and its CPU time in seconds.
struct Thread {
    name: String,
    nice: i32,
    cpu: f64,
}

fn threads(pid: u32) -> Result<Vec<Thread>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // a thread may end meanwhile
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
        all.extend(thread_of(&stat));
    }
    Ok(all)
}

/// From `/proc/PID/task/TID/stat`; a tick is a hundredth of a second on every Linux that this runs
/// on.
fn thread_of(stat: &str) -> Option<Thread> {
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<i32>().ok();
    let cpu = f64::from(number(11)?) + f64::from(number(12)?);
    Some(Thread { name, nice: number(16)?, cpu: cpu / 100.0 })
}

fn hashers(pid: u32) -> Result<Vec<Thread>> {
    let all: Vec<_> = threads(pid)?.into_iter().filter(|thread| thread.name == HASHER).collect();
    ensure!(!all.is_empty(), "no thread is called {HASHER}");
    Ok(all)
}

fn others(pid: u32) -> Result<Vec<Thread>> {
    Ok(threads(pid)?.into_iter().filter(|thread| thread.name != HASHER).collect())
}

fn cpu(threads: &[Thread]) -> f64 {
    threads.iter().map(|thread| thread.cpu).sum()
}

fn nices(threads: &[Thread]) -> String {
    let all: std::collections::BTreeSet<i32> = threads.iter().map(|thread| thread.nice).collect();
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn millis(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}
