//! The loaded models: pure bookkeeping, under one lock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Want;
use crate::clock::Clock;
use crate::engine::Runner;
use crate::json::Json;
use crate::model::Model;
use crate::units::Stay;

/// The options whose change reloads a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunnerOptions {
    /// `num_ctx`.
    pub(crate) context: u64,
    /// The rest of the group, sorted by name.
    pub(crate) others: Vec<(String, Json)>,
}

pub(super) struct Tenant {
    id: u64,
    runner: Arc<Runner>,
    options: RunnerOptions,
    footprint: u64,
    refs: usize,
    stay: Stay,
    /// Set when it last became idle; stale while it is busy.
    expires: Option<(Instant, String)>,
    /// Grows with each use, so that an old timer does nothing.
    epoch: u64,
}

impl Tenant {
    pub(super) fn new(runner: Arc<Runner>, want: &Want, stay: Stay, lanes: usize) -> Self {
        let footprint = want.model.footprint(want.options.context, lanes);
        let options = want.options.clone();
        Self { id: 0, runner, options, footprint, refs: 1, stay, expires: None, epoch: 0 }
    }

    fn is(&self, digest: &str) -> bool {
        self.runner.model.digest == digest
    }
}

/// What became of an attempt to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// The victim is in use; it goes when it is idle.
    Busy,
    Evicted,
    Reloading,
}

/// What the end of a use led to.
pub(super) enum Released {
    Gone,
    Idle { until: Instant, epoch: u64 },
    Kept,
}

/// A loaded model as `/api/ps` and the control port show it.
pub(crate) struct Resident {
    pub(crate) model: Arc<Model>,
    pub(crate) context: u64,
    pub(crate) footprint: u64,
    pub(crate) refs: usize,
    /// Modelled time left; the whole stay for one that was never idle.
    left: Duration,
    /// As it was set when the model last became idle: stale while it is busy.
    pub(crate) expires_at: String,
}

pub(super) struct Table {
    tenants: Vec<Tenant>,
    vram: u64,
    max_loaded: usize,
    next: u64,
    pub(super) recovering_until: Option<Instant>,
}

impl Table {
    pub(super) const fn new(vram: u64, max_loaded: usize) -> Self {
        Self { tenants: Vec::new(), vram, max_loaded, next: 1, recovering_until: None }
    }

    /// Uses a loaded model whose options suit; the request's `keep_alive` becomes the model's.
    pub(super) fn take(&mut self, want: &Want) -> Option<(u64, Arc<Runner>)> {
        let suits = |t: &&mut Tenant| t.is(&want.model.digest) && t.options == want.options;
        let tenant = self.tenants.iter_mut().find(suits)?;
        tenant.refs += 1;
        tenant.epoch += 1;
        tenant.stay = want.keep_alive.unwrap_or(tenant.stay);
        Some((tenant.id, Arc::clone(&tenant.runner)))
    }

    pub(super) fn install(&mut self, tenant: Tenant) -> u64 {
        let id = self.next;
        self.next += 1;
        self.tenants.push(Tenant { id, ..tenant });
        id
    }

    /// One step towards room for `want`.
    pub(super) fn make_room(&mut self, want: &Want, lanes: usize) -> Room {
        let same = self.tenants.iter().position(|t| t.is(&want.model.digest));
        let need = want.model.footprint(want.options.context, lanes);
        let used: u64 = self.tenants.iter().map(|t| t.footprint).sum();
        // a model larger than the card spills into host memory once it is alone
        let fits = used.saturating_add(need) <= self.vram && self.tenants.len() < self.max_loaded;
        let victim = match same {
            Some(position) => Some(position),
            None if fits => None,
            None => self.victim(),
        };
        let Some(position) = victim else { return Room::Enough };
        let Some(tenant) = self.tenants.get_mut(position) else { return Room::Enough };
        if tenant.refs > 0 {
            tenant.stay = Stay::NONE;
            return Room::Busy;
        }
        self.tenants.remove(position);
        if same.is_some() { Room::Reloading } else { Room::Evicted }
    }

    /// Idle before busy, then the one that would stay the shortest.
    fn victim(&self) -> Option<usize> {
        let rank = |(_, t): &(usize, &Tenant)| (t.refs > 0, t.stay);
        self.tenants.iter().enumerate().min_by_key(rank).map(|(position, _)| position)
    }

    pub(super) fn release(&mut self, id: u64, clock: Clock) -> Released {
        let Some(position) = self.tenants.iter().position(|t| t.id == id) else {
            return Released::Kept;
        };
        let Some(tenant) = self.tenants.get_mut(position) else { return Released::Kept };
        tenant.refs -= 1;
        if tenant.refs > 0 {
            return Released::Kept;
        }
        if tenant.stay == Stay::NONE {
            self.tenants.remove(position);
            return Released::Gone;
        }
        // for ever is centuries of modelled time: a day of real time is as good
        let longest = Duration::from_hours(24);
        let until = Instant::now() + clock.real(tenant.stay.shown()).min(longest);
        tenant.expires = Some((until, clock.stamp_after(tenant.stay.shown())));
        match tenant.stay {
            Stay::Forever => Released::Kept,
            Stay::For(_) => Released::Idle { until, epoch: tenant.epoch },
        }
    }

    /// Unloads an idle model that nobody used since `epoch`.
    pub(super) fn expire(&mut self, id: u64, epoch: u64) -> bool {
        let due = |t: &Tenant| t.id == id && t.epoch == epoch && t.refs == 0;
        let before = self.tenants.len();
        self.tenants.retain(|t| !due(t));
        self.tenants.len() < before
    }

    /// Ends a model's stay; true if it was idle and is gone.
    pub(super) fn doom(&mut self, digest: &str) -> bool {
        for tenant in self.tenants.iter_mut().filter(|t| t.is(digest)) {
            tenant.stay = Stay::NONE;
        }
        let before = self.tenants.len();
        self.tenants.retain(|t| !t.is(digest) || t.refs > 0);
        self.tenants.len() < before
    }

    /// Latest expiry first.
    pub(super) fn residents(&self, clock: Clock) -> Vec<Resident> {
        let mut residents: Vec<Resident> =
            self.tenants.iter().map(|t| resident(t, clock)).collect();
        residents.sort_by_key(|resident| std::cmp::Reverse(resident.left));
        residents
    }
}

fn resident(tenant: &Tenant, clock: Clock) -> Resident {
    let left = match (&tenant.expires, tenant.stay) {
        (Some((until, _)), Stay::For(_)) => clock.until(*until),
        (_, stay) => stay.shown(),
    };
    let stamp = tenant.expires.as_ref().map(|(_, stamp)| stamp.clone());
    Resident {
        model: Arc::clone(&tenant.runner.model),
        context: tenant.options.context,
        footprint: tenant.footprint,
        refs: tenant.refs,
        left,
        expires_at: stamp.unwrap_or_else(|| clock.stamp_after(left)),
    }
}
