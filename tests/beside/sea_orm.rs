mod shared_file;

use std::time::Duration;

use cloakroom::SqliteStore;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement,
};

async fn connect(store: &SqliteStore) -> DatabaseConnection {
    let mut options = ConnectOptions::new(format!("sqlite://{}", shared_file::path(store)));
    options.map_sqlx_sqlite_opts(|options| {
        let options = options.busy_timeout(Duration::from_secs(5)).foreign_keys(true);
        options.pragma("synchronous", "FULL").pragma("secure_delete", "FAST")
    });
    Database::connect(options).await.unwrap()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    shared_file::run(
        |store| {
            runtime.block_on(async {
                let insert = "INSERT INTO notes (text) VALUES ('theirs')";
                connect(store).await.execute_unprepared(insert).await.unwrap();
            });
        },
        |store| {
            runtime.block_on(async {
                let select = "SELECT text FROM notes ORDER BY id";
                let select = Statement::from_string(DbBackend::Sqlite, select);
                let rows = connect(store).await.query_all_raw(select).await.unwrap();
                rows.iter().map(|row| row.try_get("", "text").unwrap()).collect()
            })
        },
    );
}
