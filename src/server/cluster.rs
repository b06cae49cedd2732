//! What a gateway shares with others, where there are others.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use crate::config::{Config, JwtSecret, Secret};
use crate::limit::{InProcess, QuotaStore};
use crate::store::{Redis, SharedQuotas};

/// What this gateway shares with others, if it does, looked after until the end.
pub(super) fn redis(
    config: &Config,
    ending: &watch::Receiver<bool>,
) -> anyhow::Result<Option<Arc<Redis>>> {
    let Some(settings) = &config.redis else { return Ok(None) };
    let secret = match &settings.secret {
        Some(secret) => secret.clone(),
        None => jwt_secret(config)?,
    };
    let redis = Redis::new(settings, &secret).map_err(|text| anyhow::anyhow!("redis: {text}"))?;
    let redis = Arc::new(redis);
    tokio::spawn(Arc::clone(&redis).tend(ending.clone()));
    Ok(Some(redis))
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
