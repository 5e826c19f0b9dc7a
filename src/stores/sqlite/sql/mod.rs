//! The names of the tables, and the SQL statements that read them. `write` has those that write.

pub(super) mod row;

use crate::error::Result;
use crate::stores::migration::HISTORY;
use crate::stores::sql::columns::{ended, qualified, replaced, session};
use crate::stores::sql::{bad_table_name, statements, validate_table_name};

/// A table name that is safe inside double quotes and short enough for suffixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName(String);

impl TableName {
    pub(super) const DEFAULT: &str = "cloakroom_sessions";

    pub(super) fn new(name: &str) -> Result<Self> {
        validate_table_name(name, 64)?;
        if name.to_ascii_lowercase().starts_with("sqlite_") {
            Err(bad_table_name("names that begin with sqlite_ belong to SQLite"))
        } else if name.eq_ignore_ascii_case(HISTORY) {
            Err(bad_table_name("cloakroom_migrations is the history of migrations"))
        } else {
            Ok(TableName(name.to_owned()))
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

statements! {
    ReadSql(table: &TableName) {
        let t = format!("\"{}\"", table.as_str());
        let meta = format!("\"{}_meta\"", table.as_str());
        let replaced = format!("\"{}_replaced\"", table.as_str());
        // A replaced id joined with its session, if that still exists.
        let and_session = format!(
            "{replaced} AS r JOIN {t} AS s ON s.id = r.session AND s.public_id = r.public_id"
        );
        let columns = session::NAMES.join(", ") + ", id";
        let ended = ended::NAMES.join(", ");
        // A list needs no more of the data than its size.
        let summary = columns.replace("data", "length(CAST(data AS BLOB))");
        let session_columns = qualified("s", &session::NAMES) + ", s.id";
        let replaced_columns = qualified("r", &replaced::NAMES);
        // Only sessions with a user are indexed by public id. The others need a scan, which is
        // acceptable for an operator's commands and too slow for requests.
        let id_by_public_id = format!(
            "SELECT coalesce((SELECT id FROM {t} WHERE public_id = ?3 AND user_key IS NOT NULL), \
             (SELECT id FROM {t} WHERE public_id = ?3 AND user_key IS NULL))"
        );
    }

    by_id_hash: "SELECT {columns} FROM {t} WHERE id_hash = ?1";
    by_replaced_id:
        "SELECT {session_columns}, {replaced_columns} FROM {and_session} WHERE r.id_hash = ?1";
    replaced_of:
        "SELECT {replaced_columns} FROM {replaced} AS r WHERE session = ?1 AND public_id = ?2 \
         ORDER BY id";
    is_taken:
        "SELECT 1 FROM {t} WHERE id_hash = ?1 UNION ALL \
         SELECT 1 FROM {replaced} WHERE id_hash = ?1 LIMIT 1";
    to_revoke:
        "SELECT {ended}, id FROM {t} WHERE public_id IS NOT ?2 AND {{condition}}";
    sessions_of_user:
        "SELECT {ended}, id FROM {t} WHERE user_key = ?1 AND realm = ?2 ORDER BY authenticated, id";
    list:
        "SELECT {summary} FROM {t} WHERE deadline > ?1 AND id < ?2 AND {{condition}} \
         ORDER BY id DESC LIMIT {{limit}}";
    // The pluses force SQLite to use the deadline index: in row id order it might scan every live
    // row to find a few expired ones. The deadline index alone yields the row ids; only the
    // selected rows are read. With a further condition rows must be read in any case: those in the
    // index of the condition, or all of them once.
    list_expired:
        "SELECT {summary} FROM {t} WHERE id IN (SELECT id FROM {t} WHERE deadline <= ?1 \
         AND +id < ?2 ORDER BY +id DESC LIMIT ?3) ORDER BY id DESC";
    list_expired_matching:
        "SELECT {summary} FROM {t} WHERE +deadline <= ?1 AND id < ?2 AND {{condition}} \
         ORDER BY id DESC LIMIT {{limit}}";
    id_by_public_id: "{id_by_public_id}";
    by_public_id: "SELECT {columns} FROM {t} WHERE id = ({id_by_public_id})";
    count_live: "SELECT count(*) FROM {t} WHERE deadline > ?1";
    // Counts the sessions, expired ones included, that `delete_or_end` has left as they were. A
    // session ended in place has the deadline 0.
    count_left: "SELECT count(*) FROM {t} WHERE +deadline > 0 AND {{condition}}";
    count_expired: "SELECT count(*) FROM {t} WHERE deadline <= ?1";
    count_expired_matching: "SELECT count(*) FROM {t} WHERE deadline <= ?1 AND {{condition}}";
    count_all: "SELECT count(*) FROM {t}";
    // Each count uses an index alone, or reads as few rows as possible: see `index::stats`.
    count_with_user: "SELECT count(*) FROM {t} WHERE user_key IS NOT NULL";
    count_live_with_user:
        "SELECT count(*) FROM {t} WHERE +user_key IS NOT NULL AND deadline > ?1";
    count_expired_with_user:
        "SELECT count(*) FROM {t} WHERE +user_key IS NOT NULL AND deadline <= ?1";
    // An anonymous session. One with the deadline 0 has ended, and another table keeps its row.
    anonymous: "SELECT id FROM {t} WHERE id_hash = ?1 AND user_key IS NULL AND deadline > 0";
    count_anonymous_of:
        "SELECT count(*) FROM {t} WHERE +user_key IS NULL AND realm = ?1 AND +deadline > 0";
    // No index contains `seen`: a scan in table order, which sorts only the rows that it yields.
    idle_anonymous:
        "SELECT id_hash FROM {t} WHERE +user_key IS NULL AND realm = ?1 AND +deadline > 0 \
         ORDER BY seen, id LIMIT ?2";
    // The row ids are in the deadline index.
    after_deadline:
        "SELECT id, id_hash, deadline, user_key IS NULL AS is_anonymous FROM {t} \
         WHERE (deadline, id) > (?1, ?2) ORDER BY deadline, id LIMIT ?3";
    counts:
        "SELECT CAST(coalesce(avg(length(CAST(data AS BLOB))), 0) AS INTEGER), \
         coalesce(max(length(CAST(data AS BLOB))), 0){{created}} FROM {t}";
    // The pluses force SQLite to use the deadline index, which contains the row ids: in row id
    // order it might scan every expired row to find the first live one.
    live_id_range:
        "SELECT (SELECT created FROM {t} WHERE id = ends.first), \
         (SELECT created FROM {t} WHERE id = ends.last) FROM \
         (SELECT min(+id) AS first, max(+id) AS last FROM {t} WHERE deadline > ?1) AS ends";
    // No index contains the realm. A full scan in table order is faster than reading single rows in
    // the order of the deadline index.
    count_live_of: "SELECT count(*) FROM {t} WHERE +deadline > ?1 AND realm = ?2";
    has_other_realms: "SELECT EXISTS (SELECT 1 FROM {t} WHERE realm <> ?1)";
    realms: "SELECT DISTINCT realm FROM {t} ORDER BY realm";
    epoch: "SELECT CAST(value AS INTEGER) FROM {meta} WHERE name = 'epoch'";
    identity: "SELECT value FROM {meta} WHERE name = 'identity'";
    // Each foreign key of another table that references this one, and each trigger on this one:
    // - its table,
    // - whether it keeps the row of a session,
    // - whether it keeps the id of a session, or names a column that no key can reference,
    // - the condition on a session that a row references it.
    // A foreign key without columns references the row id. The texts of the tables are searched
    // first, because SQLite takes some 5 us a table to list its foreign keys.
    dependents:
        "SELECT m.name AS \"table\", f.on_delete IN ('NO ACTION', 'RESTRICT') AS keeps_rows, \
         max(f.on_update IN ('NO ACTION', 'RESTRICT') AND lower(f.\"to\") IS 'id_hash' \
         OR lower(coalesce(f.\"to\", 'id')) NOT IN ('id', 'id_hash')) AS keeps_ids, \
         printf('EXISTS (SELECT 1 FROM \"%w\" AS c WHERE %s)', m.name, \
         group_concat(printf('%s.\"%w\" = c.\"%w\"', '{t}', coalesce(f.\"to\", 'id'), \
         f.\"from\"), ' AND ')) AS condition \
         FROM sqlite_schema AS m, pragma_foreign_key_list(m.name) AS f \
         WHERE m.type = 'table' AND m.sql LIKE '%' || trim('{t}', '\"') || '%' \
         AND m.sql LIKE '%references%' AND f.\"table\" = trim('{t}', '\"') COLLATE NOCASE \
         GROUP BY m.name, f.id UNION ALL \
         SELECT tbl_name, 0, 0, 'false' FROM sqlite_schema \
         WHERE type = 'trigger' AND tbl_name = trim('{t}', '\"') COLLATE NOCASE";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn only_plain_identifiers_are_table_names() {
        let long = "x".repeat(200);
        for bad in [
            "",
            " ",
            "a b",
            "a\"b",
            "a'b",
            "a;b",
            "a-b",
            "1a",
            "é",
            "a\0",
            "sqlite_x",
            "cloakroom_migrations",
            "CLOAKROOM_MIGRATIONS",
            "main.a",
            &long,
        ] {
            assert_eq!(TableName::new(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
        for good in ["session", "_a1", "order", "T", TableName::DEFAULT] {
            assert_eq!(TableName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn these_statements_only_read() {
        let sql = format!("{:#?}", ReadSql::new(&TableName::new("t").unwrap()));
        let statements: Vec<_> = sql.lines().filter(|line| line.contains('"')).collect();
        assert!(statements.len() > 20, "{sql}");
        for line in statements {
            assert!(line.contains(": \"SELECT "), "{line}");
        }
    }
}
