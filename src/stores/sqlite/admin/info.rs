//! The operators' call that describes the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::error::{ErrorKind, Result};
use crate::stores::sqlite::admin::report::DatabaseInfo;
use crate::stores::sqlite::admin::{SqliteFile, connect};
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::file::access::owner_name;
use crate::stores::sqlite::file::identity::second_name;
use crate::stores::sqlite::file::mount::mount;
use crate::stores::sqlite::file::paths::{folder, with_suffix};
use crate::stores::sqlite::file::{Opened, Purpose};
use crate::stores::sqlite::migrate;
use crate::stores::sqlite::references;
use crate::stores::sqlite::sql::row;
use crate::stores::sqlite::sql::{ReadSql, TableName};

const READING: &str = "read the properties of the database";

/// The tables whose rows prevent that rows which would go with a session of the table `?1` are
/// deleted, and those with a column that would become NULL with the session but must not. With
/// DISTINCT SQLite 3.40 finds none.
const CHAINS: &str = "
    SELECT m.name
    FROM (WITH RECURSIVE gone (name) AS (SELECT ?1
            UNION SELECT m.name
            FROM gone, sqlite_schema AS m, pragma_foreign_key_list(m.name) AS f
            WHERE m.type = 'table' AND f.\"table\" = gone.name COLLATE NOCASE
              AND f.on_delete = 'CASCADE')
          SELECT name FROM gone) AS gone,
      sqlite_schema AS m, pragma_foreign_key_list(m.name) AS f, pragma_table_info(m.name) AS c
    WHERE m.type = 'table' AND f.\"table\" = gone.name COLLATE NOCASE
      AND c.name = f.\"from\" COLLATE NOCASE
      AND (f.on_delete = 'SET NULL' AND c.\"notnull\"
        OR f.on_delete IN ('NO ACTION', 'RESTRICT') AND gone.name <> ?1)";

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Returns the properties of the file, which need not have the store's tables.
    pub fn info(&self) -> Result<DatabaseInfo> {
        let (opened, table) = connect(&self.settings()?, Purpose::Read)?;
        info(&opened, &table)
    }
}

pub(super) fn info(
    Opened { connection, access, path }: &Opened,
    table: &TableName,
) -> Result<DatabaseInfo> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let journal = if access.is_immutable() {
        // Only a database with a write-ahead log is opened as immutable, which hides the log.
        "wal".to_owned()
    } else {
        let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0));
        mode.during(READING)?
    };
    let schema = migrate::version_before(connection, table);
    let tables = number(
        connection,
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
         ESCAPE '\\'",
    )?;
    let is_ours = match &schema {
        Ok(version) => *version > 0,
        // In a damaged file the version is unreadable; a foreign table would have been found first.
        Err(error) => error.kind() == ErrorKind::Corrupt,
    };
    let ours = if is_ours { migrate::count_tables(connection, table).during(READING)? } else { 0 };
    Ok(DatabaseInfo {
        path: path.clone(),
        bytes: size(path),
        log_bytes: size(&with_suffix(path, "-wal")),
        page_size: number(connection, "PRAGMA page_size")?,
        pages: number(connection, "PRAGMA page_count")?,
        free_pages: number(connection, "PRAGMA freelist_count")?,
        journal,
        incremental: number(connection, "PRAGMA auto_vacuum")? == 2,
        created: schema
            .is_ok()
            .then(|| migrate::created(connection, table).ok())
            .flatten()
            .flatten(),
        schema,
        newest_schema: migrate::newest(),
        other_tables: tables.saturating_sub(ours),
        read_only: connection.is_readonly("main").during(READING)?,
        owner: owner_name(path),
        folder_owner: owner_name(folder(path)),
        file_system: mount(path).map(|mount| mount.kind),
        second_name: second_name(path),
        referencing_tables: referencing_tables(connection, table).during(READING)?,
        triggers: migrate::triggers(connection, table).during(READING)?,
    })
}

/// Returns the tables whose foreign keys keep sessions, or rows that would go with a session, from
/// being deleted, or keep sessions from getting a new id.
fn referencing_tables(connection: &Connection, table: &TableName) -> rusqlite::Result<Vec<String>> {
    let dependents = references::dependents(connection, &ReadSql::new(table))?.into_iter();
    let direct = dependents.filter(|it| it.keeps_rows || it.keeps_ids);
    let mut tables: BTreeSet<_> = direct.map(|key| key.table).collect();
    let mut chains = connection.prepare(CHAINS)?;
    for table in chains.query_map([table.as_str()], |row| row.get(0))? {
        tables.insert(table?);
    }
    Ok(Vec::from_iter(tables))
}

pub(super) fn number(connection: &Connection, sql: &str) -> Result<u64> {
    row::count(connection, sql, []).during(READING)
}
