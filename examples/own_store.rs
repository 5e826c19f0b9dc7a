//! A back-end of one's own: a map behind a lock, which holds every session as one JSON text. It
//! shows what any other place (a folder, a key-value server) has to do.
//!
//! `cargo run --example own_store --features conformance` runs the checks of every law on it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cloakroom::backend::{
    Capabilities, Commit, Committed, Decision, IdChange, Loaded, Maintenance, ReplacedId,
    ReplacedIdStatus, SessionIndex, Store, SweepReport,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;
use cloakroom::record::{Record, Touch};
use cloakroom::{Error, ErrorKind, Result, conformance};

#[derive(Debug, Default)]
struct OwnStore(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    by_key: HashMap<SessionIdHash, Row>,
    /// The keys that a session had lead to the one it has now. Without this a request under way
    /// could not be told from one whose session is gone, and a sign-out through an old key would
    /// end nothing.
    by_replaced: HashMap<SessionIdHash, SessionIdHash>,
}

#[derive(Debug)]
struct Row {
    json: String,
    /// Beside the text, so that a sweep need not decode every session.
    deadline: Timestamp,
    /// The keys it had, the oldest first.
    replaced: Vec<ReplacedId>,
}

impl OwnStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    /// The current key of the session that `id_hash` may lead to, and what is found there.
    fn find(&self, id_hash: &SessionIdHash, now: Timestamp) -> (SessionIdHash, Loaded) {
        let current = *self.by_replaced.get(id_hash).unwrap_or(id_hash);
        // A session ends at its deadline, whether or not a sweep came by.
        let Some(row) = self.by_key.get(&current).filter(|row| now < row.deadline) else {
            return (current, Loaded::NotFound);
        };
        // What does not decode stays: an older version of the program may be able to read it.
        let record = match Record::from_json(&row.json) {
            Ok(record) => record,
            Err(error) => return (current, Loaded::Undecodable { public_id: None, error }),
        };
        let loaded = match row.replaced.iter().find(|id| id.id_hash == *id_hash) {
            None => Loaded::Live { record, id_hash: current },
            Some(id) => match id.status(now) {
                ReplacedIdStatus::InGrace => Loaded::Live { record, id_hash: current },
                ReplacedIdStatus::Remembered => {
                    Loaded::Replaced { id: *id, record, id_hash: current }
                }
                ReplacedIdStatus::Forgotten => return (*id_hash, Loaded::NotFound),
            },
        };
        (current, loaded)
    }

    fn put(&mut self, id_hash: SessionIdHash, record: &Record, replaced: Vec<ReplacedId>) {
        for id in &replaced {
            self.by_replaced.insert(id.id_hash, id_hash);
        }
        let row = Row { json: record.to_json(), deadline: record.deadline(), replaced };
        self.by_key.insert(id_hash, row);
    }

    /// The row keeps its place, and the key it had before.
    fn replace(&mut self, id_hash: &SessionIdHash, record: &Record) {
        if let Some(row) = self.by_key.get_mut(id_hash) {
            row.json = record.to_json();
            row.deadline = record.deadline();
        }
    }

    /// Gives the keys that the session had.
    fn remove(&mut self, id_hash: &SessionIdHash) -> Vec<ReplacedId> {
        let replaced = self.by_key.remove(id_hash).map(|row| row.replaced).unwrap_or_default();
        for id in &replaced {
            self.by_replaced.remove(&id.id_hash);
        }
        replaced
    }

    /// A new key must never lead to two sessions, and an old one never lead anywhere again.
    fn check_free(&self, id_hash: &SessionIdHash) -> Result<()> {
        match self.by_key.contains_key(id_hash) || self.by_replaced.contains_key(id_hash) {
            true => Err(Error::new(ErrorKind::Conflict, "give a session its new key")),
            false => Ok(()),
        }
    }
}

impl Store for OwnStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        Ok(self.rows().find(id_hash, now).1)
    }

    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        // Nobody waits long for a lock that is only held for moments.
        self.load(id_hash, now).ok()
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        // One lock from the look to the write is what makes the commit atomic. In a database it
        // is a transaction, on a server without one a compare-and-swap that is tried again.
        let mut rows = self.rows();
        let (id_hash, found) = rows.find(commit.id_hash, commit.now);
        // One that has expired is as good as gone. A write that has waited since before its deadline
        // could make it live again, and some commits say that it shall not.
        if matches!(found, Loaded::NotFound) && commit.removes_expired() {
            rows.remove(&id_hash);
        }
        // What a commit means is decided once for all stores; a store only carries it out.
        match commit.decide(found)? {
            Decision::Answer(answer) => Ok(answer),
            Decision::Insert { id_hash: to, record, replaces } => {
                rows.check_free(&to)?;
                // The session that was found goes, with all keys that it had.
                let ended: Vec<_> = replaces.iter().map(|_| id_hash).collect();
                for id_hash in &ended {
                    rows.remove(id_hash);
                }
                rows.put(to, &record, replaces.into_iter().collect());
                Ok(Committed::Done { record, id_hash: to, ended })
            }
            Decision::Update { record, id_change: None } => {
                rows.replace(&id_hash, &record);
                Ok(Committed::Done { record, id_hash, ended: Vec::new() })
            }
            Decision::Update { record, id_change: Some(IdChange { left, presented }) } => {
                // Check before anything is changed: if the renewal fails, the old key works on.
                let to = left.successor;
                rows.check_free(&to)?;
                let mut replaced = rows.remove(&id_hash);
                if left.ends_graces() {
                    replaced.iter_mut().for_each(|id| *id = id.without_grace());
                }
                for id in [Some(left), presented].into_iter().flatten() {
                    replaced.retain(|old| old.id_hash != id.id_hash);
                    replaced.push(id);
                }
                let excess = replaced.len().saturating_sub(ReplacedId::MAX);
                rows.put(to, &record, replaced.split_off(excess));
                Ok(Committed::Done { record, id_hash: to, ended: vec![id_hash] })
            }
            Decision::Touch { record } => {
                rows.replace(&id_hash, &record);
                Ok(Committed::Unchanged { record, id_hash })
            }
            Decision::Remove => {
                rows.remove(&id_hash);
                Ok(Committed::Deleted { id_hash })
            }
        }
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        let mut rows = self.rows();
        for (id_hash, touch) in batch {
            // The record is read again under the lock: what a touch writes back is what is
            // stored now, never what some request has read before.
            if let (id_hash, Loaded::Live { mut record, .. }) = rows.find(id_hash, now)
                && record.touch(*touch)
            {
                rows.replace(&id_hash, &record);
            }
        }
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
        let mut rows = self.rows();
        // From here on it keeps others waiting; its own wait does not count.
        let began = Instant::now();
        let ended = rows.by_key.iter().filter(|(_, row)| row.deadline <= now);
        let ended: Vec<SessionIdHash> =
            ended.map(|(id_hash, _)| *id_hash).take(limit.get()).collect();
        for id_hash in &ended {
            rows.remove(id_hash);
        }
        Ok(SweepReport::new(ended.len(), began.elapsed()))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        // It has no index by user. Saying so is better than a list that may be incomplete.
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
    println!("the store keeps the laws");
    Ok(())
}
