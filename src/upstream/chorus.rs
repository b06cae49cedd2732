//! The same act on several instances at once: what each of them says, and what that is together.
//!
//! [`Chorus`] asks them and hears them, [`progress`] makes one report of what they say on the way,
//! [`verdict`] one outcome of theirs. Dropping a [`Chorus`] hangs up on all of them, which is how
//! Ollama learns to stop.

mod asking;
pub mod piped;
pub mod progress;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use reqwest::{Body, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Instance;
use asking::ask;
use progress::Report;

/// What is said and not heard yet: whoever says more waits.
const UNHEARD: usize = 64;

/// What all of them are asked to do.
pub struct Act {
    /// As the client sent it.
    pub method: Method,
    /// The table's own path.
    pub path: String,
    /// What of the client's headers passes.
    pub headers: HeaderMap,
}

/// What one of them says.
pub enum News {
    /// It does what was asked.
    Begun,
    /// How far it has come.
    Said(Report),
    /// It is done, with this status, or has failed.
    Over(Outcome),
}

/// What came of it on one of them, or on all together.
pub type Outcome = Result<u16, Failure>;

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The instance's own no; none if it could not be had.
    pub status: Option<u16>,
    /// What people read.
    pub words: String,
}

impl Failure {
    pub(super) fn ours(words: &str) -> Self {
        Self { status: None, words: words.to_owned() }
    }

    /// Nothing was heard for too long.
    pub fn late() -> Self {
        Self::ours("did not answer in time")
    }
}

/// Instances at work on the same act.
pub struct Chorus {
    news: mpsc::Receiver<(usize, News)>,
    // dropped with it: their connections close
    _asking: JoinSet<()>,
}

impl Chorus {
    /// Asks all of them, each with a body of its own.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn start(
        instances: &[Arc<Instance>],
        act: &Act,
        bodies: Vec<Body>,
        connect: Duration,
    ) -> Result<Self, reqwest::Error> {
        // one of its own: a connection out of a pool may be closed already, and what changes models
        // is not sent twice
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.connect_timeout(connect).build()?;
        let (say, news) = mpsc::channel(UNHEARD);
        let mut asking = JoinSet::new();
        for (number, (instance, body)) in instances.iter().zip(bodies).enumerate() {
            let url = format!("{}{}", instance.base, act.path);
            let mut request = client.request(act.method.clone(), url);
            request = request.headers(act.headers.clone()).body(body);
            if let Some(key) = &instance.config.api_key {
                request = request.bearer_auth(key.expose());
            }
            let say = say.clone();
            asking.spawn(async move {
                let outcome = ask(request, number, &say).await;
                // whoever listened may have left
                let _ = say.send((number, News::Over(outcome))).await;
            });
        }
        Ok(Self { news, _asking: asking })
    }

    /// Who says something, and what; nothing once all are done.
    pub async fn next(&mut self) -> Option<(usize, News)> {
        self.news.recv().await
    }
}

/// One outcome of many. Where `passes_over` is set, an instance that does not have the model is no
/// failure as long as another one has it.
pub fn verdict(names: &[&str], outcomes: &[Outcome], passes_over: bool) -> Outcome {
    let done = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).max().copied();
    let missing = |failure: &Failure| failure.status == Some(404) && passes_over && done.is_some();
    let failed: Vec<(&str, &Failure)> = names
        .iter()
        .zip(outcomes)
        .filter_map(|(name, outcome)| Some((*name, outcome.as_ref().err()?)))
        .filter(|(_, failure)| !missing(failure))
        .collect();
    let Some((_, first)) = failed.first() else { return Ok(done.unwrap_or(200)) };
    if done.is_none() && failed.iter().all(|(_, failure)| failure == first) && failed.len() > 1 {
        // all of one mind: as if there were one
        return Err((*first).clone());
    }
    let same = failed.iter().all(|(_, failure)| failure.status == first.status);
    let status = first.status.filter(|_| done.is_none() && same);
    let mut words = String::new();
    for (name, failure) in &failed {
        let comma = if words.is_empty() { "Failed on" } else { ", on" };
        // writing into memory cannot fail
        let _ = write!(words, "{comma} {name} ({})", failure.words);
    }
    let rest = names.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
    let rest: Vec<&str> = rest.map(|(name, _)| *name).collect();
    if !rest.is_empty() {
        let _ = write!(words, "; done on {}", rest.join(", "));
    }
    Err(Failure { status, words })
}

/// The body that all get alike.
pub fn alike(body: &Bytes, instances: usize) -> Vec<Body> {
    (0..instances).map(|_| Body::from(body.clone())).collect()
}

#[cfg(test)]
mod tests;
