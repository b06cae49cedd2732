//! What the requests of a tier may do to a model that others share.
//!
//! A loaded model is one for all: another context length reloads it, another `keep_alive` decides
//! how long it stays for everybody, and an empty request unloads it.

use std::fmt;
use std::time::Duration;

use super::units::show_duration;

/// The bounds of a tier's requests, and of a key within its user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taming {
    /// The context length, in tokens.
    pub num_ctx: Context,
    /// Whether the other options that reload a model pass (`num_gpu`, `num_batch` and their like).
    pub runner_options: bool,
    /// How long a request may keep its model loaded.
    pub keep_alive: KeepAlive,
    /// Most tokens of one answer; `None` is no bound.
    pub max_output: Option<u32>,
    /// Whether a model may be unloaded by an empty request.
    pub unloading: bool,
}

/// What becomes of a request's context length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// It passes.
    Allow,
    /// A larger one is made this one.
    Max(u32),
    /// Every request has this one.
    Pin(u32),
}

/// What becomes of a request's `keep_alive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// It does not pass: the instance's own holds.
    Drop,
    /// A longer one is made this one; one that would unload the model early does not pass.
    Max(Duration),
    /// It passes.
    Allow,
}

impl Taming {
    /// No bound at all.
    pub const NONE: Self = Self {
        num_ctx: Context::Allow,
        runner_options: true,
        keep_alive: KeepAlive::Allow,
        max_output: None,
        unloading: true,
    };

    /// The bounds of a tier that names none of its own; one that may change models is trusted.
    pub fn by_default(manages: bool) -> Self {
        match manages {
            true => Self::NONE,
            false => Self {
                runner_options: false,
                keep_alive: KeepAlive::Max(Duration::from_secs(30 * 60)),
                unloading: false,
                ..Self::NONE
            },
        }
    }

    /// What satisfies both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            num_ctx: self.num_ctx.and(other.num_ctx),
            runner_options: self.runner_options && other.runner_options,
            keep_alive: self.keep_alive.and(other.keep_alive),
            max_output: self.max_output.into_iter().chain(other.max_output).min(),
            unloading: self.unloading && other.unloading,
        }
    }
}

impl Context {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Allow, rule) | (rule, Self::Allow) => rule,
            (Self::Max(a), Self::Max(b)) => Self::Max(a.min(b)),
            (Self::Pin(a), Self::Max(b) | Self::Pin(b)) | (Self::Max(a), Self::Pin(b)) => {
                Self::Pin(a.min(b))
            }
        }
    }
}

impl KeepAlive {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Allow, rule) | (rule, Self::Allow) => rule,
            (Self::Drop, _) | (_, Self::Drop) => Self::Drop,
            (Self::Max(a), Self::Max(b)) => Self::Max(a.min(b)),
        }
    }
}

impl fmt::Display for Context {
    /// As the file says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Max(tokens) => write!(f, "max {tokens}"),
            Self::Pin(tokens) => write!(f, "pin {tokens}"),
        }
    }
}

impl fmt::Display for KeepAlive {
    /// As the file says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Max(time) => write!(f, "max {}", show_duration(*time)),
            Self::Allow => f.write_str("allow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_taming() -> impl Strategy<Value = Taming> {
        let num_ctx = prop_oneof![
            Just(Context::Allow),
            (1_u32..9).prop_map(Context::Max),
            (1_u32..9).prop_map(Context::Pin),
        ];
        let keep_alive = prop_oneof![
            Just(KeepAlive::Allow),
            Just(KeepAlive::Drop),
            (1_u64..9).prop_map(|n| KeepAlive::Max(Duration::from_secs(n))),
        ];
        (num_ctx, any::<bool>(), keep_alive, prop::option::of(1_u32..9), any::<bool>()).prop_map(
            |(num_ctx, runner_options, keep_alive, max_output, unloading)| Taming {
                num_ctx,
                runner_options,
                keep_alive,
                max_output,
                unloading,
            },
        )
    }

    proptest! {
        #[test]
        fn both_tiers_bind_in_whatever_order(
            a in any_taming(), b in any_taming(), c in any_taming()
        ) {
            prop_assert_eq!(a.and(b), b.and(a));
            prop_assert_eq!(a.and(b).and(c), a.and(b.and(c)));
            prop_assert_eq!(a.and(a), a);
            prop_assert_eq!(a.and(Taming::NONE), a);
            prop_assert_eq!(a.and(b).and(b), a.and(b), "once bound is bound");
        }
    }

    #[test]
    fn only_those_who_manage_models_are_free_by_default() {
        assert_eq!(Taming::by_default(true), Taming::NONE);
        let bound = Taming::by_default(false);
        assert!(!bound.runner_options && !bound.unloading);
        assert_eq!(bound.keep_alive, KeepAlive::Max(Duration::from_secs(1800)));
        assert_eq!((bound.num_ctx, bound.max_output), (Context::Allow, None));
    }
}
