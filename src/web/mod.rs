//! Adapters for web frameworks, one module for each.
//!
//! An adapter opens the session of a request, runs the handler, stores the changes before the
//! response is sent, and adds the header fields. For any other framework, see
//! [`Adapter`](crate::adapter::Adapter).

#[cfg(any(feature = "http", feature = "rouille", feature = "tiny_http"))]
mod error_page;
#[cfg(feature = "http")]
pub mod http_types;
#[cfg(feature = "rocket")]
pub mod rocket;
#[cfg(feature = "rouille")]
pub mod rouille;
#[cfg(feature = "tiny_http")]
pub mod tiny_http;
