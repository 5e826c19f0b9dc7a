//! Hand-written SQLite: the code of a careful programmer without a session library.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom::stores::sqlite::rusqlite::{Connection, params};

pub const NOW: i64 = 1_900_000_000_000;

/// A table like those of the peers: an integer key, a unique session key, an indexed expiry.
pub struct Raw {
    path: PathBuf,
}

impl Raw {
    pub fn fill(path: &Path, keys: &[[u8; 32]], json: &str) -> Self {
        let raw = Raw { path: path.to_owned() };
        let connection = raw.connect(false);
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE sessions (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,
                     data TEXT NOT NULL, expires INTEGER NOT NULL);
                 CREATE INDEX sessions_expires ON sessions (expires);
                 BEGIN",
            )
            .expect("set up");
        {
            let sql = "INSERT INTO sessions (key, data, expires) VALUES (?1, ?2, ?3)";
            let mut insert = connection.prepare(sql).expect("prepare");
            for (n, id_hash) in keys.iter().enumerate() {
                insert.execute(params![id_hash, json, NOW + n as i64]).expect("insert");
            }
        }
        connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").expect("commit");
        raw
    }

    pub fn connect(&self, full: bool) -> Connection {
        let connection = Connection::open(&self.path).expect("open");
        connection.busy_timeout(Duration::from_secs(30)).expect("busy timeout");
        let mode = if full { "FULL" } else { "NORMAL" };
        connection.execute_batch(&format!("PRAGMA synchronous = {mode}")).expect("synchronous");
        connection
    }
}

pub fn select(connection: &Connection, id_hash: &[u8; 32]) -> (String, i64) {
    connection
        .prepare_cached("SELECT data, expires FROM sessions WHERE key = ?1 AND expires > ?2")
        .and_then(|mut select| {
            select.query_row(params![id_hash, 0], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .expect("select")
}

pub fn update(connection: &Connection, id_hash: &[u8; 32], json: &str, expires: i64) {
    connection
        .prepare_cached("UPDATE sessions SET data = ?2, expires = ?3 WHERE key = ?1")
        .and_then(|mut update| update.execute(params![id_hash, json, expires]))
        .expect("update");
}
