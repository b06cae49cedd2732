//! What a gateway shares with others, where there are others.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use crate::config::{self, Config, JwtSecret, Secret};
use crate::limit::login::Attempts;
use crate::limit::{InProcess, QuotaStore};
use crate::scheduler::Scheduler;
use crate::scheduler::sharing::Sharing;
use crate::store::{Redis, SharedAttempts, SharedQuotas, SharedSeats};

/// What this gateway shares with others, if it does, looked after until the end.
pub(super) fn redis(
    config: &Config,
    origin: &str,
    ending: &watch::Receiver<bool>,
) -> anyhow::Result<Option<Arc<Redis>>> {
    let Some(settings) = &config.redis else { return Ok(None) };
    let redis = Arc::new(open(config, settings, origin)?);
    tokio::spawn(Arc::clone(&redis).tend(ending.clone()));
    Ok(Some(redis))
}

/// A Redis as this configuration has it, for what this database is about; not connected yet.
///
/// # Errors
/// What is wrong with the settings, or that there is no secret to seal with.
pub fn open(config: &Config, settings: &config::Redis, origin: &str) -> anyhow::Result<Redis> {
    let secret = match &settings.secret {
        Some(secret) => secret.clone(),
        None => jwt_secret(config)?,
    };
    Redis::new(settings, &secret, origin).map_err(|text| anyhow::anyhow!("redis: {text}"))
}

/// Where quotas are kept: here, and together with the other gateways if there are any.
pub(super) fn quotas(
    redis: Option<&Arc<Redis>>,
    ending: &watch::Receiver<bool>,
) -> Arc<dyn QuotaStore> {
    let Some(redis) = redis else { return Arc::new(InProcess::default()) };
    let quotas = SharedQuotas::new(Arc::clone(redis));
    tokio::spawn(quotas.tend(ending.clone()));
    Arc::new(quotas)
}

/// Who counts attempts to log in: this gateway, together with the others if there are any.
pub(super) fn logins(redis: Option<&Arc<Redis>>) -> Arc<Attempts> {
    let shared =
        redis.map(|redis| Attempts::shared(Arc::new(SharedAttempts::new(Arc::clone(redis)))));
    Arc::new(shared.unwrap_or_default())
}

/// Lets users hold what they may hold at all gateways together, if there are others.
pub(super) fn seats(redis: Option<&Arc<Redis>>, scheduler: &Arc<Scheduler>) -> Option<Sharing> {
    let partners = SharedSeats::new(Arc::clone(redis?));
    Some(Sharing::new(Arc::clone(scheduler), Arc::new(partners)))
}

/// What tokens are signed with: the same on every gateway of a cluster.
fn jwt_secret(config: &Config) -> anyhow::Result<Secret> {
    let path = match &config.auth.jwt.secret {
        JwtSecret::Environment(secret) => return Ok(secret.clone()),
        JwtSecret::File(file) => &file.path,
        JwtSecret::Made(path) => path,
    };
    let text = std::fs::read_to_string(path).with_context(|| {
        let path = path.display();
        format!("redis: what it holds is sealed with the JWT secret, and {path} cannot be read")
    })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
