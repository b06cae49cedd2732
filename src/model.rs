//! Names of models: many spellings, one key.
//!
//! Ollama finds a model whatever its case, and with or without default host, namespace and tag.
//! Routing and permission compare [`ModelKey`]s, so that no spelling slips past either.

mod pattern;

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

pub use pattern::Pattern;

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// A model, as it was asked for and as what it is.
#[derive(Clone, Debug)]
pub struct ModelName {
    written: Arc<str>,
    key: ModelKey,
    cloud: bool,
}

/// The one spelling of a model: lower-case `host/namespace/model:tag`, or `=id` for an id that is
/// no Ollama name. Its hash is made once: a request looks it up many times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelKey {
    text: Arc<str>,
    hash: u64,
}

impl ModelName {
    /// Reads a name as Ollama does (`internal/modelref`, `types/model/name.go`).
    ///
    /// # Errors
    /// [`BadName`] where Ollama, too, would refuse.
    pub fn parse(written: &str) -> Result<Self, BadName> {
        let written = written.trim();
        if written.is_empty() {
            return Err(BadName::Empty);
        }
        let (rest, source) = cut_source(written);
        if source.is_some() && cut_source(&rest).1.is_some() {
            return Err(BadName::TwoSources);
        }
        let cloud = source == Some(Source::Cloud);
        let parts = Parts::read(&rest).ok_or(BadName::Invalid)?;
        let key = ModelKey::new(parts.canonical(cloud));
        // a bare `x-cloud` is local to today's Ollama, but the promise is by the name's ending
        let cloud = cloud || key.text.ends_with("-cloud:latest");
        Ok(Self { written: written.into(), key, cloud })
    }

    /// A model whose id is no Ollama name, as other OpenAI-compatible servers have them.
    pub fn opaque(written: &str) -> Self {
        let written = written.trim();
        let id = written.to_ascii_lowercase();
        let cloud = id.ends_with(":cloud") || id.ends_with("-cloud");
        Self { written: written.into(), key: ModelKey::new(format!("={id}")), cloud }
    }

    /// What routing and permission compare.
    pub fn key(&self) -> &ModelKey {
        &self.key
    }

    /// The part before the model: its owner in Ollama's words, `library` unless it says otherwise.
    pub fn namespace(&self) -> &str {
        self.key.as_str().split('/').nth(1).unwrap_or_default()
    }

    /// The short form that Ollama displays, always with a tag: `model:tag`, `namespace/model:tag`
    /// or `host/namespace/model:tag`.
    pub fn display(&self) -> &str {
        self.key.display()
    }

    /// As the client wrote it, without the space around it.
    pub fn as_written(&self) -> &str {
        &self.written
    }

    /// Whether the model does not run on this box: `…:cloud` or `…-cloud`, or marked so.
    pub fn is_cloud(&self) -> bool {
        self.cloud
    }

    /// The same name, of a model that is known not to run on this box whatever it is called.
    pub fn marked_cloud(self) -> Self {
        Self { cloud: true, ..self }
    }
}

impl ModelKey {
    fn new(text: String) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self { hash: hasher.finish(), text: text.into() }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The short form that Ollama displays, always with a tag.
    pub fn display(&self) -> &str {
        let key = self.as_str();
        if let Some(id) = key.strip_prefix('=') {
            return id;
        }
        let Some(path) = cut(key, DEFAULT_HOST) else { return key };
        cut(path, DEFAULT_NAMESPACE).unwrap_or(path)
    }
}

fn cut<'k>(path: &'k str, segment: &str) -> Option<&'k str> {
    path.strip_prefix(segment)?.strip_prefix('/')
}

impl Hash for ModelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.display())
    }
}

/// The text names no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or nothing but space.
    #[error("model is required")]
    Empty,
    /// A part is missing, too long, or has characters that it may not have.
    #[error("invalid model name")]
    Invalid,
    /// Both `:local` and `:cloud`, or one of them twice.
    #[error("use either :local or :cloud, not both")]
    TwoSources,
}

/// Where a name says that its model runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Cloud,
    Local,
}

/// Cuts `:cloud`, `:local` or the `-cloud` of a tag off the end of a name.
fn cut_source(name: &str) -> (Cow<'_, str>, Option<Source>) {
    if let Some((before, after)) = name.rsplit_once(':') {
        let suffix = after.trim();
        if suffix.eq_ignore_ascii_case("cloud") {
            return (before.into(), Some(Source::Cloud));
        }
        if suffix.eq_ignore_ascii_case("local") {
            return (before.into(), Some(Source::Local));
        }
        let tag =
            suffix.len().checked_sub("-cloud".len()).and_then(|at| suffix.split_at_checked(at));
        if let Some((tag, end)) = tag
            && end.eq_ignore_ascii_case("-cloud")
            && !tag.contains('/')
        {
            return (format!("{before}:{tag}").into(), Some(Source::Cloud));
        }
    }
    (name.into(), None)
}

/// The four parts of a name, defaults filled in and every one valid.
struct Parts<'n> {
    host: &'n str,
    namespace: &'n str,
    model: &'n str,
    tag: &'n str,
}

impl<'n> Parts<'n> {
    fn read(name: &'n str) -> Option<Self> {
        // a colon before the last slash belongs to the host's port
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (name, DEFAULT_TAG),
        };
        let (path, model) = path.rsplit_once('/').map_or((None, path), |(p, m)| (Some(p), m));
        let (host, namespace) = match path.map(|path| path.rsplit_once('/').ok_or(path)) {
            None => (DEFAULT_HOST, DEFAULT_NAMESPACE),
            Some(Err(namespace)) => (DEFAULT_HOST, namespace),
            Some(Ok((url, namespace))) => {
                (url.split_once("://").map_or(url, |(_scheme, host)| host), namespace)
            }
        };
        let valid = is_part(host, 350, b".:")
            && is_part(namespace, 80, b"")
            && is_part(model, 80, b".")
            && is_part(tag, 80, b".");
        valid.then_some(Self { host, namespace, model, tag })
    }

    /// The key; a cloud model keeps a mark of it, since it is not the local one of that name.
    fn canonical(&self, cloud: bool) -> String {
        let Self { host, namespace, model, tag } = self;
        let (tag, mark) = match cloud {
            false => (*tag, ""),
            true if tag.eq_ignore_ascii_case(DEFAULT_TAG) => ("cloud", ""),
            true => (*tag, "-cloud"),
        };
        let mut key = [host, "/", namespace, "/", model, ":", tag, mark].concat();
        key.make_ascii_lowercase();
        key
    }
}

/// Whether a part is not too long and made of `[A-Za-z0-9_]`, after the first also `-` and `more`.
fn is_part(part: &str, longest: usize, more: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    part.len() <= longest
        && part.as_bytes().first().is_some_and(plain)
        && part.bytes().all(|byte| plain(&byte) || byte == b'-' || more.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(written: &str) -> String {
        ModelName::parse(written).unwrap().key().as_str().to_owned()
    }

    #[test]
    fn every_spelling_of_a_model_has_one_key() {
        for spelling in [
            "llama3.2",
            "LLAMA3.2",
            "llama3.2:latest",
            "llama3.2:LATEST",
            "library/llama3.2",
            "Library/Llama3.2:Latest",
            "registry.ollama.ai/library/llama3.2",
            "registry.ollama.ai/library/llama3.2:LATEST",
            "https://registry.ollama.ai/library/llama3.2",
            "http://REGISTRY.ollama.ai/library/llama3.2:latest",
            " llama3.2:local ",
            "llama3.2:latest:LOCAL",
            "\tllama3.2: local\n",
        ] {
            assert_eq!(key(spelling), "registry.ollama.ai/library/llama3.2:latest", "{spelling:?}");
        }
    }

    #[test]
    fn what_differs_stays_apart() {
        for (written, expected) in [
            ("qwen3:8b", "registry.ollama.ai/library/qwen3:8b"),
            ("Me/qwen3:8b", "registry.ollama.ai/me/qwen3:8b"),
            ("hf.co/Me/Qwen3-GGUF:Q4_K_M", "hf.co/me/qwen3-gguf:q4_k_m"),
            ("localhost:5000/me/x", "localhost:5000/me/x:latest"),
            ("http://localhost:5000/me/x:1", "localhost:5000/me/x:1"),
            ("localhost:5000/me/x-cloud", "localhost:5000/me/x-cloud:latest"),
            ("gpt-oss:20b-cloud", "registry.ollama.ai/library/gpt-oss:20b-cloud"),
            ("gpt-oss:20b:cloud", "registry.ollama.ai/library/gpt-oss:20b-cloud"),
            ("minimax-m2:cloud", "registry.ollama.ai/library/minimax-m2:cloud"),
            ("minimax-m2:latest-CLOUD", "registry.ollama.ai/library/minimax-m2:cloud"),
        ] {
            assert_eq!(key(written), expected, "{written}");
        }
    }

    #[test]
    fn the_short_form_leaves_out_only_what_is_default() {
        for (written, short) in [
            ("LLAMA3.2", "llama3.2:latest"),
            ("me/x", "me/x:latest"),
            ("hf.co/library/x:1", "hf.co/library/x:1"),
            (
                "registry.ollama.ai.evil.example/library/x",
                "registry.ollama.ai.evil.example/library/x:latest",
            ),
            ("libraryx/y", "libraryx/y:latest"),
            ("x:cloud", "x:cloud"),
        ] {
            assert_eq!(ModelName::parse(written).unwrap().display(), short, "{written}");
        }
    }

    #[test]
    fn the_name_is_kept_as_it_was_written() {
        assert_eq!(ModelName::parse(" LLAMA3.2:local ").unwrap().as_written(), "LLAMA3.2:local");
    }

    #[test]
    fn names_that_ask_for_the_cloud_are_told_apart() {
        for name in
            ["x:cloud", "x:CLOUD", "x:20b-cloud", "x: 20b-Cloud", "me/x-cloud", "x-CLOUD:latest"]
        {
            assert!(ModelName::parse(name).unwrap().is_cloud(), "{name}");
        }
        for name in ["x", "cloud", "cloud:8b", "x:local", "x:cloudy", "x-cloud:8b", "cloud/x"] {
            assert!(!ModelName::parse(name).unwrap().is_cloud(), "{name}");
        }
    }

    #[test]
    fn names_that_ollama_refuses_are_refused() {
        let long = "x".repeat(81);
        for (name, fault) in [
            ("", BadName::Empty),
            (" \n", BadName::Empty),
            ("x:cloud:local", BadName::TwoSources),
            ("x:local:local", BadName::TwoSources),
            ("x:20b-cloud:cloud", BadName::TwoSources),
            (":cloud", BadName::Invalid),
            ("x:-cloud", BadName::Invalid),
            ("x:", BadName::Invalid),
            ("x/", BadName::Invalid),
            ("/x", BadName::Invalid),
            ("//x", BadName::Invalid),
            ("a/b/c/d", BadName::Invalid),
            ("../x", BadName::Invalid),
            (".x", BadName::Invalid),
            ("-x", BadName::Invalid),
            ("a.b/x", BadName::Invalid),
            ("x y", BadName::Invalid),
            ("x:y:z", BadName::Invalid),
            ("lläma", BadName::Invalid),
            ("x\0", BadName::Invalid),
            (&long, BadName::Invalid),
        ] {
            assert_eq!(ModelName::parse(name).unwrap_err(), fault, "{name:?}");
        }
    }

    #[test]
    fn parts_may_be_as_long_as_ollama_lets_them() {
        let (host, part) = ("h".repeat(350), "p".repeat(80));
        assert!(ModelName::parse(&format!("{host}/{part}/{part}:{part}")).is_ok());
        assert!(ModelName::parse(&format!("{host}h/{part}/{part}:{part}")).is_err());
        assert!(ModelName::parse(&format!("{part}:{part}t")).is_err());
    }

    #[test]
    fn an_opaque_id_never_equals_a_name() {
        let opaque = ModelName::opaque(" Qwen/Qwen3:8B ");
        assert_eq!(opaque.display(), "qwen/qwen3:8b");
        assert_ne!(opaque.key(), ModelName::parse("Qwen/Qwen3:8B").unwrap().key());
        assert!(ModelName::opaque("a/b/c/d/x:cloud").is_cloud());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), likely in "[a-cA-Z0-9:/._ -]{0,40}") {
            let _ = (ModelName::parse(&text), ModelName::parse(&likely));
        }

        #[test]
        fn key_and_short_form_name_the_same_model(
            text in "((https?://)?[a-z0-9.:]{1,8}/)?([a-zA-Z0-9_-]{1,8}/)?[a-zA-Z0-9._-]{1,8}(:[a-zA-Z0-9._-]{1,8})?(-cloud|:cloud|:local)?",
        ) {
            if let Ok(name) = ModelName::parse(&text) {
                for spelling in [name.key().as_str(), name.display(), &text.to_uppercase()] {
                    let again = ModelName::parse(spelling).unwrap();
                    prop_assert_eq!(again.key(), name.key());
                    prop_assert_eq!(again.is_cloud(), name.is_cloud());
                }
            }
        }
    }
}
