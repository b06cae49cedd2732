//! What goes wrong, on either side, and who notices.

mod database;
mod deaths;
mod ejection;
mod hung;
mod leavers;
mod retries;
mod stopping;
