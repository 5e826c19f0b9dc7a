//! Operators' calls on the sessions of an open store.

use std::ops::ControlFlow;

use rusqlite::types::Null;
use rusqlite::{Connection, OptionalExtension, params};

use crate::backend::SessionIndex;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm};
use crate::list::{Page, SessionFilter, Summary};
use crate::stores::admin::{Admin, ProgressFn, SessionCounts, SessionDetails, sweep_in_batches};
use crate::stores::copy::{CopyBatch, CopyMark, StoredPage};
use crate::stores::sqlite::admin::copy;
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::index;
use crate::stores::sqlite::migrate;
use crate::stores::sqlite::row;
use crate::stores::sqlite::sql::ReadSql;
use crate::stores::sqlite::store::SqliteStore;
use crate::stores::sqlite::wal::CHECKPOINT;
use crate::stores::sqlite::write::JobKind;

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
                let after = page.after.map_or(i64::MAX, |cursor| cursor.position());
                let limit = i64::try_from(page.limit.get()).unwrap_or(i64::MAX);
                let mut list = connection.prepare_cached(&sql.list_expired)?;
                list.query_map([now.as_millis(), after, limit], row::summary)?.collect()
            }
            _ => index::list(connection, sql, &sql.list_expired_matching, filter, page, now),
        })
    }

    fn realms(&self) -> Result<Vec<Realm>> {
        self.0.query("list the realms", |connection, sql| {
            let mut realms = connection.prepare(&sql.realms)?;
            // An undecodable name counts as none.
            let names = realms.query_map([], |row| {
                Ok(row.get_ref(0)?.as_str().ok().and_then(|name| Realm::new(name).ok()))
            })?;
            names.filter_map(rusqlite::Result::transpose).collect()
        })
    }

    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64> {
        self.0.query("count the sessions of a realm", |connection, sql| {
            row::count(connection, &sql.count_live_of, params![now.as_millis(), realm.as_str()])
        })
    }

    fn find(&self, public_id: &PublicId) -> Result<Option<SessionDetails>> {
        self.0.query("find a session by its public id", |connection, sql| {
            // One snapshot for the summary and the record.
            let snapshot = connection.unchecked_transaction()?;
            let params = params![Null, Null, public_id.as_bytes()];
            let summary = snapshot.query_row(&sql.by_public_id, params, row::summary).optional()?;
            let Some(summary) = summary else { return Ok(None) };
            let id = summary.cursor.position();
            let record = snapshot.query_row(&sql.by_id, [id], row::decode)?;
            Ok(Some(SessionDetails { summary, record }))
        })
    }

    fn counts(&self, times: &[Timestamp], now: Timestamp) -> Result<SessionCounts> {
        let created = self.0.query("count sessions by day", |connection, sql| {
            count_created_since(connection, sql, times, now)
        })?;
        let counts = SessionCounts { created, ..SessionCounts::default() };
        self.0.query("sample sessions", |connection, sql| sample_data(connection, sql, counts))
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<u64> {
        let except = except.copied();
        let (condition, args) = index::condition(&self.0.sql, filter);
        let revoked = self.0.writer.write(JobKind::Synced, "revoke sessions", move |tx| {
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
        sweep_in_batches(self, now, limit, progress, || {
            self.0.read(CHECKPOINT, |connection| wal.checkpoint_if_requested(connection))
        })
    }

    fn clear(&self) -> Result<u64> {
        let table = self.0.table.clone();
        self.0.writer.write(JobKind::Synced, "clear the table", move |tx| {
            match tx.with_connection(|connection| migrate::version(connection, &table))? {
                0 => Ok(0),
                // Every deadline is later than this time, so every session counts.
                _ => tx.delete_all(Timestamp::from_millis(i64::MIN)),
            }
        })
    }

    fn drop_tables(&self) -> Result<()> {
        const OPERATION: &str = "drop the tables";
        let table = self.0.table.clone();
        self.0.writer.write(JobKind::Synced, OPERATION, move |tx| {
            tx.with_connection(|connection| {
                // Fails for a foreign table.
                migrate::version(connection, &table)?;
                migrate::remove(connection, &table).map_err(while_doing(OPERATION))
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

/// Creation times have no index. Row ids are in the order of creation, so a binary search finds the
/// first row of each period, and the index of deadlines counts the rows between.
fn count_created_since(
    connection: &Connection,
    sql: &ReadSql,
    times: &[Timestamp],
    now: Timestamp,
) -> rusqlite::Result<Vec<u64>> {
    let snapshot = connection.unchecked_transaction()?;
    let mut starts = Vec::new();
    for time in times {
        starts.push(first_created_at(&snapshot, &sql.first_from, *time)?);
    }
    let ends = starts.iter().skip(1).copied().chain([i64::MAX]);
    let mut counts = String::new();
    for (from, to) in starts.iter().zip(ends) {
        counts.push_str(&format!(", count(*) FILTER (WHERE id >= {from} AND id < {to})"));
    }
    let sql = sql.count_by_period.replace("{counts}", &counts);
    snapshot.query_row(&sql, [now.as_millis()], |row| {
        let count = |column| Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0));
        (1..=times.len()).map(count).collect()
    })
}

/// Measures the data of some 500 sessions.
fn sample_data(
    connection: &Connection,
    sql: &ReadSql,
    mut counts: SessionCounts,
) -> rusqlite::Result<SessionCounts> {
    const PROBES: i64 = 500;
    let snapshot = connection.unchecked_transaction()?;
    let range: (Option<i64>, Option<i64>) =
        snapshot.query_row(&sql.id_range, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = range else { return Ok(counts) };
    let step = (last.saturating_sub(first) / PROBES).max(1);
    let mut probe = snapshot.prepare_cached(&sql.size_at)?;
    let mut total = 0;
    let mut at = first;
    while at <= last {
        let found = probe.query_row([at], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let Some((id, bytes)) = found.optional()? else { break };
        let bytes = u64::try_from(bytes).unwrap_or(0);
        counts.sampled += 1;
        counts.largest = counts.largest.max(bytes);
        total += bytes;
        at = id.max(at).saturating_add(step);
    }
    counts.average = total.checked_div(counts.sampled).unwrap_or(0);
    Ok(counts)
}

/// Returns the row id of the first session created at or after `time`.
fn first_created_at(
    connection: &Connection,
    first_from: &str,
    time: Timestamp,
) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(first_from)?;
    let mut created_at = |id: i64| {
        let row = statement.query_row([id], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
        row.optional()
    };
    // The answer is in `low..=high`.
    let mut low = 0_i64;
    let mut high = i64::MAX;
    let Some((first, _)) = created_at(0)? else { return Ok(i64::MAX) };
    low = low.max(first);
    while low < high {
        let middle = low + (high - low) / 2;
        match created_at(middle)? {
            Some((id, created)) if Timestamp::from_millis(created) < time => {
                low = id.saturating_add(1);
            }
            _ => high = middle,
        }
    }
    Ok(low)
}
