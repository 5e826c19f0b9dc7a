mod shared_file;

use tokio_rusqlite::{Connection, Error, rusqlite};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    shared_file::run(
        |store| {
            // The connection has the settings of docs/own-tables.md.
            let own = store.connect().unwrap();
            let inserted: Result<usize, Error> = runtime.block_on(async {
                let insert = "INSERT INTO notes (text) VALUES ('theirs')";
                Connection::from(own).call(move |c| c.execute(insert, [])).await
            });
            assert_eq!(inserted.unwrap(), 1);
        },
        |store| {
            let select = "SELECT text FROM notes ORDER BY id";
            let texts: Result<Vec<String>, Error> = runtime.block_on(async {
                let connection = Connection::open(shared_file::path(store)).await.unwrap();
                let read = move |c: &mut rusqlite::Connection| {
                    c.prepare(select)?.query_map([], |row| row.get(0))?.collect()
                };
                connection.call(read).await
            });
            texts.unwrap()
        },
    );
}
