//! Write transactions. [`WriteTx`] alone executes the statements that write sessions, and each of
//! its methods states the effect on the record cache where the statement is executed. Jobs receive
//! nothing but a `&mut WriteTx`.

use std::mem;
use std::time::Instant;

use rusqlite::types::Value as Column;
use rusqlite::{
    Connection, OptionalExtension, Params, Row, ToSql, named_params, params, params_from_iter,
};

use crate::backend::{Found, IdChange, LiveSession, ReplacedId};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::record::{EndedSession, FORMAT, Record, Touch};
use crate::stores::sql::with_condition;
use crate::stores::sqlite::columns::{self, replaced, session};
use crate::stores::sqlite::error::{refuses_deletion, retry_while_busy, while_doing};
use crate::stores::sqlite::record_cache::{CachedSession, Effect, PendingEffects, RecordCache};
use crate::stores::sqlite::references;
use crate::stores::sqlite::row::{self, FoundRow};
use crate::stores::sqlite::wal;
use crate::stores::sqlite::write::room::{self, Room};
use crate::stores::sqlite::write::sql::{TableSql, WriteSql};

/// The condition that each session matches.
const EVERY_SESSION: &str = "true";

/// An open write transaction.
///
/// Dropping it rolls back and empties the record cache.
pub(crate) struct WriteTx<'c> {
    connection: &'c Connection,
    sql: &'c TableSql,
    effects: PendingEffects<'c>,
    room: Option<&'c Room>,
    /// What the transaction, or the job that runs in it, does; for errors.
    operation: &'static str,
    /// The group had one job, which failed; there is nothing to commit.
    is_undone: bool,
}

impl<'c> WriteTx<'c> {
    /// Begins a transaction, and waits until the deadline for the write lock.
    pub(crate) fn begin(
        connection: &'c Connection,
        sql: &'c TableSql,
        record_cache: Option<&'c RecordCache>,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<Self> {
        retry_while_busy(deadline, || execute_cached(connection, "BEGIN IMMEDIATE"))
            .map_err(while_doing(operation))?;
        let effects = PendingEffects::begin(record_cache);
        Ok(WriteTx { connection, sql, effects, room: None, operation, is_undone: false })
    }

    /// Returns this transaction in a file with bounded room.
    pub(super) fn with_room(mut self, room: Option<&'c Room>) -> Self {
        self.room = room;
        self
    }

    /// Runs a job. If the job fails, its changes are undone, and those of other jobs of the group
    /// stay. A job without others needs no savepoint, which would take a tenth of its transaction.
    ///
    /// Fails if SQLite has rolled the whole group back.
    pub(super) fn run_job(
        &mut self,
        is_grouped: bool,
        operation: &'static str,
        job: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if is_grouped {
            self.control("SAVEPOINT job")?;
        }
        let (mark, rows) = (self.effects.mark(), self.connection.total_changes());
        let group_operation = mem::replace(&mut self.operation, operation);
        let result = job(self);
        self.operation = group_operation;
        match result {
            Ok(()) => {
                let rows = self.connection.total_changes().saturating_sub(rows);
                self.effects.compare(mark, rows);
            }
            Err(error) if self.connection.is_autocommit() => return Err(error),
            Err(error) => {
                self.control(if is_grouped { "ROLLBACK TO job" } else { "ROLLBACK" })?;
                self.is_undone = !is_grouped;
                self.effects.undo(mark);
                if error.kind() == ErrorKind::Unexpected {
                    // A row was not as it was found or cached.
                    self.effects.record(Effect::Unknown, 0);
                }
            }
        }
        if is_grouped {
            self.control("RELEASE job")?;
        }
        Ok(())
    }

    /// Commits, and then applies the effects to the record cache. Returns the number of frames in
    /// the log, `None` if the transaction wrote none.
    pub(crate) fn commit(mut self, deadline: Instant) -> Result<Option<u32>> {
        let frames = match self.connection.is_autocommit() {
            false => wal::commit(self.connection, deadline).map_err(self.failed())?,
            true if self.is_undone => None,
            // A job has ended the transaction without an error.
            true => return Err(Error::new(ErrorKind::Unexpected, self.operation)),
        };
        self.effects.publish(frames);
        Ok(frames)
    }

    fn control(&self, sql: &str) -> Result<()> {
        execute_cached(self.connection, sql).map_err(self.failed())
    }

    fn failed(&self) -> impl FnOnce(rusqlite::Error) -> Error + use<> {
        while_doing(self.operation)
    }

    /// Executes a statement and records its effect, which may depend on the row id of the last
    /// insertion. Returns the number of changed rows.
    fn execute<'e>(
        &mut self,
        statement: &str,
        params: impl Params,
        effect: impl FnOnce(i64) -> Effect<'e>,
    ) -> Result<usize> {
        let rows = self
            .connection
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(params))
            .map_err(self.failed())?;
        let effect = effect(self.connection.last_insert_rowid());
        if effect.is_of_one_row() && rows != 1 {
            return Err(self.failed()(rusqlite::Error::StatementChangedRows(rows)));
        }
        self.effects.record(effect, rows);
        Ok(rows)
    }

    /// Runs work on the connection itself, after which any session may have changed.
    pub(crate) fn with_connection<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.effects.record(Effect::Unknown, 0);
        work(self.connection)
    }
}

impl Drop for WriteTx<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
            // If this fails too, `WriteConnection::idle` repeats it before the next use.
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
        let Some(CachedSession { id, record }) = self.effects.find(&id_hash) else {
            return row::find(self.connection, &self.sql.read, &id_hash, now);
        };
        let (public_id, seen, deadline) = (record.public_id, record.seen, record.deadline());
        let at = FoundRow { id, id_hash, public_id, seen, deadline };
        Ok(match record.is_live(now) {
            true => Found::Live { session: LiveSession { record, id_hash }, at },
            false => Found::expired(at, &record),
        })
    }

    fn count(&self, sql: &str, params: impl Params) -> Result<u64> {
        row::count(self.connection, sql, params).map_err(self.failed())
    }

    /// Returns whether `id_hash` is the id of a session, or a remembered replaced id.
    pub(crate) fn is_taken(&self, id_hash: &SessionIdHash) -> Result<bool> {
        self.connection
            .prepare_cached(&self.sql.read.is_taken)
            .and_then(|mut statement| statement.exists([id_hash.as_bytes()]))
            .map_err(self.failed())
    }

    /// Returns the user's live sessions, each with its row id, in a realm except the one in row
    /// `except`, ordered by sign-in time, the earliest first.
    pub(crate) fn by_sign_in(
        &self,
        user: &UserKey,
        realm: &Realm,
        except: Option<i64>,
        now: Timestamp,
    ) -> Result<Vec<(i64, EndedSession)>> {
        let query = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.connection.prepare_cached(&self.sql.read.by_sign_in)?;
            // No row has the id -1: SQLite assigns row ids from 1 upwards.
            let except = except.unwrap_or(-1);
            let params = params![user.as_str(), now.as_millis(), except, realm.as_str()];
            let session = |row: &Row<'_>| {
                let id_hash = SessionIdHash::from_bytes(row.get(1)?);
                let public_id = PublicId::from_bytes(row.get(2)?);
                Ok((row.get(0)?, EndedSession::new(id_hash, Some(public_id), Some(user.clone()))))
            };
            statement.query_map(params, session)?.collect()
        };
        query().map_err(self.failed())
    }
}

/// Changes of single sessions.
impl WriteTx<'_> {
    /// Inserts a session, and returns its row id.
    pub(crate) fn insert(&mut self, new: &LiveSession) -> Result<i64> {
        session::with_values(new, |columns| {
            let effect = |id| Effect::Put(id, new.id_hash, &new.record);
            self.execute(&self.sql.write.insert, columns, effect)
        })?;
        Ok(self.connection.last_insert_rowid())
    }

    /// Writes all columns.
    pub(crate) fn update_all(&mut self, at: FoundRow, new: &LiveSession) -> Result<()> {
        if at.id_hash != new.id_hash {
            self.effects.record(Effect::Forget(at.id_hash), 0);
        }
        session::with_values(new, |columns| {
            let params = columns.iter().copied().chain([&at.id as &dyn ToSql]);
            let effect = |_| Effect::Put(at.id, new.id_hash, &new.record);
            self.execute(&self.sql.write.update_all, params_from_iter(params), effect)
        })
        .map(drop)
    }

    /// Writes the columns that a merge changes: the data, and the activity if it changed.
    pub(crate) fn update_data(&mut self, at: FoundRow, record: &Record) -> Result<()> {
        let (revision, data) = (columns::revision_number(record), record.data.as_json());
        let put = Effect::Put(at.id, at.id_hash, record);
        let rows = if record.seen == at.seen {
            // This statement does not write the deadline. An operator may have edited it; then the
            // record does not describe the row, and the cache forgets it.
            let effect = if at.agrees_with(record) { put } else { Effect::Forget(at.id_hash) };
            let params = named_params! {
                ":id": at.id, ":revision": revision, ":format": FORMAT, ":data": data,
            };
            self.execute(&self.sql.write.update_data, params, |_| effect)
        } else {
            let params = named_params! {
                ":id": at.id, ":revision": revision, ":format": FORMAT, ":data": data,
                ":seen": record.seen.as_millis(), ":deadline": record.deadline().as_millis(),
            };
            self.execute(&self.sql.write.update_data_and_seen, params, |_| put)
        };
        rows.map(drop)
    }

    /// Writes the last activity and the deadline that follows from it.
    pub(crate) fn update_seen(
        &mut self,
        id: i64,
        id_hash: SessionIdHash,
        seen: Timestamp,
        deadline: Timestamp,
    ) -> Result<()> {
        let (seen_millis, deadline) = (seen.as_millis(), deadline.as_millis());
        let params = named_params! { ":id": id, ":seen": seen_millis, ":deadline": deadline };
        self.execute(&self.sql.write.update_seen, params, |_| Effect::Seen(id_hash, seen)).map(drop)
    }

    /// Records activity if the session is live and the touch is newer than its last one.
    pub(crate) fn touch(
        &mut self,
        id_hash: SessionIdHash,
        touch: Touch,
        now: Timestamp,
    ) -> Result<()> {
        match self.find(id_hash, now)? {
            Found::Live { session, at } if at.seen < touch.seen => {
                let deadline = session.record.limits.deadline(touch.seen);
                self.update_seen(at.id, at.id_hash, touch.seen, deadline)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn delete(&mut self, id: i64, id_hash: SessionIdHash) -> Result<()> {
        self.delete_or_end("id = ?1", [id], Effect::Forget(id_hash))
    }

    /// Deletes the sessions that match `condition`. Those that a foreign key or a trigger of the
    /// application keeps or brings back are ended in place, because an ended session must not be
    /// found again.
    fn delete_or_end(
        &mut self,
        condition: &str,
        params: impl Params + Copy,
        effect: Effect<'_>,
    ) -> Result<()> {
        let WriteSql { delete, delete_all, end, .. } = &self.sql.write;
        let Some(referenced) = self.referenced_condition()? else {
            let is_all = condition == EVERY_SESSION;
            let delete = if is_all { delete_all } else { &with_condition(delete, condition) };
            return self.execute(delete, params, |_| effect).map(drop);
        };
        // A deferred foreign key would fail at the commit, so referenced rows are not deleted.
        let delete = with_condition(delete, &format!("{condition} AND NOT {referenced}"));
        match self.execute(&delete, params, |_| Effect::Unknown) {
            Err(error) if !self.is_refused(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        // A trigger may have inserted deleted rows again, with their former deadline.
        self.execute(&with_condition(end, condition), params, |_| Effect::Unknown)?;
        self.check_none_left(condition, params)
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

    fn referenced_condition(&self) -> Result<Option<String>> {
        references::referenced_condition(self.connection, &self.sql.read).map_err(self.failed())
    }

    /// Remembers the previous id of a session and, if it differs, the one presented.
    pub(crate) fn remember_id_change(
        &mut self,
        at: FoundRow,
        IdChange { replaced, replaced_earlier }: &IdChange,
    ) -> Result<()> {
        if replaced.ends_graces() {
            self.execute(&self.sql.write.end_graces, [at.id], |_| Effect::OtherTable)?;
        }
        self.remember(at.id, &at.public_id, replaced)?;
        match replaced_earlier {
            Some(presented) => self.replace_remembered(at.id, &at.public_id, presented),
            None => Ok(()),
        }
    }

    /// Remembers a replaced id of a session in place of what is remembered of it.
    pub(crate) fn replace_remembered(
        &mut self,
        session: i64,
        public_id: &PublicId,
        id: &ReplacedId,
    ) -> Result<()> {
        let params = [id.id_hash.as_bytes()];
        self.execute(&self.sql.write.forget_replaced_one, params, |_| Effect::OtherTable)?;
        self.remember(session, public_id, id)
    }

    /// Remembers a replaced id of a session. Deletes the oldest ids of that session above the
    /// maximum, and up to two outdated ids of any session, so that the table does not grow without
    /// bound.
    fn remember(&mut self, session: i64, public_id: &PublicId, id: &ReplacedId) -> Result<()> {
        let others = i64::try_from(ReplacedId::MAX - 1).unwrap_or(i64::MAX);
        let params = params![session, public_id.as_bytes(), others];
        self.execute(&self.sql.write.forget_replaced_of, params, |_| Effect::OtherTable)?;
        self.forget_replaced(id.replaced_at, 2)?;
        replaced::with_values(session, public_id, id, |columns| {
            self.execute(&self.sql.write.remember_replaced, columns, |_| Effect::OtherTable)
        })
        .map(drop)
    }

    /// Deletes at most `limit` outdated replaced ids.
    fn forget_replaced(&mut self, now: Timestamp, limit: i64) -> Result<()> {
        let params = [now.as_millis(), limit];
        self.execute(&self.sql.write.forget_replaced, params, |_| Effect::OtherTable).map(drop)
    }
}

/// Changes of many sessions.
impl WriteTx<'_> {
    /// Deletes the user's expired sessions in a realm.
    pub(crate) fn delete_expired_of(
        &mut self,
        user: &UserKey,
        realm: &Realm,
        now: Timestamp,
    ) -> Result<()> {
        let params = params![now.as_millis(), user.as_str(), realm.as_str()];
        match self.delete_unreferenced(&self.sql.write.delete_expired_of, params) {
            // Expired sessions do not count, whether or not they are deleted.
            Err(error) if self.is_refused(&error) => Ok(()),
            deleted => deleted.map(drop),
        }
    }

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
                .map_err(self.failed())?;
            if let Some(id) = id {
                self.delete(id, *id_hash)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Makes room in a bounded file for `session`, which is in the row `at` if it is stored:
    /// deletes anonymous sessions that end soon, and returns their ids. Fails with
    /// [`ErrorKind::Full`] if the room that is left is kept for sign-ins.
    pub(crate) fn make_room(
        &mut self,
        record: &Record,
        at: Option<i64>,
    ) -> Result<Vec<SessionIdHash>> {
        let (mut evicted, is_anonymous) = (Vec::new(), record.user.is_none());
        let Some(room) = self.room else { return Ok(evicted) };
        for _ in 0..room::MAX_BATCHES {
            if !room.is_short(self.used_pages()?, is_anonymous) {
                return Ok(evicted);
            }
            let batch = room.next_batch(self.connection, &self.sql.read, at);
            let batch = batch.map_err(self.failed())?;
            if batch.is_empty() {
                break;
            }
            for (id, id_hash) in batch {
                self.delete(id, id_hash)?;
                self.execute(&self.sql.write.delete_replaced_of, [id], |_| Effect::OtherTable)?;
                evicted.push(id_hash);
            }
        }
        if is_anonymous && at.is_none() && room.is_short(self.used_pages()?, false) {
            let why = "sessions of users fill the file, and the rest of it is for sign-ins";
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
        used().map_err(self.failed())
    }

    /// Deletes at most `limit` expired sessions, and as many outdated replaced ids. Returns the
    /// sessions.
    pub(crate) fn sweep(&mut self, now: Timestamp, limit: i64) -> Result<Vec<EndedSession>> {
        let params = [now.as_millis(), limit];
        let removed = self.delete_unreferenced(&self.sql.write.sweep, params)?;
        self.forget_replaced(now, limit)?;
        Ok(removed)
    }

    /// Returns the number of expired sessions that no sweep removes, because rows of other
    /// tables reference them.
    pub(crate) fn count_referenced(&self, now: Timestamp) -> Result<u64> {
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
        let except =
            except.map_or(Column::Null, |public_id| Column::Blob(public_id.as_bytes().to_vec()));
        let params = [Column::Integer(now.as_millis()), except].into_iter().chain(args);
        let text = with_condition(&self.sql.read.to_revoke, condition);
        let mut statement = self.connection.prepare(&text).map_err(self.failed())?;
        let found = statement
            .query_map(params_from_iter(params), |row| Ok((row.get(7)?, row::deleted(row)?)))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<(i64, EndedSession)>>>)
            .map_err(self.failed())?;
        for (id, ended) in &found {
            self.delete(*id, ended.id_hash)?;
        }
        let ended = found.into_iter().map(|(_, ended)| ended);
        Ok(ended.filter(|ended| ended.expired_by.is_none()).collect())
    }

    /// Executes a statement with a `{condition}` that deletes sessions, except referenced
    /// ones. Returns the deleted sessions.
    fn delete_unreferenced(
        &mut self,
        statement: &str,
        params: impl Params,
    ) -> Result<Vec<EndedSession>> {
        let referenced = self.referenced_condition()?.unwrap_or_else(|| "false".to_owned());
        let statement = with_condition(statement, &format!("NOT {referenced}"));
        let query = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.connection.prepare_cached(&statement)?;
            statement.query_map(params, row::deleted)?.collect()
        };
        let deleted = query().map_err(self.failed())?;
        for EndedSession { id_hash, .. } in &deleted {
            self.effects.record(Effect::Forget(*id_hash), 1);
        }
        Ok(deleted)
    }

    /// Gives the sessions of a user in a realm to another one. Returns their ids.
    pub(crate) fn rename_user(
        &mut self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
    ) -> Result<Vec<SessionIdHash>> {
        let query = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.connection.prepare_cached(&self.sql.write.rename_user)?;
            let params = params![from.as_str(), to.as_str(), realm.as_str()];
            let id_hash = |row: &Row<'_>| row.get(0).map(SessionIdHash::from_bytes);
            statement.query_map(params, id_hash)?.collect()
        };
        let renamed = query().map_err(self.failed())?;
        for id_hash in &renamed {
            self.effects.record(Effect::Forget(*id_hash), 1);
        }
        Ok(renamed)
    }

    /// Deletes all sessions and replaced ids, and raises the epoch. Returns how many sessions were
    /// live at `now`.
    pub(crate) fn delete_all(&mut self, now: Timestamp) -> Result<u64> {
        let live = self.count(&self.sql.read.count_live, [now.as_millis()])?;
        self.delete_or_end(EVERY_SESSION, [], Effect::Unknown)?;
        self.execute(&self.sql.write.delete_all_replaced, [], |_| Effect::OtherTable)?;
        self.raise_epoch()?;
        self.check_none_left(EVERY_SESSION, [])?;
        Ok(live)
    }

    /// Deletes all sessions of a realm, and raises the epoch. Returns how many were live at `now`.
    pub(crate) fn delete_all_of(&mut self, realm: &Realm, now: Timestamp) -> Result<u64> {
        let has_others: bool = self
            .connection
            .query_row(&self.sql.read.has_other_realms, [realm.as_str()], |row| row.get(0))
            .map_err(self.failed())?;
        if !has_others {
            // Much faster, because it has no condition.
            return self.delete_all(now);
        }
        let live =
            self.count(&self.sql.read.count_live_of, params![now.as_millis(), realm.as_str()])?;
        self.delete_or_end("realm = ?1", [realm.as_str()], Effect::Unknown)?;
        self.raise_epoch()?;
        self.check_none_left("realm = ?1", [realm.as_str()])?;
        Ok(live)
    }

    /// Raises the epoch above its value and above `other`.
    pub(crate) fn raise_epoch_above(&mut self, other: i64) -> Result<()> {
        let own = row::epoch(self.connection, &self.sql.read).map_err(self.failed())?;
        let above = own.max(other).saturating_add(1).to_string();
        self.execute(&self.sql.write.set_epoch, [above], |_| Effect::OtherTable).map(drop)
    }

    /// Gives a copy of the tables another identity than the original's.
    pub(crate) fn draw_identity(&mut self) -> Result<()> {
        self.execute(&self.sql.write.draw_identity, [], |_| Effect::OtherTable).map(drop)
    }

    /// Raises the epoch, so that every process with a cache reads all sessions again.
    pub(crate) fn raise_epoch(&mut self) -> Result<()> {
        self.execute(&self.sql.write.raise_epoch, [], |_| Effect::OtherTable).map(drop)
    }
}
