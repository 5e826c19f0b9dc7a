//! A store written by hand: a map behind a lock, in which each session is one JSON text. It shows
//! what a store on any other medium (a folder, a key-value server) has to do.
//!
//! `cargo run --example own_store --features conformance` runs the conformance suite on it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cloakroom::backend::{
    Capabilities, Commit, CommitAnswer, EndedSession, Found, LiveSession, Loaded, Maintenance,
    Record, RemovalReport, ReplacedId, SessionIndex, SessionWrite, Store, Touch, TouchError,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;
use cloakroom::{Error, Result, conformance};

#[derive(Debug, Default)]
struct OwnStore(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    by_key: HashMap<SessionIdHash, Row>,
    /// Maps the replaced id hashes of a session to its current one. Without this a request under
    /// way could not be distinguished from one whose session has ended, and a sign-out through a
    /// replaced id would end nothing.
    by_replaced: HashMap<SessionIdHash, SessionIdHash>,
}

#[derive(Debug)]
struct Row {
    json: String,
    /// A copy of the record's deadline, so that a sweep need not decode every session.
    deadline: Timestamp,
    /// The replaced ids of the session, the oldest first.
    replaced: Vec<ReplacedId>,
}

impl OwnStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    /// Looks `id_hash` up at `now`; the key is the current id hash of the session.
    fn find(&self, id_hash: &SessionIdHash, now: Timestamp) -> Found<SessionIdHash> {
        let key = *self.by_replaced.get(id_hash).unwrap_or(id_hash);
        let Some(row) = self.by_key.get(&key) else { return Found::NotFound };
        let found = match Record::from_json(&row.json) {
            Ok(record) => Found::of_session(LiveSession { record, id_hash: key }, key, now),
            // A session ends at its deadline, whether or not a sweep has removed it.
            Err(_) if row.deadline <= now => Found::Expired { reached_limit: None, key },
            // A row that does not decode stays: another version of the program may read it.
            Err(error) => Found::Undecodable { id_hash: key, public_id: None, error, key },
        };
        match row.replaced.iter().find(|id| id.id_hash == *id_hash) {
            Some(id) => found.through_replaced_id(*id, now),
            None => found,
        }
    }

    fn put(&mut self, id_hash: SessionIdHash, record: &Record, replaced: Vec<ReplacedId>) {
        for id in &replaced {
            self.by_replaced.insert(id.id_hash, id_hash);
        }
        let row = Row { json: record.to_json(), deadline: record.deadline(), replaced };
        self.by_key.insert(id_hash, row);
    }

    /// Replaces the record of a row, which keeps its id hashes.
    fn replace(&mut self, id_hash: &SessionIdHash, record: &Record) {
        if let Some(row) = self.by_key.get_mut(id_hash) {
            row.json = record.to_json();
            row.deadline = record.deadline();
        }
    }

    /// Removes a session, and returns its replaced ids.
    fn remove(&mut self, id_hash: &SessionIdHash) -> Vec<ReplacedId> {
        let replaced = self.by_key.remove(id_hash).map(|row| row.replaced).unwrap_or_default();
        for id in &replaced {
            self.by_replaced.remove(&id.id_hash);
        }
        replaced
    }

    /// Fails if `id_hash` is or was in use: an id hash must never find a second session.
    fn check_free(&self, id_hash: &SessionIdHash) -> Result<()> {
        match self.by_key.contains_key(id_hash) || self.by_replaced.contains_key(id_hash) {
            true => Err(Error::id_is_taken()),
            false => Ok(()),
        }
    }
}

impl Store for OwnStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        Ok(self.rows().find(id_hash, now).into())
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        // One lock around the look-up and the write makes the commit atomic. A database uses a
        // transaction, a server without transactions a compare-and-swap with retries.
        let mut rows = self.rows();
        // `decide` decides for all stores what a commit does; a store only executes the decision.
        let decision = commit.decide(rows.find(&commit.id_hash, commit.now))?;
        // Check before anything is changed: if a renewal fails, the old id still works.
        if let Some(id_hash) = decision.write.new_id() {
            rows.check_free(id_hash)?;
        }
        // Here a store with an index applies the maximum per user. Other stores get none.
        for key in decision.removed() {
            rows.remove(key);
        }
        match &decision.write {
            SessionWrite::Nothing(_) => {}
            SessionWrite::Insert { session, replaced } => {
                rows.put(session.id_hash, &session.record, Vec::from_iter(*replaced));
            }
            SessionWrite::Update { key, session } | SessionWrite::Touch { key, session } => {
                rows.replace(key, &session.record);
            }
            SessionWrite::Move { key, session, id_change } => {
                let replaced = id_change.remembered(rows.remove(key));
                rows.put(session.id_hash, &session.record, replaced);
            }
        }
        Ok(decision.into_answer(vec![])) // no bound has removed sessions
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        let mut rows = self.rows();
        for (id_hash, touch) in batch {
            // Read the record again under the lock: a touch must not write back an older record.
            if let Found::Live { mut session, key } = rows.find(id_hash, now)
                && session.record.touch(*touch)
            {
                rows.replace(&key, &session.record);
            }
        }
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        let mut rows = self.rows();
        // The time for which the sweep blocks others, without its own wait for the lock.
        let began = Instant::now();
        let expired = rows.by_key.iter().filter(|(_, row)| row.deadline <= now);
        let expired: Vec<SessionIdHash> =
            expired.map(|(id_hash, _)| *id_hash).take(limit.get()).collect();
        let mut named = Vec::new();
        for id_hash in &expired {
            let row = rows.by_key.get(id_hash);
            if let Some(Ok(record)) = row.map(|row| Record::from_json(&row.json)) {
                named.push(EndedSession::expired(*id_hash, &record));
            }
            rows.remove(id_hash);
        }
        // For the trail of events, which has those of users.
        Ok(RemovalReport::new(expired.len(), began.elapsed()).with_user_sessions(named))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        // This store has no index by user. `None` is better than a list that may be incomplete.
        None
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }
}

fn main() -> Result<(), conformance::Failures> {
    conformance::check(OwnStore::default)?;
    println!("the store keeps all guarantees");
    Ok(())
}
