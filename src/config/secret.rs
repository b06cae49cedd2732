//! Secrets of the configuration: API keys of instances, database URLs, what signs tokens.

use std::collections::BTreeSet;
use std::fmt;

use zeroize::Zeroizing;

/// Bytes of a secret that signs tokens: as many as its signature has.
const SHORTEST: usize = 32;
/// Different bytes that it has at least; a random one has more, even if written in hexadecimal.
const LEAST_VARIED: usize = 8;
/// What examples and defaults of other programs are made of, lower case.
const WELL_KNOWN: [&str; 12] = [
    "super-secret-jwt-token",
    "your-256-bit-secret",
    "your-512-bit-secret",
    "string-secret-at-least-256-bits-long",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "your-secret",
    "your_secret",
    "my-secret",
    "change-me",
    "changeme",
    "change_me",
    "insecure",
];

/// A secret value: wiped when dropped; `Debug` and `Display` show nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the secret over.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// Why it must not sign tokens, if it must not: whoever guesses it can be anybody.
    pub fn weakness(&self) -> Option<&'static str> {
        let bytes = self.0.as_bytes();
        let lower = self.0.to_ascii_lowercase();
        let different = bytes.iter().collect::<BTreeSet<_>>().len();
        if bytes.len() < SHORTEST {
            Some("is too short to sign tokens with: make one with `openssl rand -base64 48`")
        } else if WELL_KNOWN.iter().any(|known| lower.contains(known)) {
            Some("is a secret that everybody knows: make one with `openssl rand -base64 48`")
        } else if different < LEAST_VARIED {
            Some("repeats a few characters: make a random one with `openssl rand -base64 48`")
        } else {
            None
        }
    }

    /// The secret itself, for the one place that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {secret}"), "Secret [secret]");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn what_signs_tokens_is_long_random_and_nobody_elses() {
        let weakness = |text: &str| Secret::new(text.to_owned()).weakness().is_some();
        let random = "Zm9yIHRlc3RzIGFsb25lLCBuZXZlciB1c2VkIGFueXdoZXJl";
        assert!(!weakness(random));
        assert!(!weakness("5f2b1c9d8e7a60413b2c5d6e7f809a1b2c3d4e5f60718293a4b5c6d7e8f90a1b"));
        assert!(!weakness(random.get(..32).unwrap()));
        assert!(weakness(random.get(..31).unwrap()));
        assert!(weakness(&"x".repeat(64)));
        assert!(weakness(&"1234567".repeat(8)), "seven different bytes");
        assert!(!weakness(&"12345678".repeat(8)), "eight");
        assert!(weakness("super-secret-jwt-token-with-at-least-32-characters-long"));
        assert!(weakness("A-String-Secret-At-Least-256-Bits-Long"));
        assert!(weakness("please change-me before you put this into production"));
        assert!(weakness(""));
    }
}
