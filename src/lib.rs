//! Server-side HTTP sessions for synchronous Rust web applications.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod data;
pub mod delta;
pub mod error;
pub mod event;
pub mod id;
pub mod lifetime;
pub mod record;
pub mod store;

pub use error::{Error, ErrorKind, Result};
pub use lifetime::Lifetime;
#[cfg(feature = "sqlite")]
pub use rusqlite;
pub use store::memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use store::sqlite::SqliteStore;
