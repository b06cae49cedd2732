//! Usher: the front door of a GPU box.
//!
//! A request walks through the modules in the order of this list; a line of code belongs to the
//! module that is named after its step.

// LISTEN and tell the story.
pub mod cli;
pub mod config;
pub mod gateway;
pub mod live;
pub mod server;

// The steps, in the order a request meets them.
pub mod auth;
pub mod client;
pub mod limit;
pub mod model;
pub mod payload;
pub mod policy;
pub mod route;
pub mod scheduler;
pub mod telemetry;
pub mod upstream;
pub mod usage;

// What the operator sees and says while it runs.
pub mod admin;

// What the steps keep.
pub mod store;
