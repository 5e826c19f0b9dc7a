//! The state of a session, which threads of one request may share; the queue of requests that
//! update one session; and the recently ended sessions.

use cloakroom::adapter::Outcome;
use cloakroom::backend::{LiveSession, Loaded, Store};
use cloakroom::clock::Clock;
use cloakroom::id::SessionIdHash;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CommitOutcome, ErrorKind, Session, SessionManager};
use shuttle::thread;

use super::cleaner::Fixture;
use super::explore;

fn fixture() -> Fixture {
    Fixture::with(SessionManagerBuilder::without_cleaner)
}

fn number(fixture: &Fixture, id_hash: &SessionIdHash, name: &str) -> Option<u32> {
    match fixture.store.load(id_hash, fixture.clock.now()).unwrap() {
        Loaded::Live(LiveSession { record, .. }) => {
            record.data.get(name).map(|value| value.decode().unwrap())
        }
        _ => None,
    }
}

/// Sends a request that counts up. Returns false if its deadline passed before its turn.
fn count_up(sessions: &SessionManager, cookie: &str) -> bool {
    let session = sessions.open(Some(cookie));
    session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
    match sessions.close(&session, Outcome::Completed) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Busy);
            false
        }
    }
}

#[test]
fn requests_that_count_up_at_once_lose_none() {
    explore("counting up", 2000, || {
        let fixture = fixture();
        let (id_hash, cookie) = fixture.visitor();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (sessions, cookie) = (fixture.sessions.clone(), cookie.clone());
                thread::spawn(move || count_up(&sessions, &cookie))
            })
            .collect();
        let counted: u32 = threads.into_iter().map(|t| u32::from(t.join().unwrap())).sum();
        // A request that gave up has left the queue.
        assert!(count_up(&fixture.sessions, &cookie));
        assert_eq!(number(&fixture, &id_hash, "n"), Some(counted + 1));
    });
}

#[test]
fn threads_of_one_request_share_its_session() {
    explore("one session", 1000, || {
        let fixture = fixture();
        let (id_hash, cookie) = fixture.visitor();
        let session = fixture.sessions.open(Some(cookie.as_str()));
        let work: [fn(&Session); 3] = [
            |session| session.set("a", 1).unwrap(),
            |session| {
                session.update("b", |n: Option<u32>| n.unwrap_or(1) + 1).unwrap();
            },
            |session| {
                assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
            },
        ];
        thread::scope(|scope| {
            for work in work {
                let session = &session;
                scope.spawn(move || work(session));
            }
        });
        fixture.sessions.close(&session, Outcome::Completed).unwrap();
        assert_eq!(
            (number(&fixture, &id_hash, "a"), number(&fixture, &id_hash, "b")),
            (Some(1), Some(2))
        );
    });
}

/// Signs out on a thread of its own.
fn sign_out(fixture: &Fixture, cookie: &str) -> thread::JoinHandle<()> {
    let (sessions, cookie) = (fixture.sessions.clone(), cookie.to_owned());
    thread::spawn(move || {
        let session = sessions.open(Some(cookie.as_str()));
        session.destroy().unwrap();
        sessions.close(&session, Outcome::Completed).unwrap();
    })
}

/// Revokes all sessions on a thread of its own.
fn revoke_everyone(fixture: &Fixture, _cookie: &str) -> thread::JoinHandle<()> {
    let sessions = fixture.sessions.clone();
    thread::spawn(move || {
        sessions.revoke_everyone(None).unwrap();
    })
}

/// A request writes after `reads`, while `end` ends its session.
fn a_write_begins_no_session(
    fixture: &Fixture,
    end: fn(&Fixture, &str) -> thread::JoinHandle<()>,
    reads: fn(&Session),
) {
    let (_, cookie) = fixture.visitor();
    let late = fixture.sessions.open(Some(cookie.as_str()));
    let ending = end(fixture, &cookie);
    reads(&late);
    late.set("n", 1).unwrap();
    fixture.sessions.close(&late, Outcome::Completed).unwrap();
    ending.join().unwrap();
    let stats = fixture.store.index().unwrap().stats(fixture.clock.now()).unwrap();
    assert_eq!(stats.live, 0, "the late write has begun a session");
}

#[test]
fn a_session_that_is_destroyed_meanwhile_is_not_begun_anew() {
    explore("a late write", 1000, || a_write_begins_no_session(&fixture(), sign_out, |_| {}));
}

#[test]
fn a_session_that_is_destroyed_beside_a_read_is_not_begun_anew() {
    let reads = |late: &Session| {
        late.contains("n").unwrap();
    };
    explore("a late write after a read", 2000, move || {
        a_write_begins_no_session(&fixture(), sign_out, reads);
    });
}

#[test]
fn a_session_that_is_revoked_meanwhile_is_not_begun_anew() {
    explore("a late write after a revocation", 1000, || {
        a_write_begins_no_session(&fixture(), revoke_everyone, |_| {});
    });
}
