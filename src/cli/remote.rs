//! A running gateway, as the commands that ask it see it.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::init;
use crate::config::{Config, Listen};
use crate::server;

/// Longest wait for an answer to a question that costs nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Which gateway is asked.
#[derive(Args)]
pub(super) struct Target {
    /// Its base URL; else where the configuration listens, in the clear if it does
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
}

/// Where the gateway of this configuration is found from this machine. A certificate is rarely for
/// an address, and who does not speak the PROXY protocol is turned away where it is wanted.
pub(super) fn of(config: &Config) -> anyhow::Result<String> {
    let plain = |it: &&Listen| it.tls.is_none() && it.balancers.is_none();
    let direct = |it: &&Listen| it.balancers.is_none();
    let listen = config.listen.iter();
    let best = listen.clone().find(plain).or_else(|| listen.clone().find(direct));
    let listen =
        best.or_else(|| config.listen.first()).context("the configuration listens nowhere")?;
    Ok(init::url_of(listen))
}

/// Where its `/admin` is found from this machine.
pub(super) fn admin_of(config: &Config) -> anyhow::Result<String> {
    config.admin.map_or_else(|| of(config), |own| Ok(init::url("http", own)))
}

/// A client for gateways and instances.
pub(super) fn client() -> anyhow::Result<Client> {
    server::prepare_tls();
    let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
    client.context("cannot make an HTTP client")
}

/// The key of whoever runs the command.
pub(super) fn key() -> anyhow::Result<String> {
    let key = std::env::var("USHER_KEY").ok().filter(|key| !key.is_empty());
    key.context("no key: export USHER_KEY=usk_...")
}

/// Sends a request that must be answered with 200 and JSON.
pub(super) async fn ask(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = send(request.timeout(PATIENCE)).await?;
    let status = response.status();
    let host = response.url().authority().to_owned();
    let body = response.bytes().await.map_err(|error| unreachable(&error))?;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status != 200 {
        bail!("{} answered {}: {}", host, status.as_u16(), reason(&value));
    }
    Ok(value)
}

/// A list in an answer; empty if there is none.
pub(super) fn list<'v>(answer: &'v Value, name: &str) -> &'v [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A text in an answer.
pub(super) fn text<'v>(answer: &'v Value, name: &str) -> Option<&'v str> {
    answer.get(name).and_then(Value::as_str)
}

/// Why an answer is a no.
pub(super) fn reason(answer: &Value) -> &str {
    text(answer, "detail").or_else(|| text(answer, "error")).unwrap_or("no reason given")
}

/// Sends a request; what goes wrong is told by its innermost cause.
pub(super) async fn send(request: RequestBuilder) -> anyhow::Result<Response> {
    request.send().await.map_err(|error| unreachable(&error))
}

fn unreachable(error: &reqwest::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let url = error.url().map(ToString::to_string).unwrap_or_default();
    anyhow::anyhow!("{url} does not answer: {cause}")
}

/// Runs what waits for the network.
pub(super) fn block_on<T>(act: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(act)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_gateway_is_asked_where_anybody_on_this_machine_can() {
        let found = |listen: &str| {
            let text = format!("upstreams: [ {{ name: a, url: http://h }} ]\nlisten: [{listen}]");
            of(&Config::parse(&text, Path::new("usher.yaml"), &|_| None).unwrap()).unwrap()
        };
        let tls = "{ address: '127.0.0.1:1', tls: { cert: a, key: b } }";
        let behind = "{ address: '127.0.0.1:2', proxy_protocol: [10.0.0.0/8] }";
        let plain = "{ address: '127.0.0.1:3' }";
        assert_eq!(found(&format!("{tls}, {behind}, {plain}")), "http://127.0.0.1:3");
        assert_eq!(found(&format!("{behind}, {tls}")), "https://127.0.0.1:1");
        assert_eq!(found(behind), "http://127.0.0.1:2");
    }
}
