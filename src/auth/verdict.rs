//! Whose key is it? The store's answers, remembered.
//!
//! Only identity is remembered, never a decision: expiry, revocation and disabled users are
//! judged at each request. An answer belongs to an *epoch*, which ends when users or keys change;
//! it is noted before the store is asked, so an answer that was on its way during a change is
//! of the old epoch and serves nobody who came after.

mod acquaintance;
mod lookup;
mod watching;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::acquaintance::Acquaintance;
use self::lookup::{Answer, Lookups};
use self::watching::Reached;
use super::api_key::{Shape, classify};
use super::credential::{self, Credential, PathKey, Text};
use super::jwt::{TokenFault, looks_like_one};
use super::signature::{self, SignatureFault, Signed};
use super::tokens::{Doubt, Tokens};
use super::{
    AuthError, Holder, Identity, IdentityStore, KeyFault, KeyHash, Method, Peers, Principal, Token,
    Unavailable,
};
use crate::config::Auth;

/// Keeps a caller with a wrong key from asking the database again and again; a key that is
/// created ends the epoch anyway.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// How much is remembered, and for how long.
#[derive(Clone)]
pub struct Options {
    /// How long known identities are served while the store does not answer.
    pub max_stale: Duration,
    /// Identities remembered.
    pub known: u64,
    /// Credentials remembered to be nobody's, for 2 seconds each.
    pub unknown: u64,
    /// Lookups that the store works on at once.
    pub lookups: usize,
    /// Lookups under way, waiting ones included; more are refused.
    pub pending: usize,
    /// Longest time that a lookup takes, waiting included.
    pub lookup_timeout: Duration,
    /// Where lookups run: they outlive the requests that ask for them.
    pub runtime: Handle,
    /// The other gateways, if there are any.
    pub peers: Option<Arc<dyn Peers>>,
}

impl Options {
    /// The usual measures. An identity takes about half a KiB of memory.
    pub fn new(max_stale: Duration, runtime: Handle) -> Self {
        Self {
            max_stale,
            known: 100_000,
            unknown: 10_000,
            lookups: 32,
            pending: 1024,
            lookup_timeout: Duration::from_secs(2),
            runtime,
            peers: None,
        }
    }
}

/// A request, as far as it can say who is asking.
#[derive(Clone, Copy)]
pub struct Asking<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// The key that stood in its path.
    pub path_key: Option<&'r PathKey>,
    /// What a signature is of.
    pub signed: Signed<'r>,
    /// The configuration in force.
    pub config: &'r Auth,
    /// The tokens that are believed by it.
    pub tokens: &'r Tokens,
    /// When it came.
    pub now: Timestamp,
    /// Where it came from.
    pub from: IpAddr,
    /// Who came last on the same connection.
    pub last: Option<&'r Acquaintance>,
}

/// Tells who is asking.
pub struct Authenticator {
    store: Arc<dyn IdentityStore>,
    lookups: Arc<Lookups>,
    known: Cache<Holder, Known>,
    unknown: Cache<Holder, Remembered<()>>,
    epoch: AtomicU64,
    /// Milliseconds from `born` to when the store last confirmed the epoch.
    confirmed: AtomicU64,
    born: Instant,
    max_stale: Duration,
    recalled: AtomicU64,
    recalled_unknown: AtomicU64,
    looked_up: AtomicU64,
    silent: AtomicBool,
    peers: Option<Arc<dyn Peers>>,
    reached: Mutex<Reached>,
    /// Wakes the watch: a change was made here, which the others are to hear of.
    changed: Notify,
}

/// Who has answered how many questions about keys so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The memory of known keys.
    pub known: u64,
    /// The memory of hashes that are nobody's.
    pub unknown: u64,
    /// The store, whether or not it did answer.
    pub store: u64,
}

type Epoch = u64;

#[derive(Clone)]
struct Remembered<T> {
    what: T,
    epoch: Epoch,
    asked: Instant,
}

/// Somebody, as the store knew them.
type Known = Remembered<Arc<Identity>>;

impl Authenticator {
    /// Asks this store, and remembers what it says.
    pub fn new(store: Arc<dyn IdentityStore>, options: &Options) -> Self {
        Self {
            lookups: Arc::new(Lookups::new(Arc::clone(&store), options)),
            store,
            known: Cache::new(options.known),
            unknown: Cache::new(options.unknown),
            epoch: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            born: Instant::now(),
            max_stale: options.max_stale,
            recalled: AtomicU64::new(0),
            recalled_unknown: AtomicU64::new(0),
            looked_up: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            peers: options.peers.clone(),
            reached: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Who has answered how many questions so far.
    pub fn asked(&self) -> Asked {
        Asked {
            known: self.recalled.load(Ordering::Relaxed),
            unknown: self.recalled_unknown.load(Ordering::Relaxed),
            store: self.looked_up.load(Ordering::Relaxed),
        }
    }

    /// Whether the store did not answer when it was last looked at.
    pub fn is_without_store(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Finds out who is asking, by the first credential that resolves. `last` is who came last on
    /// the same connection.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] if one of the credentials could have resolved had the store
    /// answered; else the fault of the first.
    pub async fn authenticate(&self, asking: Asking<'_>) -> Result<Principal, AuthError> {
        let Asking { headers, path_key, config, .. } = asking;
        let mut refusal = AuthError::Missing;
        for credential in
            credential::presented(headers, &config.api_key_header, path_key.map(PathKey::expose))?
        {
            refusal = match (self.resolve(credential, &asking).await, refusal) {
                (Ok(principal), _) => return Ok(principal),
                (Err(fault), AuthError::Missing) => fault,
                (Err(fault @ AuthError::Unavailable(_)), _) => fault,
                (Err(_), first) => first,
            };
        }
        Err(refusal)
    }

    async fn resolve(
        &self,
        credential: Credential<'_>,
        asking: &Asking<'_>,
    ) -> Result<Principal, AuthError> {
        match credential {
            Credential::ApiKey(text) => self.key(&text, asking).await,
            Credential::Bearer(text) if looks_like_one(text.expose()) => {
                self.token(&text, asking).await
            }
            Credential::Bearer(text) => self.key(&text, asking).await,
            Credential::Signature(text) => self.signature(&text, asking).await,
            Credential::Unreadable => {
                Err(AuthError::InvalidKey { reason: KeyFault::Malformed, public_id: None })
            }
        }
    }

    async fn key(&self, text: &Text<'_>, asking: &Asking<'_>) -> Result<Principal, AuthError> {
        let key = text.expose();
        let known = self.holder_of(key, asking).await?;
        let judge = |known: Known| judge(known.what, asking.now);
        match known.ok_or(KeyFault::Unknown).and_then(judge) {
            Ok(identity) => Ok(Principal { identity, method: Method::ApiKey, token: None }),
            Err(reason) => {
                let public_id = classify(key).ok().and_then(Shape::public_id).map(str::to_owned);
                Err(AuthError::InvalidKey { reason, public_id })
            }
        }
    }

    /// Whose this key is: asked only if it is not who came last on the connection.
    async fn holder_of(&self, key: &str, asking: &Asking<'_>) -> Result<Option<Known>, AuthError> {
        let last = asking.last;
        if let Some(known) = last.and_then(|last| self.same_as_last(last, key)) {
            return Ok(Some(known));
        }
        classify(key).map_err(|reason| AuthError::InvalidKey { reason, public_id: None })?;
        let known = self.identity(&Holder::Key(KeyHash::of(key.as_bytes())), asking.from).await?;
        if let (Some(last), Some(known)) = (last, &known) {
            last.remember(key, known.clone());
        }
        Ok(known)
    }

    /// Whose this key is, if it is who came last and nothing has changed since.
    fn same_as_last(&self, last: &Acquaintance, key: &str) -> Option<Known> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let known = last.holder(key).filter(|known| known.epoch == epoch)?;
        if !self.is_fresh(&known, Instant::now()) {
            return None;
        }
        self.recalled.fetch_add(1, Ordering::Relaxed);
        Some(known)
    }

    /// A token, or what an earlier system issued as a key and looks like one.
    async fn token(&self, text: &Text<'_>, asking: &Asking<'_>) -> Result<Principal, AuthError> {
        let fault = match self.bearer(text, asking).await {
            Err(AuthError::InvalidToken { reason, .. }) if !reason.is_of_a_true_token() => {
                AuthError::from(reason)
            }
            done => return done,
        };
        match classify(text.expose()) {
            Ok(Shape::Foreign) => self.key(text, asking).await.map_err(|other| match other {
                AuthError::InvalidKey { reason: KeyFault::Unknown, .. } => fault,
                other => other,
            }),
            _ => Err(fault),
        }
    }

    async fn bearer(&self, text: &Text<'_>, asking: &Asking<'_>) -> Result<Principal, AuthError> {
        let tokens = asking.tokens;
        let checked =
            tokens.check(text.expose(), asking.now).await.map_err(|doubt| match doubt {
                Doubt::Fault(fault) => AuthError::from(fault),
                Doubt::Unavailable(unavailable) => unavailable.into(),
            })?;
        let tier = tokens.tier(&checked)?;
        let found = self.identity(&checked.holder, asking.from).await?;
        let identity = found.ok_or(TokenFault::Ended)?.what;
        let user = &identity.user;
        let fault = match () {
            () if user.disabled => Some(TokenFault::UserDisabled),
            () if checked.version.is_some_and(|made_for| made_for != user.token_version) => {
                Some(TokenFault::Outdated)
            }
            () => None,
        };
        if let Some(reason) = fault {
            return Err(AuthError::InvalidToken { reason, user_id: Some(user.id) });
        }
        let id = match &checked.holder {
            Holder::Token { id, .. } => Arc::clone(id),
            Holder::Subject(subject) => Arc::clone(&subject.token),
            Holder::Key(_) | Holder::PublicKey(_) => return Err(TokenFault::Malformed.into()),
        };
        let token = Token { id, expires_at: tokens.end_of(&checked), tier };
        Ok(Principal { identity, method: Method::Jwt, token: Some(token) })
    }

    async fn signature(
        &self,
        text: &Text<'_>,
        asking: &Asking<'_>,
    ) -> Result<Principal, AuthError> {
        // the signature first: whoever has not made it learns nothing of who is registered
        let public = signature::check(text.expose(), &asking.signed, asking.now)?;
        let found = self.identity(&Holder::PublicKey(public.into()), asking.from).await?;
        let identity = found.ok_or(SignatureFault::Unknown)?.what;
        let user = &identity.user;
        let fault = match () {
            () if user.disabled => Some(SignatureFault::UserDisabled),
            () if !user.has_own_tier() => Some(SignatureFault::TierUnknown),
            () => None,
        };
        if let Some(reason) = fault {
            return Err(AuthError::InvalidSignature { reason, user_id: Some(user.id) });
        }
        Ok(Principal { identity, method: Method::Signature, token: None })
    }

    async fn identity(&self, holder: &Holder, from: IpAddr) -> Result<Option<Known>, Unavailable> {
        let (epoch, asked) = (self.epoch.load(Ordering::Acquire), Instant::now());
        if let Some(answer) = self.recall(holder, epoch, asked) {
            let kept = if answer.is_some() { &self.recalled } else { &self.recalled_unknown };
            kept.fetch_add(1, Ordering::Relaxed);
            return Ok(answer);
        }
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        let shared = self.shared_revision(epoch, asked);
        let answer = self.lookups.ask((holder.clone(), epoch), shared, from).await?;
        Ok(match answer {
            Answer::Nobody => {
                self.unknown.insert(holder.clone(), Remembered { what: (), epoch, asked });
                None
            }
            Answer::Somebody { identity: what, by_peer } => {
                // a peer's is as true as the revision that it belongs to, when that was read
                let asked = if by_peer { self.confirmed() } else { asked };
                let known = Remembered { what, epoch, asked };
                self.known.insert(holder.clone(), known.clone());
                Some(known)
            }
        })
    }

    fn recall(&self, holder: &Holder, epoch: Epoch, now: Instant) -> Option<Option<Known>> {
        if let Some(known) = self.known.get(holder)
            && known.epoch == epoch
            && self.is_fresh(&known, now)
        {
            return Some(Some(known));
        }
        let unknown = self.unknown.get(holder)?;
        let brief = now.saturating_duration_since(unknown.asked) <= UNKNOWN_FOR;
        (unknown.epoch == epoch && brief).then_some(None)
    }

    /// Whether the store confirmed this, by its answer or by a revision after it, lately enough.
    fn is_fresh<T>(&self, known: &Remembered<T>, now: Instant) -> bool {
        now.saturating_duration_since(self.confirmed().max(known.asked)) <= self.max_stale
    }

    /// When the store last confirmed the epoch.
    fn confirmed(&self) -> Instant {
        self.born + Duration::from_millis(self.confirmed.load(Ordering::Acquire))
    }

    fn age(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_millis();
        u64::try_from(age).unwrap_or(u64::MAX)
    }
}

/// Judges a known identity, at every request.
fn judge(identity: Arc<Identity>, now: Timestamp) -> Result<Arc<Identity>, KeyFault> {
    if let Some(key) = &identity.key {
        // at once, even if the clock that wrote `revoked_at` is ahead of ours
        if key.revoked_at.is_some() {
            return Err(KeyFault::Revoked);
        }
        if key.expires_at.is_some_and(|end| end <= now) {
            return Err(KeyFault::Expired);
        }
    }
    if identity.user.disabled {
        return Err(KeyFault::UserDisabled);
    }
    if !identity.user.has_own_tier() {
        return Err(KeyFault::TierUnknown);
    }
    Ok(identity)
}

#[cfg(test)]
mod tests;
