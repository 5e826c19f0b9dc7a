//! The text of each event in the log.

use std::fmt;
use std::net::IpAddr;

use crate::event::{Event, RejectingBrowsers};
use crate::id::{PublicId, UserKey};
use crate::lifetime::EndReason;

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::StoreOpened { store } => write!(f, "opened {store}"),
            Event::Migrated { table, from: 0, to } => {
                write!(f, "set up table {table} at schema version {to}")
            }
            Event::Migrated { table, from, to } => {
                write!(f, "migrated table {table} from schema version {from} to {to}")
            }
            Event::Undecodable { public_id, error } => {
                let session = session_of(*public_id);
                write!(f, "{session} does not decode and stays in the store: {error}")
            }
            Event::CheckpointBlocked { pages } => {
                write!(
                    f,
                    "the write-ahead log cannot restart, an old reader uses it: {pages} pages"
                )
            }
            Event::CheckpointUnblocked => f.write_str("the write-ahead log restarts again"),
            Event::FileLost { path } => write!(
                f,
                "{} was deleted, emptied or replaced while it was open: changes are not stored, \
                 and pages that change a session fail with 503; do not stop the program yet, and \
                 keep -wal: put the file back if it was moved, else copy it first: see \"A deleted \
                 database\" in docs/rescue.md",
                path.display()
            ),
            Event::FileRecovered => {
                f.write_str("the database is at its path again: changes are stored")
            }
            Event::FileAliased { path, reason } => write!(
                f,
                "{} has a second name, under which other processes lose changes or damage the \
                 database: {reason}",
                path.display()
            ),
            Event::EndedSessionsKept { sessions, tables } => write!(
                f,
                "{sessions} ended sessions cannot be removed, because of foreign keys without ON \
                 DELETE CASCADE: {tables}"
            ),
            Event::Swept { sessions } => write!(f, "swept {sessions} expired sessions"),
            Event::AnonymousEvicted { sessions } => {
                write!(f, "evicted {sessions} anonymous sessions, because there were too many")
            }
            Event::CleanerFailed { error } => {
                write!(f, "the cleaner failed and will retry: {error}")
            }
            Event::CleanerRecovered => f.write_str("the cleaner works again"),
            Event::ClockStepped { step } => {
                let seconds = step.as_secs();
                write!(f, "the clock was set forward by {seconds} s: no sweeps for ten minutes")
            }
            Event::ClockSkewed { difference, ahead } => {
                let seconds = difference.as_secs();
                let (ahead, effect) =
                    if *ahead { ("ahead of", ": no sweeps meanwhile") } else { ("behind", "") };
                write!(f, "the clock is {seconds} s {ahead} that of the database server{effect}")
            }
            Event::MalformedId { address } => {
                write!(f, "received a malformed id from {}", client(*address))
            }
            Event::UnknownId { address } => {
                write!(f, "received an id of no live session from {}", client(*address))
            }
            Event::IdGuessing { address, count } => {
                let network = if matches!(address, Some(IpAddr::V6(_))) { "/64" } else { "" };
                let from = client(*address);
                write!(
                    f,
                    "{count} malformed or unknown ids within a minute came from {from}{network}: \
                     possible guessing"
                )
            }
            Event::ReplacedIdUsed { public_id, address } => write!(
                f,
                "received a replaced id of session {public_id} from {}: the client lost a \
                 response, or the id was stolen",
                client(*address)
            ),
            Event::TooManyIds { address } => write!(
                f,
                "received too many session ids from {} and ignored the rest: other hosts may have \
                 planted cookies, which only a name that begins with __Host- prevents",
                client(*address)
            ),
            Event::CrossOrigin { address, path, origin, host, refused, reason } => {
                let did = if *refused { "refused" } else { "reported, and did not refuse," };
                write!(
                    f,
                    "{did} a cross-origin request from {} to {}, with the origin {} and the host \
                     {}: {reason}",
                    client(*address),
                    shortened(*path),
                    shortened(*origin),
                    shortened(*host)
                )
            }
            Event::Created { public_id } => write!(f, "session {public_id} was created"),
            Event::Renewed { public_id } => write!(f, "session {public_id} has a new id"),
            Event::SignedIn { public_id, user, address } => {
                let user = user.as_str();
                let from = client(*address);
                write!(f, "user {user:?} signed in to session {public_id} from {from}")
            }
            Event::SignInRefused { user } => {
                let user = user.as_str();
                write!(
                    f,
                    "user {user:?} was refused a sign-in: the maximum number of sessions is reached"
                )
            }
            Event::Ended { public_id, user, reason, revoked_by, address } => {
                write!(f, "{}", session_of(*public_id))?;
                if let Some(user) = user {
                    write!(f, " of user {:?}", user.as_str())?;
                }
                write!(f, " ended: {reason}")?;
                match reason {
                    EndReason::Idle(_) | EndReason::Absolute => Ok(()),
                    _ => write!(f, "{} from {}", by_user(*revoked_by), client(*address)),
                }
            }
            Event::UserRenamed { from, to, sessions } => {
                let from = from.as_str();
                let to = to.as_str();
                write!(f, "user {from:?} with {sessions} sessions is now user {to:?}")
            }
            Event::Revoked { sessions, revoked_by, address } => {
                let from = client(*address);
                write!(f, "{sessions} sessions were revoked{} from {from}", by_user(*revoked_by))
            }
            Event::NoAbsoluteLimit => f.write_str(
                "sessions have no absolute limit: a session in use never ends; set a limit, or \
                 document why there is none (OWASP ASVS 7.3.2)",
            ),
            Event::ChangesDiscarded { public_id } => {
                let session = session_of(*public_id);
                write!(f, "changes to {session} were discarded: it has ended or has a new id")
            }
            Event::SessionNotClosed { public_id } => {
                let session = session_of(*public_id);
                write!(f, "changes to {session} were lost: it was dropped and not closed")
            }
            Event::TouchFailed { sessions, error } => write!(
                f,
                "the activity of {sessions} sessions was not recorded, so they may end early: \
                 {error}"
            ),
            Event::RenewalFailed { public_id, error } => {
                write!(f, "the id of session {public_id} was not renewed when it was due: {error}")
            }
            Event::WrongType { public_id, error } => {
                write!(f, "{}: {error:?}", session_of(*public_id))
            }
            Event::TreatedAsAnonymous { error } => {
                write!(
                    f,
                    "a session could not be read, and the request continued without it: {error}"
                )
            }
            Event::RequestFailed { error } => write!(f, "a request failed: {error}"),
            Event::HandlerFailed { error } => write!(f, "a handler failed: {error}"),
            Event::InsecureConnection { browsers } => write!(
                f,
                "a browser rejects the Secure session cookie on plain HTTP{}: serve the \
                 application over TLS (a proxy must send X-Forwarded-Proto: https), or use \
                 CookieConfig::insecure_http() if the connection is trusted",
                match browsers {
                    RejectingBrowsers::Any => "",
                    RejectingBrowsers::WebKit => " to a loopback name, as WebKit browsers do",
                }
            ),
            Event::UnknownProxy { peer } => write!(
                f,
                "a request from {} has X-Forwarded-For, but behind_proxies is not set: behind a \
                 proxy, its address counts as that of every client",
                client(*peer)
            ),
            Event::ForeignItem { error } => {
                write!(f, "an invalid value counts as absent: {error}")
            }
            Event::CacheDown { shard, shards, error } => write!(
                f,
                "shard {shard} of {shards} of the cache is not used until it works again: {error}"
            ),
            Event::CacheRecovered { shard, shards } => {
                write!(f, "shard {shard} of {shards} of the cache works again")
            }
            Event::MemcachedMoved { server, from, to } => write!(
                f,
                "the memcached server {server} has moved from {from} to {to}; what {to} held \
                 before is not used"
            ),
        }
    }
}

/// Names a session, by its public id if that is known.
fn session_of(public_id: Option<&PublicId>) -> String {
    public_id.map_or_else(|| "a session".to_owned(), |public_id| format!("session {public_id}"))
}

/// Names a client by its address, if that is known.
fn client(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string())
}

/// Names the user who revoked a session, if that is known.
fn by_user(user: Option<&UserKey>) -> String {
    user.map_or_else(String::new, |user| format!(" by user {:?}", user.as_str()))
}

/// Quotes the value of a header field, which a client can make long.
fn shortened(value: Option<&str>) -> String {
    let quote = |value: &str| format!("{:?}", value.chars().take(256).collect::<String>());
    value.map_or_else(|| "(none)".to_owned(), quote)
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndReason::SignedOut => f.write_str("signed out"),
            EndReason::Superseded => f.write_str("a sign-in of the same client took its place"),
            EndReason::Revoked => f.write_str("revoked"),
            EndReason::TooManySessions => {
                f.write_str("the user signed in to more sessions than allowed")
            }
            EndReason::ReplacedId => f.write_str("a replaced id of it was used"),
            EndReason::Idle(limit) => write!(f, "no activity for {} s", limit.as_secs_f64()),
            EndReason::Absolute => f.write_str("the absolute limit was reached"),
        }
    }
}
