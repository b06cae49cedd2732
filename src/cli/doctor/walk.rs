//! The smallest complete walk: nobody, a stranger, a guest, and what a guest may do.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder};
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::Tokens;
use crate::cli::remote;
use crate::config::{Config, RouteClass};
use crate::store::Store;

/// A model may have to be loaded first.
const LOADING: Duration = Duration::from_secs(180);
/// Models that are tried: some only embed.
const ATTEMPTS: usize = 4;
/// A key in the right form that nobody has.
const STRANGER: &str = "usk_doctor";

/// One step and how it went.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) step: &'static str,
    pub(super) ok: bool,
    pub(super) outcome: String,
}

impl Step {
    fn new(step: &'static str, outcome: anyhow::Result<String>) -> Self {
        match outcome {
            Ok(outcome) => Self { step, ok: true, outcome },
            Err(error) => Self { step, ok: false, outcome: format!("{error:#}") },
        }
    }
}

/// Walks through the gateway at `url`, and to its `/admin` where that is known.
pub(super) async fn walk(
    client: &Client,
    (url, admin): (&str, Option<&str>),
    config: &Config,
) -> Vec<Step> {
    let header = &config.auth.api_key_header;
    let list = || client.get(format!("{url}/v1/models"));
    let person = person(client, url, config).await;
    vec![
        Step::new("the gateway is up", expect(client.get(format!("{url}/health")), 200).await),
        Step::new("it can serve", expect(client.get(format!("{url}/ready")), 200).await),
        Step::new("no key is refused", expect(list(), 401).await),
        Step::new("a bad key is refused", expect(list().header(header, STRANGER), 401).await),
        Step::new("a good key streams from a model", stream(client, url).await),
        Step::new("a wrong password is refused", wrong_password(client, url).await),
        Step::new("a login gives a token", person.login),
        Step::new("a token is its user's", person.token),
        Step::new("a role is held to its routes", role(client, (url, admin), config).await),
    ]
}

async fn expect(request: RequestBuilder, wanted: u16) -> anyhow::Result<String> {
    let response = remote::send(request.timeout(remote::PATIENCE)).await?;
    let status = response.status().as_u16();
    if status == wanted {
        return Ok(format!("{status}"));
    }
    let body = response.bytes().await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    bail!("{status} instead of {wanted}: {}", remote::reason(&body))
}

/// Nobody's name, so nobody is locked out; it may have been asked for too often lately.
async fn wrong_password(client: &Client, url: &str) -> anyhow::Result<String> {
    let form = json!({ "username": "usher-doctor", "password": "usher-doctor-is-nobody" });
    let response = remote::send(login_request(client, url, &form)).await?;
    match response.status().as_u16() {
        401 => Ok("401".to_owned()),
        429 => Ok("429: the logins of this address are used up for now".to_owned()),
        other => bail!("{other} instead of 401"),
    }
}

fn login_request(client: &Client, url: &str, form: &Value) -> RequestBuilder {
    let request = client.post(format!("{url}/auth/login")).timeout(remote::PATIENCE);
    request.header("content-type", "application/json").body(form.to_string())
}

/// How a person gets in: with the name and the password in the environment, else with a token
/// made here for whoever the key belongs to.
struct Person {
    login: anyhow::Result<String>,
    token: anyhow::Result<String>,
}

async fn person(client: &Client, url: &str, config: &Config) -> Person {
    let from_env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (made, login) = match from_env("USHER_USER").zip(from_env("USHER_PASSWORD")) {
        Some((name, password)) => match log_in(client, url, &name, &password).await {
            Ok(token) => (Ok((name, token)), Ok("200".to_owned())),
            Err(error) => (Err(anyhow::anyhow!("there is none: the login failed")), Err(error)),
        },
        None => {
            let not_tried = "not tried: USHER_USER and USHER_PASSWORD are not set".to_owned();
            (mint(client, url, config).await, Ok(not_tried))
        }
    };
    let token = match made {
        Ok((name, token)) => try_token(client, url, &name, &token).await,
        Err(error) => Err(error),
    };
    Person { login, token }
}

async fn log_in(client: &Client, url: &str, name: &str, password: &str) -> anyhow::Result<String> {
    let form = json!({ "username": name, "password": password });
    let answer = remote::ask(login_request(client, url, &form)).await?;
    Ok(remote::text(&answer, "access_token").context("the answer has no token")?.to_owned())
}

/// A token for the owner of the key, by this machine's own secret and database.
async fn mint(client: &Client, url: &str, config: &Config) -> anyhow::Result<(String, String)> {
    let me = me(client, url, &remote::key()?).await?;
    let name = remote::text(&me, "username").context("the key has no user")?.to_owned();
    let tokens = Tokens::load(&config.auth, None)?;
    let store = Store::open(&config.database).await?;
    let found = store.login(&name).await;
    store.close().await;
    let (user, _) = found?.with_context(|| format!("there is no user '{name}' here"))?;
    let token = tokens.local().mint(&user, 60, Timestamp::now())?;
    Ok((name, token.expose().to_owned()))
}

async fn try_token(client: &Client, url: &str, name: &str, token: &str) -> anyhow::Result<String> {
    let hint = "is this the gateway's own configuration? Else set USHER_USER and USHER_PASSWORD";
    let me = me(client, url, token).await.context(hint)?;
    match (remote::text(&me, "username"), remote::text(&me, "method")) {
        (Some(found), Some("jwt")) if found == name => Ok(format!("200: {name}")),
        _ => bail!("it is not a token of '{name}'"),
    }
}

async fn me(client: &Client, url: &str, credential: &str) -> anyhow::Result<Value> {
    remote::ask(client.get(format!("{url}/auth/me")).bearer_auth(credential)).await
}

/// An admin may look at the instances, anybody else may not.
async fn role(
    client: &Client,
    (url, admin): (&str, Option<&str>),
    config: &Config,
) -> anyhow::Result<String> {
    let Some(admin) = admin else {
        return Ok("not tried: admin has an address of its own, where --url does not lead".into());
    };
    let key = remote::key()?;
    let me = me(client, url, &key).await?;
    let tier = remote::text(&me, "tier").context("the key has no tier")?.to_owned();
    let allowed = config.tiers.get(&tier).is_some_and(|it| it.allow.contains(&RouteClass::Admin));
    let wanted = if allowed { 200 } else { 403 };
    let asked = client.get(format!("{admin}/admin/upstreams")).bearer_auth(&key);
    Ok(format!("{} for tier {tier}", expect(asked, wanted).await?))
}

async fn stream(client: &Client, url: &str) -> anyhow::Result<String> {
    let key = remote::key()?;
    let listed = client.get(format!("{url}/v1/models")).bearer_auth(&key);
    let listed = remote::ask(listed).await?;
    let models = remote::list(&listed, "data").iter();
    let names = models.filter_map(|model| remote::text(model, "id"));
    let mut troubles = Vec::new();
    for model in names.take(ATTEMPTS) {
        match ask(client, url, &key, model).await {
            Ok(outcome) => return Ok(outcome),
            Err(error) => troubles.push(format!("{model}: {error:#}")),
        }
    }
    if troubles.is_empty() {
        bail!("the key may use no model: none is installed, or its tier allows none");
    }
    bail!("{}", troubles.join("; "))
}

async fn ask(client: &Client, url: &str, key: &str, model: &str) -> anyhow::Result<String> {
    let begun = Instant::now();
    let question = json!({
        "model": model,
        "messages": [{ "role": "user", "content": "Say hello." }],
        "max_tokens": 16,
        "stream": true,
    });
    let request = client
        .post(format!("{url}/v1/chat/completions"))
        .timeout(LOADING)
        .bearer_auth(key)
        .header("content-type", "application/json")
        .body(question.to_string());
    let mut response = remote::send(request).await?;
    let status = response.status().as_u16();
    let upstream = response.headers().get("x-usher-upstream").and_then(|name| name.to_str().ok());
    let upstream = upstream.unwrap_or("?").to_owned();
    let mut text = Vec::new();
    let mut first = None;
    while let Some(chunk) = response.chunk().await.context("the stream broke off")? {
        first.get_or_insert_with(|| begun.elapsed());
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&text);
    if status != 200 {
        let no: Value = serde_json::from_str(&text).unwrap_or_default();
        bail!("{status}: {}", remote::reason(&no));
    }
    if !text.trim_end().ends_with("data: [DONE]") {
        bail!("the stream from {upstream} ended without its end");
    }
    let events = text.lines().filter(|line| line.starts_with("data: {")).count();
    let first = first.unwrap_or_default().as_secs_f64();
    Ok(format!("{model} on {upstream}: {events} events, the first after {first:.2} s"))
}
