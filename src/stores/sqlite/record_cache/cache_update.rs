//! What one write transaction does to the record cache when it commits.
//!
//! Invariant: the entries are valid for the header of [`begin`](CacheUpdate::begin) until
//! [`publish`](CacheUpdate::publish) updates them under the lock of the cache, or a transaction
//! that fails empties it.

use crate::id::SessionIdHash;
use crate::record::Record;
use crate::stores::sqlite::record_cache::wal_index::{Header, HeaderChange};
use crate::stores::sqlite::record_cache::{CacheState, CachedSession, RecordCache};

/// The sessions that an open write transaction has changed.
#[derive(Debug)]
pub(crate) struct CacheUpdate<'c> {
    /// The cache, and the header before the transaction; `None` without a cache, and at the end.
    cache: Option<(&'c RecordCache, Option<Header>)>,
    /// The changed sessions in the order of their changes: as stored, or `None` to be removed.
    changed: Vec<(SessionIdHash, Option<Box<CachedSession>>)>,
    /// Whether all sessions are to be removed, because any may have changed.
    removes_all: bool,
}

impl<'c> CacheUpdate<'c> {
    /// Begins without changes. The caller must hold the write lock of the database until the end,
    /// so that no other connection commits.
    pub(crate) fn begin(cache: Option<&'c RecordCache>) -> Self {
        let cache = cache.filter(|cache| !cache.is_disabled()).map(|cache| (cache, cache.begin()));
        CacheUpdate { cache, changed: Vec::new(), removes_all: false }
    }

    /// Returns the session as this transaction would read it; `None` if it must query the database.
    pub(crate) fn find(&self, id_hash: &SessionIdHash) -> Option<CachedSession> {
        let (cache, _) = self.cache?;
        if self.removes_all || self.changed.iter().any(|(changed, _)| changed == id_hash) {
            return None;
        }
        cache.state().entries.get(id_hash).cloned()
    }

    /// Puts a session that was written completely, with its deadline, to the row `id`.
    pub(crate) fn put(&mut self, id_hash: SessionIdHash, id: i64, record: &Record) {
        if self.cache.is_some() {
            let session = CachedSession { id, record: record.clone() };
            self.changed.push((id_hash, Some(Box::new(session))));
        }
    }

    /// Removes a session. That is always correct: the next load queries the database.
    pub(crate) fn remove(&mut self, id_hash: SessionIdHash) {
        if self.cache.is_some() {
            self.changed.push((id_hash, None));
        }
    }

    pub(crate) fn remove_all(&mut self) {
        self.removes_all = true;
    }

    /// Removes what was put, because some of the changes were undone.
    pub(crate) fn remove_put(&mut self) {
        self.changed.iter_mut().for_each(|(_, session)| *session = None);
    }

    /// Updates the cache after a commit, before the commit is acknowledged. `frames` is the number
    /// of frames in the log that SQLite has reported, `None` if it wrote none.
    pub(crate) fn publish(&mut self, frames: Option<u32>) {
        let Some((cache, before)) = self.cache.take() else { return };
        let mut state = cache.state();
        // Read under the lock, so that no entry is added meanwhile.
        let after = cache.wal_index.read();
        state.has_open_transaction = false;
        match HeaderChange::between(before.as_ref(), after.as_ref(), frames) {
            HeaderChange::NothingWritten => {}
            HeaderChange::OurCommit => state.is_verified = true,
            HeaderChange::Incoherent => {
                cache.disable();
                return CacheState::clear(state, None);
            }
            HeaderChange::Unknown => return CacheState::clear(state, None),
        }
        if self.removes_all || !state.is_verified {
            return CacheState::clear(state, after);
        }
        state.valid_for = after;
        for (id_hash, session) in self.changed.drain(..) {
            match session {
                Some(session) => state.entries.put(id_hash, *session),
                None => state.entries.remove(&id_hash),
            }
        }
    }
}

impl Drop for CacheUpdate<'_> {
    /// Empties the cache if the transaction was not published: a commit that failed may have
    /// changed the database.
    fn drop(&mut self) {
        if let Some((cache, _)) = self.cache.take() {
            let mut state = cache.state();
            state.has_open_transaction = false;
            CacheState::clear(state, None);
        }
    }
}
