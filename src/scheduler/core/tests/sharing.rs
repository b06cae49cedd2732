//! Seats that several gateways share.

use super::*;
use crate::scheduler::permits::{Call, Has, Told};

fn shared(slots: u32, queue: usize) -> Core {
    let mut core = core(&[slots], queue, queue);
    core.share();
    core
}

/// The others were told what this gateway has, and granted so much more.
fn granted(core: &mut Core, user: i64, more: u32, now: Instant) {
    let permits = core.has(user).map_or(0, |has| has.permits);
    core.granted(user, Told { permits, more, in_excess: false }, now);
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
    assert_eq!(core.calls(), [Call::Lacks(1), Call::Lacks(2)]);
    assert_eq!(core.has(1), Some(Has { permits: 0, wanted: 1, limit: 2 }));
    granted(&mut core, 2, 1, now);
    let claim = given_to(&mut core, second);
    granted(&mut core, 1, 0, now);
    assert!(given(&mut core).is_none(), "refused, and still waiting");
    granted(&mut core, 1, 1, now);
    given_to(&mut core, first);
    release(&mut core, &claim, Outcome::Answered, now);
    let again = seated(core.arrive(modest(2, 2), now));
    assert_eq!(core.calls(), [], "what was granted is kept");
    assert!(core.recall(2, now) || core.has(2).is_some_and(|has| has.permits == 1));
    release(&mut core, &again, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Returned(2)]);
}

#[test]
fn nobody_is_asked_for_a_user_who_could_not_be_seated_anyway() {
    let now = Instant::now();
    let mut core = shared(1, 10);
    let first = waiting(core.arrive(modest(1, 2), now));
    granted(&mut core, 1, 1, now);
    let claim = given_to(&mut core, first);
    core.calls();
    let second = waiting(core.arrive(modest(2, 2), now));
    assert_eq!(core.calls(), [], "there is no slot");
    release(&mut core, &claim, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Lacks(2)], "now there is one");
    granted(&mut core, 2, 1, now);
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
    assert_eq!(core.has(1).map(|has| has.wanted), Some(4), "all at once");
    granted(&mut core, 1, 4, now);
    let given: Vec<u64> = core.given().into_iter().map(|(number, _)| number).collect();
    assert_eq!(given, numbers);
}

#[test]
fn what_all_together_have_too_much_of_goes_back_as_it_becomes_free() {
    let now = Instant::now();
    let mut core = shared(4, 10);
    let first = waiting(core.arrive(modest(1, 1), now));
    granted(&mut core, 1, 1, now);
    let claim = given_to(&mut core, first);
    core.calls();
    let told = Told { permits: 1, more: 0, in_excess: true };
    assert!(!core.granted(1, told, now), "it is in use");
    release(&mut core, &claim, Outcome::Answered, now);
    assert_eq!(core.calls(), [Call::Returned(1)]);
    waiting(core.arrive(modest(1, 1), now));
    assert_eq!(core.calls(), [Call::Lacks(1)]);
}
