//! `usher token`: a token for a script or a test.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::output::Output;
use super::with_store;
use crate::auth::jwt::local::Local;
use crate::auth::tokens::CannotLoad;
use crate::config::Config;
use crate::config::units::parse_duration;
use crate::store::Actor;

/// A token that lives no longer than this begins with a whole second, so that it lives as long as
/// it says: tokens know no smaller part of time.
const BRIEF: u64 = 60;

/// What is asked for.
#[derive(Args)]
pub(super) struct Wish {
    /// Whose it is
    #[arg(long, value_name = "NAME")]
    user: String,
    /// How long it lives, in whole seconds; else auth.jwt.ttl
    #[arg(long, value_parser = whole_seconds)]
    ttl: Option<u64>,
}

pub(super) fn run(wish: &Wish, config: &Config, output: Output) -> anyhow::Result<()> {
    // no issuer is asked for anything here
    let local = Local::load(&config.auth.jwt).map_err(CannotLoad::Secrets)?;
    let ttl = wish.ttl.unwrap_or(config.auth.jwt.ttl.as_secs());
    let user = with_store(config, async |store| {
        let Some((user, _)) = store.login(&wish.user).await? else {
            store.show_user(&wish.user).await?;
            bail!("'{}' gets tokens from the issuer that made the account", wish.user);
        };
        if user.disabled {
            bail!("'{}' is disabled, so no token would open anything", wish.user);
        }
        store.record_act(&Actor::CLI, "token.mint", &wish.user).await?;
        Ok(user)
    })?;
    if ttl <= BRIEF {
        let begun = Timestamp::now().subsec_nanosecond().unsigned_abs();
        std::thread::sleep(Duration::from_nanos(1_000_000_000_u64.saturating_sub(begun.into())));
    }
    let token = local.mint(&user, ttl, Timestamp::now())?;
    let value = json!({
        "access_token": token.expose(),
        "token_type": "bearer",
        "expires_in": ttl,
    });
    output.say(&value, token.expose())
}

fn whole_seconds(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    match (duration.as_secs(), duration.subsec_nanos()) {
        (0, _) | (_, 1..) => Err("expected whole seconds, and at least one".to_owned()),
        (seconds, _) => Ok(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::whole_seconds;

    #[test]
    fn a_token_lives_for_whole_seconds() {
        assert_eq!(whole_seconds("1s"), Ok(1));
        assert_eq!(whole_seconds("24h"), Ok(86_400));
        for bad in ["0s", "500ms", "1500ms", "1", ""] {
            assert!(whole_seconds(bad).is_err(), "{bad}");
        }
    }
}
