//! Whoever came last on a connection mostly comes again: to compare a key with the one that was
//! presented last costs a fraction of hashing it and looking it up.
//!
//! Like the cache, this remembers an identity and never a decision, and it holds no longer than an
//! entry of the cache does.

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::Known;

/// The key that was presented last on one connection, and whose it is. It is wiped from memory
/// when another one comes, and when the connection goes.
#[derive(Default)]
pub struct Acquaintance(Mutex<Option<Last>>);

struct Last {
    presented: Zeroizing<String>,
    holder: Known,
}

impl Acquaintance {
    /// Whose this key was, if it is the one that was presented last.
    pub(super) fn holder(&self, presented: &str) -> Option<Known> {
        let last = self.0.lock();
        let last = last.as_ref().filter(|last| same(&last.presented, presented))?;
        Some(last.holder.clone())
    }

    /// Remembers whose this key is.
    pub(super) fn remember(&self, presented: &str, holder: Known) {
        let presented = Zeroizing::new(presented.to_owned());
        *self.0.lock() = Some(Last { presented, holder });
    }
}

/// Takes as long whatever the first difference is.
fn same(one: &str, other: &str) -> bool {
    let bytes = one.bytes().zip(other.bytes());
    one.len() == other.len() && bytes.fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_letter_by_letter() {
        assert!(same("", "") && same("usk_a", "usk_a"));
        for other in ["usk_b", "usk_", "usk_ab", "Usk_a", ""] {
            assert!(!same("usk_a", other), "{other}");
        }
        // differences that would undo each other if they were added up
        assert!(!same("usk_ab", "usk_ba") && !same("usk_aa", "usk_bb"));
    }
}
