//! What a gateway shares with others, where there are others.

use std::sync::Arc;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::auth::Peers;
use crate::auth::verdict::{Authenticator, Options};
use crate::config::{self, Config, JwtSecret, Secret};
use crate::limit::login::Attempts;
use crate::limit::{InProcess, QuotaStore};
use crate::scheduler::Scheduler;
use crate::scheduler::sharing::Sharing;
use crate::store::{Redis, SharedAttempts, SharedQuotas, SharedSeats, Store};

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
    Redis::new(settings, &secret, origin).map_err(anyhow::Error::msg)
}

/// Knows who is asking, by what the other gateways know too if there are any.
pub(super) fn authenticator(
    config: &Config,
    store: Arc<Store>,
    redis: Option<Arc<Redis>>,
) -> Arc<Authenticator> {
    let peers = redis.map(|redis| redis as Arc<dyn Peers>);
    let options = Options { peers, ..Options::new(config.auth.max_stale, Handle::current()) };
    Arc::new(Authenticator::new(store, &options))
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

/// Shares seats and keeps the books; ends when what is ours is given back and all usage is written
/// down.
pub(super) fn keep(
    seats: Option<Sharing>,
    books: impl Future<Output = ()> + Send + 'static,
    ending: &watch::Receiver<bool>,
) -> JoinHandle<()> {
    let ending = ending.clone();
    let sharing = async move {
        if let Some(seats) = seats {
            seats.go_on(ending).await;
        }
    };
    tokio::spawn(async move {
        tokio::join!(sharing, books);
    })
}

/// What tokens are signed with: the same on every gateway of a cluster.
fn jwt_secret(config: &Config) -> anyhow::Result<Secret> {
    let path = match &config.auth.jwt.secret {
        JwtSecret::Environment(secret) => return Ok(secret.clone()),
        JwtSecret::File(file) | JwtSecret::Made(file) => &file.path,
    };
    let text = std::fs::read_to_string(path).with_context(|| {
        let path = path.display();
        format!("redis: what it holds is sealed with the JWT secret, and {path} cannot be read")
    })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
