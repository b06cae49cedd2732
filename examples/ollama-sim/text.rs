//! Words, vectors and digests that follow from a seed and a prompt alone.

use ring::digest::{SHA256, digest as sha};

const WORDS: [&str; 32] = [
    "The", "lantern", "hums", "softly", "while", "naïve", "rivers", "carry", "a<b", "&", "quiet",
    "stones", "toward", "日本", "harbours", "where", "old", "clocks", "keep", "time", "and",
    "gulls", "argue", "over", "bread", "until", "evening", "folds", "the", "blue", "\"sky\"",
    "away.",
];

/// A SHA-256 in hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(sha(&SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The number that an answer's words, ids and vectors follow from.
pub(crate) fn root(seed: u64, model: &str, prompt: &[u8]) -> u64 {
    let hash = |start: u64, bytes: &[u8]| {
        bytes.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
    };
    mix(hash(hash(mix(seed), model.as_bytes()), prompt))
}

/// The word at `index` of the answer with this root, with the space before it.
pub(crate) fn word(root: u64, index: usize) -> String {
    let pick = mix(root.wrapping_add(index as u64)) % WORDS.len() as u64;
    let word = WORDS.iter().cycle().nth(usize::try_from(pick).unwrap_or(0)).unwrap_or(&"");
    if index == 0 { (*word).to_owned() } else { format!(" {word}") }
}

/// A unit vector.
pub(crate) fn embedding(root: u64, length: usize) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    let part = |i| (mix(root ^ i as u64) >> 40) as f32 / 8_388_608.0 - 1.0;
    let raw: Vec<f32> = (0..length).map(part).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|x| x / norm).collect()
}

/// One step of splitmix64.
pub(crate) const fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Tokens of a text: four bytes each.
pub(crate) const fn tokens(bytes: usize) -> usize {
    bytes.div_ceil(4)
}
