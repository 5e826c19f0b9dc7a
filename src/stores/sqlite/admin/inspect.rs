//! Operators' calls that read sessions: expired ones, single ones, counts, a scan of all.

use std::ops::ControlFlow;

use rusqlite::types::Null;
use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm};
use crate::list::{Page, SessionFilter, Summary};
use crate::stores::sqlite::admin::Admin;
use crate::stores::sqlite::admin::report::{
    DataSizes, Progress, ProgressFn, ScanReport, SessionDetails,
};
use crate::stores::sqlite::columns::{ROW_ID, session};
use crate::stores::sqlite::index;
use crate::stores::sqlite::row;
use crate::stores::sqlite::sql::ReadSql;

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl Admin {
    /// Lists expired sessions that were not swept yet, the newest first.
    pub fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>> {
        self.query("list expired sessions", |connection, sql| match filter {
            SessionFilter::All => {
                let after = page.after.map_or(i64::MAX, |cursor| cursor.position());
                let limit = i64::try_from(page.limit.get()).unwrap_or(i64::MAX);
                let mut list = connection.prepare_cached(&sql.list_expired)?;
                list.query_map([now.as_millis(), after, limit], row::summary)?.collect()
            }
            _ => index::list(connection, sql, &sql.list_expired_matching, filter, page, now),
        })
    }

    /// Returns the realms that have sessions, expired ones included, sorted by name. Reads the
    /// whole table: 0.3 s for 1,000,000 sessions in the page cache.
    pub fn realms(&self) -> Result<Vec<Realm>> {
        self.query("list the realms", |connection, sql| {
            let mut realms = connection.prepare(&sql.realms)?;
            // An undecodable name counts as none.
            let names = realms.query_map([], |row| {
                Ok(row.get_ref(0)?.as_str().ok().and_then(|name| Realm::new(name).ok()))
            })?;
            names.filter_map(rusqlite::Result::transpose).collect()
        })
    }

    /// Returns the number of live sessions of a realm. Reads the whole table, as
    /// [`realms`](Self::realms) does.
    pub fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64> {
        self.query("count the sessions of a realm", |connection, sql| {
            row::count(connection, &sql.count_live_of, params![now.as_millis(), realm.as_str()])
        })
    }

    /// Returns the session with this public id, expired or not, with its data. Anonymous sessions
    /// are not indexed by it, so finding one reads all of them.
    pub fn find(&self, public_id: &PublicId) -> Result<Option<SessionDetails>> {
        self.query("find a session by its public id", |connection, sql| {
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

    /// Reads and decodes all sessions, in batches, so that the write-ahead log can be reset
    /// meanwhile.
    pub fn scan(&self, mut progress: ProgressFn) -> Result<ControlFlow<(), ScanReport>> {
        const OPERATION: &str = "read every session";
        const EXAMPLES: usize = 5;
        let store = self.store_for_reading()?;
        let mut report = ScanReport::default();
        let total = store
            .0
            .query(OPERATION, |connection, sql| row::count(connection, &sql.count_all, []))?;
        let mut after = i64::MIN;
        loop {
            let before = report.sessions;
            store.0.query(OPERATION, |connection, sql| {
                let mut statement = connection.prepare_cached(&sql.after_id)?;
                let mut rows = statement.query([after])?;
                while let Some(row) = rows.next()? {
                    after = row.get(ROW_ID)?;
                    report.sessions += 1;
                    let created: i64 = row.get(session::created)?;
                    let seen: i64 = row.get(session::seen)?;
                    let used = Timestamp::from_millis(created.max(seen));
                    report.latest = report.latest.max(Some(used));
                    match row::decode(row)? {
                        Ok(record) => *report.realms.entry(record.realm).or_default() += 1,
                        Err(error) => {
                            report.undecodable += 1;
                            if report.examples.len() < EXAMPLES {
                                let public_id = row.get(session::public_id)?;
                                report.examples.push((PublicId::from_bytes(public_id), error));
                            }
                        }
                    }
                }
                Ok(())
            })?;
            if report.sessions == before {
                return Ok(ControlFlow::Continue(report));
            }
            let total = total.max(report.sessions);
            if progress(Progress { done: report.sessions, total }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// Returns, for each of `times` in ascending order, the number of live sessions created from
    /// then until the next time; for the last one, all that were created since.
    pub fn count_created_since(&self, times: &[Timestamp], now: Timestamp) -> Result<Vec<u64>> {
        // Creation times have no index. Row ids are in the order of creation, so a binary search
        // finds the first row of each period, and the index of deadlines counts the rows between.
        self.query("count sessions by day", |connection, sql| {
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
        })
    }

    /// Returns the sizes of sessions' data, from a sample of about 500.
    pub fn sizes(&self) -> Result<DataSizes> {
        const PROBES: i64 = 500;
        self.query("sample sessions", |connection, sql| {
            let snapshot = connection.unchecked_transaction()?;
            let range: (Option<i64>, Option<i64>) =
                snapshot.query_row(&sql.id_range, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let (Some(first), Some(last)) = range else { return Ok(DataSizes::default()) };
            let step = (last.saturating_sub(first) / PROBES).max(1);
            let mut probe = snapshot.prepare_cached(&sql.size_at)?;
            let mut sizes = DataSizes::default();
            let mut total = 0;
            let mut at = first;
            while at <= last {
                let found =
                    probe.query_row([at], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
                let Some((id, bytes)) = found.optional()? else { break };
                let bytes = u64::try_from(bytes).unwrap_or(0);
                sizes.sampled += 1;
                sizes.largest = sizes.largest.max(bytes);
                total += bytes;
                at = id.max(at).saturating_add(step);
            }
            sizes.average = total.checked_div(sizes.sampled).unwrap_or(0);
            Ok(sizes)
        })
    }

    fn query<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection, &ReadSql) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.store_for_reading()?.0.query(operation, query)
    }
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
