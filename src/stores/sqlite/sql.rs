//! The SQL statements for one sessions table.

use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::write::WriteStatement;

/// The table with the history of migrations of all sessions tables in the file.
pub(super) const HISTORY: &str = "cloakroom_migrations";

/// The columns of a session that [`row`](super::row) decodes, in its order.
const COLUMNS: &str = "id, id_hash, id_issued, public_id, user_key, idp_session_id, auth_level, \
     created, authenticated, seen, idle, absolute, deadline, persistent, revision, client, \
     format, data, realm";

/// The columns that a sign-in can change, in the order of `WriteTx::write_record`.
const RECORD: &str = "user_key, idp_session_id, auth_level, authenticated, seen, idle, absolute, \
     deadline, persistent, revision, client, format, data, id_issued, realm";

/// The columns of a replaced id that [`row`](super::row) decodes, in its order, after those of its
/// session.
const REPLACED: &str = "successor, replaced_at, grace_until, by_sign_in, join_salt, had_user";

/// The columns that [`row::summary`](super::row::summary) decodes, in its order.
const SUMMARY: &str = "id, public_id, user_key, idp_session_id, auth_level, created, authenticated, \
     seen, deadline, persistent, client, length(CAST(data AS BLOB)), realm";

/// The columns that a touch needs.
const TOUCH_ROW: &str = "id, seen, deadline, idle, absolute, id_hash";

/// A table name that is safe inside double quotes and short enough for suffixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName(String);

impl TableName {
    pub(super) const DEFAULT: &str = "cloakroom_sessions";

    pub(super) fn new(name: &str) -> Result<Self> {
        let why = if name.is_empty() || name.len() > 64 {
            "a table name has 1 to 64 characters"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            || name.starts_with(|c: char| c.is_ascii_digit())
        {
            "a table name has only ASCII letters, digits and underscores, and begins with no digit"
        } else if name.to_ascii_lowercase().starts_with("sqlite_") {
            "names that begin with sqlite_ belong to SQLite"
        } else if name.eq_ignore_ascii_case(HISTORY) {
            "cloakroom_migrations is the history of migrations"
        } else {
            return Ok(TableName(name.to_owned()));
        };
        Err(Error::with_source(ErrorKind::Invalid, "use that table name", why))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug)]
pub(super) struct Sql {
    pub(super) by_id_hash: String,
    pub(super) by_replaced_id: String,
    pub(super) is_taken: String,
    pub(super) insert: WriteStatement,
    pub(super) id_change: WriteStatement,
    pub(super) end_graces: WriteStatement,
    pub(super) forget_replaced_of: WriteStatement,
    pub(super) forget_replaced: WriteStatement,
    pub(super) forget_replaced_one: WriteStatement,
    pub(super) remember_replaced: WriteStatement,
    pub(super) update_all: WriteStatement,
    pub(super) update_data: WriteStatement,
    pub(super) update_data_and_seen: WriteStatement,
    pub(super) touch_row_by_id_hash: String,
    pub(super) touch_row_by_replaced_id: String,
    pub(super) update_seen: WriteStatement,
    pub(super) delete: WriteStatement,
    pub(super) delete_expired_of: WriteStatement,
    pub(super) by_sign_in: String,
    pub(super) sweep: WriteStatement,
    pub(super) list: String,
    pub(super) list_expired: String,
    pub(super) list_expired_matching: String,
    pub(super) by_public_id_of_user: String,
    pub(super) by_public_id_of_anonymous: String,
    pub(super) by_id: String,
    pub(super) after_id: String,
    pub(super) revoke: WriteStatement,
    pub(super) count_live: String,
    pub(super) count_expired: String,
    pub(super) count_all: String,
    pub(super) count_with_user: String,
    pub(super) count_live_with_user: String,
    pub(super) count_expired_with_user: String,
    pub(super) count_by_period: String,
    pub(super) first_from: String,
    pub(super) id_range: String,
    pub(super) size_at: String,
    pub(super) live_id_range: String,
    pub(super) delete_all: WriteStatement,
    pub(super) delete_all_of: WriteStatement,
    pub(super) count_live_of: String,
    pub(super) has_other_realms: String,
    pub(super) realms: String,
    pub(super) delete_all_replaced: WriteStatement,
    pub(super) epoch: String,
    pub(super) raise_epoch: WriteStatement,
    pub(super) set_epoch: WriteStatement,
    pub(super) drop: String,
}

impl Sql {
    pub(super) fn new(table: &TableName) -> Self {
        let t = format!("\"{}\"", table.0);
        let meta = format!("\"{}_meta\"", table.0);
        let replaced = format!("\"{}_replaced\"", table.0);
        // A replaced id joined with its session, if that still exists.
        let and_session = format!(
            "{replaced} AS r JOIN {t} AS s ON s.id = r.session AND s.public_id = r.public_id"
        );
        let of = |table: &str, columns: &str| {
            let columns = columns.split(", ").map(|column| format!("{table}.{column}"));
            columns.collect::<Vec<_>>().join(", ")
        };
        let write = WriteStatement::new;
        let placeholders = |columns: &str| vec!["?"; columns.split(", ").count()].join(", ");
        Sql {
            by_id_hash: format!("SELECT {COLUMNS} FROM {t} WHERE id_hash = ?1"),
            by_replaced_id: format!(
                "SELECT {}, {} FROM {and_session} WHERE r.id_hash = ?1",
                of("s", COLUMNS),
                of("r", REPLACED)
            ),
            is_taken: format!(
                "SELECT 1 FROM {t} WHERE id_hash = ?1 UNION ALL \
                 SELECT 1 FROM {replaced} WHERE id_hash = ?1 LIMIT 1"
            ),
            insert: write(format!(
                "INSERT INTO {t} ({RECORD}, id_hash, public_id, created) VALUES ({}, ?, ?, ?)",
                placeholders(RECORD)
            )),
            // SQLite rewrites an index when a statement names one of its columns, even if the value
            // stays the same. So the frequent updates name as few columns as possible.
            id_change: write(format!("UPDATE {t} SET id_hash = ?2 WHERE id = ?1")),
            end_graces: write(format!(
                "UPDATE {replaced} SET grace_until = NULL WHERE session = ?1 \
                 AND grace_until IS NOT NULL"
            )),
            // All but the latest replaced ids of this session, and those of a deleted session with
            // the same row id.
            forget_replaced_of: write(format!(
                "DELETE FROM {replaced} WHERE session = ?1 AND (public_id <> ?2 OR id NOT IN \
                 (SELECT id FROM {replaced} WHERE session = ?1 AND public_id = ?2 \
                 ORDER BY id DESC LIMIT ?3))"
            )),
            forget_replaced: write(format!(
                "DELETE FROM {replaced} WHERE id IN \
                 (SELECT id FROM {replaced} WHERE forget_at <= ?1 LIMIT ?2)"
            )),
            forget_replaced_one: write(format!("DELETE FROM {replaced} WHERE id_hash = ?1")),
            remember_replaced: write(format!(
                "INSERT INTO {replaced} (id_hash, session, public_id, {REPLACED}, forget_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
            )),
            update_all: write(format!(
                "UPDATE {t} SET ({RECORD}) = ({}) WHERE id = ?",
                placeholders(RECORD)
            )),
            update_data: write(format!(
                "UPDATE {t} SET revision = ?2, format = ?3, data = ?4 WHERE id = ?1"
            )),
            update_data_and_seen: write(format!(
                "UPDATE {t} SET revision = ?2, format = ?3, data = ?4, seen = ?5, deadline = ?6 \
                 WHERE id = ?1"
            )),
            touch_row_by_id_hash: format!("SELECT {TOUCH_ROW} FROM {t} WHERE id_hash = ?1"),
            touch_row_by_replaced_id: format!(
                "SELECT {} FROM {and_session} WHERE r.id_hash = ?1 AND r.grace_until > ?2",
                of("s", TOUCH_ROW)
            ),
            update_seen: write(format!("UPDATE {t} SET seen = ?2, deadline = ?3 WHERE id = ?1")),
            delete: write(format!("DELETE FROM {t} WHERE id = ?1")),
            delete_expired_of: write(format!(
                "DELETE FROM {t} WHERE user_key = ?1 AND realm = ?3 AND +deadline <= ?2"
            )),
            by_sign_in: format!(
                "SELECT id, id_hash FROM {t} WHERE user_key = ?1 AND realm = ?4 AND deadline > ?2 \
                 AND id <> ?3 ORDER BY authenticated, id"
            ),
            sweep: write(format!(
                "DELETE FROM {t} WHERE id IN (SELECT id FROM {t} WHERE deadline <= ?1 LIMIT ?2)"
            )),
            list: format!("SELECT {SUMMARY} FROM {t} WHERE deadline > ?1 AND id < ?2 AND "),
            // The pluses force SQLite to use the deadline index: in row id order it might scan
            // every live row to find a few expired ones. The deadline index alone yields the row
            // ids; only the selected rows are read. With a further condition rows must be read in
            // any case: those in the index of the condition, or all of them once.
            list_expired: format!(
                "SELECT {SUMMARY} FROM {t} WHERE id IN (SELECT id FROM {t} WHERE deadline <= ?1 \
                 AND +id < ?2 ORDER BY +id DESC LIMIT ?3) ORDER BY id DESC"
            ),
            list_expired_matching: format!(
                "SELECT {SUMMARY} FROM {t} WHERE +deadline <= ?1 AND id < ?2 AND "
            ),
            by_public_id_of_user: format!(
                "SELECT {SUMMARY} FROM {t} WHERE public_id = ?1 AND user_key IS NOT NULL"
            ),
            by_public_id_of_anonymous: format!(
                "SELECT {SUMMARY} FROM {t} WHERE public_id = ?1 AND user_key IS NULL"
            ),
            by_id: format!("SELECT {COLUMNS} FROM {t} WHERE id = ?1"),
            after_id: format!("SELECT {COLUMNS} FROM {t} WHERE id > ?1 ORDER BY id LIMIT 500"),
            revoke: write(format!("DELETE FROM {t} WHERE (?2 IS NULL OR public_id <> ?2) AND ")),
            count_live: format!("SELECT count(*) FROM {t} WHERE deadline > ?1"),
            count_expired: format!("SELECT count(*) FROM {t} WHERE deadline <= ?1"),
            count_all: format!("SELECT count(*) FROM {t}"),
            // Each count uses an index alone, or reads as few rows as possible: see `index::stats`.
            count_with_user: format!("SELECT count(*) FROM {t} WHERE user_key IS NOT NULL"),
            count_live_with_user: format!(
                "SELECT count(*) FROM {t} WHERE +user_key IS NOT NULL AND deadline > ?1"
            ),
            count_expired_with_user: format!(
                "SELECT count(*) FROM {t} WHERE +user_key IS NOT NULL AND deadline <= ?1"
            ),
            count_by_period: format!("SELECT count(*){{counts}} FROM {t} WHERE deadline > ?1"),
            first_from: format!("SELECT id, created FROM {t} WHERE id >= ?1 ORDER BY id LIMIT 1"),
            id_range: format!("SELECT (SELECT min(id) FROM {t}), (SELECT max(id) FROM {t})"),
            size_at: format!(
                "SELECT id, length(CAST(data AS BLOB)) FROM {t} WHERE id >= ?1 ORDER BY id LIMIT 1"
            ),
            // The pluses force SQLite to use the deadline index, which contains the row ids: in row
            // id order it might scan every expired row to find the first live one.
            live_id_range: format!(
                "SELECT (SELECT created FROM {t} WHERE id = ends.first), \
                 (SELECT created FROM {t} WHERE id = ends.last) FROM \
                 (SELECT min(+id) AS first, max(+id) AS last FROM {t} WHERE deadline > ?1) AS ends"
            ),
            delete_all: write(format!("DELETE FROM {t}")),
            delete_all_of: write(format!("DELETE FROM {t} WHERE realm = ?1")),
            // No index contains the realm. A full scan in table order is faster than reading single
            // rows in the order of the deadline index.
            count_live_of: format!("SELECT count(*) FROM {t} WHERE +deadline > ?1 AND realm = ?2"),
            has_other_realms: format!("SELECT EXISTS (SELECT 1 FROM {t} WHERE realm <> ?1)"),
            realms: format!("SELECT DISTINCT realm FROM {t} ORDER BY realm"),
            delete_all_replaced: write(format!("DELETE FROM {replaced}")),
            epoch: format!("SELECT CAST(value AS INTEGER) FROM {meta} WHERE name = 'epoch'"),
            raise_epoch: write(format!(
                "UPDATE {meta} SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) \
                 WHERE name = 'epoch'"
            )),
            set_epoch: write(format!("UPDATE {meta} SET value = ?1 WHERE name = 'epoch'")),
            drop: format!(
                "DROP VIEW IF EXISTS \"{0}_readable\"; DROP TABLE IF EXISTS \"{0}_meta\"; \
                 DROP TABLE IF EXISTS \"{0}_replaced\"; \
                 DROP TABLE IF EXISTS \"{0}\";",
                table.0
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn statements_that_write_are_write_statements() {
        let sql = format!("{:#?}", Sql::new(&TableName::new("t").unwrap()));
        let (mut reads, mut writes) = (0, 0);
        for line in sql.lines().filter(|line| line.contains('"') && !line.contains("drop: ")) {
            let is_read = line.contains("\"SELECT ");
            // The text of a write statement is on a line of its own.
            assert_eq!(is_read, line.contains(": \""), "{line}");
            *if is_read { &mut reads } else { &mut writes } += 1;
        }
        assert!(reads > 20 && writes == sql.matches("WriteStatement(").count(), "{sql}");
    }
}
