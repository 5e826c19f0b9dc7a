//! Sessions for Rocket.
//!
//! The manager is the fairing, and `&Session` is the request guard:
//!
//! ```
//! use cloakroom::{MemoryStore, Session, SessionManager};
//! use rocket::{get, routes};
//!
//! #[get("/")]
//! fn index(session: &Session) -> cloakroom::Result<String> {
//!     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
//!     Ok(format!("visits: {visits}"))
//! }
//!
//! let sessions = SessionManager::new(MemoryStore::new())?;
//! let rocket = rocket::build().attach(sessions).mount("/", routes![index]);
//! # use rocket::local::blocking::Client;
//! # let client = Client::untracked(rocket).unwrap();
//! # assert_eq!(client.get("/").dispatch().into_string().as_deref(), Some("visits: 1"));
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! `&SessionManager` is a guard too. An [`Error`](crate::Error) of ours that a handler returns
//! goes to the catcher of [its status](SessionManager::status_of), and its details to an event.
//! Handlers that return [`Result`] can fail with any other error too, which goes to the catcher
//! of 500 likewise.
//!
//! # What is stored when
//! The session's changes are stored when the handler and, where there was one, the catcher are
//! done, before the response goes out. What counts is the status the client gets: where that is
//! 5xx, and where the handler panicked or returned an error of ours, data changes are discarded,
//! and what the session was told to end is ended. If storing fails, the matching catcher answers
//! instead, with neither the handler's cookies nor its own in Rocket's jar.
//!
//! To know of a panic, launching puts a hook before the program's [panic hook](std::panic), once.
//! A program that replaces it later makes a handler's panic look like a 500.
//!
//! # Threads
//! Rocket runs handlers on threads that must not block, plain `fn` ones too. So what may block
//! tells the runtime before (`block_in_place`), which hands the thread's other work to another
//! one; a call of the session that does not reach the store does not. That costs some
//! microseconds a call, which [`Sessions::inline`] saves. A current-thread runtime cannot do it:
//! launching fails there.

mod answers;
mod guards;
mod panics;

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rocket::fairing::{self, Fairing, Info, Kind};
use rocket::tokio::runtime::{Handle, RuntimeFlavor};
use rocket::tokio::task::block_in_place;
use rocket::{Build, Request, Response, Rocket};

use crate::http::{Outcome, ResponseHeaders};
use crate::manager::SessionManager;
use crate::session::Session;

pub use answers::Failure;
pub use guards::{ManagerOf, SessionOf};

/// What a handler returns that can fail with anything: `?` works on any error.
pub type Result<T> = std::result::Result<T, Failure>;

/// The fairing, where [`SessionManager`] alone is not enough: with settings, or as one of several.
///
/// A Rocket can have several managers, told apart by a type of your own: the sessions of
/// `Sessions::<Admin>::of(manager)` are got by the guard [`SessionOf<Admin>`](SessionOf). They
/// need cookies of different names.
///
/// ```
/// use cloakroom::web::rocket::{SessionOf, Sessions};
/// use cloakroom::{CookieConfig, MemoryStore, Session, SessionManager};
/// use rocket::get;
///
/// struct Admin;
///
/// #[get("/")]
/// fn index(visitor: &Session, admin: SessionOf<Admin>) -> cloakroom::Result<String> {
///     Ok(format!("{:?} {:?}", visitor.user()?, admin.user()?))
/// }
///
/// let visitors = SessionManager::new(MemoryStore::new())?;
/// let cookie = CookieConfig::new().name("__Host-admin");
/// let admins = SessionManager::builder(MemoryStore::new()).cookie(cookie).build()?;
/// let rocket = rocket::build().attach(visitors).attach(Sessions::<Admin>::of(admins));
/// # Ok::<(), cloakroom::Error>(())
/// ```
pub struct Sessions<M = ()> {
    sessions: SessionManager,
    inline: bool,
    marker: PhantomData<fn() -> M>,
}

impl<M> Sessions<M> {
    /// The sessions of this manager.
    #[must_use]
    pub fn of(sessions: SessionManager) -> Self {
        Sessions { sessions, inline: false, marker: PhantomData }
    }

    /// Whether calls block Rocket's own threads. Defaults to false.
    ///
    /// For a [`SqliteStore`](crate::SqliteStore) on a local disk only, where a read takes some
    /// microseconds: a store that stalls, be it for the length of its busy timeout, then stalls
    /// every request.
    #[must_use]
    pub fn inline(self, inline: bool) -> Self {
        Sessions { inline, ..self }
    }
}

impl<M> Debug for Sessions<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sessions").field(&self.sessions).finish()
    }
}

/// The manager of a marker type, as Rocket keeps it.
struct Managed<M> {
    sessions: SessionManager,
    marker: PhantomData<fn() -> M>,
}

/// Makes a call that may block from a thread of Rocket's.
fn apart(call: &mut dyn FnMut()) {
    // A manager can be carried to where there is no such thread.
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(call),
        _ => call(),
    }
}

#[rocket::async_trait]
impl<M: Send + Sync + 'static> Fairing for Sessions<M> {
    fn info(&self) -> Info {
        Info { name: "cloakroom sessions", kind: Kind::Ignite | Kind::Response }
    }

    async fn on_ignite(&self, rocket: Rocket<Build>) -> fairing::Result {
        ignite::<M>(rocket, &self.sessions, self.inline)
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        end::<M>(request, response).await;
    }
}

#[rocket::async_trait]
impl Fairing for SessionManager {
    fn info(&self) -> Info {
        Info { name: "cloakroom sessions", kind: Kind::Ignite | Kind::Response }
    }

    async fn on_ignite(&self, rocket: Rocket<Build>) -> fairing::Result {
        ignite::<()>(rocket, self, false)
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        end::<()>(request, response).await;
    }
}

#[allow(clippy::result_large_err)] // it is Rocket's
fn ignite<M: 'static>(
    rocket: Rocket<Build>,
    sessions: &SessionManager,
    inline: bool,
) -> fairing::Result {
    if rocket.state::<Managed<M>>().is_some() {
        log::error!(
            target: "cloakroom",
            "this Rocket has a session manager already; a second one needs a type of its own: \
             attach web::rocket::Sessions::<Marker>::of(manager)"
        );
        return Err(rocket);
    }
    let sessions = if inline {
        sessions.clone()
    } else {
        if !can_cross() {
            log::error!(
                target: "cloakroom",
                "sessions need a multi-threaded runtime, as #[rocket::launch], #[rocket::main] and \
                 rocket::execute make it; on this one, attach \
                 web::rocket::Sessions::<()>::of(manager).inline(true)"
            );
            return Err(rocket);
        }
        sessions.crossing(apart)
    };
    panics::watch();
    Ok(rocket.manage(Managed::<M> { sessions, marker: PhantomData }))
}

fn can_cross() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Ends the request for its session of this kind, if it has one.
async fn end<'r, M: 'static>(request: &'r Request<'_>, response: &mut Response<'r>) {
    let Some((session, sessions)) = guards::opened::<M>(request) else { return };
    let outcome = match panics::of_this_request(request) {
        Some(panic) => {
            sessions.handler_panicked(panic);
            Outcome::Panicked
        }
        None if answers::has_failed(request) => Outcome::ServerError,
        None => Outcome::of_status(response.status().code),
    };
    match close(sessions, session, outcome) {
        Ok(headers) => add(response, &headers),
        Err(status) => {
            *response = answers::caught(status, request).await;
            add(response, &sessions.headers_after_failure(session));
        }
    }
}

/// Stores the session's changes; where that fails, the status to answer with.
fn close(
    sessions: &SessionManager,
    session: &Session,
    outcome: Outcome,
) -> std::result::Result<ResponseHeaders, u16> {
    // It can run the handler's `update` functions again, which may panic.
    match catch_unwind(AssertUnwindSafe(|| sessions.close(session, outcome))) {
        Ok(closed) => closed.map_err(|error| sessions.failed(&error)),
        Err(panic) => Err(sessions.handler_panicked(&*panic)),
    }
}

fn add(response: &mut Response<'_>, headers: &ResponseHeaders) {
    set(response, "Vary", |now| headers.vary(now));
    set(response, "Cache-Control", |now| headers.cache_control(now));
    for (name, value) in headers.rest() {
        response.adjoin_raw_header(name.to_owned(), value.to_owned());
    }
}

/// Replaces all headers of this name by one with the value that `merge` makes of theirs.
fn set(
    response: &mut Response<'_>,
    name: &'static str,
    merge: impl FnOnce(Option<&str>) -> Option<String>,
) {
    let values: Vec<&str> = response.headers().get(name).collect();
    let now = (!values.is_empty()).then(|| values.join(", "));
    if let Some(value) = merge(now.as_deref()) {
        response.set_raw_header(name, value);
    }
}
