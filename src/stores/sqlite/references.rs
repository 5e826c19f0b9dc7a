//! The foreign keys and triggers of the application that act when a session is deleted.

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::stores::sqlite::sql::ReadSql;

/// A foreign key of another table to the sessions table, or a trigger on that.
#[derive(Debug)]
pub(super) struct Dependent {
    /// The table of the foreign key or of the trigger.
    pub(super) table: String,
    /// Whether a referenced session cannot be deleted.
    pub(super) keeps_rows: bool,
    /// Whether the id of a referenced session cannot be replaced, or the column that it references
    /// is no key, which SQLite reports at each deletion.
    pub(super) keeps_ids: bool,
    /// The condition that a session is referenced.
    condition: String,
}

pub(super) fn dependents(
    connection: &Connection,
    sql: &ReadSql,
) -> rusqlite::Result<Vec<Dependent>> {
    let mut statement = connection.prepare_cached(&sql.dependents)?;
    let dependents = statement.query_map([], |row| {
        Ok(Dependent {
            table: row.get("table")?,
            keeps_rows: row.get("keeps_rows")?,
            keeps_ids: row.get("keeps_ids")?,
            condition: row.get("condition")?,
        })
    })?;
    dependents.collect()
}

/// Returns an SQL condition that is true for the sessions that a foreign key keeps from being
/// deleted; `None` if no foreign key and no trigger concerns the deletion of a session.
pub(super) fn referenced_condition(
    connection: &Connection,
    sql: &ReadSql,
) -> rusqlite::Result<Option<String>> {
    let dependents = dependents(connection, sql)?;
    if dependents.is_empty() {
        return Ok(None);
    }
    let keeping = dependents.into_iter().filter(|dependent| dependent.keeps_rows);
    let conditions = keeping.map(|dependent| dependent.condition).chain(["false".to_owned()]);
    Ok(Some(format!("({})", conditions.collect::<Vec<_>>().join(" OR "))))
}

/// Returns the tables whose foreign keys keep sessions from being deleted.
pub(super) fn keeping_tables(
    connection: &Connection,
    sql: &ReadSql,
) -> rusqlite::Result<BTreeSet<String>> {
    let keeping = dependents(connection, sql)?.into_iter().filter(|it| it.keeps_rows);
    Ok(keeping.map(|dependent| dependent.table).collect())
}
