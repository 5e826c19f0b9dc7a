//! Changes of sessions, of their replaced ids, and of the epoch.

use rusqlite::{Row, named_params, params, params_from_iter};

use crate::backend::{Found, IdChange, LiveSession, ReplacedId};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::record::{FORMAT, Touch};
use crate::stores::sql::columns::{ColumnValue, session};
use crate::stores::sql::{FORGOTTEN_PER_CHANGE, decode, saturating_i64};
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::sql::row::{self, FoundRow};
use crate::stores::sqlite::write::tx::{Affected, WriteTx};

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
        let revision = saturating_i64(record.revision);
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
}

/// Replaced ids.
impl WriteTx<'_> {
    /// Stores the replaced ids that a session remembers after a change of its id, in place of those
    /// before it.
    pub(crate) fn remember_id_change(
        &mut self,
        row_id: i64,
        public_id: &PublicId,
        id_change: &IdChange,
    ) -> Result<()> {
        let earlier = || -> rusqlite::Result<_> {
            let mut statement = self.connection.prepare_cached(&self.sql.read.replaced_of)?;
            let params = params![row_id, public_id.as_bytes()];
            statement.query_map(params, |row| decode::replaced_id(row, 0))?.collect()
        };
        let remembered = id_change.remembered(earlier().during(self.operation)?);
        self.delete_replaced_of(row_id)?;
        self.insert_replaced(row_id, public_id, &remembered)
    }

    /// Remembers a replaced id of another session as one of a new session.
    pub(crate) fn reassign_replaced(
        &mut self,
        row_id: i64,
        public_id: &PublicId,
        id: &ReplacedId,
    ) -> Result<()> {
        let params = [id.id_hash.as_bytes()];
        self.execute(&self.sql.write.delete_replaced, params, Affected::NoSession)?;
        self.delete_replaced_of(row_id)?;
        self.insert_replaced(row_id, public_id, &[*id])
    }

    /// Inserts the replaced ids of a session, and deletes forgotten ones.
    fn insert_replaced(
        &mut self,
        row_id: i64,
        public_id: &PublicId,
        ids: &[ReplacedId],
    ) -> Result<()> {
        for id in ids {
            let params = row::replaced_params(row_id, public_id, id);
            self.execute(&self.sql.write.insert_replaced, params, Affected::NoSession)?;
        }
        ids.last().map_or(Ok(()), |latest| {
            self.delete_forgotten(latest.replaced_at, FORGOTTEN_PER_CHANGE)
        })
    }

    pub(super) fn delete_replaced_of(&mut self, row_id: i64) -> Result<()> {
        let delete = &self.sql.write.delete_replaced_of;
        self.execute(delete, [row_id], Affected::NoSession).map(drop)
    }

    /// Deletes at most `limit` forgotten replaced ids.
    pub(super) fn delete_forgotten(&mut self, now: Timestamp, limit: i64) -> Result<()> {
        let params = [now.as_millis(), limit];
        self.execute(&self.sql.write.delete_forgotten, params, Affected::NoSession).map(drop)
    }
}

/// The epoch and the identity of the tables.
impl WriteTx<'_> {
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
