//! Reads whole sessions and writes them, for a copy into another store.

use std::collections::BTreeSet;

use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Params, Row, params, params_from_iter,
};

use crate::error::{Error, ErrorKind, Result};
use crate::id::PublicId;
use crate::stores::copy::{CopyBatch, CopyMark, StoredPage, StoredSession};
use crate::stores::sql::columns::{ColumnValue, ROW_ID, replaced, session};
use crate::stores::sql::decode::{self, SqlRow};
use crate::stores::sql::{saturating_i64, statements};
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::sql::row;
use crate::stores::sqlite::store::SqliteStore;

const OPERATION: &str = "copy sessions";

// Writes for itself: `WriteTx` would end in place what a table of the application references, and
// delete forgotten replaced ids. A copy is exact, or fails.
statements! {
    SqliteCopySql(table: &str) {
        let t = format!("\"{table}\"");
        let meta = format!("\"{table}_meta\"");
        let replaced = format!("\"{table}_replaced\"");
        let placeholders = |count: usize| vec!["?"; count].join(", ");
        let columns = session::NAMES.join(", ");
        let values_and_id = placeholders(session::NAMES.len() + 1);
        let replaced_columns = replaced::NAMES.join(", ");
        let replaced_values_and_session = placeholders(replaced::NAMES.len() + 2);
    }

    after: "SELECT {columns}, id FROM {t} WHERE id > ?1 ORDER BY id LIMIT ?2";
    by_id: "SELECT {columns}, id FROM {t} WHERE id = ?1";
    replaced_of:
        "SELECT {replaced_columns} FROM {replaced} \
         WHERE session = ?1 AND public_id = ?2 ORDER BY id";
    id_of_id_hash: "SELECT id FROM {t} WHERE id_hash = ?1";
    // Public ids of anonymous sessions are not unique here.
    id_of_public_id: "SELECT id FROM {t} WHERE public_id = ?1 AND user_key IS NOT NULL";
    session_of_replaced:
        "SELECT s.id FROM {replaced} AS r JOIN {t} AS s ON s.id = r.session \
         AND s.public_id = r.public_id WHERE r.id_hash = ?1";
    insert: "INSERT INTO {t} ({columns}, id) VALUES ({values_and_id})";
    delete: "DELETE FROM {t} WHERE id = ?1";
    delete_replaced_of: "DELETE FROM {replaced} WHERE session = ?1";
    delete_replaced: "DELETE FROM {replaced} WHERE id_hash = ?1";
    insert_replaced:
        "INSERT INTO {replaced} ({replaced_columns}, session, public_id) \
         VALUES ({replaced_values_and_session})";
    mark: "SELECT value FROM {meta} WHERE name = ?1";
    insert_mark: "INSERT INTO {meta} (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    change_mark: "UPDATE {meta} SET value = ?3 WHERE name = ?1 AND value = ?2";
}

pub(super) fn export(store: &SqliteStore, after: i64, limit: usize) -> Result<StoredPage> {
    let sql = SqliteCopySql::new(store.table());
    store.0.query("read every session", |connection, _| page(connection, &sql, after, limit))
}

pub(super) fn mark(store: &SqliteStore) -> Result<Option<CopyMark>> {
    let sql = SqliteCopySql::new(store.table());
    let mark: Option<String> = store.0.query(OPERATION, |connection, _| {
        connection.query_row(&sql.mark, [CopyMark::NAME], |row| row.get(0)).optional()
    })?;
    Ok(mark.and_then(|mark| CopyMark::parse(&mark)))
}

pub(super) fn import(
    store: &SqliteStore,
    batch: &CopyBatch,
    present: Option<&CopyMark>,
    mark: CopyMark,
) -> Result<CopyMark> {
    let sql = SqliteCopySql::new(store.table());
    let batch = batch.clone();
    let present = present.copied();
    store.0.writer.write(OPERATION, move |tx| {
        let mark = tx.with_connection(|connection| {
            apply(connection, &sql, &batch, present, mark).during(OPERATION)?
        })?;
        tx.raise_epoch()?;
        Ok(mark)
    })
}

fn page(
    connection: &Connection,
    sql: &SqliteCopySql,
    after: i64,
    limit: usize,
) -> rusqlite::Result<StoredPage> {
    let snapshot = connection.unchecked_transaction()?;
    let mut replaced_of = snapshot.prepare_cached(&sql.replaced_of)?;
    let mut statement = snapshot.prepare_cached(&sql.after)?;
    let mut rows = statement.query(params![after, saturating_i64(limit)])?;
    let mut page = StoredPage::default();
    let mut last = None;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        (count, last) = (count + 1, Some(row.get(ROW_ID)?));
        match stored(row, &mut replaced_of)? {
            Ok(stored) => page.sessions.push(stored),
            Err(error) => page.undecodable.push((public_id(row)?, error)),
        }
    }
    page.last = last.filter(|_| count == limit);
    Ok(page)
}

fn public_id(row: &Row<'_>) -> rusqlite::Result<PublicId> {
    row.get(session::public_id).map(PublicId::from_bytes)
}

/// Decodes a session with its replaced ids. The outer error is SQLite's.
fn stored(
    row: &Row<'_>,
    replaced_of: &mut CachedStatement<'_>,
) -> rusqlite::Result<Result<StoredSession>> {
    let params = (row.int(ROW_ID)?, row.array::<16>(session::public_id)?);
    let replaced = replaced_of.query_map(params, |row| decode::replaced_id(row, 0))?;
    decode::stored_session(row, replaced.collect::<rusqlite::Result<_>>()?)
}

/// Applies a batch within a transaction. The inner error is not SQLite's.
fn apply(
    connection: &Connection,
    sql: &SqliteCopySql,
    batch: &CopyBatch,
    present: Option<CopyMark>,
    mut mark: CopyMark,
) -> rusqlite::Result<Result<CopyMark>> {
    fn execute(
        connection: &Connection,
        text: &str,
        params: impl Params,
    ) -> rusqlite::Result<usize> {
        connection.prepare_cached(text)?.execute(params)
    }
    let mut replaced_of = connection.prepare_cached(&sql.replaced_of)?;
    let mut by_id = connection.prepare_cached(&sql.by_id)?;
    for id in in_the_way(connection, sql, batch)? {
        let found = by_id.query_row([id], |row| stored(row, &mut replaced_of)).optional()?;
        match found {
            None => continue,
            Some(Err(error)) => return Ok(Err(error)),
            Some(Ok(found)) => mark.sum.subtract(&found),
        }
        execute(connection, &sql.delete_replaced_of, [id])?;
        execute(connection, &sql.delete, [id])?;
    }
    for new in &batch.sessions {
        let values = session::values(&new.session, new.deadline).into_iter();
        let values = values.chain([ColumnValue::Int(Some(new.position))]);
        execute(connection, &sql.insert, params_from_iter(values))?;
        execute(connection, &sql.delete_replaced_of, [new.position])?;
        for id in &new.replaced {
            execute(connection, &sql.delete_replaced, [id.id_hash.as_bytes()])?;
            let params = row::replaced_params(new.position, &new.session.record.public_id, id);
            execute(connection, &sql.insert_replaced, params)?;
        }
        mark.sum.add(new);
    }
    let name = CopyMark::NAME;
    let text = mark.to_string();
    let changed = match present.map(|present| present.to_string()) {
        None => execute(connection, &sql.insert_mark, [name, &text])?,
        Some(present) => execute(connection, &sql.change_mark, [name, &present, &text])?,
    };
    Ok(match changed {
        1 => Ok(mark),
        _ => Err(Error::with_source(ErrorKind::Conflict, OPERATION, "another copy runs")),
    })
}

/// Returns the row ids of the sessions that the batch removes or replaces.
fn in_the_way(
    connection: &Connection,
    sql: &SqliteCopySql,
    batch: &CopyBatch,
) -> rusqlite::Result<BTreeSet<i64>> {
    let mut ids: BTreeSet<i64> = batch.ended.iter().copied().collect();
    ids.extend(batch.sessions.iter().map(|new| new.position));
    let mut find = |text: &str, params: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(text)?;
        ids.extend(statement.query_row(params, |row| row.get::<_, i64>(0)).optional()?);
        Ok(())
    };
    for id_hash in batch.id_hashes() {
        find(&sql.id_of_id_hash, &[id_hash.as_bytes()])?;
        find(&sql.session_of_replaced, &[id_hash.as_bytes()])?;
    }
    for new in batch.sessions.iter().filter(|new| new.session.record.user.is_some()) {
        find(&sql.id_of_public_id, &[new.session.record.public_id.as_bytes()])?;
    }
    Ok(ids)
}
