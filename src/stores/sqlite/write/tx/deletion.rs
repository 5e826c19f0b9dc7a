//! Deletions of sessions, beside the foreign keys and triggers of the application.

use rusqlite::types::Value as Column;
use rusqlite::{OptionalExtension, Params, Row, params, params_from_iter};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash};
use crate::record::EndedSession;
use crate::stores::sql::{decode, with_condition};
use crate::stores::sqlite::error::{During, refuses_deletion};
use crate::stores::sqlite::references;
use crate::stores::sqlite::write::sql::WriteSql;
use crate::stores::sqlite::write::tx::{Affected, WriteTx};

impl WriteTx<'_> {
    /// Deletes a session. Its replaced ids stay until they are forgotten, which spares a statement
    /// here: a lookup joins them with the session by its row id and its public id, so they lead
    /// nowhere, even if another session gets the row id.
    pub(crate) fn delete(&mut self, row_id: i64, id_hash: SessionIdHash) -> Result<()> {
        let rows = self.delete_or_end("id = ?1", [row_id], Affected::Session(id_hash))?;
        self.check_changed(rows)
    }

    /// Deletes those of these sessions that are anonymous, and returns their number.
    pub(crate) fn evict_anonymous(&mut self, id_hashes: &[SessionIdHash]) -> Result<usize> {
        let mut removed = 0;
        for id_hash in id_hashes {
            let row_id: Option<i64> = self
                .connection
                .prepare_cached(&self.sql.read.anonymous)
                .and_then(|mut find| {
                    find.query_row([id_hash.as_bytes()], |row| row.get(0)).optional()
                })
                .during(self.operation)?;
            if let Some(row_id) = row_id {
                self.delete(row_id, *id_hash)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Deletes at most `limit` expired sessions that no table references, and as many forgotten
    /// replaced ids. Returns the sessions.
    pub(crate) fn sweep(&mut self, now: Timestamp, limit: i64) -> Result<Vec<EndedSession>> {
        let referenced = self.referenced_condition()?.unwrap_or("false");
        let sweep = with_condition(&self.sql.write.sweep, referenced);
        let params = [now.as_millis(), limit];
        let ended = |row: &Row<'_>| decode::ended_session(row, now);
        let removed = self.execute_returning(&sweep, params, ended, |ended| ended.id_hash)?;
        self.delete_forgotten(now, limit)?;
        Ok(removed)
    }

    /// Returns the number of expired sessions that no sweep removes, because rows of other
    /// tables reference them.
    pub(crate) fn count_referenced(&self, now: Timestamp) -> Result<u64> {
        let Some(referenced) = self.referenced_condition()? else { return Ok(0) };
        let count = with_condition(&self.sql.read.count_expired_matching, referenced);
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
}

/// What the application's schema keeps or brings back.
impl WriteTx<'_> {
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
            Err(error) if !(refuses_deletion(&error) && self.is_open()) => return Err(error),
            deleted => deleted.unwrap_or(0),
        };
        // A trigger may have inserted deleted rows again, with their former deadline.
        let ended_in_place = self.execute(&with_condition(end, condition), params, affected)?;
        self.check_none_left(condition, params)?;
        Ok(deleted + ended_in_place)
    }

    /// Fails if sessions that match `condition` are left as they were, after all were ended.
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

    /// Asked once per transaction, because the query reads the definitions of all tables.
    fn referenced_condition(&self) -> Result<Option<&str>> {
        let condition = match self.referenced_condition.get() {
            Some(known) => known,
            None => {
                let condition = references::referenced_condition(self.connection, &self.sql.read)
                    .during(self.operation)?;
                self.referenced_condition.get_or_init(|| condition)
            }
        };
        Ok(condition.as_deref())
    }
}
