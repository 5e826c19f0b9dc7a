//! tower-sessions on tower-sessions-sqlx-store: a pool of connections, each on its own thread.

#[path = "../../turns.rs"]
mod turns;
#[path = "../../../src/workload.rs"]
mod workload;

use std::time::Duration;

use tower_sessions_sqlx_store::SqliteStore;
use tower_sessions_sqlx_store::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

fn main() {
    turns::serve(|folder| async move {
        let options = SqliteConnectOptions::new()
            .filename(folder.join("peer.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new().connect_with(options).await.expect("open");
        let store = SqliteStore::new(pool);
        store.migrate().await.expect("a table");
        store
    });
}
