//! Calls for operators' tools: they find, count, end, sweep, check and copy the sessions of an open
//! SQLite or PostgreSQL store. The command line `cloakroom` is made of them, and so can be a
//! maintenance program of your own, which needs no manager:
//!
//! ```
//! use cloakroom::clock::{Clock, SystemClock};
//! use cloakroom::list::SessionFilter;
//! use cloakroom::stores::admin::Admin;
//! use cloakroom::{SqliteStore, UserKey};
//!
//! /// Signs a user out of all applications that use the store.
//! fn sign_out(store: &SqliteStore, user: &UserKey) -> cloakroom::Result<u64> {
//!     store.revoke(&SessionFilter::User(user), None, SystemClock.now())
//! }
//! # assert_eq!(sign_out(&SqliteStore::in_memory()?, &UserKey::new("1")?)?, 0);
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! An application that serves requests calls its [manager](crate::SessionManager) instead, which
//! acts on its own realm only, and raises events.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::thread;
use std::time::Instant;

use crate::backend::{SessionIndex, Store};
use crate::batch_pacer::BatchPacer;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{PublicId, Realm};
use crate::list::{Page, SessionFilter, Summary};
use crate::record::Record;
use crate::stores::copy::{CopyBatch, CopyMark, StoredPage};

/// Operators' calls on an open store, for tools such as the command line `cloakroom`. They see the
/// sessions of all realms. On PostgreSQL those that read or end all sessions may take twelve times
/// the call timeout.
///
/// It is for callers, not for authors of stores, and may get more methods in a minor version. The
/// calls on a file are methods of [`SqliteFile`](crate::stores::sqlite::SqliteFile); those on a
/// server, of [`PostgresStoreBuilder`](crate::stores::postgres::PostgresStoreBuilder).
///
/// # Errors
/// Those of [`Store`]; further kinds are documented at the call.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use cloakroom::SqliteStore;
/// use cloakroom::stores::admin::Admin;
///
/// let store = SqliteStore::in_memory()?;
/// // Reads all sessions; a tool would stop at Ctrl-C.
/// let scanned = store.scan(Box::new(|progress| {
///     eprintln!("{} of {}", progress.done, progress.total);
///     ControlFlow::Continue(())
/// }))?;
/// if let ControlFlow::Continue(report) = scanned {
///     println!("{} sessions, {} do not decode", report.sessions, report.undecodable);
/// }
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Admin: Store {
    /// Returns the index of the sessions, which [`Store::index`] returns too.
    fn session_index(&self) -> &dyn SessionIndex;

    /// Returns the name of the sessions table.
    fn table(&self) -> &str;

    /// Returns the table and its place for messages, such as `table cloakroom_sessions in app.db`.
    fn description(&self) -> String;

    /// Lists expired sessions that were not swept yet, the newest first.
    fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>>;

    /// Returns the session with this public id, expired or not, with its data. SQLite has no index
    /// of the public ids of anonymous sessions, so finding one reads all of them.
    fn find(&self, public_id: &PublicId) -> Result<Option<SessionDetails>>;

    /// Returns the realms that have sessions, expired ones included, sorted by name. Reads the
    /// whole table: in SQLite 0.3 s for 1,000,000 sessions in the page cache.
    fn realms(&self) -> Result<Vec<Realm>>;

    /// Returns the number of live sessions of a realm. Reads the whole table, as
    /// [`realms`](Self::realms) does.
    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64>;

    /// Counts the live sessions by the period of their creation, and measures their data. `times`
    /// are the beginnings of the periods, in ascending order; each ends where the next begins.
    /// Reads the whole table: in SQLite 0.5 s for 1,000,000 sessions in the page cache.
    fn counts(&self, times: &[Timestamp], now: Timestamp) -> Result<SessionCounts>;

    /// Ends the sessions that match `filter`, except the one of the public id `except`, and returns
    /// the number of those that were live. Raises the store's epoch: a service with a
    /// [`CachedStore`](crate::stores::cached::CachedStore) stops using its cache entries within a
    /// second.
    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<u64>;

    /// Removes at most `limit` sessions that had expired at `now`, and returns their number. Works
    /// in batches, as the cleaner of a manager does: after each batch `progress` runs, and the call
    /// pauses for as long as the batch blocked other writers. At the end it does the
    /// [`maintenance`](Store::maintenance) of the store.
    ///
    /// If `progress` cancels it, the sessions removed so far stay removed.
    ///
    /// # Errors
    /// [`ErrorKind::Unexpected`](crate::ErrorKind::Unexpected) if the clock of this machine is
    /// ahead of that of the PostgreSQL server by more than five seconds; nothing was removed.
    fn sweep_all(
        &self,
        now: Timestamp,
        limit: u64,
        progress: ProgressFn,
    ) -> Result<ControlFlow<(), u64>>;

    /// Ends all sessions, and returns the number of rows deleted, expired ones included. The tables
    /// stay. If SQLite has no tables, does nothing.
    fn clear(&self) -> Result<u64>;

    /// Removes the store's tables with all sessions. Afterwards every call of the store fails with
    /// [`NotSetUp`](crate::ErrorKind::NotSetUp) until the tables are created again. Without tables
    /// it does nothing.
    fn drop_tables(&self) -> Result<()>;

    /// Reads at most `limit` whole sessions with positions above `after`, expired ones included. It
    /// is one read transaction.
    fn export(&self, after: i64, limit: usize) -> Result<StoredPage>;

    /// Returns the mark of the last copy into this store; `None` if there was none.
    fn copy_mark(&self) -> Result<Option<CopyMark>>;

    /// Applies a batch in one transaction, which raises the epoch, and returns the mark after it.
    /// `present` is the mark that this store has. `mark` is the same, or
    /// [`CopyMark::new`](crate::stores::copy::CopyMark::new) to begin a copy into an empty store.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if the present mark is another one:
    /// another copy has begun. Nothing was changed.
    fn import(
        &self,
        batch: &CopyBatch,
        present: Option<&CopyMark>,
        mark: CopyMark,
    ) -> Result<CopyMark>;

    /// Reads and decodes all sessions, to find damaged ones. Works in batches, so that the
    /// write-ahead log of SQLite can be reset meanwhile; `progress` runs after each.
    fn scan(&self, mut progress: ProgressFn) -> Result<ControlFlow<(), ScanReport>> {
        const BATCH_SIZE: usize = 500;
        const MAX_EXAMPLES: usize = 5;
        let mut report = ScanReport::default();
        // The number is for the progress only, and a damaged index can prevent the count.
        let stats = self.session_index().stats(Timestamp::MAX);
        let total = stats.map_or(0, |stats| stats.live + stats.expired);
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let page = self.export(from, BATCH_SIZE)?;
            report.undecodable += page.undecodable.len() as u64;
            report.sessions += (page.sessions.len() + page.undecodable.len()) as u64;
            report.examples.extend(page.undecodable);
            report.examples.truncate(MAX_EXAMPLES);
            for stored in page.sessions {
                let record = stored.session.record;
                report.latest = report.latest.max(Some(record.seen.max(record.created)));
                *report.realms.entry(record.realm).or_default() += 1;
            }
            after = page.last;
            let total = total.max(report.sessions);
            if progress(Progress { done: report.sessions, total }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(report))
    }
}

/// Removes expired sessions, as [`Admin::sweep_all`] describes. `checkpoint` runs between batches.
pub(super) fn sweep_in_batches(
    store: &dyn Admin,
    now: Timestamp,
    limit: u64,
    mut progress: ProgressFn,
    checkpoint: impl Fn() -> Result<()>,
) -> Result<ControlFlow<(), u64>> {
    let total = store.session_index().stats(now)?.expired.min(limit);
    let mut pacer = BatchPacer::new();
    let mut done = 0;
    loop {
        let left = usize::try_from(limit.saturating_sub(done)).unwrap_or(usize::MAX);
        let Some(left) = NonZeroUsize::new(left) else { break };
        let batch_size = pacer.batch_size().min(left);
        let began = Instant::now();
        let report = store.sweep(now, batch_size)?;
        let pause = pacer.pause_after(&report, began.elapsed());
        done += report.removed as u64;
        let cancelled = progress(Progress { done, total }).is_break();
        if report.removed < batch_size.get() {
            break;
        }
        if cancelled {
            return Ok(ControlFlow::Break(()));
        }
        checkpoint()?;
        thread::sleep(pause);
    }
    store.maintenance().map_or(Ok(()), |maintenance| maintenance.run())?;
    Ok(ControlFlow::Continue(done))
}

/// The progress of a long call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The number of pages or rows done.
    pub done: u64,
    /// The total number of pages or rows; 0 if unknown.
    pub total: u64,
}

/// A callback that a long call runs repeatedly. [`ControlFlow::Break`] cancels the call.
pub type ProgressFn = Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>;

/// A session found by its public id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionDetails {
    /// The summary, as in a list.
    pub summary: Summary,
    /// The whole session with its data, if it is decodable.
    pub record: Result<Record>,
}

/// The result of a scan of all sessions.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScanReport {
    /// The number of sessions, expired ones included.
    pub sessions: u64,
    /// The number of decodable sessions of each realm.
    pub realms: BTreeMap<Realm, u64>,
    /// The number of undecodable sessions.
    pub undecodable: u64,
    /// The first undecodable sessions, with their errors; at most five.
    pub examples: Vec<(PublicId, Error)>,
    /// The latest time at which a decodable session was created or used.
    pub latest: Option<Timestamp>,
}

/// Counts of sessions, and the sizes of their data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionCounts {
    /// The number of live sessions that were created in each period: until the next one begins, or
    /// for the last one until now.
    pub created: Vec<u64>,
    /// The average size of a session's data in bytes, expired sessions included.
    pub average: u64,
    /// The maximum in bytes.
    pub largest: u64,
}

/// A migration that is not applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingMigration {
    /// The schema version after the migration.
    pub version: u32,
    /// The name of the migration, such as `sessions`.
    pub name: &'static str,
}
