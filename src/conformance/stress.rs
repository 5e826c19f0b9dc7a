//! Everything at once, from many threads, on a few sessions.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::backend::{Committed, LiveSession, Lookup, SessionFilter};
use crate::conformance::fixture::{
    ALL, Dice, Fixture, Outcome, SECOND, Session, caught, ensure, panicked, set, user,
};
use crate::id::{PublicId, SessionIdHash};

const THREADS: u64 = 32;
const CALLS_EACH: usize = 150;
const SESSIONS: usize = 16;

/// What the threads know together.
struct Cloakroom<'a> {
    fixture: &'a Fixture,
    /// Where each session was last seen.
    places: Vec<Mutex<Session>>,
    /// Whose end was acknowledged.
    dead: Mutex<HashSet<PublicId>>,
    /// Every id that was ever used.
    id_hashes: Mutex<Vec<SessionIdHash>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn under_load_nothing_fails_and_nothing_comes_back(fixture: &Fixture) -> Outcome {
    let sessions = (0..SESSIONS).map(|_| fixture.session()).collect::<Outcome<Vec<_>>>()?;
    let room = Cloakroom {
        fixture,
        id_hashes: Mutex::new(sessions.iter().map(|session| session.id_hash).collect()),
        places: sessions.into_iter().map(Mutex::new).collect(),
        dead: Mutex::default(),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let room = &room;
                scope.spawn(move || {
                    let mut dice = Dice(seed);
                    (0..CALLS_EACH).try_for_each(|_| caught(|| room.call(&mut dice)))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    })?;
    let dead = lock(&room.dead);
    ensure!(!dead.is_empty(), "under load not one delete found a session");
    for id_hash in lock(&room.id_hashes).iter() {
        if let Lookup::Live { session: LiveSession { record, .. }, .. } =
            fixture.store.load(id_hash, fixture.now)?
        {
            ensure!(!dead.contains(&record.public_id), "after the load a dead session is back");
        }
    }
    Ok(())
}

impl Cloakroom<'_> {
    /// One call of a random kind on a random session.
    fn call(&self, dice: &mut Dice) -> Outcome {
        let fixture = self.fixture;
        let Some(place) = self.places.get(dice.roll(SESSIONS)) else { return Ok(()) };
        let session = lock(place).clone();
        let (id_hash, now) = (session.id_hash, fixture.after(SECOND));
        match dice.roll(20) {
            0..=6 => self.look(&id_hash)?,
            7..=11 => {
                let name = ["a", "b", "c"].get(dice.roll(3)).copied().unwrap_or_default();
                let answer = fixture.merge(&id_hash, &set(name, dice.roll(9))?, now)?;
                self.note(&session, &answer);
            }
            12..=13 => fixture.touch(&id_hash, now, now)?,
            14..=15 => {
                let grace = Some(fixture.after(SECOND * 9)).filter(|_| dice.roll(2) == 0);
                self.moved(place, &session, fixture.renew(&id_hash, grace, now)?);
            }
            16 => {
                self.moved(place, &session, fixture.sign_in(&id_hash, &user("u")?, now)?);
            }
            17 => {
                let swept = fixture.store.sweep(now, ALL)?.removed;
                ensure!(swept == 0, "under load a sweep removed a session that had not ended");
            }
            18 => {
                let answer = fixture.delete(&id_hash, now)?;
                self.note(&session, &answer);
            }
            _ => match fixture.store.index() {
                Some(index) => {
                    let public_id = session.public_id();
                    if !index.revoke(&SessionFilter::PublicId(&public_id), None, now)?.is_empty() {
                        lock(&self.dead).insert(public_id);
                    }
                }
                None => self.look(&id_hash)?,
            },
        }
        // A session that has gone makes room for another one.
        if dice.roll(4) == 0 && lock(&self.dead).contains(&session.public_id()) {
            let fresh = fixture.session()?;
            lock(&self.id_hashes).push(fresh.id_hash);
            *lock(place) = fresh;
        }
        Ok(())
    }

    fn look(&self, id_hash: &SessionIdHash) -> Outcome {
        // Who is dead before the load begins must not be found by it.
        let dead = lock(&self.dead).clone();
        if let Lookup::Live { session: LiveSession { record, .. }, .. } =
            self.fixture.store.load(id_hash, self.fixture.now)?
        {
            ensure!(!dead.contains(&record.public_id), "under load a dead session was found alive");
        }
        Ok(())
    }

    /// What the answer says of the session's end.
    fn note(&self, session: &Session, answer: &Committed) {
        if matches!(answer, Committed::Deleted(_)) {
            lock(&self.dead).insert(session.public_id());
        }
    }

    fn moved(
        &self,
        place: &Mutex<Session>,
        session: &Session,
        (to, answer): (SessionIdHash, Committed),
    ) {
        self.note(session, &answer);
        lock(&self.id_hashes).push(to);
        if let Committed::Done { session: LiveSession { record, id_hash }, .. } = answer {
            *lock(place) = Session { id_hash, record };
        }
    }
}
