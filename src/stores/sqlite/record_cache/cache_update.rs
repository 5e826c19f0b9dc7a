//! What one write transaction does to the record cache when it commits.
//!
//! Invariant: the entries are valid for the header of [`begin`](CacheUpdate::begin) until
//! [`publish`](CacheUpdate::publish) updates them under the lock of the cache, or a transaction
//! that fails empties it.

use crate::id::SessionIdHash;
use crate::record::Record;
use crate::stores::sqlite::record_cache::wal_index::HeaderChange;
use crate::stores::sqlite::record_cache::{CacheState, CachedSession, RecordCache, Trust};

/// The sessions that an open write transaction has changed.
#[derive(Debug)]
pub(crate) struct CacheUpdate<'c> {
    /// `None` without a cache, and at the end.
    cache: Option<&'c RecordCache>,
    /// The changed sessions in the order of their changes: as stored, or `None` to be removed.
    /// `None` without a cache, and if any session may have changed.
    changed: Option<Vec<(SessionIdHash, Option<CachedSession>)>>,
}

impl<'c> CacheUpdate<'c> {
    /// Begins an update without changes. Empties the cache if its entries are not valid for the
    /// header at this moment. The caller must hold the write lock of the database until it
    /// publishes or drops the update, so that no other connection commits.
    pub(crate) fn begin(cache: Option<&'c RecordCache>) -> Self {
        if let Some(cache) = cache {
            let before = cache.wal_index.read();
            let mut state = cache.state();
            state.has_open_transaction = true;
            if state.valid_for != before {
                CacheState::clear(state, before);
            }
        }
        CacheUpdate { cache, changed: cache.map(|_| Vec::new()) }
    }

    /// Returns the session as this transaction would read it; `None` if it must query the database.
    pub(crate) fn find(&self, id_hash: &SessionIdHash) -> Option<CachedSession> {
        let cache = self.cache?;
        let changed = self.changed.as_ref()?;
        if changed.iter().any(|(changed, _)| changed == id_hash) {
            return None;
        }
        cache.state().entries.get(id_hash).cloned()
    }

    /// Puts a session that was written completely, with its deadline, to the row `id`.
    pub(crate) fn put(&mut self, id_hash: SessionIdHash, id: i64, record: &Record) {
        if let Some(changed) = &mut self.changed {
            changed.push((id_hash, Some(CachedSession { id, record: record.clone() })));
        }
    }

    /// Removes a session. That is always correct: the next load queries the database.
    pub(crate) fn remove(&mut self, id_hash: SessionIdHash) {
        if let Some(changed) = &mut self.changed {
            changed.push((id_hash, None));
        }
    }

    pub(crate) fn remove_all(&mut self) {
        self.changed = None;
    }

    /// Removes the sessions that were put, because some of the changes were undone.
    pub(crate) fn forget_puts(&mut self) {
        self.changed.iter_mut().flatten().for_each(|(_, session)| *session = None);
    }

    /// Updates the cache after a commit, before the commit is acknowledged. `frames` is the number
    /// of frames in the log that SQLite has reported, `None` if it wrote none.
    pub(crate) fn publish(&mut self, frames: Option<u32>) {
        let Some(cache) = self.cache.take() else { return };
        let mut state = cache.state();
        // Read under the lock, so that no entry is added meanwhile.
        let after = cache.wal_index.read();
        let change = HeaderChange::between(state.valid_for, after, frames);
        state.has_open_transaction = false;
        state.trust = state.trust.after(change);
        let is_ours = matches!(change, HeaderChange::NothingWritten | HeaderChange::OurCommit);
        match self.changed.take() {
            Some(changed) if is_ours && state.trust == Trust::Proved => {
                state.valid_for = after;
                for (id_hash, session) in changed {
                    match session {
                        Some(session) => state.entries.put(id_hash, session),
                        None => state.entries.remove(&id_hash),
                    }
                }
            }
            _ => CacheState::clear(state, after),
        }
    }
}

impl Drop for CacheUpdate<'_> {
    /// Empties the cache if the transaction was not published: a commit that failed may have
    /// changed the database.
    fn drop(&mut self) {
        if let Some(cache) = self.cache.take() {
            let mut state = cache.state();
            state.has_open_transaction = false;
            CacheState::clear(state, None);
        }
    }
}
