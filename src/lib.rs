//! Server-side HTTP sessions for synchronous Rust web applications.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod cleaner;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod cookie;
pub mod data;
pub mod delta;
mod error;
pub mod event;
mod flash;
pub mod http;
pub mod id;
pub mod lifetime;
pub mod manager;
pub mod record;
mod session;
pub mod store;
pub mod web;

pub use cookie::CookieConfig;
pub use error::{Error, ErrorKind, Result};
pub use flash::Flash;
pub use id::UserKey;
pub use lifetime::Lifetime;
pub use manager::SessionManager;
#[cfg(feature = "sqlite")]
pub use rusqlite;
pub use session::{OnLoadFailure, Saved, Session, SignIn};
pub use store::memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use store::sqlite::SqliteStore;
