//! A back-end of one's own: a map behind a lock, which holds every session as one JSON text. It
//! shows what any other place (a folder, a key-value server) has to do.
//!
//! `cargo run --example own_store --features conformance` runs the checks of every law on it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cloakroom::clock::Timestamp;
use cloakroom::id::SessionKey;
use cloakroom::record::{Record, Touch};
use cloakroom::store::{
    Commit, Committed, Decision, Loaded, Registry, Rekey, ReplacedId, ReplacedIdStatus, Store,
    Swept, Traits, Upkeep,
};
use cloakroom::{Error, ErrorKind, Result, conformance};

#[derive(Debug, Default)]
struct OwnStore(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    by_key: HashMap<SessionKey, Row>,
    /// The keys that a session had lead to the one it has now. Without this a request under way
    /// could not be told from one whose session is gone, and a sign-out through an old key would
    /// end nothing.
    by_replaced: HashMap<SessionKey, SessionKey>,
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
    /// The current key of the session that `key` may lead to, and what is found there.
    fn find(&self, key: &SessionKey, now: Timestamp) -> (SessionKey, Loaded) {
        let current = *self.by_replaced.get(key).unwrap_or(key);
        // A session ends at its deadline, whether or not a sweep came by.
        let Some(row) = self.by_key.get(&current).filter(|row| now < row.deadline) else {
            return (current, Loaded::Absent);
        };
        // What does not decode stays: an older version of the program may be able to read it.
        let record = match Record::from_json(&row.json) {
            Ok(record) => record,
            Err(error) => return (current, Loaded::Undecodable { handle: None, error }),
        };
        let loaded = match row.replaced.iter().find(|id| id.key == *key) {
            None => Loaded::Live { record, key: current },
            Some(id) => match id.status(now) {
                ReplacedIdStatus::InGrace => Loaded::Live { record, key: current },
                ReplacedIdStatus::Remembered => Loaded::Replaced { id: *id, record, key: current },
                ReplacedIdStatus::Forgotten => return (*key, Loaded::Absent),
            },
        };
        (current, loaded)
    }

    fn put(&mut self, key: SessionKey, record: &Record, replaced: Vec<ReplacedId>) {
        for id in &replaced {
            self.by_replaced.insert(id.key, key);
        }
        let row = Row { json: record.to_json(), deadline: record.deadline(), replaced };
        self.by_key.insert(key, row);
    }

    /// The row keeps its place, and the key it had before.
    fn replace(&mut self, key: &SessionKey, record: &Record) {
        if let Some(row) = self.by_key.get_mut(key) {
            row.json = record.to_json();
            row.deadline = record.deadline();
        }
    }

    /// Gives the keys that the session had.
    fn remove(&mut self, key: &SessionKey) -> Vec<ReplacedId> {
        let replaced = self.by_key.remove(key).map(|row| row.replaced).unwrap_or_default();
        for id in &replaced {
            self.by_replaced.remove(&id.key);
        }
        replaced
    }

    /// A new key must never lead to two sessions, and an old one never lead anywhere again.
    fn check_free(&self, key: &SessionKey) -> Result<()> {
        match self.by_key.contains_key(key) || self.by_replaced.contains_key(key) {
            true => Err(Error::new(ErrorKind::Conflict, "give a session its new key")),
            false => Ok(()),
        }
    }
}

impl Store for OwnStore {
    fn load(&self, key: &SessionKey, now: Timestamp) -> Result<Loaded> {
        Ok(self.rows().find(key, now).1)
    }

    fn try_load(&self, key: &SessionKey, now: Timestamp) -> Option<Loaded> {
        // Nobody waits long for a lock that is only held for moments.
        self.load(key, now).ok()
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        // One lock from the look to the write is what makes the commit atomic. In a database it
        // is a transaction, on a server without one a compare-and-swap that is tried again.
        let mut rows = self.rows();
        let (key, found) = rows.find(commit.key, commit.now);
        // One that has expired is as good as gone. A write that has waited since before its deadline
        // could make it live again, and some commits say that it shall not.
        if matches!(found, Loaded::Absent) && commit.removes_expired() {
            rows.remove(&key);
        }
        // What a commit means is decided once for all stores; a store only carries it out.
        match commit.decide(found)? {
            Decision::Answer(answer) => Ok(answer),
            Decision::Insert { key: to, record, replaces } => {
                rows.check_free(&to)?;
                // The session that was found goes, with all keys that it had.
                let ended: Vec<_> = replaces.iter().map(|_| key).collect();
                for key in &ended {
                    rows.remove(key);
                }
                rows.put(to, &record, replaces.into_iter().collect());
                Ok(Committed::Done { record, key: to, ended })
            }
            Decision::Update { record, rekey: None } => {
                rows.replace(&key, &record);
                Ok(Committed::Done { record, key, ended: Vec::new() })
            }
            Decision::Update { record, rekey: Some(Rekey { left, presented }) } => {
                // Check before anything is changed: if the renewal fails, the old key works on.
                let to = left.successor;
                rows.check_free(&to)?;
                let mut replaced = rows.remove(&key);
                if left.ends_graces() {
                    replaced.iter_mut().for_each(|id| *id = id.without_grace());
                }
                for id in [Some(left), presented].into_iter().flatten() {
                    replaced.retain(|old| old.key != id.key);
                    replaced.push(id);
                }
                let excess = replaced.len().saturating_sub(ReplacedId::MAX);
                rows.put(to, &record, replaced.split_off(excess));
                Ok(Committed::Done { record, key: to, ended: vec![key] })
            }
            Decision::Touch { record } => {
                rows.replace(&key, &record);
                Ok(Committed::Unchanged { record, key })
            }
            Decision::Remove => {
                rows.remove(&key);
                Ok(Committed::Deleted { key })
            }
        }
    }

    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        let mut rows = self.rows();
        for (key, touch) in batch {
            // The record is read again under the lock: what a touch writes back is what is
            // stored now, never what some request has read before.
            if let (key, Loaded::Live { mut record, .. }) = rows.find(key, now)
                && record.touch(*touch)
            {
                rows.replace(&key, &record);
            }
        }
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<Swept> {
        let mut rows = self.rows();
        // From here on it keeps others waiting; its own wait does not count.
        let began = Instant::now();
        let ended = rows.by_key.iter().filter(|(_, row)| row.deadline <= now);
        let ended: Vec<SessionKey> = ended.map(|(key, _)| *key).take(limit.get()).collect();
        for key in &ended {
            rows.remove(key);
        }
        Ok(Swept::new(ended.len(), began.elapsed()))
    }

    fn registry(&self) -> Option<&dyn Registry> {
        // It has no index by user. Saying so is better than a list that may be incomplete.
        None
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        None
    }

    fn traits(&self) -> Traits {
        Traits::new()
    }
}

fn main() -> Result<(), conformance::Failures> {
    conformance::check(OwnStore::default)?;
    println!("the store keeps the laws");
    Ok(())
}
