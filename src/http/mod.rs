//! The interface for authors of adapters for web frameworks.
//!
//! An adapter translates a request and a response. [`Adapter`] decides everything else: it opens
//! the session, runs the handler, reports failures, closes the session and adds its header fields
//! to the response. `examples/tiny_http.rs` is a complete adapter.
//!
//! Applications do not need it; [`web`](crate::web) has the existing adapters.

mod adapter;

pub use crate::message::{Outcome, RequestHead, Response, ResponseHeaders};
pub use adapter::Adapter;
