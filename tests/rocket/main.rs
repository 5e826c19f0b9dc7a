//! Behaviour of Rocket alone. The process is its own, since some warnings come once a process.

#[path = "../common/mod.rs"]
mod common;

mod edges;
mod guards;
mod threads;
