//! `usher users`: accounts.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::output::{self, Output};
use super::{check_tier, password, with_store};
use crate::auth::password::hash_now;
use crate::auth::ssh_key::PublicKey;
use crate::config::Config;
use crate::store::{Actor, NewUser, SshKeyRecord, UserRecord};

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
    /// Let a user of the `ollama` command in by its public key
    AddSshKey {
        /// The user's name
        username: String,
        /// The file ~/.ollama/id_ed25519.pub of that user; `-` is standard input
        file: PathBuf,
    },
    /// Take a public key from a user
    RemoveSshKey {
        /// The user's name
        username: String,
        /// The key's number, as `users show` lists it
        id: i64,
    },
    /// Set a user's password; all tokens of the user end
    SetPassword {
        /// The user's name
        username: String,
        /// Read it from standard input instead of asking
        #[arg(long)]
        password_stdin: bool,
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
            let keys = store.list_ssh_keys(user.id).await?;
            output.say(&user, &describe(&user, &keys))
        }
        Command::AddSshKey { username, file } => {
            let key = PublicKey::parse(&text_of(&file)?)?;
            let user = store.show_user(&username).await?;
            let key = store.add_ssh_key(BY, user.id, &key).await?;
            let text = format!("Key {} of {username}: {}", key.id, key.fingerprint);
            output.say(&key, &text)
        }
        Command::RemoveSshKey { username, id } => {
            let user = store.show_user(&username).await?;
            let key = store.remove_ssh_key(BY, user.id, id).await?;
            output.say(&key, &format!("Key {id} of {username} is removed."))
        }
        Command::SetPassword { username, password_stdin } => {
            // whoever mistypes the name is told before being asked
            store.show_user(&username).await?;
            let hash = hash_now(&password::obtain(password_stdin)?)?;
            let user = store.set_password(BY, &username, &hash).await?;
            output.say(&user, &format!("The password of '{username}' is set."))
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

/// The text of a small file, or of standard input.
fn text_of(file: &Path) -> anyhow::Result<String> {
    const LONGEST: u64 = 64 << 10;
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

fn describe(user: &UserRecord, keys: &[SshKeyRecord]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("{} {}", key.id, key.fingerprint)).collect();
    let keys = (!keys.is_empty()).then(|| keys.join(", "));
    output::facts(&[
        ("id", user.id.to_string()),
        ("username", user.username.clone()),
        ("email", output::or_dash(user.email.as_deref())),
        ("issuer", output::or_dash(user.issuer.as_deref())),
        ("subject", output::or_dash(user.subject.as_deref())),
        ("tier", user.tier.clone()),
        ("state", state(user).to_owned()),
        ("ssh keys", output::or_dash(keys.as_deref())),
        ("created", output::when(Some(user.created_at))),
    ])
}

fn state(user: &UserRecord) -> &'static str {
    if user.disabled { "disabled" } else { "enabled" }
}
