//! Reads whole sessions and writes them, for a copy into another store.

use std::collections::HashMap;

use tokio_postgres::Row;

use crate::backend::ReplacedId;
use crate::error::{Error, ErrorKind, Result};
use crate::id::PublicId;
use crate::stores::copy::{CopyBatch, CopyMark, StoredPage, StoredSession};
use crate::stores::postgres::connection::{CallTime, Param, Query, Trips};
use crate::stores::postgres::error::CallFailure;
use crate::stores::postgres::row::{self, get};
use crate::stores::postgres::sql::{TableNames, parameters};
use crate::stores::postgres::store::PostgresInner;
use crate::stores::sql::columns::{replaced, session};
use crate::stores::sql::decode::{self, SqlRow};
use crate::stores::sql::{saturating_i64, statements};

const OPERATION: &str = "copy sessions";

statements! {
    PostgresCopySql(names: &TableNames) {
        let t = names.qualified("");
        let t_literal = t.replace('\'', "''");
        let replaced = names.qualified("_replaced");
        let meta = names.qualified("_meta");
        let columns = session::NAMES.join(", ");
        let values_and_id = parameters(session::NAMES.len() + 1);
        let deadline = session::deadline + 1;
        let replaced_columns = replaced::NAMES.join(", ");
        let replaced_values_and_session = parameters(replaced::NAMES.len() + 1);
    }

    after: "SELECT {columns}, id FROM {t} WHERE id > $1 ORDER BY id LIMIT $2";
    in_the_way:
        "SELECT {columns}, id FROM {t} WHERE id IN (SELECT unnest($1) \
         UNION SELECT id FROM {t} WHERE id_hash = ANY($2) \
         UNION SELECT id FROM {t} WHERE public_id = ANY($3) \
         UNION SELECT session FROM {replaced} WHERE id_hash = ANY($2)) \
         ORDER BY id FOR UPDATE";
    replaced_of:
        "SELECT {replaced_columns}, session FROM {replaced} WHERE session = ANY($1) ORDER BY id";
    delete: "DELETE FROM {t} WHERE id = ANY($1)";
    // Also those of sessions that have ended.
    delete_replaced:
        "DELETE FROM {replaced} WHERE session = ANY($1) OR id_hash = ANY($2)";
    insert:
        "INSERT INTO {t} ({columns}, id, sweep_at) OVERRIDING SYSTEM VALUE \
         VALUES ({values_and_id}, ${deadline})";
    insert_replaced:
        "INSERT INTO {replaced} ({replaced_columns}, session) \
         VALUES ({replaced_values_and_session})";
    // New sessions come after the copied ones.
    set_sequence:
        "SELECT setval(pg_get_serial_sequence('{t_literal}', 'id'), max(id)) FROM {t} \
         HAVING max(id) IS NOT NULL";
    mark: "SELECT value FROM {meta} WHERE name = $1";
    insert_mark:
        "INSERT INTO {meta} (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING name";
    change_mark: "UPDATE {meta} SET value = $2 WHERE name = $1 AND value = $3 RETURNING name";
}

pub(super) fn export(store: &PostgresInner, after: i64, limit: usize) -> Result<StoredPage> {
    let sql = PostgresCopySql::new(&store.names);
    store.pool.call_within(CallTime::Bulk, "read every session", async |trips| {
        let page = Query::new(&sql.after, [after.into(), saturating_i64(limit).into()]);
        let [rows] = trips.begin([page]).await?;
        let mut page = StoredPage::default();
        for (row, session) in rows.iter().zip(stored(&rows, trips, &sql).await?) {
            match session {
                Ok(session) => page.sessions.push(session),
                Err(error) => page.undecodable.push((public_id(row)?, error)),
            }
        }
        if rows.len() == limit {
            page.last = rows.last().map(|row| get(row, "id")).transpose()?;
        }
        Ok(page)
    })
}

pub(super) fn mark(store: &PostgresInner) -> Result<Option<CopyMark>> {
    let sql = PostgresCopySql::new(&store.names);
    let rows = store.pool.call(OPERATION, async |trips| {
        trips.query(Query::new(&sql.mark, [CopyMark::NAME.into()])).await
    })?;
    let mark = rows.first().map(|row| get::<&str>(row, "value")).transpose()?;
    Ok(mark.and_then(CopyMark::parse))
}

pub(super) fn import(
    store: &PostgresInner,
    batch: &CopyBatch,
    present: Option<&CopyMark>,
    mark: CopyMark,
) -> Result<CopyMark> {
    let sql = PostgresCopySql::new(&store.names);
    store.pool.call_within(CallTime::Bulk, OPERATION, async |trips| {
        let mut mark = mark;
        let deleted = in_the_way(batch, trips, &sql).await?;
        deleted.iter().for_each(|stored| mark.sum.subtract(stored));
        batch.sessions.iter().for_each(|stored| mark.sum.add(stored));
        let positions = || Param::Ints(deleted.iter().map(|stored| stored.position).collect());
        let mut queries = vec![
            Query::new(&sql.delete_replaced, [positions(), id_hashes(batch)]),
            Query::new(&sql.delete, [positions()]),
        ];
        queries.extend(batch.sessions.iter().flat_map(|new| insertion(new, &sql)));
        queries.push(Query::new(&sql.set_sequence, []));
        queries.push(Query::new(&store.sql.raise_epoch, []));
        let name = CopyMark::NAME.into();
        let after = Param::OwnedText(Some(mark.to_string()));
        queries.push(match present {
            None => Query::new(&sql.insert_mark, [name, after]),
            Some(present) => {
                let present = Param::OwnedText(Some(present.to_string()));
                Query::new(&sql.change_mark, [name, after, present])
            }
        });
        let answers = trips.within(queries).await?;
        if answers.last().is_none_or(Vec::is_empty) {
            let why = "another copy runs";
            return Err(Error::with_source(ErrorKind::Conflict, OPERATION, why).into());
        }
        trips.commit(Vec::new()).await?;
        Ok(mark)
    })
}

fn id_hashes(batch: &CopyBatch) -> Param<'_> {
    Param::BytesList(batch.id_hashes().map(|id_hash| id_hash.as_bytes().as_slice()).collect())
}

fn public_id(row: &Row) -> Result<PublicId> {
    row.array(session::public_id).map(PublicId::from_bytes)
}

/// Begins the transaction, and returns the sessions that the batch removes or replaces, locked.
async fn in_the_way(
    batch: &CopyBatch,
    trips: &mut Trips<'_>,
    sql: &PostgresCopySql,
) -> Result<Vec<StoredSession>, CallFailure> {
    let positions = batch.sessions.iter().map(|new| new.position);
    let public_ids = batch.sessions.iter().map(|new| new.session.record.public_id.as_bytes());
    let params = [
        Param::Ints(batch.ended.iter().copied().chain(positions).collect()),
        id_hashes(batch),
        Param::BytesList(public_ids.map(<[u8; 16]>::as_slice).collect()),
    ];
    let [rows] = trips.begin([Query::new(&sql.in_the_way, params)]).await?;
    Ok(stored(&rows, trips, sql).await?.into_iter().collect::<Result<_>>()?)
}

/// Decodes the sessions in these rows, with their replaced ids, within the open transaction.
async fn stored(
    rows: &[Row],
    trips: &mut Trips<'_>,
    sql: &PostgresCopySql,
) -> Result<Vec<Result<StoredSession>>, CallFailure> {
    let ids = rows.iter().map(|row| get(row, "id")).collect::<Result<_>>()?;
    let mut replaced: HashMap<i64, Vec<ReplacedId>> = HashMap::new();
    for row in &trips.query(Query::new(&sql.replaced_of, [Param::Ints(ids)])).await? {
        let of_session: &mut Vec<_> = replaced.entry(get(row, "session")?).or_default();
        of_session.push(decode::replaced_id(row, 0)?);
    }
    let session = |row| {
        let replaced = replaced.remove(&get(row, "id")?).unwrap_or_default();
        decode::stored_session(row, replaced)
    };
    Ok(rows.iter().map(session).collect::<Result<_>>()?)
}

fn insertion<'q>(
    new: &'q StoredSession,
    sql: &'q PostgresCopySql,
) -> impl Iterator<Item = Query<'q>> {
    let values = session::values(&new.session, new.deadline);
    let session = Query { sql: &sql.insert, params: row::params(values, new.position) };
    [session].into_iter().chain(new.replaced.iter().map(|id| {
        let params = row::params(replaced::values(id), new.position);
        Query { sql: &sql.insert_replaced, params }
    }))
}
