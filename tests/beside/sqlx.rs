mod shared_file;

use std::time::Duration;

use cloakroom::SqliteStore;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};

async fn connect(store: &SqliteStore) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(shared_file::path(store))
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        .synchronous(SqliteSynchronous::Full)
        .pragma("secure_delete", "FAST");
    SqlitePool::connect_with(options).await.unwrap()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    shared_file::run(
        |store| {
            runtime.block_on(async {
                let pool = connect(store).await;
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
                let insert = sqlx::query("INSERT INTO notes (text) VALUES ('theirs')");
                insert.execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
                pool.close().await;
            });
        },
        |store| {
            runtime.block_on(async {
                let select = sqlx::query_scalar("SELECT text FROM notes ORDER BY id");
                select.fetch_all(&connect(store).await).await.unwrap()
            })
        },
    );
}
