//! `usher init`: the first run.
//!
//! Each step is whole or not at all, and done only where it is missing: a run that was cut short
//! is completed by the next.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use zeroize::Zeroizing;

use super::output::Output;
use super::with_store;
use crate::admin::answers::IssuedKey;
use crate::auth::api_key;
use crate::config::{Config, Listen};
use crate::store::{
    ADMIN, Actor, Fingerprint, KeyLimits, KeyRecord, KeySpec, create_private_dir,
    create_secret_file,
};

const JWT_SECRET_FILE: &str = "jwt_secret";

pub(super) fn run(config: &Config, path: &Path, output: Output) -> anyhow::Result<()> {
    let state = &config.state_dir;
    create_private_dir(state).with_context(|| format!("cannot create {}", state.display()))?;
    let file = state.join(JWT_SECRET_FILE);
    let new_secret = create_secret_file(&file, &random_secret()?)
        .with_context(|| format!("cannot create {}", file.display()))?;
    let new = api_key::generate()?;
    let print = Fingerprint { hash: new.hash, public_id: Some(&new.public_id) };
    let made = with_store(config, async |store| {
        Ok(store.create_first_admin(&Actor::CLI, &first_key(), &print).await?)
    })?;
    match made {
        Some(record) => welcome(config, path, (new.plaintext.expose(), &record), output),
        None => already(state, path, new_secret, output),
    }
}

fn first_key() -> KeySpec {
    KeySpec {
        user: "admin".to_owned(),
        name: "first".to_owned(),
        tier: None,
        models: None,
        limits: KeyLimits::default(),
        delegating: false,
        expires_at: None,
    }
}

/// 64 characters that hold 384 random bits.
fn random_secret() -> anyhow::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0_u8; 48]);
    let filled = SystemRandom::new().fill(bytes.as_mut_slice());
    filled.map_err(|_| anyhow!("the system's source of randomness failed"))?;
    Ok(Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}

fn already(state: &Path, path: &Path, new_secret: bool, output: Output) -> anyhow::Result<()> {
    let done = if new_secret {
        "The JWT secret was missing and is made anew; all else was there and is unchanged."
    } else {
        "Nothing was changed."
    };
    let text = format!(
        "Already initialised in {}. {done}\n\
         Is the admin key lost? Make another: usher keys create -c {} --user {ADMIN} --name NAME",
        state.display(),
        path.display()
    );
    let value =
        json!({ "initialized": true, "changed": new_secret, "state_dir": state.to_string_lossy() });
    output.say(&value, &text)
}

fn welcome(
    config: &Config,
    path: &Path,
    (key, record): (&str, &KeyRecord),
    output: Output,
) -> anyhow::Result<()> {
    let url = config.listen.first().map_or_else(String::new, url_of);
    let text = format!(
        r#"Usher is ready; its state is in {state}.
The key of its first admin, shown only this once:

    export USHER_KEY={key}

Start it:

    usher serve -c {path}

Try it with curl:

    curl {url}/api/tags -H "Authorization: Bearer $USHER_KEY"

with Ollama's Python SDK:

    import os, ollama
    client = ollama.Client(host="{url}",
                           headers={{"Authorization": "Bearer " + os.environ["USHER_KEY"]}})
    print(client.list())

with OpenAI's Python SDK:

    import os, openai
    client = openai.OpenAI(base_url="{url}/v1", api_key=os.environ["USHER_KEY"])
    print(client.models.list())"#,
        state = config.state_dir.display(),
        path = path.display(),
    );
    output.say(&IssuedKey { key, record }, &text)
}

/// Where a client on this machine finds a listener.
pub(super) fn url_of(listen: &Listen) -> String {
    url(if listen.tls.is_some() { "https" } else { "http" }, listen.address)
}

/// One on every address is on this machine's own, too.
pub(super) fn url(scheme: &str, mut address: SocketAddr) -> String {
    if address.ip() == Ipv4Addr::UNSPECIFIED {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    } else if address.ip() == Ipv6Addr::UNSPECIFIED {
        address.set_ip(Ipv6Addr::LOCALHOST.into());
    }
    format!("{scheme}://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_shown_is_one_that_can_be_called() {
        let shown = |text: &str| url("http", text.parse().unwrap());
        assert_eq!(shown("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(shown("[::]:8080"), "http://[::1]:8080");
        assert_eq!(shown("10.1.2.3:80"), "http://10.1.2.3:80");
    }

    #[test]
    fn no_two_secrets_are_alike_and_each_is_long_enough() {
        let (a, b) = (random_secret().unwrap(), random_secret().unwrap());
        assert_ne!(*a, *b);
        assert_eq!(a.len(), 64);
    }
}
