//! LIMIT: who comes too often?

pub mod ladder;
pub mod login;
mod recent;
