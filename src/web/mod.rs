//! Socket 2: web frameworks. One file in this folder is one framework.
//!
//! An adapter opens a session from the request's headers, lets the handler work, closes it, and
//! adds the headers to the response. It is some thirty lines over [`SessionManager::open`] and
//! [`SessionManager::close`](crate::SessionManager::close).
//!
//! [`SessionManager::open`]: crate::SessionManager::open

#[cfg(feature = "rocket")]
pub mod rocket;
#[cfg(feature = "rouille")]
pub mod rouille;
