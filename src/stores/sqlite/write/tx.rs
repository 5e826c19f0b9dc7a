//! Write transactions. [`WriteTx`] alone executes the statements that write, each together with the
//! sessions that it changes, for the record cache. Jobs receive nothing but a `&mut WriteTx`.

use std::mem;
use std::time::Instant;

use rusqlite::types::Value as Column;
use rusqlite::{
    Connection, OptionalExtension, Params, Row, Statement, named_params, params, params_from_iter,
};

use crate::backend::{Found, IdChange, LiveSession, ReplacedId};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::record::{EndedSession, FORMAT, Record, Touch};
use crate::stores::sql::columns::{ColumnValue, session};
use crate::stores::sql::{decode, to_int, with_condition};
use crate::stores::sqlite::error::{During, refuses_deletion, retry_while_busy};
use crate::stores::sqlite::record_cache::{CacheUpdate, CachedSession, RecordCache};
use crate::stores::sqlite::references;
use crate::stores::sqlite::sql::row::{self, FoundRow};
use crate::stores::sqlite::wal;
use crate::stores::sqlite::write::job::{Job, JobFailure};
use crate::stores::sqlite::write::reserve::{self, SignInReserve};
use crate::stores::sqlite::write::sql::{TableSql, WriteSql};

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
    /// The result of [`references::referenced_condition`], once it is known.
    referenced_condition: Option<Option<String>>,
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
            referenced_condition: None,
        })
    }

    /// Runs a job, and returns its result. If the job fails, its changes are undone, and those of
    /// other jobs of the group stay. A job without others needs no savepoint, which would take
    /// a tenth of the transaction's time.
    ///
    /// Fails if the whole group is lost: SQLite has rolled it back, or cannot undo this job alone.
    pub(super) fn run_job(
        &mut self,
        is_grouped: bool,
        job: &Job,
    ) -> Result<Result<(), JobFailure>> {
        if is_grouped {
            self.control("SAVEPOINT job")?;
        }
        let group_operation = mem::replace(&mut self.operation, job.operation);
        let result = job.run(self);
        self.operation = group_operation;
        match result {
            Err(JobFailure::Error(error)) if self.connection.is_autocommit() => return Err(error),
            Err(_) => {
                self.control(if is_grouped { "ROLLBACK TO job" } else { "ROLLBACK" })?;
                self.nothing_to_commit = !is_grouped;
                self.cache_update.turn_puts_into_removals();
            }
            Ok(()) => {}
        }
        if is_grouped {
            self.control("RELEASE job")?;
        }
        Ok(result)
    }

    /// Commits, and then updates the record cache. Returns the number of frames in the log, `None`
    /// if the transaction wrote none.
    pub(crate) fn commit(mut self, deadline: Instant) -> Result<Option<u32>> {
        let frames = if self.nothing_to_commit {
            None
        } else {
            wal::commit(self.connection, deadline).during(self.operation)?
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

    /// Runs work on the connection itself, after which any session may have changed.
    pub(crate) fn with_connection<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.cache_update.remove_all();
        self.referenced_condition = None;
        work(self.connection)
    }
}

impl Drop for WriteTx<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
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
        if is_taken {
            Err(Error::new(ErrorKind::Conflict, "give a session its new id"))
        } else {
            Ok(())
        }
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

/// Changes of single sessions.
impl WriteTx<'_> {
    /// Inserts a session, and returns its row id.
    pub(crate) fn insert(&mut self, new: &LiveSession) -> Result<i64> {
        let values = params_from_iter(session::values(new, new.record.deadline()));
        let rows = self.execute(&self.sql.write.insert, values, Affected::Session(new.id_hash))?;
        self.check_changed(rows)?;
        let id = self.connection.last_insert_rowid();
        self.cache_update.put(new.id_hash, id, &new.record);
        Ok(id)
    }

    /// Writes all columns.
    pub(crate) fn update_all(&mut self, at: FoundRow, new: &LiveSession) -> Result<()> {
        let values = session::values(new, new.record.deadline()).into_iter();
        let params = params_from_iter(values.chain([ColumnValue::Int(Some(at.id))]));
        self.update(&self.sql.write.update_all, params, at, new)
    }

    /// Writes the columns that a merge changes: the data, and the activity if it changed.
    pub(crate) fn update_data(&mut self, at: FoundRow, new: &LiveSession) -> Result<()> {
        let record = &new.record;
        let revision = to_int(record.revision);
        let data = record.data.as_json();
        if record.seen == at.seen {
            let params = named_params! {
                ":id": at.id, ":revision": revision, ":format": FORMAT, ":data": data,
            };
            self.update(&self.sql.write.update_data, params, at, new)?;
            if !at.agrees_with(record) {
                // An operator has edited the deadline, which this statement does not write.
                self.cache_update.remove(at.id_hash);
            }
            return Ok(());
        }
        let params = named_params! {
            ":id": at.id, ":revision": revision, ":format": FORMAT, ":data": data,
            ":seen": record.seen.as_millis(), ":deadline": record.deadline().as_millis(),
        };
        self.update(&self.sql.write.update_data_and_seen, params, at, new)
    }

    /// Writes the last activity and the deadline that follows from it.
    pub(crate) fn update_seen(&mut self, at: FoundRow, new: &LiveSession) -> Result<()> {
        let seen = new.record.seen.as_millis();
        let deadline = new.record.deadline().as_millis();
        let params = named_params! { ":id": at.id, ":seen": seen, ":deadline": deadline };
        self.update(&self.sql.write.update_seen, params, at, new)
    }

    /// Records activity if the session is live and the touch is newer than its last one.
    pub(crate) fn touch(
        &mut self,
        id_hash: SessionIdHash,
        touch: Touch,
        now: Timestamp,
    ) -> Result<()> {
        match self.find(id_hash, now)? {
            Found::Live { mut session, key } if key.seen < touch.seen => {
                session.record.seen = touch.seen;
                self.update_seen(key, &session)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn delete(&mut self, id: i64, id_hash: SessionIdHash) -> Result<()> {
        let rows = self.delete_or_end("id = ?1", [id], Affected::Session(id_hash))?;
        self.check_changed(rows)
    }

    /// Deletes the sessions that match `condition`, all `affected`. Those that a foreign key or a
    /// trigger of the application keeps or brings back are ended in place, because an ended
    /// session must not be found again. Returns the number of changed rows.
    fn delete_or_end(
        &mut self,
        condition: &str,
        params: impl Params + Copy,
        affected: Affected,
    ) -> Result<usize> {
        let WriteSql { delete, end, .. } = &self.sql.write;
        let Some(referenced) = self.referenced_condition()? else {
            return self.execute(&with_condition(delete, condition), params, affected);
        };
        // A deferred foreign key would fail at the commit, so referenced rows are not deleted.
        let delete = with_condition(delete, &format!("{condition} AND NOT {referenced}"));
        let deleted = match self.execute(&delete, params, affected) {
            Err(error) if !self.is_refused(&error) => return Err(error),
            deleted => deleted.unwrap_or(0),
        };
        // A trigger may have inserted deleted rows again, with their former deadline.
        let ended_in_place = self.execute(&with_condition(end, condition), params, affected)?;
        self.check_none_left(condition, params)?;
        Ok(deleted + ended_in_place)
    }

    /// Fails if sessions that match `condition` are live after all were ended.
    fn check_none_left(&self, condition: &str, params: impl Params) -> Result<()> {
        let count = with_condition(&self.sql.read.count_left, condition);
        match self.count(&count, params)? {
            0 => Ok(()),
            left => {
                let why = format!(
                    "a trigger keeps sessions or brings them back, {left} of them; `cloakroom \
                     doctor` names it"
                );
                Err(Error::with_source(ErrorKind::Unexpected, self.operation, why))
            }
        }
    }

    /// Returns whether the schema of the application prevented a deletion, and the transaction goes
    /// on.
    fn is_refused(&self, error: &Error) -> bool {
        refuses_deletion(error) && !self.connection.is_autocommit()
    }

    /// Asked once per transaction, because the query reads the definitions of all tables.
    fn referenced_condition(&mut self) -> Result<Option<String>> {
        if let Some(known) = &self.referenced_condition {
            return Ok(known.clone());
        }
        let condition = references::referenced_condition(self.connection, &self.sql.read)
            .during(self.operation)?;
        self.referenced_condition = Some(condition.clone());
        Ok(condition)
    }

    /// Stores the replaced ids that a session remembers after a change of its id, in place of those
    /// before it.
    pub(crate) fn remember_id_change(
        &mut self,
        session: i64,
        public_id: &PublicId,
        id_change: &IdChange,
    ) -> Result<()> {
        let earlier = || -> rusqlite::Result<_> {
            let mut statement = self.connection.prepare_cached(&self.sql.read.replaced_of)?;
            let params = params![session, public_id.as_bytes()];
            statement.query_map(params, |row| decode::replaced_id(row, 0))?.collect()
        };
        let remembered = id_change.remembered(earlier().during(self.operation)?);
        self.delete_replaced_of(session)?;
        self.insert_replaced(session, public_id, &remembered)
    }

    /// Remembers a replaced id of another session as one of a new session.
    pub(crate) fn move_replaced(
        &mut self,
        session: i64,
        public_id: &PublicId,
        id: &ReplacedId,
    ) -> Result<()> {
        let params = [id.id_hash.as_bytes()];
        self.execute(&self.sql.write.delete_replaced, params, Affected::NoSession)?;
        self.delete_replaced_of(session)?;
        self.insert_replaced(session, public_id, &[*id])
    }

    /// Inserts the replaced ids of a session, and deletes up to two forgotten ones of any session,
    /// so that the table does not grow without bound.
    fn insert_replaced(
        &mut self,
        session: i64,
        public_id: &PublicId,
        ids: &[ReplacedId],
    ) -> Result<()> {
        for id in ids {
            let params = row::replaced_params(session, public_id, id);
            self.execute(&self.sql.write.insert_replaced, params, Affected::NoSession)?;
        }
        ids.last().map_or(Ok(()), |latest| self.delete_forgotten(latest.replaced_at, 2))
    }

    fn delete_replaced_of(&mut self, session: i64) -> Result<()> {
        let delete = &self.sql.write.delete_replaced_of;
        self.execute(delete, [session], Affected::NoSession).map(drop)
    }

    /// Deletes at most `limit` forgotten replaced ids.
    fn delete_forgotten(&mut self, now: Timestamp, limit: i64) -> Result<()> {
        let params = [now.as_millis(), limit];
        self.execute(&self.sql.write.delete_forgotten, params, Affected::NoSession).map(drop)
    }
}

/// Changes of many sessions.
impl WriteTx<'_> {
    /// Deletes those of these sessions that are anonymous, and returns their number.
    pub(crate) fn delete_anonymous(&mut self, id_hashes: &[SessionIdHash]) -> Result<usize> {
        let mut removed = 0;
        for id_hash in id_hashes {
            let id: Option<i64> = self
                .connection
                .prepare_cached(&self.sql.read.anonymous)
                .and_then(|mut find| {
                    find.query_row([id_hash.as_bytes()], |row| row.get(0)).optional()
                })
                .during(self.operation)?;
            if let Some(id) = id {
                self.delete(id, *id_hash)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Evicts anonymous sessions that end soon from a bounded file, so that the session of `record`
    /// can be stored, which is in the row `at` if it is stored already. Returns their id hashes.
    /// Fails with [`ErrorKind::Full`] if all that is free is reserved for sign-ins.
    pub(crate) fn evict_for(
        &mut self,
        record: &Record,
        at: Option<i64>,
    ) -> Result<Vec<SessionIdHash>> {
        let mut evicted = Vec::new();
        let is_anonymous = record.user.is_none();
        let Some(reserve) = self.reserve else { return Ok(evicted) };
        for _ in 0..reserve::MAX_BATCHES {
            if !reserve.is_short(self.used_pages()?, is_anonymous) {
                return Ok(evicted);
            }
            let batch = reserve.next_batch(self.connection, &self.sql.read);
            for (id, id_hash) in batch.during(self.operation)? {
                if Some(id) == at {
                    continue;
                }
                self.delete(id, id_hash)?;
                self.delete_replaced_of(id)?;
                evicted.push(id_hash);
            }
        }
        if is_anonymous && at.is_none() && reserve.is_short(self.used_pages()?, false) {
            let why = "too few of the sessions examined are anonymous, and the rest of the file is \
                       for sign-ins; a repetition examines the next ones";
            return Err(Error::with_source(ErrorKind::Full, self.operation, why));
        }
        Ok(evicted)
    }

    /// Returns the number of pages of the file that are in use.
    fn used_pages(&self) -> Result<i64> {
        let number = |sql| -> rusqlite::Result<i64> {
            self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
        };
        let used = || Ok(number("PRAGMA page_count")? - number("PRAGMA freelist_count")?);
        used().during(self.operation)
    }

    /// Deletes at most `limit` expired sessions, and as many forgotten replaced ids. Returns the
    /// sessions.
    pub(crate) fn sweep(&mut self, now: Timestamp, limit: i64) -> Result<Vec<EndedSession>> {
        let params = [now.as_millis(), limit];
        let removed = self.delete_unreferenced(&self.sql.write.sweep, params, now)?;
        self.delete_forgotten(now, limit)?;
        Ok(removed)
    }

    /// Returns the number of expired sessions that no sweep removes, because rows of other
    /// tables reference them.
    pub(crate) fn count_referenced(&mut self, now: Timestamp) -> Result<u64> {
        let Some(referenced) = self.referenced_condition()? else { return Ok(0) };
        let count = with_condition(&self.sql.read.count_expired_matching, &referenced);
        self.count(&count, [now.as_millis()])
    }

    /// Deletes the sessions that match a condition, whose parameters are `args` from `?3` on,
    /// except the one with the public id `except`. Returns those that were live.
    pub(crate) fn revoke(
        &mut self,
        condition: &str,
        args: Vec<Column>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        let except = except.map(|public_id| public_id.as_bytes().to_vec());
        // The statement has no `?1`.
        let params = [Column::Null, except.into()].into_iter().chain(args);
        let text = with_condition(&self.sql.read.to_revoke, condition);
        let mut statement = self.connection.prepare(&text).during(self.operation)?;
        let found = statement
            .query_map(params_from_iter(params), |row| {
                Ok((row.get("id")?, decode::ended_session(row, now)?))
            })
            .and_then(Iterator::collect::<rusqlite::Result<Vec<(i64, EndedSession)>>>)
            .during(self.operation)?;
        for (id, ended) in &found {
            self.delete(*id, ended.id_hash)?;
        }
        let ended = found.into_iter().map(|(_, ended)| ended);
        Ok(ended.filter(|ended| ended.reached_limit.is_none()).collect())
    }

    /// Executes a statement with a `{condition}` that deletes sessions, except referenced
    /// ones. Returns the deleted sessions.
    fn delete_unreferenced(
        &mut self,
        statement: &str,
        params: impl Params,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        let referenced = self.referenced_condition()?.unwrap_or_else(|| "false".to_owned());
        let statement = with_condition(statement, &format!("NOT {referenced}"));
        let ended = |row: &Row<'_>| decode::ended_session(row, now);
        self.execute_returning(&statement, params, ended, |ended| ended.id_hash)
    }

    /// Gives the sessions of a user in a realm to another one. Returns their ids.
    pub(crate) fn rename_user(
        &mut self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
    ) -> Result<Vec<SessionIdHash>> {
        let params = params![from.as_str(), to.as_str(), realm.as_str()];
        let id_hash = |row: &Row<'_>| row.get(0).map(SessionIdHash::from_bytes);
        self.execute_returning(&self.sql.write.rename_user, params, id_hash, |id_hash| *id_hash)
    }

    /// Deletes all sessions and replaced ids, and raises the epoch. Returns how many sessions were
    /// live at `now`.
    pub(crate) fn revoke_everyone(&mut self, now: Timestamp) -> Result<u64> {
        let live = self.count(&self.sql.read.count_live, [now.as_millis()])?;
        self.execute(&self.sql.write.delete_all_replaced, [], Affected::NoSession)?;
        self.raise_epoch()?;
        // The sessions come last: a trigger on another table could bring some back.
        match self.referenced_condition()? {
            None => self.execute(&self.sql.write.delete_all, [], Affected::AllSessions)?,
            Some(_) => self.delete_or_end("true", [], Affected::AllSessions)?,
        };
        Ok(live)
    }

    /// Deletes all sessions of a realm, and raises the epoch. Returns how many were live at `now`.
    pub(crate) fn revoke_everyone_in(&mut self, realm: &Realm, now: Timestamp) -> Result<u64> {
        let has_others: bool = self
            .connection
            .query_row(&self.sql.read.has_other_realms, [realm.as_str()], |row| row.get(0))
            .during(self.operation)?;
        if !has_others {
            // Much faster, because it has no condition.
            return self.revoke_everyone(now);
        }
        let live =
            self.count(&self.sql.read.count_live_of, params![now.as_millis(), realm.as_str()])?;
        self.raise_epoch()?;
        self.delete_or_end("realm = ?1", [realm.as_str()], Affected::AllSessions)?;
        Ok(live)
    }

    /// Raises the epoch above its value and above `other`.
    pub(crate) fn raise_epoch_above(&mut self, other: i64) -> Result<()> {
        let own = row::epoch(self.connection, &self.sql.read).during(self.operation)?;
        let above = own.max(other).saturating_add(1).to_string();
        self.execute(&self.sql.write.set_epoch, [above], Affected::NoSession).map(drop)
    }

    /// Gives a copy of the tables another identity than the original's.
    pub(crate) fn draw_identity(&mut self) -> Result<()> {
        self.execute(&self.sql.write.draw_identity, [], Affected::NoSession).map(drop)
    }

    /// Raises the epoch, so that every process with a cache reads all sessions again.
    pub(crate) fn raise_epoch(&mut self) -> Result<()> {
        self.execute(&self.sql.write.raise_epoch, [], Affected::NoSession).map(drop)
    }
}
