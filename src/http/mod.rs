//! The interface for authors of adapters for web frameworks.
//!
//! An adapter translates a request and a response. [`Adapter`] decides everything else: it opens
//! the session, runs the handler, reports failures, closes the session and adds its header fields
//! to the response. `src/web/tiny_http.rs` is a short adapter.
//!
//! Applications need only [`HandlerError`]; [`web`](crate::web) has the existing adapters.

mod adapter;
mod handler_error;

pub use crate::message::{Outcome, RequestHead, Response, ResponseHeaders, Sharing};
pub use adapter::Adapter;
pub use handler_error::HandlerError;
