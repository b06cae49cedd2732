//! `usher keys`: API keys.

use std::time::Duration;

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, value_parser};
use jiff::Timestamp;

use super::output::{self, Output};
use super::{check_tier, with_store};
use crate::admin::answers::{IssuedKey, RotatedKey};
use crate::auth::{KeyHash, api_key};
use crate::config::units::{self, UnitError};
use crate::config::{Config, Rate};
use crate::store::{Actor, Fingerprint, KeyFilter, KeyLimits, KeyRecord, KeySpec, KeyState, Span};

const BY: &Actor<'_> = &Actor::CLI;
const STATES: [KeyState; 3] = [KeyState::Active, KeyState::Expired, KeyState::Revoked];

#[derive(Subcommand)]
pub(super) enum Command {
    /// Issue a key and print it, this once
    Create {
        /// The user it is for
        #[arg(long)]
        user: String,
        /// What to call it
        #[arg(long)]
        name: String,
        #[command(flatten)]
        rights: Rights,
    },
    /// List keys
    List {
        /// Only this user's
        #[arg(long)]
        user: Option<String>,
        /// Only those in this state
        #[arg(long, value_parser = state_parser())]
        state: Option<KeyState>,
    },
    /// Show one key; never the key itself
    Show {
        /// Its id, as listed
        id: i64,
    },
    /// Give a key a successor, which is printed this once; both work for a while
    Rotate {
        /// Its id, as listed
        id: i64,
        /// How long the old key still works: 0s, 24h, 7d; else as auth.rotation_grace says
        #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
        grace: Option<Duration>,
    },
    /// Refuse a key from now on, for good
    Revoke {
        /// Its id, as listed
        id: i64,
    },
    /// Accept a key that an earlier system issued
    Import {
        /// SHA-256 of the key, 64 hexadecimal digits
        #[arg(long, value_name = "HEX", value_parser = KeyHash::from_hex)]
        sha256: KeyHash,
        /// The user it is for
        #[arg(long)]
        user: String,
        /// What to call it
        #[arg(long, default_value = "imported")]
        name: String,
        #[command(flatten)]
        rights: Rights,
    },
}

/// What a key may do, within what its user may.
#[derive(Args)]
pub(super) struct Rights {
    /// The key's own tier, which can only narrow the user's
    #[arg(long)]
    tier: Option<String>,
    /// How long it works: 12h, 30d; without, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Option<Duration>,
    /// The only models it may use: 'llama3*,qwen3:8b'
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Requests in a time: 500/h
    #[arg(long, value_name = "RATE", value_parser = rate)]
    requests: Option<String>,
    /// Tokens in a time, of prompts and answers: 1M/d
    #[arg(long, value_name = "RATE", value_parser = rate)]
    tokens: Option<String>,
    /// Requests worked on at once
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// It may name its end user in X-OpenWebUI-User-Id
    #[arg(long)]
    delegating: bool,
}

pub(super) fn run(command: Command, config: &Config, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Create { user, name, rights } => {
            create(&rights.of(user, name, config)?, config, output)
        }
        Command::Import { sha256, user, name, rights } => {
            import(&rights.of(user, name, config)?, sha256, config, output)
        }
        Command::List { user, state } => with_store(config, async |store| {
            let keys = store.list_keys(&KeyFilter { user, state, span: Span::default() }).await?;
            let head = ["ID", "PREFIX", "USER", "NAME", "TIER", "STATE", "EXPIRES"];
            output.list(&keys, head, row)
        }),
        Command::Show { id } => with_store(config, async |store| {
            let key = store.show_key(id).await?;
            output.say(&key, &describe(&key))
        }),
        Command::Rotate { id, grace } => {
            rotate(id, grace.unwrap_or(config.auth.rotation_grace), config, output)
        }
        Command::Revoke { id } => with_store(config, async |store| {
            let key = store.revoke_key(BY, id).await?.record;
            output.say(&key, &format!("Key {id} ('{}' of {}) is revoked.", key.name, key.user))
        }),
    }
}

fn create(spec: &KeySpec, config: &Config, output: Output) -> anyhow::Result<()> {
    let new = api_key::generate()?;
    let print = Fingerprint { hash: new.hash, public_id: Some(&new.public_id) };
    let record = with_store(config, async |store| Ok(store.create_key(BY, spec, &print).await?))?;
    let key = new.plaintext.expose();
    if !output.json {
        // beside the key, so that $(usher keys create …) is the key alone
        output::complain(&format!(
            "Created key {} of {}. It is shown only this once:",
            record.id, record.user
        ));
    }
    output.say(&IssuedKey { key, record: &record }, key)
}

fn rotate(id: i64, grace: Duration, config: &Config, output: Output) -> anyhow::Result<()> {
    let new = api_key::generate()?;
    let print = Fingerprint { hash: new.hash, public_id: Some(&new.public_id) };
    let rotated =
        with_store(config, async |store| Ok(store.rotate_key(BY, id, grace, &print).await?))?;
    let (key, record, old_expires_at) =
        (new.plaintext.expose(), &rotated.key, rotated.old_expires_at);
    if !output.json {
        output::complain(&format!(
            "Key {} of {} replaces key {id}, which works until {}. It is shown only this once:",
            record.id,
            record.user,
            output::when(Some(old_expires_at))
        ));
    }
    output.say(&RotatedKey { key, record, old_expires_at }, key)
}

fn import(spec: &KeySpec, hash: KeyHash, config: &Config, output: Output) -> anyhow::Result<()> {
    let print = Fingerprint { hash, public_id: None };
    let key = with_store(config, async |store| Ok(store.create_key(BY, spec, &print).await?))?;
    output.say(&key, &format!("Imported key {} of {}.", key.id, key.user))
}

impl Rights {
    fn of(self, user: String, name: String, config: &Config) -> anyhow::Result<KeySpec> {
        if let Some(tier) = &self.tier {
            check_tier(config, tier)?;
        }
        let trimmed = |names: Vec<String>| names.iter().map(|n| n.trim().to_owned()).collect();
        let expires_at = self.expires.map(|lifetime| Timestamp::now().checked_add(lifetime));
        Ok(KeySpec {
            user,
            name,
            tier: self.tier,
            models: self.models.map(trimmed),
            limits: KeyLimits {
                requests: self.requests,
                tokens: self.tokens,
                concurrency: self.concurrency,
            },
            delegating: self.delegating,
            expires_at: expires_at.transpose().context("--expires is too far away")?,
        })
    }
}

/// How long a key works; one that never does is a mistake.
fn lifetime(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".to_owned()),
        read => read.map_err(|error| error.to_string()),
    }
}

/// A rate, kept as it is written.
fn rate(text: &str) -> Result<String, UnitError> {
    text.parse::<Rate>().map(|_| text.to_owned())
}

/// A rate as people are shown it: `50k/h` is `50000/hour`.
fn spelt(rate: Option<&str>) -> Option<String> {
    // a rate that only a later version can read is shown as it is kept
    rate.map(|text| match text.parse::<Rate>() {
        Ok(rate) => rate.to_string(),
        Err(_) => text.to_owned(),
    })
}

fn state_parser() -> impl TypedValueParser<Value = KeyState> {
    PossibleValuesParser::new(STATES.map(KeyState::as_str)).try_map(|text| {
        STATES.into_iter().find(|state| state.as_str() == text).ok_or("no such state")
    })
}

fn row(key: &KeyRecord) -> [String; 7] {
    [
        key.id.to_string(),
        output::or_dash(key.prefix.as_deref()),
        key.user.clone(),
        key.name.clone(),
        output::or_dash(key.tier.as_deref()),
        key.state.as_str().to_owned(),
        output::when(key.expires_at),
    ]
}

fn describe(key: &KeyRecord) -> String {
    output::facts(&[
        ("id", key.id.to_string()),
        ("prefix", output::or_dash(key.prefix.as_deref())),
        ("user", key.user.clone()),
        ("name", key.name.clone()),
        ("tier", output::or_dash(key.tier.as_deref())),
        (
            "models",
            key.models.as_ref().map_or_else(|| "all".to_owned(), |models| models.join(", ")),
        ),
        ("requests", output::or_dash(spelt(key.limits.requests.as_deref()).as_deref())),
        ("tokens", output::or_dash(spelt(key.limits.tokens.as_deref()).as_deref())),
        ("concurrency", output::or_dash(key.limits.concurrency.map(|n| n.to_string()).as_deref())),
        ("delegating", if key.delegating { "yes" } else { "no" }.to_owned()),
        ("state", key.state.as_str().to_owned()),
        ("created", output::when(Some(key.created_at))),
        ("expires", output::when(key.expires_at)),
        ("revoked", output::when(key.revoked_at)),
        ("last used", output::when(key.last_used_at)),
        ("replaces", output::or_dash(key.replaces.map(|id| id.to_string()).as_deref())),
        ("replaced by", output::or_dash(key.replaced_by.map(|id| id.to_string()).as_deref())),
    ])
}
