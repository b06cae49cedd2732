//! Seats that several gateways share.

use super::*;
use crate::scheduler::permits::{Call, Has, Holder, Told};

fn shared(slots: u32, queue: usize) -> Core {
    let mut core = core(&[slots], queue, queue);
    core.share();
    core
}

/// The others were told what this gateway has, and granted so much more.
fn granted(core: &mut Core, holder: Holder, more: u32, now: Instant) {
    let permits = core.has(holder).map_or(0, |has| has.permits);
    core.granted(holder, Told { permits, more, in_excess: false, answered: true }, now);
}

fn user(user: i64) -> Holder {
    Holder { user, key: None }
}

fn modest(user: i64, concurrency: u32) -> Wish {
    Wish { concurrency, ..wish(user, "a") }
}

#[test]
fn who_lacks_a_permit_waits_for_it_and_holds_up_nobody() {
    let now = Instant::now();
    let mut core = shared(2, 10);
    let first = waiting(core.arrive(modest(1, 2), now));
    let second = waiting(core.arrive(modest(2, 2), now));
    assert_eq!(core.calls(), [Call::Lacks(user(1)), Call::Lacks(user(2))]);
    assert_eq!(core.has(user(1)), Some(Has { permits: 0, wanted: 1, limit: 2 }));
    granted(&mut core, user(2), 1, now);
    let claim = given_to(&mut core, second);
    granted(&mut core, user(1), 0, now);
    assert!(given(&mut core).is_none(), "refused, and still waiting");
    granted(&mut core, user(1), 1, now);
    given_to(&mut core, first);
    release(&mut core, &claim, Outcome::Answered, now);
    let again = seated(core.arrive(modest(2, 2), now));
    assert_eq!(core.calls(), [], "what was granted is kept");
    assert!(core.recall(user(2), now) || core.has(user(2)).is_some_and(|has| has.permits == 1));
    release(&mut core, &again, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Returned(user(2))]);
}

#[test]
fn nobody_is_asked_for_a_user_who_could_not_be_seated_anyway() {
    let now = Instant::now();
    let mut core = shared(1, 10);
    let first = waiting(core.arrive(modest(1, 2), now));
    granted(&mut core, user(1), 1, now);
    let claim = given_to(&mut core, first);
    core.calls();
    let second = waiting(core.arrive(modest(2, 2), now));
    assert_eq!(core.calls(), [], "there is no slot");
    release(&mut core, &claim, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Lacks(user(2))], "now there is one");
    granted(&mut core, user(2), 1, now);
    given_to(&mut core, second);
    waiting(core.arrive(modest(2, 1), now));
    assert_eq!(core.calls(), [], "the user holds what they may hold");
}

#[test]
fn a_full_queue_refuses_nobody_who_waits_for_a_permit_alone() {
    let now = Instant::now();
    let mut core = shared(8, 1);
    let numbers: Vec<u64> = (0..4).map(|_| waiting(core.arrive(modest(1, 4), now))).collect();
    assert!(core.arrive(modest(1, 4), now).is_err(), "more than the user may hold have to queue");
    assert_eq!(core.has(user(1)).map(|has| has.wanted), Some(4), "all at once");
    granted(&mut core, user(1), 4, now);
    let given: Vec<u64> = core.given().into_iter().map(|(number, _)| number).collect();
    assert_eq!(given, numbers);
}

#[test]
fn what_all_together_have_too_much_of_goes_back_as_it_becomes_free() {
    let now = Instant::now();
    let mut core = shared(4, 10);
    let first = waiting(core.arrive(modest(1, 1), now));
    granted(&mut core, user(1), 1, now);
    let claim = given_to(&mut core, first);
    core.calls();
    let told = Told { permits: 1, more: 0, in_excess: true, answered: true };
    assert!(!core.granted(user(1), told, now), "it is in use");
    release(&mut core, &claim, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Returned(user(1))]);
    waiting(core.arrive(modest(1, 1), now));
    assert_eq!(core.calls(), [Call::Lacks(user(1))]);
}

#[test]
fn a_key_with_a_limit_of_its_own_needs_a_permit_of_its_own_and_holds_up_nobody() {
    let now = Instant::now();
    let mut core = shared(4, 10);
    let key = Holder { user: 1, key: Some(9) };
    let through = |key| Wish {
        payer: Payer { key, ..wish(1, "a").payer },
        key_concurrency: if key == Some(9) { 1 } else { u32::MAX },
        ..modest(1, 3)
    };
    let limited = waiting(core.arrive(through(Some(9)), now));
    assert_eq!(core.calls(), [Call::Lacks(key)], "its own first");
    assert_eq!(core.has(key), Some(Has { permits: 0, wanted: 1, limit: 1 }));
    let other = waiting(core.arrive(through(Some(8)), now));
    assert_eq!(
        core.calls(),
        [Call::Lacks(user(1))],
        "whoever is not limited needs the user's alone"
    );
    granted(&mut core, user(1), 1, now);
    let claim = given_to(&mut core, other);
    granted(&mut core, key, 1, now);
    assert!(given(&mut core).is_none(), "a key's permit is none of its user");
    granted(&mut core, user(1), 1, now);
    let held = given_to(&mut core, limited);
    waiting(core.arrive(through(Some(9)), now));
    assert_eq!(core.calls(), [Call::Lacks(user(1))], "said before; and the key holds what it may");
    assert!(!core.recall(key, now), "it is in use");
    release(&mut core, &held, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Returned(key), Call::Lacks(key)]);
    release(&mut core, &claim, Outcome::Answered, now);
}
