//! Which tokens are believed, by the configuration in force: ours and those of other issuers.
//!
//! A token whose signature was checked is remembered under the SHA-256 of the whole of it, so that
//! the next request with it costs no signature. Only what it says is remembered, never what may be
//! done with it: time, user, role and logout are judged at each request. A new configuration
//! begins with an empty memory, and an issuer that publishes other keys ends what it held of that
//! issuer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::Expiry;
use moka::sync::Cache;
use ring::digest;

use super::issuer::{Issuer, Keys};
use super::jwt::local::{self, BadSecret, Local};
use super::jwt::{LONGEST, Token, TokenFault};
use super::{Holder, Subject, Unavailable};
use crate::config::Auth;

/// Tokens remembered; each takes about half a KiB.
const REMEMBERED: u64 = 100_000;

/// Seconds by which the clock of whoever made a token may be ahead of ours, whatever the leeway.
const AHEAD: i64 = 30;

/// Everything that is known about tokens.
pub struct Tokens {
    local: Local,
    issuers: Vec<Issuer>,
    /// Seconds that clocks may be wrong.
    leeway: i64,
    checked: Cache<[u8; 32], Arc<Checked>>,
}

/// A token whose signature and form were checked. Its time is judged by whoever asks.
pub(super) struct Checked {
    /// Whom it speaks of.
    pub holder: Holder,
    /// Refused from this second on.
    pub expires: i64,
    not_before: Option<i64>,
    /// The version of the user that one of ours was made for.
    pub version: Option<i64>,
    /// Which of the issuers made it, and in which state of its keys.
    issuer: Option<(usize, u64)>,
    /// What another issuer says its user is.
    role: Option<String>,
    /// How long it is worth remembering.
    lives: Duration,
}

/// Why a token is not believed.
#[derive(Debug)]
pub(super) enum Doubt {
    /// It is wrong.
    Fault(TokenFault),
    /// Its issuer's keys are not known now.
    Unavailable(Unavailable),
}

impl From<TokenFault> for Doubt {
    fn from(fault: TokenFault) -> Self {
        Self::Fault(fault)
    }
}

/// Why no token can be made or believed.
#[derive(Debug, thiserror::Error)]
pub enum CannotLoad {
    /// The secrets are not right: every one of them that is not.
    #[error("{}", lines(.0))]
    Secrets(Vec<BadSecret>),
    /// There is no way to ask issuers for their keys.
    #[error("cannot prepare to ask issuers for their keys: {0}")]
    Client(io::Error),
}

fn lines(bad: &[BadSecret]) -> String {
    bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Everything that is wrong with the secrets and the files of keys that a configuration names. A
/// secret that `usher init` is still to make is no mistake.
pub fn check(config: &Auth) -> Vec<String> {
    let bad = local::check(config).into_iter();
    let bad = bad.filter(|bad| !matches!(bad, BadSecret::Missing(_)));
    let files = config.issuers.iter().filter_map(|issuer| issuer.jwks_file.as_ref());
    bad.map(|bad| bad.to_string()).chain(files.filter_map(|file| Keys::check(file).err())).collect()
}

impl Tokens {
    /// Reads the secrets. The keys of issuers that `before` had are taken over as they are.
    ///
    /// # Errors
    /// [`CannotLoad`]
    pub fn load(config: &Auth, before: Option<&Self>) -> Result<Self, CannotLoad> {
        let bad = local::check(config);
        if !bad.is_empty() {
            return Err(CannotLoad::Secrets(bad));
        }
        let local = Local::load(&config.jwt).map_err(CannotLoad::Secrets)?;
        let known: Vec<Arc<Keys>> = before
            .iter()
            .flat_map(|it| it.issuers.iter().flat_map(Issuer::keys))
            .cloned()
            .collect();
        let issuers = config.issuers.iter().map(|issuer| Issuer::new(issuer, &known));
        Ok(Self {
            local,
            issuers: issuers.collect::<Result<_, _>>().map_err(CannotLoad::Client)?,
            leeway: i64::try_from(config.jwt.leeway.as_secs()).unwrap_or_default(),
            checked: Cache::builder().max_capacity(REMEMBERED).expire_after(UntilItsEnd).build(),
        })
    }

    /// What makes tokens.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Asks the issuers for their keys, now and from time to time, on the runtime that this is
    /// called on, for as long as a configuration has them.
    pub fn keep_fresh(&self) {
        self.issuers.iter().flat_map(Issuer::keys).for_each(Keys::keep_fresh);
    }

    /// What a token says, if it can be believed.
    pub(super) async fn check(&self, text: &str, now: Timestamp) -> Result<Arc<Checked>, Doubt> {
        if text.len() > LONGEST {
            return Err(TokenFault::Malformed.into());
        }
        let name = sha256(text.as_bytes());
        let kept = self.checked.get(&name).filter(|kept| self.is_current(kept));
        let checked = match kept {
            Some(kept) => kept,
            None => {
                let checked = Arc::new(self.verify(&Token::parse(text)?, now).await?);
                self.judge(&checked, now)?;
                self.checked.insert(name, Arc::clone(&checked));
                checked
            }
        };
        self.judge(&checked, now)?;
        Ok(checked)
    }

    /// The tier that the mapping gives to another issuer's token.
    pub(super) fn tier(&self, checked: &Checked) -> Result<Option<Arc<str>>, TokenFault> {
        let Some((number, _)) = checked.issuer else { return Ok(None) };
        let issuer = self.issuers.get(number).ok_or(TokenFault::Issuer)?;
        issuer.tier(checked.role.as_deref()).map(Some)
    }

    /// When it ends, clocks considered.
    pub(super) fn end_of(&self, checked: &Checked) -> Timestamp {
        let end = checked.expires.saturating_add(self.leeway);
        Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
    }

    fn is_current(&self, kept: &Checked) -> bool {
        kept.issuer.is_none_or(|(number, state)| {
            self.issuers.get(number).is_some_and(|issuer| issuer.state() == state)
        })
    }

    fn judge(&self, checked: &Checked, now: Timestamp) -> Result<(), TokenFault> {
        if now >= self.end_of(checked) {
            return Err(TokenFault::Expired);
        }
        let begin = checked.not_before.map(|begin| begin.saturating_sub(self.leeway));
        if begin.is_some_and(|begin| now.as_second() < begin) {
            return Err(TokenFault::NotYet);
        }
        Ok(())
    }

    async fn verify(&self, token: &Token<'_>, now: Timestamp) -> Result<Checked, Doubt> {
        let claimed = token.issuer()?;
        let checked = if self.local.is(claimed) {
            let said = self.local.check(token)?;
            Checked {
                holder: Holder::Token { user: said.user, id: said.id },
                expires: said.expires,
                not_before: said.not_before,
                version: Some(said.version),
                issuer: None,
                role: None,
                lives: Duration::ZERO,
            }
        } else {
            let number = self.issuers.iter().position(|issuer| issuer.is(claimed));
            let number = number.ok_or(TokenFault::Issuer)?;
            self.verify_foreign(number, token, now).await?
        };
        // remembered or not: what was made before now stays so
        let issued = token.optional_moment("iat")?;
        if issued.is_some_and(|at| at > now.as_second().saturating_add(self.ahead())) {
            return Err(TokenFault::NotYet.into());
        }
        let lives = checked.expires.saturating_add(self.leeway).saturating_sub(now.as_second());
        Ok(Checked { lives: Duration::from_secs(lives.try_into().unwrap_or_default()), ..checked })
    }

    /// Seconds by which others' clocks may be ahead.
    fn ahead(&self) -> i64 {
        self.leeway.max(AHEAD)
    }

    async fn verify_foreign(
        &self,
        number: usize,
        token: &Token<'_>,
        now: Timestamp,
    ) -> Result<Checked, Doubt> {
        let issuer = self.issuers.get(number).ok_or(TokenFault::Issuer)?;
        // before the keys are looked at: an answer is never of newer keys than it says
        let state = issuer.state();
        let said = issuer.check(token).await?;
        let longest = issuer.longest_life().saturating_add(self.ahead());
        if said.expires.saturating_sub(now.as_second()) > longest {
            return Err(TokenFault::Lifetime.into());
        }
        let subject = Subject {
            issuer: issuer.claim().to_owned(),
            issuer_name: issuer.name().to_owned(),
            subject: said.subject,
            email: said.email,
            tier: issuer.tier(said.role.as_deref())?,
            token: ended_as(token).into(),
        };
        Ok(Checked {
            holder: Holder::Subject(Arc::new(subject)),
            expires: said.expires,
            not_before: said.not_before,
            version: None,
            issuer: Some((number, state)),
            role: said.role,
            lives: Duration::ZERO,
        })
    }
}

/// What the logout of another issuer's token is written down as: its id need not be unique, and
/// there is more than one way to write some signatures, but one way to write what is signed.
fn ended_as(token: &Token<'_>) -> String {
    let hash = sha256(token.signed().as_bytes());
    let hex = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{hex}")
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // SHA-256 gives exactly as many bytes as there are places
    hash.iter_mut()
        .zip(digest::digest(&digest::SHA256, bytes).as_ref())
        .for_each(|(place, byte)| *place = *byte);
    hash
}

/// Nothing is remembered beyond its own end.
struct UntilItsEnd;

impl Expiry<[u8; 32], Arc<Checked>> for UntilItsEnd {
    fn expire_after_create(
        &self,
        _: &[u8; 32],
        checked: &Arc<Checked>,
        _: Instant,
    ) -> Option<Duration> {
        Some(checked.lives)
    }
}

#[cfg(test)]
mod tests;
