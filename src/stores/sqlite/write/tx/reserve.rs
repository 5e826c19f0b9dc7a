//! The part of a bounded file that is reserved for sign-ins. Anonymous sessions of all realms,
//! which share the file, are evicted for it in the order of their deadlines. To find those that
//! were idle longest would take a list of all, too slow for a commit. The order of the deadlines is
//! nearly the same, has an index, and frees whole pages: rows that began together lie together.

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::sql::ReadSql;
use crate::stores::sqlite::write::tx::WriteTx;
use crate::sync::{IgnorePoison, Mutex};

/// The number of sessions in a batch, after which the free pages are counted again.
const BATCH_SIZE: i64 = 64;

/// The maximum number of sessions that one commit examines, so that it never blocks others for
/// long. A sign-in that finds no anonymous session among these takes its room from the reserve. Of
/// 51,200 stored sessions, 100 such sign-ins have examined all, and the reserve, a twentieth of the
/// file, has room for about 2,500.
const MAX_EXAMINED: i64 = 512;

/// The minimum number of pages reserved for sign-ins, unless that is more than half of the file: a
/// sign-in may split a page of each table and index.
const MIN_RESERVED_PAGES: i64 = 16;

/// The maximum size of a file, of which a part is reserved, and the position of the next eviction.
#[derive(Debug)]
pub(in crate::stores::sqlite) struct SignInReserve {
    max_pages: i64,
    /// The deadline and the row id of the session that was examined last. The next batch begins
    /// after it, because those before may all be users'. An index of the anonymous sessions alone
    /// would need no position, but make the creation of each session a fifth slower, and each touch
    /// a half.
    examined: Mutex<(i64, i64)>,
}

/// The position at the start of a round. A session with the deadline 0 has ended, and another table
/// keeps its row.
const NONE_EXAMINED: (i64, i64) = (0, i64::MAX);

impl SignInReserve {
    pub(in crate::stores::sqlite) fn new(max_pages: i64) -> Self {
        SignInReserve { max_pages, examined: Mutex::new(NONE_EXAMINED) }
    }

    /// Returns whether so many pages are used that sessions must be evicted before a change: of an
    /// anonymous session if less than a tenth of the file is free, of a user's if less than a
    /// twentieth.
    fn must_evict(&self, used_pages: i64, is_anonymous: bool) -> bool {
        let (share, min_pages) =
            if is_anonymous { (10, MIN_RESERVED_PAGES * 2) } else { (20, MIN_RESERVED_PAGES) };
        let reserved = (self.max_pages / share).max(min_pages).min(self.max_pages / 2);
        used_pages > self.max_pages - reserved
    }

    /// Examines the next batch of sessions in the order of their deadlines. Returns the row ids and
    /// ids of the anonymous ones; after the end of a round none, and the next one begins.
    fn next_batch(
        &self,
        connection: &Connection,
        sql: &ReadSql,
    ) -> rusqlite::Result<Vec<(i64, SessionIdHash)>> {
        let mut examined = self.examined.lock().ignore_poison();
        let mut anonymous = Vec::new();
        let mut statement = connection.prepare_cached(&sql.after_deadline)?;
        let (deadline, id) = *examined;
        let mut rows = statement.query((deadline, id, BATCH_SIZE))?;
        *examined = NONE_EXAMINED;
        while let Some(row) = rows.next()? {
            let id = row.get("id")?;
            *examined = (row.get("deadline")?, id);
            if row.get("is_anonymous")? {
                anonymous.push((id, SessionIdHash::from_bytes(row.get("id_hash")?)));
            }
        }
        Ok(anonymous)
    }
}

impl WriteTx<'_> {
    /// Evicts anonymous sessions that end soon from a bounded file, so that the session of `record`
    /// can be stored; `row_id` is the row in which it is stored already. Returns their id hashes.
    /// Fails with [`ErrorKind::Full`] if all that is free is reserved for sign-ins.
    pub(crate) fn evict_for(
        &mut self,
        record: &Record,
        row_id: Option<i64>,
    ) -> Result<Vec<SessionIdHash>> {
        let mut evicted = Vec::new();
        let is_anonymous = record.user.is_none();
        let Some(reserve) = self.reserve else { return Ok(evicted) };
        for _ in 0..MAX_EXAMINED / BATCH_SIZE {
            if !reserve.must_evict(self.used_pages()?, is_anonymous) {
                return Ok(evicted);
            }
            let batch = reserve.next_batch(self.connection, &self.sql.read);
            for (id, id_hash) in batch.during(self.operation)? {
                if Some(id) == row_id {
                    continue;
                }
                self.delete(id, id_hash)?;
                // They lead nowhere any more, but the file needs their space now.
                self.delete_replaced_of(id)?;
                evicted.push(id_hash);
            }
        }
        // All that is free is reserved for sign-ins.
        if is_anonymous && row_id.is_none() && reserve.must_evict(self.used_pages()?, false) {
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
}
