//! The commands: what an operator types, and what the terminal answers.
//!
//! Errors are one line on standard error and exit code 1; wrong usage exits with 2. With `--json`
//! a command prints what the admin API would answer.

pub mod check;
mod doctor;
mod init;
mod keys;
mod output;
mod remote;
mod password;
mod status;
mod token;
mod usage;
mod users;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::json;

use crate::auth::tokens::CannotLoad;
use crate::config::{self, Config, Problems};
use crate::server;
use crate::store::Store;
use output::Output;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("USHER_COMMIT");
const PINGORA: &str = env!("USHER_PINGORA");

/// The front door of a GPU box: authentication, limits and placement before several Ollama
/// instances
#[derive(Parser)]
#[command(name = "usher", disable_help_subcommand = true)]
struct Cli {
    /// Configuration file; else $USHER_CONFIG, conf/usher.yaml or /etc/usher/usher.yaml
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, as the admin API does
    #[arg(long, global = true)]
    json: bool,
    /// Print version, commit and Pingora's version
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve,
    /// Validate the configuration and print every problem at once
    Check,
    /// Create the state directory, the database, a JWT secret and the first admin key
    Init,
    /// Issue, list and end API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Show the instances and the queue of a running gateway; wants an admin key in $USHER_KEY
    Status(remote::Target),
    /// Make a token for a user, for scripts and tests
    Token(token::Wish),
    /// Gather evidence for a report, and walk through a running gateway with the key in $USHER_KEY
    Doctor(remote::Target),
    /// Show who used how much: requests, tokens, seconds of GPU time
    Usage(usage::Question),
    /// Make, list and change accounts
    #[command(subcommand)]
    Users(users::Command),
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli {
        Cli { version: true, json, .. } => print_version(Output { json }),
        Cli { command: None, .. } => Cli::command()
            .error(ErrorKind::MissingSubcommand, "a command is needed; `usher --help` lists them")
            .exit(),
        Cli { command: Some(Command::Check), config, json, .. } => return check::run(config, json),
        Cli { command: Some(command), config, json, .. } => {
            dispatch(command, config, Output { json })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // whoever stops reading has seen enough
        Err(error) if output::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("usher: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, config: Option<PathBuf>, output: Output) -> anyhow::Result<()> {
    let env = |name: &str| std::env::var(name).ok();
    if let Command::Status(remote::Target { url: Some(url) }) = command {
        return status::run(&url, output);
    }
    let path = config::locate(config, &env);
    let done = Config::load(&path, &env).map_err(anyhow::Error::from);
    let done = done.and_then(|config| with_config(command, config, &path, output));
    done.map_err(|error| on_one_line(error, &path))
}

fn with_config(
    command: Command,
    config: Config,
    path: &Path,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        Command::Init => init::run(&config, path, output),
        Command::Keys(command) => keys::run(command, &config, output),
        Command::Token(wish) => token::run(&wish, &config, output),
        Command::Usage(question) => usage::run(&question, &config, output),
        Command::Users(command) => users::run(command, &config, output),
        Command::Doctor(target) => doctor::run(target, &config, path, output),
        Command::Status(_) => status::run(&remote::admin_of(&config)?, output),
        Command::Serve => server::serve(config, path.to_owned()),
        Command::Check => Ok(()),
    }
}

/// An error is one line; of a configuration's many mistakes it is the first, and how to see them
/// all.
fn on_one_line(error: anyhow::Error, path: &Path) -> anyhow::Error {
    if !error.is::<Problems>() && !error.is::<CannotLoad>() {
        return error;
    }
    let text = format!("{error:#}");
    let mut lines = text.lines();
    match (lines.next(), lines.count()) {
        (Some(first), more @ 1..) => {
            anyhow!("{first} (and {more} more: usher check -c {})", path.display())
        }
        _ => error,
    }
}

fn print_version(output: Output) -> anyhow::Result<()> {
    output.say(
        &json!({ "version": VERSION, "commit": COMMIT, "pingora": PINGORA }),
        &format!("usher {VERSION} (commit {COMMIT}, pingora {PINGORA})"),
    )
}

/// Opens the database for the length of `act`.
fn with_store<T>(
    config: &Config,
    act: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(async {
        let store = Store::open(&config.database).await?;
        let done = act(&store).await;
        store.close().await;
        done
    })
}

/// Refuses a tier that the configuration does not have.
fn check_tier(config: &Config, tier: &str) -> anyhow::Result<()> {
    if config.tiers.contains_key(tier) {
        return Ok(());
    }
    let known: Vec<&str> = config.tiers.keys().map(String::as_str).collect();
    let tier = tier.escape_debug();
    bail!("there is no tier '{tier}': the configuration has {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
