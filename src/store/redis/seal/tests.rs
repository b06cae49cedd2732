use proptest::prelude::*;

use super::*;

/// How many entries are changed and tried; a million takes some seconds in a release build.
fn mutations() -> u64 {
    let asked = std::env::var("USHER_MUTATIONS").ok();
    asked.map_or(20_000, |count| count.parse().expect("USHER_MUTATIONS is a number"))
}

fn keys(secret: &str) -> Keys {
    Keys::derive(&Secret::new(secret.repeat(32)), "origin").unwrap()
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

fn terms() -> Terms {
    Terms { issued: at(1_000_000), life: 30_000, revision: 41 }
}

#[test]
fn what_was_sealed_opens_under_its_name_and_no_other() {
    let keys = keys("a");
    let name = keys.name_of("key", b"one");
    let entry = keys.seal(&name, &terms(), b"ann");
    assert_eq!(keys.open(&name, &entry, at(1_000_001)), Ok((terms(), &b"ann"[..])));
    for other in [keys.name_of("key", b"two"), keys.name_of("user", b"one"), String::new()] {
        assert_eq!(keys.open(&other, &entry, at(1_000_001)), Err(Broken::Forged), "{other}");
    }
}

#[test]
fn another_cluster_opens_nothing_and_meets_nothing() {
    let (ours, theirs) = (keys("a"), keys("b"));
    let name = ours.name_of("key", b"one");
    let entry = ours.seal(&name, &terms(), b"ann");
    assert_eq!(theirs.open(&name, &entry, at(1_000_001)), Err(Broken::Forged));
    assert_ne!(theirs.name_of("key", b"one"), name);
    assert_ne!(theirs.name("news"), ours.name("news"));
    assert!(ours.name("news").starts_with("usher:1:"));
}

#[test]
fn a_name_says_nothing_of_what_it_is_about() {
    let name = keys("a").name_of("key", b"correct-horse-battery");
    let (_, digest) = name.rsplit_once(':').unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
}

#[test]
fn an_entry_holds_between_its_moments_by_our_clock() {
    let keys = keys("a");
    let entry = keys.seal("n", &terms(), b"ann");
    let open = |now| keys.open("n", &entry, at(now)).map(drop);
    assert_eq!(open(1_000_000 - SKEW), Ok(()), "another gateway's clock may be ahead");
    assert_eq!(open(1_000_000 - SKEW - 1), Err(Broken::Untimely), "but not by that much");
    assert_eq!(open(1_029_999), Ok(()));
    assert_eq!(open(1_030_000), Err(Broken::Untimely));
}

#[test]
fn of_many_mutated_entries_none_opens() {
    let keys = keys("a");
    let names: Vec<String> = (0..4_u8).map(|n| keys.name_of("key", &[n])).collect();
    let entries: Vec<Vec<u8>> = names
        .iter()
        .zip(["ann", "bob", "", "a longer one, as identities are"])
        .map(|(name, content)| keys.seal(name, &terms(), content.as_bytes()))
        .collect();
    let mut dice = 7_u64;
    let mut roll = |bound: usize| {
        // a linear congruence (Knuth's) is random enough to choose where to break things
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).unwrap() % bound
    };
    for round in 0..mutations() {
        let (which, other) = (roll(4), roll(4));
        let original = &entries[which];
        let mut entry = original.clone();
        let place = roll(entry.len());
        match roll(8) {
            0 => entry[place] ^= 1 << roll(8),
            1 => entry.truncate(place),
            2 => entry.insert(place, u8::try_from(roll(256)).unwrap()),
            3 => drop(entry.remove(place)),
            4 => entry.splice(place.., entries[other].iter().skip(place).copied()).for_each(drop),
            5 => entry = entries[other].clone(),
            6 => (0..=roll(8)).for_each(|_| entry[roll(original.len())] ^= 0x55),
            _ => entry.extend_from_slice(&original[place..]),
        }
        let opened = keys.open(&names[which], &entry, at(1_000_001));
        // some mutations change nothing: what is whole may open, and as itself alone
        assert_eq!(opened.is_ok(), entry == *original, "round {round}: {entry:?}");
    }
}

proptest! {
    #[test]
    fn whatever_is_sealed_comes_back_as_it_was(
        name in ".{0,40}",
        content in proptest::collection::vec(any::<u8>(), 0..200),
        issued in 0_i64..4_102_444_800_000,
        life in 1_u32..,
        revision: i64,
    ) {
        let keys = keys("a");
        let terms = Terms { issued: at(issued), life, revision };
        let entry = keys.seal(&name, &terms, &content);
        prop_assert_eq!(keys.open(&name, &entry, at(issued)), Ok((terms, &content[..])));
    }

    #[test]
    fn bytes_that_no_gateway_sealed_open_for_nobody(
        entry in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert_eq!(keys("a").open("n", &entry, at(0)), Err(Broken::Forged));
    }
}
