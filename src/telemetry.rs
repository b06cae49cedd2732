//! LOG.
