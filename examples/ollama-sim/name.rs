//! Model names in all their spellings: `host/namespace/model:tag`, and the `cloud` marks.

use crate::refusal::Refusal;

/// A model name with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

/// A name as a request gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) name: Name,
    /// Marked `:cloud` or `-cloud`: a real Ollama would take the prompt off the box.
    pub(crate) cloud: bool,
}

impl Asked {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Refusal::bad("model is required"));
        }
        let (rest, source) = strip_source(text);
        if source.is_some() && strip_source(rest).1.is_some() {
            return Err(Refusal::bad("use either :local or :cloud, not both"));
        }
        let name = Name::parse(rest).ok_or_else(|| Refusal::bad("invalid model name"))?;
        Ok(Self { name, cloud: source == Some(true) })
    }
}

/// The name without its source mark, and whether that mark was `cloud`.
fn strip_source(text: &str) -> (&str, Option<bool>) {
    let text = text.trim();
    let Some((before, suffix)) = text.rsplit_once(':') else { return (text, None) };
    let lower = suffix.trim().to_ascii_lowercase();
    match lower.as_str() {
        "cloud" => (before, Some(true)),
        "local" => (before, Some(false)),
        tag if !tag.contains('/') && tag.ends_with("-cloud") => {
            let cut = text.trim_end().len() - "-cloud".len();
            (text.get(..cut).unwrap_or(text), Some(true))
        }
        _ => (text, None),
    }
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, "latest"),
        };
        let (rest, model) = path.rsplit_once('/').unwrap_or(("library", path));
        let (host, namespace) = rest.rsplit_once('/').unwrap_or(("registry.ollama.ai", rest));
        let valid = part(host, 350, "-_.:")
            && part(namespace, 80, "-_")
            && part(model, 80, "-_.")
            && part(tag, 80, "-_.");
        valid.then(|| Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// What two spellings of one model have in common.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}/{}:{}", self.host, self.namespace, self.model, self.tag).to_ascii_lowercase()
    }

    /// The shortest form, as `/api/tags` shows it: always with a tag.
    pub(crate) fn short(&self) -> String {
        let Self { host, namespace, model, tag } = self;
        if !host.eq_ignore_ascii_case("registry.ollama.ai") {
            format!("{host}/{namespace}/{model}:{tag}")
        } else if namespace.eq_ignore_ascii_case("library") {
            format!("{model}:{tag}")
        } else {
            format!("{namespace}/{model}:{tag}")
        }
    }
}

fn part(text: &str, longest: usize, extra: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let rest = text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c));
    first && rest && text.len() <= longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_are_one_model() {
        for spelling in [
            "LLAMA3.2",
            "llama3.2:latest",
            "library/llama3.2",
            "registry.ollama.ai/library/llama3.2:LATEST",
            "https://registry.ollama.ai/library/llama3.2",
            " llama3.2:local ",
            "llama3.2:latest:local",
        ] {
            let asked = Asked::parse(spelling).unwrap();
            assert_eq!(
                asked.name.key(),
                "registry.ollama.ai/library/llama3.2:latest",
                "{spelling}"
            );
            assert!(!asked.cloud);
        }
    }

    #[test]
    fn cloud_marks_are_seen_and_cut_off() {
        for (spelling, short) in [
            ("gpt-oss:120b-cloud", "gpt-oss:120b"),
            ("qwen3:CLOUD", "qwen3:latest"),
            ("qwen3:8b:cloud", "qwen3:8b"),
        ] {
            let asked = Asked::parse(spelling).unwrap();
            assert!(asked.cloud, "{spelling}");
            assert_eq!(asked.name.short(), short);
        }
        assert!(!Asked::parse("my-cloud").unwrap().cloud, "the mark sits behind a colon");
        assert!(Asked::parse("a:cloud:local").is_err());
    }

    #[test]
    fn malformed_names_are_refused() {
        for spelling in ["", "  ", "a b", "/a", "a/", ":x", "a:", "../a", "-a", "n.s/a"] {
            assert!(Asked::parse(spelling).is_err(), "{spelling}");
        }
    }
}
