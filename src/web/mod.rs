//! Adapters for web frameworks, one module for each.
//!
//! For each request an adapter does this:
//!
//! - It answers a [cross-origin](crate::CrossOrigin) request with 403. The handler does not run.
//! - It opens the session and runs the handler.
//! - It stores the session's changes before the response is sent, and adds the header fields. A
//!   streamed body of the response is read after that: it can read the session, but not change it.
//! - If the handler returns an error or panics, or if storing fails, it answers with an error page
//!   (on Rocket, with that of a catcher), and an event has the details. If the error is an
//!   [`Error`](crate::Error) of this crate, or contains one, the page has its
//!   [status](crate::SessionManager::status_of); otherwise 500.
//!   [`Outcome`](crate::adapter::Outcome) says what is stored then.
//!
//! | server | feature | adapter |
//! |---|---|---|
//! | Rocket 0.5 | `rocket` | the fairing and the guard of [`rocket`] |
//! | rouille 3.6 | `rouille` | [`rouille::session`] |
//! | tiny_http 0.12 | `tiny_http` | [`tiny_http::session`] |
//! | servers on the crate `http`, such as Astra | `http` | [`http_types::session`] |
//! | any other that answers each request on a thread | none | [`Adapter`](crate::adapter::Adapter) |
//!
//! The [guide](crate::guide::servers) says which server to choose, and what each needs in
//! production.

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
