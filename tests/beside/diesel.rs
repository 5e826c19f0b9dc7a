mod shared_file;

use cloakroom::SqliteStore;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;

#[derive(QueryableByName)]
struct Note {
    #[diesel(sql_type = Text)]
    text: String,
}

fn connect(store: &SqliteStore) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(shared_file::path(store)).unwrap();
    let settings = "PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; \
                    PRAGMA synchronous = FULL; PRAGMA secure_delete = FAST";
    connection.batch_execute(settings).unwrap();
    connection
}

fn main() {
    shared_file::run(
        |store| {
            let insert = sql_query("INSERT INTO notes (text) VALUES ('theirs')");
            connect(store).immediate_transaction(|c| insert.execute(c)).unwrap();
        },
        |store| {
            let notes = sql_query("SELECT text FROM notes ORDER BY id");
            let notes: Vec<Note> = notes.load(&mut connect(store)).unwrap();
            notes.into_iter().map(|note| note.text).collect()
        },
    );
}
