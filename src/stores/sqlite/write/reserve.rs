//! The part of a bounded file that is reserved for sign-ins: when anonymous sessions are evicted
//! for it, and which ones.

use rusqlite::{Connection, params};

use crate::id::SessionIdHash;
use crate::stores::sqlite::sql::ReadSql;
use crate::sync::{IgnorePoison, Mutex};

/// The maximum number of batches that one commit evicts.
pub(super) const MAX_BATCHES: usize = 8;

/// The maximum number of sessions in a batch.
const BATCH: usize = 64;

/// The maximum number of rows that are read to find a batch.
const MAX_ROWS: i64 = 2048;

/// The minimum number of reserved pages, unless that is more than half of the file: a sign-in may
/// split a page of each table and index.
const MIN_PAGES: i64 = 16;

/// The maximum size of a file, of which a part is reserved, and the position of the next eviction.
#[derive(Debug)]
pub(in crate::stores::sqlite) struct SignInReserve {
    max_pages: i64,
    /// The deadline and the row id up to which sessions were examined. Sessions before this
    /// position were kept: they have a user, or moved there later. The next round examines them
    /// again. A search without this would read the sessions of all users each time.
    examined: Mutex<(i64, i64)>,
}

/// The start of a round. A session with the deadline 0 has ended, and another table keeps its row.
const START: (i64, i64) = (0, i64::MAX);

impl SignInReserve {
    pub(in crate::stores::sqlite) fn new(max_pages: i64) -> Self {
        SignInReserve { max_pages, examined: Mutex::new(START) }
    }

    /// Returns whether a file with this number of used pages has too few free ones: less than a
    /// tenth of the file before a change of an anonymous session, less than a twentieth before a
    /// change of a user's.
    pub(super) fn is_short(&self, used: i64, is_anonymous: bool) -> bool {
        let (share, least) = if is_anonymous { (10, MIN_PAGES * 2) } else { (20, MIN_PAGES) };
        let reserved = (self.max_pages / share).max(least).min(self.max_pages / 2);
        used > self.max_pages - reserved
    }

    /// Returns the row ids and ids of anonymous sessions to evict, in the order of their deadlines
    /// from where the last batch ended. The session in the row `except` is not among them.
    pub(super) fn next_batch(
        &self,
        connection: &Connection,
        sql: &ReadSql,
        except: Option<i64>,
    ) -> rusqlite::Result<Vec<(i64, SessionIdHash)>> {
        let mut examined = self.examined.lock().ignore_poison();
        loop {
            let began_at = *examined;
            let mut batch = Vec::new();
            let mut statement = connection.prepare_cached(&sql.after_deadline)?;
            let mut rows = statement.query(params![began_at.0, began_at.1, MAX_ROWS])?;
            let mut count = 0;
            while batch.len() < BATCH
                && let Some(row) = rows.next()?
            {
                count += 1;
                let id = row.get(0)?;
                *examined = (row.get(2)?, id);
                if row.get(3)? && Some(id) != except {
                    batch.push((id, SessionIdHash::from_bytes(row.get(1)?)));
                }
            }
            let is_end = batch.len() < BATCH && count < MAX_ROWS;
            if is_end {
                *examined = START;
            }
            if !batch.is_empty() || !is_end || began_at == START {
                return Ok(batch);
            }
        }
    }
}
