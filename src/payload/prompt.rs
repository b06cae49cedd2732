//! What a prompt begins with, so that an instance can be found that has read it before.
//!
//! A runner keeps what it has read and reads of the next prompt only what differs, from the first
//! difference on. So a prompt is kept here as a chain of hashes, message by message, each over all
//! before it: two prompts share what their chains share. The text itself is not kept.

use memchr::memchr2;

use super::walk::{self, Field};

/// Bytes of UTF-8 to a token, as in [`estimate`](super::estimate_tokens).
const BYTES_PER_TOKEN: u64 = 4;
/// A text without messages is compared piece by piece, each of this many bytes.
const PIECE: usize = 2048;
/// Links of a chain; what comes behind is not compared.
const MAX_LINKS: usize = 256;
/// Strings longer than this without a space near their beginning are files, not text, and a file
/// is about so many tokens whatever its size.
const FILE: usize = 2048;
const FILE_BEGINNING: usize = 256;
const TOKENS_PER_FILE: u64 = 1600;

/// The options that a loaded model cannot change (Ollama's `api.Runner`, and `shift`): with other
/// ones it is loaded anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Runner(u64);

const RUNNER: [&str; 7] =
    ["draft_num_predict", "main_gpu", "num_batch", "num_ctx", "num_gpu", "num_thread", "use_mmap"];

impl Runner {
    /// Takes in one option, and says whether it is of the kind. Their order says nothing.
    fn read(&mut self, name: &str, value: &str) -> bool {
        let counts = RUNNER.contains(&name) && value != "null";
        if counts {
            self.0 ^= hash(hash(1, name.as_bytes()), value.as_bytes());
        }
        counts
    }
}

/// A prompt, as far as it can be compared with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    chain: Vec<Link>,
    /// About how many tokens it has.
    pub tokens: u64,
    /// The conversation that it belongs to, if the client says.
    pub tie: Option<u64>,
}

/// The prompt up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    hash: u64,
    tokens: u64,
}

impl Prompt {
    /// The prompt of a conversation of these messages.
    #[must_use]
    pub fn of_messages<T: AsRef<str>>(messages: &[T]) -> Self {
        let mut gist = Gist::default();
        for message in messages {
            gist.link(message.as_ref(), tokens_of(message.as_ref().len()));
        }
        gist.prompt(None)
    }

    /// What ties requests together that carry this text.
    #[must_use]
    pub fn tie_of(text: &str) -> u64 {
        hash(2, text.as_bytes())
    }

    /// Whether nothing can be compared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// Tokens of the beginning that both have.
    #[must_use]
    pub fn tokens_shared_with(&self, other: &Self) -> u64 {
        // hashes are over all that comes before, so where they differ once they differ for good
        let most = self.chain.len().min(other.chain.len());
        let (mut same, mut differs) = (0, most);
        while same < differs {
            let middle = same + (differs - same) / 2;
            match (self.chain.get(middle), other.chain.get(middle)) {
                (Some(one), Some(two)) if one.hash == two.hash => same = middle + 1,
                _ => differs = middle,
            }
        }
        let last = same.checked_sub(1).and_then(|at| self.chain.get(at));
        last.map_or(0, |link| link.tokens)
    }

    /// Whether it begins with all of the other.
    #[must_use]
    pub fn continues(&self, other: &Self) -> bool {
        let Some(at) = other.chain.len().checked_sub(1) else { return false };
        match (self.chain.get(at), other.chain.get(at)) {
            (Some(own), Some(its)) => own.hash == its.hash,
            _ => false,
        }
    }
}

/// What a body says about the work that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gist {
    runner: Runner,
    /// The options behind it, as members of a JSON object.
    pub(super) runner_options: String,
    /// `shift` is off: of a context that is full nothing may be dropped.
    pub(super) keeps_all: bool,
    pub(super) most_output: Option<u64>,
    tie: Option<u64>,
    /// System prompt, tools and templates, in whatever order the body has them: all of them are
    /// rendered before the first message.
    preface: u64,
    preface_tokens: u64,
    chain: Vec<Link>,
    tokens: u64,
}

impl Gist {
    pub(super) fn read(&mut self, field: &Field<'_>) {
        match &*field.name {
            "messages" | "input" | "prompt" => self.read_prompt(field.value),
            "system" | "tools" | "template" | "suffix" | "context" | "instructions" => {
                self.preface ^= hash(hash(3, field.name.as_bytes()), field.value.as_bytes());
                self.preface_tokens += tokens_of(field.value.len());
            }
            // beside a prompt that is no list of messages, and read before it
            "images" => {
                self.preface ^= hash(hash(3, field.name.as_bytes()), field.value.as_bytes());
                each_element(field.value, |_, _| self.preface_tokens += TOKENS_PER_FILE);
            }
            "options" => self.read_options(field.value),
            "shift" => self.keeps_all = field.value == "false",
            "max_tokens" | "max_output_tokens" | "max_completion_tokens" => {
                self.limit(field.value);
            }
            "prompt_cache_key" => self.tie = Some(Prompt::tie_of(field.value)),
            "metadata" => self.read_metadata(field.value),
            _ => {}
        }
    }

    /// The options that a loaded model cannot change.
    pub(super) fn runner(&self) -> Runner {
        Runner(self.runner.0 ^ if self.keeps_all { hash(1, b"shift") } else { 0 })
    }

    /// The route hears of none of the options that a loaded model cannot change.
    pub(super) fn forget_runner(&mut self) {
        (self.runner, self.keeps_all) = (Runner::default(), false);
        self.runner_options.clear();
    }

    /// The instance has this context length for requests that cannot say one.
    pub(super) fn assume_context(&mut self, tokens: u32) {
        self.read_options(&format!(r#"{{"num_ctx":{tokens}}}"#));
    }

    /// The prompt; `tie` is what a header says of the conversation.
    pub(super) fn prompt(&self, tie: Option<&str>) -> Prompt {
        let with_preface = |link: &Link| Link {
            hash: link.hash ^ self.preface,
            tokens: link.tokens + self.preface_tokens,
        };
        Prompt {
            chain: self.chain.iter().map(with_preface).collect(),
            tokens: self.tokens + self.preface_tokens,
            tie: tie.map(Prompt::tie_of).or(self.tie),
        }
    }

    fn read_prompt(&mut self, value: &str) {
        if value.starts_with('[') {
            each_element(value, |element, tokens| self.link(element, tokens));
            return;
        }
        let mut rest = value.as_bytes();
        while let Some((piece, behind)) = rest.split_at_checked(PIECE.min(rest.len())) {
            if piece.is_empty() {
                break;
            }
            self.link_bytes(piece, tokens_of(piece.len()));
            rest = behind;
        }
    }

    fn link(&mut self, text: &str, tokens: u64) {
        self.link_bytes(text.as_bytes(), tokens);
    }

    fn link_bytes(&mut self, bytes: &[u8], tokens: u64) {
        self.tokens += tokens;
        if self.chain.len() < MAX_LINKS {
            let before = self.chain.last().map_or(4, |link| link.hash);
            self.chain.push(Link { hash: hash(before, bytes), tokens: self.tokens });
        }
    }

    /// What is wrong in it is for the instance to say.
    fn read_options(&mut self, value: &str) {
        let (mut runner, mut most) = (self.runner, None);
        let mut written = String::new();
        let read = walk::each_field(value, |option| {
            if runner.read(&option.name, option.value) {
                let comma = if written.is_empty() { "" } else { "," };
                written.extend([comma, "\"", &*option.name, "\":", option.value]);
            }
            if option.name == "num_predict" {
                most = Some(option.value);
            }
            Ok(())
        });
        if read.is_ok() {
            (self.runner, self.runner_options) = (runner, written);
            most.into_iter().for_each(|value| self.limit(value));
        }
    }

    fn limit(&mut self, value: &str) {
        // of several the one that is reached first counts
        if let Ok(limit) = value.parse::<u64>() {
            self.most_output = Some(self.most_output.map_or(limit, |before| before.min(limit)));
        }
    }

    fn read_metadata(&mut self, value: &str) {
        let mut tie = None;
        let read = walk::each_field(value, |field| {
            if field.name == "user_id" {
                tie = Some(Prompt::tie_of(field.value));
            }
            Ok(())
        });
        if read.is_ok() {
            self.tie = self.tie.or(tie);
        }
    }
}

const fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

/// Shows every element of an array that is known to be valid JSON, and about its tokens. Faster
/// than reading it a second time, for bodies are most of what there is to look at.
fn each_element<'a>(array: &'a str, mut show: impl FnMut(&'a str, u64)) {
    let bytes = array.as_bytes();
    let (mut depth, mut at, mut begins, mut files, mut file_bytes) = (0_usize, 0, 1, 0_u64, 0);
    while let Some(&byte) = bytes.get(at) {
        let ends = match byte {
            b'"' => {
                let end = string_end(bytes, at + 1);
                if is_file(bytes.get(at + 1..end).unwrap_or_default()) {
                    files += 1;
                    file_bytes += end - at;
                }
                at = end;
                false
            }
            b'{' | b'[' => {
                depth += 1;
                false
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                depth == 0
            }
            b',' => depth == 1,
            _ => false,
        };
        if ends {
            let element = array.get(begins..at).unwrap_or_default().trim_ascii();
            if !element.is_empty() {
                let text = tokens_of(element.len().saturating_sub(file_bytes));
                show(element, text + files * TOKENS_PER_FILE);
            }
            (begins, files, file_bytes) = (at + 1, 0, 0);
        }
        at += 1;
    }
}

/// Where the string that begins here ends: its closing quote.
fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes.get(at) == Some(&b'"') {
            return at;
        }
        at += 2;
    }
    bytes.len()
}

fn is_file(string: &[u8]) -> bool {
    string.len() > FILE
        && !string
            .iter()
            .take(FILE_BEGINNING)
            .any(|byte| byte.is_ascii_whitespace() || *byte == b'\\')
        && string.iter().take(FILE_BEGINNING).all(u8::is_ascii)
}

/// Quick and even; who makes two prompts meet in it deceives nobody but themselves.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, word: u64| {
        let product = u128::from(state ^ word).wrapping_mul(u128::from(ODD) << 1 | 1);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let mut state = mix(seed.wrapping_add(ODD), bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        state = mix(state, u64::from_le_bytes(word.try_into().unwrap_or_default()));
    }
    let mut last = [0; 8];
    last.iter_mut().zip(words.remainder()).for_each(|(to, from)| *to = *from);
    mix(mix(state, u64::from_le_bytes(last)), ODD)
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;

    fn prompt(body: &str) -> Prompt {
        inspect(body.as_bytes()).unwrap().prompt(None)
    }

    fn chat(turns: &[&str]) -> Prompt {
        let turn = |text: &&str| format!(r#"{{"role":"user","content":"{text}"}}"#);
        let turns: Vec<_> = turns.iter().map(turn).collect();
        prompt(&format!(r#"{{"model":"m","messages":[{}]}}"#, turns.join(" , ")))
    }

    #[test]
    fn prompts_share_the_messages_that_they_begin_with() {
        let (short, long) = (chat(&["one", "two"]), chat(&["one", "two", "three", "four"]));
        assert_eq!(long.tokens_shared_with(&short), short.tokens);
        assert!(long.continues(&short) && !short.continues(&long));
        let other = chat(&["one", "zwei", "three", "four"]);
        assert_eq!(long.tokens_shared_with(&other), chat(&["one"]).tokens);
        assert_eq!(long.tokens_shared_with(&chat(&["uno", "two"])), 0);
    }

    #[test]
    fn what_is_rendered_first_is_shared_first_wherever_it_stands() {
        let before = prompt(r#"{"system":"be kind","messages":[{"content":"one"}]}"#);
        let behind = prompt(r#"{"messages":[{"content":"one"}],"system":"be kind"}"#);
        assert_eq!(before, behind);
        let other = prompt(r#"{"messages":[{"content":"one"}],"system":"be short"}"#);
        assert_eq!(before.tokens_shared_with(&other), 0);
    }

    #[test]
    fn texts_are_compared_piece_by_piece() {
        let text = "word ".repeat(2000);
        let short = prompt(&format!(r#"{{"prompt":"{text}"}}"#));
        let long = prompt(&format!(r#"{{"prompt":"{text}and more"}}"#));
        let shared = long.tokens_shared_with(&short);
        assert!(shared > short.tokens * 3 / 4 && shared < short.tokens, "{shared}");
    }

    #[test]
    fn brackets_and_quotes_inside_of_strings_divide_nothing() {
        let gist = |array: &str| {
            let mut seen = Vec::new();
            each_element(array, |element, _| seen.push(element.to_owned()));
            seen
        };
        assert_eq!(gist(r#"[{"a":"],[\"}"} , [1,2],"x,y\\",3]"#).len(), 4);
        assert_eq!(gist(r#"[{"a":"],[\"}"} , [1,2]]"#), [r#"{"a":"],[\"}"}"#, "[1,2]"]);
        assert!(gist("[]").is_empty() && gist("[ ]").is_empty());
    }

    #[test]
    fn a_picture_is_no_library_of_text() {
        let picture = "A".repeat(400_000);
        let body = format!(r#"{{"messages":[{{"content":"what is it","images":["{picture}"]}}]}}"#);
        let tokens = prompt(&body).tokens;
        assert!((TOKENS_PER_FILE..TOKENS_PER_FILE + 100).contains(&tokens), "{tokens}");
        let beside = format!(r#"{{"prompt":"what is it","images":["{picture}","{picture}"]}}"#);
        assert_eq!(prompt(&beside).tokens, 2 * TOKENS_PER_FILE + 3);
        assert_eq!(prompt(r#"{"prompt":"what is it","images":null}"#).tokens, 3);
    }

    #[test]
    fn options_that_a_loaded_model_cannot_change_are_told_from_the_others() {
        let runner = |options: &str| {
            inspect(format!(r#"{{"options":{{{options}}}}}"#).as_bytes()).unwrap().runner()
        };
        assert_eq!(runner(""), Runner::default());
        assert_eq!(runner(r#""temperature":0,"num_predict":9"#), Runner::default());
        assert_ne!(runner(r#""num_ctx":8192"#), Runner::default());
        assert_ne!(runner(r#""num_ctx":8192"#), runner(r#""num_ctx":4096"#));
        assert_eq!(
            runner(r#""num_ctx":8192,"num_gpu":1"#),
            runner(r#""num_gpu":1,"temperature":1,"num_ctx":8192"#)
        );
    }

    #[test]
    fn limits_and_ties_are_found_where_each_dialect_has_them() {
        let most = |body: &str| inspect(body.as_bytes()).unwrap().most_output();
        assert_eq!(most(r#"{"options":{"num_predict":9}}"#), Some(9));
        assert_eq!(most(r#"{"options":{"num_predict":-1}}"#), None);
        assert_eq!(most(r#"{"max_tokens":7}"#), Some(7));
        assert_eq!(most(r#"{"max_completion_tokens":9,"max_tokens":64}"#), Some(9));
        let tie = |body: &str| prompt(body).tie;
        assert_eq!(tie(r#"{"prompt_cache_key":"a"}"#), tie(r#"{"metadata":{"user_id":"a"}}"#));
        assert_eq!(tie(r#"{"metadata":{"other":"a"}}"#), None);
        let header = inspect(br#"{"prompt_cache_key":"a"}"#).unwrap().prompt(Some("chat"));
        assert_eq!(header.tie, Some(Prompt::tie_of("chat")), "the header is nearer to the truth");
    }
}
