//! LISTEN.
