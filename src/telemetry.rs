//! LOG: what is written down of each request, and how lines look.

pub mod access_log;
pub mod metrics;
pub mod security_log;

use std::io::Write;

use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, WriteStyle};
use log::{LevelFilter, Record};

/// Target of the access log: one line a request.
pub const ACCESS: &str = "usher::access";
/// Target of the security log: every failure to authenticate, every refusal by policy.
pub const SECURITY: &str = "usher::security";

/// Starts logging to standard error; `RUST_LOG` overrides the level.
pub fn init(level: LevelFilter) {
    let mut builder = Builder::new();
    builder.filter_level(level);
    // one line for each client that hangs up is noise: the access log tells it in context
    builder.filter_module("pingora_proxy", LevelFilter::Off);
    builder.filter_module("pingora_core", LevelFilter::Error);
    builder.filter_module("sqlx", LevelFilter::Warn);
    builder.parse_env(Env::default());
    // whatever else is silenced, these two are the record of what happened
    builder.filter_module(ACCESS, LevelFilter::Info);
    builder.filter_module(SECURITY, LevelFilter::Info);
    builder.write_style(WriteStyle::Never);
    builder.format(write_line);
    // a second start in one process, as in tests, keeps the first logger
    let _ = builder.try_init();
}

/// Access lines are complete in themselves; the others begin with time, level and target.
fn write_line(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    if record.target() == ACCESS {
        return writeln!(out, "{}", record.args());
    }
    let now = jiff::Timestamp::now();
    writeln!(out, "{now:.3} {:5} {} {}", record.level(), record.target(), record.args())
}
