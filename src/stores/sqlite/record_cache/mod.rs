//! Caches recently loaded or written sessions.
//!
//! Invariant: while the header of the wal-index is the one for which the entries are valid, a
//! lookup returns what a query would return. A commit of this process updates the entries and makes
//! them valid for the next header; a commit of another process invalidates all entries.

mod cache_update;
mod lru;
mod wal_index;

use std::path::Path;

use crate::clock::Timestamp;
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::sync::{IgnorePoison, Mutex, MutexGuard};
use lru::SessionLru;
use wal_index::{Header, HeaderChange, WalIndex};

pub(super) use cache_update::CacheUpdate;
pub(super) use lru::CachedSession;

/// The record cache of one store.
#[derive(Debug)]
pub(super) struct RecordCache {
    wal_index: WalIndex,
    state: Mutex<CacheState>,
}

/// The entries, and the header for which they are valid.
#[derive(Debug)]
struct CacheState {
    trust: Trust,
    /// The header for which the entries are valid. While this process has a transaction open, this
    /// stays the header from before it. A load that reads a newer header then misses, and leaves
    /// the entries in place.
    valid_for: Option<Header>,
    /// Whether this process has a transaction that has not updated the entries yet.
    has_open_transaction: bool,
    entries: SessionLru,
}

/// Whether the header that is read is the one that SQLite has written. It is read by a system call,
/// but SQLite writes it through a memory map of the same file, and a system may not keep the two
/// coherent. The cache has entries only while this is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// No commit of this process was seen to change the header as expected.
    Unproved,
    /// A commit was.
    Proved,
    /// A commit seemed to leave the header unchanged. This is permanent.
    Broken,
}

impl Trust {
    /// Returns the trust after a transaction of this process.
    fn after(self, change: HeaderChange) -> Self {
        match (self, change) {
            (Trust::Broken, _) | (_, HeaderChange::Incoherent) => Trust::Broken,
            (_, HeaderChange::OurCommit) => Trust::Proved,
            (trust, HeaderChange::NothingWritten | HeaderChange::Unknown) => trust,
        }
    }
}

/// A cache miss, with the header for which the entries were valid at that moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheMiss(Option<Header>);

impl RecordCache {
    /// Makes a cache for the database whose wal-index is at `path`, of up to about `budget` bytes.
    /// Returns `None` if the wal-index cannot be opened; then every load is a query.
    pub(super) fn new(path: &Path, budget: usize) -> Option<Self> {
        let wal_index = WalIndex::open(path).ok()?;
        let state = CacheState {
            trust: Trust::Unproved,
            valid_for: None,
            has_open_transaction: false,
            entries: SessionLru::new(budget),
        };
        Some(RecordCache { wal_index, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().ignore_poison()
    }

    /// Returns the session if it is cached and live at `now`. A miss says nothing about the
    /// session: the caller must query the database.
    pub(super) fn find(
        &self,
        id_hash: &SessionIdHash,
        now: Timestamp,
    ) -> Result<Record, CacheMiss> {
        const UNUSABLE: CacheMiss = CacheMiss(None);
        let header = self.wal_index.read().ok_or(UNUSABLE)?;
        let mut state = self.state();
        if state.trust != Trust::Proved {
            return Err(UNUSABLE);
        }
        if state.valid_for != Some(header) {
            if state.has_open_transaction {
                return Err(UNUSABLE);
            }
            // Read again under the lock: another thread may have read a newer header meanwhile.
            let header = self.wal_index.read().ok_or(UNUSABLE)?;
            if state.valid_for != Some(header) {
                CacheState::clear(state, Some(header));
                return Err(CacheMiss(Some(header)));
            }
        }
        let found = state.entries.get(id_hash).filter(|session| session.record.is_live(now));
        found.map(|session| session.record.clone()).ok_or(CacheMiss(state.valid_for))
    }

    /// Adds the result of a query that followed `miss`.
    ///
    /// Invariant: an entry is returned only for a header for which it is valid. The session is
    /// added only if the header of the entries has stayed the same since the miss. Then there are
    /// two cases:
    ///
    /// 1. The query has read the state of that header, for which the entry is valid.
    /// 2. The query has read the state of a newer commit. Before the entries are used for that
    ///    commit's header, [`CacheUpdate::publish`] updates them after a commit of this process,
    ///    and [`find`](Self::find) or [`CacheUpdate::begin`] removes them after a commit of another
    ///    process.
    pub(super) fn add(&self, miss: CacheMiss, id_hash: SessionIdHash, id: i64, record: &Record) {
        let Some(header) = miss.0 else { return };
        let session = CachedSession { id, record: record.clone() };
        let mut state = self.state();
        if state.valid_for == Some(header) {
            state.entries.put(id_hash, session);
        }
    }
}

impl CacheState {
    /// Removes all entries; later ones are valid for `valid_for`. Releases the lock before it drops
    /// the entries, because there may be many.
    fn clear(mut state: MutexGuard<'_, Self>, valid_for: Option<Header>) {
        state.valid_for = valid_for;
        let removed = state.entries.empty();
        drop(state);
        drop(removed);
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
    use crate::backend::{
        Action, Commit, CommitAnswer, Found, LiveSession, Loaded, Store, Unreadable,
    };
    use crate::data::Value;
    use crate::delta::Delta;
    use crate::error::{Error, ErrorKind};
    use crate::id::{Realm, SessionId, UserKey};
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

    fn is_cached(store: &SqliteStore, id_hash: &SessionIdHash) -> bool {
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
        let new_session = NewSession::new(Lifetime::default().limits_from(NOW)).unwrap();
        store.commit(&Commit::new(id_hash, Action::Create(new_session), setting(0), NOW)).unwrap();
    }

    fn create(store: &SqliteStore) -> SessionIdHash {
        let id_hash = unused_id();
        begin(store, &id_hash);
        id_hash
    }

    fn merge(store: &SqliteStore, id_hash: &SessionIdHash, value: u32) -> Record {
        match store.commit(&Commit::new(id_hash, Action::Merge, setting(value), NOW)).unwrap() {
            CommitAnswer::Done { session: LiveSession { record, .. }, .. } => record,
            other => panic!("{other:?}"),
        }
    }

    fn row(store: &SqliteStore, id_hash: &SessionIdHash) -> i64 {
        record_cache(store).state().entries.get(id_hash).unwrap().id
    }

    #[test]
    fn written_and_loaded_sessions_are_found_without_a_query() {
        let (folder, store) = store();
        let one = create(&store);
        let two = create(&store);
        assert!(is_cached(&store, &one) && is_cached(&store, &two));
        let written = merge(&store, &one, 1);
        assert_eq!(record_cache(&store).find(&one, NOW).unwrap(), written);
        let other = SqliteStore::open(folder.path().join("a.db")).unwrap();
        assert!(!is_cached(&other, &one), "it has not seen that the header changes");
        create(&other);
        assert!(!is_cached(&other, &one));
        other.load(&one, NOW).unwrap();
        assert_eq!(record_cache(&other).find(&one, NOW).unwrap(), written);
        assert!(!is_cached(&other, &two));
    }

    #[test]
    fn only_a_commit_of_another_process_invalidates_everything() {
        let (folder, store) = store();
        let one = create(&store);
        let two = create(&store);
        merge(&store, &one, 1);
        assert!(is_cached(&store, &two));
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        other.execute_batch("CREATE TABLE t (n)").unwrap();
        assert!(!is_cached(&store, &one) && !is_cached(&store, &two));
        for id_hash in [&one, &two] {
            store.load(id_hash, NOW).unwrap();
            assert!(is_cached(&store, id_hash));
        }
        other.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        create(&store);
        assert!(!is_cached(&store, &one), "the writer noticed it first");
    }

    #[test]
    fn a_slow_reader_adds_no_outdated_session() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        other.execute_batch("CREATE TABLE t (n)").unwrap();
        for by_another in [false, true] {
            let miss = record_cache(&store).find(&unused_id(), NOW).unwrap_err();
            let old = merge(&store, &id_hash, 1);
            let id = row(&store, &id_hash);
            let later_miss = record_cache(&store).find(&unused_id(), NOW).unwrap_err();
            if by_another {
                other.execute_batch("DELETE FROM cloakroom_sessions").unwrap()
            } else {
                store.commit(&Commit::new(&id_hash, Action::End, Delta::new(), NOW)).unwrap();
            }
            record_cache(&store).add(miss, id_hash, id, &old);
            record_cache(&store).add(later_miss, id_hash, id, &old);
            assert!(!is_cached(&store, &id_hash));
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
        let new_session = NewSession::new(Lifetime::default().limits_from(later)).unwrap();
        store.commit(&Commit::new(&long, Action::Create(new_session), setting(0), later)).unwrap();
        let just_before = ends - Duration::from_millis(1);
        assert_eq!(store.sweep(just_before, NonZeroUsize::MIN).unwrap().removed, 0);
        assert!(is_cached(&store, &short));
        assert_eq!(store.sweep(ends, NonZeroUsize::MIN).unwrap().removed, 1);
        assert!(is_cached(&store, &long) && !is_cached(&store, &short));
        assert!(matches!(
            store.load(&short, NOW).unwrap(),
            Loaded::Unreadable(Unreadable::NotFound { .. })
        ));
        let merged = store.commit(&Commit::new(&short, Action::Merge, setting(1), NOW)).unwrap();
        assert!(
            matches!(merged, CommitAnswer::Unreadable(Unreadable::NotFound { .. })),
            "{merged:?}"
        );
        assert!(is_cached(&store, &long));
    }

    #[test]
    fn a_transaction_does_not_find_what_it_has_swept() {
        let (_folder, store) = store();
        let id_hash = create(&store);
        let other = create(&store);
        let ends = record_cache(&store).find(&id_hash, NOW).unwrap().deadline();
        let swept = store.0.writer.write_unsynced("test", move |tx| {
            assert_eq!(tx.sweep(ends, 2)?.len(), 2);
            assert!(matches!(tx.find(id_hash, NOW)?, Found::NotFound));
            Err::<(), _>(Error::new(ErrorKind::Full, "test"))
        });
        assert_eq!(swept.unwrap_err().kind(), ErrorKind::Full);
        assert!(!is_cached(&store, &id_hash) && !is_cached(&store, &other));
        store.load(&id_hash, NOW).unwrap();
        assert!(is_cached(&store, &id_hash), "it was undone");
    }

    #[test]
    fn a_row_that_a_trigger_changes_makes_the_rest_unknown() {
        for (action, is_kept) in [("SELECT 1", true), ("UPDATE t SET n = n", false)] {
            let (folder, store) = store();
            let others = Connection::open(folder.path().join("a.db")).unwrap();
            let schema = "CREATE TABLE t (n); INSERT INTO t VALUES (1);
                CREATE TRIGGER one AFTER UPDATE ON cloakroom_sessions BEGIN";
            others.execute_batch(&format!("{schema} {action}; END")).unwrap();
            let one = create(&store);
            let two = create(&store);
            store.load(&two, NOW).unwrap();
            merge(&store, &one, 1);
            assert_eq!(is_cached(&store, &two), is_kept, "{action}");
        }
    }

    #[test]
    fn a_cached_session_is_not_found_at_its_deadline() {
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
        let id = row(&store, &id_hash);
        let record = record_cache(&store).find(&id_hash, NOW).unwrap();
        // Simulates a system whose file reads and memory maps are not coherent.
        let stale = folder.path().join("stale-shm");
        fs::copy(folder.path().join("a.db-shm"), &stale).unwrap();
        let record_cache = RecordCache::new(&stale, 1 << 20).unwrap();
        let commit = |frames: Option<u32>| {
            let mut update = CacheUpdate::begin(Some(&record_cache));
            update.put(id_hash, id, &record);
            update.publish(frames);
        };
        for frames in [None, Some(7), Some(8)] {
            commit(frames);
            let miss = record_cache.find(&id_hash, NOW).unwrap_err();
            record_cache.add(miss, id_hash, id, &record);
            assert!(record_cache.find(&id_hash, NOW).is_err());
            assert!(CacheUpdate::begin(Some(&record_cache)).find(&id_hash).is_none());
        }
        assert_eq!(record_cache.state().trust, Trust::Broken);
        fs::copy(folder.path().join("a.db-shm"), &stale).unwrap();
        commit(None);
        assert_eq!(record_cache.state().trust, Trust::Broken, "for good");
    }

    #[test]
    fn an_expected_change_of_the_header_proves_the_trust() {
        use HeaderChange::{Incoherent, NothingWritten, OurCommit, Unknown};
        use Trust::{Broken, Proved, Unproved};
        for (trust, after_each) in [
            (Unproved, [Unproved, Proved, Broken, Unproved]),
            (Proved, [Proved, Proved, Broken, Proved]),
            (Broken, [Broken; 4]),
        ] {
            let changes = [NothingWritten, OurCommit, Incoherent, Unknown];
            assert_eq!(changes.map(|change| trust.after(change)), after_each, "{trust:?}");
        }
    }

    #[test]
    fn a_failed_transaction_invalidates_the_cache() {
        let (_folder, store) = store();
        let one = create(&store);
        let two = create(&store);
        let record = merge(&store, &one, 1);
        let mut update = CacheUpdate::begin(Some(record_cache(&store)));
        assert!(update.find(&one).is_some());
        update.remove(one);
        assert!(update.find(&one).is_none(), "it must query the database");
        update.put(two, 1, &record);
        assert!(update.find(&two).is_none());
        drop(update);
        assert!(!is_cached(&store, &one) && !is_cached(&store, &two));
        assert!(!record_cache(&store).state().has_open_transaction);
    }

    #[test]
    fn two_commits_are_not_taken_for_one() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        for (commits, is_ours) in [(1, true), (2, false)] {
            merge(&store, &id_hash, commits);
            let mut update = CacheUpdate::begin(Some(record_cache(&store)));
            let mut frames = 0;
            for n in 0..commits {
                other.execute_batch(&format!("PRAGMA user_version = {}", n + commits)).unwrap();
                let log = "PRAGMA wal_checkpoint(PASSIVE)";
                frames = other.query_row(log, [], |row| row.get::<_, u32>(1)).unwrap();
            }
            update.publish(Some(frames));
            assert_eq!(is_cached(&store, &id_hash), is_ours, "{commits}");
        }
    }

    #[test]
    fn an_open_transaction_does_not_invalidate_the_cache() {
        let (_folder, store) = store();
        let one = create(&store);
        let two = create(&store);
        let mut update = CacheUpdate::begin(Some(record_cache(&store)));
        assert!(is_cached(&store, &one), "nothing has been committed yet");
        record_cache(&store).state().valid_for = None;
        assert!(!is_cached(&store, &one), "what was committed is not carried over yet");
        record_cache(&store).state().valid_for = record_cache(&store).wal_index.read();
        update.publish(None);
        assert!(is_cached(&store, &one) && is_cached(&store, &two));
    }

    #[test]
    fn a_sign_in_and_a_confirmed_authentication_are_cached() {
        let (_folder, store) = store();
        let before = create(&store);
        let to = unused_id();
        let user = UserKey::new("user").unwrap();
        let new_session = NewSession::new(Lifetime::default().limits_from(NOW)).unwrap();
        let sign_in = Action::SignIn { to, user, new_session, join_salt: None };
        let mut confirmed = Delta::new();
        confirmed.confirm_authentication(NOW, 2);
        for (id_hash, action, delta) in
            [(before, sign_in, setting(1)), (to, Action::Merge, confirmed)]
        {
            let answer = store.commit(&Commit::new(&id_hash, action, delta, NOW)).unwrap();
            let CommitAnswer::Done { session, .. } = answer else { panic!("{answer:?}") };
            assert_eq!(record_cache(&store).find(&to, NOW).unwrap(), session.record);
            assert!(!is_cached(&store, &before));
        }
    }

    #[test]
    fn a_failed_job_removes_what_it_has_put() {
        let (_folder, store) = store();
        let id_hash = create(&store);
        let other = create(&store);
        let before = record_cache(&store).find(&id_hash, NOW).unwrap();
        let failed = store.0.writer.write_unsynced("test", move |tx| {
            let found = tx.find(id_hash, NOW)?;
            let Found::Live { mut session, key } = found else { panic!("{found:?}") };
            session.record.revision += 1;
            tx.update_data(key, &session)?;
            Err::<(), _>(Error::new(ErrorKind::Full, "test"))
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Full);
        assert!(!is_cached(&store, &id_hash) && is_cached(&store, &other));
        store.load(&id_hash, NOW).unwrap();
        assert_eq!(record_cache(&store).find(&id_hash, NOW).unwrap(), before);
    }

    #[test]
    fn a_cached_row_that_is_gone_empties_the_cache() {
        for action in [Action::Merge, Action::End] {
            let (_folder, store) = store();
            let id_hash = create(&store);
            let other = create(&store);
            let record = record_cache(&store).find(&id_hash, NOW).unwrap();
            let wrong = CachedSession { id: 99, record };
            record_cache(&store).state().entries.put(id_hash, wrong);
            let commit = Commit::new(&id_hash, action, setting(1), NOW);
            let error = store.commit(&commit).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unexpected);
            assert!(!is_cached(&store, &id_hash) && !is_cached(&store, &other));
            store.commit(&commit).unwrap();
        }
    }

    #[test]
    fn work_on_the_connection_itself_empties_the_cache() {
        let (_folder, store) = store();
        let id_hash = create(&store);
        store.0.writer.write_unsynced("test", |tx| tx.with_connection(|_| Ok(()))).unwrap();
        assert!(!is_cached(&store, &id_hash));
    }
}
