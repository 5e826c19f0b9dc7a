//! What all requests of one manager share.
//!
//! Owns the `Context` and its parts. The manager makes one context, and every session holds it.

mod context;
mod end_trail;
mod generations;
mod guess_detector;
mod retired_ids;
mod settings;
mod update_queue;

pub(crate) use context::Context;
pub(crate) use end_trail::EndTrail;
pub(crate) use guess_detector::GuessDetector;
pub(crate) use retired_ids::{RetiredIds, RetiredSinceOpen, RetiredTick};
pub use settings::OnLoadFailure;
pub(crate) use settings::{FormerCookie, IdField, Settings, Transport};
pub(crate) use update_queue::{UpdateQueues, contention_error};
