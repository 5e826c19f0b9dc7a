//! Write transactions. Jobs receive nothing but a `&mut WriteTx`, which executes each statement
//! together with the sessions that it changes, for the record cache. Copies and migrations run
//! their own statements by [`WriteTx::with_connection`], which empties the cache.
//!
//! Here are the transaction and its reads; the writes are in `changes`, `deletion` and `reserve`.

mod changes;
mod deletion;
mod reserve;

use std::cell::OnceCell;
use std::mem;
use std::time::Instant;

use rusqlite::{Connection, Params, Row, Statement, params};

use crate::backend::{Found, LiveSession};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Realm, SessionIdHash, UserKey};
use crate::record::EndedSession;
use crate::stores::sqlite::error::{During, retry_while_busy};
use crate::stores::sqlite::record_cache::{CacheUpdate, CachedSession, RecordCache};
use crate::stores::sqlite::sql::row::{self, FoundRow};
use crate::stores::sqlite::wal;
use crate::stores::sqlite::write::job::{Job, JobFailure};
use crate::stores::sqlite::write::sql::TableSql;

pub(in crate::stores::sqlite) use reserve::SignInReserve;

/// The sessions that a statement may change; the record cache removes them.
#[derive(Clone, Copy)]
enum Affected {
    /// The statement writes another table.
    NoSession,
    Session(SessionIdHash),
    AllSessions,
}

/// An open write transaction.
///
/// Dropping it rolls back and empties the record cache.
pub(crate) struct WriteTx<'c> {
    connection: &'c Connection,
    sql: &'c TableSql,
    cache_update: CacheUpdate<'c>,
    /// `None` if the size of the file is not bounded.
    reserve: Option<&'c SignInReserve>,
    /// What the transaction, or the job that runs in it, does; for errors.
    operation: &'static str,
    /// The only job has failed, and was rolled back.
    nothing_to_commit: bool,
    /// The result of `references::referenced_condition`, once it is known.
    referenced_condition: OnceCell<Option<String>>,
}

impl<'c> WriteTx<'c> {
    /// Begins a transaction, and waits until the deadline for the write lock.
    pub(crate) fn begin(
        connection: &'c Connection,
        sql: &'c TableSql,
        record_cache: Option<&'c RecordCache>,
        reserve: Option<&'c SignInReserve>,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<Self> {
        retry_while_busy(deadline, || execute_cached(connection, "BEGIN IMMEDIATE"))
            .during(operation)?;
        let cache_update = CacheUpdate::begin(record_cache);
        Ok(WriteTx {
            connection,
            sql,
            cache_update,
            reserve,
            operation,
            nothing_to_commit: false,
            referenced_condition: OnceCell::new(),
        })
    }

    /// Runs a job, and writes its result to `result`. If the job fails, its changes are undone, and
    /// those of other jobs of the group stay. A job without others needs no savepoint, which would
    /// take a tenth of the transaction's time.
    ///
    /// Fails if the whole group is lost: SQLite has rolled it back, or cannot undo this job alone.
    /// The job keeps its own result then, so that a panic of it continues.
    pub(super) fn run_job(
        &mut self,
        is_grouped: bool,
        job: &Job,
        result: &mut Result<(), JobFailure>,
    ) -> Result<()> {
        if is_grouped {
            self.control("SAVEPOINT job")?;
        }
        let group_operation = mem::replace(&mut self.operation, job.operation);
        *result = job.run(self);
        self.operation = group_operation;
        if !self.is_open() {
            let why = "SQLite has rolled the transaction back";
            return Err(match result {
                Err(JobFailure::Error(error)) => error.clone(),
                _ => Error::with_source(ErrorKind::Unexpected, job.operation, why),
            });
        }
        if result.is_err() {
            self.control(if is_grouped { "ROLLBACK TO job" } else { "ROLLBACK" })?;
            self.nothing_to_commit = !is_grouped;
            self.cache_update.forget_puts();
        }
        if is_grouped {
            self.control("RELEASE job")?;
        }
        Ok(())
    }

    /// Returns whether the transaction goes on: after some errors SQLite rolls it back, as for
    /// `RAISE(ROLLBACK)` in a trigger.
    fn is_open(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Commits, and then updates the record cache. Returns the number of frames in the log, `None`
    /// if the transaction wrote none.
    pub(crate) fn commit(mut self, deadline: Instant) -> Result<Option<u32>> {
        let frames = if self.nothing_to_commit {
            None
        } else {
            wal::commit_counting_frames(self.connection, deadline).during(self.operation)?
        };
        self.cache_update.publish(frames);
        Ok(frames)
    }

    fn control(&self, sql: &str) -> Result<()> {
        execute_cached(self.connection, sql).during(self.operation)
    }

    /// Executes a statement that changes no sessions but the affected ones. Returns the number of
    /// changed rows.
    fn execute(
        &mut self,
        statement: &str,
        params: impl Params,
        affected: Affected,
    ) -> Result<usize> {
        match affected {
            Affected::NoSession => {}
            Affected::Session(id_hash) => self.cache_update.remove(id_hash),
            Affected::AllSessions => self.cache_update.remove_all(),
        }
        self.run(statement, |statement| statement.execute(params))
    }

    /// Executes a statement that returns the sessions that it changes.
    fn execute_returning<T>(
        &mut self,
        statement: &str,
        params: impl Params,
        decode: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
        id_hash: impl Fn(&T) -> SessionIdHash,
    ) -> Result<Vec<T>> {
        let changed: Vec<T> =
            self.run(statement, |statement| statement.query_map(params, decode)?.collect())?;
        changed.iter().for_each(|session| self.cache_update.remove(id_hash(session)));
        Ok(changed)
    }

    /// Executes a statement that writes `new` to the row `at`.
    fn update(
        &mut self,
        statement: &str,
        params: impl Params,
        at: FoundRow,
        new: &LiveSession,
    ) -> Result<()> {
        let rows = self.execute(statement, params, Affected::Session(at.id_hash))?;
        self.check_changed(rows)?;
        self.cache_update.put(new.id_hash, at.id, &new.record);
        Ok(())
    }

    /// Fails if a statement that should have changed a row has changed none.
    fn check_changed(&mut self, rows: usize) -> Result<()> {
        if rows == 0 {
            // If the row was found in the cache, others there may be wrong too.
            self.cache_update.remove_all();
            return Err(rusqlite::Error::StatementChangedRows(rows)).during(self.operation);
        }
        Ok(())
    }

    /// Runs a statement that writes. If more rows have changed than its own, a trigger or a foreign
    /// key of the application has changed them, and any session may be among them.
    fn run<T>(
        &mut self,
        statement: &str,
        run: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let before = self.connection.total_changes();
        let result =
            self.connection.prepare_cached(statement).and_then(|mut statement| run(&mut statement));
        let own = if result.is_ok() { self.connection.changes() } else { 0 };
        if self.connection.total_changes() != before.wrapping_add(own) {
            self.cache_update.remove_all();
        }
        result.during(self.operation)
    }

    /// Runs work on the connection itself, which may change any session and the schema.
    pub(crate) fn with_connection<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.cache_update.remove_all();
        self.referenced_condition.take();
        work(self.connection)
    }
}

impl Drop for WriteTx<'_> {
    fn drop(&mut self) {
        if self.is_open() {
            // If this fails too, `WriteConnection` repeats it before the next use.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

fn execute_cached(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// Reads within the transaction.
impl WriteTx<'_> {
    /// Looks `id_hash` up at `now`, as a current or as a replaced id.
    pub(crate) fn find(&self, id_hash: SessionIdHash, now: Timestamp) -> Result<Found<FoundRow>> {
        let Some(CachedSession { id, record }) = self.cache_update.find(&id_hash) else {
            return row::find(self.connection, &self.sql.read, &id_hash, now);
        };
        let seen = record.seen;
        let deadline = record.deadline();
        let at = FoundRow { id, id_hash, seen, deadline };
        Ok(Found::of_session(LiveSession { record, id_hash }, at, now))
    }

    fn count(&self, sql: &str, params: impl Params) -> Result<u64> {
        row::count(self.connection, sql, params).during(self.operation)
    }

    /// Fails with [`ErrorKind::Conflict`] if any session has or had the id `id_hash`.
    pub(crate) fn check_free(&self, id_hash: &SessionIdHash) -> Result<()> {
        let is_taken = self
            .connection
            .prepare_cached(&self.sql.read.is_taken)
            .and_then(|mut statement| statement.exists([id_hash.as_bytes()]))
            .during(self.operation)?;
        if is_taken { Err(Error::id_is_taken()) } else { Ok(()) }
    }

    /// Returns the user's sessions in a realm, expired ones included, in the order of their
    /// sign-ins.
    pub(crate) fn sessions_of_user(
        &self,
        user: &UserKey,
        realm: &Realm,
        now: Timestamp,
    ) -> Result<Vec<(FoundRow, EndedSession)>> {
        let query = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.connection.prepare_cached(&self.sql.read.sessions_of_user)?;
            let params = params![user.as_str(), realm.as_str()];
            statement.query_map(params, |row| row::ended(row, now))?.collect()
        };
        query().during(self.operation)
    }
}
