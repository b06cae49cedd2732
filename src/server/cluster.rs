//! What a gateway shares with others, where there are others.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use crate::config::{Config, Secret};
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
    if let Some(secret) = std::env::var("JWT_SECRET").ok().filter(|secret| !secret.is_empty()) {
        return Ok(Secret::new(secret));
    }
    let path = config.state_dir.join("jwt_secret");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("redis: what it holds is sealed with the JWT secret, and {} cannot be read: run `usher init`, or name redis_secret_file", path.display())
    })?;
    Ok(Secret::new(text.trim_end().to_owned()))
}
