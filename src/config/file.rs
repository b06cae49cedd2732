//! The configuration as written: YAML in, [`Config`] or every mistake out.
//!
//! A file is read in four steps: text → a tree with lines ([`tree`]) → the environment filled in
//! ([`fill`]) → its sections, each of which reads itself ([`reader`], then one module a topic).

mod auth;
mod bounds;
mod fill;
mod lines;
mod listen;
mod problems;
mod reader;
mod secrets;
mod state;
#[cfg(test)]
mod tests;
mod tiers;
mod tree;
mod upstreams;
mod values;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use problems::Problems;
pub use state::URL_FILES;
pub use tiers::ROUTES;

use super::{Config, JwtSecret, Secret};
use problems::Problem;
use reader::{Context, Item, Section};

/// The largest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

impl Config {
    /// Reads a configuration file; `env` is where `${NAME}` comes from.
    ///
    /// # Errors
    /// Every mistake in the file, or the reason why it cannot be read.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        Draft::load(path, env)?.finish()
    }

    /// Reads a configuration from `text`; `path` is where it is from: messages name it, and
    /// relative paths start from its directory.
    ///
    /// # Errors
    /// Every mistake in the text.
    pub fn parse(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        Draft::parse(text, path, env)?.finish()
    }
}

/// A configuration as far as it can be read, for those who look for every mistake at once: what
/// its mistakes leave open is filled with defaults, so nobody may run on it.
pub struct Draft {
    /// What can be read.
    pub config: Config,
    /// What cannot; empty for a file that is right.
    pub problems: Problems,
}

impl Draft {
    /// Reads a configuration file; `env` is where `${NAME}` comes from.
    ///
    /// # Errors
    /// Why nothing of it can be read.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let text = read(path).map_err(|text| Problems::whole_file(path, text))?;
        let bad = |e: std::str::Utf8Error| {
            let good = text.get(..e.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            Problems::new(path, vec![Problem::at(line, "", "is not UTF-8 text: save it as UTF-8")])
        };
        Self::parse(std::str::from_utf8(&text).map_err(bad)?, path, env)
    }

    fn parse(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        if text.len() as u64 > MAX_FILE {
            return Err(Problems::whole_file(path, TOO_LARGE.to_owned()));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut root = tree::parse(text).map_err(|problem| Problems::new(path, vec![problem]))?;
        let mut found = Vec::new();
        fill::fill(&mut root, "", env, &mut found);

        let cx = Context::new(path, found);
        let config = Item { cx: &cx, node: &root, path: String::new() }.section(sections);

        let (problems, warnings) = (cx.problems.into_inner(), cx.warnings.into_inner());
        let warnings = warnings.iter().map(|warning| warning.located(path)).collect();
        let mut config = Config { warnings, ..config };
        if let Some(secret) = env("JWT_SECRET").filter(|secret| !secret.is_empty()) {
            config.auth.jwt.secret = JwtSecret::Environment(Secret::new(secret));
        }
        Ok(Self { config, problems: Problems::new(path, problems) })
    }

    fn finish(self) -> Result<Config, Problems> {
        if self.problems.is_empty() { Ok(self.config) } else { Err(self.problems) }
    }
}

/// The file to read: the command's own, else `$USHER_CONFIG`, else `conf/usher.yaml` if it is
/// there, else `/etc/usher/usher.yaml`.
pub fn locate(cli: Option<PathBuf>, env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let from_env = || env("USHER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let here = || Some(PathBuf::from("conf/usher.yaml")).filter(|path| path.exists());
    let system = || PathBuf::from("/etc/usher/usher.yaml");
    cli.or_else(from_env).or_else(here).unwrap_or_else(system)
}

/// The whole document. What a mistake leaves open is filled with a default: nobody will run on it.
fn sections(root: &Section<'_>) -> Config {
    let tiers = tiers::tiers(root);
    let tier_names: Vec<&str> = tiers.keys().map(String::as_str).collect();
    let upstreams = upstreams::upstreams(root);
    let (balance, comments) = bounds::balance(root);
    let state_dir = state::state_dir(root);
    let listen = listen::listen(root);
    let (admin, admin_hosts) = listen::admin(root, &listen);
    Config {
        admin,
        admin_hosts,
        listen,
        metrics: listen::metrics(root),
        database: state::database(root, &state_dir),
        database_place: state::database_place(root),
        auth: auth::auth(root, &tiers, &state_dir),
        redis: state::redis(root),
        state_dir,
        restrict: tiers::restrict(root, &tier_names),
        manage_default: upstreams::manage_default(root, &upstreams),
        tiers,
        upstreams,
        balance,
        comments,
        health: bounds::health(root),
        cors_origins: listen::cors_origins(root),
        timeouts: bounds::timeouts(root),
        limits: bounds::limits(root),
        threads: bounds::threads(root),
        log: bounds::log(root),
        warnings: Vec::new(),
    }
}

const TOO_LARGE: &str = "is larger than 1MiB: no configuration is; is it the right file?";

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let calm = |e: std::io::Error| format!("cannot be read: {e}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(calm)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(calm)?;
    if bytes.len() as u64 > MAX_FILE { Err(TOO_LARGE.to_owned()) } else { Ok(bytes) }
}
