//! Everything at once, from many threads, on a few sessions.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::conformance::given::{
    ALL, Dice, Given, Outcome, SECOND, Session, caught, ensure, panicked, set, user,
};
use crate::id::{Handle, SessionKey};
use crate::store::{Committed, Loaded, Which};

const THREADS: u64 = 32;
const CALLS_EACH: usize = 150;
const SESSIONS: usize = 16;

/// What the threads know together.
struct Cloakroom<'a> {
    given: &'a Given,
    /// Where each session was last seen.
    places: Vec<Mutex<Session>>,
    /// Whose end was acknowledged.
    dead: Mutex<HashSet<Handle>>,
    /// Every key that was ever used.
    keys: Mutex<Vec<SessionKey>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn under_load_nothing_fails_and_nothing_comes_back(given: &Given) -> Outcome {
    let sessions = (0..SESSIONS).map(|_| given.session()).collect::<Outcome<Vec<_>>>()?;
    let room = Cloakroom {
        given,
        keys: Mutex::new(sessions.iter().map(|session| session.key).collect()),
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
    for key in lock(&room.keys).iter() {
        if let Loaded::Live { record, .. } = given.store.load(key, given.now)? {
            ensure!(!dead.contains(&record.handle), "after the load a dead session is back");
        }
    }
    Ok(())
}

impl Cloakroom<'_> {
    /// One call of a random kind on a random session.
    fn call(&self, dice: &mut Dice) -> Outcome {
        let given = self.given;
        let Some(place) = self.places.get(dice.roll(SESSIONS)) else { return Ok(()) };
        let session = lock(place).clone();
        let (key, now) = (session.key, given.after(SECOND));
        match dice.roll(20) {
            0..=6 => self.look(&key)?,
            7..=11 => {
                let name = ["a", "b", "c"].get(dice.roll(3)).copied().unwrap_or_default();
                let answer = given.merge(&key, &set(name, dice.roll(9))?, now)?;
                self.note(&session, &answer);
            }
            12..=13 => given.touch(&key, now, now)?,
            14..=15 => {
                let grace = Some(given.after(SECOND * 9)).filter(|_| dice.roll(2) == 0);
                self.moved(place, &session, given.renew(&key, grace, now)?);
            }
            16 => {
                self.moved(place, &session, given.sign_in(&key, &user("u")?, now)?);
            }
            17 => {
                let swept = given.store.sweep(now, ALL)?.removed;
                ensure!(swept == 0, "under load a sweep removed a session that had not ended");
            }
            18 => {
                let answer = given.delete(&key, now)?;
                self.note(&session, &answer);
            }
            _ => match given.store.registry() {
                Some(registry) => {
                    let handle = session.handle();
                    if !registry.revoke(&Which::Handle(&handle), None, now)?.is_empty() {
                        lock(&self.dead).insert(handle);
                    }
                }
                None => self.look(&key)?,
            },
        }
        // A session that has gone makes room for another one.
        if dice.roll(4) == 0 && lock(&self.dead).contains(&session.handle()) {
            let fresh = given.session()?;
            lock(&self.keys).push(fresh.key);
            *lock(place) = fresh;
        }
        Ok(())
    }

    fn look(&self, key: &SessionKey) -> Outcome {
        // Who is dead before the load begins must not be found by it.
        let dead = lock(&self.dead).clone();
        if let Loaded::Live { record, .. } = self.given.store.load(key, self.given.now)? {
            ensure!(!dead.contains(&record.handle), "under load a dead session was found alive");
        }
        Ok(())
    }

    /// What the answer says of the session's end.
    fn note(&self, session: &Session, answer: &Committed) {
        if matches!(answer, Committed::Deleted { .. }) {
            lock(&self.dead).insert(session.handle());
        }
    }

    fn moved(
        &self,
        place: &Mutex<Session>,
        session: &Session,
        (to, answer): (SessionKey, Committed),
    ) {
        self.note(session, &answer);
        lock(&self.keys).push(to);
        if let Committed::Done { record, key, .. } = answer {
            *lock(place) = Session { key, record };
        }
    }
}
