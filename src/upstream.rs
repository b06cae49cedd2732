//! The instances.
