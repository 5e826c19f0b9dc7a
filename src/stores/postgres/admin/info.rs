//! The operators' call that describes the server and the tables.

use tokio_postgres::Row;

use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::stores::admin::PendingMigration;
use crate::stores::postgres::builder::PostgresStoreBuilder;
use crate::stores::postgres::connection::{CallTime, Param, Query, Trips};
use crate::stores::postgres::error::CallFailure;
use crate::stores::postgres::index::count;
use crate::stores::postgres::migrate::{self, SUFFIXES};
use crate::stores::postgres::row::get;
use crate::stores::postgres::sql::TableNames;

const OPERATION: &str = "examine the database";

/// The properties of a PostgreSQL server, as one connection finds them, and of the store's tables.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DatabaseServer {
    /// The hosts and the database, as the URL names them.
    pub server: String,
    /// The version of the server.
    pub version: String,
    /// The schema of the tables.
    pub schema: String,
    /// The name of the sessions table.
    pub table: String,
    /// The schema version of the tables, 0 if they do not exist; or why it is unknown.
    pub schema_version: Result<u32>,
    /// The schema version of this program.
    pub newest_schema: u32,
    /// The migrations that the tables lack.
    pub pending: Vec<PendingMigration>,
    /// The user of the connection.
    pub user: String,
    /// Whether the server is a replica, or its transactions only read by default.
    pub is_read_only: bool,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
    /// Whether the server is on another machine.
    pub is_remote: bool,
    /// How far the clock of this machine is ahead of the server's, in milliseconds; 0 within the
    /// time that the question took.
    pub clock_ahead: i64,
    /// The setting `synchronous_commit` of new connections. The store sets `on` itself where it is
    /// `off`.
    pub synchronous_commit: String,
    /// Whether the server waits for its disk at all (`fsync`).
    pub has_fsync: bool,
    /// Whether the server vacuums the sessions table by itself.
    pub has_autovacuum: bool,
    /// The size of the tables with their indexes, in bytes.
    pub bytes: u64,
    /// The number of rows of the sessions table, as the server's statistics estimate it.
    pub live_rows: u64,
    /// The number of its dead rows, which wait for a vacuum.
    pub dead_rows: u64,
    /// The rights that the service needs and the user has not, such as `DELETE on
    /// cloakroom_sessions`; without tables also `CREATE on the schema`, which `setup` needs.
    pub missing_rights: Vec<String>,
    /// The triggers, rules, policies and foreign keys on the tables, of which this crate makes
    /// none.
    pub foreign_objects: Vec<String>,
}

impl PostgresStoreBuilder {
    /// Describes the server and the tables, which need not exist. Creates and changes nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open), but missing, newer and foreign tables are no errors.
    pub fn inspect(&self) -> Result<DatabaseServer> {
        let (pool, names) = self.connect()?;
        let server = self.server()?;
        // A call of its own, because an error would end its transaction.
        let schema_version = pool.call_within(CallTime::Bulk, OPERATION, async |trips| {
            migrate::version(trips, &names).await
        });
        pool.call_within(CallTime::Bulk, OPERATION, async |trips| {
            inspect(trips, &names, server.clone(), &schema_version).await
        })
    }
}

async fn inspect(
    trips: &mut Trips<'_>,
    names: &TableNames,
    server: String,
    schema_version: &Result<u32>,
) -> Result<DatabaseServer, CallFailure> {
    let asked = SystemClock.now().as_millis();
    let rows = trips.query(Query::new(PROPERTIES, [])).await?;
    let answered = SystemClock.now().as_millis();
    let properties = rows.first();
    let clock = match properties {
        Some(row) => get::<i64>(row, "clock")?,
        None => asked,
    };
    let all: Vec<_> = SUFFIXES.iter().map(|suffix| format!("{}{suffix}", names.table)).collect();
    let of_tables = |sql| {
        let params = [names.schema.as_str().into(), Param::Texts(all.clone())];
        Query::new(sql, params)
    };
    let tables = trips.query(of_tables(TABLES)).await?;
    let missing_rights = trips.query(of_tables(RIGHTS)).await?;
    let foreign_objects = trips.query(of_tables(OBJECTS)).await?;
    let statistics = {
        let params = [names.schema.as_str().into(), names.table.as_str().into()];
        trips.query(Query::new(STATISTICS, params)).await?
    };
    let tables = tables.first();
    let statistics = statistics.first();
    let known = schema_version.as_ref().ok().copied();
    Ok(DatabaseServer {
        server,
        version: text(properties, "version")?,
        schema: names.schema.clone(),
        table: names.table.clone(),
        pending: known.map(migrate::pending).unwrap_or_default(),
        schema_version: schema_version.clone(),
        newest_schema: migrate::newest(),
        user: text(properties, "username")?,
        is_read_only: flag(properties, "is_read_only")?,
        is_encrypted: flag(properties, "is_encrypted")?,
        is_remote: flag(properties, "is_remote")?,
        clock_ahead: (asked - clock).max(0) + (answered - clock).min(0),
        synchronous_commit: text(properties, "synchronous_commit")?,
        has_fsync: flag(properties, "has_fsync")?,
        has_autovacuum: flag(properties, "has_autovacuum")? && flag(tables, "has_autovacuum")?,
        bytes: count(tables, "bytes")?,
        live_rows: count(statistics, "live_rows")?,
        dead_rows: count(statistics, "dead_rows")?,
        missing_rights: texts(&missing_rights)?,
        foreign_objects: texts(&foreign_objects)?,
    })
}

/// `reset_val` is the value with which connections begin; this one may have set another.
const PROPERTIES: &str = "\
SELECT current_setting('server_version') AS version, current_user::text AS username,
    pg_is_in_recovery() OR
        (SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only')
        AS is_read_only,
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_encrypted,
    coalesce(inet_server_addr() <> inet_client_addr()
        AND NOT inet_server_addr() <<= inet '127.0.0.0/8', false) AS is_remote,
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock,
    (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit,
    current_setting('fsync') = 'on' AS has_fsync,
    current_setting('autovacuum') = 'on' AS has_autovacuum";

const TABLES: &str = "\
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes,
    coalesce(bool_and(NOT EXISTS (SELECT 1 FROM pg_options_to_table(c.reloptions)
        WHERE option_name = 'autovacuum_enabled' AND NOT option_value::boolean)), true)
        AS has_autovacuum
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY($2)";

const STATISTICS: &str = "\
SELECT n_live_tup AS live_rows, n_dead_tup AS dead_rows FROM pg_stat_all_tables
WHERE schemaname = $1 AND relname = $2";

/// Of the tables in the order of the migration: the sessions, their properties, the replaced ids;
/// not the view, which the service does not read.
const RIGHTS: &str = "\
SELECT wanted.privilege || ' on ' || c.relname AS text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN (VALUES (1, 'SELECT'), (1, 'INSERT'), (1, 'UPDATE'), (1, 'DELETE'), (2, 'SELECT'),
    (2, 'UPDATE'), (3, 'SELECT'), (3, 'INSERT'), (3, 'UPDATE'), (3, 'DELETE'))
    AS wanted (number, privilege) ON c.relname = ($2)[wanted.number]
WHERE n.nspname = $1 AND NOT has_table_privilege(c.oid, wanted.privilege)
UNION ALL
SELECT 'USAGE on the schema ' || nspname FROM pg_namespace
WHERE nspname = $1 AND NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 'CREATE on the schema ' || nspname FROM pg_namespace AS n
WHERE nspname = $1 AND NOT has_schema_privilege(oid, 'CREATE') AND NOT EXISTS (
    SELECT 1 FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relname = ($2)[1])
UNION ALL
SELECT 'SELECT on cloakroom_migrations'
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = 'cloakroom_migrations'
    AND NOT has_table_privilege(c.oid, 'SELECT')
ORDER BY 1";

const OBJECTS: &str = "\
WITH ours AS (SELECT c.oid, c.relname, c.relrowsecurity
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind <> 'v')
SELECT 'trigger ' || t.tgname || ' on ' || ours.relname AS text
FROM ours JOIN pg_trigger AS t ON t.tgrelid = ours.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'rule ' || r.rulename || ' on ' || ours.relname
FROM ours JOIN pg_rewrite AS r ON r.ev_class = ours.oid
UNION ALL
SELECT 'policy ' || p.polname || ' on ' || ours.relname
FROM ours JOIN pg_policy AS p ON p.polrelid = ours.oid
UNION ALL
SELECT 'row level security on ' || relname FROM ours WHERE relrowsecurity
UNION ALL
SELECT 'foreign key ' || k.conname || ' of ' || k.conrelid::regclass
FROM ours JOIN pg_constraint AS k ON k.confrelid = ours.oid
WHERE k.contype = 'f' AND k.confdeltype <> 'c'
ORDER BY 1";

fn text(row: Option<&Row>, column: &str) -> Result<String> {
    row.map_or(Ok(String::new()), |row| get(row, column))
}

fn flag(row: Option<&Row>, column: &str) -> Result<bool> {
    row.map_or(Ok(false), |row| get(row, column))
}

fn texts(rows: &[Row]) -> Result<Vec<String>> {
    rows.iter().map(|row| get(row, "text")).collect()
}
