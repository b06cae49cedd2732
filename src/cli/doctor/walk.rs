//! The smallest complete walk: nobody, a stranger, a guest.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::{Client, RequestBuilder};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::remote;
use crate::config::Config;

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

/// Walks through the gateway at `url`.
pub(super) async fn walk(client: &Client, url: &str, config: &Config) -> Vec<Step> {
    let header = &config.auth.api_key_header;
    let list = || client.get(format!("{url}/v1/models"));
    vec![
        Step::new("the gateway is up", expect(client.get(format!("{url}/health")), 200).await),
        Step::new("it can serve", expect(client.get(format!("{url}/ready")), 200).await),
        Step::new("no key is refused", expect(list(), 401).await),
        Step::new("a bad key is refused", expect(list().header(header, STRANGER), 401).await),
        Step::new("a good key streams from a model", stream(client, url).await),
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
