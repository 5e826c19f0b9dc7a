//! SQLite's check of a database's integrity.

use std::path::Path;

use cloakroom::stores::sqlite::rusqlite::Connection;

pub fn assert_integrity(path: impl AsRef<Path>) {
    let connection = Connection::open(path).unwrap();
    let check = "PRAGMA integrity_check";
    let found: String = connection.query_row(check, [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}
