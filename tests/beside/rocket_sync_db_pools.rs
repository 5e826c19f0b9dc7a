mod shared_file;

use cloakroom::SqliteStore;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use rocket_sync_db_pools::rocket;
use rocket_sync_db_pools::rocket::figment::util::map;

#[rocket_sync_db_pools::database("notes")]
struct Notes(diesel::SqliteConnection);

#[derive(QueryableByName)]
struct Note {
    #[diesel(sql_type = Text)]
    text: String,
}

async fn connect(store: &SqliteStore) -> Notes {
    let pool = map!["notes" => map!["url" => shared_file::path(store)]];
    let config = rocket::Config::figment().merge(("log_level", "off")).merge(("databases", pool));
    let rocket = rocket::custom(config).attach(Notes::fairing()).ignite().await.unwrap();
    Notes::get_one(&rocket).await.unwrap()
}

fn main() {
    use rocket::tokio::runtime::Builder;
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    shared_file::run(
        |store| {
            runtime.block_on(async {
                let insert = sql_query("INSERT INTO notes (text) VALUES ('theirs')");
                let notes = connect(store).await;
                let inserted = notes.run(|c| c.immediate_transaction(|c| insert.execute(c)));
                assert_eq!(inserted.await.unwrap(), 1);
            });
        },
        |store| {
            runtime.block_on(async {
                let select = sql_query("SELECT text FROM notes ORDER BY id");
                let notes: Vec<Note> = connect(store).await.run(|c| select.load(c)).await.unwrap();
                notes.into_iter().map(|note| note.text).collect()
            })
        },
    );
}
