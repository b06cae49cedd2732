//! Probes: `/api/version`, `/api/tags`, `/api/ps` of Ollama, `/v1/models` of other servers.
//!
//! None of them touches the GPU or a model's keep-alive. `/api/version` alone decides whether an
//! Ollama is up: `/api/ps` takes locks that Ollama holds for seconds while it unloads a model, so
//! its slowness is no sign of death.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Client;
use tokio::sync::watch;

use super::models::{self, Entry, Lists};
use super::{Instance, Status};
use crate::config::Health;
use crate::live::Live;
use crate::scheduler::{Facts, Scheduler};

/// A list longer than this is not read.
const LONGEST_LIST: usize = 16 << 20;
/// An instance in trouble is looked at more often, so that it is back at work soon.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at what is in an instance's memory.
const GLANCES: Duration = Duration::from_millis(250);

/// Probes one instance until it is no longer configured or the gateway stops.
pub struct Prober {
    instance: Arc<Instance>,
    health: Health,
    client: Client,
    streak: Streak,
    /// The last probe is yet to be made.
    due: bool,
}

/// Probe results in a row.
#[derive(Debug, Default)]
struct Streak {
    up: bool,
    ever: bool,
    successes: u32,
    failures: u32,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("{}", innermost(.0))]
    Http(#[from] reqwest::Error),
    #[error("answered {0}")]
    Status(reqwest::StatusCode),
    #[error("answered something that is not its list of models: {0}")]
    Json(#[from] serde_json::Error),
    #[error("answered more than {LONGEST_LIST} bytes")]
    TooLong,
}

/// The client that every prober uses; each probe has a limit of its own.
///
/// # Errors
/// TLS cannot be set up.
pub fn client() -> Result<Client, reqwest::Error> {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()
}

impl Prober {
    /// A prober of this instance.
    pub fn new(instance: Arc<Instance>, health: Health, client: Client) -> Self {
        // what comes back from retirement goes on from what was known of it
        let up = instance.status().up;
        let streak = Streak { up, ever: up, ..Streak::default() };
        Self { instance, health, client, streak, due: true }
    }

    /// The number of the instance.
    pub fn id(&self) -> usize {
        self.instance.id
    }

    /// Probes at once, unless [`Self::probe`] did so already, then every `health.interval`, and
    /// whenever something looks wrong. What the configuration in force says of the instance holds
    /// from the next probe on.
    pub async fn run(
        mut self,
        live: Arc<Live>,
        scheduler: Arc<Scheduler>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            if self.due {
                let found = tokio::select! {
                    found = self.probe() => found,
                    _ = stop.wait_for(|stopping| *stopping) => return,
                };
                scheduler.learn(self.instance.id, &found);
            }
            let pause = match self.all_is_well(&scheduler) {
                true => self.health.interval,
                false => self.health.interval.min(IMPATIENCE),
            };
            tokio::select! {
                () = self.rest(pause, &scheduler) => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            let generation = live.load();
            match generation.fleet.configured(self.instance.id) {
                Some(now) if now.continues(&self.instance) => self.instance = Arc::clone(now),
                _ => return,
            }
            self.health = generation.config.health.clone();
            self.due = true;
        }
    }

    /// Until the next probe is due, looks at what is in memory whenever a request has left, but
    /// not all the time.
    async fn rest(&mut self, pause: Duration, scheduler: &Scheduler) {
        let state = Arc::clone(&self.instance.state);
        let due = tokio::time::sleep(pause);
        tokio::pin!(due);
        let mut wanted = false;
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = &mut due => return,
                () = state.probe_now.notified() => return,
                () = state.glance.notified(), if !wanted => wanted = true,
                () = tokio::time::sleep_until(next), if wanted => {
                    wanted = false;
                    self.glance(scheduler).await;
                    next = tokio::time::Instant::now() + GLANCES;
                }
            }
        }
    }

    /// Looks at what is in memory. What goes wrong is for the next probe to find.
    async fn glance(&self, scheduler: &Scheduler) {
        if self.streak.failures > 0 || !self.streak.up {
            return;
        }
        let Ok(Ok(resident)) = self.get("/api/ps").await.map(|body| models::parse_ollama(&body))
        else {
            return;
        };
        let lists = Arc::new(self.instance.status().lists.with_resident(resident));
        scheduler.learn(self.id(), &self.facts(true, &lists));
        self.instance.state.status.store(Arc::new(Status { up: true, lists }));
    }

    fn facts(&self, answered: bool, lists: &Lists) -> Facts {
        Facts {
            up: self.streak.up,
            answered,
            models: Arc::clone(&lists.models),
            remote: Arc::clone(&lists.remote),
            residents: Arc::clone(&lists.residents),
            sizes: Arc::clone(&lists.sizes),
            memory: Arc::clone(&lists.memory),
        }
    }

    /// Its probes succeed and requests are given to it; what was taken out comes back by a probe.
    fn all_is_well(&self, scheduler: &Scheduler) -> bool {
        self.streak.up && self.streak.failures == 0 && scheduler.is_trusted(self.id())
    }

    /// Probes now, and remembers in the instance what was found.
    pub async fn probe(&mut self) -> Facts {
        let before = self.instance.status();
        let found = self.look(&before.lists).await;
        let was_up = self.streak.up;
        self.streak.record(found.is_ok(), &self.health);
        self.report(was_up, &found);
        let answered = found.is_ok();
        let lists = found.map_or_else(|_| Arc::clone(&before.lists), Arc::new);
        let facts = self.facts(answered, &lists);
        self.instance.state.status.store(Arc::new(Status { up: self.streak.up, lists }));
        self.due = false;
        facts
    }

    fn report(&self, was_up: bool, found: &Result<Lists, ProbeError>) {
        let name = &self.instance.config.name;
        match (was_up, self.streak.up, found) {
            (false, true, Ok(lists)) => {
                let version = lists.version.as_deref().unwrap_or("of unknown version");
                log::info!("upstream {name} is up: {version}, {} models", lists.models.len());
            }
            (true, false, Err(error)) => log::warn!("upstream {name} is down: {error}"),
            (false, false, Err(error)) if self.streak.failures == 1 && !self.streak.ever => {
                log::warn!("upstream {name} does not answer yet: {error}");
            }
            _ => {}
        }
    }

    async fn look(&self, before: &Lists) -> Result<Lists, ProbeError> {
        if !self.instance.is_ollama() {
            let catalogue = models::parse_openai(&self.get("/v1/models").await?)?;
            let models = Arc::new(models::keys(&catalogue));
            return Ok(Lists {
                residents: Arc::clone(&models),
                models,
                catalogue,
                ..Lists::default()
            });
        }
        let (version, installed, resident) =
            tokio::join!(self.get("/api/version"), self.get("/api/tags"), self.get("/api/ps"));
        let version = parse_version(&version?)?;
        let installed = self.read_list("/api/tags", installed, &before.installed);
        let resident = self.read_list("/api/ps", resident, &before.resident);
        Ok(Lists {
            version: Some(version),
            remote: Arc::new(models::keys(installed.iter().filter(|it| it.name.is_cloud()))),
            models: Arc::new(models::keys(&installed)),
            sizes: Arc::new(models::sizes(&installed)),
            catalogue: models::catalogue_of(&installed),
            installed,
            ..Lists::default()
        }
        .with_resident(resident))
    }

    /// A list that cannot be read now is what it was before.
    fn read_list(
        &self,
        path: &str,
        answer: Result<Bytes, ProbeError>,
        before: &[Entry],
    ) -> Vec<Entry> {
        let read = answer.and_then(|body| Ok(models::parse_ollama(&body)?));
        read.unwrap_or_else(|error| {
            log::debug!("upstream {}: {path}: {error}", self.instance.config.name);
            before.to_vec()
        })
    }

    async fn get(&self, path: &str) -> Result<Bytes, ProbeError> {
        let mut request = self.client.get(format!("{}{path}", self.instance.base));
        request = request.timeout(self.health.timeout);
        if let Some(key) = &self.instance.config.api_key {
            request = request.bearer_auth(key.expose());
        }
        let mut response = request.send().await?;
        if !response.status().is_success() {
            return Err(ProbeError::Status(response.status()));
        }
        self.instance.found_at(response.remote_addr());
        let mut body = bytes::BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > LONGEST_LIST {
                return Err(ProbeError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

impl Streak {
    /// The first success brings an instance up at once: nobody should wait for a box that is
    /// just starting.
    fn record(&mut self, success: bool, health: &Health) {
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            self.up |= !self.ever || self.successes >= health.rise;
            self.ever = true;
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            self.up &= self.failures < health.fall;
        }
    }
}

fn parse_version(body: &[u8]) -> Result<String, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Answer {
        version: String,
    }
    Ok(serde_json::from_slice::<Answer>(body)?.version)
}

/// The innermost cause says what happened; what wraps it says only that sending failed.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_rises_at_its_first_success_and_later_after_some_in_a_row() {
        let ms = Duration::from_millis;
        let health = Health { interval: ms(2000), timeout: ms(1000), fall: 3, rise: 2 };
        let mut streak = Streak::default();
        let mut record = |success: bool| {
            streak.record(success, &health);
            streak.up
        };
        assert_eq!([false, true, false, false].map(&mut record), [false, true, true, true]);
        assert!(!record(false), "the third failure in a row takes it out");
        assert_eq!([true, false, true, true].map(&mut record), [false, false, false, true]);
    }
}
