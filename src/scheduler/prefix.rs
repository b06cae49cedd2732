//! Which prompts an instance has read lately, and so need not read again.
//!
//! A runner keeps the last prompt of each slot (and some more in the machine's memory), and reads
//! of the next one only what differs. Nothing in its answers says what was kept, so it is kept
//! track of here, message by message, by their hashes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::payload::Prompt;

/// Prompts remembered of a model on an instance, for each of its slots, and at least: what
/// llama-server's cache in the machine's memory (8 GiB) holds of common models.
const PER_SLOT: usize = 2;
const AT_LEAST: usize = 8;
const AT_MOST: usize = 256;
/// Of a conversation whose beginning has changed, the part that is hoped to be the same.
const TIED: u64 = 2;

/// The prompts that were last sent to one model on one instance, the newest first.
#[derive(Debug, Default)]
pub(super) struct Memory {
    prompts: VecDeque<Arc<Prompt>>,
}

impl Memory {
    /// Tokens of this prompt that are likely cached.
    pub(super) fn cached(&self, prompt: &Prompt) -> u64 {
        if prompt.is_empty() {
            return 0;
        }
        self.prompts.iter().map(|known| shared(known, prompt)).max().unwrap_or_default()
    }

    /// Remembers a prompt; it takes the place of the one that it continues.
    pub(super) fn remember(&mut self, prompt: &Arc<Prompt>, slots: u32) {
        if prompt.is_empty() {
            return;
        }
        let most = usize::try_from(slots).unwrap_or(usize::MAX).saturating_mul(PER_SLOT);
        self.prompts.retain(|known| !prompt.continues(known));
        self.prompts.push_front(Arc::clone(prompt));
        self.prompts.truncate(most.clamp(AT_LEAST, AT_MOST));
    }

    /// The model was unloaded.
    pub(super) fn forget(&mut self) {
        self.prompts.clear();
    }
}

fn shared(known: &Prompt, prompt: &Prompt) -> u64 {
    let same = prompt.tokens_shared_with(known);
    match (known.tie, prompt.tie) {
        (Some(one), Some(other)) if one == other => {
            same.max(known.tokens.min(prompt.tokens) / TIED)
        }
        _ => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(messages: &[&str], tie: Option<&str>) -> Arc<Prompt> {
        let mut prompt = Prompt::of_messages(messages);
        prompt.tie = tie.map(Prompt::tie_of);
        Arc::new(prompt)
    }

    const LONG: &str = "a message of forty letters, more or less";

    #[test]
    fn the_next_turn_of_a_conversation_is_known_but_for_its_end() {
        let mut memory = Memory::default();
        let first = prompt(&[LONG, LONG], None);
        memory.remember(&first, 1);
        let next = prompt(&[LONG, LONG, LONG, LONG], None);
        assert_eq!(memory.cached(&next), first.tokens);
        assert_eq!(memory.cached(&prompt(&["other", LONG], None)), 0);
        memory.remember(&next, 1);
        assert_eq!(memory.prompts.len(), 1, "it took the place of its beginning");
        memory.forget();
        assert_eq!(memory.cached(&next), 0);
    }

    #[test]
    fn a_tie_counts_where_the_beginning_has_changed() {
        let mut memory = Memory::default();
        let before = prompt(&[LONG, LONG], Some("chat-1"));
        memory.remember(&before, 1);
        let cut = prompt(&["summary", LONG], Some("chat-1"));
        assert_eq!(memory.cached(&cut), cut.tokens.min(before.tokens) / TIED);
        assert_eq!(memory.cached(&prompt(&["summary", LONG], Some("chat-2"))), 0);
    }

    #[test]
    fn as_many_are_remembered_as_the_runner_may_keep() {
        let mut memory = Memory::default();
        let names: Vec<String> = (0..100).map(|number| format!("conversation {number}")).collect();
        let prompts: Vec<_> = names.iter().map(|name| prompt(&[name], None)).collect();
        prompts.iter().for_each(|prompt| memory.remember(prompt, 6));
        let known = prompts.iter().filter(|prompt| memory.cached(prompt) > 0).count();
        assert_eq!(known, 12);
    }
}
