//! Sessions through the public API, in one process and without HTTP.

#[path = "../common/mod.rs"]
mod common;

mod anonymous;
mod cleaner;
mod expiry;
mod idle_limits;
mod merging;
mod realms;
mod replaced_id_edges;
mod replaced_id_races;
mod replaced_ids;
mod requests;
mod session_traces;
mod settings;
mod trail;
mod user_sessions;
mod values;
