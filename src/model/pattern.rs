//! Patterns of models, as tiers and keys list them.

use super::{ModelKey, ModelName};

/// Which models a line of a `models` list means.
///
/// Without `*` it is a name, in whatever spelling. With `*`, which stands for any run of
/// characters, it is compared with the short form that Ollama displays, tag included, in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One model.
    Name(ModelKey),
    /// What stands before, between and after the stars, in lower case: at least two pieces.
    Stars(Vec<String>),
}

impl Pattern {
    /// Reads a pattern. What is no name can still be the id of another server's model.
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        if text.contains('*') {
            return Self::Stars(text.to_ascii_lowercase().split('*').map(str::to_owned).collect());
        }
        Self::Name(ModelName::parse(text).unwrap_or_else(|_| ModelName::opaque(text)).key)
    }

    /// Whether the model is one of those meant. Takes time linear in the name, whatever the stars.
    pub fn matches(&self, name: &ModelName) -> bool {
        match self {
            Self::Name(key) => key == name.key(),
            Self::Stars(pieces) => fits(pieces, name.display()).is_some(),
        }
    }
}

/// Each piece between stars takes its leftmost place after the one before: were there any fit at
/// all, this one leaves the most room for the rest, so nothing is ever tried twice.
fn fits(pieces: &[String], text: &str) -> Option<()> {
    let (first, rest) = pieces.split_first()?;
    let (last, middle) = rest.split_last()?;
    let mut text = text.strip_prefix(first.as_str())?.strip_suffix(last.as_str())?;
    for piece in middle {
        (_, text) = text.split_once(piece.as_str())?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).matches(&ModelName::parse(name).unwrap())
    }

    #[test]
    fn without_a_star_it_is_a_name_in_any_spelling() {
        for name in ["llama3.2", "LLAMA3.2:latest", "library/llama3.2", " llama3.2:local "] {
            assert!(matches("llama3.2", name), "{name}");
            assert!(matches("registry.ollama.ai/library/Llama3.2:latest", name), "{name}");
        }
        for name in
            ["llama3.2:1b", "me/llama3.2", "llama3", "hf.co/library/llama3.2", "llama3.2:cloud"]
        {
            assert!(!matches("llama3.2", name), "{name}");
        }
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters_in_the_short_form() {
        for (pattern, name, expected) in [
            ("*", "anything/at:all", true),
            ("llama3*", "llama3", true),
            ("llama3*", "LLAMA3.2:1b", true),
            ("LLAMA3*", "llama3.2", true),
            ("llama3*", "codellama3", false),
            ("llama3*", "me/llama3", false),
            ("*llama3*", "me/llama3", true),
            ("*:8b", "qwen3:8b", true),
            ("*:8b", "qwen3:8b-q4", false),
            ("*llama3", "llama3", false),
            ("qwen*:*b", "qwen3:8b", true),
            ("me/*", "me/x", true),
            ("me/*", "x", false),
            ("hf.co/*", "hf.co/me/x", true),
            ("a*a:latest", "a", false),
            ("a*ab*b:latest", "aab", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn ids_of_other_servers_are_matched_as_they_are() {
        let id = ModelName::opaque("01.ai/Yi-34B");
        assert!(Pattern::new("01.ai/YI-34b").matches(&id));
        assert!(Pattern::new("01.ai/*").matches(&id));
        assert!(!Pattern::new("01.ai/yi").matches(&id));
    }

    #[test]
    fn an_empty_pattern_matches_nothing() {
        assert!(!Pattern::new(" ").matches(&ModelName::parse("x").unwrap()));
    }

    /// The definition of a star, in exponential time.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some((b'*', rest)), _) => (0..=text.len()).any(|at| oracle(rest, &text[at..])),
            (Some((p, rest)), Some((t, tail))) => p == t && oracle(rest, tail),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition_of_a_star(
            pattern in "[ab*]{0,6}[*][ab*]{0,6}", tail in "(:latest)?", text in "[ab]{1,10}",
        ) {
            let pattern = pattern + &tail;
            let name = ModelName::parse(&text).unwrap();
            let expected = oracle(pattern.as_bytes(), name.display().as_bytes());
            prop_assert_eq!(Pattern::new(&pattern).matches(&name), expected);
        }
    }
}
