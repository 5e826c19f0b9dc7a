//! The cleaner's channel: what was handed over is written, each question is answered, and the end
//! comes.

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

pub struct Stage {
    pub store: Pausing<MemoryStore>,
    pub clock: ManualClock,
    pub sessions: SessionManager,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(|builder| builder)
    }

    pub fn with(configure: impl FnOnce(SessionManagerBuilder) -> SessionManagerBuilder) -> Stage {
        let (store, clock) = (pausing(MemoryStore::new()), ManualClock::new(NOW));
        let builder = SessionManager::builder(store.clone()).clock(clock.clone());
        let builder = configure(builder);
        Stage { sessions: builder.build().unwrap(), store, clock }
    }

    /// A session that is stored, and the cookie of its browser.
    pub fn visitor(&self) -> (SessionIdHash, String) {
        let id = SessionId::generate().unwrap();
        let new_session = NewSession::new(Lifetime::default().starting(NOW)).unwrap();
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
fn look(sessions: &SessionManager, cookie: &str) {
    let session = sessions.open(Some(cookie));
    assert!(!session.contains("n").unwrap());
    sessions.close(&session, Outcome::Completed).unwrap();
}

#[test]
fn activity_that_was_handed_over_is_written_before_the_end() {
    explore("the end of the cleaner", 1500, || {
        let stage = Stage::new();
        let visitors: Vec<_> = (0..3).map(|_| stage.visitor()).collect();
        stage.clock.advance(HOUR);
        let threads: Vec<_> = visitors
            .iter()
            .map(|(_, cookie)| {
                let (sessions, cookie) = (stage.sessions.clone(), cookie.clone());
                thread::spawn(move || look(&sessions, &cookie))
            })
            .collect();
        let Stage { store, clock, sessions } = stage;
        // The last of the managers ends the cleaner, on whichever thread it goes.
        drop(sessions);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let sessions = SessionManager::builder(MemoryStore::new()).build().unwrap();
        let stage = Stage { store, clock, sessions };
        for (id_hash, _) in &visitors {
            assert!(stage.is_touched(id_hash), "activity was lost");
        }
    });
}

#[test]
fn a_flush_and_a_sweep_finish_what_came_before() {
    explore("flush and sweep", 1500, || {
        let stage = Stage::new();
        let (id_hash, cookie) = stage.visitor();
        stage.clock.advance(HOUR);
        let sessions = stage.sessions.clone();
        let sweeper = thread::spawn(move || sessions.sweep_now().unwrap());
        let sessions = stage.sessions.clone();
        let (_, other) = stage.visitor();
        let reader = thread::spawn(move || look(&sessions, &other));
        look(&stage.sessions, &cookie);
        stage.sessions.flush().unwrap();
        assert!(stage.is_touched(&id_hash), "a flush was answered before the activity was written");
        assert_eq!(sweeper.join().unwrap(), 0);
        reader.join().unwrap();
        // One sweep removes the ended sessions, however many calls ask for it at once.
        stage.clock.advance(HOUR * 48);
        let sweepers: Vec<_> = (0..2)
            .map(|_| {
                let sessions = stage.sessions.clone();
                thread::spawn(move || sessions.sweep_now().unwrap())
            })
            .collect();
        for sweeper in sweepers {
            sweeper.join().unwrap();
        }
        let left = stage.store.sweep(stage.clock.now(), NonZeroUsize::MIN).unwrap().removed;
        assert_eq!(left, 0, "a sweep was answered before its end");
    });
}
