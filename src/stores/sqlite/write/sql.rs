//! The SQL statements that write, except those of copies and migrations. No module outside `write`
//! can read their texts, so only `WriteTx` executes them.

use std::sync::Arc;

use crate::stores::sql::columns::{ended, replaced, session};
use crate::stores::sql::statements;
use crate::stores::sqlite::sql::{ReadSql, TableName};

/// All statements for one table.
#[derive(Debug)]
pub(crate) struct TableSql {
    pub(crate) read: Arc<ReadSql>,
    pub(super) write: WriteSql,
}

impl TableSql {
    pub(crate) fn new(table: &TableName) -> Self {
        TableSql { read: Arc::new(ReadSql::new(table)), write: WriteSql::new(table) }
    }
}

statements! {
    WriteSql(table: &TableName) {
        let t = format!("\"{}\"", table.as_str());
        let meta = format!("\"{}_meta\"", table.as_str());
        let replaced = format!("\"{}_replaced\"", table.as_str());
        let placeholders = |names: &[&str]| vec!["?"; names.len()].join(", ");
        let session_names = session::NAMES.join(", ");
        let ended = ended::NAMES.join(", ");
        let session_values = placeholders(&session::NAMES);
        let replaced_names = replaced::NAMES.join(", ");
        let replaced_values = placeholders(&replaced::NAMES);
    }

    insert: "INSERT INTO {t} ({session_names}) VALUES ({session_values})";
    update_all: "UPDATE {t} SET ({session_names}) = ({session_values}) WHERE id = ?";
    // SQLite rewrites an index when a statement names one of its columns, even if the value stays
    // the same. So the frequent updates name as few columns as possible.
    update_data:
        "UPDATE {t} SET revision = :revision, format = :format, data = :data WHERE id = :id";
    update_data_and_seen:
        "UPDATE {t} SET revision = :revision, format = :format, data = :data, seen = :seen, \
         deadline = :deadline WHERE id = :id";
    rename_user:
        "UPDATE {t} SET user_key = ?2, revision = revision + 1 WHERE user_key = ?1 AND realm = ?3 \
         RETURNING id_hash";
    update_seen: "UPDATE {t} SET seen = :seen, deadline = :deadline WHERE id = :id";
    delete: "DELETE FROM {t} WHERE {{condition}}";
    sweep:
        "DELETE FROM {t} WHERE id IN \
         (SELECT id FROM {t} WHERE deadline <= ?1 AND NOT {{condition}} LIMIT ?2) \
         RETURNING {ended}";
    // Without a condition SQLite drops whole pages, in a thousandth of the time.
    delete_all: "DELETE FROM {t}";
    // In place of a deletion that another table prevents: the session has expired, and nothing is
    // left of its data.
    end:
        "UPDATE {t} SET deadline = 0, user_key = NULL, idp_session_id = NULL, client = NULL, \
         data = '{{}}' WHERE {{condition}}";
    insert_replaced:
        "INSERT INTO {replaced} ({replaced_names}, session, public_id) \
         VALUES ({replaced_values}, ?, ?)";
    delete_forgotten:
        "DELETE FROM {replaced} WHERE id IN \
         (SELECT id FROM {replaced} WHERE forget_at <= ?1 LIMIT ?2)";
    delete_replaced: "DELETE FROM {replaced} WHERE id_hash = ?1";
    // Also those that a deleted session with the same row id has left.
    delete_replaced_of: "DELETE FROM {replaced} WHERE session = ?1";
    delete_all_replaced: "DELETE FROM {replaced}";
    raise_epoch:
        "UPDATE {meta} SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE name = 'epoch'";
    draw_identity:
        "UPDATE {meta} SET value = lower(hex(randomblob(16))) WHERE name = 'identity'";
    set_epoch: "UPDATE {meta} SET value = ?1 WHERE name = 'epoch'";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_these_statements_writes() {
        let sql = format!("{:#?}", WriteSql::new(&TableName::new("t").unwrap()));
        let statements: Vec<_> = sql.lines().filter(|line| line.contains('"')).collect();
        assert!(statements.len() > 10, "{sql}");
        for line in statements {
            let is_write = ["INSERT ", "UPDATE ", "DELETE "].iter().any(|w| line.contains(w));
            assert!(is_write && !line.contains(": \"SELECT "), "{line}");
        }
    }
}
