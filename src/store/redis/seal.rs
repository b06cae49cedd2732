//! Seals: what makes an entry in Redis ours.
//!
//! Whoever can write to Redis must not become anybody, so Redis is believed nothing. An entry is
//! sealed with a key that only gateways have, over its own name, a version, the moments between
//! which it holds by *our* clock, and the revision of the database that it was read at. An entry
//! that was changed, moved to another name, cut short or kept too long opens for nobody, and is
//! then as good as absent. Time is an argument here.

use jiff::Timestamp;
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::hmac;

use crate::config::Secret;

/// The form of an entry; one of another form opens for nobody.
const VERSION: u8 = 1;
/// HMAC-SHA-256, whole, behind what it covers.
const TAG: usize = 32;
/// How far apart the clocks of two gateways may be, in milliseconds.
const SKEW: i64 = 5_000;

/// The keys of a cluster, all derived from one secret that only its gateways have.
pub(super) struct Keys {
    seal: hmac::Key,
    name: hmac::Key,
    prefix: String,
}

/// What an entry says of itself, besides what was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Since when it holds.
    pub issued: Timestamp,
    /// Until when it holds, in milliseconds from then.
    pub life: u32,
    /// The revision that the database had reached at least when it was read.
    pub revision: i64,
}

/// Why an entry is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// Not sealed by a gateway of this cluster, not under this name, or changed since.
    #[error("not sealed by this cluster")]
    Forged,
    /// From the future, or past its end.
    #[error("out of its time")]
    Untimely,
}

impl Keys {
    /// Derives a cluster's keys from its secret and its database (HKDF-SHA-256, RFC 5869).
    pub(super) fn derive(secret: &Secret, origin: &str) -> Option<Self> {
        let salt = Salt::new(HKDF_SHA256, b"usher redis 2");
        let root = salt.extract(secret.expose().as_bytes());
        let key = |purpose: &[u8]| key(&root, &[purpose, b":", origin.as_bytes()]);
        let own = hmac::sign(&key(b"cluster")?, b"");
        let own: String = hex(own.as_ref()).chars().take(8).collect();
        Some(Self {
            seal: key(b"seal")?,
            name: key(b"name")?,
            // two clusters may use one server, or two databases one secret, and never meet
            prefix: format!("usher:1:{own}:"),
        })
    }

    /// The name of a channel, or of an entry that there is one of.
    pub(super) fn name(&self, kind: &str) -> String {
        format!("{}{kind}", self.prefix)
    }

    /// The name of the entry about `what`, which nobody learns from the name.
    pub(super) fn name_of(&self, kind: &str, what: &[u8]) -> String {
        let mut digest = hmac::Context::with_key(&self.name);
        digest.update(kind.as_bytes());
        digest.update(b":");
        digest.update(what);
        format!("{}{kind}:{}", self.prefix, hex(digest.sign().as_ref()))
    }

    /// Seals `content` under the name that it will be found by.
    pub(super) fn seal(&self, name: &str, terms: &Terms, content: &[u8]) -> Vec<u8> {
        let mut entry = vec![VERSION];
        entry.extend(terms.issued.as_millisecond().to_be_bytes());
        entry.extend(terms.life.to_be_bytes());
        entry.extend(terms.revision.to_be_bytes());
        entry.extend(content);
        let tag = hmac::sign(&self.seal, &covered(name, &entry));
        entry.extend(tag.as_ref());
        entry
    }

    /// What was sealed under this name, if it holds now.
    ///
    /// # Errors
    /// It was not sealed by this cluster for this name, or it does not hold now.
    pub(super) fn open<'e>(
        &self,
        name: &str,
        entry: &'e [u8],
        now: Timestamp,
    ) -> Result<(Terms, &'e [u8]), Broken> {
        let (sealed, tag) = entry.split_last_chunk::<TAG>().ok_or(Broken::Forged)?;
        hmac::verify(&self.seal, &covered(name, sealed), tag).map_err(|_| Broken::Forged)?;
        let (terms, content) = read(sealed).ok_or(Broken::Forged)?;
        let age = now.as_millisecond().saturating_sub(terms.issued.as_millisecond());
        if age < -SKEW || age >= i64::from(terms.life) {
            return Err(Broken::Untimely);
        }
        Ok((terms, content))
    }
}

/// What a tag covers: the name, whose length keeps it apart from what follows, and the rest.
fn covered(name: &str, sealed: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(8 + name.len() + sealed.len());
    all.extend((name.len() as u64).to_be_bytes());
    all.extend(name.as_bytes());
    all.extend(sealed);
    all
}

fn read(sealed: &[u8]) -> Option<(Terms, &[u8])> {
    let rest = sealed.strip_prefix(&[VERSION])?;
    let (issued, rest) = rest.split_first_chunk()?;
    let (life, rest) = rest.split_first_chunk()?;
    let (revision, content) = rest.split_first_chunk()?;
    let terms = Terms {
        issued: Timestamp::from_millisecond(i64::from_be_bytes(*issued)).ok()?,
        life: u32::from_be_bytes(*life),
        revision: i64::from_be_bytes(*revision),
    };
    Some((terms, content))
}

/// One key for each purpose; `None` never comes to be, for the length is the algorithm's own.
fn key(root: &Prk, purpose: &[&[u8]]) -> Option<hmac::Key> {
    root.expand(purpose, hmac::HMAC_SHA256).ok().map(hmac::Key::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
