//! What happened, for the operator: typed events, where they go, and how often each came.

mod log;
mod message;

use std::fmt::Debug;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::id::{PublicId, UserKey};

pub use self::log::LogSink;

/// Something the operator may want to know. No event carries an id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A store was opened.
    StoreOpened {
        /// The store, in words.
        store: &'a str,
    },
    /// The tables were set up or brought to a newer version.
    Migrated {
        /// The sessions table.
        table: &'a str,
        /// The schema version before; 0 for none.
        from: u32,
        /// The schema version now.
        to: u32,
    },
    /// A stored session does not decode; it stays in place until its deadline.
    Undecodable {
        /// The session's public name, if at least that can be read.
        public_id: Option<&'a PublicId>,
        /// Why.
        error: &'a Error,
    },
    /// The write-ahead log cannot restart because an old reader still uses it: it grows.
    CheckpointBlocked {
        /// Pages in the log.
        pages: u32,
    },
    /// The write-ahead log restarts again.
    CheckpointUnblocked,
    /// The database or its log was deleted or replaced while it was open: every change fails with
    /// [`Unavailable`](crate::ErrorKind::Unavailable), because it would be written to a file that
    /// nobody finds again.
    FileMoved {
        /// The name that stands for another file now, or for none.
        path: &'a Path,
    },
    /// The file is back under its name, and changes are written again.
    FileRecovered,
    /// The cleaner removed sessions that had ended.
    Swept {
        /// How many.
        sessions: usize,
    },
    /// A run of the cleaner failed; it goes on and tries again.
    CleanerFailed {
        /// What failed.
        error: &'a Error,
    },
    /// The cleaner works again.
    CleanerRecovered,
    /// The clock was set forward by more than an hour: no session is swept for ten minutes.
    ClockStepped {
        /// How far.
        by: Duration,
    },
    /// A request presented something in place of an id that no session ever had.
    MalformedId {
        /// Where the request came from, if that is known.
        address: Option<IpAddr>,
    },
    /// A request presented an id of no live session: ended, or guessed.
    UnknownId {
        /// Where the request came from, if that is known.
        address: Option<IpAddr>,
    },
    /// One address has presented many malformed or unknown ids within a minute: somebody may be
    /// guessing. Raised when it has presented 20, and again whenever that number has doubled.
    ///
    /// An id that comes again, as from a client that did not notice the end of its session, counts
    /// once within the minute. Requests whose address is unknown are counted together, and so are
    /// those that come through a proxy that the manager was not
    /// [told of](crate::manager::SessionManagerBuilder::behind_proxies).
    IdGuessing {
        /// Where the ids came from, if that is known; of an IPv6 address the first 64 bits, which
        /// one client has to itself.
        address: Option<IpAddr>,
        /// How many so far.
        count: u64,
    },
    /// A request presented an id that was replaced, by a renewal or a sign-in, more than ten seconds
    /// before the request came. Its client lost the answer with the new id, or somebody has kept a
    /// stolen id. The request reads nothing of the session; see
    /// [`end_session_on_replaced_id`](crate::manager::SessionManagerBuilder::end_session_on_replaced_id).
    ReplacedIdUsed {
        /// The session's public name.
        public_id: &'a PublicId,
        /// Where the request came from, if that is known.
        address: Option<IpAddr>,
    },
    /// A request presented more than is looked at: more than 16 different ids, or more than 256
    /// cookies of the session cookie's name. What came after that was ignored. No browser does so
    /// by itself: another host of the same domain may have planted cookies, which only a name that
    /// begins with `__Host-` prevents.
    TooManyIds {
        /// Where the request came from, if that is known.
        address: Option<IpAddr>,
    },
    /// A session began.
    Created {
        /// Its public name.
        public_id: &'a PublicId,
    },
    /// A session got a new id.
    Renewed {
        /// Its public name.
        public_id: &'a PublicId,
    },
    /// A user signed in.
    SignedIn {
        /// The session's public name.
        public_id: &'a PublicId,
        /// The user.
        user: &'a UserKey,
    },
    /// A sign-in was refused because the user has as many sessions as allowed.
    SignInRefused {
        /// The user.
        user: &'a UserKey,
    },
    /// A session was ended by its owner.
    SignedOut,
    /// Sessions were ended from elsewhere.
    Revoked {
        /// How many.
        sessions: u64,
    },
    /// A manager was configured without an absolute limit: who keeps a session busy keeps it for
    /// ever, whoever that is.
    NoAbsoluteLimit,
    /// Changes of a request were discarded, because its session had ended or had been renewed
    /// meanwhile.
    ChangesDiscarded {
        /// The session's public name, if the request had seen it.
        public_id: Option<&'a PublicId>,
    },
    /// A [`Session`](crate::Session) was dropped that nothing had closed: its changes are lost, the
    /// client gets no id, and the session is not ended that it was told to end. Raised by a manager
    /// at most once a second.
    Dropped {
        /// The session's public name, if the request had seen it.
        public_id: Option<&'a PublicId>,
    },
    /// Activity could not be recorded: the session may end early.
    TouchFailed {
        /// Why.
        error: &'a Error,
    },
    /// A session value could not be read, or updated, as the type that the application asked for.
    WrongType {
        /// The session's public name, if the request had seen it.
        public_id: Option<&'a PublicId>,
        /// The name of the value and both types.
        error: &'a Error,
    },
    /// The session could not be read, and the request went on as if there were none.
    TreatedAsAnonymous {
        /// Why.
        error: &'a Error,
    },
    /// A request was answered with an error because of this.
    RequestFailed {
        /// Why.
        error: &'a Error,
    },
    /// A request was answered with an error because the application's handler failed.
    HandlerFailed {
        /// The handler's error and its sources, in words; or what it said when it panicked.
        error: &'a str,
    },
    /// A Secure cookie was sent over plain HTTP to a browser that drops it there: any browser on
    /// most hosts, Safari and other WebKit browsers on `localhost` and `127.0.0.1` too. Raised once
    /// a process for each of the two.
    InsecureConnection {
        /// The host the request was for.
        host: &'a str,
    },
    /// A value under one of our keys is nothing that any version of this program wrote; it counts
    /// as absent.
    InvalidCacheValue {
        /// What is wrong with it.
        error: &'a Error,
    },
    /// A share of the cache, such as one of several servers, failed and is left alone until it works
    /// again: its sessions come from the store.
    CacheDown {
        /// Which share, counted from 1 in the order of the servers.
        shard: usize,
        /// How many shares there are.
        of: usize,
        /// Why.
        error: &'a Error,
    },
    /// A share of the cache works again, and has been told all that it missed.
    CacheRecovered {
        /// Which share, counted from 1 in the order of the servers.
        shard: usize,
        /// How many shares there are.
        of: usize,
    },
}

/// Defines the kinds: variant, name in metrics, level in the log.
macro_rules! event_kinds {
    ($($kind:ident, $name:literal, $level:ident;)*) => {
        /// The kind of an [`Event`], for counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = concat!("[`Event::", stringify!($kind), "`], logged at level `", stringify!($level), "`.")]
            $kind,)*
        }

        impl EventKind {
            /// Every kind, in the order of their definition.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$kind),*];

            /// The name of the kind in snake case, as a label for metrics. It never changes.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(EventKind::$kind => $name,)*
                }
            }

            /// The level at which [`LogSink`] logs events of this kind. `Error`: a request failed or
            /// data was discarded. `Warn`: the state of the system changed. `Info`: start and
            /// migration. `Debug`: one request.
            const fn level(self) -> ::log::Level {
                match self {
                    $(EventKind::$kind => ::log::Level::$level,)*
                }
            }
        }

        impl Event<'_> {
            /// The kind of this event.
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
    FileMoved, "file_moved", Warn;
    FileRecovered, "file_recovered", Warn;
    Swept, "swept", Debug;
    CleanerFailed, "cleaner_failed", Warn;
    CleanerRecovered, "cleaner_recovered", Warn;
    ClockStepped, "clock_stepped", Warn;
    MalformedId, "malformed_id", Debug;
    UnknownId, "unknown_id", Debug;
    IdGuessing, "id_guessing", Warn;
    ReplacedIdUsed, "replaced_id_used", Warn;
    TooManyIds, "too_many_ids", Warn;
    Created, "created", Debug;
    Renewed, "renewed", Debug;
    SignedIn, "signed_in", Debug;
    SignInRefused, "sign_in_refused", Debug;
    SignedOut, "signed_out", Debug;
    Revoked, "revoked", Debug;
    NoAbsoluteLimit, "no_absolute_limit", Warn;
    ChangesDiscarded, "changes_discarded", Error;
    Dropped, "dropped", Error;
    TouchFailed, "touch_failed", Warn;
    WrongType, "wrong_type", Warn;
    TreatedAsAnonymous, "treated_as_anonymous", Warn;
    RequestFailed, "request_failed", Error;
    HandlerFailed, "handler_failed", Error;
    InsecureConnection, "insecure_connection", Warn;
    InvalidCacheValue, "invalid_cache_value", Error;
    CacheDown, "cache_down", Warn;
    CacheRecovered, "cache_recovered", Warn;
}

/// Where events go: [`LogSink`] by default, or your own bridge to metrics.
///
/// It is called on the request's path and on the cleaner's thread, so it must be quick. It must
/// not call back into the store, the manager or a session, nor own a manager, and it must not
/// panic.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Takes one event.
    fn record(&self, event: &Event<'_>);
}

/// A [`Sink`] with a counter for each kind of event. Clones share both.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sink: Box<dyn Sink>,
    counters: [AtomicU64; EventKind::ALL.len()],
}

impl Events {
    /// Counts every event and passes it on to `sink`.
    pub fn new(sink: impl Sink) -> Self {
        let counters = [const { AtomicU64::new(0) }; EventKind::ALL.len()];
        Events(Arc::new(Inner { sink: Box::new(sink), counters }))
    }

    /// Counts the event and passes it on.
    pub fn raise(&self, event: &Event<'_>) {
        if let Some(counter) = self.0.counters.get(event.kind() as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sink.record(event);
    }

    /// How many events of `kind` were raised so far.
    #[must_use]
    pub fn count(&self, kind: EventKind) -> u64 {
        self.0.counters.get(kind as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Default for Events {
    /// Events go to the [`log`](::log) crate.
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
