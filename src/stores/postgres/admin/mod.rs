//! The operators' calls on sessions and tables. `info` describes the server, and `copy` reads and
//! writes whole sessions. Called by the command line and by applications.

mod copy;
mod info;

use crate::backend::Record;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm};
use crate::list::{Page, SessionFilter, Summary};
use crate::stores::postgres::connection::Query;
use crate::stores::postgres::index::{condition, count};
use crate::stores::postgres::migrate;
use crate::stores::postgres::pool::CallTime;
use crate::stores::postgres::row::{self, SESSION, get};
use crate::stores::postgres::sql::{TableNames, summary_columns};
use crate::stores::postgres::store::PostgresStore;

pub use info::DatabaseServer;

/// Operators' calls on an open store, for tools such as the command line `cloakroom`. Calls that
/// read or end all sessions may take twelve times the call timeout.
///
/// # Errors
/// The kinds of [`Store`](crate::backend::Store), and those documented at the call.
#[derive(Clone, Debug)]
pub struct PostgresAdmin(PostgresStore);

/// Counts of sessions, and the sizes of their data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionCounts {
    /// The numbers of live sessions that were created in the periods.
    pub created: Vec<u64>,
    /// The number of all sessions, expired ones included.
    pub sessions: u64,
    /// The average size of their data in bytes.
    pub average: u64,
    /// The maximum in bytes.
    pub largest: u64,
}

impl PostgresStore {
    /// Returns operators' calls on this database.
    #[must_use]
    pub fn admin(&self) -> PostgresAdmin {
        PostgresAdmin(self.clone())
    }
}

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl PostgresAdmin {
    fn names(&self) -> &TableNames {
        &self.0.0.names
    }

    /// Lists expired sessions that were not swept yet, the newest first.
    pub fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>> {
        let before = page.after.map_or(i64::MAX, |cursor| cursor.position());
        let limit = i64::try_from(page.limit.get()).unwrap_or(i64::MAX);
        self.0.0.pool.call_within(CallTime::Bulk, "list expired sessions", async |trips| {
            let mut params = vec![now.as_millis().into(), before.into(), limit.into()];
            let condition = condition(filter, &mut params);
            let columns = summary_columns();
            let table = self.names().qualified("");
            let sql = format!(
                "SELECT {columns} FROM {table} WHERE deadline <= $1 AND id < $2 AND {condition} \
                 ORDER BY id DESC LIMIT $3"
            );
            let rows = trips.query(Query { sql: &sql, params }).await?;
            Ok(rows.iter().map(row::summary).collect::<Result<_>>()?)
        })
    }

    /// Returns the session with this public id, expired or not: its summary, and its record if it
    /// decodes.
    pub fn find(&self, public_id: &PublicId) -> Result<Option<(Summary, Result<Record>)>> {
        let table = self.names().qualified("");
        let [summary, record] = [summary_columns(), SESSION.join(", ")]
            .map(|columns| format!("SELECT {columns} FROM {table} WHERE public_id = $1"));
        self.0.0.pool.call("find a session by its public id", async |trips| {
            let query = |sql| Query::new(sql, [public_id.as_bytes().into()]);
            let [summary, record] = trips.begin([query(&*summary), query(&record)]).await?;
            let (Some(summary), Some(record)) = (summary.first(), record.first()) else {
                return Ok(None);
            };
            Ok(Some((row::summary(summary)?, row::decode(record, *public_id))))
        })
    }

    /// Returns the realms that have sessions, expired ones included, sorted by name. Reads the
    /// whole table.
    pub fn realms(&self) -> Result<Vec<Realm>> {
        let sql =
            format!("SELECT DISTINCT realm FROM {} ORDER BY realm", self.names().qualified(""));
        self.0.0.pool.call_within(CallTime::Bulk, "list the realms", async |trips| {
            let [rows] = trips.begin([Query::new(&sql, [])]).await?;
            let names = rows.iter().map(|row| get::<&str>(row, "realm"));
            // An undecodable name counts as none.
            let realms = names.map(|name| Ok(Realm::new(name?).ok())).filter_map(Result::transpose);
            Ok(realms.collect::<Result<_>>()?)
        })
    }

    /// Returns the number of live sessions of a realm. Reads the whole table.
    pub fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> Result<u64> {
        let sql = format!(
            "SELECT count(*) AS live FROM {} WHERE deadline > $1 AND realm = $2",
            self.names().qualified("")
        );
        self.0.0.pool.call_within(CallTime::Bulk, "count the sessions of a realm", async |trips| {
            let params = [now.as_millis().into(), realm.as_str().into()];
            let [rows] = trips.begin([Query::new(&sql, params)]).await?;
            count(rows.first(), "live")
        })
    }

    /// Counts, for each of `times` in ascending order, the live sessions created from then until
    /// the next time, for the last one all that were created since; and measures their data. Reads
    /// the whole table.
    pub fn counts(&self, times: &[Timestamp], now: Timestamp) -> Result<SessionCounts> {
        let ends = times.iter().skip(1).copied().chain([Timestamp::MAX]);
        let mut columns = String::new();
        for (index, (from, to)) in times.iter().zip(ends).enumerate() {
            let from = from.as_millis();
            let to = to.as_millis();
            columns.push_str(&format!(
                ", count(*) FILTER (WHERE deadline > $1 AND created >= {from} AND created < {to}) \
                 AS created_{index}"
            ));
        }
        let sql = format!(
            "SELECT count(*) AS sessions, coalesce(avg(length(data)), 0)::bigint AS average, \
             coalesce(max(length(data)), 0)::bigint AS largest{columns} FROM {}",
            self.names().qualified("")
        );
        self.0.0.pool.call_within(CallTime::Bulk, "count sessions by day", async |trips| {
            let [rows] = trips.begin([Query::new(&sql, [now.as_millis().into()])]).await?;
            let row = rows.first();
            let created = (0..times.len()).map(|index| count(row, &format!("created_{index}")));
            Ok(SessionCounts {
                created: created.collect::<Result<_, _>>()?,
                sessions: count(row, "sessions")?,
                average: count(row, "average")?,
                largest: count(row, "largest")?,
            })
        })
    }

    /// Ends sessions, except the one of the public id `except`, and returns the number of live
    /// ones. Unlike [`SessionIndex::revoke`](crate::backend::SessionIndex::revoke) it raises the
    /// store's epoch, because it knows no cache: a service with a
    /// [`CachedStore`](crate::stores::cached::CachedStore) stops using its entries within a second.
    pub fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<u64> {
        let inner = &self.0.0;
        let ended = inner.revoke_with(filter, except, now, Some(&inner.sql.raise_epoch))?;
        Ok(ended.len() as u64)
    }

    /// Removes the store's tables with all sessions. Afterwards every call of the store fails with
    /// [`NotSetUp`](crate::ErrorKind::NotSetUp) until the tables are created again.
    pub fn drop_tables(&self) -> Result<()> {
        let inner = &self.0.0;
        let names = self.names();
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
}
