//! Checks with random calls from many threads on a few sessions.

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;

use crate::backend::{CommitAnswer, LiveSession, Loaded};
use crate::conformance::fixture::*;
use crate::id::{PublicId, SessionIdHash};
use crate::list::SessionFilter;
use crate::sync::IgnorePoison;

const THREADS: u64 = 32;
const CALLS_EACH: usize = 150;
const SESSIONS: usize = 16;

/// The state that the threads share.
struct StressRun<'a> {
    fixture: &'a Fixture,
    /// Sessions as the last call on each returned them.
    sessions: Vec<Mutex<Sample>>,
    /// Sessions whose end was acknowledged.
    ended: Mutex<HashSet<PublicId>>,
    /// Every id that was ever used.
    id_hashes: Mutex<Vec<SessionIdHash>>,
}

pub(super) fn under_load_nothing_fails_and_nothing_comes_back(fixture: &Fixture) -> Passed {
    let sessions = (0..SESSIONS).map(|_| fixture.session()).collect::<Passed<Vec<_>>>()?;
    let shared = StressRun {
        fixture,
        id_hashes: Mutex::new(sessions.iter().map(|session| session.id_hash).collect()),
        sessions: sessions.into_iter().map(Mutex::new).collect(),
        ended: Mutex::default(),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let shared = &shared;
                scope.spawn(move || {
                    let mut random = PseudoRandom(seed);
                    (0..CALLS_EACH).try_for_each(|_| caught(|| shared.call(&mut random)))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    })?;
    let ended = shared.ended.lock().ignore_poison();
    ensure!(!ended.is_empty(), "under load no ending found a session")?;
    for id_hash in shared.id_hashes.lock().ignore_poison().iter() {
        if let Loaded::Live(session) = fixture.store.load(id_hash, fixture.now)? {
            let is_back = ended.contains(&session.record.public_id);
            ensure!(!is_back, "after the load an ended session is live again")?;
        }
    }
    Ok(())
}

impl StressRun<'_> {
    /// Makes one random call on a random session.
    fn call(&self, random: &mut PseudoRandom) -> Passed {
        let fixture = self.fixture;
        let Some(slot) = self.sessions.get(random.below(SESSIONS)) else { return Ok(()) };
        let session = slot.lock().ignore_poison().clone();
        let id_hash = session.id_hash;
        let now = fixture.after(SECOND);
        match random.below(20) {
            0..=6 => self.load(&id_hash)?,
            7..=11 => {
                let name = ["a", "b", "c"].get(random.below(3)).copied().unwrap_or_default();
                let answer = fixture.at(now).merge(&id_hash, &set(name, random.below(9))?)?;
                self.note_end(&session, &answer);
            }
            12..=13 => fixture.at(now).touch(&id_hash)?,
            14..=15 => {
                let grace = Some(fixture.after(SECOND * 9)).filter(|_| random.below(2) == 0);
                self.note_new_id(slot, &session, fixture.at(now).renew(&id_hash, grace)?);
            }
            16 => {
                self.note_new_id(slot, &session, fixture.at(now).sign_in(&id_hash, &user("u")?)?);
            }
            17 => {
                let swept = fixture.store.sweep(now, ALL)?.removed;
                ensure!(swept == 0, "under load a sweep removed a session that had not expired")?;
            }
            18 => {
                let answer = fixture.at(now).end(&id_hash)?;
                self.note_end(&session, &answer);
            }
            _ => match fixture.store.index() {
                Some(index) => {
                    let public_id = session.public_id();
                    if !index.revoke(&SessionFilter::PublicId(&public_id), None, now)?.is_empty() {
                        self.ended.lock().ignore_poison().insert(public_id);
                    }
                }
                None => self.load(&id_hash)?,
            },
        }
        // Replaces some of the ended sessions, so that later calls find live ones.
        if random.below(4) == 0 && self.ended.lock().ignore_poison().contains(&session.public_id())
        {
            let fresh = fixture.session()?;
            self.id_hashes.lock().ignore_poison().push(fresh.id_hash);
            *slot.lock().ignore_poison() = fresh;
        }
        Ok(())
    }

    fn load(&self, id_hash: &SessionIdHash) -> Passed {
        // A session that had ended before the load begins must not be found by it.
        let ended = self.ended.lock().ignore_poison().clone();
        if let Loaded::Live(LiveSession { record, .. }) =
            self.fixture.store.load(id_hash, self.fixture.now)?
        {
            let is_back = ended.contains(&record.public_id);
            ensure!(!is_back, "under load a load found an ended session")?;
        }
        Ok(())
    }

    /// Notes the end of the session if the call ended it.
    fn note_end(&self, session: &Sample, answer: &CommitAnswer) {
        if matches!(answer, CommitAnswer::Ended(_)) {
            self.ended.lock().ignore_poison().insert(session.public_id());
        }
    }

    /// Notes the end of the session, or its new id, after a renewal or a sign-in.
    fn note_new_id(
        &self,
        slot: &Mutex<Sample>,
        session: &Sample,
        (to, answer): (SessionIdHash, CommitAnswer),
    ) {
        self.note_end(session, &answer);
        self.id_hashes.lock().ignore_poison().push(to);
        if let CommitAnswer::Done { session: LiveSession { record, id_hash }, .. } = answer {
            *slot.lock().ignore_poison() = Sample { id_hash, record };
        }
    }
}
