//! What changes from outside: the configuration, what probes find, loads that go on by themselves.

use std::time::Instant;

use super::{Core, Notice};
use crate::config::Balance;
use crate::model::ModelKey;
use crate::scheduler::{Facts, Post};

impl Core {
    /// Puts a new configuration in force. Who is seated stays seated; who waits sees the new set.
    pub fn reconfigure(&mut self, posts: Vec<Post<'_>>, balance: &Balance, now: Instant) {
        self.capacity = balance.queue;
        self.capacity_per_user = balance.queue_per_user;
        self.stations.values_mut().for_each(|station| station.retired = true);
        for Post { id, upstream, facts } in posts {
            let station = self.stations.entry(id).or_default();
            station.configure(upstream);
            if let Some(facts) = facts {
                station.learn(&facts, now);
            }
        }
        self.stations.retain(|_, station| !station.is_gone());
        self.dispatch(now);
    }

    /// What a probe found out about an instance.
    pub fn learn(&mut self, instance: usize, facts: &Facts, now: Instant) {
        if let Some(station) = self.stations.get_mut(&instance) {
            station.learn(facts, now);
        }
        self.eject_hung(instance, now);
        self.dispatch(now);
    }

    /// Drains an instance or resumes it; false if it was so already, or is none.
    pub fn set_drained(&mut self, instance: usize, drained: bool, now: Instant) -> bool {
        let Some(station) = self.stations.get_mut(&instance) else { return false };
        let changed = std::mem::replace(&mut station.drained, drained) != drained;
        self.dispatch(now);
        changed
    }

    /// The load that began with this claim goes on by itself from here; false if it is over.
    pub fn detach_load(&mut self, claim: u64) -> bool {
        let mut loads = self.stations.values_mut().filter_map(|it| it.loading.as_mut());
        let Some(loading) = loads.find(|loading| loading.claim == claim) else { return false };
        loading.detached = true;
        true
    }

    /// A load that went on by itself is over.
    pub fn load_ended(&mut self, claim: u64, worked: bool, now: Instant) {
        let mut stations = self.stations.values_mut();
        let began = |it: &&mut crate::scheduler::station::Station| {
            it.loading.as_ref().is_some_and(|loading| loading.claim == claim)
        };
        if let Some(station) = stations.find(began) {
            station.end_load(worked, now);
            self.dispatch(now);
        }
    }

    /// Tells of loads for which nobody waits any more.
    pub(super) fn abandon_loads(&mut self) {
        for station in self.stations.values() {
            let Some(loading) = station.loading.as_ref().filter(|it| it.detached) else { continue };
            let at_work = station.models.get(&loading.model).is_some_and(|it| it.in_flight > 0);
            if !at_work && !self.is_waited_for(&loading.model) {
                self.notices.push(Notice::Abandoned(loading.claim));
            }
        }
    }

    fn is_waited_for(&self, model: &ModelKey) -> bool {
        self.queue.lines().any(|(class, _)| class.model.as_ref() == Some(model) && !class.unloads)
    }

    /// Leaves a model on an instance alone that has been silent for far too long, while answers
    /// began elsewhere: its probes may well succeed.
    fn eject_hung(&mut self, instance: usize, now: Instant) {
        let progress = self.progress;
        let silent = self
            .seats
            .values_mut()
            .filter(|held| held.instance == instance && !held.answered && !held.hung);
        let hung = silent.filter_map(|held| {
            let silence = now.saturating_duration_since(held.since);
            let late = silence.as_secs_f64() > held.budget;
            // said once of each: a trial may well succeed while this one is silent still
            held.hung = late && progress.is_some_and(|at| at > held.since);
            Some((held.model.clone().filter(|_| held.hung)?, silence))
        });
        for (key, silent) in hung.collect::<Vec<_>>() {
            let Some(station) = self.stations.get_mut(&instance) else { return };
            let Some(model) = station.models.get_mut(&key) else { continue };
            if model.breaker.eject(now) {
                self.notices.push(Notice::Hung { instance, model: key, silent });
            }
        }
    }
}
