//! How long, how large, how many: `balance`, `health`, `timeouts`, `limits`, `threads`, `log`.

use std::time::Duration;

use super::reader::Section;
use super::tree::Scalar;
use super::values::{self, duration, size, time, whole};
use crate::config::{AccessFormat, Balance, ByteSize, Health, Limits, Log, Timeouts};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// `balance`, and how often who waits hears so.
pub(super) fn balance(root: &Section<'_>) -> (Balance, Option<Duration>) {
    root.section("balance", |s| {
        let balance = Balance {
            queue: s.get("queue", whole(1..=1_000_000)).unwrap_or(512),
            queue_per_user: s.get("queue_per_user", whole(1..=1_000_000)).unwrap_or(64),
            max_queue_wait: s.get("max_queue_wait", time).unwrap_or(secs(120)),
        };
        (balance, s.get("keep_alive_comments", comments).flatten())
    })
}

/// `off`, or a time that is no flood of comments.
fn comments(scalar: &Scalar) -> Result<Option<Duration>, String> {
    if scalar.text == "off" {
        return Ok(None);
    }
    let least = Duration::from_millis(100);
    let every = duration(scalar).ok().filter(|every| *every >= least);
    let wrong = || format!("expected `off` or a time of at least 100ms, found {}", scalar.shown());
    every.map(Some).ok_or_else(wrong)
}

/// `health`.
pub(super) fn health(root: &Section<'_>) -> Health {
    root.section("health", |s| Health {
        interval: s.get("interval", time).unwrap_or(secs(2)),
        timeout: s.get("timeout", time).unwrap_or(secs(1)),
        fall: s.get("fall", whole(1..=100)).unwrap_or(3),
        rise: s.get("rise", whole(1..=100)).unwrap_or(2),
    })
}

/// `timeouts`; only `drain` may be zero.
pub(super) fn timeouts(root: &Section<'_>) -> Timeouts {
    root.section("timeouts", |s| Timeouts {
        header: s.get("header", time).unwrap_or(secs(10)),
        body: s.get("body", time).unwrap_or(secs(60)),
        connect: s.get("connect", time).unwrap_or(secs(1)),
        first_byte: s.get("first_byte", time).unwrap_or(secs(600)),
        idle: s.get("idle", time).unwrap_or(secs(600)),
        total: s.get("total", time).unwrap_or(secs(3_600)),
        drain: s.get("drain", duration).unwrap_or(secs(30)),
    })
}

/// `limits`; memory for bodies has to hold at least one of the largest.
pub(super) fn limits(root: &Section<'_>) -> Limits {
    root.section("limits", |s| {
        let limits = Limits {
            body: s.get("body", size(KIB..=TIB)).unwrap_or(64 * MIB),
            body_memory: s.get("body_memory", size(KIB..=TIB)).unwrap_or(GIB),
            body_memory_per_user: s
                .get("body_memory_per_user", size(KIB..=TIB))
                .unwrap_or(256 * MIB),
            // head and what comes with it must fit into Pingora's buffer of 64 KiB: gateway/front
            headers: s.get("headers", header_size).unwrap_or(32 << 10),
            connections: s.get("connections", whole(1..=10_000_000)).unwrap_or(10_000),
            connections_per_ip: s.get("connections_per_ip", whole(1..=10_000_000)).unwrap_or(512),
        };
        for (key, memory) in [
            ("body_memory", limits.body_memory),
            ("body_memory_per_user", limits.body_memory_per_user),
        ] {
            if memory < limits.body {
                let (memory, body) = (ByteSize(memory), ByteSize(limits.body));
                s.wrong(
                    key,
                    format!(
                        "{memory} cannot hold one body of `body`, {body}: raise it, or lower `body`"
                    ),
                );
            }
        }
        limits
    })
}

fn header_size(scalar: &Scalar) -> Result<usize, String> {
    let bytes = size(KIB..=60 * KIB)(scalar)?;
    usize::try_from(bytes).map_err(|e| e.to_string())
}

/// `threads`: `auto` is one a core.
pub(super) fn threads(root: &Section<'_>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let read = |scalar: &Scalar| match &*scalar.text {
        "auto" => Ok(cores()),
        _ => whole(1..=1_024)(scalar).map_err(|text| format!("{text}; or write `auto`")),
    };
    root.get("threads", read).unwrap_or_else(cores)
}

/// `log`.
pub(super) fn log(root: &Section<'_>) -> Log {
    use log::LevelFilter;
    const FORMATS: [(&str, AccessFormat); 3] =
        [("json", AccessFormat::Json), ("text", AccessFormat::Text), ("off", AccessFormat::Off)];
    const LEVELS: [(&str, LevelFilter); 6] = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    root.section("log", |s| Log {
        access: s.get("access", values::word(&FORMATS)).unwrap_or(AccessFormat::Json),
        level: s.get("level", values::word(&LEVELS)).unwrap_or(LevelFilter::Info),
    })
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
