//! Rust source as the invariants see it: without comments, literals and unit tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository, relative to its root; without what builds and runs leave there.
pub fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(root().join(&directory)).expect("the repository is there") {
            let entry = entry.expect("the repository can be listed");
            let name = entry.file_name();
            let path = directory.join(&name);
            let kind = entry.file_type().expect("the repository can be listed");
            if kind.is_dir() && !LEFTOVERS.iter().any(|leftover| name == *leftover) {
                open.push(path);
            } else if kind.is_file() && name != ".git" {
                found.push(path);
            }
        }
    }
    assert!(found.iter().any(|path| path == Path::new("Cargo.toml")), "found the repository");
    found
}

const LEFTOVERS: [&str; 5] = [".git", ".venv", "__pycache__", "state", "target"];

/// The files of `src/`.
pub fn sources() -> Vec<Source> {
    let rust = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let own = files();
    let own = own.iter().filter(|path| path.starts_with("src")).filter(rust);
    let test = |path: &Path| path.with_extension("").iter().any(|part| part == "tests");
    own.filter(|path| !test(path)).map(|path| Source::read(path)).collect()
}

/// One file.
pub struct Source {
    /// Its path in the repository.
    pub path: String,
    /// Its code; comments and literals are blanks, unit tests are cut.
    pub code: String,
    whole: String,
}

impl Source {
    /// Reads a file of the repository.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(root().join(path)).expect("a listed file can be read");
        let whole = bare(&text);
        let code = whole.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        Self { path: path.display().to_string(), code, whole }
    }

    /// Whether it is, or lies under, one of these modules (`gateway`, `upstream/peer`).
    pub fn is_in(&self, modules: &[&str]) -> bool {
        let name = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        modules.iter().any(|module| {
            name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Its top-level module.
    pub fn module(&self) -> String {
        let name = self.path.trim_start_matches("src/");
        name.split(['/', '.']).next().unwrap_or_default().to_owned()
    }

    /// Whether a path starts at this crate, or at one whose name goes on with `_…`.
    pub fn names_crate(&self, name: &str) -> bool {
        let tokens = tokens(&self.code);
        tokens.windows(3).any(|window| {
            let [before, token, after] = window else { return false };
            let rest = token.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
                && *before != "."
                && *before != "::"
                && (*after == "::" || *before == "use")
        })
    }

    /// Whether this identifier occurs.
    pub fn has_word(&self, word: &str) -> bool {
        tokens(&self.code).contains(&word)
    }

    /// The same file without this piece of code.
    pub fn without(&self, piece: &str) -> Self {
        let [code, whole] = [&self.code, &self.whole].map(|text| text.replace(piece, ""));
        Self { path: self.path.clone(), code, whole }
    }

    /// Whether a `static` item is more than a name for constant data behind a reference.
    pub fn has_static_state(&self) -> bool {
        let tokens = tokens(&self.code);
        let mut items = tokens.windows(4).filter(|window| window[0] == "static");
        items.any(|window| window[2] != ":" || window[3] != "&")
    }

    /// The top-level modules of this crate that it names.
    pub fn crate_modules(&self) -> BTreeSet<String> {
        let tokens = tokens(&self.code);
        let mut found = BTreeSet::new();
        for window in tokens.windows(3).enumerate() {
            let (at, ["crate", "::", next]) = window else { continue };
            if *next == "{" {
                found.extend(first_of_group(&tokens[at + 3..]));
            } else {
                found.insert((*next).to_owned());
            }
        }
        found
    }

    /// The items that follow an attribute starting like `attribute`, up to their end.
    pub fn items(&self, attribute: &str) -> Vec<&str> {
        let starts = self.code.match_indices(attribute).map(|(at, _)| &self.code[at..]);
        let end = |text: &str| text.find("\n}").into_iter().chain(text.find(";\n")).min();
        starts.map(|text| end(text).map_or(text, |end| &text[..end])).collect()
    }

    /// Lines that hold code, unit tests included.
    pub fn lines_of_code(&self) -> usize {
        self.whole.lines().filter(|line| !line.trim().is_empty()).count()
    }
}

/// The first names of the paths in a `{…}` group whose opening brace was read.
fn first_of_group(tokens: &[&str]) -> Vec<String> {
    let mut depth = 1;
    let mut found = Vec::new();
    let mut expecting = true;
    for token in tokens {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expecting = true,
            name if depth == 1 && expecting => {
                found.push(name.to_owned());
                expecting = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// Identifiers, `::`, and every other visible character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 if first == '\'' => {
                1 + rest[1..].find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len() - 1)
            }
            0 => first.len_utf8(),
            word => word,
        };
        let (token, after) = rest.split_at(length);
        found.push(token);
        rest = after.trim_start();
    }
    found
}

/// Blanks comments and literals; what is left keeps its line.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let raw = rest.trim_start_matches('r').trim_start_matches('#').starts_with('"');
        let in_word = out.ends_with(|c: char| c != 'b' && (c.is_alphanumeric() || c == '_'));
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == 'r' && raw && !in_word {
            raw_string(rest)
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_char(rest) {
            quoted(rest, '\'')
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    out
}

/// The length of the raw string that `text` starts with.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let end = format!("\"{}", "#".repeat(hashes));
    let body = hashes + 2;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// The length of the quoted literal that `text` starts with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a `'` opens a character rather than a lifetime.
fn is_char(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || chars.next() == Some('\'')
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "let a = \"// b\"; // c\nlet d = 'e'; r#\"sqlx::f\"#; fn g<'h>() /* i */ {}\n";
    let code = bare(text);
    assert_eq!(code, "let a = ; \nlet d = ; ; fn g<'h>()  {}\n");
}

#[test]
fn tokens_are_words_and_marks() {
    assert_eq!(tokens("use a::{b, c_d};"), ["use", "a", "::", "{", "b", ",", "c_d", "}", ";"]);
    assert_eq!(tokens("&'static str"), ["&", "'static", "str"]);
}
