//! Creates the tables, and migrates them to this version's schema.
//!
//! The history is in a table of its own, because `user_version` belongs to the application. A
//! migration is one transaction that holds the write lock, so many processes may start at once.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::stores::admin::PendingMigration;
use crate::stores::migration::{self, APPLIED_BY, HISTORY, Migration, OPERATION};
use crate::stores::sqlite::error::{self, During};
use crate::stores::sqlite::sql::TableName;
use crate::stores::sqlite::write::{TableSql, WriteTx};

/// All migrations, in order. After the first release, migrations are only added to this list.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "sessions",
    sql: include_str!("../../../migrations/sqlite/V1__sessions.sql"),
}];

/// Returns the operation of reading the history of migrations, which is the first one at a start,
/// with the path of the file.
fn reading(connection: &Connection) -> String {
    let file = connection.path().filter(|path| !path.is_empty());
    let place = file.map(|path| format!(" in {path}")).unwrap_or_default();
    format!("read the history of migrations{place}")
}

fn sql_for(migration: &Migration, table: &TableName) -> String {
    migration.sql.replace("{t}", table.as_str())
}

/// Returns the newest schema version of this program.
pub(super) fn newest() -> u32 {
    migration::newest(MIGRATIONS)
}

/// Returns the error of a table that has this version although nothing may be migrated.
pub(super) fn not_set_up(version: u32, table: &TableName) -> Error {
    migration::not_set_up(MIGRATIONS, version, table.as_str())
}

/// Returns the migrations after `version`.
pub(super) fn pending(version: u32) -> Vec<PendingMigration> {
    migration::pending(MIGRATIONS, version)
}

/// Returns the schema version of the table; 0 if the table does not exist. Changes nothing.
///
/// Fails with [`ErrorKind::NewerSchema`] or [`ErrorKind::ForeignTable`] if the table has a newer
/// version or belongs to another program.
pub(super) fn version_before(connection: &Connection, table: &TableName) -> Result<u32> {
    // One snapshot for all queries, because another process may be creating the tables.
    let begun = connection.unchecked_transaction();
    let snapshot = begun.during(reading(connection))?;
    version(&snapshot, table)
}

/// Does what [`version_before`] does, within a transaction.
pub(super) fn version(connection: &Connection, table: &TableName) -> Result<u32> {
    let recorded = match object(connection, HISTORY).during(reading(connection))? {
        None => 0,
        Some(_) => recorded_version(connection, table)?,
    };
    // A name does not show who has created a table. A table is ours if its SQL is exactly that of
    // the recorded migrations.
    let ours = made_by(recorded, table).during(reading(connection))?;
    let found = objects(connection, table).during(reading(connection))?;
    if let Some(foreign) = found.iter().find(|object| !ours.contains(object)) {
        let why = format!("the {} {} was not made by this program", foreign.kind, foreign.name);
        return Err(Error::with_source(ErrorKind::ForeignTable, OPERATION, why));
    }
    let has_table = found.iter().any(|object| object.name.eq_ignore_ascii_case(table.as_str()));
    // If an operator has dropped the table, migrating removes its remaining objects.
    Ok(if has_table { recorded } else { 0 })
}

/// An object of the database schema.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    kind: String,
    name: String,
    sql: String,
}

impl Object {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? })
    }
}

/// Returns the schema object `name`.
fn object(connection: &Connection, name: &str) -> rusqlite::Result<Option<Object>> {
    // SQLite compares object names without regard to case.
    connection
        .prepare_cached(
            "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
             WHERE name = ?1 COLLATE NOCASE",
        )?
        .query_row([name], Object::from_row)
        .optional()
}

/// Returns the existing schema objects with the names of those that the migrations create.
fn objects(connection: &Connection, table: &TableName) -> rusqlite::Result<Vec<Object>> {
    let ours = made_by(newest(), table)?;
    ours.iter().filter_map(|ours| object(connection, &ours.name).transpose()).collect()
}

/// Returns the number of existing tables with the names of ours, the history included.
pub(super) fn count_tables(connection: &Connection, table: &TableName) -> rusqlite::Result<u64> {
    let found = objects(connection, table)?.into_iter().chain(object(connection, HISTORY)?);
    Ok(found.filter(|object| object.kind == "table").count() as u64)
}

/// Returns the names of the triggers on these tables. The migrations create none.
pub(super) fn triggers(
    connection: &Connection,
    table: &TableName,
) -> rusqlite::Result<Vec<String>> {
    let mut triggers = connection.prepare(
        "SELECT name FROM sqlite_schema
         WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE ORDER BY name",
    )?;
    let mut names = Vec::new();
    let ours = made_by(newest(), table)?;
    for name in ours.iter().map(|object| object.name.as_str()).chain([HISTORY]) {
        for trigger in triggers.query_map([name], |row| row.get(0))? {
            names.push(trigger?);
        }
    }
    Ok(names)
}

/// Returns the schema objects that the migrations up to `version` create, found by running them in
/// memory.
fn made_by(version: u32, table: &TableName) -> rusqlite::Result<Vec<Object>> {
    let memory = Connection::open_in_memory()?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= version) {
        memory.execute_batch(&sql_for(migration, table))?;
    }
    // The indexes of UNIQUE columns, which SQLite creates, have no SQL.
    memory
        .prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?
        .query_map([], Object::from_row)?
        .collect()
}

fn recorded_version(connection: &Connection, table: &TableName) -> Result<u32> {
    let sql = format!(
        "SELECT version, checksum FROM {HISTORY} WHERE table_name = ?1 COLLATE NOCASE \
         ORDER BY version"
    );
    let query = || -> rusqlite::Result<Vec<_>> {
        let mut statement = connection.prepare(&sql)?;
        statement.query_map([table.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    match query() {
        Ok(rows) => migration::recorded_version(MIGRATIONS, &rows),
        // A history with other columns or value types is not ours.
        Err(source) if error::kind(&source) == ErrorKind::Unexpected => {
            let why = format!("the table {HISTORY} was not made by this program: {source}");
            Err(Error::with_source(ErrorKind::ForeignTable, reading(connection), why))
        }
        Err(source) => Err(source).during(reading(connection)),
    }
}

/// Migrates the table to the newest version; does nothing if it has it.
pub(super) fn migrate(
    connection: &Connection,
    table: &TableName,
    events: &Events,
    deadline: Instant,
) -> Result<()> {
    let sql = TableSql::new(table);
    let mut tx = WriteTx::begin(connection, &sql, None, None, OPERATION, deadline)?;
    let from = tx.with_connection(|connection| apply(connection, table))?;
    tx.commit(deadline)?;
    if from < newest() {
        let table = table.as_str();
        events.raise(&Event::Migrated { table, from, to: newest() });
    }
    Ok(())
}

/// Applies the missing migrations within a transaction. Returns the previous version.
fn apply(connection: &Connection, table: &TableName) -> Result<u32> {
    // Another process may have migrated while this one waited for the lock.
    let from = version(connection, table)?;
    if from == newest() {
        return Ok(from);
    }
    if from == 0 {
        // Objects that remained when an operator dropped the table.
        remove(connection, table).during(OPERATION)?;
    }
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {HISTORY} (
                 table_name TEXT NOT NULL,
                 version INTEGER NOT NULL,
                 name TEXT NOT NULL,
                 checksum TEXT NOT NULL,
                 applied INTEGER NOT NULL,
                 applied_by TEXT NOT NULL,
                 PRIMARY KEY (table_name, version)
             ) STRICT"
        ))
        .during(OPERATION)?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        connection.execute_batch(&sql_for(migration, table)).during(OPERATION)?;
        let record = format!("INSERT INTO {HISTORY} VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
        connection
            .execute(
                &record,
                params![
                    table.as_str(),
                    migration.version,
                    migration.name,
                    migration.checksum(),
                    SystemClock.now().as_millis(),
                    APPLIED_BY,
                ],
            )
            .during(OPERATION)?;
    }
    Ok(from)
}

/// Returns the time at which the tables were created; `None` if they are missing.
pub(super) fn created(connection: &Connection, table: &TableName) -> Result<Option<Timestamp>> {
    let sql = format!("SELECT min(applied) FROM {HISTORY} WHERE table_name = ?1 COLLATE NOCASE");
    let created = connection.query_row(&sql, [table.as_str()], |row| row.get::<_, Option<i64>>(0));
    created.map(|time| time.map(Timestamp::from_millis)).during(reading(connection))
}

/// Removes the tables and their history. The caller's transaction must have called [`version`]
/// before, which checks that they are ours.
pub(super) fn remove(connection: &Connection, table: &TableName) -> rusqlite::Result<()> {
    for Object { kind, name, .. } in objects(connection, table)? {
        // A table's indexes are dropped with it.
        connection.execute_batch(&format!("DROP {kind} IF EXISTS \"{name}\""))?;
    }
    if object(connection, HISTORY)?.is_none() {
        return Ok(());
    }
    let forget = format!("DELETE FROM {HISTORY} WHERE table_name = ?1 COLLATE NOCASE");
    connection.execute(&forget, [table.as_str()])?;
    let left: i64 =
        connection.query_row(&format!("SELECT count(*) FROM {HISTORY}"), [], |r| r.get(0))?;
    if left == 0 {
        connection.execute_batch(&format!("DROP TABLE {HISTORY}"))?;
    }
    Ok(())
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
