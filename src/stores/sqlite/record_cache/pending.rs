//! The effects of one write transaction on the record cache, applied when it commits.
//!
//! Invariant: the entries are valid for the header of [`begin`](PendingEffects::begin) until
//! [`publish`](PendingEffects::publish) applies all effects under the lock of the cache, or a
//! transaction that fails, or changes a row without an effect, empties it.

use crate::clock::Timestamp;
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::stores::sqlite::record_cache::wal_index::Header;
use crate::stores::sqlite::record_cache::{CacheState, CachedSession, RecordCache};

/// What a statement that was executed has done to the sessions.
#[derive(Debug)]
pub(crate) enum Effect<'e> {
    /// The session in this row has this id and record now, and the deadline column agrees.
    Put(i64, SessionIdHash, &'e Record),
    /// The session's last activity has changed, and its deadline accordingly.
    Seen(SessionIdHash, Timestamp),
    /// No row has this id any more, or its row must be read again.
    Forget(SessionIdHash),
    /// Only rows of tables other than that of the sessions have changed.
    OtherTable,
    /// Any session may have changed.
    Unknown,
}

impl Effect<'_> {
    /// Returns whether the statement must have changed exactly one row, because it names a row that
    /// was found before in the same transaction.
    pub(crate) fn is_of_one_row(&self) -> bool {
        matches!(self, Effect::Put(..) | Effect::Seen(..) | Effect::Forget(_))
    }
}

/// What a commit does to one entry of the cache.
#[derive(Debug)]
enum RecordChange {
    Put(Box<CachedSession>),
    Seen(Timestamp),
    Forget,
}

/// The effects of an open transaction.
#[derive(Debug)]
pub(crate) struct PendingEffects<'c> {
    /// The cache, and the header before the transaction; `None` without a cache, and at the end.
    cache: Option<(&'c RecordCache, Option<Header>)>,
    /// Whether any session may have changed.
    is_unknown: bool,
    /// Changes by id hash, in their order.
    changes: Vec<(SessionIdHash, RecordChange)>,
    /// The number of changed rows that the effects explain.
    rows: u64,
}

/// A savepoint: the effects recorded before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    changes: usize,
    rows: u64,
}

impl<'c> PendingEffects<'c> {
    /// Starts recording. The caller must hold the write lock of the database until the end, so that
    /// no other connection commits.
    pub(crate) fn begin(cache: Option<&'c RecordCache>) -> Self {
        let cache = cache.filter(|cache| !cache.is_disabled()).map(|cache| (cache, cache.begin()));
        PendingEffects { cache, is_unknown: false, changes: Vec::new(), rows: 0 }
    }

    /// Returns the session as this transaction would read it; `None` if it must query the database.
    pub(crate) fn find(&self, id_hash: &SessionIdHash) -> Option<CachedSession> {
        let (cache, _) = self.cache?;
        if self.is_unknown || self.changes.iter().any(|(changed, _)| changed == id_hash) {
            return None;
        }
        cache.state().entries.get(id_hash).cloned()
    }

    /// Records the effect of a statement that changed `rows` rows.
    pub(crate) fn record(&mut self, effect: Effect<'_>, rows: usize) {
        if self.cache.is_none() {
            return;
        }
        self.rows = self.rows.saturating_add(rows as u64);
        match effect {
            Effect::Put(id, id_hash, record) => {
                let session = CachedSession { id, record: record.clone() };
                self.changes.push((id_hash, RecordChange::Put(Box::new(session))));
            }
            Effect::Seen(id_hash, seen) => self.changes.push((id_hash, RecordChange::Seen(seen))),
            Effect::Forget(id_hash) => self.changes.push((id_hash, RecordChange::Forget)),
            Effect::OtherTable => {}
            Effect::Unknown => self.is_unknown = true,
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { changes: self.changes.len(), rows: self.rows }
    }

    /// Compares the number of rows that SQLite has counted since `mark` with the number explained.
    /// If they differ, a trigger has changed other rows, and any session may have changed.
    pub(crate) fn compare(&mut self, mark: Mark, rows: u64) {
        self.is_unknown |= self.rows.saturating_sub(mark.rows) != rows;
    }

    /// Discards the effects since `mark`. [`Effect::Unknown`] stays, which costs only additional
    /// queries.
    pub(crate) fn undo(&mut self, mark: Mark) {
        self.changes.truncate(mark.changes);
        self.rows = mark.rows;
    }

    /// Applies the effects to the cache after a commit, before the commit is acknowledged. `frames`
    /// is the number of frames in the log that SQLite has reported, `None` if it wrote none.
    pub(crate) fn publish(&mut self, frames: Option<u32>) {
        let Some((cache, before)) = self.cache.take() else { return };
        let mut state = cache.state();
        // Read under the lock: no entry is added meanwhile, and the entries added before are
        // older.
        let after = cache.wal_index.read();
        state.has_open_transaction = false;
        let is_only_commit = match (&before, &after, frames) {
            (Some(before), Some(after), None) => before == after,
            (Some(before), Some(after), Some(frames)) => {
                let follows = after.follows(before, frames);
                if before == after {
                    cache.disable();
                } else {
                    state.is_verified |= follows;
                }
                follows
            }
            _ => false,
        };
        let is_usable = state.is_verified && !cache.is_disabled();
        if !is_only_commit || self.is_unknown || !is_usable {
            return CacheState::clear(state, after.filter(|_| is_only_commit));
        }
        state.valid_for = after;
        for (id_hash, change) in self.changes.drain(..) {
            match change {
                RecordChange::Put(session) => state.entries.put(id_hash, *session),
                RecordChange::Seen(seen) => state.entries.seen(&id_hash, seen),
                RecordChange::Forget => state.entries.remove(&id_hash),
            }
        }
    }
}

impl Drop for PendingEffects<'_> {
    /// Empties the cache if the effects were not published: a commit that failed may have changed
    /// the database.
    fn drop(&mut self) {
        if let Some((cache, _)) = self.cache.take() {
            let mut state = cache.state();
            state.has_open_transaction = false;
            CacheState::clear(state, None);
        }
    }
}
