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

use cloakroom::{CommitOutcome, Session};

use crate::common::app::sign_in;

/// Ways in which a request begins a session, and stores it, before its end.
const BEGINNINGS: [fn(&Session); 2] = [
    |session| sign_in(session, "ada"),
    |session| {
        session.set("n", 1).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
    },
];
