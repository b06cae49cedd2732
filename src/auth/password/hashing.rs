//! Argon2id, as OWASP's password storage cheat sheet wants it at least: 19 MiB, two passes.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};

use super::Password;

/// Memory of a hash, KiB.
const MEMORY: u32 = 19 * 1024;
/// Passes over it.
const PASSES: u32 = 2;
/// Bytes of the outcome.
const LENGTH: usize = 32;
/// A stored hash that asks for more memory (KiB) or passes than this is none of ours: it would
/// take what the gateway needs.
const MOST: (u32, u32) = (256 * 1024, 16);

/// No memory or no randomness for a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hashing a password failed")]
pub struct HashFailed;

/// What came of comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) right: bool,
    /// Whether the stored hash is weaker than those made today.
    pub(super) outdated: bool,
}

/// Hashes a password for keeping, on this thread: a PHC string with its parameters and a new salt.
///
/// # Errors
/// [`HashFailed`]
pub fn hash_now(password: &Password) -> Result<String, HashFailed> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| HashFailed)?;
    let salt = Salt::new(&bytes).map_err(|_| HashFailed)?;
    let params = params()?;
    let hash = compute(&params, password.bytes(), &salt)?;
    phc(&params, salt, hash).map(|hash| hash.to_string())
}

/// Compares a password with a stored hash. Where there is none, or one that cannot be read, a
/// hash of the same cost is made all the same.
pub(super) fn check(password: &[u8], stored: Option<&str>) -> Result<Checked, HashFailed> {
    let stored = stored.map(readable);
    if let Some(None) = stored {
        log::error!("a password hash in the database cannot be read: its user cannot log in");
    }
    let (stored, exists) = match stored.flatten() {
        Some(stored) => (stored, true),
        None => (nobodys()?, false),
    };
    let Stored { params, salt, hash } = stored;
    let computed = compute(&params, password, &salt)?;
    // `Output` compares in constant time
    let right = computed == hash && exists;
    let outdated = params.m_cost() < MEMORY || params.t_cost() < PASSES;
    Ok(Checked { right, outdated })
}

struct Stored {
    params: Params,
    salt: Salt,
    hash: Output,
}

fn readable(text: &str) -> Option<Stored> {
    let read = PasswordHash::new(text).ok()?;
    let params = Params::try_from(&read).ok()?;
    let ours = read.algorithm == ARGON2ID_IDENT
        && read.version == Some(Version::V0x13.into())
        && params.m_cost() <= MOST.0
        && params.t_cost() <= MOST.1
        && params.p_cost() == 1;
    let (salt, hash) = (read.salt?, read.hash?);
    ours.then_some(Stored { params, salt, hash })
}

/// The hash of nobody's password: no input is known to lead to it.
fn nobodys() -> Result<Stored, HashFailed> {
    let salt = Salt::new(b"nobody's").map_err(|_| HashFailed)?;
    let hash = Output::new(&[0; LENGTH]).map_err(|_| HashFailed)?;
    Ok(Stored { params: params()?, salt, hash })
}

fn params() -> Result<Params, HashFailed> {
    Params::new(MEMORY, PASSES, 1, Some(LENGTH)).map_err(|_| HashFailed)
}

fn compute(params: &Params, password: &[u8], salt: &Salt) -> Result<Output, HashFailed> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut hash = vec![0; params.output_len().unwrap_or(LENGTH)];
    argon2.hash_password_into(password, salt, &mut hash).map_err(|_| HashFailed)?;
    Output::new(&hash).map_err(|_| HashFailed)
}

fn phc(params: &Params, salt: Salt, hash: Output) -> Result<PasswordHash, HashFailed> {
    Ok(PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(|_| HashFailed)?,
        salt: Some(salt),
        hash: Some(hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_with(memory: u32, passes: u32, password: &[u8]) -> String {
        let params = Params::new(memory, passes, 1, Some(LENGTH)).unwrap();
        let salt = Salt::new(b"0123456789abcdef").unwrap();
        let hash = compute(&params, password, &salt).unwrap();
        phc(&params, salt, hash).unwrap().to_string()
    }

    #[test]
    fn a_hash_says_how_it_was_made_and_is_never_made_twice() {
        let password = Password::new("correct horse battery".to_owned());
        let (one, two) = (hash_now(&password).unwrap(), hash_now(&password).unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two, "each has a salt of its own");
        for stored in [&one, &two] {
            let checked = check(password.bytes(), Some(stored)).unwrap();
            assert_eq!(checked, Checked { right: true, outdated: false });
            assert!(!check(b"correct horse batter", Some(stored)).unwrap().right);
        }
    }

    /// Of the tests of the reference implementation: password, salt `somesalt`, 256 KiB, two passes.
    #[test]
    fn a_hash_of_another_program_is_understood() {
        let stored =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert_eq!(check(b"password", Some(stored)), Ok(Checked { right: true, outdated: true }));
        assert!(!check(b"Password", Some(stored)).unwrap().right);
    }

    #[test]
    fn a_weaker_hash_is_outdated_and_a_stronger_one_is_not() {
        for (memory, passes, outdated) in
            [(MEMORY, 2, false), (MEMORY - 8, 2, true), (MEMORY, 1, true), (MEMORY * 2, 3, false)]
        {
            let stored = hash_with(memory, passes, b"p");
            assert_eq!(check(b"p", Some(&stored)), Ok(Checked { right: true, outdated }));
        }
    }

    #[test]
    fn what_is_no_hash_of_ours_is_nobodys() {
        let good = hash_with(MEMORY, 2, b"p");
        for bad in [
            "",
            "p",
            "$2y$10$abcdefghijklmnopqrstuu",
            &good.replace("argon2id", "argon2i"),
            &good.replace("v=19", "v=16"),
            &good.replace("m=19456", "m=4294967295"),
            &good.replace("t=2", "t=4294967295"),
            &good.replace("p=1", "p=4"),
            good.rsplit_once('$').unwrap().0,
        ] {
            assert!(readable(bad).is_none(), "{bad}");
            assert!(!check(b"p", Some(bad)).unwrap().right, "{bad}");
        }
        assert!(!check(b"", None).unwrap().right);
    }
}
