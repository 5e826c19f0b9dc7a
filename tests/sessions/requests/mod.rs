//! Requests from `open` to `close`, on each store: what is stored, and which headers come back.

mod adapter;
mod age_renewals;
mod cookies;
mod cross_origin;
mod csrf;
mod csrf_secret;
mod dropped;
mod endings;
mod failures;
mod flashes;
mod guessing;
mod headers;
mod in_flight;
#[cfg(feature = "cookie-keys")]
mod keys;
mod lifecycle;
mod prefetch;
mod presented;
mod renewals;
mod updates;
mod values;
