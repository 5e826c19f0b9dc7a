//! The foreign keys of other tables that reference the sessions table.
//!
//! Called by `WriteTx` before it deletes sessions, and by `admin`.

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::stores::sqlite::sql::ReadSql;

/// A foreign key of another table.
#[derive(Debug)]
struct Reference {
    table: String,
    /// Whether a referenced session cannot be deleted.
    keeps_rows: bool,
    /// Whether the id of a referenced session cannot be replaced, or the column that it references
    /// is no key, which SQLite reports at each deletion.
    keeps_ids: bool,
    /// The condition that a session is referenced.
    condition: String,
}

fn all(connection: &Connection, sql: &ReadSql) -> rusqlite::Result<Vec<Reference>> {
    let mut statement = connection.prepare_cached(&sql.references)?;
    let references = statement.query_map([], |row| {
        Ok(Reference {
            table: row.get(0)?,
            keeps_rows: row.get(1)?,
            keeps_ids: row.get(2)?,
            condition: row.get(3)?,
        })
    })?;
    references.collect()
}

/// Returns the condition that a session is referenced by a row that does not go with it; `None` if
/// no table can have such rows.
pub(super) fn kept_condition(
    connection: &Connection,
    sql: &ReadSql,
) -> rusqlite::Result<Option<String>> {
    let all = all(connection, sql)?.into_iter().filter(|reference| reference.keeps_rows);
    let conditions: Vec<_> = all.map(|reference| reference.condition).collect();
    Ok((!conditions.is_empty()).then(|| format!("({})", conditions.join(" OR "))))
}

/// Returns the tables whose foreign keys keep sessions, or rows that would go with a session, from
/// being deleted, or keep sessions from getting a new id.
pub(super) fn tables(connection: &Connection, sql: &ReadSql) -> rusqlite::Result<Vec<String>> {
    let all = all(connection, sql)?.into_iter();
    let direct = all.filter(|reference| reference.keeps_rows || reference.keeps_ids);
    let mut tables = direct.map(|reference| Ok(reference.table)).collect::<Vec<_>>();
    let mut chains = connection.prepare(&sql.references_of_chains)?;
    tables.extend(chains.query_map([], |row| row.get(0))?);
    tables.into_iter().collect::<rusqlite::Result<BTreeSet<_>>>().map(Vec::from_iter)
}
