//! Several processes: killed, competing, under load for long.

#[path = "../common/mod.rs"]
mod common;

mod contention;
mod crash;
mod crash_http;
mod soak;
mod stop;
