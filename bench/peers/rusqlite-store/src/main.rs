//! tower-sessions on tower-sessions-rusqlite-store: one connection, on a thread of its own.

#[path = "../../turns.rs"]
mod turns;
#[path = "../../../src/workload.rs"]
mod workload;

use tokio_rusqlite::Connection;
use tower_sessions_rusqlite_store::RusqliteStore;

fn main() {
    turns::serve(|folder| async move {
        let connection = Connection::open(folder.join("peer.db")).await.expect("open");
        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;";
        connection.call(move |connection| connection.execute_batch(pragmas)).await.expect("WAL");
        let store = RusqliteStore::new(connection);
        store.migrate().await.expect("a table");
        store
    });
}
