//! Hot sessions: those loaded or written lately, kept as they are in the database, and believed as
//! long as the database is known not to have changed since.
//!
//! The shared memory that every process on the file maps has a header that changes with every
//! commit. To find a session here costs one read of that header. While it is the one for which the
//! kept sessions are known to be right, they are; a commit of this process carries them over to the
//! next header, with what it changed; after anybody else's commit all of them are forgotten. So
//! what is found here is what a query would have found.
//!
//! The header is read by a system call and written through a map of the same file. Where the
//! system does not keep these two in step, nothing may be believed: so nothing is, until one of
//! our own commits was seen to change the header as it should, and nothing ever again once one was
//! not.

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

/// The hot sessions of one store.
#[derive(Debug)]
pub(super) struct RecordCache {
    index: Index,
    state: Mutex<CacheState>,
}

#[derive(Debug)]
struct CacheState {
    trust: Trust,
    /// The state of the database for which the sessions are right.
    known: Option<Header>,
    /// A commit of this process is under way. Until it is carried over, a new header is nobody's
    /// reason to forget anything.
    committing: bool,
    slots: Slots,
}

/// Whether the header is seen to change with what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Untried,
    Seen,
    Broken,
}

/// The state in which a session was not found here, so that it can be kept once it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed(Option<Header>);

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // they are few, and live for one transaction
enum Change {
    /// The session is this from now on.
    Now(Hot),
    /// It was last seen then.
    Seen(Timestamp),
    /// No row has this key any more.
    Gone,
}

impl RecordCache {
    /// Of the database whose shared memory is at `path`, with up to about `budget` bytes. `None`
    /// where that is not to be had: then every load is a query.
    pub(super) fn new(path: &Path, budget: usize) -> Option<Self> {
        let index = Index::open(path).ok()?;
        let state = CacheState {
            trust: Trust::Untried,
            known: None,
            committing: false,
            slots: Slots::new(budget),
        };
        Some(RecordCache { index, state: Mutex::new(state) })
    }

    /// Locked. Where sessions are forgotten, a variable for them is declared before the one for
    /// this: so they are let go of, which takes a while, after the lock.
    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session under `id_hash`, if it is kept and live at `now`. Nothing is known of the others:
    /// they must be read from the database.
    pub(super) fn find(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Record, Missed> {
        let header = self.index.read().ok_or(Missed(None))?;
        let mut _forgotten = None;
        let mut state = self.state();
        if state.trust != Trust::Seen {
            return Err(Missed(None));
        }
        if state.known != Some(header) {
            _forgotten = state.turn_to(&self.index)?;
        }
        let found =
            state.slots.get(id_hash).filter(|record_cache| record_cache.record.is_live(now));
        found.map(|record_cache| record_cache.record.clone()).ok_or(Missed(state.known))
    }

    /// Keeps what a query has found under `id_hash` since it was missed.
    ///
    /// The query has seen the database as it was then, or later. If what is known has not moved
    /// since, the session is right for it; or there is a newer commit, after which the sessions
    /// are believed only once it is carried over, with this one in it if it was changed, or they
    /// are forgotten.
    pub(super) fn keep(&self, missed: Missed, id_hash: SessionIdHash, id: i64, record: &Record) {
        let Some(header) = missed.0 else { return };
        let record_cache = Hot { id, record: record.clone() };
        let mut state = self.state();
        if state.known == Some(header) {
            state.slots.put(id_hash, record_cache);
        }
    }
}

impl CacheState {
    fn forget(&mut self, known: Option<Header>) -> Slots {
        self.known = known;
        self.slots.empty()
    }

    /// Forgets what is not right for the database as it is now.
    fn turn_to(&mut self, index: &Index) -> Result<Option<Slots>, Missed> {
        if self.committing {
            return Err(Missed(None));
        }
        // Once more, now that nobody else is at it: another thread may have come here later and
        // read a newer one.
        let header = index.read().ok_or(Missed(None))?;
        Ok((self.known != Some(header)).then(|| self.forget(Some(header))))
    }
}

/// A transaction that writes, and what it changes for those who load sessions.
#[derive(Debug)]
pub(super) struct Transaction<'t> {
    under_way: Option<UnderWay<'t>>,
    /// Any session may have changed.
    everything: bool,
    /// By key, in their order.
    changes: Vec<(SessionIdHash, Change)>,
    /// By when the deadline had passed of those that were swept, and how many they are.
    swept: Option<Timestamp>,
    swept_rows: u64,
    /// How many rows of the table of replaced keys it changed, of which no session is kept here.
    replaced_rows: u64,
}

/// How much a transaction was told until now.
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
    /// To be called within the transaction: nobody else's commit can come between this and its end.
    pub(super) fn begin(record_cache: Option<&'t RecordCache>) -> Self {
        let under_way = record_cache.map(|record_cache| {
            let before = record_cache.index.read();
            let mut _forgotten = None;
            let mut state = record_cache.state();
            _forgotten = (state.known != before).then(|| state.forget(before));
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

    /// The session under `id_hash`, as this transaction would find it; `None` if it has to look.
    pub(super) fn find(&self, id_hash: &SessionIdHash) -> Option<Hot> {
        let UnderWay { record_cache, .. } = self.under_way.as_ref()?;
        if self.everything || self.changes.iter().any(|(changed, _)| changed == id_hash) {
            return None;
        }
        let mut state = record_cache.state();
        state
            .slots
            .get(id_hash)
            .filter(|record_cache| !record_cache.may_be_swept(self.swept))
            .cloned()
    }

    /// The session is this from now on.
    pub(super) fn put(&mut self, id_hash: SessionIdHash, id: i64, record: &Record) {
        if self.under_way.is_some() {
            self.changes.push((id_hash, Change::Now(Hot { id, record: record.clone() })));
        }
    }

    /// The session was last seen at `seen`.
    pub(super) fn seen(&mut self, id_hash: SessionIdHash, seen: Timestamp) {
        self.changes.push((id_hash, Change::Seen(seen)));
    }

    /// No row has this key any more.
    pub(super) fn remove(&mut self, id_hash: SessionIdHash) {
        self.changes.push((id_hash, Change::Gone));
    }

    /// So many sessions are gone whose deadline had passed at `now`.
    pub(super) fn swept(&mut self, now: Timestamp, rows: usize) {
        if rows > 0 {
            self.swept = self.swept.max(Some(now));
            self.swept_rows = self.swept_rows.saturating_add(rows as u64);
        }
    }

    /// So many rows of the table of replaced keys have changed.
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

    /// SQLite has counted so many changed rows since `mark`. If they are not as many as it was
    /// told, somebody's trigger has changed others.
    pub(super) fn compare(&mut self, mark: Mark, rows: u64) {
        let changes = self.changes.len().saturating_sub(mark.changes) as u64;
        let swept = self.swept_rows.saturating_sub(mark.swept_rows);
        let replaced = self.replaced_rows.saturating_sub(mark.replaced_rows);
        let told = changes.saturating_add(swept).saturating_add(replaced);
        self.everything |= told != rows;
    }

    /// What was changed since `mark` was not, after all. That something was swept is believed on:
    /// then those sessions are looked up once more.
    pub(super) fn undo(&mut self, mark: Mark) {
        self.changes.truncate(mark.changes);
        self.swept_rows = mark.swept_rows;
        self.replaced_rows = mark.replaced_rows;
    }

    /// Carries the sessions over to what the commit has made of the database. `frames` is how long
    /// SQLite said that the log was after it, if it wrote at all. To be called before the commit is
    /// acknowledged.
    pub(super) fn committed(mut self, frames: Option<u32>) {
        let Some(UnderWay { record_cache, before }) = self.under_way.take() else { return };
        let mut _forgotten = None;
        let mut state = record_cache.state();
        // Read while nobody can keep anything: what was kept before is from before this.
        let after = record_cache.index.read();
        state.committing = false;
        let alone = match (&before, &after, frames) {
            (Some(before), Some(after), None) => before == after,
            (Some(before), Some(after), Some(frames)) => {
                let follows = after.follows(before, frames);
                state.trust = match state.trust {
                    _ if before == after => Trust::Broken,
                    Trust::Untried if follows => Trust::Seen,
                    trust => trust,
                };
                follows
            }
            _ => false,
        };
        if !alone || self.everything || state.trust != Trust::Seen {
            _forgotten = Some(state.forget(after.filter(|_| alone)));
        } else {
            state.known = after;
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
    /// Whether a commit that failed has changed anything is not known.
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

    fn nowhere() -> SessionIdHash {
        SessionId::generate().unwrap().hash(Realm::default().tag())
    }

    fn begin(store: &SqliteStore, id_hash: &SessionIdHash) {
        let new_session = NewSession::new(Lifetime::default().starting(NOW)).unwrap();
        store.commit(&Commit::new(id_hash, Action::Create(new_session), setting(0), NOW)).unwrap();
    }

    fn create(store: &SqliteStore) -> SessionIdHash {
        let id_hash = nowhere();
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
    fn what_was_written_or_loaded_is_found_without_a_query_as_it_is_in_the_database() {
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
    fn after_anybody_elses_commit_everything_is_forgotten_and_after_ones_own_nothing_else() {
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
        assert!(!is_hot(&store, &one), "the writer was the first to notice");
    }

    #[test]
    fn a_slow_reader_keeps_nothing_that_was_changed_meanwhile() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let other = Connection::open(folder.path().join("a.db")).unwrap();
        other.execute_batch("CREATE TABLE t (n)").unwrap();
        for by_another in [false, true] {
            let missed = record_cache(&store).find(&nowhere(), NOW).unwrap_err();
            let old = merge(&store, &id_hash, 1);
            let id = row(&store, &id_hash);
            let missed_later = record_cache(&store).find(&nowhere(), NOW).unwrap_err();
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
    fn who_outlives_a_sweep_stays_hot_and_who_was_swept_does_not_come_back_with_the_clock() {
        let (_folder, store) = store();
        let short = create(&store);
        let ends = record_cache(&store).find(&short, NOW).unwrap().deadline();
        let later = NOW + Duration::from_secs(60);
        let long = nowhere();
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
    fn within_the_transaction_that_sweeps_the_swept_are_not_found_either() {
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
        assert!(transaction.find(&id_hash).is_none(), "it is looked up once more");
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
    fn where_the_header_is_not_seen_to_change_nothing_is_believed() {
        let (folder, store) = store();
        let id_hash = create(&store);
        let (id, record) =
            (row(&store, &id_hash), record_cache(&store).find(&id_hash, NOW).unwrap());
        // A system that answers reads of the file from another place than the map.
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
    fn a_transaction_that_fails_leaves_nothing_to_be_believed() {
        let (_folder, store) = store();
        let (one, two) = (create(&store), create(&store));
        let record = merge(&store, &one, 1);
        let mut transaction = Transaction::begin(Some(record_cache(&store)));
        assert!(transaction.find(&one).is_some());
        let mark = transaction.mark();
        transaction.remove(one);
        assert!(transaction.find(&one).is_none(), "it has to look");
        transaction.undo(mark);
        assert!(transaction.find(&one).is_some());
        transaction.put(two, 1, &record);
        drop(transaction);
        assert!(!is_hot(&store, &one) && !is_hot(&store, &two));
        assert!(!record_cache(&store).state().committing);
    }

    #[test]
    fn a_commit_of_anybody_else_right_after_ones_own_is_not_taken_for_it() {
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
    fn while_a_commit_is_under_way_a_new_header_is_no_reason_to_forget() {
        let (_folder, store) = store();
        let (one, two) = (create(&store), create(&store));
        let transaction = Transaction::begin(Some(record_cache(&store)));
        assert!(is_hot(&store, &one), "nothing has been committed yet");
        record_cache(&store).state().known = None;
        assert!(!is_hot(&store, &one), "what was committed is not carried over yet");
        record_cache(&store).state().known = transaction.under_way.as_ref().unwrap().before;
        transaction.committed(None);
        assert!(is_hot(&store, &one) && is_hot(&store, &two));
    }
}
