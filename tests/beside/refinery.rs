mod shared_file;

use refinery::{Migration, Runner};

fn main() {
    shared_file::run(
        |store| {
            let sql = "INSERT INTO notes (text) VALUES ('theirs')";
            let migration = Migration::unapplied("V1__theirs", sql).unwrap();
            Runner::new(&[migration]).run(&mut store.connect().unwrap()).unwrap();
        },
        |store| {
            let connection = store.connect().unwrap();
            let mut notes = connection.prepare("SELECT text FROM notes ORDER BY id").unwrap();
            notes.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        },
    );
}
