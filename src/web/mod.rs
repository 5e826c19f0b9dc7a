//! Adapters for web frameworks, one module for each.
//!
//! An adapter translates a request and a response of its framework;
//! [`Adapter`](crate::adapter::Adapter) does everything else, also for adapters outside this crate.

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
