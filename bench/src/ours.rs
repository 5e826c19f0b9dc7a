//! The side of cloakroom: rows in its table, and whole requests as an adapter makes them.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use cloakroom::adapter::Outcome;
use cloakroom::clock::{Clock, ManualClock};
use cloakroom::id::{Realm, SessionId};
use cloakroom::stores::sqlite::rusqlite::{Connection, params};
use cloakroom::{SessionManager, SignIn, UserKey};

use crate::workload::session_json;

/// The text in front of the id in a cookie.
const NAME: &str = "__Host-id=";

/// A browser's cookie, in one place in memory as in a request that was just received: following a
/// pointer would add to the measured time.
#[derive(Clone, Copy)]
pub struct Cookie([u8; NAME.len() + SessionId::TEXT_LEN]);

impl Cookie {
    pub fn of(id: &SessionId) -> Self {
        let mut cookie = [0; NAME.len() + SessionId::TEXT_LEN];
        let (name, text) = cookie.split_at_mut(NAME.len());
        name.copy_from_slice(NAME.as_bytes());
        text.copy_from_slice(id.reveal().as_bytes());
        Cookie(cookie)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it is ASCII")
    }
}

/// One session of the workload: its cookie for requests, its id hash for hand-written SQL.
pub struct KnownSession {
    pub cookie: Cookie,
    pub id_hash: [u8; 32],
}

/// The columns in which rows differ.
pub struct Row {
    pub id: SessionId,
    pub idle: Duration,
    pub user: Option<String>,
}

/// Fills a store's table in one transaction, because a million commits would take too long.
pub fn fill(
    path: &Path,
    count: usize,
    clock: &ManualClock,
    idle: impl Fn(usize) -> Duration,
    user: impl Fn(usize) -> Option<String>,
) -> Vec<KnownSession> {
    let connection = Connection::open(path).expect("open");
    let mut known = Vec::with_capacity(count);
    let rows = (0..count).map(|n| {
        let id = SessionId::generate().expect("randomness");
        known.push(KnownSession {
            cookie: Cookie::of(&id),
            id_hash: *id.hash(Realm::default().tag()).as_bytes(),
        });
        Row { id, idle: idle(n), user: user(n) }
    });
    insert(&connection, clock, rows);
    known
}

/// Inserts rows in one transaction.
pub fn insert(connection: &Connection, clock: &ManualClock, rows: impl Iterator<Item = Row>) {
    connection.execute_batch("BEGIN").expect("begin");
    let sql =
        "INSERT INTO cloakroom_sessions (id_hash, public_id, realm, user_key, created, seen, id_issued,
               idle, deadline, persistent, revision, format, data)
               VALUES (?1, randomblob(16), '__Host-id', ?2, ?3, ?3, ?3, ?4, ?5, 1, 1, 1, ?6)";
    let mut insert = connection.prepare(sql).expect("prepare");
    let now = clock.now().as_millis();
    for (n, Row { id, idle, user }) in rows.enumerate() {
        let idle = idle.as_millis() as i64;
        let json = session_json(n as u64 % 1_000_000);
        let id_hash = id.hash(Realm::default().tag());
        let columns = params![id_hash.as_bytes(), user, now, idle, now + idle, json];
        insert.execute(columns).expect("insert");
    }
    drop(insert);
    connection.execute_batch("COMMIT").expect("commit");
}

/// W1: a whole request that reads one value.
pub fn read(sessions: &SessionManager, cookie: &Cookie) {
    let session = sessions.open(Some(cookie.as_str()));
    black_box(session.get::<u32>("user_id").expect("it loads"));
    black_box(sessions.close(&session, Outcome::Completed).expect("it closes"));
}

/// Warms up the manager: writes once, and reads every session.
pub fn warm(sessions: &SessionManager, known: &[KnownSession]) {
    write(sessions, &known[0].cookie, 7);
    known.iter().for_each(|known| read(sessions, &known.cookie));
}

/// W2: a whole request that sets one value.
pub fn write(sessions: &SessionManager, cookie: &Cookie, n: u64) {
    let session = sessions.open(Some(cookie.as_str()));
    session.set("theme", format!("dark{:06}", n % 1_000_000)).expect("it is set");
    black_box(sessions.close(&session, Outcome::Completed).expect("it closes"));
}

/// W3: a whole request of a new visitor, which signs a user in.
pub fn sign_in(sessions: &SessionManager, n: u64) {
    let session = sessions.open(None);
    let user = UserKey::new(format!("user{n}")).expect("a user key");
    assert_eq!(session.sign_in(user).expect("it is stored"), SignIn::Done);
    black_box(sessions.close(&session, Outcome::Completed).expect("it closes"));
}

/// W4: a whole request that reads one value and sets another.
pub fn request(sessions: &SessionManager, cookie: &Cookie, n: u64) {
    let session = sessions.open(Some(cookie.as_str()));
    black_box(session.get::<u32>("user_id").expect("it loads"));
    session.set("theme", format!("dark{:06}", n % 1_000_000)).expect("it is set");
    black_box(sessions.close(&session, Outcome::Completed).expect("it closes"));
}
