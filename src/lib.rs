//! Server-side HTTP sessions for synchronous Rust web applications.
//!
//! A [`SessionManager`] holds a store, such as [`SqliteStore`]. For each request it opens a
//! [`Session`], which does nothing until it is used. The handler reads and changes it. Closing it
//! stores the changes and returns the headers for the response. The adapters for web frameworks in
//! [`web`] open and close sessions.
//!
//! ```
//! use cloakroom::adapter::Outcome;
//! use cloakroom::{SessionManager, SqliteStore};
//!
//! let sessions = SessionManager::new(SqliteStore::in_memory()?)?;
//!
//! // The first request has no cookie. It receives one, because it writes.
//! let session = sessions.open(None);
//! session.set("theme", "dark")?;
//! let headers = sessions.close(&session, Outcome::Completed)?;
//! let set_cookie = headers.iter().find(|(name, _)| *name == "Set-Cookie");
//! let (_, cookie) = set_cookie.expect("a session began");
//!
//! // The next request sends the cookie. It only reads, so it receives no cookie.
//! let session = sessions.open(cookie.split(';').next());
//! assert_eq!(session.get::<String>("theme")?.as_deref(), Some("dark"));
//! let headers = sessions.close(&session, Outcome::Completed)?;
//! assert!(headers.iter().all(|(name, _)| name != "Set-Cookie"));
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! # Contents
//!
//! | for | see |
//! |---|---|
//! | the cookie and its safe defaults | [`CookieConfig`] |
//! | the lifetime of sessions | [`Lifetime`], [`policy::Policy`] |
//! | CSRF protection | [`CrossOrigin`], which is on by default; [`Session::csrf_field`], [`Session::verify_csrf`] |
//! | settings of the manager, of the SQLite store | [`manager::SessionManagerBuilder`], [`stores::sqlite::SqliteStoreBuilder`] |
//! | operating a database | [`stores::sqlite::admin::Admin`], the crate `cloakroom-cli` |
//! | a cache in front of a store | [`stores::cached::CachedStore`] |
//! | sessions in PostgreSQL, for several machines | `stores::postgres`, with its feature |
//! | sessions in memcached, or memcached as that cache | `stores::memcached`, with its feature |
//! | errors; early responses of handlers | [`ErrorKind`]; [`adapter::HandlerError`] |
//! | events for the operator | [`event::Event`] |
//! | tests of an application | [`clock::ManualClock`], [`MemoryStore`], `testing` |
//! | a store of your own | [`backend::Store`], `conformance` |
//! | an adapter of your own for a web framework | [`adapter::Adapter`] |
//!
//! The folder `docs` of the repository, and of this package, has pages on getting started, signing
//! in, forms, configuration, stores, deployment and operations; `docs/README.md` lists them.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `sqlite` | yes | [`SqliteStore`]; on Unix systems only |
//! | `bundled` | yes | SQLite itself, compiled into the program; else the system's is linked, 3.37 or newer |
//! | `rouille` | no | the module `web::rouille` |
//! | `rocket` | no | the module `web::rocket` |
//! | `tiny_http` | no | the module `web::tiny_http` |
//! | `http` | no | the module `web::http_types`, for servers on the types of the crate `http` |
//! | `postgres` | no | the module `stores::postgres` |
//! | `postgres-rustls` | no | encrypted connections to PostgreSQL |
//! | `memcached` | no | the module `stores::memcached` |
//! | `cookie-keys` | no | signed and encrypted cookies: `cookie::CookieKeys` |
//! | `testing` | no | the module `testing`, for the tests of an application |
//! | `conformance` | no | the module `conformance`, for the tests of a store of your own |
//!
//! `bundled` and `postgres-rustls` need a C compiler. [`MemoryStore`] and
//! [`stores::cached::CachedStore`] need no feature.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

#[cfg(all(feature = "sqlite", not(unix)))]
compile_error!(
    "The feature `sqlite` of cloakroom needs a Unix system, whose file identities and locks it \
     uses. Switch it off with `default-features = false`, and use another store."
);

pub mod adapter;
pub mod backend;
mod cleaner;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod cookie;
pub mod cross_origin;
pub mod csrf;
mod data;
mod delta;
mod error;
pub mod event;
mod flash;
pub mod id;
pub mod lifetime;
pub mod manager;
mod message;
pub mod policy;
mod process;
#[cfg(all(
    doctest,
    feature = "http",
    feature = "rocket",
    feature = "rouille",
    feature = "testing"
))]
mod readme_doctests;
mod record;
pub mod session;
pub mod stores;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod web;

pub use cookie::CookieConfig;
pub use cross_origin::CrossOrigin;
pub use error::{Error, ErrorKind, Result};
pub use flash::Flash;
pub use id::UserKey;
pub use lifetime::Lifetime;
pub use manager::SessionManager;
pub use session::{Authentication, RecentAuth, Session, SignIn};
pub use stores::memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use stores::postgres::PostgresStore;
#[cfg(all(feature = "sqlite", unix))]
pub use stores::sqlite::SqliteStore;
