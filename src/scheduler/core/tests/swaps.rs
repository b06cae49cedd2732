//! Models that come and go: loads, evictions, cards, and what hangs.

use super::*;
use crate::scheduler::station::Model;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// One instance that has been seen to have room for one model only, now with `a`.
fn narrow(slots: u32, start: Instant) -> Core {
    let mut core = core(&[slots], 100, 100);
    core.learn(0, &up(&MODELS, &["b"]), start);
    let seat = seated(core.arrive(wish(1, "a"), start));
    core.learn(0, &up(&MODELS, &[]), start);
    core.answered(&seat, start);
    release(&mut core, &seat, Outcome::Answered, start);
    core.learn(0, &up(&MODELS, &["a"]), start);
    core
}

/// One instance on which `b` was used, and had to go for `a`.
fn learnt(slots: u32, start: Instant) -> Core {
    let mut core = narrow(slots, start);
    for model in ["b", "a"] {
        let seat = seated(core.arrive(wish(1, model), start));
        core.learn(0, &up(&MODELS, &[]), start);
        release(&mut core, &seat, Outcome::Answered, start);
        core.learn(0, &up(&MODELS, &[model]), start);
    }
    core
}

#[test]
fn requests_for_a_resident_model_go_first_for_a_while_and_then_the_fair_order_decides() {
    let start = Instant::now();
    let mut core = learnt(1, start);
    let mut seat = seated(core.arrive(wish(1, "a"), start));
    assert!(!seat.cold);
    let other = waiting(core.arrive(wish(2, "b"), start));
    for _ in 0..40 {
        waiting(core.arrive(wish(1, "a"), start));
    }
    let mut now = start;
    let mut served = 0;
    loop {
        now += seconds(1.0);
        release(&mut core, &seat, Outcome::Answered, now);
        let (number, claim) = given(&mut core).expect("somebody waits");
        seat = claim;
        if number == other {
            break;
        }
        assert!(!seat.cold, "nobody's load comes between");
        served += 1;
        assert!(served < 60, "the other one starves");
    }
    assert!(served >= 4, "after {served} it was evicted already");
}

#[test]
fn an_evicted_model_gets_no_more_requests_while_it_drains() {
    let start = Instant::now();
    let mut core = learnt(2, start);
    let _at_work = seated(core.arrive(wish(1, "a"), start));
    let later = start + seconds(100.0);
    let load = seated(core.arrive(wish(2, "b"), later));
    assert!(load.cold);
    core.learn(0, &up(&MODELS, &["a"]), later);
    let next = waiting(core.arrive(wish(1, "a"), later));
    core.answered(&load, later + seconds(3.0));
    release(&mut core, &load, Outcome::Answered, later + seconds(4.0));
    let claim = given_to(&mut core, next);
    assert!(claim.cold, "it is loaded again, when it is its turn");
}

#[test]
fn two_models_that_fit_are_both_kept() {
    let start = Instant::now();
    let mut core = core(&[2], 100, 100);
    core.learn(0, &up(&MODELS, &["a", "b"]), start);
    for model in ["a", "b", "a", "b"] {
        let seat = seated(core.arrive(wish(1, model), start));
        assert!(!seat.cold);
        release(&mut core, &seat, Outcome::Answered, start);
    }
}

#[test]
fn one_card_loads_one_model_at_a_time() {
    let now = Instant::now();
    let card = |name| Upstream { gpu: Some(0), ..upstream(name, 1, UpstreamKind::Ollama) };
    let mut core = configured(&[card("u"), card("v")], &balance(8, 8));
    (0..2).for_each(|id| core.learn(id, &up(&MODELS, &[]), now));
    let first = seated(core.arrive(wish(1, "a"), now));
    let second = waiting(core.arrive(wish(1, "b"), now));
    core.answered(&first, now + seconds(2.0));
    assert_eq!(given_to(&mut core, second).instance, 1, "as soon as the card is free");
}

#[test]
fn a_load_that_was_detached_is_given_up_when_nobody_waits_for_it() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let first = seated(core.arrive(wish(1, "a"), now));
    let second = waiting(core.arrive(wish(2, "a"), now));
    assert!(core.detach_load(first.id));
    release(&mut core, &first, Outcome::Neutral, now);
    let claim = given_to(&mut core, second);
    assert!(!claim.cold, "it goes on");
    assert!(core.notices().is_empty());
    release(&mut core, &claim, Outcome::Neutral, now);
    assert_eq!(core.notices(), [Notice::Abandoned(first.id)]);
    core.load_ended(first.id, false, now);
    assert!(seated(core.arrive(wish(1, "a"), now)).cold);
}

#[test]
fn a_refusal_shows_no_model_in_memory() {
    let now = Instant::now();
    let card = |name| Upstream { gpu: Some(0), ..upstream(name, 2, UpstreamKind::Ollama) };
    let mut core = configured(&[card("u"), card("v")], &balance(8, 8));
    (0..2).for_each(|id| core.learn(id, &up(&MODELS, &[]), now));
    let first = seated(core.arrive(wish(1, "a"), now));
    assert!(core.detach_load(first.id));
    waiting(core.arrive(wish(1, "b"), now));
    let soon = now + seconds(0.01);
    core.refused(&first, soon);
    assert!(core.given().is_empty(), "the card is loading still");
    release(&mut core, &first, Outcome::Refused, soon);
    assert!(core.given().is_empty(), "the load goes on");
    assert_eq!(core.notices(), [Notice::Abandoned(first.id)], "until it is given up");
    let disk = &core.stations[&first.instance].disk;
    assert_eq!(Model::default().rates.load_seconds(None, disk), 6.0, "nothing was learnt");
}

#[test]
fn other_options_are_another_load() {
    let now = Instant::now();
    let mut core = core(&[4], 8, 8);
    let options = |text: &str| {
        let body = format!(r#"{{"options":{{{text}}}}}"#);
        crate::payload::inspect(body.as_bytes()).unwrap().runner()
    };
    let with = |text: &str| Wish { runner: options(text), ..wish(1, "a") };
    let first = seated(core.arrive(with(r#""num_ctx":8192"#), now));
    release(&mut core, &first, Outcome::Answered, now);
    assert!(!seated(core.arrive(with(r#""num_ctx":8192"#), now)).cold);
    let later = now + seconds(100.0);
    assert!(seated(core.arrive(with(r#""num_ctx":4096"#), later)).cold);
}

#[test]
fn a_conversation_returns_to_where_its_beginning_is_known() {
    let now = Instant::now();
    let mut core = core(&[1, 1, 1], 8, 8);
    (0..3).for_each(|id| core.learn(id, &up(&MODELS, &["a"]), now));
    let long = "so much to say ".repeat(2000);
    let about = |turns: usize| {
        let messages: Vec<_> = (0..turns).map(|turn| format!("{turn} {long}")).collect();
        Wish { prompt: Arc::new(Prompt::of_messages(&messages)), ..wish(1, "a") }
    };
    let first = seated(core.arrive(about(1), now));
    release(&mut core, &first, Outcome::Answered, now);
    for turn in 2..6 {
        let next = seated(core.arrive(about(turn), now));
        assert_eq!(next.instance, first.instance, "turn {turn}");
        assert!(next.cached > 0);
        release(&mut core, &next, Outcome::Answered, now);
    }
}

#[test]
fn time_lost_inside_an_instance_is_said_once() {
    let now = Instant::now();
    let mut core = core(&[4], 8, 8);
    core.learn(0, &up(&MODELS, &["a"]), now);
    let report = Report {
        prompt: Some(100),
        completion: Some(10),
        prefill: Some(seconds(0.1)),
        decode: Some(seconds(0.2)),
        total: Some(seconds(2.0)),
        load: None,
    };
    let ending = Ending { outcome: Outcome::Answered, report, pieces: 10 };
    let mut told = 0;
    for _ in 0..10 {
        let seat = seated(core.arrive(wish(1, "a"), now));
        core.release(&seat, &ending, now);
        told += core.notices().len();
    }
    assert_eq!(told, 1);
}

#[test]
fn a_model_that_hangs_is_left_alone_while_the_others_of_its_instance_go_on() {
    let start = Instant::now();
    let mut core = core(&[2, 2], 8, 8);
    (0..2).for_each(|id| core.learn(id, &up(&MODELS, &["a", "b"]), start));
    let hung = seated(core.arrive(wish(1, "a"), start));
    let later = start + seconds(40.0);
    core.learn(hung.instance, &up(&MODELS, &["a", "b"]), later);
    assert!(core.notices().is_empty(), "nothing else made progress: who knows");
    let fine = seated(core.arrive(wish(1, "b"), later));
    release(&mut core, &fine, Outcome::Answered, later);
    core.learn(hung.instance, &up(&MODELS, &["a", "b"]), later);
    assert!(matches!(core.notices().as_slice(), [Notice::Hung { .. }]));
    for _ in 0..2 {
        assert_ne!(seated(core.arrive(wish(1, "a"), later)).instance, hung.instance);
    }
    let other = seated(core.arrive(wish(1, "b"), later));
    assert_eq!(other.instance, hung.instance, "the other model is served there");
    release(&mut core, &other, Outcome::Answered, later);
    core.learn(hung.instance, &up(&MODELS, &["a", "b"]), later + seconds(1.0));
    let trial = seated(core.arrive(wish(1, "a"), later + seconds(1.0)));
    assert_eq!(trial.instance, hung.instance, "a trial");
    assert!(!core.is_trusted(hung.instance));
    core.answered(&trial, later + seconds(1.0));
    assert!(core.is_trusted(hung.instance));
    assert_eq!(core.models(hung.instance)[0].breaker, State::Closed);
}

#[test]
fn who_answers_as_a_whole_may_be_silent_for_long() {
    let start = Instant::now();
    let mut core = core(&[2, 2], 8, 8);
    (0..2).for_each(|id| core.learn(id, &up(&MODELS, &["a", "b"]), start));
    let whole = seated(core.arrive(Wish { streams: false, ..wish(1, "a") }, start));
    let later = start + seconds(400.0);
    let fine = seated(core.arrive(wish(1, "b"), later));
    release(&mut core, &fine, Outcome::Answered, later);
    core.learn(whole.instance, &up(&MODELS, &["a", "b"]), later);
    assert_eq!(core.notices(), []);
    assert!(core.is_trusted(whole.instance));
}

#[test]
fn an_answer_counts_once_on_the_way_back_to_full_load() {
    let start = Instant::now();
    let mut core = core(&[8], 8, 8);
    core.learn(0, &up(&MODELS, &["a"]), start);
    for _ in 0..3 {
        let seat = seated(core.arrive(wish(1, "a"), start));
        release(&mut core, &seat, Outcome::Failed, start);
        core.learn(0, &up(&MODELS, &["a"]), start);
    }
    let later = start + seconds(60.0);
    core.learn(0, &up(&MODELS, &["a"]), later);
    let trial = seated(core.arrive(wish(1, "a"), later));
    core.answered(&trial, later);
    let most = |core: &Core| (0..100).take_while(|n| core.stations[&0].breaker.admits(*n)).count();
    let admitted = most(&core);
    release(&mut core, &trial, Outcome::Answered, later);
    assert_eq!((most(&core), admitted), (2, 2));
}

#[test]
fn a_model_that_another_server_answers_for_is_never_loaded() {
    let now = Instant::now();
    let mut core = core(&[2], 8, 8);
    core.learn(0, &Facts { remote: keys(&["a"]), ..up(&MODELS, &[]) }, now);
    let seat = seated(core.arrive(wish(1, "a"), now));
    assert!(!seat.cold && core.stations[&0].loading.is_none());
    assert!(seated(core.arrive(wish(1, "b"), now)).cold);
    assert_eq!(core.models(0).iter().filter(|it| it.resident).count(), 1);
}

#[test]
fn who_has_a_model_unloaded_has_nothing_loaded_first() {
    let now = Instant::now();
    let mut core = core(&[1, 1, 1], 8, 8);
    let unload = || Wish { unloads: true, ..wish(1, "a") };
    let nowhere = seated(core.arrive(unload(), now));
    assert!(!nowhere.cold && core.stations.values().all(|it| it.loading.is_none()));
    release(&mut core, &nowhere, Outcome::Answered, now);
    assert!(core.models(nowhere.instance).iter().all(|it| !it.resident));
    core.learn(2, &up(&MODELS, &["a"]), now);
    let there = seated(core.arrive(unload(), now));
    assert_eq!(there.instance, 2, "where there is something to unload");
    let waits = waiting(core.arrive(unload(), now));
    release(&mut core, &there, Outcome::Answered, now);
    assert_eq!(given_to(&mut core, waits).instance, 2);
}

#[test]
fn an_unload_that_is_answered_ends_no_load() {
    let now = Instant::now();
    let mut core = core(&[2], 8, 8);
    let load = seated(core.arrive(wish(1, "a"), now));
    assert!(load.cold);
    let unload = seated(core.arrive(Wish { unloads: true, ..wish(1, "a") }, now));
    release(&mut core, &unload, Outcome::Answered, now);
    assert!(core.stations[&0].loading.is_some());
}
