//! The request guards, and the sessions that a request has opened.

use std::any::type_name;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::OnceLock;

use rocket::http::Status;
use rocket::request::{FromRequest, Outcome};
use rocket::{Ignite, Phase, Request, Rocket, Sentinel};

use crate::error::{Error, ErrorKind, Result};
use crate::http::RequestHead;
use crate::manager::SessionManager;
use crate::session::Session;
use crate::web::rocket::{Managed, answers, panics};

/// A request's session of one kind, from the first guard on.
struct Opened<M> {
    session: OnceLock<Session>,
    marker: PhantomData<fn() -> M>,
}

fn in_request<'r, M: 'static>(request: &'r Request<'_>) -> &'r OnceLock<Session> {
    let opened = || Opened::<M> { session: OnceLock::new(), marker: PhantomData };
    &request.local_cache(opened).session
}

/// The session that this request has opened, with its manager.
pub(super) fn opened<'r, M: 'static>(
    request: &'r Request<'_>,
) -> Option<(&'r Session, &'r SessionManager)> {
    Some((in_request::<M>(request).get()?, manager::<M, _>(request.rocket())?))
}

fn manager<M: 'static, P: Phase>(rocket: &Rocket<P>) -> Option<&SessionManager> {
    rocket.state::<Managed<M>>().map(|managed| &managed.sessions)
}

fn manager_for<'r, M: 'static>(request: &'r Request<'_>) -> Result<&'r SessionManager> {
    let sessions = manager::<M, _>(request.rocket()).ok_or_else(|| {
        let why = "this Rocket has no such manager";
        Error::with_source(ErrorKind::Invalid, "find the request's session manager", why)
    })?;
    answers::used(request, sessions);
    Ok(sessions)
}

fn session_for<'r, M: 'static>(request: &'r Request<'_>) -> Result<&'r Session> {
    let sessions = manager_for::<M>(request)?;
    let open = || {
        panics::begin();
        sessions.open(head(sessions, request))
    };
    Ok(in_request::<M>(request).get_or_init(open))
}

fn head<'r>(sessions: &'r SessionManager, request: &'r Request<'_>) -> RequestHead<'r> {
    let all = |name| request.headers().get(name).map(move |value| (name, value));
    let head = sessions.head(sessions.header_names().flat_map(all));
    let head = head.secure(request.rocket().config().tls_enabled());
    // Not `client_ip`, which believes a header that any client can send.
    match request.remote() {
        Some(remote) => head.peer(remote.ip()),
        None => head,
    }
}

fn outcome<T>(found: Result<T>) -> Outcome<T, Error> {
    match found {
        Ok(found) => Outcome::Success(found),
        Err(error) => Outcome::Error((Status::InternalServerError, error)),
    }
}

/// Says that a route asks for a manager that was not attached.
fn is_missing<M: 'static>(rocket: &Rocket<Ignite>) -> bool {
    let missing = manager::<M, _>(rocket).is_none();
    if missing {
        let marker = type_name::<M>();
        log::error!(
            target: "cloakroom",
            "a route asks for a session, and no session manager is attached{}",
            match marker {
                "()" => ": rocket::build().attach(sessions)".to_owned(),
                _ => format!(" for {marker}: attach web::rocket::Sessions::<{marker}>::of(sessions)"),
            }
        );
    }
    missing
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for &'r Session {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        outcome(session_for::<()>(request))
    }
}

impl Sentinel for &Session {
    fn abort(rocket: &Rocket<Ignite>) -> bool {
        is_missing::<()>(rocket)
    }
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for &'r SessionManager {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        outcome(manager_for::<()>(request))
    }
}

impl Sentinel for &SessionManager {
    fn abort(rocket: &Rocket<Ignite>) -> bool {
        is_missing::<()>(rocket)
    }
}

macro_rules! guard_of_a_kind {
    ($(#[$doc:meta])* $name:ident, $target:ty, $find:ident) => {
        $(#[$doc])*
        pub struct $name<'r, M> {
            found: &'r $target,
            marker: PhantomData<fn() -> M>,
        }

        impl<M> Debug for $name<'_, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(self.found).finish()
            }
        }

        impl<M> Deref for $name<'_, M> {
            type Target = $target;

            fn deref(&self) -> &$target {
                self.found
            }
        }

        #[rocket::async_trait]
        impl<'r, M: 'static> FromRequest<'r> for $name<'r, M> {
            type Error = Error;

            async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
                outcome($find::<M>(request).map(|found| $name { found, marker: PhantomData }))
            }
        }

        impl<M: 'static> Sentinel for $name<'_, M> {
            fn abort(rocket: &Rocket<Ignite>) -> bool {
                is_missing::<M>(rocket)
            }
        }
    };
}

guard_of_a_kind! {
    /// The guard for the session of one of several managers; a [`Session`] in all else.
    SessionOf, Session, session_for
}

guard_of_a_kind! {
    /// The guard for one of several managers; a [`SessionManager`] in all else.
    ManagerOf, SessionManager, manager_for
}
