//! SSH public keys, as `ssh-keygen` and the `ollama` command write them: `ssh-ed25519 BASE64 NAME`.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use ring::digest;

const KIND: &str = "ssh-ed25519";
const KEY_LEN: usize = 32;
/// How the base64 of every such key begins: the length of the kind, and the kind.
const BEGINNING: &str = "AAAAC3NzaC1lZDI1NTE5";

/// The public half of an Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    base64: String,
    key: [u8; KEY_LEN],
}

impl PublicKey {
    /// Reads a line of a `.pub` file; what stands behind the key is a remark.
    ///
    /// # Errors
    /// [`BadPublicKey`] for anything but one Ed25519 key.
    pub fn parse(line: &str) -> Result<Self, BadPublicKey> {
        let mut words = line.split_ascii_whitespace();
        if line.trim_end().contains(['\n', '\r']) || words.next() != Some(KIND) {
            return Err(BadPublicKey);
        }
        Self::from_base64(words.next().ok_or(BadPublicKey)?)
    }

    /// Reads the middle of such a line, which is what the store keeps.
    ///
    /// # Errors
    /// [`BadPublicKey`] for anything but one Ed25519 key in its only spelling.
    pub fn from_base64(base64: &str) -> Result<Self, BadPublicKey> {
        let blob = BASE64_STANDARD.decode(base64).map_err(|_| BadPublicKey)?;
        let (kind, rest) = field(&blob)?;
        let (key, rest) = field(rest)?;
        if kind != KIND.as_bytes() || !rest.is_empty() {
            return Err(BadPublicKey);
        }
        let key = key.try_into().map_err(|_| BadPublicKey)?;
        Ok(Self { base64: base64.to_owned(), key })
    }

    /// Whether this may be the base64 of one, by its look.
    pub fn looks_like_one(text: &str) -> bool {
        text.starts_with(BEGINNING)
    }

    /// What the store keeps.
    pub fn base64(&self) -> &str {
        &self.base64
    }

    /// The key itself.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    /// As `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        let blob = BASE64_STANDARD.decode(&self.base64).unwrap_or_default();
        let hash = digest::digest(&digest::SHA256, &blob);
        format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(hash))
    }

    /// As a `.pub` file has it, without a remark.
    pub fn line(&self) -> String {
        format!("{KIND} {}", self.base64)
    }
}

/// A length and so many bytes (RFC 4251, 5: `string`), and what is behind them.
fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), BadPublicKey> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(BadPublicKey)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BadPublicKey)?;
    rest.split_at_checked(length).ok_or(BadPublicKey)
}

/// The text is no public key that could be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the line of an Ed25519 public key: ssh-ed25519 AAAA...")]
pub struct BadPublicKey;

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `ssh-keygen -t ed25519`; its private half was thrown away.
    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFV185P78fAo3kujNd6z843/HnIk8sNyrdo8SqxNHSYe me@box";

    #[test]
    fn a_line_of_a_file_is_read_without_its_remark() {
        let key = PublicKey::parse(&format!("{LINE}\n")).unwrap();
        assert!(LINE.starts_with(&key.line()));
        assert_eq!(PublicKey::from_base64(key.base64()), Ok(key.clone()));
        assert_eq!(PublicKey::parse(&key.line()), Ok(key.clone()));
        let fingerprint = "SHA256:AXRLgCxYtQIJMvUAdLxalz3AVnLHAvFcNMJzE356Ac0";
        assert_eq!(key.fingerprint(), fingerprint, "as `ssh-keygen -l` says");
        assert!(PublicKey::looks_like_one(key.base64()));
    }

    #[test]
    fn anything_else_is_refused() {
        let base64 = LINE.split(' ').nth(1).unwrap();
        let long = format!("{}AAAA", base64);
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 !!!!",
            base64,
            &format!("ssh-rsa {base64}"),
            &format!("ssh-ed25519 {long}"),
            &format!("{LINE}\n{LINE}"),
            &format!("command=\"x\" {LINE}"),
        ] {
            assert_eq!(PublicKey::parse(bad), Err(BadPublicKey), "{bad:?}");
        }
    }
}
