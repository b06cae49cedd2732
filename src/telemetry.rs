//! LOG: what is written down of each request, and how lines look.

pub mod access_log;
pub mod metrics;
pub mod security_log;
mod writer;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Logger, Target, WriteStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// Target of the access log: one line a request.
pub const ACCESS: &str = "usher::access";
/// Target of the security log: every failure to authenticate, every refusal by policy.
pub const SECURITY: &str = "usher::security";

/// How long the last lines get on the way out.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The log as long as the process serves; dropping it writes what is left.
pub struct Logs {
    lines: writer::Lines,
    logging: Logging,
}

impl Logs {
    /// Lines that were dropped because nothing read them in time.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.lines.dropped()
    }

    /// For changes of the level.
    pub fn logging(&self) -> Logging {
        self.logging.clone()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.lines.settle(LAST_WORDS);
    }
}

/// Starts logging to standard error; `RUST_LOG` overrides the level.
///
/// # Errors
/// The system has no room for a thread.
pub fn init(level: LevelFilter) -> io::Result<Logs> {
    let lines = writer::Lines::start(io::stderr())?;
    let logger = Arc::new(ArcSwap::from_pointee(logger(level, &lines)));
    let logging = Logging { logger, lines: lines.clone() };
    // a second start in one process, as in tests, keeps the first logger
    if log::set_boxed_logger(Box::new(logging.clone())).is_ok() {
        // the usual hook writes to standard error itself, and would wait for it
        std::panic::set_hook(Box::new(|panic| {
            log::error!("{}", panic.to_string().replace('\n', " "));
        }));
    }
    logging.set_level(level);
    Ok(Logs { lines, logging })
}

/// The logger in force, whose level can be changed.
#[derive(Clone)]
pub struct Logging {
    logger: Arc<ArcSwap<Logger>>,
    lines: writer::Lines,
}

impl Logging {
    /// Changes the level of everything but the access and security logs, as far as `RUST_LOG`
    /// lets it.
    pub fn set_level(&self, level: LevelFilter) {
        let logger = logger(level, &self.lines);
        log::set_max_level(logger.filter());
        self.logger.store(Arc::new(logger));
    }
}

impl Log for Logging {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == ACCESS
            || (!tells_too_much(metadata) && self.logger.load().enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        // complete in themselves and never filtered, access lines need nothing of env_logger
        match record.target() {
            ACCESS => self.lines.take(*record.args()),
            _ if tells_too_much(record.metadata()) => {}
            _ => self.logger.load().log(record),
        }
    }

    fn flush(&self) {
        self.logger.load().flush();
    }
}

/// What others say at these levels shows heads, bodies and parameters of statements, and in them
/// credentials and prompts. Only what is said here is known to show none, so no `RUST_LOG` opens it.
fn tells_too_much(metadata: &Metadata<'_>) -> bool {
    let ours = |target: &str| target == "usher" || target.starts_with("usher::");
    metadata.level() > Level::Info && !ours(metadata.target())
}

fn logger(level: LevelFilter, lines: &writer::Lines) -> Logger {
    let mut builder = Builder::new();
    builder.filter_level(level);
    // one line for each client that hangs up is noise: the access log tells it in context
    builder.filter_module("pingora_proxy", LevelFilter::Off);
    builder.filter_module("pingora_core", LevelFilter::Error);
    builder.filter_module("sqlx", LevelFilter::Warn);
    // the store says in words what became of its connections
    builder.filter_module("sqlx_core::pool", LevelFilter::Off);
    builder.parse_env(Env::default());
    // whatever else is silenced, this and the access log are the record of what happened
    builder.filter_module(ACCESS, LevelFilter::Info);
    builder.filter_module(SECURITY, LevelFilter::Info);
    builder.write_style(WriteStyle::Never);
    builder.format(write_line);
    builder.target(Target::Pipe(Box::new(lines.clone())));
    builder.build()
}

/// Lines begin with time, level and target.
fn write_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let now = jiff::Timestamp::now();
    writeln!(out, "{now:.3} {:5} {} {}", record.level(), record.target(), record.args())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_heard_down_to_info_and_we_at_every_level() {
        let kept = |target, level| {
            !tells_too_much(&Metadata::builder().target(target).level(level).build())
        };
        for other in
            ["pingora_core::protocols::http", "pingora_proxy", "h2", "sqlx::query", "ushers"]
        {
            assert!(kept(other, Level::Info) && kept(other, Level::Error), "{other}");
            assert!(!kept(other, Level::Debug) && !kept(other, Level::Trace), "{other}");
        }
        assert!(kept("usher", Level::Trace) && kept("usher::gateway::front", Level::Debug));
    }
}
