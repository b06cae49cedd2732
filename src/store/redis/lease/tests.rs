//! Leases around a board that does in Rust what the script does in Redis.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 40;
const WINDOW: u64 = 60_000_000;
const STRETCH: u64 = WINDOW / STRETCHES;
const BATCH: u64 = 2;

/// What the script keeps: sums by stretch and gateway, and what each gateway holds.
#[derive(Default)]
struct Board {
    used: HashMap<(u64, usize), u64>,
    held: HashMap<usize, u64>,
    time: u64,
}

impl Board {
    fn post(&mut self, from: usize, report: &Report) -> Reply {
        let oldest = (self.time / STRETCH).saturating_sub(STRETCHES);
        self.used.retain(|(at, who), _| *who != from && *at >= oldest);
        self.used.extend(report.used.iter().map(|(at, sum)| ((*at, from), *sum)));
        self.used.retain(|(at, _), _| *at >= oldest);
        let used: u64 = self.used.values().sum();
        let of_others = |who: &usize| *who != from;
        let held: u64 = self.held.iter().filter(|(who, _)| of_others(who)).map(|it| it.1).sum();
        let free = LIMIT.saturating_sub(used + held + report.outstanding);
        let mut granted = 0;
        if report.amount > 0 && free >= report.amount {
            granted = free.min(report.amount.max(report.wanted).max(BATCH.min(free / 4)));
        }
        self.held.insert(from, report.outstanding + granted);
        let wait = if granted == 0 { WINDOW } else { 0 };
        Reply { granted, others: used + held, wait, reset: WINDOW, time: self.time }
    }
}

/// A gateway, which knows the board's time from its latest answer.
#[derive(Default)]
struct Gateway {
    lease: Lease,
    waiting: Vec<u64>,
    under_way: Option<(Report, Reply, u64)>,
    held: Vec<u64>,
    offset: u64,
}

struct World {
    board: Board,
    gateways: Vec<Gateway>,
    now: u64,
    /// What was used, and when by the board's clock.
    uses: Vec<(u64, u64)>,
    /// Used without the board's leave, or beyond what was set aside.
    beyond: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request wants so much.
    Take(usize, u64),
    /// So much is set aside for an answer.
    Hold(usize, u64),
    /// An answer is over and used so much.
    Settle(usize, u64),
    /// The latest that was used was not.
    GiveBack(usize),
    /// Somebody who waits leaves.
    Leave(usize),
    /// The board is asked or told; its answer comes, or does not.
    Post(usize),
    Hear(usize),
    Lose(usize),
    /// Time passes.
    Pass(u64),
    /// What lies idle is looked for.
    Tend(usize),
    /// The board forgets everything.
    Wipe,
    /// The board's clock is set.
    Jump(i64),
}

impl World {
    fn new(gateways: usize) -> Self {
        let board = Board { time: 1_000 * WINDOW, ..Board::default() };
        let gateway = || Gateway { offset: board.time, ..Gateway::default() };
        let gateways = std::iter::repeat_with(gateway).take(gateways).collect();
        Self { board, gateways, now: 0, uses: Vec::new(), beyond: 0 }
    }

    fn act(&mut self, step: Step) {
        let (now, time) = (self.now, self.board.time);
        match step {
            Step::Pass(micros) => {
                self.now += micros;
                self.board.time += micros;
            }
            Step::Jump(micros) => {
                self.board.time = self.board.time.saturating_add_signed(micros);
            }
            Step::Wipe => {
                self.board = Board { time, ..Board::default() };
                self.gateways.iter_mut().for_each(|gateway| gateway.lease.forget_told());
            }
            Step::Take(at, amount) => self.take(at, amount, false),
            Step::Hold(at, amount) => self.take(at, amount, true),
            Step::Settle(at, used) => {
                let gateway = &mut self.gateways[at];
                let stretch = gateway.stretch(now);
                let Some(held) = gateway.held.pop() else { return };
                gateway.lease.settle(held, used, stretch);
                self.beyond += used.saturating_sub(held);
                self.uses.push((time, used));
            }
            Step::GiveBack(at) => {
                // only what was used in the same moment is known to be this gateway's
                let Some((moment, amount)) = self.uses.pop_if(|(moment, _)| *moment == time) else {
                    return;
                };
                if self.gateways[at].lease.used.back().is_some_and(|(_, sum)| *sum >= amount) {
                    self.gateways[at].lease.unspend(amount);
                } else {
                    self.uses.push((moment, amount));
                }
            }
            Step::Leave(at) => {
                let gateway = &mut self.gateways[at];
                if let Some(amount) = gateway.waiting.pop() {
                    gateway.lease.want_no_more(amount);
                }
            }
            Step::Post(at) => self.post(at),
            Step::Hear(at) => {
                let gateway = &mut self.gateways[at];
                if let Some((report, reply, asked)) = gateway.under_way.take() {
                    gateway.lease.hear(&report, &reply, now);
                    // as the board's own side does it: an answer may have been long on its way
                    gateway.offset = reply.time.wrapping_sub(asked);
                }
            }
            Step::Lose(at) => {
                let gateway = &mut self.gateways[at];
                if gateway.under_way.take().is_some() {
                    gateway.lease.unheard();
                    gateway.lease.go_alone(now);
                }
            }
            Step::Tend(at) => self.gateways[at].lease.give_back_idle(now),
        }
    }

    fn take(&mut self, at: usize, amount: u64, hold: bool) {
        let (now, time) = (self.now, self.board.time);
        let gateway = &mut self.gateways[at];
        let stretch = gateway.stretch(now);
        if gateway.lease.is_alone(now) {
            self.beyond += amount.saturating_sub(gateway.lease.left);
            gateway.lease.take_alone(amount, now);
        } else {
            match gateway.lease.take(amount, now) {
                Answer::Granted => {}
                Answer::Refused(_) => return,
                Answer::Ask => {
                    gateway.lease.want(amount);
                    gateway.waiting.push(amount);
                    return;
                }
            }
        }
        if hold {
            gateway.lease.hold(amount);
            gateway.held.push(amount);
        } else {
            gateway.lease.spend(amount, stretch);
            self.uses.push((time, amount));
        }
    }

    fn post(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        if gateway.under_way.is_some() {
            return;
        }
        let stretch = gateway.stretch(self.now);
        let amount = gateway.waiting.first().copied().unwrap_or_default();
        let report = gateway.lease.report(amount, stretch);
        let reply = self.board.post(at, &report);
        gateway.under_way = Some((report, reply, self.now));
    }

    /// What was used in the window that ends now, and what is set aside.
    fn counted(&self) -> u64 {
        let since = self.board.time.saturating_sub(WINDOW);
        let used = self.uses.iter().filter(|(at, _)| *at > since).map(|(_, used)| used);
        let held = self.gateways.iter().flat_map(|gateway| &gateway.held);
        used.sum::<u64>() + held.sum::<u64>()
    }

    /// Everybody is done, everything is told, and a window passes.
    fn settle_down(&mut self) {
        for at in 0..self.gateways.len() {
            while !self.gateways[at].held.is_empty() {
                self.act(Step::Settle(at, 0));
            }
            while !self.gateways[at].waiting.is_empty() {
                self.act(Step::Leave(at));
            }
        }
        // twice: a clock that was set comes to be known by the first answer
        for pause in [3 * WINDOW, 2 * WINDOW, 0] {
            for at in 0..self.gateways.len() {
                self.act(Step::Hear(at));
                self.act(Step::Tend(at));
                self.act(Step::Post(at));
                self.act(Step::Hear(at));
            }
            self.act(Step::Pass(pause));
        }
    }
}

impl Gateway {
    fn stretch(&self, now: u64) -> u64 {
        self.offset.wrapping_add(now) / STRETCH
    }
}

fn steps(jumps: bool) -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..3_usize;
    let step = prop_oneof![
        6 => (at(), 1..4_u64).prop_map(|(at, amount)| Step::Take(at, amount)),
        2 => (at(), 1..6_u64).prop_map(|(at, amount)| Step::Hold(at, amount)),
        2 => (at(), 0..8_u64).prop_map(|(at, used)| Step::Settle(at, used)),
        1 => at().prop_map(Step::GiveBack),
        2 => at().prop_map(Step::Leave),
        8 => at().prop_map(Step::Post),
        8 => at().prop_map(Step::Hear),
        1 => at().prop_map(Step::Lose),
        2 => at().prop_map(Step::Tend),
        3 => (0..5_000_000_u64).prop_map(Step::Pass),
        1 => (0..2 * WINDOW).prop_map(Step::Pass),
    ];
    let day = 86_400_000_000_i64;
    let trouble = prop_oneof![Just(Step::Wipe), (-day..day).prop_map(Step::Jump)];
    let step = prop_oneof![
        40 => step,
        u32::from(jumps) => trouble,
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn no_window_sees_more_than_the_limit_and_what_was_used_without_leave(steps in steps(false)) {
        let mut world = World::new(3);
        for step in steps {
            world.act(step);
            let counted = world.counted();
            prop_assert!(counted <= LIMIT + world.beyond, "{counted} of {LIMIT}, {}", world.beyond);
        }
    }

    #[test]
    fn nothing_is_lost_for_good_whatever_is_lost_wiped_or_set(steps in steps(true)) {
        let mut world = World::new(3);
        steps.into_iter().for_each(|step| world.act(step));
        world.settle_down();
        prop_assert!(world.board.used.values().all(|sum| *sum == 0), "{:?}", world.board.used);
        prop_assert!(world.board.held.values().all(|held| *held == 0), "{:?}", world.board.held);
        let (now, before) = (world.now, world.uses.len());
        for _ in 0..LIMIT {
            world.act(Step::Take(0, 1));
            world.act(Step::Post(0));
            world.act(Step::Hear(0));
            world.act(Step::Leave(0));
            world.act(Step::Take(0, 1));
        }
        prop_assert_eq!(world.now, now);
        let used: u64 = world.uses[before..].iter().map(|(_, used)| used).sum();
        prop_assert_eq!(used, LIMIT, "all of it can be had again, by one");
    }
}
