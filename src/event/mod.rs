//! Events for operators: what happens in a manager, a store or a cache.
//!
//! [`Events`] counts each [`Event`] by its kind, and passes it to a [`Sink`]. The default sink,
//! [`LogSink`], writes to the [`log`](https://docs.rs/log) crate.
//!
//! ```
//! use cloakroom::event::{Event, EventKind, Events, LogSink, Sink};
//! use cloakroom::{MemoryStore, SessionManager};
//!
//! #[derive(Debug, Default)]
//! struct Alarm(LogSink);
//!
//! impl Sink for Alarm {
//!     fn record(&self, event: &Event<'_>) {
//!         if let Event::IdGuessing { address, count } = event {
//!             eprintln!("{address:?} presented {count} unknown ids");
//!         }
//!         self.0.record(event);
//!     }
//! }
//!
//! let events = Events::new(Alarm::default());
//! // A store has events too: pass the same `events` to its builder.
//! let sessions = SessionManager::builder(MemoryStore::new()).events(events).build()?;
//! assert_eq!(sessions.events().count(EventKind::IdGuessing), 0);
//! # Ok::<(), cloakroom::Error>(())
//! ```

// `text` has the texts of the events, `log` the default sink.

mod log;
mod text;

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::id::{PublicId, UserKey};
use crate::lifetime::EndReason;

pub use self::log::LogSink;

/// An event for the operator. No event contains a session id. `Display` writes the text of the log.
/// Each event says at which level [`LogSink`] logs it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A store was opened. Level `Info`.
    StoreOpened {
        /// A description of the store.
        store: &'a str,
    },
    /// The tables were created or migrated to a newer schema version. Level `Info`.
    Migrated {
        /// The sessions table.
        table: &'a str,
        /// The previous schema version; 0 if there were no tables.
        from: u32,
        /// The new schema version.
        to: u32,
    },
    /// A stored session does not decode. It stays stored until its deadline. Level `Error`.
    Undecodable {
        /// The session's public id, if that can be read.
        public_id: Option<&'a PublicId>,
        /// The reason.
        error: &'a Error,
    },
    /// The write-ahead log grows, because an old reader still uses it and so prevents its restart.
    /// Level `Warn`.
    CheckpointBlocked {
        /// The number of pages in the log.
        pages: u32,
    },
    /// The write-ahead log restarts again. Level `Warn`.
    CheckpointUnblocked,
    /// The database file or its log was deleted or replaced while it was open. Every change fails
    /// with [`Unavailable`](crate::ErrorKind::Unavailable), because it would be written to a file
    /// that no longer has a name. Level `Warn`.
    FileLost {
        /// The path, which now names another file or none.
        path: &'a Path,
    },
    /// The file is at its path again, and changes are stored again. Level `Warn`.
    FileRecovered,
    /// The database file can be reached by a second name: it has several hard links, or it is
    /// mounted alone into a container. A process that uses another name loses changes or damages
    /// the database, because SQLite finds the write-ahead log and the locks by the name of the
    /// file. Level `Warn`.
    FileAliased {
        /// The path.
        path: &'a Path,
        /// The reason.
        reason: &'a str,
    },
    /// A sweep left sessions that have ended, because rows of other tables reference them by a
    /// foreign key without `ON DELETE CASCADE`. Raised when the number changes. Level `Warn`.
    EndedSessionsKept {
        /// The number of sessions.
        sessions: u64,
        /// The names of those tables.
        tables: &'a str,
    },
    /// The cleaner removed expired sessions. Level `Debug`.
    Swept {
        /// The number of sessions.
        sessions: usize,
    },
    /// Anonymous sessions were evicted, because there were more than
    /// [`max_anonymous`](crate::manager::SessionManagerBuilder::max_anonymous) or because the store
    /// was almost full. Their visitors get new sessions. The cause may be a flood of requests.
    /// Raised once for each time that the maximum is exceeded, and at most once a minute for a
    /// store that is almost full. Level `Warn`.
    AnonymousEvicted {
        /// The number of sessions; for a store that is almost full, since the last such event.
        sessions: u64,
    },
    /// A run of the cleaner failed. The cleaner continues and retries. Level `Warn`.
    CleanerFailed {
        /// The reason.
        error: &'a Error,
    },
    /// A run of the cleaner succeeded after a failure. Level `Warn`.
    CleanerRecovered,
    /// The clock was set forward by more than an hour. No session is swept for ten minutes. Level
    /// `Warn`.
    ClockStepped {
        /// The length of the step.
        step: Duration,
    },
    /// The clock of this machine differs from that of the database server by more than five
    /// seconds. While it is ahead, this machine sweeps no sessions. Level `Warn`.
    ClockSkewed {
        /// The difference.
        difference: Duration,
        /// Whether this machine is ahead of the server.
        ahead: bool,
    },
    /// A request presented a text that cannot be a session id. Level `Debug`.
    MalformedId {
        /// The client's address, if it is known.
        address: Option<IpAddr>,
    },
    /// A request presented a well-formed id that belongs to no live session: that of an ended
    /// session, or a guess. Level `Debug`.
    UnknownId {
        /// The client's address, if it is known.
        address: Option<IpAddr>,
    },
    /// One address presented 20 different malformed or unknown ids within a minute, which may be an
    /// attempt to guess ids. Raised again each time that the number doubles. Level `Warn`.
    ///
    /// Ids of ended sessions count too. An id that is presented several times counts once, because
    /// a client may not know that its session has ended. Requests without a known address are
    /// counted together. Behind a proxy, all clients have the proxy's address unless
    /// [`behind_proxies`](crate::manager::SessionManagerBuilder::behind_proxies) is set.
    IdGuessing {
        /// The client's address, if it is known; of an IPv6 address the first 64 bits, because one
        /// client can use all addresses of a /64 network.
        address: Option<IpAddr>,
        /// The number of ids within the minute.
        count: u64,
    },
    /// A request presented an id that a renewal or a sign-in had replaced more than ten seconds
    /// before, and whose grace has ended. Either the client lost the response with the new id, or
    /// the id is stolen. The request cannot read the session. Level `Warn`.
    ///
    /// With [`end_session_on_replaced_id`][setting] the session ends. The guide has [the exact
    /// times](crate::guide::ids#what-an-old-id-does).
    ///
    /// [setting]: crate::manager::SessionManagerBuilder::end_session_on_replaced_id
    ReplacedIdUsed {
        /// The session's public id.
        public_id: &'a PublicId,
        /// The client's address, if it is known.
        address: Option<IpAddr>,
    },
    /// A request presented more than 16 different ids, or more than 256 cookies of the session
    /// cookie's name. The rest was ignored. Another host of the same domain may have set these
    /// cookies, which only a name that begins with `__Host-` prevents. Level `Warn`.
    TooManyIds {
        /// The client's address, if it is known.
        address: Option<IpAddr>,
    },
    /// A page of another origin sent a request that can change something
    /// ([`CrossOrigin`](crate::CrossOrigin)). Level `Warn`.
    CrossOrigin {
        /// The client's address, if it is known.
        address: Option<IpAddr>,
        /// The path of the request, if it is known.
        path: Option<&'a str>,
        /// The value of `Origin`; `None` if the request has none or several.
        origin: Option<&'a str>,
        /// The host of the request; `None` if the request has none or several.
        host: Option<&'a str>,
        /// Whether the request was refused; false if the check only reports.
        refused: bool,
        /// The reason, and the remedy if the page is the application's own.
        reason: &'a str,
    },
    /// A session was created. Level `Debug`.
    Created {
        /// The session's public id.
        public_id: &'a PublicId,
    },
    /// A session got a new id. Level `Debug`.
    Renewed {
        /// The session's public id.
        public_id: &'a PublicId,
    },
    /// A user signed in. Level `Info`.
    SignedIn {
        /// The session's public id.
        public_id: &'a PublicId,
        /// The user.
        user: &'a UserKey,
        /// The client's address, if it is known.
        address: Option<IpAddr>,
    },
    /// A sign-in was refused because the user has the maximum number of sessions. Level `Info`.
    SignInRefused {
        /// The user.
        user: &'a UserKey,
    },
    /// A session ended. Level `Info` if it had a user, else `Debug`.
    ///
    /// Raised by the process that ends or sweeps the session. A session that expires is reported
    /// when it is swept. These ends are not reported:
    ///
    /// - anonymous sessions that expire or are evicted;
    /// - sessions that [`revoke_everyone`](crate::SessionManager::revoke_everyone) ends;
    /// - sessions that memcached removes, because they have expired or its memory is full;
    /// - expired sessions that a sign-in, a sign-out or a revocation removes before the sweep;
    /// - sessions that an operator ends or sweeps, by a command or a call of the store's `Admin`;
    /// - sessions whose process stops before it reports them.
    Ended {
        /// The session's public id, if it can be read.
        public_id: Option<&'a PublicId>,
        /// The user, if the session had one.
        user: Option<&'a UserKey>,
        /// The reason.
        reason: EndReason,
        /// The user who revoked this session, if the session of the request was passed to the call.
        revoked_by: Option<&'a UserKey>,
        /// The address of the client whose request ended the session, if it is known.
        address: Option<IpAddr>,
    },
    /// The user key of a user's sessions was changed, by
    /// [`rename_user`](crate::SessionManager::rename_user). Level `Info`.
    UserRenamed {
        /// The former key.
        from: &'a UserKey,
        /// The new key.
        to: &'a UserKey,
        /// The number of sessions.
        sessions: usize,
    },
    /// A call of the manager ended sessions. An event [`Ended`](Event::Ended) follows for each of
    /// them, except after [`revoke_everyone`](crate::SessionManager::revoke_everyone). Level
    /// `Info`.
    Revoked {
        /// The number of sessions.
        sessions: u64,
        /// The user who made the call, if the session of the request was passed to it.
        revoked_by: Option<&'a UserKey>,
        /// The client's address, if the session of the request was passed to the call.
        address: Option<IpAddr>,
    },
    /// A manager was built without an absolute limit. A session that is in use then never ends,
    /// even if a thief uses it. Level `Warn`.
    NoAbsoluteLimit,
    /// The changes of a request were discarded, because its session had ended or its id had been
    /// replaced before they could be stored. Level `Debug`.
    ChangesDiscarded {
        /// The session's public id, if the request has read the session.
        public_id: Option<&'a PublicId>,
    },
    /// A [`Session`](crate::Session) with changes was dropped without being closed. Its changes are
    /// lost, the client receives no id, and a requested sign-out does not happen. Level `Error`.
    SessionNotClosed {
        /// The session's public id, if the request has read the session.
        public_id: Option<&'a PublicId>,
    },
    /// The activity of sessions was not recorded, and is not tried again. These sessions end as if
    /// the visit had not been made, unless a later one is recorded. Level `Warn`.
    ///
    /// The cleaner raises this when another attempt cannot succeed, or when 4,096 sessions already
    /// wait for one. A request raises it when its own attempt fails.
    TouchFailed {
        /// The number of sessions.
        sessions: usize,
        /// The reason.
        error: &'a Error,
    },
    /// The id of a session could not be renewed when that was due: because of
    /// [`renew_every`](crate::manager::SessionManagerBuilder::renew_every), or because its cookie
    /// would expire in the browser before the session. The request does not fail, and the next one
    /// tries again. Level `Warn`.
    RenewalFailed {
        /// The session's public id.
        public_id: &'a PublicId,
        /// The reason.
        error: &'a Error,
    },
    /// A session value does not have the type that the application requested. Level `Warn`.
    WrongType {
        /// The session's public id, if the request has read the session.
        public_id: Option<&'a PublicId>,
        /// The reason, with the name of the value and both types.
        error: &'a Error,
    },
    /// The session could not be read, and the request continued without a session
    /// ([`OnLoadFailure::TreatAsAnonymous`](crate::manager::OnLoadFailure::TreatAsAnonymous)).
    /// Level `Warn`.
    TreatedAsAnonymous {
        /// The reason.
        error: &'a Error,
    },
    /// A request was answered with an error status because of an error of this crate. Level
    /// `Error`.
    RequestFailed {
        /// The reason.
        error: &'a Error,
    },
    /// A request was answered with an error status because the application's handler failed. Level
    /// `Error`.
    HandlerFailed {
        /// The text of the handler's error and its sources, or the message of its panic.
        error: &'a str,
    },
    /// A Secure cookie was sent over plain HTTP to a browser that rejects it: any browser on most
    /// hosts, and WebKit browsers such as Safari also on `localhost` and `127.0.0.1`. Raised once
    /// per process for each of the two cases. Level `Warn`.
    InsecureConnection {
        /// The browsers that reject it.
        browsers: RejectingBrowsers,
    },
    /// A request has the field `X-Forwarded-For`, but
    /// [`behind_proxies`](crate::manager::SessionManagerBuilder::behind_proxies) is not set, so the
    /// proxy's address counts as that of every client. Raised once per process. Level `Warn`.
    UnknownProxy {
        /// The address from which the request came.
        peer: Option<IpAddr>,
    },
    /// memcached has a value under a key of this crate that no version of this crate wrote for that
    /// key. The value counts as absent. Level `Error`.
    ForeignItem {
        /// The reason.
        error: &'a Error,
    },
    /// A shard of the cache, such as one of several servers, failed. Its sessions are read from the
    /// store until it works again. Level `Warn`.
    CacheDown {
        /// The number of the shard, from 1 in the order of the servers.
        shard: usize,
        /// The number of shards.
        shards: usize,
        /// The reason.
        error: &'a Error,
    },
    /// A shard of the cache works again. All its entries were invalidated, because it may have
    /// missed invalidations. Level `Warn`.
    CacheRecovered {
        /// The number of the shard, from 1 in the order of the servers.
        shard: usize,
        /// The number of shards.
        shards: usize,
    },
    /// The name of a memcached server resolves to another address. All items at the new address are
    /// made unreachable, because they may be older than changes at the previous one. Level `Warn`.
    MemcachedMoved {
        /// The server as it was named to the store.
        server: &'a str,
        /// The previous address.
        from: SocketAddr,
        /// The new address.
        to: SocketAddr,
    },
}

/// Defines the kinds: variant, name in metrics, level in the log.
macro_rules! event_kinds {
    ($($kind:ident, $name:literal, $level:ident;)*) => {
        /// The kind of an [`Event`], for counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = concat!(
                "[`Event::", stringify!($kind), "`], logged at level `", stringify!($level), "`."
            )]
            $kind,)*
        }

        impl EventKind {
            /// All kinds, in the order of their definition.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$kind),*];

            /// Returns the name of the kind in snake case, as a label for metrics. Names never
            /// change.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(EventKind::$kind => $name,)*
                }
            }

            /// Returns the level at which [`LogSink`] logs events of this kind. `Error`: a request
            /// failed, or data was lost or is invalid. `Warn`: a part failed or recovered while
            /// requests continue, or a setting or a client needs attention. `Info`: start and
            /// migration, and when sessions of users begin and end. `Debug`: single requests, and
            /// sweeps.
            const fn level(self) -> ::log::Level {
                match self {
                    $(EventKind::$kind => ::log::Level::$level,)*
                }
            }
        }

        impl Event<'_> {
            /// Returns the kind of this event.
            #[must_use]
            pub fn kind(&self) -> EventKind {
                match self {
                    $(Event::$kind { .. } => EventKind::$kind,)*
                }
            }
        }
    };
}

event_kinds! {
    StoreOpened, "store_opened", Info;
    Migrated, "migrated", Info;
    Undecodable, "undecodable", Error;
    CheckpointBlocked, "checkpoint_blocked", Warn;
    CheckpointUnblocked, "checkpoint_unblocked", Warn;
    FileLost, "file_lost", Warn;
    FileRecovered, "file_recovered", Warn;
    FileAliased, "file_aliased", Warn;
    EndedSessionsKept, "ended_sessions_kept", Warn;
    Swept, "swept", Debug;
    AnonymousEvicted, "anonymous_evicted", Warn;
    CleanerFailed, "cleaner_failed", Warn;
    CleanerRecovered, "cleaner_recovered", Warn;
    ClockStepped, "clock_stepped", Warn;
    ClockSkewed, "clock_skewed", Warn;
    MalformedId, "malformed_id", Debug;
    UnknownId, "unknown_id", Debug;
    IdGuessing, "id_guessing", Warn;
    ReplacedIdUsed, "replaced_id_used", Warn;
    TooManyIds, "too_many_ids", Warn;
    CrossOrigin, "cross_origin", Warn;
    Created, "session_created", Debug;
    Renewed, "session_renewed", Debug;
    SignedIn, "signed_in", Info;
    SignInRefused, "sign_in_refused", Info;
    Ended, "session_ended", Info;
    UserRenamed, "user_renamed", Info;
    Revoked, "sessions_revoked", Info;
    NoAbsoluteLimit, "no_absolute_limit", Warn;
    ChangesDiscarded, "changes_discarded", Debug;
    SessionNotClosed, "session_not_closed", Error;
    TouchFailed, "touch_failed", Warn;
    RenewalFailed, "renewal_failed", Warn;
    WrongType, "wrong_type", Warn;
    TreatedAsAnonymous, "treated_as_anonymous", Warn;
    RequestFailed, "request_failed", Error;
    HandlerFailed, "handler_failed", Error;
    InsecureConnection, "insecure_connection", Warn;
    UnknownProxy, "unknown_proxy", Warn;
    ForeignItem, "foreign_item", Error;
    CacheDown, "cache_down", Warn;
    CacheRecovered, "cache_recovered", Warn;
    MemcachedMoved, "memcached_moved", Warn;
}

impl Event<'_> {
    /// Returns the level at which [`LogSink`] logs this event.
    fn level(&self) -> ::log::Level {
        match self {
            // Of an anonymous session.
            Event::Ended { user: None, .. } => ::log::Level::Debug,
            _ => self.kind().level(),
        }
    }
}

/// The browsers that reject a Secure cookie which was sent over plain HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectingBrowsers {
    /// Any browser: the host is no loopback name.
    Any,
    /// WebKit browsers: the host is a loopback name.
    WebKit,
}

/// A receiver of events: [`LogSink`] by default, or the application's own, for example for metrics.
///
/// A sink runs on request threads and on the cleaner's thread. It must be fast, must not panic,
/// must not call the store, the manager or a session, and must not own a manager.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Receives one event.
    fn record(&self, event: &Event<'_>);

    /// Returns whether this sink records events of `kind`, for the
    /// [review](crate::SessionManager::review) of a configuration. Defaults to true.
    fn keeps(&self, kind: EventKind) -> bool {
        let _ = kind;
        true
    }
}

/// The events of a manager or store: a [`Sink`], and a counter for each kind of event. Clones share
/// both.
#[derive(Clone, Debug)]
pub struct Events(Arc<EventsInner>);

#[derive(Debug)]
struct EventsInner {
    sink: Box<dyn Sink>,
    counters: [AtomicU64; EventKind::ALL.len()],
}

impl Events {
    /// Makes events that are counted, and then passed to `sink`.
    pub fn new(sink: impl Sink) -> Self {
        let counters = [const { AtomicU64::new(0) }; EventKind::ALL.len()];
        Events(Arc::new(EventsInner { sink: Box::new(sink), counters }))
    }

    /// Counts the event and passes it to the sink.
    pub fn raise(&self, event: &Event<'_>) {
        if let Some(counter) = self.0.counters.get(event.kind() as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sink.record(event);
    }

    /// Returns whether the sink keeps events of `kind`.
    pub(crate) fn are_kept(&self, kind: EventKind) -> bool {
        self.0.sink.keeps(kind)
    }

    /// Returns the number of events of `kind` raised so far.
    #[must_use]
    pub fn count(&self, kind: EventKind) -> u64 {
        self.0.counters.get(kind as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Default for Events {
    /// Returns events that go to the [`log`](https://docs.rs/log) crate.
    fn default() -> Self {
        Events::new(LogSink::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_distinct_and_in_snake_case() {
        let names: std::collections::BTreeSet<_> =
            EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        assert_eq!(EventKind::SignedIn.as_str(), "signed_in");
    }

    #[test]
    fn every_kind_has_its_own_counter() {
        for (index, kind) in EventKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        let events = Events::default();
        events.raise(&Event::CheckpointUnblocked);
        events.raise(&Event::CheckpointUnblocked);
        assert_eq!(events.count(EventKind::CheckpointUnblocked), 2);
        assert_eq!(events.count(EventKind::CheckpointBlocked), 0);
    }
}
