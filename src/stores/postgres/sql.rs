//! The names of the tables, and the SQL statements.

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::id::UserKey;
use crate::stores::migration::HISTORY;
use crate::stores::sql::columns::{ended, qualified, replaced, session};
use crate::stores::sql::{bad_table_name, statements, validate_table_name};

/// PostgreSQL cuts longer names off.
const LONGEST_NAME: usize = 63;

/// The longest suffix of a table's name, in the name of an index, is `_replaced_session`.
const LONGEST_TABLE_NAME: usize = LONGEST_NAME - "_replaced_session".len();

/// The schema and the table, both validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableNames {
    pub(super) schema: String,
    pub(super) table: String,
}

impl TableNames {
    pub(super) const DEFAULT_TABLE: &str = "cloakroom_sessions";

    pub(super) fn new(schema: &str, table: &str) -> Result<Self> {
        validate_schema(schema)?;
        validate_table(table)?;
        Ok(TableNames { schema: schema.to_owned(), table: table.to_owned() })
    }

    /// Returns the name of the table with this suffix, for a statement.
    pub(super) fn qualified(&self, suffix: &str) -> String {
        self.in_schema(&format!("{}{suffix}", self.table))
    }

    /// Returns the name of the table `name`, for a statement. It needs no escaping.
    pub(super) fn in_schema(&self, name: &str) -> String {
        format!("{}.\"{name}\"", self.quoted_schema())
    }

    /// Returns the name of the history of migrations, for a statement.
    pub(super) fn history(&self) -> String {
        self.in_schema(HISTORY)
    }

    pub(super) fn quoted_schema(&self) -> String {
        format!("\"{}\"", self.schema.replace('"', "\"\""))
    }

    /// Replaces the names in the text of a migration.
    pub(super) fn fill_in(&self, sql: &str) -> String {
        // The schema comes last, because it may contain anything.
        sql.replace("{t}", &self.table).replace("{schema}", &self.quoted_schema())
    }
}

/// A schema may belong to the application and have any name.
pub(super) fn validate_schema(name: &str) -> Result<()> {
    let why = if name.is_empty() || name.len() > LONGEST_NAME {
        "a schema name has 1 to 63 bytes"
    } else if name.contains('\0') {
        "a schema name has no NUL character"
    } else {
        return Ok(());
    };
    Err(Error::with_source(ErrorKind::Invalid, "use that schema name", why))
}

pub(super) fn validate_table(name: &str) -> Result<()> {
    validate_table_name(name, LONGEST_TABLE_NAME)?;
    if name == HISTORY {
        Err(bad_table_name("cloakroom_migrations is the history of migrations"))
    } else {
        Ok(())
    }
}

/// The numbers of the advisory locks of one sessions table. They are the same for every process.
#[derive(Clone, Debug)]
pub(super) struct AdvisoryLocks {
    names: TableNames,
    /// Held exclusively by a revocation, and shared by commits that give a user a session.
    pub(super) revocation: i64,
    /// Held by a migration of any table in the schema, because they share the history.
    pub(super) migration: i64,
}

impl AdvisoryLocks {
    pub(super) fn new(names: &TableNames) -> Self {
        AdvisoryLocks {
            names: names.clone(),
            revocation: lock_number(&["revocation", &names.schema, &names.table]),
            migration: lock_number(&["migration", &names.schema]),
        }
    }

    /// Held by a commit that gives this user a session.
    pub(super) fn of_user(&self, user: &UserKey) -> i64 {
        let TableNames { schema, table } = &self.names;
        lock_number(&["sign-in", schema, table, user.as_str()])
    }
}

/// Returns the number of a lock. Locks of other programs share the numbers, so it is a hash.
fn lock_number(parts: &[&str]) -> i64 {
    let mut hash = Sha256::new_with_prefix("cloakroom");
    for part in parts {
        // No part contains a NUL character.
        hash.update([0]);
        hash.update(part);
    }
    let first = hash.finalize().into_iter().take(8);
    first.fold(0, |number, byte| number << 8 | i64::from(byte))
}

statements! {
    Statements(names: &TableNames) {
        let t = names.qualified("");
        let meta = names.qualified("_meta");
        let replaced = names.qualified("_replaced");
        let columns = session::NAMES.join(", ");
        let ended = ended::NAMES.join(", ");
        let s_columns = qualified("s", &session::NAMES);
        let values = parameters(session::NAMES.len());
        let id_after_values = session::NAMES.len() + 1;
        let deadline = session::deadline + 1;
        let replaced_columns = replaced::NAMES.join(", ");
        let replaced_values = parameters(replaced::NAMES.len());
        let current_id = replaced::NAMES.len() + 1;
        let r_columns = qualified("r", &replaced::NAMES);
        // A list needs no more of the data than its size.
        let summary = columns.replace("data", "length(data)::bigint") + ", id";
    }

    load: "SELECT {columns}, id FROM {t} WHERE id_hash = $1";
    // An id that is not current now never will be again, so this may come in a second trip.
    load_by_replaced:
        "SELECT {s_columns}, s.id, {r_columns} FROM {replaced} AS r \
         JOIN {t} AS s ON s.id = r.session WHERE r.id_hash = $1";
    // Locks the row by its number, because a renewal that commits meanwhile changes the id. The
    // statement after it, `replaced_of`, sees what that renewal has committed.
    lock:
        "SELECT {columns}, id FROM {t} WHERE id = \
           (SELECT id FROM {t} WHERE id_hash = $1 UNION ALL \
            SELECT session FROM {replaced} WHERE id_hash = $1 LIMIT 1) FOR UPDATE";
    // The replaced ids of the session that has or had this id.
    replaced_of:
        "SELECT {r_columns}, r.session FROM {replaced} AS r JOIN {t} AS s ON s.id = r.session \
         WHERE r.session = (SELECT id FROM {t} WHERE id_hash = $1 UNION ALL \
           SELECT session FROM {replaced} WHERE id_hash = $1 LIMIT 1) ORDER BY r.id";
    is_taken:
        "SELECT 1 FROM {t} WHERE id_hash = $1 UNION ALL \
         SELECT 1 FROM {replaced} WHERE id_hash = $1 LIMIT 1";
    // In the order in which touches lock rows, so that none waits for another in a circle.
    lock_of_user:
        "SELECT {ended}, authenticated, id FROM {t} \
         WHERE user_key = $1 AND realm = $2 ORDER BY id FOR UPDATE";
    // Commits that give a user a session run one at a time per user, because they count the user's
    // sessions, and none runs during a revocation.
    sign_in_lock: "SELECT pg_advisory_xact_lock_shared($1), pg_advisory_xact_lock($2)";
    exclusive_lock: "SELECT pg_advisory_xact_lock($1)";
    insert:
        "INSERT INTO {t} ({columns}, sweep_at) SELECT {values}, ${deadline} \
         WHERE NOT EXISTS (SELECT 1 FROM {replaced} WHERE id_hash = $1) RETURNING id";
    // PostgreSQL writes an index only if the value of one of its columns changes.
    update:
        "UPDATE {t} SET ({columns}, sweep_at) = ROW({values}, LEAST(sweep_at, ${deadline})) \
         WHERE id = ${id_after_values}";
    // A merge of data changes neither limits nor ids; `sweep_at` may stay early. The condition
    // holds only for the session that the request has loaded.
    compare_and_swap:
        "UPDATE {t} SET data = $4, revision = $5, seen = $6, deadline = $7, format = $8 \
         WHERE id_hash = $1 AND revision = $2 AND seen = $3 RETURNING id";
    update_seen: "UPDATE {t} SET seen = $2, deadline = $3 WHERE id = $1";
    delete: "DELETE FROM {t} WHERE id = ANY($1)";
    delete_replaced: "DELETE FROM {replaced} WHERE id_hash = $1";
    delete_replaced_of: "DELETE FROM {replaced} WHERE session = $1";
    delete_forgotten:
        "DELETE FROM {replaced} WHERE id IN (SELECT id FROM {replaced} WHERE forget_at <= $1 \
         ORDER BY forget_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    // The session is found by its current id, because the number of a new one is not known yet.
    insert_replaced:
        "INSERT INTO {replaced} ({replaced_columns}, session) \
         SELECT {replaced_values}, id FROM {t} WHERE id_hash = ${current_id}";
    lock_touched:
        "SELECT id_hash, id, seen, idle, absolute, deadline FROM {t} WHERE id IN \
           (SELECT id FROM {t} WHERE id_hash = ANY($1) UNION ALL \
            SELECT session FROM {replaced} WHERE id_hash = ANY($1) AND grace_until > $2) \
         ORDER BY id FOR UPDATE";
    in_grace:
        "SELECT id_hash, session FROM {replaced} WHERE id_hash = ANY($1) AND grace_until > $2";
    touch:
        "UPDATE {t} AS s SET seen = n.seen, deadline = n.deadline \
         FROM unnest($1, $2, $3) AS n (id, seen, deadline) WHERE s.id = n.id";
    // Rows that another machine or a request has locked are left to it.
    sweep:
        "WITH due AS MATERIALIZED (SELECT id AS due_id, deadline AS due_deadline FROM {t} \
             WHERE sweep_at <= $1 ORDER BY sweep_at LIMIT $2 FOR UPDATE SKIP LOCKED), \
           moved AS (UPDATE {t} SET sweep_at = deadline FROM due \
             WHERE id = due_id AND due_deadline > $1), \
           removed AS (DELETE FROM {t} USING due \
             WHERE id = due_id AND due_deadline <= $1 RETURNING {ended}) \
         SELECT of_users.*, counts.* FROM (SELECT (SELECT count(*) FROM due) AS due, \
             (SELECT count(*) FROM removed) AS removed) AS counts \
         LEFT JOIN (SELECT * FROM removed WHERE user_key IS NOT NULL) AS of_users ON true";
    list:
        "SELECT {summary} FROM {t} WHERE deadline > $1 AND id < $2 AND {{condition}} \
         ORDER BY id DESC LIMIT $3";
    list_expired:
        "SELECT {summary} FROM {t} WHERE deadline <= $1 AND id < $2 AND {{condition}} \
         ORDER BY id DESC LIMIT $3";
    revoke:
        "DELETE FROM {t} WHERE id IN (SELECT id FROM {t} WHERE {{condition}} \
         AND public_id IS DISTINCT FROM $1 ORDER BY id FOR UPDATE) \
         RETURNING {ended}";
    // In the order in which touches and sign-ins lock rows.
    rename_user:
        "UPDATE {t} SET user_key = $2, revision = revision + 1 WHERE id IN (SELECT id FROM {t} \
         WHERE user_key = $1 AND realm = $3 ORDER BY id FOR UPDATE) RETURNING id_hash";
    delete_all:
        "WITH removed AS (DELETE FROM {t} WHERE $2::text IS NULL OR realm = $2 \
         RETURNING deadline) SELECT count(*) AS live FROM removed WHERE deadline > $1";
    raise_epoch:
        "UPDATE {meta} SET value = (value::bigint + 1)::text WHERE name = 'epoch'";
    epoch: "SELECT value FROM {meta} WHERE name = 'epoch'";
    may_read_server:
        "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')::text AS value";
    // A dump has the value, so the rest tells a copy from its original: no server has the number of
    // another, no database of a server that of another, and no table of a database.
    identity:
        "SELECT left(encode(sha256(convert_to(concat_ws(' ', value, tableoid,
            (SELECT oid FROM pg_database WHERE datname = current_database()),
            (SELECT system_identifier FROM pg_control_system())), 'UTF8')), 'hex'), 32) AS value
         FROM {meta} WHERE name = 'identity'";
    // For a user that may not read the number of the server.
    identity_without_server:
        "SELECT left(encode(sha256(convert_to(concat_ws(' ', value, tableoid,
            (SELECT oid FROM pg_database WHERE datname = current_database())), 'UTF8')), 'hex'), 32)
            AS value
         FROM {meta} WHERE name = 'identity'";
    stats:
        "SELECT count(*) FILTER (WHERE deadline > $1) AS live, \
         count(*) FILTER (WHERE deadline <= $1) AS expired, \
         count(user_key) FILTER (WHERE deadline > $1) AS signed_in, \
         count(user_key) FILTER (WHERE deadline <= $1) AS expired_signed_in, \
         min(created) FILTER (WHERE deadline > $1) AS oldest, \
         max(created) FILTER (WHERE deadline > $1) AS newest FROM {t}";
    // No index contains `seen`, which touches move. A scan sorts only the rows that it yields. A
    // negative limit is refused.
    idle_anonymous:
        "SELECT id_hash FROM {t} WHERE user_key IS NULL AND realm = $1 ORDER BY seen, id \
         LIMIT LEAST($3, GREATEST(0, \
         (SELECT count(*) FROM {t} WHERE user_key IS NULL AND realm = $1) - $2))";
    // A row that a request has locked is read again when that is done: it may have a user by then.
    evict_anonymous:
        "DELETE FROM {t} WHERE id IN (SELECT id FROM {t} WHERE id_hash = ANY($1) \
         AND user_key IS NULL ORDER BY id FOR UPDATE) RETURNING id";
    server_time: "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now";
}

/// Returns a list of `count` parameters.
pub(super) fn parameters(count: usize) -> String {
    (1..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_identifiers_are_table_names() {
        let long = "x".repeat(47);
        for bad in ["", " ", "a b", "a\"b", "a'b", "a;b", "a-b", "1a", "é", "a\0", HISTORY, &long]
        {
            let error = validate_table(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
        }
        for good in ["session", "Session", "_a1", "order", &"x".repeat(46)] {
            validate_table(good).unwrap();
        }
    }

    #[test]
    fn a_schema_can_have_any_name_that_postgres_keeps() {
        for bad in ["", "a\0", &"x".repeat(64)] {
            assert_eq!(validate_schema(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
        let names = TableNames::new("a \"b\"; {t}", "s").unwrap();
        assert_eq!(names.qualified("_meta"), "\"a \"\"b\"\"; {t}\".\"s_meta\"");
        assert_eq!(names.fill_in("{schema}.\"{t}\""), "\"a \"\"b\"\"; {t}\".\"s\"");
        validate_schema(&"x".repeat(63)).unwrap();
    }
}
