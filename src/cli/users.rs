//! `usher users`: accounts.

use clap::Subcommand;

use super::output::{self, Output};
use super::{check_tier, with_store};
use crate::config::Config;
use crate::store::{Actor, NewUser, UserRecord};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make an account
    Create {
        /// Name: letters, digits and . _ - + @
        username: String,
        /// What the user may do
        #[arg(long, default_value = "free")]
        tier: String,
        /// Where mail reaches the user
        #[arg(long)]
        email: Option<String>,
    },
    /// List all accounts
    List,
    /// Show one account
    Show {
        /// The user's name
        username: String,
    },
    /// Refuse all of a user's credentials from now on
    Disable {
        /// The user's name
        username: String,
    },
    /// Accept a disabled user's credentials again
    Enable {
        /// The user's name
        username: String,
    },
    /// Give a user another tier
    SetTier {
        /// The user's name
        username: String,
        /// What the user may do from now on
        tier: String,
    },
}

pub(super) fn run(command: Command, config: &Config, output: Output) -> anyhow::Result<()> {
    const BY: &Actor<'_> = &Actor::CLI;
    if let Command::Create { tier, .. } | Command::SetTier { tier, .. } = &command {
        check_tier(config, tier)?;
    }
    with_store(config, async |store| match command {
        Command::Create { username, tier, email } => {
            let user = store
                .create_user(BY, &NewUser { username, tier, email, ..NewUser::default() })
                .await?;
            let text = format!(
                "Created user '{name}' of tier {tier}.\n\
                 A key for it: usher keys create --user {name} --name NAME",
                name = user.username,
                tier = user.tier,
            );
            output.say(&user, &text)
        }
        Command::List => {
            let users = store.list_users().await?;
            output.list(&users, ["ID", "USERNAME", "TIER", "STATE", "EMAIL", "CREATED"], row)
        }
        Command::Show { username } => {
            let user = store.show_user(&username).await?;
            output.say(&user, &describe(&user))
        }
        Command::Disable { username } => {
            let user = store.set_disabled(BY, &username, true).await?;
            output.say(&user, &format!("User '{username}' is disabled."))
        }
        Command::Enable { username } => {
            let user = store.set_disabled(BY, &username, false).await?;
            output.say(&user, &format!("User '{username}' is enabled."))
        }
        Command::SetTier { username, tier } => {
            let user = store.set_tier(BY, &username, &tier).await?;
            output.say(&user, &format!("User '{username}' is of tier {tier}."))
        }
    })
}

fn row(user: &UserRecord) -> [String; 6] {
    [
        user.id.to_string(),
        user.username.clone(),
        user.tier.clone(),
        state(user).to_owned(),
        output::or_dash(user.email.as_deref()),
        output::when(Some(user.created_at)),
    ]
}

fn describe(user: &UserRecord) -> String {
    output::facts(&[
        ("id", user.id.to_string()),
        ("username", user.username.clone()),
        ("email", output::or_dash(user.email.as_deref())),
        ("issuer", output::or_dash(user.issuer.as_deref())),
        ("subject", output::or_dash(user.subject.as_deref())),
        ("tier", user.tier.clone()),
        ("state", state(user).to_owned()),
        ("created", output::when(Some(user.created_at))),
    ])
}

fn state(user: &UserRecord) -> &'static str {
    if user.disabled { "disabled" } else { "enabled" }
}
