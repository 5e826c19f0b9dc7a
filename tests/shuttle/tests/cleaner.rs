//! The cleaner's channel: touches are written, flushes and sweeps are answered, and the cleaner
//! ends.

use std::num::NonZeroUsize;
use std::time::Duration;

use cloakroom::adapter::Outcome;
use cloakroom::backend::{Action, Commit, Delta, LiveSession, Loaded, NewSession, Store};
use cloakroom::clock::{Clock, ManualClock};
use cloakroom::id::{Realm, SessionId, SessionIdHash};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{Lifetime, MemoryStore, SessionManager};
use shuttle::thread;

use super::common::NOW;
use super::explore;
use super::pausing::{Pausing, pausing};

const HOUR: Duration = Duration::from_secs(3600);

pub struct Fixture {
    pub store: Pausing<MemoryStore>,
    pub clock: ManualClock,
    pub sessions: SessionManager,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(|builder| builder)
    }

    pub fn with(configure: impl FnOnce(SessionManagerBuilder) -> SessionManagerBuilder) -> Fixture {
        let (store, clock) = (pausing(MemoryStore::new()), ManualClock::new(NOW));
        let builder = SessionManager::builder(store.clone()).clock(clock.clone());
        let builder = configure(builder);
        Fixture { sessions: builder.build().unwrap(), store, clock }
    }

    /// Stores a session. Returns its id hash and the cookie of its browser.
    pub fn visitor(&self) -> (SessionIdHash, String) {
        let id = SessionId::generate().unwrap();
        let new_session = NewSession::new(Lifetime::default().limits_from(NOW)).unwrap();
        let (id_hash, nothing) = (id.hash(Realm::default().tag()), Delta::new());
        let create =
            Commit::new(&id_hash, Action::Create(new_session.clone()), nothing.clone(), NOW);
        self.store.commit(&create).unwrap();
        (id_hash, format!("__Host-id={}", id.reveal()))
    }

    fn is_touched(&self, id_hash: &SessionIdHash) -> bool {
        match self.store.load(id_hash, self.clock.now()).unwrap() {
            Loaded::Live(LiveSession { record, .. }) => record.seen == self.clock.now(),
            other => panic!("{other:?}"),
        }
    }
}

/// A request that only reads.
fn read(sessions: &SessionManager, cookie: &str) {
    let session = sessions.open(Some(cookie));
    assert!(!session.contains("n").unwrap());
    sessions.close(&session, Outcome::Completed).unwrap();
}

#[test]
fn activity_that_was_handed_over_is_written_before_the_end() {
    explore("the end of the cleaner", 1500, || {
        let fixture = Fixture::new();
        let visitors: Vec<_> = (0..3).map(|_| fixture.visitor()).collect();
        fixture.clock.advance(HOUR);
        let threads: Vec<_> = visitors
            .iter()
            .map(|(_, cookie)| {
                let (sessions, cookie) = (fixture.sessions.clone(), cookie.clone());
                thread::spawn(move || read(&sessions, &cookie))
            })
            .collect();
        let Fixture { store, clock, sessions } = fixture;
        // Dropping the last manager ends the cleaner, on any thread.
        drop(sessions);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let sessions = SessionManager::builder(MemoryStore::new()).build().unwrap();
        let fixture = Fixture { store, clock, sessions };
        for (id_hash, _) in &visitors {
            assert!(fixture.is_touched(id_hash), "activity was lost");
        }
    });
}

#[test]
fn a_flush_and_a_sweep_finish_what_came_before() {
    explore("flush and sweep", 1500, || {
        let fixture = Fixture::new();
        let (id_hash, cookie) = fixture.visitor();
        fixture.clock.advance(HOUR);
        let sessions = fixture.sessions.clone();
        let sweeper = thread::spawn(move || sessions.sweep_now().unwrap());
        let sessions = fixture.sessions.clone();
        let (_, other) = fixture.visitor();
        let reader = thread::spawn(move || read(&sessions, &other));
        read(&fixture.sessions, &cookie);
        fixture.sessions.flush().unwrap();
        assert!(
            fixture.is_touched(&id_hash),
            "a flush was answered before the activity was written"
        );
        assert_eq!(sweeper.join().unwrap(), 0);
        reader.join().unwrap();
        // One sweep removes the ended sessions, however many calls ask for it at once.
        fixture.clock.advance(HOUR * 48);
        let sweepers: Vec<_> = (0..2)
            .map(|_| {
                let sessions = fixture.sessions.clone();
                thread::spawn(move || sessions.sweep_now().unwrap())
            })
            .collect();
        for sweeper in sweepers {
            sweeper.join().unwrap();
        }
        let left = fixture.store.sweep(fixture.clock.now(), NonZeroUsize::MIN).unwrap().removed;
        assert_eq!(left, 0, "a sweep was answered before its end");
    });
}
