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
    /// `shift` is off.
    keeps_all: bool,
}

impl Warming {
    /// `embeds`: the request is for embeddings; models for those know no other. `options` are what
    /// a loaded model cannot change, as members of a JSON object, and `keeps_all` says that `shift`
    /// is off, which it cannot change either.
    pub fn new(embeds: bool, options: &str, keeps_all: bool) -> Self {
        Self { embeds, options: options.to_owned(), keeps_all }
    }

    /// The request that has the model loaded: one with nothing to do.
    pub fn request(
        &self,
        instance: &Instance,
        client: &Client,
        model: &ModelKey,
    ) -> RequestBuilder {
        let path = if self.embeds { "/api/embed" } else { "/api/generate" };
        let body = self.body(model);
        let request = client.post(format!("{}{path}", instance.base)).body(body);
        match &instance.config.api_key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    fn body(&self, model: &ModelKey) -> String {
        let rest = match (self.embeds, self.keeps_all) {
            (true, _) => r#","input":[]"#,
            (false, true) => r#","shift":false"#,
            (false, false) => "",
        };
        let name = serde_json::Value::from(model.display());
        let options = &self.options;
        format!(r#"{{"model":{name}{rest},"options":{{{options}}}}}"#)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelName;

    #[test]
    fn a_load_says_all_that_a_loaded_model_cannot_change() {
        let name = ModelName::parse("m").unwrap();
        let body =
            |embeds, keeps_all| Warming::new(embeds, r#""num_ctx":5"#, keeps_all).body(name.key());
        let said = serde_json::from_str::<serde_json::Value>(&body(false, true)).unwrap();
        assert_eq!((&said["shift"], &said["options"]["num_ctx"]), (&false.into(), &5.into()));
        assert!(!body(false, false).contains("shift"));
        assert!(!body(true, true).contains("shift"), "embeddings know no such member");
    }
}
