//! Usher's probes, as `upstream::health` makes them.

use super::{Chooser, What, World};

const INTERVAL: f64 = 2.0;
const IMPATIENCE: f64 = 0.5;
/// A probe that something asked for takes a moment.
const AT_ONCE: f64 = 0.002;
const FALL: u32 = 3;
const RISE: u32 = 2;

/// What the probes of an instance have found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    version: u64,
    up: bool,
    ever: bool,
    failures: u32,
    successes: u32,
}

impl World {
    /// Probes now.
    pub(super) fn probe(&mut self, instance: usize) {
        let now = self.now;
        let Chooser::Usher(usher) = &mut self.chooser else { return };
        let (Some(it), Some(probe)) = (self.instances.get(instance), self.probes.get_mut(instance))
        else {
            return;
        };
        if it.dead {
            probe.successes = 0;
            probe.failures += 1;
            probe.up &= probe.failures < FALL;
        } else {
            probe.failures = 0;
            probe.successes += 1;
            probe.up |= !probe.ever || probe.successes >= RISE;
            probe.ever = true;
        }
        probe.version += 1;
        let (up, answered, version) = (probe.up, !it.dead, probe.version);
        let residents: Vec<usize> = it.residents().collect();
        usher.learn(instance, (up, answered), residents.into_iter(), now);
        let well = up && answered && usher.core.is_trusted(instance);
        let pause = if well { INTERVAL } else { IMPATIENCE };
        self.at(now + pause, What::Probe { instance, version });
        self.hand_out();
    }

    pub(super) fn probed(&mut self, instance: usize, version: u64) {
        if self.probes.get(instance).is_some_and(|probe| probe.version == version) {
            self.probe(instance);
        }
    }

    /// Something failed: a probe without delay.
    pub(super) fn suspect(&mut self, instance: usize) {
        if let Some(probe) = self.probes.get_mut(instance) {
            probe.version += 1;
            let version = probe.version;
            self.at(self.now + AT_ONCE, What::Probe { instance, version });
        }
    }
}
