//! AUTHORISE: may this caller do that?
//!
//! A key's rights are the intersection of its own tier's and its user's: every tier has a veto.
//! Nothing here is remembered; the tiers are those of the configuration in force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::auth::Principal;
use crate::config::{Config, Taming, Tier};
use crate::model::{ModelName, Pattern};
use crate::route::{Class, Route};

/// What the configuration says about rights.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'c> {
    /// Tiers by name.
    pub tiers: &'c BTreeMap<String, Tier>,
    /// Route path → the only tiers that may use it.
    pub restrict: &'c BTreeMap<String, BTreeSet<String>>,
    /// Longest wait in the queue of tiers that do not say.
    pub max_queue_wait: Duration,
}

impl<'c> From<&'c Config> for Rules<'c> {
    fn from(config: &'c Config) -> Self {
        Self {
            tiers: &config.tiers,
            restrict: &config.restrict,
            max_queue_wait: config.balance.max_queue_wait,
        }
    }
}

/// Permission to use a route, and what comes with it. Only [`authorise_route`] gives it.
#[derive(Clone, Debug)]
pub struct RoutePermit {
    /// Lists of patterns; a model must be on every one.
    models: Vec<Vec<Pattern>>,
    cloud: bool,
    concurrency: u32,
    key_concurrency: u32,
    weight: u32,
    max_queue_wait: Duration,
    taming: Taming,
}

/// Decides whether the caller may use the route.
///
/// # Errors
/// [`Denied::Route`] with the tier that does not allow it. A tier that is no longer configured
/// allows nothing.
pub fn authorise_route(
    principal: &Principal,
    route: &Route,
    rules: &Rules<'_>,
) -> Result<RoutePermit, Denied> {
    let key = principal.identity.key.as_ref();
    let models = key.and_then(|key| key.models.as_deref());
    let mut permit = RoutePermit {
        models: models.into_iter().map(patterns).collect(),
        cloud: true,
        concurrency: u32::MAX,
        key_concurrency: key.and_then(|key| key.concurrency).unwrap_or(u32::MAX),
        weight: u32::MAX,
        max_queue_wait: Duration::MAX,
        taming: Taming::NONE,
    };
    let own = key.and_then(|key| key.tier.as_deref());
    let tiers = std::iter::once((principal.tier(), false)).chain(own.map(|tier| (tier, true)));
    for (name, of_key) in tiers {
        let tier =
            rules.tier_for(name, route).ok_or_else(|| Denied::Route { role: name.to_owned() })?;
        permit.models.extend(tier.models.iter().map(|list| patterns(list)));
        permit.cloud &= tier.cloud;
        let seats = if of_key { &mut permit.key_concurrency } else { &mut permit.concurrency };
        *seats = tier.concurrency.min(*seats);
        permit.weight = permit.weight.min(tier.weight);
        let wait = tier.max_queue_wait.unwrap_or(rules.max_queue_wait);
        permit.max_queue_wait = permit.max_queue_wait.min(wait);
        permit.taming = permit.taming.and(tier.taming);
    }
    Ok(permit)
}

impl<'c> Rules<'c> {
    /// The tier of this name, if it allows the route.
    fn tier_for(&self, name: &str, route: &Route) -> Option<&'c Tier> {
        let tier = self.tiers.get(name)?;
        let in_class = match route.class {
            Class::Open => true,
            Class::Guarded(class) => tier.allow.contains(&class),
        };
        let listed = self.restrict.get(route.path).is_none_or(|only| only.contains(name));
        (in_class && listed).then_some(tier)
    }
}

fn patterns(list: &[String]) -> Vec<Pattern> {
    list.iter().map(|text| Pattern::new(text)).collect()
}

impl RoutePermit {
    /// Decides whether the caller may use the model.
    ///
    /// # Errors
    /// [`Denied::Cloud`] if the model does not run here and a tier does not let requests out;
    /// [`Denied::Model`] if a list of the key or of a tier does not have it.
    pub fn authorise_model(&self, model: &ModelName) -> Result<(), Denied> {
        if model.is_cloud() && !self.cloud {
            return Err(Denied::Cloud { model: model.as_written().to_owned() });
        }
        if self.lists_have(model) {
            return Ok(());
        }
        Err(Denied::Model { model: model.as_written().to_owned() })
    }

    /// Decides whether the caller may use tools that search the web.
    ///
    /// # Errors
    /// [`Denied::WebSearch`] if a tier does not let requests out.
    pub fn authorise_web_search(&self) -> Result<(), Denied> {
        if self.cloud { Ok(()) } else { Err(Denied::WebSearch) }
    }

    /// Decides whether the caller may unload a model, which then is gone for everybody.
    ///
    /// # Errors
    /// [`Denied::Unloading`] if a tier does not manage models.
    pub fn authorise_unloading(&self) -> Result<(), Denied> {
        if self.taming.unloading { Ok(()) } else { Err(Denied::Unloading) }
    }

    /// What the caller's requests may do to a model that others share.
    pub fn taming(&self) -> Taming {
        self.taming
    }

    /// Whether the model belongs in a list that the caller sees: whether they may use it.
    pub fn may_see(&self, model: &ModelName) -> bool {
        (self.cloud || !model.is_cloud()) && self.lists_have(model)
    }

    /// Seats that the user may hold at once, through whatever key.
    pub fn concurrency(&self) -> u32 {
        self.concurrency
    }

    /// Seats of them that may be held through this key, by its own limit and its own tier's.
    pub fn key_concurrency(&self) -> u32 {
        self.key_concurrency
    }

    /// Share of the box.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Longest wait in the queue.
    pub fn max_queue_wait(&self) -> Duration {
        self.max_queue_wait
    }

    fn lists_have(&self, model: &ModelName) -> bool {
        self.models.iter().all(|list| list.iter().any(|pattern| pattern.matches(model)))
    }
}

/// What the caller may not do; the text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The model does not run on this box.
    #[error("Model '{model}' runs outside this server, which is not allowed for this key")]
    Cloud {
        /// As the client wrote it.
        model: String,
    },
    /// The model is not on the lists of the key and its tiers.
    #[error("Model '{model}' is not allowed for this key")]
    Model {
        /// As the client wrote it.
        model: String,
    },
    /// Nobody may have a prompt rendered: it shows what the model's own part of it is.
    #[error("'_debug_render_only' is not allowed")]
    Rendering,
    /// A tier does not allow the route.
    #[error("Role '{role}' not authorized for this endpoint")]
    Route {
        /// The tier.
        role: String,
    },
    /// The model would be gone for everybody.
    #[error("Unloading a model is not allowed for this key")]
    Unloading,
    /// The search would run outside this box.
    #[error("Web search runs outside this server, which is not allowed for this key")]
    WebSearch,
}

#[cfg(test)]
mod tests;
