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
//! `&SessionManager` is a guard too. For several managers, see [`Sessions`].
//!
//! The module [`web`](crate::web) says what every adapter does. The following is about Rocket
//! alone.
//!
//! # Handlers
//! - The guide has [a program with sign-up and sign-in](crate::guide::signing_in).
//! - A guard of your own that calls the session, such as one for the user who is signed in, uses
//!   [`guard_outcome`], which has an example.
//! - Statements on your own tables can block. Run them in Tokio's `block_in_place`, also in plain
//!   `fn` handlers: see [`SqliteStore::connect`](crate::SqliteStore::connect).
//!
//! # Requests from other origins
//! The response to a refused request has a plain text, and no catcher runs. The check runs after
//! all request fairings that are attached before the launch, so it sees the method and the path
//! that they have set. Routing and response fairings see a refused request as a `CONNECT`.
//!
//! # Errors
//! If a handler returns an [`Error`](crate::Error) of this crate, the catcher of its
//! [status](SessionManager::status_of) makes the response, and an event has the details. Handlers
//! that return [`Result`] can fail with any error. The status is then that of the error of this
//! crate that it contains, else 500.
//!
//! # Storing of changes
//! The session's changes are stored before the response is sent, when the handler and the catcher,
//! if one was called, have returned.
//!
//! A failed request discards its changes of values. A sign-out, a `renew` and what was committed
//! before stay. A request has failed if
//!
//! - the status of the response is 5xx, or
//! - the handler has returned an error of this crate, or any by [`Result`], whatever the catcher
//!   answers, or
//! - it has panicked; then a `renew` is discarded too.
//!
//! The table is at [`Outcome`](crate::adapter::Outcome).
//!
//! A handler can take a guard as an `Option` or a `Result`, and answer although the guard has
//! failed. Such a request does not count as failed if its status is below 500 and the session was
//! opened before the guard failed.
//!
//! If storing fails, the matching catcher makes the response. Cookies that the handler or this
//! catcher has added to Rocket's jar are not sent.
//!
//! **Attach fairings that add header fields to the response after the manager.** They then see the
//! final response, also that of a failed commit. They must not replace `Set-Cookie`, `Vary` or
//! `Cache-Control`, which the manager has completed. Of the fields that an earlier fairing has
//! added, the response of a failed commit keeps only those of these names: `Server`,
//! `Access-Control-*`, `Cross-Origin-*`, and the usual security fields, such as
//! `Content-Security-Policy` and `Strict-Transport-Security`. It also keeps such a field if the
//! handler has set it for its own page.
//!
//! If the request presented an id, a response with a streamed body, which may read the session
//! later, is `private`, and `no-store` under
//! [`no_store_when_signed_in`](crate::manager::SessionManagerBuilder::no_store_when_signed_in).
//!
//! # Panics
//! To detect panics, launching installs a [panic hook](std::panic::set_hook), which calls the
//! program's own. A hook that is set later must call the previous one. A panic that the hook does
//! not see counts as a 500 or, if a catcher answers it with a success, as a success. This also
//! applies to a panic that is continued with [`resume_unwind`](std::panic::resume_unwind).
//!
//! # Threads
//! Rocket runs all handlers on threads that must not block, those of plain `fn` handlers included.
//! A call of the session that may wait for the store therefore runs in Tokio's `block_in_place`,
//! which moves the thread's other tasks to another thread. Other futures of the same task, as in
//! `join!` or `select!`, wait. A load that the store answers from memory needs no such call.
//!
//! - In a task of a `LocalSet`, where `block_in_place` is not possible, calls block the thread.
//! - At most `max_blocking` calls wait at a time, a setting of Rocket that is 512 by default. At
//!   that number the whole server waits. The guide says [when to raise
//!   it](crate::guide::servers#the-number-of-threads).
//! - Launching fails on a current-thread runtime, which has no other thread, unless calls are
//!   [`inline`](Sessions::inline).

mod blocking;
mod cross_origin;
mod error_response;
mod failure;
mod guards;
mod panic_watch;

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Mutex;

use rocket::fairing::{self, Fairing, Info, Kind};
use rocket::{Build, Request, Response, Rocket};

use crate::adapter::{self, Adapter};
use crate::manager::SessionManager;
use crate::sync::IgnorePoison;
use crate::web::rocket::cross_origin::OriginCheck;
use crate::web::rocket::guards::OpenedSession;

pub use failure::Failure;
pub use guards::{ManagerOf, SessionOf, guard_outcome};

/// The result of a handler that can fail with any error, which `?` converts.
pub type Result<T> = std::result::Result<T, Failure>;

/// The fairing for one of several managers, or for a manager with settings of this adapter.
///
/// Several managers are distinguished by a marker type: [`SessionOf<Admin>`](SessionOf) is the
/// guard for the sessions of `Sessions::<Admin>::of(manager)`. Their cookies need different names.
/// With a single manager, use this type only for [`inline`](Self::inline):
/// `Sessions::<()>::of(manager)`.
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
    manager: SessionManager,
    inline: bool,
    marker: PhantomData<fn() -> M>,
}

impl<M> Sessions<M> {
    /// Makes the fairing for the sessions of this manager.
    #[must_use]
    pub fn of(manager: SessionManager) -> Self {
        Sessions { manager, inline: false, marker: PhantomData }
    }

    /// Sets whether calls block Rocket's own threads. Defaults to false. Measure before you set it:
    /// no gain [is established](crate::guide::performance#over-http).
    ///
    /// Use it only for a [`SqliteStore`](crate::SqliteStore) on a local disk, where a read takes
    /// some microseconds. A call that waits, for example for the busy timeout, delays all requests.
    #[must_use]
    pub fn inline(self, inline: bool) -> Self {
        Sessions { inline, ..self }
    }
}

impl<M> Debug for Sessions<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sessions").field(&self.manager).finish()
    }
}

/// The manager that a Rocket uses for the sessions of the marker `M`.
struct Managed<M>(SessionManager, PhantomData<fn() -> M>);

/// The cookies and headers that carry the ids of all managers of a Rocket.
struct IdCarriers(Mutex<Vec<String>>);

/// The request header in which a proxy sends the client's protocol: the value of the setting
/// `proxy_proto_header` of Rocket's development version, which 0.5.2 ignores.
struct ProxyProto(String);

#[rocket::async_trait]
impl<M: Send + Sync + 'static> Fairing for Sessions<M> {
    fn info(&self) -> Info {
        Info { name: "cloakroom sessions", kind: Kind::Ignite | Kind::Response }
    }

    async fn on_ignite(&self, mut rocket: Rocket<Build>) -> fairing::Result {
        let manager = &self.manager;
        if guards::manager::<M, _>(&rocket).is_some() {
            log::error!(
                target: "cloakroom",
                "this Rocket has a session manager already; a second one needs a type of its own: \
                 attach web::rocket::Sessions::<Marker>::of(manager)"
            );
            return Err(rocket);
        }
        let id_carrier = Adapter::new(manager).id_carrier();
        if let Some(IdCarriers(others)) = rocket.state() {
            let mut others = others.lock().ignore_poison();
            if others.contains(&id_carrier) {
                log::error!(
                    target: "cloakroom",
                    "two session managers of this Rocket use {id_carrier}, and would overwrite \
                     each other's ids: give one of the two another name"
                );
                drop(others);
                return Err(rocket);
            }
            others.push(id_carrier.clone());
        }
        panic_watch::install_hook();
        let manager = if self.inline {
            manager.clone()
        } else {
            // Only a trial shows whether a thread can block: a task of a `LocalSet` cannot, on any
            // runtime.
            if !blocking::try_in_place(&mut || ()) {
                log::error!(
                    target: "cloakroom",
                    "sessions need a multi-threaded runtime, as #[rocket::launch], #[rocket::main] \
                     and rocket::execute make it; on this one, attach \
                     web::rocket::Sessions::<()>::of(manager).inline(true)"
                );
                return Err(rocket);
            }
            manager.with_blocking_hook(blocking::run_in_place)
        };
        if rocket.state::<IdCarriers>().is_none() {
            let proto = rocket.figment().extract_inner("proxy_proto_header").map(ProxyProto);
            rocket = rocket.manage(IdCarriers(Mutex::new(vec![id_carrier])));
            rocket = rocket.mount("/", [cross_origin::route()]);
            if let Ok(proto) = proto {
                rocket = rocket.manage(proto);
            }
        }
        // Attached by another fairing, it comes after all that the application has attached.
        let check = OriginCheck(manager.clone());
        Ok(rocket.manage(Managed::<M>(manager, PhantomData)).attach(check))
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        finish::<M>(request, response).await;
    }
}

#[rocket::async_trait]
impl Fairing for SessionManager {
    fn info(&self) -> Info {
        Info { name: "cloakroom sessions", kind: Kind::Ignite | Kind::Response }
    }

    async fn on_ignite(&self, rocket: Rocket<Build>) -> fairing::Result {
        Sessions::<()>::of(self.clone()).on_ignite(rocket).await
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        finish::<()>(request, response).await;
    }
}

/// Closes the request's session of this kind, if it has one, and completes the response.
async fn finish<'r, M: 'static>(request: &'r Request<'_>, response: &mut Response<'r>) {
    let Some(OpenedSession { session, manager }) = guards::opened_to_close::<M>(request) else {
        return;
    };
    let adapter = Adapter::new(manager);
    let (outcome, panic) = failure::outcome_of_response(request, response);
    if let Some(panic) = panic {
        adapter.report_panic(&panic);
    }
    let body = response.body();
    if body.is_some() && body.preset_size().is_none() {
        // It is streamed, and the handler had a guard.
        adapter.body_may_read(session);
    }
    let headers = match adapter.close(session, outcome) {
        Ok(headers) => headers,
        Err(status) => {
            if !failure::has_answered(request, status) {
                error_response::replace(request, response, status).await;
            }
            adapter.headers_on_error(session)
        }
    };
    headers.apply_to(response);
    error_response::keep_fields(request, &headers);
}

impl adapter::Response for Response<'_> {
    fn status_code(&self) -> u16 {
        self.status().code
    }

    fn append_header(&mut self, name: &str, value: &str) {
        self.adjoin_raw_header(name.to_owned(), value.to_owned());
    }

    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        let values: Vec<&str> = self.headers().get(name).collect();
        if let Some(value) = merge(&values) {
            self.set_raw_header(name, value);
        }
    }
}
