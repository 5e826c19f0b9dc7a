//! The store: loads, commits, touches and sweeps.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::backend::{
    Capabilities, Commit, CommitAnswer, Found, Loaded, Maintenance, RemovalReport, SessionIndex,
    Store, TouchError,
};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::error::Result;
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::record::{EndedSession, Touch};
use crate::stores::postgres::commit;
use crate::stores::postgres::connection::{Param, Query, Trips};
use crate::stores::postgres::error::CallFailure;
use crate::stores::postgres::pool::ConnectionPool;
use crate::stores::postgres::row::{self, get};
use crate::stores::postgres::sql::{AdvisoryLocks, Statements, TableNames};
use crate::stores::sql::columns::REPLACED_ID;
use crate::stores::sql::decode::{self, SqlRow};
use crate::stores::sql::{self, saturating_i64};
use crate::sync::monotonic_now;

/// The longest difference to the server's clock that needs no attention, in milliseconds.
const TOLERATED_SKEW: i64 = 5000;

/// Sessions in a PostgreSQL database, shared by several machines. A clone refers to the same store.
///
/// ```no_run
/// use cloakroom::{PostgresStore, SessionManager};
///
/// let sessions = SessionManager::new(PostgresStore::open("postgres://app@localhost/app")?)?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// - **Guarantees.** They hold on all machines together, if the URL leads to the primary: every
///   later load on any machine sees the newest commit, and an acknowledged change survives a crash
///   of the server. A failover to a replica without `synchronous_standby_names` can lose
///   acknowledged changes, sign-outs among them.
/// - **Time limits.** Every call is limited by the [call timeout]. If the connection is lost before
///   the answer to a change, the call fails with [`Unavailable`](crate::ErrorKind::Unavailable),
///   and the text of the error says that the change may have been made.
/// - **Round trips.** A load by the current id takes one round trip to the server, and so does a
///   merge of data into a session that the request has loaded. If another request has changed that
///   session since, the merge takes three. Other changes of an existing session take two.
/// - **Scans.** A list of one user's sessions uses an index. Counting all sessions, evicting
///   anonymous ones, and listing a realm with few live sessions read the whole table: 0.2 to 0.6
///   seconds for 1,000,000 sessions in memory.
/// - **Clocks.** Deadlines are compared with the clock of the machine that serves the request, so
///   the machines' clocks must be synchronized; see
///   [`Event::ClockSkewed`](crate::event::Event::ClockSkewed).
/// - **Async servers.** On a thread of a Tokio runtime a call starts a thread, and waits for it, so
///   it also blocks the runtime's thread. The adapter for Rocket makes the calls of a session and
///   of its guard `&SessionManager` in `block_in_place`, where no thread is started. `open` may be
///   called in an async function too.
/// - **Forks.** A store belongs to the process that opened it. In a process forked from that, every
///   call fails with [`Unavailable`](crate::ErrorKind::Unavailable). Fork before opening a store.
///
/// [call timeout]: crate::stores::postgres::PostgresStoreBuilder::call_timeout
#[derive(Clone, Debug)]
pub struct PostgresStore(pub(super) Arc<PostgresInner>);

#[derive(Debug)]
pub(super) struct PostgresInner {
    pub(super) pool: ConnectionPool,
    pub(super) names: TableNames,
    /// The hosts and the database, for messages.
    pub(super) server: String,
    pub(super) sql: Statements,
    pub(super) locks: AdvisoryLocks,
    pub(super) events: Events,
    /// The time by which the clock of this machine is ahead of the server's, in milliseconds.
    pub(super) clock_ahead: AtomicI64,
}

impl PostgresStore {
    /// Returns the name of the schema.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.0.names.schema
    }

    /// Returns the name of the sessions table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.0.names.table
    }
}

impl Store for PostgresStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        let PostgresInner { pool, sql, .. } = &*self.0;
        let found = pool.call("load a session", async |trips| {
            let find = |sql| Query::new(sql, [id_hash.as_bytes().into()]);
            if let Some(row) = trips.query(find(&sql.load)).await?.first() {
                return Ok(decode::lookup(row, (), now)?);
            }
            let rows = trips.query(find(&sql.load_by_replaced)).await?;
            let Some(row) = rows.first() else { return Ok(Found::NotFound) };
            let replaced = decode::replaced_id(row, REPLACED_ID)?;
            Ok(decode::lookup(row, (), now)?.through_replaced_id(replaced, now))
        })?;
        Ok(found.into())
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        let PostgresInner { pool, sql, locks, .. } = &*self.0;
        pool.call(commit.action.operation(), async |trips| {
            commit::apply(commit, trips, sql, locks).await
        })
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        sql::touch(batch, |batch| self.0.touch(batch, now))
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        if self.0.is_clock_ahead() {
            // The sessions that this clock takes as expired are live on other machines.
            return Ok(RemovalReport::new(0, Duration::ZERO));
        }
        let began = monotonic_now();
        let (removed, of_users) = self.0.sweep(now, limit)?;
        Ok(RemovalReport::since(began, removed).with_user_sessions(of_users))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(&*self.0)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(&*self.0)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_durable(true)
    }
}

impl PostgresInner {
    /// Records activity, in two trips: one that locks the sessions, and one that writes.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.pool.call("record activity", async |trips| touch(batch, now, trips, &self.sql).await)
    }

    /// Removes at most `limit` expired sessions, and as many forgotten replaced ids. Returns the
    /// number of removed sessions, and those of them that had a user.
    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<(usize, Vec<EndedSession>)> {
        let limit = saturating_i64(limit.get());
        self.pool.call("sweep expired sessions", async |trips| {
            let forget = [now.as_millis().into(), limit.into()];
            trips.query(Query::new(&self.sql.delete_forgotten, forget)).await?;
            let mut removed = 0;
            let mut of_users = Vec::new();
            loop {
                let wanted = limit - removed;
                let params = [now.as_millis().into(), wanted.into()];
                let rows = trips.query(Query::new(&self.sql.sweep, params)).await?;
                let Some(row) = rows.first() else { break };
                removed += get::<i64>(row, "removed")?;
                for row in &rows {
                    // Without sessions of users there is one row, which has the counts only.
                    if row.bytes(0)?.is_some() {
                        of_users.push(decode::ended_session(row, now)?);
                    }
                }
                // The sessions that were due but had not expired are not due again.
                if get::<i64>(row, "due")? < wanted || removed >= limit {
                    break;
                }
            }
            Ok((usize::try_from(removed).unwrap_or(0), of_users))
        })
    }

    pub(super) fn is_clock_ahead(&self) -> bool {
        self.clock_ahead.load(Ordering::Relaxed) > TOLERATED_SKEW
    }
}

async fn touch(
    batch: &[(SessionIdHash, Touch)],
    now: Timestamp,
    trips: &mut Trips<'_>,
    sql: &Statements,
) -> Result<(), CallFailure> {
    let params = || {
        let id_hashes = batch.iter().map(|(id_hash, _)| id_hash.as_bytes().as_slice()).collect();
        [Param::BytesList(id_hashes), now.as_millis().into()]
    };
    let queries = [&sql.lock_touched, &sql.in_grace].map(|sql| Query::new(sql, params()));
    let [rows, in_grace] = trips.begin(queries).await?;
    // The latest activity by the presented id hash, and by the row id of a session that a replaced
    // id in its grace finds.
    let mut seen_by_id: HashMap<SessionIdHash, Timestamp> = HashMap::new();
    for (id_hash, touch) in batch {
        let seen = seen_by_id.entry(*id_hash).or_insert(touch.seen);
        *seen = touch.seen.max(*seen);
    }
    let mut seen_in_grace: HashMap<i64, Timestamp> = HashMap::new();
    for row in &in_grace {
        if let Some(by_id) = seen_by_id.get(&row::id_hash(row)?) {
            let seen = seen_in_grace.entry(get(row, "session")?).or_insert(*by_id);
            *seen = (*by_id).max(*seen);
        }
    }
    let mut ids = Vec::new();
    let mut seen_times = Vec::new();
    let mut deadlines = Vec::new();
    for row in &rows {
        let id: i64 = get(row, "id")?;
        let touched = seen_by_id.get(&row::id_hash(row)?).max(seen_in_grace.get(&id));
        let is_live = row::time(row, "deadline")? > now;
        // A session with malformed limits is undecodable, and stays as it is.
        let Ok(limits) = row::limits(row) else { continue };
        if let Some(touched) = touched
            && is_live
            && *touched > row::time(row, "seen")?
        {
            ids.push(id);
            seen_times.push(touched.as_millis());
            deadlines.push(limits.deadline(*touched).as_millis());
        }
    }
    if !ids.is_empty() {
        let params = [Param::Ints(ids), Param::Ints(seen_times), Param::Ints(deadlines)];
        trips.commit(vec![Query::new(&sql.touch, params)]).await?;
    }
    Ok(())
}

impl Maintenance for PostgresInner {
    /// Compares this machine's clock with the server's.
    fn run(&self) -> Result<()> {
        let ahead = self.pool.call("compare the clock with the server's", async |trips| {
            let asked = SystemClock.now();
            let rows = trips.query(Query::new(&self.sql.server_time, [])).await?;
            let Some(row) = rows.first() else { return Ok(0) };
            let server = get::<i64>(row, "now")?;
            // Too low by up to one trip to the server, which the tolerance covers.
            Ok(asked.as_millis() - server)
        })?;
        let before = self.clock_ahead.swap(ahead, Ordering::Relaxed);
        let is_tolerated = |skew: i64| (-TOLERATED_SKEW..=TOLERATED_SKEW).contains(&skew);
        if !is_tolerated(ahead) && is_tolerated(before) {
            let difference = Duration::from_millis(ahead.unsigned_abs());
            self.events.raise(&Event::ClockSkewed { difference, ahead: ahead > 0 });
        }
        Ok(())
    }

    /// The store has no work between the regular runs.
    fn on_due(&self, _: Box<dyn Fn() + Send + Sync>) {}
}
