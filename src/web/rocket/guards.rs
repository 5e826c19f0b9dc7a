//! The request guards, and the sessions that a request has opened.

use std::any::type_name;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rocket::http::{Cookie, Method};
use rocket::request::{FromRequest, Outcome};
use rocket::{Ignite, Phase, Request, Rocket, Sentinel};

use crate::adapter::{self, Adapter, RequestHead};
use crate::error::{Error, ErrorKind, Result};
use crate::manager::SessionManager;
use crate::session::Session;
use crate::web::rocket::{Managed, ProxyProto, failure};

/// A request's session for one manager, made by the first guard.
pub(super) struct OpenedSession {
    pub(super) session: Session,
    pub(super) manager: SessionManager,
}

impl Drop for OpenedSession {
    /// Closes the session of a request that Rocket ends without calling fairings: one that it
    /// cannot parse, or one in which another fairing panics. Its sign-outs and revocations still
    /// take effect.
    fn drop(&mut self) {
        self.session.report_lost_changes();
        // An already closed session returns an error.
        let _ = self.manager.close(&self.session, adapter::Outcome::Panicked);
    }
}

/// The session in the request's local cache.
struct RequestSlot<M> {
    opened: OnceLock<OpenedSession>,
    /// The fairing closes the session, and nothing can be stored any more.
    is_closing: AtomicBool,
    marker: PhantomData<fn() -> M>,
}

fn slot<'r, M: 'static>(request: &'r Request<'_>) -> &'r RequestSlot<M> {
    request.local_cache(|| RequestSlot::<M> {
        opened: OnceLock::new(),
        is_closing: AtomicBool::new(false),
        marker: PhantomData,
    })
}

/// Returns the session that this request has opened, if any, to close it. A session that is opened
/// later can only be read.
pub(super) fn opened_to_close<'r, M: 'static>(
    request: &'r Request<'_>,
) -> Option<&'r OpenedSession> {
    let slot = slot::<M>(request);
    slot.is_closing.store(true, Ordering::Relaxed);
    slot.opened.get()
}

pub(super) fn manager<M: 'static, P: Phase>(rocket: &Rocket<P>) -> Option<&SessionManager> {
    rocket.state::<Managed<M>>().map(|managed| &managed.0)
}

fn manager_for<'r, M: 'static>(request: &'r Request<'_>) -> Result<&'r SessionManager> {
    let manager = manager::<M, _>(request.rocket()).ok_or_else(|| {
        let why = "no manager of this type is attached";
        Error::with_source(ErrorKind::Invalid, "find the request's session manager", why)
    })?;
    failure::report_to(request, manager);
    Ok(manager)
}

fn session_for<'r, M: 'static>(request: &'r Request<'_>) -> Result<&'r Session> {
    let manager = manager_for::<M>(request)?;
    let slot = slot::<M>(request);
    let open = || {
        failure::watch_request(request);
        let head = head(manager, request);
        let from_jar = cookies_of_jar(manager, request);
        let head = from_jar.iter().fold(head, |head, pair| head.cookie(pair));
        // The fairing `OriginCheck` has raised the event.
        let decision = manager.context.origin_decision(&head);
        let session = manager.open_decided(&head, decision);
        if slot.is_closing.load(Ordering::Relaxed) {
            // A closed session can be read but not changed. There is nothing to store yet.
            let _ = manager.close(&session, adapter::Outcome::Completed);
        }
        OpenedSession { session, manager: manager.clone() }
    };
    Ok(&slot.opened.get_or_init(open).session)
}

/// Returns the method of a request as the client sent it, as far as it matters: Rocket gives a
/// `POST` the method that the form names in its field `_method`, before any fairing. Requests of a
/// method that changes nothing have no form.
fn sent_method(request: &Request<'_>) -> Method {
    let is_form = || request.content_type().is_some_and(|content_type| content_type.is_form());
    match request.method() {
        Method::Get | Method::Head | Method::Options if is_form() => Method::Post,
        method => method,
    }
}

/// The host of an HTTP/2 request, which has no `Host` field.
struct Authority(String);

fn authority<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    let host = request.host().filter(|_| !request.headers().contains("Host"))?;
    Some(&request.local_cache(|| Authority(host.to_string())).0)
}

pub(super) fn head<'r>(manager: &'r SessionManager, request: &'r Request<'_>) -> RequestHead<'r> {
    let adapter = Adapter::new(manager);
    let fields_of = |name| request.headers().get(name).map(move |value| (name, value));
    let fields = adapter.header_names().flat_map(fields_of);
    let method = sent_method(request).as_str();
    let head = adapter.head(method, request.uri().path().as_str(), fields);
    let head = authority(request).into_iter().fold(head, RequestHead::host);
    let read_proto = |ProxyProto(name): &ProxyProto| request.headers().get_one(name);
    let proto = request.rocket().state().and_then(read_proto).unwrap_or_default();
    let head = head.secure_if(request.rocket().config().tls_enabled());
    let head = head.secure_if(proto.trim().eq_ignore_ascii_case("https"));
    // Not `client_ip`, which trusts a header that any client can send.
    match request.remote() {
        Some(remote) => head.peer_addr(remote.ip()),
        None => head,
    }
}

/// Returns the session cookies of Rocket's jar that no `Cookie` header has: tests with the local
/// client add cookies to the jar.
///
/// The jar also has the cookies of the headers, but with percent-decoded names and values. Those
/// are read from the headers only: browsers do not enforce the prefix `__Host-` for the name
/// `__Host%2Did`.
fn cookies_of_jar(manager: &SessionManager, request: &Request<'_>) -> Vec<String> {
    let find_cookie = |name| {
        let cookie = request.cookies().get(name)?;
        let has_name = |pair: &str| {
            Cookie::parse_encoded(pair.trim()).is_ok_and(|cookie| cookie.name() == name)
        };
        let mut pairs = request.headers().get("Cookie").flat_map(|header| header.split(';'));
        (!pairs.any(has_name)).then(|| format!("{name}={}", cookie.value()))
    };
    manager.context.id_settings.cookie_names().filter_map(find_cookie).collect()
}

/// Converts the result of a session call into the outcome of a guard of the application. An error
/// gets its [status](SessionManager::status_of), and is reported as an event.
///
/// In this example a request without a user is forwarded with the status 401:
///
/// ```
/// use cloakroom::web::rocket::guard_outcome;
/// use cloakroom::{Error, Session, UserKey};
/// use rocket::Request;
/// use rocket::http::Status;
/// use rocket::outcome::try_outcome;
/// use rocket::request::{FromRequest, Outcome};
///
/// struct User(UserKey);
///
/// #[rocket::async_trait]
/// impl<'r> FromRequest<'r> for User {
///     type Error = Error;
///
///     async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
///         let session = try_outcome!(request.guard::<&Session>().await);
///         match try_outcome!(guard_outcome(request, session.user())) {
///             Some(user) => Outcome::Success(User(user)),
///             None => Outcome::Forward(Status::Unauthorized),
///         }
///     }
/// }
/// ```
///
/// After a forward Rocket tries further routes. A `FileServer` at `/`, or a route `/<path..>`, then
/// gets the request, and its page or its 404 replaces the 401. Mount these at a path of their own.
pub fn guard_outcome<T>(request: &Request<'_>, found: Result<T>) -> Outcome<T, Error> {
    match found {
        Ok(found) => Outcome::Success(found),
        Err(error) => Outcome::Error((failure::report_failure(request, &error), error)),
    }
}

/// Returns whether a route needs a manager that is not attached, and logs it.
fn is_missing<M: 'static>(rocket: &Rocket<Ignite>) -> bool {
    let missing = manager::<M, _>(rocket).is_none();
    if missing {
        let marker = type_name::<M>();
        log::error!(
            target: "cloakroom",
            "a route requires a session, and no session manager is attached{}",
            match marker {
                "()" => ": rocket::build().attach(sessions)".to_owned(),
                _ => {
                    format!(" for {marker}: attach web::rocket::Sessions::<{marker}>::of(sessions)")
                }
            }
        );
    }
    missing
}

/// Defines the guard `$name` for one of several managers, and `&$target` for the only one.
macro_rules! guards {
    ($(#[$doc:meta])* $name:ident, $target:ty, $find:ident) => {
        #[rocket::async_trait]
        impl<'r> FromRequest<'r> for &'r $target {
            type Error = Error;

            async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
                guard_outcome(request, $find::<()>(request))
            }
        }

        impl Sentinel for &$target {
            fn abort(rocket: &Rocket<Ignite>) -> bool {
                is_missing::<()>(rocket)
            }
        }

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
                let found = $find::<M>(request);
                guard_outcome(request, found.map(|found| $name { found, marker: PhantomData }))
            }
        }

        impl<M: 'static> Sentinel for $name<'_, M> {
            fn abort(rocket: &Rocket<Ignite>) -> bool {
                is_missing::<M>(rocket)
            }
        }
    };
}

guards! {
    /// The guard for the session of one of several managers. It dereferences to [`Session`].
    SessionOf, Session, session_for
}

guards! {
    /// The guard for one of several managers. It dereferences to [`SessionManager`].
    ManagerOf, SessionManager, manager_for
}
