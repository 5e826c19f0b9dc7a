//! Caches recently loaded or written sessions. An entry is valid as long as the database is known
//! not to have changed since.
//!
//! Validity is checked by the header of the wal-index, which changes with every commit; a lookup
//! costs one read of the header. While the header is the one for which the entries are valid, a
//! lookup returns what a query would return. A commit of this process applies its changes to the
//! entries and makes them valid for the next header. A commit of another process invalidates all
//! entries.
//!
//! The header is read by a system call, but SQLite writes it through a memory map of the same file.
//! If the system does not keep the two coherent, the cache must not be used. So it is used only
//! after a commit of this process was seen to change the header as expected, and never again after
//! a commit that seemed to leave the header unchanged.

mod clock_cache;
mod wal_index;

use std::path::Path;
use std::sync::PoisonError;

use crate::clock::Timestamp;
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::sync::{Mutex, MutexGuard};
use clock_cache::Slots;
use wal_index::{Header, Index};

pub(super) use clock_cache::Hot;

/// The record cache of one store.
#[derive(Debug)]
pub(super) struct RecordCache {
    index: Index,
    state: Mutex<CacheState>,
}

#[derive(Debug)]
struct CacheState {
    trust: Trust,
    /// The header for which the entries are valid.
    valid_for: Option<Header>,
    /// A commit of this process is under way. Until it has been applied, a new header does not
    /// invalidate the entries.
    committing: bool,
    slots: Slots,
}

/// Whether reads of the header have been seen to reflect commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Untested,
    Seen,
    Broken,
}

/// A cache miss, with the header for which the entries were valid at that moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed(Option<Header>);

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // they are few, and live for one transaction
enum Change {
    /// The session has this state now.
    Now(Hot),
    /// Only the last activity has changed.
    Seen(Timestamp),
    /// No row has this id any more.
    Gone,
}

impl RecordCache {
    /// A cache for the database whose wal-index is at `path`, of up to about `budget` bytes.
    /// Returns `None` if the wal-index cannot be opened; then every load is a query.
    pub(super) fn new(path: &Path, budget: usize) -> Option<Self> {
        let index = Index::open(path).ok()?;
        let state = CacheState {
            trust: Trust::Untested,
            valid_for: None,
            committing: false,
            slots: Slots::new(budget),
        };
        Some(RecordCache { index, state: Mutex::new(state) })
    }

    /// Locks the state. Callers that empty the cache declare a variable for the removed sessions
    /// before the guard, so that the sessions are dropped after the lock is released.
    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the session if it is cached and live at `now`. A miss says nothing about the
    /// session: the caller must query the database.
    pub(super) fn find(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Record, Missed> {
        let header = self.index.read().ok_or(Missed(None))?;
        let mut _forgotten = None;
        let mut state = self.state();
        if state.trust != Trust::Seen {
            return Err(Missed(None));
        }
        if state.valid_for != Some(header) {
            _forgotten = state.refresh(&self.index)?;
        }
        let found = state.slots.get(id_hash).filter(|session| session.record.is_live(now));
        found.map(|session| session.record.clone()).ok_or(Missed(state.valid_for))
    }

    /// Adds the result of a query that followed the miss `missed`.
    ///
    /// The query has seen the state of the database at the miss, or a later one. If the header of
    /// the entries is still the same, the session is valid for it. Or a newer commit is under way
    /// or unnoticed: then the entries are used again only after the commit has been applied,
    /// including any change of this session, or they are invalidated.
    pub(super) fn keep(&self, missed: Missed, id_hash: SessionIdHash, id: i64, record: &Record) {
        let Some(header) = missed.0 else { return };
        let session = Hot { id, record: record.clone() };
        let mut state = self.state();
        if state.valid_for == Some(header) {
            state.slots.put(id_hash, session);
        }
    }
}

impl CacheState {
    fn forget(&mut self, valid_for: Option<Header>) -> Slots {
        self.valid_for = valid_for;
        self.slots.empty()
    }

    /// Invalidates the entries unless they are valid for the current header.
    fn refresh(&mut self, index: &Index) -> Result<Option<Slots>, Missed> {
        if self.committing {
            return Err(Missed(None));
        }
        // Reads the header again under the lock: another thread may have read a newer one
        // meanwhile.
        let header = index.read().ok_or(Missed(None))?;
        Ok((self.valid_for != Some(header)).then(|| self.forget(Some(header))))
    }
}

/// The changes of a write transaction, to be applied to the cache when it commits.
#[derive(Debug)]
pub(super) struct Transaction<'t> {
    under_way: Option<UnderWay<'t>>,
    /// Any session may have changed.
    everything: bool,
    /// Changes by id hash, in their order.
    changes: Vec<(SessionIdHash, Change)>,
    /// The latest time of a sweep in this transaction. `swept_rows` is the number of rows removed.
    swept: Option<Timestamp>,
    swept_rows: u64,
    /// The number of changed rows of the table of replaced ids, which are not cached.
    replaced_rows: u64,
}

/// A savepoint: the numbers of changes recorded so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    changes: usize,
    swept_rows: u64,
    replaced_rows: u64,
}

#[derive(Debug)]
struct UnderWay<'t> {
    record_cache: &'t RecordCache,
    before: Option<Header>,
}

impl<'t> Transaction<'t> {
    /// Starts recording. The caller must hold the write lock of the database, so that no other
    /// commit comes between this and the end of the transaction.
    pub(super) fn begin(record_cache: Option<&'t RecordCache>) -> Self {
        let under_way = record_cache.map(|record_cache| {
            let before = record_cache.index.read();
            let mut _forgotten = None;
            let mut state = record_cache.state();
            _forgotten = (state.valid_for != before).then(|| state.forget(before));
            state.committing = true;
            UnderWay { record_cache, before }
        });
        Transaction {
            under_way,
            everything: false,
            changes: Vec::new(),
            swept: None,
            swept_rows: 0,
            replaced_rows: 0,
        }
    }

    /// Returns the session as this transaction would read it; `None` if it must query the database.
    pub(super) fn find(&self, id_hash: &SessionIdHash) -> Option<Hot> {
        let UnderWay { record_cache, .. } = self.under_way.as_ref()?;
        if self.everything || self.changes.iter().any(|(changed, _)| changed == id_hash) {
            return None;
        }
        let mut state = record_cache.state();
        state.slots.get(id_hash).filter(|session| !session.may_be_swept(self.swept)).cloned()
    }

    /// Records the new state of a session.
    pub(super) fn put(&mut self, id_hash: SessionIdHash, id: i64, record: &Record) {
        if self.under_way.is_some() {
            self.changes.push((id_hash, Change::Now(Hot { id, record: record.clone() })));
        }
    }

    /// Records the last activity of a session.
    pub(super) fn seen(&mut self, id_hash: SessionIdHash, seen: Timestamp) {
        self.changes.push((id_hash, Change::Seen(seen)));
    }

    /// Records that a row with this id was removed.
    pub(super) fn remove(&mut self, id_hash: SessionIdHash) {
        self.changes.push((id_hash, Change::Gone));
    }

    /// Records that a sweep at `now` has removed `rows` expired sessions.
    pub(super) fn swept(&mut self, now: Timestamp, rows: usize) {
        if rows > 0 {
            self.swept = self.swept.max(Some(now));
            self.swept_rows = self.swept_rows.saturating_add(rows as u64);
        }
    }

    /// Records the number of changed rows in the table of replaced ids.
    pub(super) fn changed_replaced(&mut self, rows: usize) {
        self.replaced_rows = self.replaced_rows.saturating_add(rows as u64);
    }

    /// Any session may have changed.
    pub(super) fn everything(&mut self) {
        self.everything = true;
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            changes: self.changes.len(),
            swept_rows: self.swept_rows,
            replaced_rows: self.replaced_rows,
        }
    }

    /// Compares the number of rows that SQLite has counted since `mark` with the number recorded.
    /// If they differ, a trigger has changed other rows, and any session may have changed.
    pub(super) fn compare(&mut self, mark: Mark, rows: u64) {
        let changes = self.changes.len().saturating_sub(mark.changes) as u64;
        let swept = self.swept_rows.saturating_sub(mark.swept_rows);
        let replaced = self.replaced_rows.saturating_sub(mark.replaced_rows);
        let recorded = changes.saturating_add(swept).saturating_add(replaced);
        self.everything |= recorded != rows;
    }

    /// Discards the changes recorded since `mark`. A recorded sweep time stays, which costs only
    /// additional queries.
    pub(super) fn undo(&mut self, mark: Mark) {
        self.changes.truncate(mark.changes);
        self.swept_rows = mark.swept_rows;
        self.replaced_rows = mark.replaced_rows;
    }

    /// Applies the changes to the cache after a commit. `frames` is the number of frames in the log
    /// that SQLite has reported, `None` if it wrote none. Must be called before the commit is
    /// acknowledged.
    pub(super) fn committed(mut self, frames: Option<u32>) {
        let Some(UnderWay { record_cache, before }) = self.under_way.take() else { return };
        let mut _forgotten = None;
        let mut state = record_cache.state();
        // Read under the lock: no entry is added meanwhile, and the entries added before are older.
        let after = record_cache.index.read();
        state.committing = false;
        let is_only_commit = match (&before, &after, frames) {
            (Some(before), Some(after), None) => before == after,
            (Some(before), Some(after), Some(frames)) => {
                let follows = after.follows(before, frames);
                state.trust = match state.trust {
                    _ if before == after => Trust::Broken,
                    Trust::Untested if follows => Trust::Seen,
                    trust => trust,
                };
                follows
            }
            _ => false,
        };
        if !is_only_commit || self.everything || state.trust != Trust::Seen {
            _forgotten = Some(state.forget(after.filter(|_| is_only_commit)));
        } else {
            state.valid_for = after;
            state.slots.sweep(self.swept);
            for (id_hash, change) in std::mem::take(&mut self.changes) {
                match change {
                    Change::Now(session) => state.slots.put(id_hash, session),
                    Change::Seen(seen) => state.slots.seen(&id_hash, seen),
                    Change::Gone => state.slots.remove(&id_hash),
                }
            }
        }
    }
}

impl Drop for Transaction<'_> {
    /// Invalidates the cache, because a failed commit may have changed the database.
    fn drop(&mut self) {
        if let Some(UnderWay { record_cache, .. }) = self.under_way.take() {
            let mut _forgotten = None;
            let mut state = record_cache.state();
            state.committing = false;
            _forgotten = Some(state.forget(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::backend::{Action, Commit, Committed, LiveSession, Lookup, Missing, Store};
    use crate::data::Value;
    use crate::delta::Delta;
    use crate::id::{Realm, SessionId};
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;
    use crate::stores::sqlite::SqliteStore;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn store() -> (TempDir, SqliteStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("a.db")).unwrap();
        (folder, store)
    }

    fn record_cache(store: &SqliteStore) -> &RecordCache {
        store.0.record_cache.as_deref().unwrap()
    }

    fn is_hot(store: &SqliteStore, id_hash: &SessionIdHash) -> bool {
        record_cache(store).find(id_hash, NOW).is_ok()
    }

    fn setting(value: u32) -> Delta {
        let mut delta = Delta::new();
        delta.set("n", Value::encode(&value).unwrap());
        delta
    }

    fn unused_id() -> SessionIdHash {
        SessionId::generate().unwrap().hash(Realm::default().tag())
    }

    fn begin(store: &SqliteStore, id_hash: &SessionIdHash) {
        let new_session = NewSession::new(Lifetime::default().starting(NOW)).unwrap();
        store.commit(&Commit::new(id_hash, Action::Create(new_session), setting(0), NOW)).unwrap();
    }

    fn create(store: &SqliteStore) -> SessionIdHash {
        let id_hash = unused_id();
        begin(store, &id_hash);
        id_hash
    }

    fn merge(store: &SqliteStore, id_hash: &SessionIdHash, value: u32) -> Record {
        match store.commit(&Commit::new(id_hash, Action::Merge, setting(value), NOW)).unwrap() {
            Committed::Done { session: LiveSession { record, .. }, .. } => record,
            other => panic!("{other:?}"),
        }
    }

    fn row(store: &SqliteStore, id_hash: &SessionIdHash) -> i64 {
        record_cache(store).state().slots.get(id_hash).unwrap().id
    }

    #[test]
    fn written_and_loaded_sessions_are_found_without_a_query() {
        let (folder, store) = store();
        let (one, two) = (create(&store), create(&store));
        assert!(is_hot(&store, &one) && is_hot(&store, &two));
        let written = merge(&store, &one, 1);
        assert_eq!(record_cache(&store).find(&one, NOW).unwrap(), written);
        let other = SqliteStore::open(folder.path().join("a.db")).unwrap();
        assert!(!is_hot(&other, &one), "it has not seen that the header changes");
        create(&other);
        assert!(!is_hot(&other, &one));
        other.load(&one, NOW).unwrap();
        assert_eq!(record_cache(&other).find(&one, NOW).unwrap(), written);
        assert!(!is_hot(&other, &two));
    }

    #[test]
    fn a_foreign_commit_invalidates_all_and_an_own_commit_nothing_else() {
        let (folder, store) = store();
        let (one, two) = (create(&store), create(&store));
        merge(&store, &one, 1);
        assert!(is_hot(&store, &two));
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        other.execute_batch("CREATE TABLE t (n)").unwrap();
        assert!(!is_hot(&store, &one) && !is_hot(&store, &two));
        for id_hash in [&one, &two] {
            store.load(id_hash, NOW).unwrap();
            assert!(is_hot(&store, id_hash));
        }
        other.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        create(&store);
        assert!(!is_hot(&store, &one), "the writer noticed it first");
    }

    #[test]
    fn a_slow_reader_adds_no_outdated_session() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        other.execute_batch("CREATE TABLE t (n)").unwrap();
        for by_another in [false, true] {
            let missed = record_cache(&store).find(&unused_id(), NOW).unwrap_err();
            let old = merge(&store, &id_hash, 1);
            let id = row(&store, &id_hash);
            let missed_later = record_cache(&store).find(&unused_id(), NOW).unwrap_err();
            match by_another {
                true => other.execute_batch("DELETE FROM cloakroom_sessions").unwrap(),
                false => {
                    store
                        .commit(&Commit::new(&id_hash, Action::Delete, Delta::new(), NOW))
                        .unwrap();
                }
            }
            record_cache(&store).keep(missed, id_hash, id, &old);
            record_cache(&store).keep(missed_later, id_hash, id, &old);
            assert!(!is_hot(&store, &id_hash));
            if by_another {
                return;
            }
            begin(&store, &id_hash);
        }
    }

    #[test]
    fn a_swept_session_stays_gone_when_the_clock_is_set_back() {
        let (_folder, store) = store();
        let short = create(&store);
        let ends = record_cache(&store).find(&short, NOW).unwrap().deadline();
        let later = NOW + Duration::from_secs(60);
        let long = unused_id();
        let new_session = NewSession::new(Lifetime::default().starting(later)).unwrap();
        store.commit(&Commit::new(&long, Action::Create(new_session), setting(0), later)).unwrap();
        let just_before = ends - Duration::from_millis(1);
        assert_eq!(store.sweep(just_before, NonZeroUsize::MIN).unwrap().removed, 0);
        assert!(is_hot(&store, &short));
        assert_eq!(store.sweep(ends, NonZeroUsize::MIN).unwrap().removed, 1);
        assert!(is_hot(&store, &long) && !is_hot(&store, &short));
        assert!(matches!(
            store.load(&short, NOW).unwrap(),
            Lookup::Missing(Missing::NotFound { .. })
        ));
        let merged = store.commit(&Commit::new(&short, Action::Merge, setting(1), NOW)).unwrap();
        assert!(matches!(merged, Committed::Missing(Missing::NotFound { .. })), "{merged:?}");
        assert!(is_hot(&store, &long));
    }

    #[test]
    fn a_transaction_does_not_find_what_it_has_swept() {
        let (_folder, store) = store();
        let id_hash = create(&store);
        let ends = record_cache(&store).find(&id_hash, NOW).unwrap().deadline();
        let mut transaction = Transaction::begin(Some(record_cache(&store)));
        transaction.swept(ends - Duration::from_millis(1), 1);
        assert!(transaction.find(&id_hash).is_some());
        let mark = transaction.mark();
        transaction.swept(ends, 2);
        assert!(transaction.find(&id_hash).is_none());
        transaction.compare(mark, 2);
        assert!(!transaction.everything);
        transaction.undo(mark);
        assert!(transaction.find(&id_hash).is_none(), "the sweep time stays");
        transaction.compare(mark, 1);
        assert!(transaction.everything, "a trigger has changed another row");
    }

    #[test]
    fn at_its_deadline_it_is_not_found() {
        let (_folder, store) = store();
        let id_hash = create(&store);
        let record = record_cache(&store).find(&id_hash, NOW).unwrap();
        let just_before = record.deadline() - Duration::from_millis(1);
        assert!(record_cache(&store).find(&id_hash, just_before).is_ok());
        assert!(record_cache(&store).find(&id_hash, record.deadline()).is_err());
    }

    #[test]
    fn an_incoherent_header_disables_the_cache() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let (id, record) =
            (row(&store, &id_hash), record_cache(&store).find(&id_hash, NOW).unwrap());
        // Simulates a system whose file reads and memory maps are not coherent.
        let stale = folder.path().join("stale-shm");
        fs::copy(folder.path().join("a.db-shm"), &stale).unwrap();
        let record_cache = RecordCache::new(&stale, 1 << 20).unwrap();
        let commit = |frames: Option<u32>| {
            let mut transaction = Transaction::begin(Some(&record_cache));
            transaction.put(id_hash, id, &record);
            transaction.committed(frames);
        };
        for frames in [None, Some(7), Some(8)] {
            commit(frames);
            let missed = record_cache.find(&id_hash, NOW).unwrap_err();
            record_cache.keep(missed, id_hash, id, &record);
            assert!(record_cache.find(&id_hash, NOW).is_err());
            assert!(Transaction::begin(Some(&record_cache)).find(&id_hash).is_none());
        }
        assert_eq!(record_cache.state().trust, Trust::Broken);
        fs::copy(folder.path().join("a.db-shm"), &stale).unwrap();
        commit(None);
        assert_eq!(record_cache.state().trust, Trust::Broken, "for good");
    }

    #[test]
    fn a_failed_transaction_invalidates_the_cache() {
        let (_folder, store) = store();
        let (one, two) = (create(&store), create(&store));
        let record = merge(&store, &one, 1);
        let mut transaction = Transaction::begin(Some(record_cache(&store)));
        assert!(transaction.find(&one).is_some());
        let mark = transaction.mark();
        transaction.remove(one);
        assert!(transaction.find(&one).is_none(), "it must query the database");
        transaction.undo(mark);
        assert!(transaction.find(&one).is_some());
        transaction.put(two, 1, &record);
        drop(transaction);
        assert!(!is_hot(&store, &one) && !is_hot(&store, &two));
        assert!(!record_cache(&store).state().committing);
    }

    #[test]
    fn two_commits_are_not_taken_for_one() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        for (commits, is_ours) in [(1, true), (2, false)] {
            merge(&store, &id_hash, commits);
            let transaction = Transaction::begin(Some(record_cache(&store)));
            let mut frames = 0;
            for n in 0..commits {
                other.execute_batch(&format!("PRAGMA user_version = {}", n + commits)).unwrap();
                let log = "PRAGMA wal_checkpoint(PASSIVE)";
                frames = other.query_row(log, [], |row| row.get::<_, u32>(1)).unwrap();
            }
            transaction.committed(Some(frames));
            assert_eq!(is_hot(&store, &id_hash), is_ours, "{commits}");
        }
    }

    #[test]
    fn a_commit_under_way_does_not_invalidate_the_cache() {
        let (_folder, store) = store();
        let (one, two) = (create(&store), create(&store));
        let transaction = Transaction::begin(Some(record_cache(&store)));
        assert!(is_hot(&store, &one), "nothing has been committed yet");
        record_cache(&store).state().valid_for = None;
        assert!(!is_hot(&store, &one), "what was committed is not carried over yet");
        record_cache(&store).state().valid_for = transaction.under_way.as_ref().unwrap().before;
        transaction.committed(None);
        assert!(is_hot(&store, &one) && is_hot(&store, &two));
    }
}
