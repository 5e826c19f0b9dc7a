//! Requests from `open` to `close`, on each store: what is stored, and which headers come back.

mod common;

#[path = "requests/adapter.rs"]
mod adapter;
#[path = "requests/cookies.rs"]
mod cookies;
#[path = "requests/csrf.rs"]
mod csrf;
#[path = "requests/csrf_secret.rs"]
mod csrf_secret;
#[path = "requests/dropped.rs"]
mod dropped;
#[path = "requests/endings.rs"]
mod endings;
#[path = "requests/failures.rs"]
mod failures;
#[path = "requests/flashes.rs"]
mod flashes;
#[path = "requests/guessing.rs"]
mod guessing;
#[path = "requests/headers.rs"]
mod headers;
#[path = "requests/in_flight.rs"]
mod in_flight;
#[cfg(feature = "cookie-keys")]
#[path = "requests/keys.rs"]
mod keys;
#[path = "requests/lifecycle.rs"]
mod lifecycle;
#[path = "requests/prefetch.rs"]
mod prefetch;
#[path = "requests/presented.rs"]
mod presented;
#[path = "requests/renewals.rs"]
mod renewals;
#[path = "requests/updates.rs"]
mod updates;
#[path = "requests/values.rs"]
mod values;
