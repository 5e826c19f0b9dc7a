//! Operators' calls on the sessions of an open store. `copy` reads and writes whole sessions, and
//! `info` describes the server.

mod copy;
mod info;

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use crate::backend::{Maintenance, SessionIndex};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm};
use crate::list::{Page, SessionFilter, Summary};
use crate::stores::admin::{Admin, ProgressFn, SessionCounts, SessionDetails, sweep_in_batches};
use crate::stores::copy::{CopyBatch, CopyMark, StoredPage};
use crate::stores::postgres::connection::{CallTime, Query};
use crate::stores::postgres::index::count;
use crate::stores::postgres::migrate;
use crate::stores::postgres::store::{PostgresInner, PostgresStore};
use crate::stores::sql::columns::session;
use crate::stores::sql::{created_counts, decode};

pub use info::DatabaseServer;

impl Admin for PostgresStore {
    fn session_index(&self) -> &dyn SessionIndex {
        &*self.0
    }

    fn table(&self) -> &str {
        &self.0.names.table
    }

    fn description(&self) -> String {
        let PostgresInner { names, server, .. } = &*self.0;
        format!("table {}.{} in {server}", names.schema, names.table)
    }

    fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>> {
        let inner = &self.0;
        let operation = "list expired sessions";
        inner.list_by(CallTime::Bulk, operation, &inner.sql.list_expired, filter, page, now)
    }

    fn find(&self, public_id: &PublicId) -> Result<Option<SessionDetails>> {
        let columns = session::NAMES.join(", ");
        let table = self.0.names.qualified("");
        let sql = format!("SELECT {columns}, id FROM {table} WHERE public_id = $1");
        self.0.pool.call("find a session by its public id", async |trips| {
            let rows = trips.query(Query::new(&sql, [public_id.as_bytes().into()])).await?;
            Ok(rows.first().map(decode::details).transpose()?)
        })
    }

    fn realms(&self) -> Result<Vec<Realm>> {
        let sql =
            format!("SELECT DISTINCT realm FROM {} ORDER BY realm", self.0.names.qualified(""));
        self.0.pool.call_within(CallTime::Bulk, "list the realms", async |trips| {
            let rows = trips.query(Query::new(&sql, [])).await?;
            let realms = rows.iter().map(decode::realm).filter_map(Result::transpose);
            Ok(realms.collect::<Result<_>>()?)
        })
    }

    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64> {
        let sql = format!(
            "SELECT count(*) AS live FROM {} WHERE deadline > $1 AND realm = $2",
            self.0.names.qualified("")
        );
        self.0.pool.call_within(CallTime::Bulk, "count the sessions of a realm", async |trips| {
            let params = [now.as_millis().into(), realm.as_str().into()];
            let rows = trips.query(Query::new(&sql, params)).await?;
            count(rows.first(), "live")
        })
    }

    fn counts(&self, times: &[Timestamp], now: Timestamp) -> Result<SessionCounts> {
        let sql = format!(
            "SELECT coalesce(avg(length(data)), 0)::bigint, \
             coalesce(max(length(data)), 0)::bigint{} FROM {}",
            created_counts(times, now),
            self.0.names.qualified("")
        );
        self.0.pool.call_within(CallTime::Bulk, "count sessions by day", async |trips| {
            let rows = trips.query(Query::new(&sql, [])).await?;
            let counts = rows.first().map(|row| decode::counts(row, times.len())).transpose()?;
            Ok(counts.unwrap_or_default())
        })
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<u64> {
        let inner = &self.0;
        let ended = inner.revoke_with(filter, except, now, Some(&inner.sql.raise_epoch))?;
        Ok(ended.len() as u64)
    }

    fn sweep_all(
        &self,
        now: Timestamp,
        limit: u64,
        progress: ProgressFn,
    ) -> Result<ControlFlow<(), u64>> {
        // Compares the clocks.
        self.0.run()?;
        if self.0.is_clock_ahead() {
            let seconds = self.0.clock_ahead.load(Ordering::Relaxed) / 1000;
            let why = format!(
                "the clock of this machine is {seconds} s ahead of the server's, so that live \
                 sessions seem to have expired, and nothing was swept; correct the clocks (NTP)"
            );
            return Err(Error::with_source(ErrorKind::Unexpected, "sweep expired sessions", why));
        }
        sweep_in_batches(self, now, limit, progress, || Ok(()))
    }

    fn clear(&self) -> Result<u64> {
        // Every deadline is later than this time, so every session counts.
        self.0.revoke_everyone(None, Timestamp::from_millis(i64::MIN))
    }

    fn drop_tables(&self) -> Result<()> {
        let inner = &self.0;
        let names = &self.0.names;
        let history = names.history();
        let has_others = format!("SELECT 1 FROM {history} LIMIT 1");
        inner.pool.call_within(CallTime::Bulk, "drop the tables", async |trips| {
            let lock = Query::new(&inner.sql.exclusive_lock, [inner.locks.migration.into()]);
            trips.begin([lock]).await?;
            // Fails for a foreign table.
            if migrate::version(trips, names).await? == 0 {
                return Ok(());
            }
            let found = migrate::existing(trips, names).await?;
            migrate::remove(trips, names, &found).await?;
            if trips.query(Query::new(&has_others, [])).await?.is_empty() {
                trips.execute_script(&format!("DROP TABLE {history}")).await?;
            }
            trips.commit(Vec::new()).await.map(drop)
        })
    }

    fn export(&self, after: i64, limit: usize) -> Result<StoredPage> {
        copy::export(&self.0, after, limit)
    }

    fn copy_mark(&self) -> Result<Option<CopyMark>> {
        copy::mark(&self.0)
    }

    fn import(
        &self,
        batch: &CopyBatch,
        present: Option<&CopyMark>,
        mark: CopyMark,
    ) -> Result<CopyMark> {
        copy::import(&self.0, batch, present, mark)
    }
}
