//! Server-side HTTP sessions for Rocket, and for Rust servers that answer each request on a thread.
//!
//! The data of a session stays on the server, in a [store](stores) such as a SQLite file. The
//! browser holds a random id, in a cookie. For a request an adapter opens a [`Session`], which does
//! no I/O until the handler uses it, and closes it after the handler: closing stores the changes,
//! and returns header fields for the response.
//!
//! ```no_run
//! # #[cfg(all(feature = "rocket", feature = "sqlite"))]
//! # mod application {
//! use cloakroom::{Session, SessionManager, SqliteStore};
//! use rocket::{get, launch, routes};
//!
//! #[get("/")]
//! fn index(session: &Session) -> cloakroom::Result<String> {
//!     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
//!     Ok(format!("visits: {visits}\n"))
//! }
//!
//! #[launch]
//! fn rocket() -> _ {
//!     let store = SqliteStore::open("app.db").expect("the database does not open");
//!     let sessions = SessionManager::new(store).expect("the configuration is invalid");
//!     rocket::build().attach(sessions).mount("/", routes![index])
//! }
//! # }
//! ```
//!
//! Two requests of one browser often overlap. Each stores only its changes, which the store merges
//! with those of the other. If one of them ends the session, the session stays ended, whatever the
//! other one stores. There are [exceptions](guide::guarantees#when-an-ended-session-can-return),
//! such as a copy of the database that is put back.
//!
//! Version 0.1 is new: no use in production is known.
//!
//! **For** applications on Rocket, or on rouille, tiny_http or another server that answers each
//! request on a thread. Each call blocks its thread until the store answers. Rocket is async; its
//! adapter runs each call that waits in Tokio's `block_in_place`, so other requests continue, as
//! long as fewer than `max_blocking` (512) calls wait. At that number the whole server waits.
//!
//! **Not for** axum, hyper, Actix Web or warp, for which there is no adapter; for sessions in
//! Redis, MySQL or MongoDB; for SQLite on Windows. cloakroom checks no passwords and does not
//! encrypt the data of sessions.
//!
//! # Usage
//!
//! cloakroom needs Rust 1.89 or newer and, with the default features, a C compiler and a Unix
//! system ([tested on Linux only](guide::platforms)). The program above is on Rocket;
//! [servers](guide::servers) has one on rouille, and says which server to choose. Version 0.1 is
//! not yet on crates.io, so `Cargo.toml` names the path of a copy of the repository; the
//! [features](#features) are listed below:
//!
//! ```toml
//! [dependencies]
//! cloakroom = { path = "../cloakroom", features = ["rocket"] }
//! rocket = { version = "0.5", default-features = false }
//! ```
//!
//! With PostgreSQL take `default-features = false` and the features `rocket` and `postgres-rustls`,
//! and open a [`PostgresStore`] by its builder: connections are encrypted only with
//! [`root_certificates`](stores::postgres::PostgresStoreBuilder::root_certificates).
//!
//! # Overview
//!
//! An application uses four types and an adapter. One [`SessionManager`] has the settings, opens
//! the session of each request, and lists and ends the sessions of a user. A [`Session`] is the
//! session as one request sees it: it reads and changes values, and signs the user in and out. A
//! store, such as [`SqliteStore`] or [`MemoryStore`], keeps the sessions. A [`UserKey`] is the text
//! by which you identify a user; use one that never changes, such as the primary key of the row. An
//! adapter in [`web`] connects a server with the manager.
//!
//! # Defaults
//!
//! The defaults are meant for production. A request that a page of another origin sends is answered
//! with 403, before the handler runs, unless its method is `GET`, `HEAD` or `OPTIONS`: handlers of
//! these must do nothing on behalf of the user. A session ends after a day without activity, and at
//! the latest 30 days after its last sign-in, or 7 days after it began if it has no user. With
//! SQLite, a power cut loses no sign-in, sign-out or revocation; it can lose [other
//! changes](guide::guarantees#syncs), as a rule those of the last minute.
//!
//! # Errors
//!
//! The calls return a [`Result`], and a handler can pass every error on with `?`. The client then
//! sees a page with the status 503 if the store is busy or cannot be reached, 403 for
//! [`ErrorKind::CrossOrigin`], and otherwise 500. The log has the details. The values that the
//! request has changed are discarded; a sign-in that has returned stays. A sign-out is carried out
//! even if the handler fails, but not if the store fails: the user must then sign out again. The
//! [guide](guide::errors) says how to answer with a page of your own.
//!
//! # Cookbook
//!
//! The calls of common pages. The guide has [a whole program with users and
//! passwords](guide::signing_in#a-sign-in-on-rocket), whose guard keeps visitors out of a page for
//! users.
//!
//! ## Values
//!
//! A value has a name, and any type that serde can serialize. For a value that depends on the old
//! one use [`update`](Session::update): what another tab adds at the same time is kept.
//!
//! ```
//! use cloakroom::{Result, Session};
//!
//! fn choose_theme(session: &Session, theme: &str) -> Result<()> {
//!     session.set("theme", theme)
//! }
//!
//! fn theme(session: &Session) -> Result<String> {
//!     Ok(session.get("theme")?.unwrap_or_else(|| "light".to_owned()))
//! }
//!
//! fn add_to_cart(session: &Session, item: u32) -> Result<Vec<u32>> {
//!     session.update("cart", move |cart: Option<Vec<u32>>| {
//!         cart.unwrap_or_default().into_iter().chain([item]).collect()
//!     })
//! }
//! #
//! # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
//! # let session = sessions.open(None);
//! # assert_eq!(theme(&session)?, "light");
//! # choose_theme(&session, "dark")?;
//! # assert_eq!(theme(&session)?, "dark");
//! # assert_eq!(add_to_cart(&session, 7)?, [7]);
//! # assert_eq!(add_to_cart(&session, 8)?, [7, 8]);
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! ## Sign-in and sign-out
//!
//! ```
//! use cloakroom::{Result, Session, SignIn, UserKey};
//!
//! /// Called after the check of the password. `remember_me` is a checkbox of the form. Returns
//! /// false only with `AtMaximum::Refuse`, if the user has the maximum number of sessions.
//! fn sign_in(session: &Session, user: i64, remember_me: bool) -> Result<bool> {
//!     session.set_persistent(remember_me)?;
//!     Ok(session.sign_in(UserKey::new(user.to_string())?)? == SignIn::Done)
//! }
//!
//! fn sign_out(session: &Session) -> Result<()> {
//!     session.destroy()?;
//!     session.flash("info", "You are signed out.") // for the next page
//! }
//!
//! fn messages(session: &Session) -> Result<Vec<String>> {
//!     Ok(session.flashes()?.into_iter().map(|message| message.text).collect())
//! }
//! #
//! # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
//! # let session = sessions.open(None);
//! # assert!(sign_in(&session, 1, true)?);
//! # sign_out(&session)?;
//! # assert_eq!(session.user()?, None);
//! # assert_eq!(messages(&session)?, ["You are signed out."]);
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! The box decides whether the browser keeps the cookie. With the default lifetime both kinds of
//! sessions end after a day without a visit: [set two lifetimes](guide::lifetime#remember-me).
//!
//! ## A page that needs a recent password
//!
//! ```
//! use cloakroom::{RecentAuth, Result, Session};
//! use std::time::Duration;
//!
//! /// Returns where to send the user instead; `None` if the page may be shown.
//! fn detour(session: &Session) -> Result<Option<&'static str>> {
//!     Ok(match session.recent_auth(Duration::from_secs(300))? {
//!         RecentAuth::Recent => None,
//!         RecentAuth::TooOld => Some("/confirm"), // asks for the password
//!         _ => Some("/sign-in"),
//!     })
//! }
//! #
//! # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
//! # assert_eq!(detour(&sessions.open(None))?, Some("/sign-in"));
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! ## A user's devices
//!
//! ```
//! use cloakroom::manager::UserSession;
//! use cloakroom::{Result, Session, SessionManager};
//!
//! fn devices(sessions: &SessionManager, session: &Session) -> Result<Vec<UserSession>> {
//!     let Some(user) = session.user()? else { return Ok(vec![]) };
//!     Ok(sessions.list_for_user(&user, Some(session))?.sessions)
//! }
//!
//! fn end_all_others(sessions: &SessionManager, session: &Session) -> Result<usize> {
//!     sessions.revoke_others(session)
//! }
//! #
//! # let sessions = SessionManager::new(cloakroom::MemoryStore::new())?;
//! # let session = sessions.open(None);
//! # session.sign_in(cloakroom::UserKey::new("1")?)?;
//! # assert_eq!(devices(&sessions, &session)?.len(), 1);
//! # assert_eq!(end_all_others(&sessions, &session)?, 0);
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! ## A test
//!
//! With the feature `testing`, a test has a user who is signed in, without a form. On Rocket,
//! `cookie` goes with the requests of the [local client](guide::testing#rocket).
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> cloakroom::Result<()> {
//! use cloakroom::testing::signed_in;
//! use cloakroom::{MemoryStore, SessionManager, UserKey};
//!
//! let sessions = SessionManager::new(MemoryStore::new())?;
//! let cookie = signed_in(&sessions, UserKey::new("1")?)?;
//! assert_eq!(sessions.open(Some(&*cookie)).user()?, Some(UserKey::new("1")?));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Settings
//!
//! [`SessionManager::new`] uses the defaults, and the [builder](SessionManager::builder) other
//! settings. [Before the first users sign in](guide::getting_started#in-production), choose the
//! name of the cookie:
//!
//! ```
//! # #[cfg(all(feature = "sqlite", unix))]
//! # mod application {
//! use cloakroom::{CookieConfig, Lifetime, SessionManager, SqliteStore};
//! use std::path::Path;
//! use std::time::Duration;
//!
//! const DAY: Duration = Duration::from_secs(24 * 60 * 60);
//!
//! fn sessions(database: &Path) -> cloakroom::Result<SessionManager> {
//!     SessionManager::builder(SqliteStore::open(database)?)
//!         .cookie(CookieConfig::new().name("__Host-shop"))
//!         // Of a session with a user: 7 days without a visit, and 90 days after the sign-in.
//!         .lifetime(Lifetime::idle(7 * DAY).with_absolute(90 * DAY))
//!         // The number of proxies. If it is too high, clients can forge their address.
//!         .behind_proxies(1)
//!         .build()
//! }
//! # }
//! ```
//!
//! # Guide
//!
//! The module [`guide`] contains the pages of the repository. Start with [getting
//! started](guide::getting_started) and [values](guide::values).
//!
//! - For most applications: [signing in](guide::signing_in), [stores](guide::stores),
//!   [own tables](guide::own_tables) in the same SQLite file, or [PostgreSQL](guide::postgresql),
//!   [lifetime](guide::lifetime) of sessions, [forms](guide::forms) and requests from other
//!   origins, [errors](guide::errors), [configuration](guide::configuration), lists of a user's
//!   [devices](guide::devices), [testing](guide::testing).
//! - For some: other [servers](guide::servers) than Rocket, [moving](guide::moving) from another
//!   library, [taking over](guide::taking_over) its users who are signed in,
//!   [identity providers](guide::identity_providers), [cookies](guide::cookies),
//!   [ids](guide::ids) and their renewal, [API clients](guide::api_clients),
//!   [CORS](guide::forms#scripts-on-another-origin),
//!   [WebSockets](guide::devices#websockets-and-streams).
//! - To judge it: [comparison](guide::comparison), [guarantees](guide::guarantees),
//!   [reliability](guide::reliability), [performance](guide::performance),
//!   [security](guide::security), [OWASP ASVS](guide::asvs), [platforms](guide::platforms).
//! - To run it: [deployment](guide::deployment), [backups](guide::backups),
//!   [operating](guide::operating), [rescue](guide::rescue), [scaling](guide::scaling),
//!   [commands](guide::commands), [events](guide::events), [upgrading](guide::upgrading), [what has
//!   changed](guide::changelog).
//! - To change it: [architecture](guide::architecture), [design](guide::design). For a
//!   [store](backend::Store), which [`conformance`] checks, see [stores](guide::stores), and for an
//!   [adapter](adapter::Adapter) [servers](guide::servers).
//! - [Terms](guide::terms)
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `sqlite` | yes | [`SqliteStore`]; on Unix systems only |
//! | `bundled` | yes | SQLite, compiled into the program; without it the system's is linked, 3.37 or newer |
//! | `rouille` | no | [`web::rouille`] |
//! | `rocket` | no | [`web::rocket`] |
//! | `tiny_http` | no | [`web::tiny_http`] |
//! | `http` | no | [`web::http_types`], for servers on the types of the crate `http`, such as Astra |
//! | `postgres` | no | [`stores::postgres`] |
//! | `postgres-rustls` | no | encrypted connections to PostgreSQL; includes `postgres` |
//! | `memcached` | no | [`stores::memcached`]; adds no dependency |
//! | `cookie-keys` | no | signed and encrypted cookies: [`cookie::CookieKeys`] |
//! | `testing` | no | [`testing`], for the tests of an application |
//! | `conformance` | no | [`conformance`], for the tests of a store of your own |
//!
//! `bundled` and `postgres-rustls` need a C compiler. [`MemoryStore`] and
//! [`stores::cached::CachedStore`] need no feature.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Links to items of other features are checked when all features are on.
#![cfg_attr(not(feature = "conformance"), allow(rustdoc::broken_intra_doc_links))]
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
mod batch_pacer;
mod cleaner;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod context;
pub mod cookie;
pub mod cross_origin;
pub mod csrf;
mod data;
mod delta;
mod error;
pub mod event;
mod flash;
// The code on its pages needs these features.
#[cfg(all(
    doctest,
    feature = "http",
    feature = "memcached",
    feature = "postgres",
    feature = "rocket",
    feature = "rouille",
    feature = "sqlite",
    feature = "testing"
))]
mod guide;
#[cfg(all(doc, not(doctest)))]
pub mod guide;
pub mod id;
#[cfg(any(feature = "postgres", feature = "rocket"))]
#[allow(dead_code, reason = "one feature marks, and the other one asks")]
mod in_place;
pub mod lifetime;
pub mod list;
pub mod manager;
mod message;
pub mod policy;
mod process;
mod record;
pub mod session;
mod settings;
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
pub use session::{Authentication, CommitOutcome, RecentAuth, Session, SignIn};
pub use stores::memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use stores::postgres::PostgresStore;
#[cfg(all(feature = "sqlite", unix))]
pub use stores::sqlite::SqliteStore;
