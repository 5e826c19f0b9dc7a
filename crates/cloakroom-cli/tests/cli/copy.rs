//! `copy`: sessions move from one store to another, and their users stay signed in.

use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use cloakroom::backend::Store;
use cloakroom::stores::admin::Admin;
use cloakroom::stores::copy::{CopyBatch, CopyMark};
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{ErrorKind, PostgresStore, SessionManager, SignIn, SqliteStore, UserKey};

use crate::common::postgres::{fresh_table, shared};
use crate::common::{Folder, KillOnDrop};
use crate::fixture::{self, Ran, begin, fill, number, open};
use crate::postgres::{close, done, fails, program, run, sign_in, user};

const DAY: Duration = Duration::from_secs(86_400);

/// A file with sessions, and a table to copy them to.
struct Move {
    folder: Folder,
    table: String,
}

impl Move {
    fn new() -> Self {
        let (folder, table) = (Folder::new(), fresh_table());
        open(&folder);
        shared().builder_in(&table).open().unwrap();
        Move { folder, table }
    }

    fn file(&self) -> String {
        self.folder.database().to_str().unwrap().to_owned()
    }

    fn store(&self) -> PostgresStore {
        shared().builder_in(&self.table).open().unwrap()
    }

    fn args(&self) -> Vec<String> {
        let (file, url) = (self.file(), shared().url());
        ["copy", "--from", &file, "--to", &url, "--to-table", &self.table].map(str::to_owned).into()
    }

    fn run(&self) -> Ran {
        let args = self.args();
        run("", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn done(&self) -> String {
        let ran = self.run();
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    }

    fn fails(&self, words: &str) {
        let ran = self.run();
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(words), "{ran:?}");
    }

    fn count(&self) -> String {
        shared().sql(&format!("SELECT count(*) FROM {}", self.table))
    }

    /// Runs `work` while the copy waits in the transaction that inserts this position, and lets it
    /// go on, unless `work` has killed it.
    fn paused_at(&self, position: u32, work: impl FnOnce(&mut Child)) -> Output {
        let (table, lock) = (&self.table, format!("hashtext('{}')", self.table));
        shared().sql(&format!(
            "CREATE FUNCTION wait_{table}() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_xact_lock_shared({}); RETURN NEW; END'; \
             CREATE TRIGGER wait BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.id = {position}) \
             EXECUTE FUNCTION wait_{table}()",
            lock.replace('\'', "''")
        ));
        let mut holder = shared().psql();
        holder.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut holder = KillOnDrop(holder.spawn().unwrap());
        let mut input = holder.0.stdin.take().unwrap();
        std::io::Write::write_all(
            &mut input,
            format!("SELECT pg_advisory_lock({lock});\n").as_bytes(),
        )
        .unwrap();
        let is = |condition: &str| {
            let sql = format!(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {condition} \
                 AND objid::bigint = ({lock} & 4294967295::bigint)"
            );
            while shared().sql(&sql) == "0" {}
        };
        is("granted");
        let args = self.args();
        let mut command = program("", &args.iter().map(String::as_str).collect::<Vec<_>>());
        let mut copy = fixture::start(&mut command);
        is("NOT granted");
        work(&mut copy);
        drop(input);
        holder.0.wait().unwrap();
        let output = copy.wait_with_output().unwrap();
        // The backend of a killed program may still wait, and holds the table.
        shared().sql(&format!(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks WHERE locktype = 'advisory' \
             AND objid::bigint = ({lock} & 4294967295::bigint)"
        ));
        shared().sql(&format!("DROP TRIGGER wait ON {table}"));
        output
    }
}

fn sessions_of(store: impl Store) -> SessionManager {
    SessionManager::builder(store)
        .sweep_every(DAY)
        .renewal_grace(Duration::from_secs(60))
        .build()
        .unwrap()
}

fn file(path: &Path) -> SqliteStore {
    SqliteStore::open(path).unwrap()
}

#[test]
fn users_stay_signed_in_when_their_sessions_move_and_come_back() {
    let moved = Move::new();
    let before = sessions_of(open(&moved.folder));
    let cookie = sign_in(&before, "ada");
    let session = before.open(Some(&*cookie));
    session.set("text", "a\u{0}b é \u{10ffff}").unwrap();
    session.set("number", 1E5).unwrap();
    session.set("large", "x".repeat(60_000)).unwrap();
    close(&before, &session);
    let database = Connection::open(moved.folder.database()).unwrap();
    let read = |sql: &str| -> String { database.query_row(sql, [], |row| row.get(0)).unwrap() };
    let rewrite =
        "UPDATE cloakroom_sessions SET data = replace(data, '100000.0', '1E+05') RETURNING data";
    assert!(read(rewrite).contains("1E+05"));
    let renewed = before.open(Some(&*cookie));
    renewed.renew().unwrap();
    let new_cookie = close(&before, &renewed).unwrap();
    drop(before);
    let data = read("SELECT lower(hex(data)) FROM cloakroom_sessions");
    let out = moved.done();
    assert!(out.contains("are equal: 1 session, checksum "), "{out}");

    let on_server = sessions_of(moved.store());
    for cookie in [&cookie, &new_cookie] {
        assert_eq!(user(&on_server, cookie), Some("ada".to_owned()), "the old id is in its grace");
    }
    let session = on_server.open(Some(&*new_cookie));
    assert_eq!(session.get::<String>("text").unwrap().unwrap(), "a\u{0}b é \u{10ffff}");
    let stored = shared().sql(&format!("SELECT encode(data, 'hex') FROM {}", moved.table));
    assert!(stored == data, "not one byte is rewritten");
    let secret = "SELECT lower(hex(csrf_secret)) FROM cloakroom_sessions_replaced";
    let copied = format!("SELECT encode(csrf_secret, 'hex') FROM {}_replaced", moved.table);
    let (secret, copied) = (read(secret), shared().sql(&copied));
    assert!(copied == secret && secret.len() == 64, "of the replaced id");

    let back = moved.folder.path("back.db");
    let (back, url) = (back.to_str().unwrap(), shared().url());
    done(back, &["setup"]);
    let args = ["copy", "--from", &url, "--table", &moved.table, "--to", back];
    let out = done("", &[&args[..], &["--to-table", "cloakroom_sessions"]].concat());
    assert!(out.contains("are equal: 1 session"), "{out}");
    let again = sessions_of(file(Path::new(back)));
    assert_eq!(user(&again, &new_cookie), Some("ada".to_owned()));
    for column in
        ["id", "id_hash", "public_id", "deadline", "seen", "revision", "id_issued", "data"]
    {
        let sql = format!("SELECT hex({column}) FROM cloakroom_sessions");
        let copied = Connection::open(back).unwrap();
        let copied: String = copied.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert!(copied == read(&sql), "{column}");
    }
}

#[test]
fn replaced_ids_realms_deadlines_and_order_are_copied() {
    let moved = Move::new();
    let store = open(&moved.folder);
    for (realm, user) in [("a", None), ("b", Some("ada")), ("b", Some("bob"))] {
        fixture::begin_in(&store, realm, user, Duration::from_secs(60));
    }
    begin(&store, Some("expired"), DAY * 2);
    let database = Connection::open(moved.folder.database()).unwrap();
    // As the end of a session whose row another table keeps.
    database
        .execute_batch("UPDATE cloakroom_sessions SET deadline = 0 WHERE user_key = 'bob'")
        .unwrap();
    moved.done();
    let rows = "SELECT id, realm, user_key, deadline, seen FROM";
    let rows = |table: &str| format!("{rows} {table} ORDER BY id DESC");
    let expected: Vec<String> = {
        let mut statement = database.prepare(&rows("cloakroom_sessions")).unwrap();
        let row = |row: &cloakroom::stores::sqlite::rusqlite::Row<'_>| {
            let user: Option<String> = row.get(2)?;
            let (id, deadline, seen): (i64, i64, i64) = (row.get(0)?, row.get(3)?, row.get(4)?);
            let realm: String = row.get(1)?;
            Ok(format!("{id}|{realm}|{}|{deadline}|{seen}", user.unwrap_or_default()))
        };
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(expected.len(), 4);
    assert_eq!(shared().sql(&rows(&moved.table)), expected.join("\n"));
    let live = run(&shared().url(), &["list", "--user", "bob", "--table", &moved.table]);
    assert_eq!(live.code, 4, "an ended session stays ended: {live:?}");
}

#[test]
fn new_sessions_of_the_target_come_after_the_copied_ones() {
    let moved = Move::new();
    fill(&moved.folder, 3, true);
    moved.done();
    sign_in(&sessions_of(moved.store()), "ada");
    let newest = format!("SELECT id, user_key FROM {} ORDER BY id DESC LIMIT 1", moved.table);
    assert_eq!(shared().sql(&newest), "4|ada");
}

#[test]
fn a_copy_that_was_killed_is_continued() {
    let moved = Move::new();
    fill(&moved.folder, 1000, true);
    moved.paused_at(500, |copy| copy.kill().unwrap());
    assert_eq!(moved.count(), "400", "two batches were stored, and the third was not");
    let out = moved.done();
    assert!(out.contains("copied 600 sessions, removed 0"), "{out}");
    assert!(out.contains("are equal: 1,000 sessions"), "{out}");
    let again = moved.done();
    assert!(again.contains("copied 0 sessions, removed 0"), "{again}");
}

#[test]
fn a_copy_to_a_file_that_was_killed_is_continued() {
    let moved = Move::new();
    fill(&moved.folder, 3000, true);
    let to = moved.folder.path("to.db");
    let to_text = to.to_str().unwrap();
    done(to_text, &["setup"]);
    let args = ["copy", "--from", &moved.file(), "--to", to_text].map(str::to_owned);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut copy = fixture::start(&mut program("", &args));
    let count = || number(&to, "SELECT count(*) FROM cloakroom_sessions");
    while count() == 0 {}
    copy.kill().unwrap();
    copy.wait().unwrap();
    let stored = count();
    assert!(stored % 200 == 0, "whole batches: {stored}");
    let out = done("", &args);
    assert!(out.contains("are equal: 3,000 sessions"), "{out}");
}

#[test]
fn an_interrupted_copy_stores_the_batch_and_says_what_to_do() {
    let moved = Move::new();
    fill(&moved.folder, 1000, true);
    let ran: Ran = moved.paused_at(500, |copy| fixture::interrupt(copy)).into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("interrupted: the target has 600 sessions; run the same"), "{ran:?}");
    assert_eq!(moved.count(), "600");
    assert!(moved.done().contains("copied 400 sessions"));
}

#[test]
fn a_session_revoked_between_two_runs_does_not_return() {
    let moved = Move::new();
    let before = sessions_of(open(&moved.folder));
    let [ada, bob] = ["ada", "bob"].map(|name| sign_in(&before, name));
    moved.done();
    let on_server = sessions_of(moved.store());
    assert_eq!(user(&on_server, &ada), Some("ada".to_owned()));
    done(&moved.file(), &["revoke", "--user", "ada"]);
    let carol = sign_in(&before, "carol");
    let out = moved.done();
    assert!(out.contains("copied 1 session, removed 1 that had ended"), "{out}");
    let users = [&ada, &bob, &carol].map(|cookie| user(&on_server, cookie));
    assert_eq!(users, [None, Some("bob".to_owned()), Some("carol".to_owned())]);
}

#[test]
fn sessions_renewed_and_signed_in_between_two_runs_are_moved() {
    let moved = Move::new();
    let before = sessions_of(open(&moved.folder));
    let cookie = sign_in(&before, "ada");
    let (first, anonymous) = (sign_in(&before, "bob"), before.open(None));
    anonymous.set("cart", 1).unwrap();
    let anonymous = close(&before, &anonymous).unwrap();
    moved.done();
    let session = before.open(Some(&*cookie));
    session.renew().unwrap();
    let renewed = close(&before, &session).unwrap();
    // The anonymous session gets a user, and another user takes over the session of the first.
    let signing_in = |cookie: &str, name: &str| {
        let session = before.open(Some(cookie));
        assert_eq!(session.sign_in(UserKey::new(name).unwrap()).unwrap(), SignIn::Done);
        close(&before, &session).unwrap()
    };
    let (dan, eve) = (signing_in(&anonymous, "dan"), signing_in(&first, "eve"));
    let out = moved.done();
    assert!(out.contains("are equal: 3 sessions"), "{out}");
    let on_server = sessions_of(moved.store());
    let users = [&renewed, &dan, &eve, &first, &anonymous].map(|cookie| user(&on_server, cookie));
    let [ada, dan, eve] = ["ada", "dan", "eve"].map(|name| Some(name.to_owned()));
    assert_eq!(users, [ada, dan, eve, None, None]);
}

#[test]
fn a_session_taken_over_while_it_is_copied_is_moved() {
    let moved = Move::new();
    let before = sessions_of(open(&moved.folder));
    let cookie = sign_in(&before, "bob");
    let session = before.open(Some(&*cookie));
    session.renew().unwrap();
    let renewed = close(&before, &session).unwrap();
    fill(&moved.folder, 700, true);
    // The first batch has the session of bob with the replaced id, which then leads to that of eve.
    let ran: Ran = moved
        .paused_at(450, |_| {
            let session = before.open(Some(&*cookie));
            assert_eq!(session.sign_in(UserKey::new("eve").unwrap()).unwrap(), SignIn::Done);
            close(&before, &session);
        })
        .into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("are equal: 701 sessions"), "{ran:?}");
    assert_eq!(user(&sessions_of(moved.store()), &renewed), None);
}

#[test]
fn a_target_that_was_cleared_is_filled_again() {
    let moved = Move::new();
    let before = sessions_of(open(&moved.folder));
    let cookie = sign_in(&before, "ada");
    let session = before.open(Some(&*cookie));
    session.renew().unwrap();
    close(&before, &session);
    moved.done();
    done(&shared().url(), &["clear", "--yes", "--table", &moved.table]);
    assert!(moved.done().contains("copied 1 session,"));
    assert_eq!(user(&sessions_of(moved.store()), &cookie), Some("ada".to_owned()));
}

#[test]
fn a_source_that_changes_meanwhile_is_reported() {
    let moved = Move::new();
    fill(&moved.folder, 500, true);
    let first = "UPDATE cloakroom_sessions SET user_key = 'first' WHERE id = 1";
    Connection::open(moved.folder.database()).unwrap().execute_batch(first).unwrap();
    let ran: Ran =
        moved.paused_at(450, |_| drop(done(&moved.file(), &["revoke", "--user", "first"]))).into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("the source has changed meanwhile"), "{ran:?}");
    let out = moved.done();
    assert!(out.contains("copied 0 sessions, removed 1 that had ended"), "{out}");
    assert!(out.contains("are equal: 499 sessions"), "{out}");
}

#[test]
fn a_target_that_changes_meanwhile_is_reported() {
    let moved = Move::new();
    fill(&moved.folder, 500, true);
    let end = format!("DELETE FROM {} WHERE id = 7", moved.table);
    let ran: Ran = moved.paused_at(450, |_| drop(shared().sql(&end))).into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("another program has changed the target meanwhile"), "{ran:?}");
}

#[test]
fn a_session_created_in_the_target_stops_the_copy() {
    let moved = Move::new();
    fill(&moved.folder, 1000, true);
    let sessions = sessions_of(moved.store());
    // The number that the service gives its next session is above those of the copy.
    let numbers = format!("pg_get_serial_sequence('{}', 'id')", moved.table);
    let mut cookie = None;
    let ran: Ran = moved
        .paused_at(450, |_| {
            shared().sql(&format!("SELECT setval({numbers}, 5000)"));
            cookie = Some(sign_in(&sessions, "ada"));
        })
        .into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("another program has changed the target meanwhile"), "{ran:?}");
    assert_eq!(moved.count(), "601", "the batch at work, and the session of the service");
    assert_eq!(user(&sessions, &cookie.unwrap()), Some("ada".to_owned()));
    moved.fails("another program has changed it since; nothing was changed");
}

#[test]
fn a_target_with_sessions_of_its_own_is_refused_unchanged() {
    let moved = Move::new();
    fill(&moved.folder, 3, true);
    let sessions = sessions_of(moved.store());
    let cookie = sign_in(&sessions, "ada");
    moved.fails("it has sessions of its own; nothing was changed");
    assert_eq!(moved.count(), "1");
    assert_eq!(user(&sessions, &cookie), Some("ada".to_owned()));
    done(&shared().url(), &["clear", "--yes", "--table", &moved.table]);
    moved.done();
}

#[test]
fn a_target_in_use_is_refused_unchanged() {
    let moved = Move::new();
    fill(&moved.folder, 3, true);
    moved.done();
    let sessions = sessions_of(moved.store());
    let cookie = sign_in(&sessions, "ada");
    moved.fails("another program has changed it since; nothing was changed");
    assert_eq!(user(&sessions, &cookie), Some("ada".to_owned()));
    assert_eq!(moved.count(), "4");
}

#[test]
fn a_copy_of_another_source_is_refused_unchanged() {
    let (moved, mut other) = (Move::new(), Move::new());
    fill(&moved.folder, 3, true);
    fill(&other.folder, 2, true);
    moved.done();
    other.table = moved.table.clone();
    other.fails("it is a copy of another store");
    assert_eq!(moved.count(), "3");
}

#[test]
fn a_target_that_is_the_source_or_not_set_up_is_refused() {
    let moved = Move::new();
    let file = moved.file();
    let same = fails("", &["copy", "--from", &file, "--to", &file], 2);
    assert!(same.contains("are the same store"), "{same}");
    let args = ["copy", "--from", &file, "--to", &shared().url()].map(str::to_owned);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    fails("", &[&args[..], &["--to-table", &fresh_table()]].concat(), 3);
    fails("", &["copy", "--from", "/nonexistent.db", "--to", &file], 3);
}

#[test]
fn only_one_of_two_copies_changes_the_target() {
    let moved = Move::new();
    let source = open(&moved.folder).index().unwrap().identity().unwrap();
    let folder = Folder::new();
    let stores: [&dyn Admin; 2] = [&moved.store(), &open(&folder)];
    for store in stores {
        let begin = |present: Option<&CopyMark>| {
            store.import(&CopyBatch::default(), present, CopyMark::new(source))
        };
        let begun = begin(None).unwrap();
        assert_eq!(begin(None).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(begin(Some(&begun)).unwrap(), begun);
    }
}

#[test]
fn sessions_that_do_not_decode_are_named_and_not_copied() {
    let moved = Move::new();
    let store = open(&moved.folder);
    begin(&store, Some("ada"), Duration::from_secs(60));
    let spoilt = begin(&store, None, Duration::from_secs(60)).public_id;
    let spoil = "UPDATE cloakroom_sessions SET data = 'no' WHERE user_key IS NULL";
    Connection::open(moved.folder.database()).unwrap().execute_batch(spoil).unwrap();
    let out = moved.done();
    assert!(out.contains(&format!("they do not decode: 1 session, such as {spoilt}")), "{out}");
    assert!(out.contains("are equal: 1 session,"), "{out}");
}

#[test]
fn sessions_move_between_names_that_need_quotes() {
    let (moved, schema) = (Move::new(), "The \"Q\"; x'y");
    fill(&moved.folder, 3, true);
    let url = shared().url();
    let place = ["--schema", schema, "--table", "Sessions"];
    done(&url, &[&["setup"], &place[..]].concat());
    let file = moved.file();
    let to = ["--to", &*url, "--to-schema", schema, "--to-table", "Sessions"];
    let out = done("", &[&["copy", "--from", &*file], &to[..]].concat());
    assert!(out.contains("are equal: 3 sessions"), "{out}");
    let from = ["--from", &*url, "--schema", schema, "--table", "Sessions"];
    let to = ["--to", &*url, "--to-schema", "public", "--to-table", &moved.table];
    let out = done("", &[&["copy"], &from[..], &to[..]].concat());
    assert!(out.contains("are equal: 3 sessions"), "{out}");
}
