//! The sentence that an event is written as.

use std::fmt;
use std::net::IpAddr;

use crate::event::Event;

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Opened { store } => write!(f, "opened {store}"),
            Event::Migrated { table, from: 0, to } => {
                write!(f, "set up table {table} at schema version {to}")
            }
            Event::Migrated { table, from, to } => {
                write!(f, "migrated table {table} from schema version {from} to {to}")
            }
            Event::Undecodable { handle: Some(handle), error } => {
                write!(f, "session {handle} does not decode and is kept as it is: {error}")
            }
            Event::Undecodable { handle: None, error } => {
                write!(f, "a session does not decode and is kept as it is: {error}")
            }
            Event::LogHeld { pages } => {
                write!(
                    f,
                    "the write-ahead log cannot restart, an old reader holds it: {pages} pages"
                )
            }
            Event::LogReleased => f.write_str("the write-ahead log restarts again"),
            Event::FileMoved { path } => write!(
                f,
                "{} was deleted or replaced while it was open: nothing is written any more",
                path.display()
            ),
            Event::FileBack => f.write_str("the database is back under its name"),
            Event::Swept { sessions } => write!(f, "swept {sessions} ended sessions"),
            Event::CleanerFailed { error } => {
                write!(f, "the cleaner failed and will try again: {error}")
            }
            Event::CleanerRecovered => f.write_str("the cleaner works again"),
            Event::ClockStepped { by } => {
                let seconds = by.as_secs();
                write!(f, "the clock stepped forward by {seconds} s: no sweeps for ten minutes")
            }
            Event::Malformed { address } => {
                write!(f, "a malformed id came from {}", Address(*address))
            }
            Event::Unknown { address } => {
                write!(f, "an id of no live session came from {}", Address(*address))
            }
            Event::Guessing { address, count } => {
                let network = if matches!(address, Some(IpAddr::V6(_))) { "/64" } else { "" };
                let from = Address(*address);
                write!(f, "{count} odd ids within a minute came from {from}{network}: a guesser?")
            }
            Event::ReplacedIdUsed { handle, address } => write!(
                f,
                "a replaced id of session {handle} came from {}: a lost answer, or a stolen id",
                Address(*address)
            ),
            Event::TooManyIds { address } => write!(
                f,
                "more session ids than are looked up came from {}, and the rest was ignored: only \
                 a cookie whose name begins with __Host- cannot be planted by other hosts",
                Address(*address)
            ),
            Event::Created { handle } => write!(f, "session {handle} began"),
            Event::Renewed { handle } => write!(f, "session {handle} has a new id"),
            Event::SignedIn { handle, user } => {
                write!(f, "user {:?} signed in to session {handle}", user.as_str())
            }
            Event::Refused { user } => {
                write!(f, "user {:?} has too many sessions to sign in", user.as_str())
            }
            Event::Destroyed => f.write_str("a session was ended by its owner"),
            Event::Revoked { sessions } => write!(f, "{sessions} sessions were revoked"),
            Event::NoAbsoluteLimit => f.write_str(
                "sessions have no absolute limit: one that is kept busy never ends; set one, or \
                 document why there is none (OWASP ASVS 7.3.2)",
            ),
            Event::Discarded { handle: Some(handle) } => {
                write!(f, "changes to session {handle} were discarded: it has ended or was renewed")
            }
            Event::Discarded { handle: None } => {
                f.write_str("changes to a session were discarded: it has ended or was renewed")
            }
            Event::Dropped { handle: Some(handle) } => {
                write!(f, "changes to session {handle} were lost: it was dropped and not closed")
            }
            Event::Dropped { handle: None } => {
                f.write_str("changes to a session were lost: it was dropped and not closed")
            }
            Event::TouchFailed { error } => {
                write!(f, "activity was not recorded, the session may end early: {error}")
            }
            Event::WrongType { handle: Some(handle), error } => {
                write!(f, "session {handle}: {error:?}")
            }
            Event::WrongType { handle: None, error } => write!(f, "a session: {error:?}"),
            Event::ReadAsEmpty { error } => {
                write!(f, "a session was read as empty: {error}")
            }
            Event::RequestFailed { error } => write!(f, "a request failed: {error}"),
            Event::HandlerFailed { error } => write!(f, "a handler failed: {error}"),
            Event::InsecureConnection { host } => write!(
                f,
                "a browser drops the Secure session cookie on plain HTTP to {host:?}: serve it over \
                 TLS (a proxy must send X-Forwarded-Proto: https), or use \
                 CookieConfig::insecure_http() if the connection is trusted"
            ),
            Event::Garbage { error } => {
                write!(f, "a value that is no session counts as absent: {error}")
            }
            Event::CacheDown { share, of, error } => {
                write!(f, "the cache ({share} of {of}) is left alone until it works again: {error}")
            }
            Event::CacheBack { share, of } => write!(f, "the cache ({share} of {of}) works again"),
        }
    }
}

struct Address(Option<IpAddr>);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("an unknown address"),
        }
    }
}
