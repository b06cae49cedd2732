use std::net::Ipv4Addr;

use super::*;
use proptest::prelude::*;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ladder() -> (Ladder, Instant) {
    let start = Instant::now();
    (Ladder::new(start), start)
}

impl Ladder {
    fn fails(&mut self, account: &str, from: u32, now: Instant) -> Result<(), Duration> {
        self.attempt(account, address(from), now).map(|_| ())
    }

    fn logs_in(&mut self, account: &str, from: u32, now: Instant) -> Result<(), Duration> {
        let attempt = self.attempt(account, address(from), now)?;
        self.succeeded(&attempt, now);
        Ok(())
    }

    fn comes_to_nothing(&mut self, account: &str, from: u32, now: Instant) -> Result<(), Duration> {
        let attempt = self.attempt(account, address(from), now)?;
        self.withdraw(&attempt, now);
        Ok(())
    }
}

#[test]
fn the_steps_rise_and_end() {
    for (failures, pause_after) in [
        (0, None),
        (4, None),
        (5, Some(3)),
        (8, Some(3)),
        (9, Some(5)),
        (24, Some(5)),
        (25, Some(10)),
        (99, Some(10)),
        (100, Some(60)),
        (u32::MAX, Some(60)),
    ] {
        assert_eq!(pause(failures, FREE), pause_after.map(seconds), "{failures}");
    }
}

#[test]
fn an_address_that_fails_waits_longer_and_longer_at_that_account_alone() {
    let (mut ladder, start) = ladder();
    for _ in 0..5 {
        assert_eq!(ladder.fails("ann", 1, start), Ok(()));
    }
    assert_eq!(ladder.fails("ann", 1, start), Err(seconds(3)));
    assert_eq!(ladder.fails("ann", 1, start + seconds(2)), Err(seconds(1)));
    assert_eq!(ladder.fails("bob", 1, start), Ok(()));
    assert_eq!(ladder.fails("ann", 2, start), Ok(()));
    assert_eq!(ladder.fails("ann", 1, start + seconds(3)), Ok(()));
    assert_eq!(ladder.fails("ann", 1, start + seconds(4)), Err(seconds(2)));
    assert_eq!(ladder.fails("ann", 1, start + HOUR), Ok(()));
    assert_eq!(ladder.fails("ann", 1, start + HOUR), Ok(()), "forgotten");
}

#[test]
fn a_success_ends_the_waiting_of_its_address() {
    let (mut ladder, start) = ladder();
    for _ in 0..4 {
        assert_eq!(ladder.fails("ann", 1, start), Ok(()));
    }
    for _ in 0..60 {
        assert_eq!(ladder.logs_in("ann", 1, start), Ok(()));
    }
    for number in 100..146 {
        assert_eq!(ladder.fails("ann", number, start), Ok(()), "successes are no failures");
    }
    assert_eq!(ladder.fails("ann", 2, start), Err(seconds(3)), "50 in all");
}

#[test]
fn many_who_fail_slow_strangers_and_never_where_the_owner_is_known() {
    let (mut ladder, start) = ladder();
    assert_eq!(ladder.logs_in("ann", 7, start), Ok(()));
    for number in 100..150 {
        assert_eq!(ladder.fails("ann", number, start), Ok(()), "{number}");
    }
    assert_eq!(ladder.fails("ann", 8, start), Err(seconds(3)));
    assert_eq!(ladder.fails("bob", 8, start), Ok(()));
    assert_eq!(ladder.logs_in("ann", 7, start), Ok(()), "its own home");
    assert_eq!(ladder.fails("ann", 8, start + seconds(3)), Ok(()), "not for good");
    let later = start + MONTH;
    for number in 100..150 {
        assert_eq!(ladder.fails("ann", number, later), Ok(()));
    }
    assert!(ladder.fails("ann", 7, later).is_err(), "a month without a success");
}

#[test]
fn an_owner_has_a_few_homes_and_the_oldest_is_given_up() {
    let (mut ladder, start) = ladder();
    for home in 1..=9 {
        assert_eq!(ladder.logs_in("ann", home, start), Ok(()));
    }
    for number in 100..150 {
        assert_eq!(ladder.fails("ann", number, start), Ok(()));
    }
    assert!(ladder.fails("ann", 1, start).is_err(), "the ninth took its place");
    for home in 2..=9 {
        assert_eq!(ladder.logs_in("ann", home, start), Ok(()), "{home}");
    }
}

#[test]
fn a_refused_attempt_does_not_count() {
    let (mut ladder, start) = ladder();
    for _ in 0..5 {
        assert!(ladder.fails("ann", 1, start).is_ok());
    }
    for _ in 0..100 {
        assert_eq!(ladder.fails("ann", 1, start), Err(seconds(3)));
    }
    assert!(ladder.fails("ann", 1, start + seconds(3)).is_ok());
}

#[test]
fn what_could_not_be_judged_does_not_count() {
    let (mut ladder, start) = ladder();
    for number in 0..1000 {
        assert_eq!(ladder.comes_to_nothing("ann", 1, start), Ok(()), "{number}");
        assert_eq!(ladder.comes_to_nothing("ann", number, start), Ok(()), "{number}");
    }
    for _ in 0..5 {
        assert_eq!(ladder.fails("ann", 1, start), Ok(()));
    }
    let later = start + seconds(3);
    assert_eq!(ladder.comes_to_nothing("ann", 1, later), Ok(()));
    assert_eq!(ladder.fails("ann", 1, later), Ok(()), "it made nobody wait");
    assert_eq!(ladder.fails("ann", 1, later), Err(seconds(3)), "and what was real still counts");
}

#[test]
fn what_comes_to_nothing_does_not_end_the_pause_behind_a_failure() {
    let (mut ladder, start) = ladder();
    // both are under way when one of them turns out to be none
    let busy = ladder.attempt("ann", address(1), start).unwrap();
    for number in 100..149 {
        assert_eq!(ladder.fails("ann", number, start), Ok(()));
    }
    ladder.withdraw(&busy, start);
    assert_eq!(ladder.fails("ann", 9, start), Err(seconds(3)), "the last one saw fifty");
    let later = start + seconds(3);
    let busy = ladder.attempt("ann", address(10), later).unwrap();
    ladder.withdraw(&busy, later + seconds(1));
    assert_eq!(ladder.fails("ann", 11, later + seconds(1)), Ok(()), "as if it had not been");
}

#[test]
fn a_flood_of_other_names_makes_nothing_forgotten_and_locks_nobody_out() {
    let (mut ladder, start) = ladder();
    assert_eq!(ladder.logs_in("ann", 7, start), Ok(()));
    let mut now = start;
    for number in 0..110 {
        now += seconds(10);
        assert_eq!(ladder.fails("ann", 1000 + number, now), Ok(()), "{number}");
    }
    // as many as a large machine can hash in a quarter of an hour, from as many addresses
    for number in 0..100_000_u32 {
        let outcome = ladder.fails(&format!("nobody{number}"), 0x0a00_0000 + number, now);
        assert_eq!(outcome, Ok(()), "{number}");
    }
    assert_eq!(ladder.fails("ann", 8, now), Err(seconds(10)), "ann's failures are still there");
    assert_eq!(ladder.logs_in("ann", 7, now), Ok(()), "and so is ann's home");
    let innocents = (0..2_000).filter(|number| {
        ladder.fails(&format!("somebody{number}"), 0x0b00_0000 + number, now).is_ok()
    });
    assert_eq!(innocents.count(), 2_000);
    // and as many as come while nothing can be hashed at all
    for number in 0..100_000_u32 {
        let name = format!("nobody{number}");
        assert_eq!(ladder.comes_to_nothing(&name, 0x0a00_0000 + number, now), Ok(()));
    }
    assert_eq!(ladder.fails("ann", 8, now), Err(seconds(10)));
    assert_eq!(ladder.fails("ann", 8, now + seconds(10)), Ok(()), "nobody waits for good");
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Fails,
    Succeeds,
    ComesToNothing,
    StaysOpen,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Fails),
        1 => Just(Fate::Succeeds),
        2 => Just(Fate::ComesToNothing),
        2 => Just(Fate::StaysOpen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Beside it, everything is written down: whoever must wait by that waits.
    #[test]
    fn nobody_is_taken_to_have_failed_less_and_nobody_waits_longer_than_a_pause(
        steps in proptest::collection::vec((0_u64..40, 0_u8..2, fate(), any::<bool>()), 50..400),
    ) {
        let (mut ladder, start) = ladder();
        let mut now = start;
        let mut written: Vec<(u8, Instant, u64)> = Vec::new();
        let mut open: Vec<(u64, Attempt)> = Vec::new();
        let mut homes: Vec<(u8, u32)> = Vec::new();
        for (number, (gap, account, fate, late)) in (0_u32..).zip(steps) {
            now += Duration::from_millis(gap * 250);
            let name = format!("account{account}");
            let must_wait = written.iter().filter(|(whose, ..)| *whose == account).filter_map(|(_, at, _)| {
                let lately = |other: &&(u8, Instant, u64)| {
                    other.0 == account && other.1 <= *at && at.duration_since(other.1) < HOUR
                };
                let failures = written.iter().filter(lately).count();
                pause(u32::try_from(failures).unwrap(), FREE_OF_ALL).map(|pause| *at + pause)
            });
            let must_wait = must_wait.max().filter(|until| *until > now);
            // each comes from an address of its own, so the steps of addresses do not matter
            match ladder.attempt(&name, address(number), now) {
                Ok(attempt) => {
                    prop_assert_eq!(must_wait, None, "it had to wait");
                    let id = attempt.mark.number();
                    match fate {
                        Fate::Fails => written.push((account, now, id)),
                        Fate::Succeeds => {
                            ladder.succeeded(&attempt, now);
                            homes.push((account, number));
                        }
                        Fate::ComesToNothing => ladder.withdraw(&attempt, now),
                        Fate::StaysOpen => {
                            written.push((account, now, id));
                            open.push((id, attempt));
                        }
                    }
                }
                Err(wait) => {
                    prop_assert!(wait <= seconds(60) && !wait.is_zero(), "{wait:?}");
                    let ended = ladder.comes_to_nothing(&name, number, now + wait);
                    prop_assert_eq!(ended, Ok(()), "it has waited");
                }
            }
            if late && let Some((id, attempt)) = open.pop() {
                ladder.withdraw(&attempt, now);
                written.retain(|(.., other)| *other != id);
            }
            for (account, home) in homes.iter().rev().take(1) {
                let name = format!("account{account}");
                prop_assert_eq!(ladder.comes_to_nothing(&name, *home, now), Ok(()), "at home");
            }
        }
    }
}
