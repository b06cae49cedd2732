//! `usher doctor`: evidence for a report, then the smallest complete walk through a gateway.

mod surroundings;
mod walk;

use std::path::Path;

use anyhow::bail;
use serde::Serialize;

use super::output::{self, Output};
use super::remote::{self, Target};
use super::{COMMIT, PINGORA, VERSION};
use crate::config::{Config, Database};
use crate::server::cluster;
use crate::store::{RedisSeen, Store};
use surroundings::Seen;
use walk::Step;

/// Everything that was found out.
#[derive(Serialize)]
struct Report {
    binary: String,
    version: &'static str,
    commit: &'static str,
    pingora: &'static str,
    configuration: String,
    database: &'static str,
    /// Null if it answers.
    database_error: Option<String>,
    /// Null if there is none in the configuration, or it does not answer.
    redis: Option<RedisSeen>,
    redis_error: Option<String>,
    gateway: String,
    upstreams: Vec<Seen>,
    warnings: Vec<String>,
    walk: Vec<Step>,
}

/// Looks at everything, and fails if a step of the walk or the database does.
pub(super) fn run(
    target: Target,
    config: &Config,
    path: &Path,
    output: Output,
) -> anyhow::Result<()> {
    let (gateway, admin) = match target.url {
        Some(url) => {
            let url = url.trim_end_matches('/').to_owned();
            // where an address of its own is seen from here, that URL does not say
            let admin = config.admin.is_none().then(|| url.clone());
            (url, admin)
        }
        None => (remote::of(config)?, Some(remote::admin_of(config)?)),
    };
    let client = remote::client()?;
    let report = remote::block_on(async {
        let upstreams = surroundings::upstreams(&client, config).await;
        let mut warnings = config.warnings.clone();
        warnings.extend(surroundings::exposed(&client, config).await);
        warnings.extend(upstreams.iter().filter_map(Seen::warning));
        warnings.extend(surroundings::readable_secrets(config));
        let redis = look_at_redis(config).await;
        let (redis, redis_error) =
            redis.map_or((None, None), |seen| (seen.clone().ok(), seen.err()));
        warnings.extend(redis.iter().flat_map(RedisSeen::warnings));
        // the gateway goes on without it, so this fails nothing
        warnings.extend(redis_error.iter().map(|error| format!("Redis does not answer: {error}")));
        Ok(Report {
            binary: std::env::current_exe().map_or_else(|e| e.to_string(), shown),
            version: VERSION,
            commit: COMMIT,
            pingora: PINGORA,
            configuration: shown(path),
            database: kind(&config.database),
            database_error: try_database(&config.database).await.err().map(|e| format!("{e:#}")),
            redis,
            redis_error,
            upstreams,
            warnings,
            walk: walk::walk(&client, (&gateway, admin.as_deref()), config).await,
            gateway,
        })
    })?;
    output.say(&report, &text(&report))?;
    let failed = report.walk.iter().filter(|step| !step.ok).count();
    match (failed, &report.database_error) {
        (0, None) => Ok(()),
        (0, Some(_)) => bail!("the database does not answer"),
        (failed, _) => bail!("{failed} of {} steps failed", report.walk.len()),
    }
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn kind(database: &Database) -> &'static str {
    match database {
        Database::Postgres(_) => "postgres",
        Database::Sqlite(_) => "sqlite",
    }
}

/// A doctor makes no database where there is none.
async fn try_database(database: &Database) -> anyhow::Result<()> {
    if let Database::Sqlite(path) = database
        && !path.exists()
    {
        bail!("{} is not there: run `usher init`", path.display());
    }
    let store = Store::open(database).await?;
    let asked = store.look_for_damage().await;
    let asked = asked.and(store.list_users().await);
    store.close().await;
    asked?;
    Ok(())
}

/// As a gateway would use it; `None` if the configuration has none.
async fn look_at_redis(config: &Config) -> Option<Result<RedisSeen, String>> {
    let settings = config.redis.as_ref()?;
    // what is sealed there is about this database
    let examined = async {
        let store = Store::open(&config.database).await?;
        let origin = store.origin().await;
        store.close().await;
        let redis = cluster::open(config, settings, &origin?)?;
        redis.examine().await.map_err(anyhow::Error::msg)
    };
    Some(examined.await.map_err(|error| format!("{error:#}")))
}

fn shown_redis(report: &Report) -> String {
    let Some(RedisSeen { line, answer_ms, version, mode, role, sealed, heard }) = &report.redis
    else {
        return report.redis_error.clone().unwrap_or_else(|| "none".to_owned());
    };
    let said = |fact: &Option<String>| fact.clone().unwrap_or_else(|| "?".to_owned());
    let seal = if *sealed { "comes back whole" } else { "does not come back" };
    let word = if *heard { "heard" } else { "not heard" };
    format!(
        "answers by {line} in {answer_ms} ms: {}, {}, {}; what is sealed {seal}; a gateway with \
         the same secret is {word}",
        said(version),
        said(mode),
        said(role)
    )
}

fn text(report: &Report) -> String {
    let answers = report.database_error.as_deref().unwrap_or("answers");
    let mut text = output::facts(&[
        ("binary", report.binary.clone()),
        ("version", format!("{VERSION} (commit {COMMIT}, pingora {PINGORA})")),
        ("configuration", report.configuration.clone()),
        ("database", format!("{}: {answers}", report.database)),
        ("redis", shown_redis(report)),
        ("gateway", report.gateway.clone()),
    ]);
    for upstream in &report.upstreams {
        text += &format!("\n\nupstream {upstream}");
    }
    text += "\n\nwarnings\n";
    for warning in &report.warnings {
        text += &format!("  {warning}\n");
    }
    if report.warnings.is_empty() {
        text += "  none\n";
    }
    text += "\nwalk";
    for step in &report.walk {
        let outcome = if step.ok { "ok  " } else { "FAIL" };
        text += &format!("\n  {outcome}  {}: {}", step.step, step.outcome);
    }
    text
}
