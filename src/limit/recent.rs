//! A map that forgets what was touched longest ago, so that its memory is bounded.

use std::collections::HashMap;
use std::hash::Hash;

/// Keeps the newest entries: at least `half` of them, at most twice as many.
///
/// Two maps take turns. New and touched entries live in the young one; when that is full it
/// becomes the old one, and what the old one held untouched is forgotten.
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash + Copy, V: Default> Recent<K, V> {
    pub(super) fn new(half: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half }
    }

    /// The entry of this key, a new one if there is none.
    pub(super) fn touch(&mut self, key: K) -> &mut V {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            // the entry itself may be in what is about to be forgotten
            let kept = self.old.remove(&key);
            self.old = std::mem::take(&mut self.young);
            self.young.extend(kept.map(|value| (key, value)));
        }
        let before = self.old.remove(&key);
        self.young.entry(key).or_insert_with(|| before.unwrap_or_default())
    }

    /// The entry of this key, if there is one; looking is not touching.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newest_are_kept_and_the_untouched_forgotten() {
        let mut recent = Recent::new(2);
        for key in 1..=3 {
            *recent.touch(key) = key * 10;
        }
        assert_eq!(*recent.touch(1), 10, "touched, so young again");
        *recent.touch(4) = 40;
        assert_eq!(recent.get(&2), None, "the oldest untouched one");
        assert_eq!(
            (recent.get(&1), recent.get(&3), recent.get(&4)),
            (Some(&10), Some(&30), Some(&40))
        );
        recent.remove(&1);
        assert_eq!(recent.get(&1), None);
        assert_eq!(*recent.touch(1), 0);
    }

    proptest! {
        #[test]
        fn it_holds_the_newest_half_and_never_more_than_twice_that(
            half in 1_usize..5,
            keys in proptest::collection::vec(0_u8..12, 0..60),
        ) {
            let mut recent = Recent::<u8, u32>::new(half);
            let mut newest: Vec<u8> = Vec::new();
            for key in keys {
                *recent.touch(key) += 1;
                newest.retain(|k| *k != key);
                newest.push(key);
                prop_assert!(recent.young.len() + recent.old.len() <= 2 * half);
                for kept in newest.iter().rev().take(half) {
                    prop_assert!(recent.get(kept).is_some_and(|touched| *touched > 0));
                }
            }
        }
    }
}
