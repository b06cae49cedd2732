//! Names that are like no others.

use ring::rand::{SecureRandom, SystemRandom};

/// Thirty-two digits that are like no others.
pub(crate) fn mark() -> String {
    let mut bytes = [0_u8; 16];
    // without randomness marks are alike, and nothing is noticed by them
    let _ = SystemRandom::new().fill(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}
