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
//! of 500 likewise, or, where it holds one of ours, to that of its status.
//!
//! # What is stored when
//! The session's changes are stored when the handler and, where there was one, the catcher are
//! done, before the response goes out. What counts is the status the client gets: where that is
//! 5xx, and where the handler panicked or returned an error of ours, data changes are discarded,
//! and what the session was told to end is ended. If storing fails, the matching catcher answers
//! instead, with neither the handler's cookies nor its own in Rocket's jar.
//!
//! To know of a panic, launching puts a hook before the program's [panic hook](std::panic::set_hook), once.
//! A hook that is set later must call the one before it, or a panic looks like a 500, and where a
//! catcher makes a success of that, like a success. So does one that is carried on with
//! [`resume_unwind`](std::panic::resume_unwind), which calls no hook; `unwrap` on the result of a
//! joined task is a panic like any other.
//!
//! An answer that replaces another keeps what the server, or a fairing that was attached before,
//! sends with every answer (`Server`, CORS, and the like). Attach sessions after such fairings.
//! A body that is streamed is read after the end: it can show what its session held, and change
//! nothing.
//!
//! # Threads
//! Rocket runs handlers on threads that must not block, plain `fn` ones too. So what may block
//! tells the runtime before (`block_in_place`), which hands the thread's other work to another
//! one; a call of the session that does not reach the store does not. That costs some
//! microseconds a call, which [`Sessions::inline`] saves. Where a thread may not do that, as in a
//! task of a `LocalSet`, calls block it. Rocket's setting `max_blocking`, 512 by
//! default, is how many calls can wait at once: while so many do, nothing else goes on. A
//! current-thread runtime cannot do it: launching fails there.

mod error_response;
mod guards;
mod panic_watch;

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use rocket::fairing::{self, Fairing, Info, Kind};
use rocket::tokio::runtime::{Handle, RuntimeFlavor};
use rocket::{Build, Data, Request, Response, Rocket};

use crate::http::{Outcome, ResponseHeaders};
use crate::manager::SessionManager;
use crate::session::{self, Session};
use crate::web::rocket::guards::Opened;

pub use error_response::Failure;
pub use guards::{ManagerOf, SessionOf, outcome};

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

/// What carries the ids of all managers of a Rocket: the names of cookies and headers.
struct Carriers(Mutex<Vec<String>>);

/// The request header in which a proxy says how the client is connected to it: the value of
/// Rocket's setting `proxy_proto_header`.
struct ProxyProto(String);

/// Makes a call that may block from a thread of Rocket's.
fn apart(call: &mut dyn FnMut()) {
    // A manager can be carried to where there is no such thread, or to a task that must stay on it.
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if !matches!(flavor, Ok(RuntimeFlavor::MultiThread)) || !panic_watch::block_for(call) {
        call();
    }
}

#[rocket::async_trait]
impl<M: Send + Sync + 'static> Fairing for Sessions<M> {
    fn info(&self) -> Info {
        Info { name: "cloakroom sessions", kind: Kind::Ignite | Kind::Request | Kind::Response }
    }

    async fn on_ignite(&self, rocket: Rocket<Build>) -> fairing::Result {
        ignite::<M>(rocket, &self.sessions, self.inline)
    }

    async fn on_request(&self, _: &mut Request<'_>, _: &mut Data<'_>) {
        session::begin_request();
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        end::<M>(request, response).await;
    }
}

#[rocket::async_trait]
impl Fairing for SessionManager {
    fn info(&self) -> Info {
        Info { name: "cloakroom sessions", kind: Kind::Ignite | Kind::Request | Kind::Response }
    }

    async fn on_ignite(&self, rocket: Rocket<Build>) -> fairing::Result {
        ignite::<()>(rocket, self, false)
    }

    async fn on_request(&self, _: &mut Request<'_>, _: &mut Data<'_>) {
        session::begin_request();
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
    let id_transport = sessions.id_transport();
    if let Some(Carriers(others)) = rocket.state() {
        let mut others = others.lock().unwrap_or_else(PoisonError::into_inner);
        if others.contains(&id_transport) {
            log::error!(
                target: "cloakroom",
                "two session managers of this Rocket use {id_transport:?}, and would take each other's \
                 sessions away: give one another name"
            );
            drop(others);
            return Err(rocket);
        }
        others.push(id_transport.clone());
    }
    panic_watch::watch();
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
        sessions.blocking_hook(apart)
    };
    let rocket = match rocket.state::<Carriers>() {
        Some(_) => rocket,
        None => {
            let proto = rocket.figment().extract_inner("proxy_proto_header").map(ProxyProto);
            let rocket = rocket.manage(Carriers(Mutex::new(vec![id_transport])));
            match proto {
                Ok(proto) => rocket.manage(proto),
                Err(_) => rocket,
            }
        }
    };
    Ok(rocket.manage(Managed::<M> { sessions, marker: PhantomData }))
}

/// By trying: a task of a `LocalSet` cannot, on whichever runtime.
fn can_cross() -> bool {
    panic_watch::block_for(&mut || ())
}

/// Ends the request for its session of this kind, if it has one.
async fn end<'r, M: 'static>(request: &'r Request<'_>, response: &mut Response<'r>) {
    let Some(Opened { session, sessions }) = guards::end::<M>(request) else { return };
    let (outcome, panic) = error_response::outcome(request, response);
    if let Some(panic) = panic {
        sessions.handler_panicked(&panic);
    }
    let headers = match close(sessions, session, outcome) {
        Ok(headers) => headers,
        Err(status) => {
            if !error_response::has_answered(request, status) {
                error_response::replace(request, response, status).await;
            }
            sessions.headers_on_error(session)
        }
    };
    add(request, response, &headers);
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

fn add(request: &Request<'_>, response: &mut Response<'_>, headers: &ResponseHeaders) {
    set(response, "Vary", |now| headers.vary(now));
    set(response, "Cache-Control", |now| headers.cache_control(now));
    for (name, value) in headers.rest() {
        error_response::add_kept(request, response, name, value);
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
