//! A request and its instance: chosen, sent, failed, left.

use usher::scheduler::Outcome;
use usher::scheduler::core::{Admitted, Claim, Ending};

use super::{Chooser, End, MAX_WAIT, WARMS, What, World, job};
use crate::instance::Job;

/// Times that Usher tries another instance: after a failed connection, and after a 503.
const CONNECTS: u32 = 2;
const RESENDS: u32 = 1;

impl World {
    pub(super) fn arrive(&mut self, id: usize) {
        let now = self.now;
        let Some(fate) = self.fates.get(id) else { return };
        match &mut self.chooser {
            Chooser::Peer(peer) => match peer.choose(&fate.tried, now) {
                Some(instance) => self.send(id, instance),
                None => self.end(id, End::Failed, &Ending::nothing()),
            },
            Chooser::Usher(usher) => {
                match usher.arrive(&fate.request, (&fate.tried, fate.number), now) {
                    Ok(Admitted::Seated(number, claim)) => {
                        self.seated(id, number, claim);
                    }
                    Ok(Admitted::Waiting(number)) => {
                        usher.waiting.insert(number, id);
                        if let Some(fate) = self.fates.get_mut(id) {
                            fate.number = Some(number);
                        }
                        self.at(now + MAX_WAIT, What::Patience(id));
                    }
                    Err(_) => {
                        // a request that has nowhere else to go keeps its last failure
                        let tried = !fate.tried.is_empty();
                        let end = if tried { End::Failed } else { End::Refused };
                        self.end(id, end, &Ending::nothing());
                    }
                }
                self.hand_out();
            }
        }
    }

    fn seated(&mut self, id: usize, number: u64, claim: Claim) {
        let (instance, cold, load) = (claim.instance, claim.cold, claim.id);
        let Some(fate) = self.fates.get_mut(id) else { return };
        fate.number = Some(number);
        fate.claim = Some(claim);
        let model = fate.request.model;
        let there = self.instances.get(instance).is_some_and(|it| !it.dead && !it.refuses);
        if cold && there {
            if let Chooser::Usher(usher) = &mut self.chooser {
                usher.core.detach_load(load);
            }
            self.loads.insert(load, instance);
            let warms = Job {
                id: WARMS + load as usize,
                model,
                topic: 0,
                prompt: 0,
                output: 0,
                warms: true,
            };
            let now = self.now;
            self.inside(instance, |it| it.take(warms, now));
        }
        self.send(id, instance);
    }

    fn send(&mut self, id: usize, instance: usize) {
        let now = self.now;
        let Some(fate) = self.fates.get_mut(id) else { return };
        fate.at = Some(instance);
        fate.sent = Some(now);
        let job = job(id, &fate.request);
        let Some(it) = self.instances.get(instance) else { return };
        let (dead, refuses) = (it.dead, it.refuses);
        if let Some(count) = self.sent_to.get_mut(instance) {
            *count += 1;
        }
        if dead || refuses {
            return self.fails_at_once(id, instance, dead);
        }
        if let Some(returned) = self.returned.get_mut(instance).and_then(Option::take) {
            self.back_at_work.push((returned, now));
        }
        self.inside(instance, |it| it.take(job, now));
    }

    /// Nobody listens, or the answer is 503.
    fn fails_at_once(&mut self, id: usize, instance: usize, dead: bool) {
        let now = self.now;
        let Some(fate) = self.fates.get_mut(id) else { return };
        let (tries, most) = match (&self.chooser, dead) {
            (Chooser::Usher(_), true) => (&mut fate.connects, CONNECTS),
            (Chooser::Usher(_), false) => (&mut fate.resends, RESENDS),
            // `proxy_next_upstream error`: a failed connection, and no answer
            (Chooser::Peer(_), true) => (&mut fate.connects, u32::MAX),
            (Chooser::Peer(_), false) => (&mut fate.resends, 0),
        };
        *tries += 1;
        let again = *tries <= most;
        fate.tried.push(instance);
        let failed = Ending { outcome: Outcome::Failed, ..Ending::nothing() };
        if let (Chooser::Peer(peer), true) = (&mut self.chooser, dead) {
            peer.unreachable(instance, now);
        }
        if again {
            let (at, claim) = (fate.at.take(), fate.claim.take());
            self.free(at, claim.as_ref(), &failed);
            self.suspect(instance);
            self.arrive(id);
        } else {
            self.end(id, End::Failed, &failed);
            self.suspect(instance);
        }
    }

    /// The instance died while it worked on this: it is not repeated, by nobody.
    pub(super) fn broke(&mut self, id: usize, instance: usize) {
        let failed = Ending { outcome: Outcome::Failed, ..Ending::nothing() };
        self.end(id, End::Failed, &failed);
        self.suspect(instance);
    }

    /// Frees what a request held.
    pub(super) fn free(&mut self, at: Option<usize>, claim: Option<&Claim>, ending: &Ending) {
        let now = self.now;
        match (&mut self.chooser, at, claim) {
            (Chooser::Peer(peer), Some(instance), _) => peer.left(instance),
            (Chooser::Usher(usher), _, Some(claim)) => {
                usher.release(claim, ending, now);
                self.hand_out();
            }
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, claim: Option<&Claim>) {
        let now = self.now;
        if let (Chooser::Usher(usher), Some(claim)) = (&mut self.chooser, claim) {
            let at = usher.at(now);
            usher.core.answered(claim, at);
            self.hand_out();
        }
    }

    pub(super) fn load_ended(&mut self, claim: u64, worked: bool) {
        let now = self.now;
        self.loads.remove(&claim);
        if let Chooser::Usher(usher) = &mut self.chooser {
            let at = usher.at(now);
            usher.core.load_ended(claim, worked, at);
            self.hand_out();
        }
    }

    pub(super) fn leave_queue(&mut self, number: Option<u64>) {
        let now = self.now;
        if let (Chooser::Usher(usher), Some(number)) = (&mut self.chooser, number) {
            let at = usher.at(now);
            usher.core.leave(number, at);
            usher.waiting.remove(&number);
            self.hand_out();
        }
    }

    /// Sees to whom the core has given seats, and to loads that nobody wants.
    pub(super) fn hand_out(&mut self) {
        loop {
            let Chooser::Usher(usher) = &mut self.chooser else { return };
            let given = usher.core.given();
            let abandoned = usher.abandoned();
            if given.is_empty() && abandoned.is_empty() {
                return;
            }
            let given: Vec<_> = given
                .into_iter()
                .filter_map(|(number, claim)| Some((usher.waiting.remove(&number)?, number, claim)))
                .collect();
            for (id, number, claim) in given {
                self.seated(id, number, claim);
            }
            for claim in abandoned {
                if let Some(instance) = self.loads.remove(&claim) {
                    let now = self.now;
                    self.inside(instance, |it| it.drop_job(WARMS + claim as usize, now));
                    self.load_ended(claim, false);
                }
            }
        }
    }
}
