mod shared_file;

use cloakroom::SqliteStore;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

async fn connect(store: &SqliteStore) -> DatabaseConnection {
    Database::connect(format!("sqlite://{}", shared_file::path(store))).await.unwrap()
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
