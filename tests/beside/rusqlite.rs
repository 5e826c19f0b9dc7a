mod shared_file;

use rusqlite::Connection;

fn main() {
    shared_file::run(
        |store| {
            // The application's rusqlite is that of cloakroom.
            let connection: Connection = store.connect().unwrap();
            connection.execute("INSERT INTO notes (text) VALUES ('theirs')", []).unwrap();
        },
        |store| {
            let connection = Connection::open(shared_file::path(store)).unwrap();
            let mut notes = connection.prepare("SELECT text FROM notes ORDER BY id").unwrap();
            notes.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        },
    );
}
