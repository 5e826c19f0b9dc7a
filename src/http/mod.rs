//! Everything that the author of an adapter for a web framework needs.
//!
//! An adapter translates a request and a response. [`Adapter`] decides everything else: it opens
//! the session, runs the handler, reports what went wrong, stores the changes and completes the
//! response. `examples/tiny_http.rs` is an adapter written by hand.
//!
//! An application needs none of this; see [`web`](crate::web) for the adapters that exist.

mod adapter;

pub use crate::message::{Outcome, RequestHead, Response, ResponseHeaders};
pub use adapter::Adapter;
