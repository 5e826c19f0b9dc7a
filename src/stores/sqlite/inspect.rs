//! Looking at sessions as an operator does: ended ones, single ones, all of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};

use crate::backend::{Page, SessionFilter};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{PublicId, Realm};
use crate::record::{Record, Summary};
use crate::stores::sqlite::admin::{DatabaseInfo, Progress, ProgressFn, facts_of};
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::file::Access;
use crate::stores::sqlite::{SqliteStore, index, row};

/// A session that was looked up by its handle.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionDetails {
    /// What a list shows of it.
    pub summary: Summary,
    /// All of it, data included, if it decodes.
    pub record: Result<Record>,
}

/// What reading every session has shown.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScanReport {
    /// Sessions that were read, ended ones included.
    pub sessions: u64,
    /// How many of those that decode are of each realm, by its name.
    pub realms: BTreeMap<Realm, u64>,
    /// How many do not decode.
    pub undecodable: u64,
    /// The first of those, and why.
    pub examples: Vec<(PublicId, Error)>,
    /// The latest time at which one was begun or used.
    pub latest: Option<Timestamp>,
}

/// The sizes of some sessions' data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataSizes {
    /// How many were looked at, evenly spread over all.
    pub sampled: u64,
    /// The bytes of their data, on average.
    pub average: u64,
    /// The bytes of the largest.
    pub largest: u64,
}

/// For operators: what goes beyond a [`SessionIndex`](crate::backend::SessionIndex).
impl SqliteStore {
    /// The file; `None` for a database in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.file.as_ref().map(|(_, path)| path.as_path())
    }

    /// Facts about the file; `None` for a database in memory.
    ///
    /// # Errors
    /// Those of every read.
    pub fn facts(&self) -> Result<Option<DatabaseInfo>> {
        self.0.writer.process().check()?;
        let of = |(access, path): &(Access, PathBuf)| facts_of(access, path, &self.0.table);
        self.0.file.as_ref().map(of).transpose()
    }

    /// Sessions that have ended and were not swept yet, the newest first.
    ///
    /// # Errors
    /// Those of every read.
    pub fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>> {
        const OPERATION: &str = "list ended sessions";
        self.0.readers.read(OPERATION, |connection| {
            let run = || match filter {
                SessionFilter::All => {
                    let after = page.after.map_or(i64::MAX, |cursor| cursor.position());
                    let limit = i64::try_from(page.limit.get()).unwrap_or(i64::MAX);
                    let mut list = connection.prepare_cached(&self.0.sql.list_expired)?;
                    list.query_map([now.as_millis(), after, limit], row::summary)?.collect()
                }
                _ => index::list(connection, &self.0.sql.list_ended_among, filter, page, now),
            };
            run().map_err(while_doing(OPERATION))
        })
    }

    /// The realms that have sessions, ended ones included, sorted by name. Reads the whole table:
    /// 0.3 s for 1,000,000 sessions that the machine has in memory.
    ///
    /// # Errors
    /// Those of every read.
    pub fn realms(&self) -> Result<Vec<Realm>> {
        const OPERATION: &str = "look for the realms";
        self.0.readers.read(OPERATION, |connection| {
            let run = || -> rusqlite::Result<Vec<Realm>> {
                let mut realms = connection.prepare(&self.0.sql.realms)?;
                // A name that makes no sense is none.
                let names = realms.query_map([], |row| {
                    Ok(row.get_ref(0)?.as_str().ok().and_then(|name| Realm::new(name).ok()))
                })?;
                names.filter_map(rusqlite::Result::transpose).collect()
            };
            run().map_err(while_doing(OPERATION))
        })
    }

    /// The number of live sessions of a realm. Reads the whole table, as [`realms`](Self::realms)
    /// does.
    ///
    /// # Errors
    /// Those of every read.
    pub fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64> {
        const OPERATION: &str = "count the sessions of a realm";
        self.0.readers.read(OPERATION, |connection| {
            super::count_live_of(connection, &self.0.sql, realm, now)
                .map_err(while_doing(OPERATION))
        })
    }

    /// The session of this handle, ended or not, with its data. An anonymous one is searched among
    /// all, which takes a while where there are many.
    ///
    /// # Errors
    /// Those of every read.
    pub fn find(&self, public_id: &PublicId) -> Result<Option<SessionDetails>> {
        const OPERATION: &str = "look a session up by its handle";
        self.0.readers.read(OPERATION, |connection| {
            // The summary and the record are of the same moment.
            let snapshot = connection.unchecked_transaction().map_err(while_doing(OPERATION))?;
            for sql in [&self.0.sql.by_handle_of_user, &self.0.sql.by_handle_of_nobody] {
                let summary = snapshot
                    .query_row(sql, [public_id.as_bytes()], row::summary)
                    .optional()
                    .map_err(while_doing(OPERATION))?;
                let Some(summary) = summary else { continue };
                let record = snapshot
                    .query_row(&self.0.sql.by_id, [summary.cursor.position()], |row| {
                        row::decode(row)
                    })
                    .map_err(while_doing(OPERATION))?;
                return Ok(Some(SessionDetails { summary, record }));
            }
            Ok(None)
        })
    }

    /// Reads and decodes every session, some at a time, so that the log can start again meanwhile.
    ///
    /// # Errors
    /// Those of every read.
    pub fn scan(&self, mut watch: ProgressFn) -> Result<ControlFlow<(), ScanReport>> {
        const OPERATION: &str = "read every session";
        const EXAMPLES: usize = 5;
        let mut examined = ScanReport::default();
        let total = self.0.readers.read(OPERATION, |connection| {
            let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            connection.query_row(&self.0.sql.count_all, [], count).map_err(while_doing(OPERATION))
        })?;
        let mut after = i64::MIN;
        loop {
            let before = examined.sessions;
            self.0.readers.read(OPERATION, |connection| {
                let mut read = || -> rusqlite::Result<()> {
                    let mut statement = connection.prepare_cached(&self.0.sql.after_id)?;
                    let mut rows = statement.query([after])?;
                    while let Some(row) = rows.next()? {
                        after = row.get(0)?;
                        examined.sessions += 1;
                        let times = row.get::<_, i64>(7)?.max(row.get(9)?);
                        examined.latest = examined.latest.max(Some(Timestamp::from_millis(times)));
                        match row::decode(row)? {
                            Ok(record) => *examined.realms.entry(record.realm).or_default() += 1,
                            Err(error) => {
                                examined.undecodable += 1;
                                if examined.examples.len() < EXAMPLES {
                                    let public_id = PublicId::from_bytes(row.get(3)?);
                                    examined.examples.push((public_id, error));
                                }
                            }
                        }
                    }
                    Ok(())
                };
                read().map_err(while_doing(OPERATION))
            })?;
            if examined.sessions == before {
                return Ok(ControlFlow::Continue(examined));
            }
            let total = u64::try_from(total).unwrap_or(0).max(examined.sessions);
            if watch(Progress { done: examined.sessions, total }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// How many of the live sessions were begun between each of these moments and the next, the
    /// moments in their order; the last number is of those begun since the last moment.
    ///
    /// The times at which sessions begin are in no index. Rows stand in the order in which they
    /// were begun, so the places of the moments are found by halving, and the rest is counted in
    /// the index of deadlines.
    ///
    /// # Errors
    /// Those of every read.
    pub fn count_created_since(&self, moments: &[Timestamp], now: Timestamp) -> Result<Vec<u64>> {
        const OPERATION: &str = "count sessions by day";
        self.0.readers.read(OPERATION, |connection| {
            let run = || {
                let snapshot = connection.unchecked_transaction()?;
                let mut places = Vec::new();
                for moment in moments {
                    places.push(first_begun_at(&snapshot, &self.0.sql.place, *moment)?);
                }
                let ends = places.iter().skip(1).copied().chain([i64::MAX]);
                let mut counts = String::new();
                for (from, to) in places.iter().zip(ends) {
                    counts
                        .push_str(&format!(", count(*) FILTER (WHERE id >= {from} AND id < {to})"));
                }
                let sql = self.0.sql.count_by_place.replace("{counts}", &counts);
                snapshot.query_row(&sql, [now.as_millis()], |row| {
                    let count = |at| Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0));
                    (1..=moments.len()).map(count).collect()
                })
            };
            run().map_err(while_doing(OPERATION))
        })
    }

    /// How large the data of sessions is, by some hundred of them.
    ///
    /// # Errors
    /// Those of every read.
    pub fn sizes(&self) -> Result<DataSizes> {
        const OPERATION: &str = "look at some sessions";
        const PROBES: i64 = 500;
        self.0.readers.read(OPERATION, |connection| {
            let run = || {
                let snapshot = connection.unchecked_transaction()?;
                let ends = snapshot.query_row(&self.0.sql.ends, [], |row| {
                    Ok(row.get::<_, Option<i64>>(0)?.zip(row.get::<_, Option<i64>>(1)?))
                })?;
                let Some((first, last)) = ends else { return Ok(DataSizes::default()) };
                let step = (last.saturating_sub(first) / PROBES).max(1);
                let mut probe = snapshot.prepare_cached(&self.0.sql.size_at)?;
                let (mut sizes, mut total, mut at) = (DataSizes::default(), 0, first);
                while at <= last {
                    let found = probe
                        .query_row([at], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
                    let Some((id, bytes)) = found.optional()? else { break };
                    let bytes = u64::try_from(bytes).unwrap_or(0);
                    sizes.sampled += 1;
                    sizes.largest = sizes.largest.max(bytes);
                    total += bytes;
                    at = id.max(at).saturating_add(step);
                }
                sizes.average = total.checked_div(sizes.sampled).unwrap_or(0);
                Ok(sizes)
            };
            run().map_err(while_doing(OPERATION))
        })
    }
}

/// The first row, in their order, that was begun at or after `moment`.
fn first_begun_at(
    connection: &Connection,
    place: &str,
    moment: Timestamp,
) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(place)?;
    let mut begun_at = |id: i64| {
        let row = statement.query_row([id], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
        row.optional()
    };
    // The first one at or after `low` is the answer or stands before it.
    let (mut low, mut high) = (0_i64, i64::MAX);
    let Some((first, _)) = begun_at(0)? else { return Ok(i64::MAX) };
    low = low.max(first);
    while low < high {
        let middle = low + (high - low) / 2;
        match begun_at(middle)? {
            Some((id, created)) if Timestamp::from_millis(created) < moment => {
                low = id.saturating_add(1);
            }
            _ => high = middle,
        }
    }
    Ok(low)
}
