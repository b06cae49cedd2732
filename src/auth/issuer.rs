//! Tokens that others make: verified with shared secrets or published keys, or both while an issuer
//! moves from one to the other.

mod jwks;
mod keys;

use std::io;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::jwt::{Token, TokenFault};
use super::tokens::Doubt;
use crate::config;

pub(super) use keys::Keys;

/// Bytes of the longest address that is kept.
const LONGEST_EMAIL: usize = 254;

/// Somebody else who makes tokens.
pub(super) struct Issuer {
    config: config::Issuer,
    secrets: Vec<DecodingKey>,
    published: Vec<Arc<Keys>>,
}

/// What another issuer's token says, its signature and claims checked.
pub(super) struct Said {
    pub subject: String,
    pub email: Option<String>,
    pub role: Option<String>,
    pub expires: i64,
    pub not_before: Option<i64>,
}

impl Issuer {
    /// Makes ready to verify; what is in `known` already is not asked for again.
    pub(super) fn new(config: &config::Issuer, known: &[Arc<Keys>]) -> io::Result<Self> {
        let url = config.jwks_url.as_deref().map(|url| Keys::at_url(&config.name, url, known));
        let file = config.jwks_file.as_ref();
        let file = file.map(|file| Ok(Keys::in_file(&config.name, &file.path, known)));
        let secret = |(secret, _): &(config::Secret, config::Place)| {
            DecodingKey::from_secret(secret.expose().as_bytes())
        };
        Ok(Self {
            secrets: config.secrets.iter().map(secret).collect(),
            published: url.into_iter().chain(file).collect::<io::Result<_>>()?,
            config: config.clone(),
        })
    }

    /// Whether it is who a token claims to be from.
    pub(super) fn is(&self, claim: &str) -> bool {
        self.config.issuer == claim
    }

    pub(super) fn claim(&self) -> &str {
        &self.config.issuer
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Seconds that its tokens may be good for.
    pub(super) fn longest_life(&self) -> i64 {
        i64::try_from(self.config.max_lifetime.as_secs()).unwrap_or(i64::MAX)
    }

    pub(super) fn keys(&self) -> &[Arc<Keys>] {
        &self.published
    }

    /// A number that changes with its published keys.
    pub(super) fn state(&self) -> u64 {
        self.published.iter().map(|keys| keys.state()).sum()
    }

    /// Checks signature and claims.
    pub(super) async fn check(&self, token: &Token<'_>) -> Result<Said, Doubt> {
        match token.algorithm() {
            Algorithm::HS256 => self.check_secret(token)?,
            _ => self.check_published(token).await?,
        }
        token.is_for(&self.config.audience)?;
        token.optional_moment("iat")?;
        Ok(Said {
            subject: token.text("sub")?.to_owned(),
            email: email(token),
            role: self.role(token)?,
            expires: token.moment("exp")?,
            not_before: token.optional_moment("nbf")?,
        })
    }

    /// The tier of a role; without a role, the default.
    pub(super) fn tier(&self, role: Option<&str>) -> Result<Arc<str>, TokenFault> {
        let config = &self.config;
        let tier = match role {
            Some(role) => config.roles.get(role),
            None => config.default_tier.as_ref(),
        };
        tier.cloned().ok_or(TokenFault::Role)
    }

    fn role(&self, token: &Token<'_>) -> Result<Option<String>, TokenFault> {
        match token.at(&self.config.role_claim) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(role)) => Ok(Some(role.clone())),
            Some(_) => Err(TokenFault::Role),
        }
    }

    fn check_secret(&self, token: &Token<'_>) -> Result<(), TokenFault> {
        if self.secrets.is_empty() {
            return Err(TokenFault::Algorithm);
        }
        match self.secrets.iter().any(|secret| token.is_signed_by(secret)) {
            true => Ok(()),
            false => Err(TokenFault::Signature),
        }
    }

    async fn check_published(&self, token: &Token<'_>) -> Result<(), Doubt> {
        if self.published.is_empty() {
            return Err(TokenFault::Algorithm.into());
        }
        let mut doubt = Doubt::Fault(TokenFault::Key);
        for keys in &self.published {
            match keys.verify(token).await {
                Ok(()) => return Ok(()),
                // a key of that name is elsewhere, if anywhere
                Err(Doubt::Fault(TokenFault::Key)) => {}
                // the key may be where nobody answers now: that is no reason to say 401
                Err(_) if matches!(doubt, Doubt::Unavailable(_)) => {}
                Err(other) => doubt = other,
            }
        }
        Err(doubt)
    }
}

/// An address that can be kept; any other is none.
fn email(token: &Token<'_>) -> Option<String> {
    let email = token.text("email").ok()?;
    (email.len() <= LONGEST_EMAIL && email.contains('@')).then(|| email.to_owned())
}
