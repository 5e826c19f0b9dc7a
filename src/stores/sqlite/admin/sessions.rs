//! Operators' calls on the sessions of an open store.

use std::ops::ControlFlow;

use rusqlite::types::Null;
use rusqlite::{OptionalExtension, params};

use crate::backend::SessionIndex;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm};
use crate::list::{Page, SessionFilter, Summary};
use crate::stores::admin::{Admin, ProgressFn, SessionCounts, SessionDetails, sweep_in_batches};
use crate::stores::copy::{CopyBatch, CopyMark, StoredPage};
use crate::stores::sql::{created_counts, decode, page_params};
use crate::stores::sqlite::admin::copy;
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::index;
use crate::stores::sqlite::migrate;
use crate::stores::sqlite::sql::row;
use crate::stores::sqlite::store::SqliteStore;
use crate::stores::sqlite::wal::CHECKPOINT;

impl Admin for SqliteStore {
    fn session_index(&self) -> &dyn SessionIndex {
        &*self.0
    }

    fn table(&self) -> &str {
        self.0.table.as_str()
    }

    fn description(&self) -> String {
        let table = self.0.table.as_str();
        match self.path() {
            Some(path) => format!("table {table} in {}", path.display()),
            None => format!("table {table} in memory"),
        }
    }

    fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>> {
        self.0.query("list expired sessions", |connection, sql| match filter {
            SessionFilter::All => {
                let [before, limit] = page_params(page);
                let mut list = connection.prepare_cached(&sql.list_expired)?;
                list.query_map([now.as_millis(), before, limit], |row| decode::summary(row))?
                    .collect()
            }
            _ => index::list(connection, sql, &sql.list_expired_matching, filter, page, now),
        })
    }

    fn realms(&self) -> Result<Vec<Realm>> {
        self.0.query("list the realms", |connection, sql| {
            let mut statement = connection.prepare(&sql.realms)?;
            let realms = statement.query_map([], |row| decode::realm(row))?;
            realms.filter_map(Result::transpose).collect()
        })
    }

    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64> {
        self.0.query("count the sessions of a realm", |connection, sql| {
            row::count(connection, &sql.count_live_of, params![now.as_millis(), realm.as_str()])
        })
    }

    fn find(&self, public_id: &PublicId) -> Result<Option<SessionDetails>> {
        self.0.query("find a session by its public id", |connection, sql| {
            let params = params![Null, Null, public_id.as_bytes()];
            connection.query_row(&sql.by_public_id, params, |row| decode::details(row)).optional()
        })
    }

    fn counts(&self, times: &[Timestamp], now: Timestamp) -> Result<SessionCounts> {
        self.0.query("count sessions by day", |connection, sql| {
            let sql = sql.counts.replace("{created}", &created_counts(times, now));
            connection.query_row(&sql, [], |row| decode::counts(row, times.len()))
        })
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<u64> {
        let except = except.copied();
        let (condition, args) = index::condition(&self.0.sql, filter);
        let revoked = self.0.writer.write("revoke sessions", move |tx| {
            let revoked = tx.revoke(&condition, args, except.as_ref(), now)?;
            // Even if none was live here: a cache may have an entry of one that ended before.
            tx.raise_epoch()?;
            Ok(revoked)
        })?;
        Ok(revoked.len() as u64)
    }

    fn sweep_all(
        &self,
        now: Timestamp,
        limit: u64,
        progress: ProgressFn,
    ) -> Result<ControlFlow<(), u64>> {
        let wal = self.0.writer.wal();
        // The restart of the log, for which every writer waits until the disk has synced, is left
        // to the service.
        sweep_in_batches(self, now, limit, progress, || {
            self.0.read(CHECKPOINT, |connection| wal.checkpoint_if_requested(connection))
        })
    }

    fn clear(&self) -> Result<u64> {
        let table = self.0.table.clone();
        self.0.writer.write("clear the table", move |tx| {
            match tx.with_connection(|connection| migrate::version(connection, &table))? {
                0 => Ok(0),
                // Every deadline is later than this time, so every session counts.
                _ => tx.revoke_everyone(Timestamp::from_millis(i64::MIN)),
            }
        })
    }

    fn drop_tables(&self) -> Result<()> {
        const OPERATION: &str = "drop the tables";
        let table = self.0.table.clone();
        self.0.writer.write(OPERATION, move |tx| {
            tx.with_connection(|connection| {
                // Fails for a foreign table.
                migrate::version(connection, &table)?;
                migrate::remove(connection, &table).during(OPERATION)
            })
        })
    }

    fn export(&self, after: i64, limit: usize) -> Result<StoredPage> {
        copy::export(self, after, limit)
    }

    fn copy_mark(&self) -> Result<Option<CopyMark>> {
        copy::mark(self)
    }

    fn import(
        &self,
        batch: &CopyBatch,
        present: Option<&CopyMark>,
        mark: CopyMark,
    ) -> Result<CopyMark> {
        copy::import(self, batch, present, mark)
    }
}
