//! Usher as its users meet it: one module a topic, `support` is the language they are written in.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "nothing depends on this crate, and a test fails by panicking"
)]

mod accounts;
mod admin;
mod balance;
mod bodies;
mod check;
mod cluster;
mod commands;
mod cors;
mod doctor;
mod door;
mod ending;
mod failures;
mod house;
mod install;
mod issuers;
mod limits;
mod logs;
mod metrics;
mod patience;
mod record;
mod reload;
mod sdk;
mod signatures;
mod sim;
mod store;
mod streams;
mod support;
mod table;
mod tame;
mod tls;
mod usage;
mod wire;
