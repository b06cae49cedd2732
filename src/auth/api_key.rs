//! The format of API keys: `usk_` + 12 public id + `_` + 43 secret + 6 check, all base62.
//!
//! The check is the CRC32 of everything before it, so a mistyped or cut key is refused without a
//! lookup and secret scanners can tell a key from noise. 43 base62 digits are 256 bits: such a
//! key needs no slow hash, and the store keeps the SHA-256 of the whole.

use std::fmt;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::KeyFault;

const PREFIX: &str = "usk_";
const PUBLIC_ID_LEN: usize = 12;
const SECRET_LEN: usize = 43;
const CHECK_LEN: usize = 6;
const BODY_LEN: usize = PREFIX.len() + PUBLIC_ID_LEN + 1 + SECRET_LEN;
const KEY_LEN: usize = BODY_LEN + CHECK_LEN;

/// Lengths of keys that an earlier system issued.
const FOREIGN_LEN: std::ops::RangeInclusive<usize> = 16..=256;

/// What a presented string can be, judged by its form alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape<'k> {
    /// A key of Usher's own format whose check is right.
    Own {
        /// The part that may be shown and logged.
        public_id: &'k str,
    },
    /// A key of another shape, 16 to 256 visible ASCII characters: perhaps an imported one.
    Foreign,
}

impl<'k> Shape<'k> {
    /// The part of the key that may be shown and logged, where its format has one.
    pub fn public_id(self) -> Option<&'k str> {
        match self {
            Self::Own { public_id } => Some(public_id),
            Self::Foreign => None,
        }
    }
}

/// Judges the form of a presented key, without any lookup.
///
/// # Errors
/// [`KeyFault::Malformed`] for whatever starts with `usk_` and is not a whole key with the right
/// check, and for anything else that is not 16 to 256 visible ASCII characters.
pub fn classify(presented: &str) -> Result<Shape<'_>, KeyFault> {
    let shape = if presented.starts_with(PREFIX) {
        public_id(presented).map(|public_id| Shape::Own { public_id })
    } else {
        let foreign = FOREIGN_LEN.contains(&presented.len())
            && presented.bytes().all(|byte| byte.is_ascii_graphic());
        foreign.then_some(Shape::Foreign)
    };
    shape.ok_or(KeyFault::Malformed)
}

/// The public id of a well-formed key.
fn public_id(key: &str) -> Option<&str> {
    if key.len() != KEY_LEN {
        return None;
    }
    let (body, check) = key.split_at_checked(BODY_LEN)?;
    let (public_id, secret) = body.strip_prefix(PREFIX)?.split_at_checked(PUBLIC_ID_LEN)?;
    let secret = secret.strip_prefix('_')?;
    let base62 = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let whole = base62(public_id) && base62(secret) && check.bytes().eq(check_digits(body));
    whole.then_some(public_id)
}

/// A fresh key: what its holder gets, and what the store keeps.
#[derive(Debug)]
pub struct NewKey {
    /// The key itself, to be shown once.
    pub plaintext: PlainKey,
    /// The part that may be shown and logged.
    pub public_id: String,
    /// What the store keeps.
    pub hash: KeyHash,
}

/// Makes a key from the system's randomness.
///
/// # Errors
/// [`RandomFailed`] if the system has none to give.
pub fn generate() -> Result<NewKey, RandomFailed> {
    let mut public_id = String::with_capacity(PUBLIC_ID_LEN);
    push_random(&mut public_id, PUBLIC_ID_LEN)?;
    let mut key = Zeroizing::new(String::with_capacity(KEY_LEN));
    key.push_str(PREFIX);
    key.push_str(&public_id);
    key.push('_');
    push_random(&mut key, SECRET_LEN)?;
    let check = check_digits(&key);
    key.extend(check.map(char::from));
    let hash = KeyHash::of(key.as_bytes());
    Ok(NewKey { plaintext: PlainKey(key), public_id, hash })
}

/// Appends `count` digits, every one of the 62 equally likely: six random bits each, drawn again
/// when they name no digit.
fn push_random(text: &mut String, count: usize) -> Result<(), RandomFailed> {
    let random = SystemRandom::new();
    let mut pool = Zeroizing::new([0_u8; 64]);
    let mut missing = count;
    while missing > 0 {
        random.fill(pool.as_mut_slice()).map_err(|_| RandomFailed)?;
        let digits = pool.iter().map(|byte| byte & 0x3f).filter(|&bits| bits < 62);
        for bits in digits.take(missing) {
            text.push(char::from(digit(bits)));
            missing -= 1;
        }
    }
    Ok(())
}

/// The last six digits of a key, from all before them.
fn check_digits(body: &str) -> [u8; CHECK_LEN] {
    base62(crc32fast::hash(body.as_bytes()))
}

/// Six digits hold any 32-bit sum; most significant first.
fn base62(sum: u32) -> [u8; CHECK_LEN] {
    let mut rest = sum;
    let mut digits = [b'0'; CHECK_LEN];
    for place in digits.iter_mut().rev() {
        *place = digit((rest % 62) as u8);
        rest /= 62;
    }
    digits
}

/// The base62 digit of a value below 62: `0-9A-Za-z`.
fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        10..=35 => b'A' + (value - 10),
        _ => b'a' + (value - 36),
    }
}

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system's source of randomness failed")]
pub struct RandomFailed;

/// A whole key in the clear. It is wiped from memory when dropped, and Debug shows nothing of it.
pub struct PlainKey(Zeroizing<String>);

impl PlainKey {
    /// The key itself: to be shown to its holder, and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey")
    }
}

/// SHA-256 of a whole key: all that the store and the cache know of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a presented key.
    pub fn of(key: &[u8]) -> Self {
        let mut hash = [0; 32];
        // SHA-256 gives exactly as many bytes as there are places
        hash.iter_mut()
            .zip(digest::digest(&digest::SHA256, key).as_ref())
            .for_each(|(place, byte)| *place = *byte);
        Self(hash)
    }

    /// Reads 64 hexadecimal digits of either case.
    ///
    /// # Errors
    /// [`BadHash`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, BadHash> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(BadHash) };
        let mut hash = [0; 32];
        if pairs.len() != hash.len() {
            return Err(BadHash);
        }
        for (place, [high, low]) in hash.iter_mut().zip(pairs) {
            *place = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(hash))
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        let hex = |bits: u8| char::from(if bits < 10 { b'0' + bits } else { b'a' + (bits - 10) });
        self.0.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 0xf)]).collect()
    }
}

fn nibble(digit: u8) -> Result<u8, BadHash> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(BadHash),
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// The text is not the SHA-256 of anything.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is written as 64 hexadecimal digits")]
pub struct BadHash;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = "usk_0Aa1Bb2Cc3Dd_GoldenVector0123456789ABCDEFGHIJKLMNOPQRSTU4gaaKg";

    fn fault(presented: &str) -> Option<KeyFault> {
        classify(presented).err()
    }

    #[test]
    fn the_format_is_pinned_by_a_golden_key() {
        let shape = classify(GOLDEN).unwrap();
        assert_eq!(shape.public_id(), Some("0Aa1Bb2Cc3Dd"));
        assert_eq!(
            KeyHash::of(GOLDEN.as_bytes()).to_hex(),
            "0e71ac6063f37a25c5627d877b5ca134c93adfbf778dfa5bdeb4728cfec7a1bb"
        );
    }

    #[test]
    fn a_generated_key_is_read_back_with_its_own_public_id_and_hash() {
        let new = generate().unwrap();
        let shape = classify(new.plaintext.expose()).unwrap();
        assert_eq!(shape.public_id(), Some(new.public_id.as_str()));
        assert_eq!(KeyHash::of(new.plaintext.expose().as_bytes()), new.hash);
        assert_eq!(new.plaintext.expose().len(), 66);
    }

    #[test]
    fn every_digit_is_drawn_and_no_two_keys_are_alike() {
        let mut seen = std::collections::BTreeSet::new();
        let mut digits = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let key = generate().unwrap().plaintext;
            digits.extend(key.expose().bytes().skip(17).take(SECRET_LEN));
            assert!(seen.insert(key.expose().to_owned()));
        }
        assert_eq!(digits.len(), 62);
    }

    #[test]
    fn debug_shows_neither_key_nor_hash() {
        let new = generate().unwrap();
        let shown = format!("{new:?}");
        assert!(!shown.contains(new.plaintext.expose()));
        assert!(!shown.contains(&new.hash.to_hex()));
        assert!(shown.contains("plaintext: PlainKey") && shown.contains("hash: KeyHash"));
    }

    #[test]
    fn keys_of_other_shapes_are_foreign_within_their_bounds() {
        for (key, foreign) in [
            ("x".repeat(15), false),
            ("x".repeat(16), true),
            ("!~".repeat(128), true),
            ("x".repeat(257), false),
            (String::from("sk-with space-0123456789"), false),
            (String::from("sk-with-tab\t0123456789"), false),
            (String::from("sk-with-ümlaut-0123456789"), false),
            (String::from("sk-ollama-0123456789,other"), true),
            (String::new(), false),
        ] {
            assert_eq!(classify(&key).is_ok_and(|s| s == Shape::Foreign), foreign, "{key:?}");
        }
    }

    #[test]
    fn whatever_has_the_prefix_is_a_whole_key_or_malformed() {
        let short = GOLDEN.strip_suffix(|_: char| true).unwrap();
        for key in ["usk_", "usk_0123456789012345", short, &format!("{GOLDEN}0")] {
            assert_eq!(fault(key), Some(KeyFault::Malformed), "{key}");
        }
        let body = GOLDEN.get(..BODY_LEN).unwrap();
        let checked = |body: &str| {
            let check = check_digits(body).map(char::from);
            format!("{body}{}", String::from_iter(check))
        };
        assert_eq!(checked(body), GOLDEN);
        for (place, letter) in [("Aa1", "A-1"), ("Golden", "Gol en"), ("Dd_Go", "Dd-Go")] {
            let odd = checked(&body.replacen(place, letter, 1));
            assert_eq!(fault(&odd), Some(KeyFault::Malformed), "{odd}");
        }
    }

    #[test]
    fn the_check_has_six_digits_for_the_smallest_and_the_largest_sum() {
        assert_eq!(&base62(0), b"000000");
        assert_eq!(&base62(u32::MAX), b"4gfFC3");
    }

    proptest! {
        #[test]
        fn a_key_with_one_other_character_is_refused(at in 0..KEY_LEN, other in any::<char>()) {
            let mut chars: Vec<char> = GOLDEN.chars().collect();
            prop_assume!(chars[at] != other);
            chars[at] = other;
            let mutant: String = chars.iter().collect();
            match classify(&mutant) {
                Err(fault) => prop_assert_eq!(fault, KeyFault::Malformed),
                // without the prefix it is no longer ours: its hash is looked up and unknown
                Ok(shape) => prop_assert!(at < PREFIX.len() && shape == Shape::Foreign),
            }
        }

        #[test]
        fn no_string_makes_it_panic(text in any::<String>(), tail in "\\PC{60,64}") {
            let _ = classify(&text);
            let own = format!("usk_{tail}");
            prop_assert!(fault(&own).is_some());
        }

        #[test]
        fn hex_is_read_back(bytes in any::<[u8; 32]>()) {
            let hash = KeyHash(bytes);
            let hex = hash.to_hex();
            prop_assert_eq!(KeyHash::from_hex(&hex), Ok(hash));
            prop_assert_eq!(KeyHash::from_hex(&hex.to_uppercase()), Ok(hash));
        }

        #[test]
        fn what_is_not_64_hex_digits_is_no_hash(text in "[0-9a-fg+ ]{0,70}") {
            let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            prop_assert_eq!(KeyHash::from_hex(&text).is_ok(), hex);
        }
    }
}
