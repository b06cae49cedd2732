//! Has a model loaded by a request of our own, that nobody's leaving ends.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};

use super::Instance;
use crate::model::ModelKey;
use crate::scheduler::Load;

/// How a model is to be loaded, so that the request that waits for it finds it as it wants it.
#[derive(Clone, Debug)]
pub struct Warming {
    embeds: bool,
    /// Members of a JSON object.
    options: String,
}

impl Warming {
    /// `embeds`: the request is for embeddings; models for those know no other. `options` are what
    /// a loaded model cannot change, as members of a JSON object.
    pub fn new(embeds: bool, options: &str) -> Self {
        Self { embeds, options: options.to_owned() }
    }

    /// The request that has the model loaded: one with nothing to do.
    pub fn request(
        &self,
        instance: &Instance,
        client: &Client,
        model: &ModelKey,
    ) -> RequestBuilder {
        let (path, nothing) = match self.embeds {
            true => ("/api/embed", r#","input":[]"#),
            false => ("/api/generate", ""),
        };
        let name = serde_json::Value::from(model.display());
        let options = &self.options;
        let body = format!(r#"{{"model":{name}{nothing},"options":{{{options}}}}}"#);
        let request = client.post(format!("{}{path}", instance.base)).body(body);
        match &instance.config.api_key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }
}

/// Loads, for at most this long, and for as long as anybody waits for the model. What comes of it
/// the waiting requests will see for themselves.
pub async fn load(request: RequestBuilder, mut load: Load, patience: Duration) {
    let loaded = tokio::select! {
        answer = request.timeout(patience).send() => {
            answer.is_ok_and(|answer| answer.status().is_success())
        }
        () = load.abandoned() => false,
    };
    if loaded {
        load.worked();
    }
}
