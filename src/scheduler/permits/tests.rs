use proptest::prelude::*;

use super::*;
use crate::scheduler::sharing::Granted;

const LIMIT: u32 = 4;
const USER: Holder = Holder { user: 7, key: None };

/// One gateway, and what it and the board last said to each other.
struct Gateway {
    permits: Permits,
    held: u32,
    waiting: usize,
    /// Told, and what the board said; the answer is on its way.
    under_way: Option<(Has, Granted)>,
}

/// Gateways around a board that adds up what each says it has.
struct World {
    gateways: Vec<Gateway>,
    board: Vec<u32>,
    now: Instant,
    /// Taken without an answer: by so much the limit may be exceeded.
    beyond: u32,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Come(usize),
    Leave(usize),
    GiveUp(usize),
    Tell(usize),
    Hear(usize),
    Lose(usize),
    Recall(usize),
    Pass(u64),
}

impl World {
    fn new(gateways: usize) -> Self {
        let gateway = || {
            let mut permits = Permits::default();
            permits.share();
            Gateway { permits, held: 0, waiting: 0, under_way: None }
        };
        let board = vec![0; gateways];
        let gateways = std::iter::repeat_with(gateway).take(gateways).collect();
        Self { gateways, board, now: Instant::now(), beyond: 0 }
    }

    fn act(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Come(at) => self.gateways[at].waiting += 1,
            Step::GiveUp(at) => {
                self.gateways[at].waiting = self.gateways[at].waiting.saturating_sub(1);
            }
            Step::Leave(at) => {
                let gateway = &mut self.gateways[at];
                if gateway.held > 0 {
                    gateway.held -= 1;
                    gateway.permits.used(USER, gateway.held, now);
                }
            }
            Step::Tell(at) => self.tell(at),
            Step::Hear(at) => self.hear(at, false),
            Step::Lose(at) => self.hear(at, true),
            Step::Recall(at) => {
                let gateway = &mut self.gateways[at];
                gateway.permits.recall(USER, gateway.held, now);
            }
            Step::Pass(millis) => {
                self.now += Duration::from_millis(millis);
                for gateway in &mut self.gateways {
                    let held = gateway.held;
                    gateway.permits.due(|_| held, self.now);
                }
            }
        }
        self.gateways.iter_mut().for_each(|gateway| gateway.seat(self.now));
    }

    /// The board has lost all, and every gateway tells it anew; who was first learns of the others
    /// when they say that it is too much.
    fn forget(&mut self) {
        self.board.fill(0);
        let later = self.now + Duration::from_secs(1);
        for gateway in &mut self.gateways {
            let held = gateway.held;
            gateway.under_way = None;
            gateway.permits.doubt(later, |_| held, self.now);
        }
        for _ in 0..2 {
            (0..self.gateways.len()).for_each(|at| self.renew(at));
        }
    }

    fn renew(&mut self, at: usize) {
        self.hear(at, false);
        self.tell(at);
        self.hear(at, false);
    }

    fn tell(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        let has = gateway.permits.of(USER, gateway.held, gateway.waiting, 2);
        let (Some(has), None) = (has, gateway.under_way) else { return };
        self.board[at] = has.permits;
        let taken: u32 = self.board.iter().sum();
        let granted = has.wanted.min(LIMIT.saturating_sub(taken));
        self.board[at] += granted;
        let others = taken - has.permits;
        gateway.under_way = Some((has, Granted { more: granted, others }));
    }

    fn hear(&mut self, at: usize, lost: bool) {
        let gateway = &mut self.gateways[at];
        let Some((has, answer)) = gateway.under_way.take() else { return };
        let alone = Granted { more: has.wanted, others: 0 };
        let Granted { more, others } = if lost { alone } else { answer };
        self.beyond += if lost { more } else { 0 };
        if more > 0 {
            gateway.permits.grant(USER, more, self.now);
        } else if gateway.has().is_some_and(|has| has.wanted == 0) {
            gateway.permits.ask_no_more(USER);
        }
        gateway.permits.told(USER, has.permits + more, !lost, self.now);
        gateway.permits.exceed(USER, has.permits + more + others > LIMIT, gateway.held);
    }

    fn held(&self) -> u32 {
        self.gateways.iter().map(|gateway| gateway.held).sum()
    }
}

impl Gateway {
    fn has(&self) -> Option<Has> {
        self.permits.of(USER, self.held, self.waiting, 2)
    }

    fn seat(&mut self, now: Instant) {
        while self.waiting > 0 && self.held < LIMIT {
            if !self.permits.allow(USER, self.held) {
                return self.permits.lack(USER, LIMIT, now);
            }
            self.waiting -= 1;
            self.held += 1;
            self.permits.used(USER, self.held, now);
        }
    }
}

fn steps(gateways: usize) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..gateways;
    let step = prop_oneof![
        4 => at.clone().prop_map(Step::Come),
        3 => at.clone().prop_map(Step::Leave),
        1 => at.clone().prop_map(Step::GiveUp),
        4 => at.clone().prop_map(Step::Tell),
        4 => at.clone().prop_map(Step::Hear),
        1 => at.clone().prop_map(Step::Lose),
        1 => at.prop_map(Step::Recall),
        1 => (0_u64..12_000).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn a_user_holds_no_more_than_the_limit_and_what_was_taken_without_an_answer(
        steps in steps(3),
    ) {
        let mut world = World::new(3);
        for step in steps {
            world.act(step);
            prop_assert!(world.held() <= LIMIT + world.beyond, "{} held", world.held());
            for gateway in &world.gateways {
                let has = gateway.has().map_or(0, |has| has.permits);
                prop_assert!(has >= gateway.held && gateway.held <= LIMIT);
            }
        }
    }

    #[test]
    fn what_was_given_alone_is_not_given_again_once_all_have_told_of_it(
        alone in steps(3),
        together in steps(3),
    ) {
        let mut world = World::new(3);
        alone.into_iter().for_each(|step| world.act(step));
        world.forget();
        for step in together.into_iter().filter(|step| !matches!(step, Step::Lose(_))) {
            let before = world.held();
            world.act(step);
            prop_assert!(world.held() <= LIMIT.max(before), "{before} and {}", world.held());
        }
    }

    #[test]
    fn nothing_is_lost_for_good(steps in steps(2)) {
        let mut world = World::new(2);
        steps.into_iter().for_each(|step| world.act(step));
        for at in 0..2 {
            while world.gateways[at].waiting > 0 {
                world.act(Step::GiveUp(at));
            }
            while world.gateways[at].held > 0 {
                world.act(Step::Leave(at));
            }
        }
        for _ in 0..2 {
            for at in 0..2 {
                world.act(Step::Hear(at));
                world.act(Step::Tell(at));
                world.act(Step::Hear(at));
            }
            world.act(Step::Pass(11_000));
        }
        for at in 0..2 {
            world.act(Step::Tell(at));
            world.act(Step::Hear(at));
        }
        prop_assert_eq!(&world.board, &[0, 0]);
        prop_assert!(world.gateways.iter().all(|gateway| gateway.permits.holders.is_empty()));
        for _ in 0..LIMIT {
            world.act(Step::Come(0));
            world.act(Step::Tell(0));
            world.act(Step::Hear(0));
        }
        prop_assert_eq!(world.gateways[0].held, LIMIT, "all of it can be had anywhere");
    }
}

#[test]
fn what_was_granted_once_is_asked_for_no_more() {
    let mut world = World::new(1);
    let calls = |world: &mut World| world.gateways[0].permits.calls();
    world.act(Step::Come(0));
    world.act(Step::Come(0));
    assert_eq!(calls(&mut world), [Call::Lacks(USER)], "said once");
    world.act(Step::Tell(0));
    world.act(Step::Hear(0));
    assert_eq!(world.held(), 2, "both at once");
    for _ in 0..100 {
        world.act(Step::Leave(0));
        world.act(Step::Come(0));
    }
    assert_eq!(calls(&mut world), [], "nobody is asked");
}

#[test]
fn what_another_gateway_wants_goes_back_when_it_is_free() {
    let mut world = World::new(1);
    world.act(Step::Come(0));
    world.act(Step::Tell(0));
    world.act(Step::Hear(0));
    let calls = |world: &mut World| world.gateways[0].permits.calls();
    calls(&mut world);
    world.act(Step::Recall(0));
    assert_eq!(world.gateways[0].has().map(|has| has.permits), Some(1), "it is in use");
    world.act(Step::Leave(0));
    assert_eq!(calls(&mut world), [Call::Returned(USER)]);
    assert_eq!(world.gateways[0].has().map(|has| has.permits), Some(0));
}
