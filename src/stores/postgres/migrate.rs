//! Creates the tables, and migrates them to this version's schema.
//!
//! A migration is one transaction that holds an advisory lock, so many processes may start at once.

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::stores::admin::PendingMigration;
use crate::stores::migration::{self, APPLIED_BY, HISTORY, Migration};
use crate::stores::postgres::connection::{CallTime, Param, Query, Trips};
use crate::stores::postgres::error::{CallFailure, kind};
use crate::stores::postgres::pool::ConnectionPool;
use crate::stores::postgres::row::get;
use crate::stores::postgres::sql::{AdvisoryLocks, Statements, TableNames};

pub(super) use crate::stores::migration::OPERATION;

/// All migrations, in order. After the first release, migrations are only added to this list.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "sessions",
    sql: include_str!("../../../migrations/postgres/V1__sessions.sql"),
}];

/// The suffixes of the tables and the view that the migrations create.
pub(super) const SUFFIXES: [&str; 4] = ["", "_meta", "_replaced", "_readable"];

/// Returns the newest schema version of this program.
pub(super) fn newest() -> u32 {
    migration::newest(MIGRATIONS)
}

/// Returns the migrations after `version`.
pub(super) fn pending(version: u32) -> Vec<PendingMigration> {
    migration::pending(MIGRATIONS, version)
}

/// Returns the schema in which the server creates tables by default.
pub(super) async fn current_schema(trips: &mut Trips<'_>) -> Result<String, CallFailure> {
    let rows = trips.query(Query::new("SELECT current_schema()::text AS schema", [])).await?;
    match rows.first().map(|row| get::<Option<String>>(row, "schema")).transpose()?.flatten() {
        Some(schema) => Ok(schema),
        None => {
            let why = "no schema of the search path exists; set one in the builder";
            Err(Error::with_source(ErrorKind::NotSetUp, OPERATION, why).into())
        }
    }
}

/// Creates or migrates the tables if necessary. Returns the previous version if it has changed
/// anything.
pub(super) fn set_up(
    pool: &ConnectionPool,
    names: &TableNames,
    sql: &Statements,
    locks: &AdvisoryLocks,
    migrates: bool,
) -> Result<Option<u32>> {
    let from = pool.call(OPERATION, async |trips| {
        refuse_other_encodings(trips).await?;
        version(trips, names).await
    })?;
    if from != newest() && !migrates {
        let table = format!("{} in the schema {}", names.table, names.schema);
        return Err(migration::not_set_up(MIGRATIONS, from, &table));
    }
    let mut migrated_from = None;
    if from != newest() {
        migrated_from = pool.call_within(CallTime::Bulk, OPERATION, async |trips| {
            let lock = Query::new(&sql.exclusive_lock, [locks.migration.into()]);
            trips.begin([lock]).await?;
            // Another process may have migrated while this one waited for the lock.
            let from = version(trips, names).await?;
            if from == newest() {
                return Ok(None);
            }
            apply(trips, names, from).await?;
            trips.commit(Vec::new()).await?;
            Ok(Some(from))
        })?;
    }
    pool.call(OPERATION, async |trips| refuse_other_columns(trips, sql).await)?;
    Ok(migrated_from)
}

/// The names of users can have any characters.
async fn refuse_other_encodings(trips: &mut Trips<'_>) -> Result<(), CallFailure> {
    let encoding = "SELECT current_setting('server_encoding') AS encoding";
    let rows = trips.query(Query::new(encoding, [])).await?;
    let encoding = rows.first().map(|row| get::<String>(row, "encoding")).transpose()?;
    match encoding.as_deref() {
        Some("UTF8") => Ok(()),
        other => {
            let why =
                format!("the database has the encoding {}, not UTF8", other.unwrap_or_default());
            Err(Error::with_source(ErrorKind::Invalid, OPERATION, why).into())
        }
    }
}

fn foreign(why: String) -> CallFailure {
    Error::with_source(ErrorKind::ForeignTable, OPERATION, why).into()
}

/// Returns the schema version of the table; 0 if the table does not exist. Changes nothing.
pub(super) async fn version(trips: &mut Trips<'_>, names: &TableNames) -> Result<u32, CallFailure> {
    let found = existing(trips, names).await?;
    let recorded = if found.iter().any(|name| name == HISTORY) {
        recorded_version(trips, names).await?
    } else {
        0
    };
    let ours = found.iter().find(|name| *name != HISTORY);
    match ours {
        Some(name) if recorded == 0 => {
            Err(foreign(format!("the table {name} was not made by this program")))
        }
        // If an operator has dropped the table, migrating removes what remains.
        _ if !found.contains(&names.table) => Ok(0),
        _ => Ok(recorded),
    }
}

/// Returns those tables and views of the migrations that exist, and the history if it does.
pub(super) async fn existing(
    trips: &mut Trips<'_>,
    names: &TableNames,
) -> Result<Vec<String>, CallFailure> {
    let sql = "SELECT c.relname::text AS name FROM pg_catalog.pg_class AS c \
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = ANY($2)";
    let mut wanted: Vec<_> =
        SUFFIXES.iter().map(|suffix| format!("{}{suffix}", names.table)).collect();
    wanted.push(HISTORY.to_owned());
    let params = [names.schema.as_str().into(), Param::Texts(wanted)];
    let rows = trips.query(Query::new(sql, params)).await?;
    Ok(rows.iter().map(|row| get(row, "name")).collect::<Result<_>>()?)
}

async fn recorded_version(trips: &mut Trips<'_>, names: &TableNames) -> Result<u32, CallFailure> {
    let sql = format!(
        "SELECT version, checksum FROM {} WHERE table_name = $1 ORDER BY version",
        names.history()
    );
    let rows = match trips.query(Query::new(&sql, [names.table.as_str().into()])).await {
        Err(CallFailure::Sql(error)) if kind(&error) == ErrorKind::ForeignTable => {
            return Err(foreign(format!("the table {HISTORY} was not made by this program")));
        }
        rows => rows?,
    };
    let history = rows.iter().map(|row| Ok((get(row, "version")?, get(row, "checksum")?)));
    Ok(migration::recorded_version(MIGRATIONS, &history.collect::<Result<Vec<_>>>()?)?)
}

/// Applies the missing migrations within the open transaction.
async fn apply(trips: &mut Trips<'_>, names: &TableNames, from: u32) -> Result<(), CallFailure> {
    let history = names.history();
    let found = existing(trips, names).await?;
    if !has_schema(trips, names).await? {
        trips.execute_script(&format!("CREATE SCHEMA {}", names.quoted_schema())).await?;
    }
    if !found.iter().any(|name| name == HISTORY) {
        let create = format!(
            "CREATE TABLE {history} (
                 table_name text NOT NULL,
                 version    bigint NOT NULL,
                 name       text NOT NULL,
                 checksum   text NOT NULL,
                 applied    bigint NOT NULL,
                 applied_by text NOT NULL,
                 PRIMARY KEY (table_name, version)
             )"
        );
        trips.execute_script(&create).await?;
    } else if from == 0 {
        remove(trips, names, &found).await?;
    }
    let record = format!("INSERT INTO {history} VALUES ($1, $2, $3, $4, $5, $6)");
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        trips.execute_script(&names.fill_in(migration.sql)).await?;
        let checksum = migration.checksum();
        let params = [
            names.table.as_str().into(),
            i64::from(migration.version).into(),
            migration.name.into(),
            checksum.as_str().into(),
            SystemClock.now().as_millis().into(),
            APPLIED_BY.into(),
        ];
        trips.query(Query::new(&record, params)).await?;
    }
    Ok(())
}

/// Removes the tables and their history within the open transaction. The caller has called
/// [`version`] before, which checks that they are ours.
pub(super) async fn remove(
    trips: &mut Trips<'_>,
    names: &TableNames,
    found: &[String],
) -> Result<(), CallFailure> {
    let view = format!("{}_readable", names.table);
    let tables = found.iter().filter(|name| *name != HISTORY && **name != view);
    let tables: Vec<_> = tables.map(|name| names.in_schema(name)).collect();
    trips.execute_script(&format!("DROP VIEW IF EXISTS {}", names.in_schema(&view))).await?;
    if !tables.is_empty() {
        trips.execute_script(&format!("DROP TABLE {}", tables.join(", "))).await?;
    }
    let forget = format!("DELETE FROM {} WHERE table_name = $1", names.history());
    trips.query(Query::new(&forget, [names.table.as_str().into()])).await?;
    Ok(())
}

async fn has_schema(trips: &mut Trips<'_>, names: &TableNames) -> Result<bool, CallFailure> {
    let sql = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1";
    let rows = trips.query(Query::new(sql, [names.schema.as_str().into()])).await?;
    Ok(!rows.is_empty())
}

/// Reads no row, and fails if the tables have not all columns: another program may have created
/// them anew under the recorded names.
async fn refuse_other_columns(trips: &mut Trips<'_>, sql: &Statements) -> Result<(), CallFailure> {
    match trips.query(Query::new(&sql.load, [Param::Bytes(None)])).await {
        Err(CallFailure::Sql(error)) if kind(&error) == ErrorKind::ForeignTable => Err(foreign(
            "the columns of the tables are not those that this program makes".to_owned(),
        )),
        rows => Ok(rows.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_count_up_from_one() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
        }
    }
}
