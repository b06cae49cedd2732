//! Where a JSON string stops being plain.

use memchr::memchr2;

/// Bytes that are looked at eight at a time; in longer strings a search pays for its preparation.
const NEAR: usize = 64;

/// The place of the first quote or backslash.
pub(crate) fn quote_or_escape(text: &[u8]) -> Option<usize> {
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    const ESCAPES: u64 = u64::from_ne_bytes([b'\\'; 8]);
    let (near, far) = text.split_at_checked(NEAR).unwrap_or((text, &[]));
    let (eights, rest) = near.as_chunks::<8>();
    for (number, eight) in eights.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        let found = zeros(eight ^ QUOTES) | zeros(eight ^ ESCAPES);
        if found != 0 {
            return Some(number * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
    let behind = eights.len() * 8;
    match rest.iter().position(is_end) {
        Some(at) => Some(behind + at),
        None if far.is_empty() => None,
        None => memchr2(b'"', b'\\', far).map(|at| near.len() + at),
    }
}

/// The highest bit of each byte that is zero; what stands above the first of them may be wrong.
fn zeros(bytes: u64) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    bytes.wrapping_sub(LOW) & !bytes & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_first(text in prop::collection::vec(any::<u8>(), 0..200), at: usize, escape: bool) {
            let simply = |text: &[u8]| text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(quote_or_escape(&text), simply(&text));
            // and where there is hardly another
            let mut text: Vec<u8> = text.into_iter().filter(|byte| !matches!(byte, b'"' | b'\\')).collect();
            prop_assert_eq!(quote_or_escape(&text), None);
            text.insert(at % (text.len() + 1), if escape { b'\\' } else { b'"' });
            prop_assert_eq!(quote_or_escape(&text), simply(&text));
        }
    }
}
