//! An issuer's published keys, and where they come from.
//!
//! They are asked for from time to time, and when a token may be of a key that is not among them:
//! it names another one, or cannot be told to be of one of these because it or they have no name.
//! The latter at most twice a minute, whoever asks, and once for all who ask at the same time.
//! While the issuer is away its keys go on to be believed. Nobody follows it elsewhere, and nothing
//! large is read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::jwks::{self, PublicKey};
use crate::auth::Unavailable;
use crate::auth::jwt::{Token, TokenFault};
use crate::auth::tokens::Doubt;
use crate::config::NamedFile;

/// Between two looks at an issuer that answers.
const INTERVAL: Duration = Duration::from_secs(600);
/// Between two looks at one that does not, and at a file.
const SOON: Duration = Duration::from_secs(15);
/// Between two looks because of a key that may be new.
const FORCED: Duration = Duration::from_secs(30);
/// Longest time that an issuer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time that a request waits for an issuer.
const WAIT: Duration = Duration::from_secs(3);
/// Bytes of the largest set.
const LARGEST: usize = 256 * 1024;

/// The keys of one origin.
pub(in crate::auth) struct Keys {
    issuer: String,
    origin: Origin,
    held: ArcSwap<Held>,
    last: Mutex<Last>,
    /// Whether the last look found nothing.
    away: AtomicBool,
    kept_fresh: AtomicBool,
}

enum Origin {
    Url { url: String, client: Client },
    File(PathBuf),
}

/// What was found last.
#[derive(Default)]
struct Held {
    keys: Vec<PublicKey>,
    bytes: Vec<u8>,
    state: u64,
}

/// Why none of the keys held verifies a token.
struct Unverified {
    fault: TokenFault,
    /// Whether a key that is not held may be the one that does.
    may_be_new: bool,
}

/// The last look.
#[derive(Default)]
struct Last {
    /// When it was over.
    at: Option<Instant>,
    /// When it was over, if it was because of a key that may be new.
    forced: Option<Instant>,
}

impl Keys {
    /// The keys at this URL; those in `known` if they are of the same.
    pub(super) fn at_url(issuer: &str, url: &str, known: &[Arc<Self>]) -> io::Result<Arc<Self>> {
        let same = |keys: &&Arc<Self>| {
            keys.issuer == issuer
                && matches!(&keys.origin, Origin::Url { url: own, .. } if own == url)
        };
        if let Some(keys) = known.iter().find(same) {
            return Ok(Arc::clone(keys));
        }
        let client = Client::builder()
            .redirect(Policy::none())
            .https_only(true)
            .timeout(PATIENCE)
            .build()
            .map_err(io::Error::other)?;
        Ok(Self::new(issuer, Origin::Url { url: url.to_owned(), client }))
    }

    /// The keys in this file; those in `known` if they are of the same.
    pub(super) fn in_file(issuer: &str, path: &Path, known: &[Arc<Self>]) -> Arc<Self> {
        let same = |keys: &&Arc<Self>| {
            keys.issuer == issuer && matches!(&keys.origin, Origin::File(own) if own == path)
        };
        let found = known.iter().find(same).cloned();
        found.unwrap_or_else(|| Self::new(issuer, Origin::File(path.to_owned())))
    }

    /// Looks into a file of keys without keeping them.
    ///
    /// # Errors
    /// Why there is nothing in it to verify with, and where it is named.
    pub(in crate::auth) fn check(file: &NamedFile) -> Result<(), String> {
        let NamedFile { path, place } = file;
        let bytes = read(path).map_err(|trouble| format!("{place}: {trouble}"))?;
        let keys = jwks::read(&bytes);
        keys.map(drop).map_err(|bad| format!("{place}: {}: {bad}", path.display()))
    }

    fn new(issuer: &str, origin: Origin) -> Arc<Self> {
        Arc::new(Self {
            issuer: issuer.to_owned(),
            origin,
            held: ArcSwap::default(),
            last: Mutex::default(),
            away: AtomicBool::new(true),
            kept_fresh: AtomicBool::new(false),
        })
    }

    /// A number that changes with the keys.
    pub(super) fn state(&self) -> u64 {
        self.held.load().state
    }

    /// Looks at the origin from time to time, for as long as somebody else holds these keys. A
    /// second call changes nothing.
    pub(in crate::auth) fn keep_fresh(self: &Arc<Self>) {
        if self.kept_fresh.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(keys) = weak.upgrade() {
                keys.look(&mut *keys.last.lock().await).await;
                let url = matches!(keys.origin, Origin::Url { .. });
                let answers = !keys.away.load(Ordering::Relaxed);
                drop(keys);
                sleep(if url && answers { INTERVAL } else { SOON }).await;
            }
        });
    }

    /// Whether one of the keys signed the token. If it may be one that is not held, the origin is
    /// asked whether there are new ones.
    pub(super) async fn verify(self: &Arc<Self>, token: &Token<'_>) -> Result<(), Doubt> {
        match self.try_held(token) {
            Ok(()) => return Ok(()),
            Err(Unverified { fault, may_be_new: false }) => return Err(fault.into()),
            Err(_) => {}
        }
        // a task of its own: a client that leaves does not stop what others wait for
        let keys = Arc::clone(self);
        let looking = tokio::spawn(async move { keys.look_again().await });
        let _ = tokio::time::timeout(WAIT, looking).await;
        match self.try_held(token) {
            Ok(()) => Ok(()),
            Err(Unverified { may_be_new: true, .. }) if self.away.load(Ordering::Acquire) => {
                let text = format!("the keys of issuer {} cannot be had", self.issuer);
                Err(Doubt::Unavailable(Unavailable(text)))
            }
            Err(Unverified { fault, .. }) => Err(fault.into()),
        }
    }

    /// With the key that the token names and with those that have no name; with all if it names
    /// none. Only a key of that very name says for certain that no other one is meant.
    fn try_held(&self, token: &Token<'_>) -> Result<(), Unverified> {
        let held = self.held.load();
        let wanted = token.key_id();
        let is_meant = |key: &PublicKey| wanted.is_some() && key.name.as_deref() == wanted;
        let may_be = |key: &&PublicKey| wanted.is_none() || key.name.is_none() || is_meant(key);
        let candidates: Vec<&PublicKey> = held.keys.iter().filter(may_be).collect();
        let fits = |key: &&&PublicKey| key.algorithm == token.algorithm();
        let mut fitting = candidates.iter().filter(fits).peekable();
        let fault = match () {
            () if candidates.is_empty() => TokenFault::Key,
            () if fitting.peek().is_none() => TokenFault::Algorithm,
            () if fitting.any(|key| token.is_signed_by(&key.key)) => return Ok(()),
            () => TokenFault::Signature,
        };
        Err(Unverified { fault, may_be_new: !candidates.iter().any(|key| is_meant(key)) })
    }

    /// Looks at the origin because of a key that may be new, unless that was done just now.
    async fn look_again(&self) {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let meanwhile = last.at.is_some_and(|at| at >= asked);
        let lately = last.forced.is_some_and(|at| asked.saturating_duration_since(at) < FORCED);
        if !meanwhile && !lately {
            self.look(&mut last).await;
            last.forced = last.at;
        }
    }

    /// Looks at the origin; whoever does holds `last`.
    async fn look(&self, last: &mut Last) {
        let found = match self.fetch().await {
            Ok(bytes) => self.take(bytes),
            Err(trouble) => Err(trouble),
        };
        let was_away = self.away.swap(found.is_err(), Ordering::AcqRel);
        if let Err(trouble) = found {
            let first = last.at.is_none();
            if first || !was_away {
                log::warn!(
                    "issuer {}: {trouble}; {} keys go on to be believed",
                    self.issuer,
                    self.held.load().keys.len()
                );
            }
        }
        last.at = Some(Instant::now());
    }

    /// Puts another set in place of the one held.
    fn take(&self, bytes: Vec<u8>) -> Result<(), String> {
        let held = self.held.load();
        if held.state > 0 && held.bytes == bytes {
            return Ok(());
        }
        let keys = jwks::read(&bytes).map_err(|bad| bad.to_string())?;
        log::info!("issuer {}: {} keys", self.issuer, keys.len());
        self.held.store(Arc::new(Held { keys, bytes, state: held.state + 1 }));
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        match &self.origin {
            Origin::File(path) => {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || read(&path));
                reading.await.map_err(|error| error.to_string())?
            }
            Origin::Url { url, client } => download(client, url).await,
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let calm = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(calm)?;
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(calm)?;
    if bytes.len() > LARGEST { Err(too_large()) } else { Ok(bytes) }
}

async fn download(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let mut response = client.get(url).send().await.map_err(|error| innermost(&error))?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(format!("its keys are answered with {status}"));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| innermost(&error))? {
        if bytes.len() + chunk.len() > LARGEST {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large() -> String {
    format!("its keys are larger than {LARGEST} bytes")
}

/// What went wrong, without the URL, which an operator may have put a token into.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if cause.is::<reqwest::Error>() {
        return "its keys cannot be had".to_owned();
    }
    format!("its keys cannot be had: {cause}")
}

#[cfg(test)]
mod tests;
