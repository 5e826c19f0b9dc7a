//! Hand-written SQL: the code of a careful programmer without a session library.

use std::sync::{Condvar, Mutex};

use cloakroom::stores::postgres::tokio_postgres::{
    self, Client, NoTls, Row, Statement, types::ToSql,
};
use tokio::runtime::{Builder, Runtime};

use crate::ours::KnownSession;
use crate::raw::NOW;
use crate::workload::session_json;

/// The columns that a session library needs at least. Pages have space for new versions of their
/// rows, as those of the store have.
const TABLE: &str = "
    CREATE TABLE raw (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key bytea NOT NULL UNIQUE,
        data bytea NOT NULL, expires bigint NOT NULL) WITH (fillfactor = 85);
    CREATE INDEX raw_expires ON raw (expires)";

/// Rows of the sessions table of the store, with 32 bytes of id hash each.
const SESSIONS: &str = "
    INSERT INTO cloakroom_sessions (id_hash, public_id, realm, auth_level, created, seen, id_issued,
        idle, deadline, sweep_at, persistent, revision, format, data)
    SELECT key, uuid_send(gen_random_uuid()), '__Host-id', 0, $3::bigint, $3, $3, 86400000, $3 + 86400000,
        $3 + 86400000, true, 1, 1, data
    FROM unnest($1::bytea[], $2::bytea[]) AS n (key, data)";

/// A connection with its prepared statements. A call runs on the caller's thread.
pub struct RawConnection {
    client: Client,
    select: Option<Statement>,
    update: Option<Statement>,
    merge: Option<Statement>,
    runtime: Runtime,
}

impl RawConnection {
    pub fn open(url: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        });
        let client = client.expect("it connects");
        RawConnection { client, select: None, update: None, merge: None, runtime }
    }

    /// Executes SQL without parameters.
    pub fn execute(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).expect("it is executed");
    }

    /// The one number that this SQL yields.
    pub fn number(&self, sql: &str) -> i64 {
        let row = self.runtime.block_on(self.client.query_one(sql, &[]));
        row.expect("one row").get(0)
    }

    /// Creates the table, and fills it and that of the store with these sessions.
    pub fn fill(&self, known: &[KnownSession]) {
        self.execute(TABLE);
        let raw = "INSERT INTO raw (key, data, expires) \
             SELECT key, data, $3::bigint + 86400000 FROM unnest($1::bytea[], $2::bytea[]) AS n (key, data)";
        for (n, part) in known.chunks(10_000).enumerate() {
            let keys: Vec<&[u8]> = part.iter().map(|known| known.id_hash.as_slice()).collect();
            let first = n * 10_000;
            let data: Vec<Vec<u8>> =
                (0..part.len()).map(|at| session_json((first + at) as u64).into_bytes()).collect();
            for sql in [raw, SESSIONS] {
                let params: [&(dyn ToSql + Sync); 3] = [&keys, &data, &NOW];
                self.runtime.block_on(self.client.execute(sql, &params)).expect("it is filled");
            }
        }
        self.execute("VACUUM ANALYZE");
    }

    pub fn select(&mut self, known: &KnownSession) -> Row {
        let RawConnection { client, select, runtime, .. } = self;
        let row = runtime.block_on(async {
            let select = match select {
                Some(select) => select,
                None => {
                    let sql = "SELECT data, expires FROM raw WHERE key = $1 AND expires > $2";
                    select.insert(client.prepare(sql).await?)
                }
            };
            client.query_one(&*select, &[&known.id_hash.as_slice(), &NOW]).await
        });
        row.expect("one row")
    }

    /// Changes the data. The index of the column `expires` stays as it is.
    pub fn update(&mut self, known: &KnownSession, json: &str) -> Row {
        let RawConnection { client, update, runtime, .. } = self;
        let row = runtime.block_on(async {
            let update = match update {
                Some(update) => update,
                None => {
                    let sql = "UPDATE raw SET data = $2 WHERE key = $1 AND expires > $3 \
                               RETURNING data, expires";
                    update.insert(client.prepare(sql).await?)
                }
            };
            let params: [&(dyn ToSql + Sync); 3] =
                [&known.id_hash.as_slice(), &json.as_bytes(), &NOW];
            client.query_one(&*update, &params).await
        });
        row.expect("one row")
    }
}

impl RawConnection {
    /// Makes the change of a merge in a row of the store's table: the same columns, on condition
    /// that the revision is `revision`, so that it undoes no other change.
    pub fn merge(&mut self, known: &KnownSession, json: &str, revision: i64) -> Row {
        let RawConnection { client, merge, runtime, .. } = self;
        let row = runtime.block_on(async {
            let merge = match merge {
                Some(merge) => merge,
                None => {
                    let sql = "UPDATE cloakroom_sessions SET data = $2, revision = $4, seen = $5, \
                                   deadline = $6, format = $7 \
                               WHERE id_hash = $1 AND revision = $3 AND deadline > $5 \
                               RETURNING id";
                    merge.insert(client.prepare(sql).await?)
                }
            };
            let (key, deadline) = (known.id_hash.as_slice(), NOW + 86_400_000);
            let params: [&(dyn ToSql + Sync); 7] =
                [&key, &json.as_bytes(), &revision, &(revision + 1), &NOW, &deadline, &1_i64];
            client.query_one(&*merge, &params).await
        });
        row.expect("one row")
    }
}

/// Connections that threads take in turns.
pub struct RawPool {
    idle: Mutex<Vec<RawConnection>>,
    returned: Condvar,
}

impl RawPool {
    pub fn open(url: &str, connections: u32) -> Self {
        let idle = (0..connections).map(|_| RawConnection::open(url)).collect();
        RawPool { idle: Mutex::new(idle), returned: Condvar::new() }
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut RawConnection) -> T) -> T {
        let mut idle = self.idle.lock().expect("no thread panics");
        let mut connection = loop {
            match idle.pop() {
                Some(connection) => break connection,
                None => idle = self.returned.wait(idle).expect("no thread panics"),
            }
        };
        drop(idle);
        let done = work(&mut connection);
        self.idle.lock().expect("no thread panics").push(connection);
        self.returned.notify_one();
        done
    }
}
