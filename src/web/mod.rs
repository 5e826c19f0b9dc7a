//! Adapters for web frameworks, one module for each.
//!
//! An adapter opens the session of a request, runs the handler, stores the changes before the
//! response is sent, and adds the header fields.
//!
//! | server | feature | adapter | choose it |
//! |---|---|---|---|
//! | Rocket 0.5 | `rocket` | the fairing and the guard of [`rocket`] | for a new application in production: it has guards and typed routes, and needs no setting |
//! | rouille 3.6 | `rouille` | [`rouille::session`] | for the shortest start; in production with a proxy and [two settings](crate::guide::servers#rouille) |
//! | tiny_http 0.12 | `tiny_http` | [`tiny_http::session`] | for small programs, also without a proxy |
//! | servers on the crate `http`, such as Astra | `http` | [`http_types::session`] | if you have such a server |
//! | any other | none | [`Adapter`](crate::adapter::Adapter) | if it answers each request on a thread |

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
