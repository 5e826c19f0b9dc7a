//! Bad input, bad files, and a store that goes on.

use std::fs::{self, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::integrity::assert_integrity;
use crate::common::{
    Folder, NOW, child, create, end, live, merge, new_id_hash, new_session, on_threads, role,
    setting, sqlite, value,
};
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, Loaded, Store, Touch, TouchError, Unreadable,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{Realm, SessionId, SessionIdHash};
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::admin::Admin;
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{ErrorKind, Lifetime, MemoryStore, SqliteStore, UserKey};

const MANY: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

#[test]
fn a_path_that_cannot_hold_a_database_is_refused_with_its_kind() {
    let folder = Folder::new();
    let kind = |path: &std::path::Path| SqliteStore::open(path).unwrap_err().kind();
    assert_eq!(kind(&folder.path("missing/app.db")), ErrorKind::Unavailable);
    assert_eq!(kind(&folder.path("")), ErrorKind::Unavailable, "a folder");
    assert_eq!(kind("".as_ref()), ErrorKind::Invalid);
    assert_eq!(kind(":memory:".as_ref()), ErrorKind::Invalid);
    let error = SqliteStore::open(folder.path("missing/app.db")).unwrap_err();
    assert!(format!("{error:?}").contains("missing/app.db"), "{error:?}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let build = || SqliteStore::builder(folder.database());
    for bad in ["", "a b", "a\"b", "a;b", "ä", &"x".repeat(200)] {
        assert_eq!(build().table(bad).open().unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
    }
    for bad in [
        build().readers(0),
        build().readers(u32::MAX),
        build().busy_timeout(Duration::ZERO),
        build().busy_timeout(Duration::from_secs(30 * 86_400)),
        build().busy_timeout(Duration::MAX),
    ] {
        assert_eq!(bad.open().unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert!(!folder.database().exists(), "refused before the file is created");
}

#[test]
fn a_relative_path_survives_a_change_of_the_working_folder() {
    let folder = Folder::new();
    let output =
        child(module_path!(), "change the folder").env("FOLDER", folder.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn child_process() {
    if role().as_deref() != Some("change the folder") {
        return;
    }
    let folder = std::env::var("FOLDER").unwrap();
    std::env::set_current_dir(&folder).unwrap();
    let store = SqliteStore::open("app.db").unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    std::env::set_current_dir("/").unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some());
    store.file().backup(format!("{folder}/copy.db")).unwrap();
    // A URI is refused, and makes no file of that name.
    std::env::set_current_dir(&folder).unwrap();
    assert_eq!(SqliteStore::open("file::memory:").unwrap_err().kind(), ErrorKind::Invalid);
    assert!(!std::path::Path::new("file::memory:").exists());
}

#[test]
fn a_file_that_cannot_be_opened_any_more_is_unavailable_at_once() {
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database())
        .busy_timeout(Duration::from_secs(3600))
        .open()
        .unwrap();
    let id_hash = new_id_hash();
    fs::remove_file(folder.database()).unwrap();
    // Within the hour of the busy timeout, or this test does not end.
    let error = store.load(&id_hash, NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    let text = "These are my notes, not a database. ".repeat(200);
    fs::write(folder.database(), &text).unwrap();
    let error = SqliteStore::open(folder.database()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert_eq!(fs::read_to_string(folder.database()).unwrap(), text);
}

#[test]
fn a_damaged_page_fails_its_own_sessions_only() {
    let (folder, store) = sqlite();
    let note = "x".repeat(500);
    let id_hashes: Vec<_> =
        (0..500).map(|_| create(&store, &setting("n", &note)).unwrap()).collect();
    drop(store);
    let leaves: Vec<u64> = Connection::open(folder.database())
        .unwrap()
        .prepare(
            "SELECT pageno FROM dbstat WHERE name = 'cloakroom_sessions' AND pagetype = 'leaf'",
        )
        .unwrap()
        .query_map([], |row| row.get::<_, i64>(0))
        .unwrap()
        .map(|page| u64::try_from(page.unwrap()).unwrap())
        .collect();
    let file = OpenOptions::new().write(true).open(folder.database()).unwrap();
    file.write_all_at(&[0xff; 4096], (leaves[leaves.len() / 2] - 1) * 4096).unwrap();

    let store = SqliteStore::open(folder.database()).unwrap();
    let mut damaged = 0;
    for id_hash in &id_hashes {
        match store.load(id_hash, NOW) {
            Ok(Loaded::Live(_)) => {}
            Ok(other) => panic!("a damaged session is an error, not {other:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
                damaged += 1;
            }
        }
    }
    assert!((1..20).contains(&damaged), "one page of sessions, not {damaged}");
    let touch = Touch::at(NOW + Duration::from_secs(60));
    let batch: Vec<_> = id_hashes.iter().map(|id_hash| (*id_hash, touch)).collect();
    let TouchError::Sessions(failed) = store.touch(&batch, NOW).unwrap_err() else { panic!() };
    assert_eq!(failed.len(), damaged);
    let touched = id_hashes.iter().filter(|id_hash| {
        live(&store, id_hash).is_ok_and(|record| record.unwrap().seen == touch.seen)
    });
    assert_eq!(touched.count(), id_hashes.len() - damaged, "all others");
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some(), "the store goes on");
}

#[test]
fn data_over_the_limit_is_refused_and_the_old_data_stays() {
    let store = SqliteStore::in_memory().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let big = setting("n", "x".repeat(10_000_000));
    let mut commit = Commit::new(&id_hash, Action::Merge, big, NOW);
    commit.max_bytes = 64 << 10;
    assert_eq!(store.commit(&commit).unwrap_err().kind(), ErrorKind::TooLarge);
    let record = live(&store, &id_hash).unwrap().unwrap();
    assert_eq!(value::<u32>(&record, "n"), Some(1));
}

#[test]
fn an_undecodable_session_stays_in_place_until_its_deadline() {
    for spoil in [
        "data = 'no JSON'",
        "data = '[1]'",
        "format = 2",
        "format = 0",
        "user_key = ''",
        "auth_level = -1",
        "revision = -1",
        "idle = -1",
        "user_key = CAST(x'ff' AS TEXT)",
        "idp_session_id = CAST(x'ff' AS TEXT)",
        "data = CAST(x'22ff22' AS TEXT)",
        "realm = 7",
        "user_key = 7",
        "idp_session_id = 7",
        "auth_level = 'x'",
        "revision = 'x'",
        "idle = 'x'",
        "absolute = 'x'",
        "user_key = x'61'",
        "realm = x'61'",
        "format = 'x'",
        "data = 7",
    ] {
        let (folder, store) = sqlite();
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        let other = Connection::open(folder.database()).unwrap();
        spoil_row(&other, spoil);
        let row = || -> (Vec<u8>, i64) {
            let sql = "SELECT CAST(data AS BLOB), CAST(format AS INTEGER) FROM cloakroom_sessions";
            other.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        let before = row();

        let found = store.load(&id_hash, NOW).unwrap();
        let Loaded::Unreadable(Unreadable::Undecodable {
            public_id: Some(public_id), error, ..
        }) = found
        else {
            panic!("{spoil} decodes");
        };
        assert_eq!(error.kind(), ErrorKind::Undecodable);
        let answer = merge(&store, &id_hash, &setting("n", 2)).unwrap();
        let CommitAnswer::Unreadable(Unreadable::Undecodable { public_id: Some(other), .. }) =
            answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(other, public_id);
        assert_eq!(row(), before, "{spoil}: the row is not touched");

        let index = store.index().unwrap();
        let listed = index.list(&SessionFilter::All, Page::first(MANY), NOW).unwrap();
        assert_eq!(listed.len(), 1, "{spoil}: an operator can see it");
        assert_eq!(store.sweep(NOW, MANY).unwrap().removed, 0);
        let revoked = index.revoke(&SessionFilter::PublicId(&public_id), None, NOW).unwrap();
        let revoked = revoked.iter().map(|ended| ended.id_hash);
        assert!(revoked.eq([id_hash]), "{spoil}: and end it");
    }
}

/// Changes a row as a damaged page could: also to values of types that the table refuses.
fn spoil_row(connection: &Connection, change: &str) {
    let schema = "SELECT sql FROM sqlite_schema WHERE name = 'cloakroom_sessions'";
    let schema: String = connection.query_row(schema, [], |row| row.get(0)).unwrap();
    let set_schema = |sql: &str| {
        connection.execute_batch("PRAGMA writable_schema = ON").unwrap();
        let update = "UPDATE sqlite_schema SET sql = ?1 WHERE name = 'cloakroom_sessions'";
        connection.execute(update, [sql]).unwrap();
        connection.execute_batch("PRAGMA writable_schema = RESET").unwrap();
    };
    let column = change.split(' ').next().unwrap();
    let any_type = |line: &str| match line.split_whitespace().next() {
        Some(first) if first == column => line.replace("TEXT", "ANY").replace("INTEGER", "ANY"),
        _ => line.to_owned(),
    };
    set_schema(&schema.lines().map(any_type).collect::<Vec<_>>().join("\n"));
    connection.execute(&format!("UPDATE cloakroom_sessions SET {change}"), []).unwrap();
    set_schema(&schema);
}

#[test]
fn a_client_that_does_not_decode_is_none_and_its_session_lives() {
    let (folder, store) = sqlite();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let other = Connection::open(folder.database()).unwrap();
    for client in ["'no JSON'", "CAST(x'ff' AS TEXT)", "'{}'", "7"] {
        spoil_row(&other, &format!("client = {client}"));
        assert!(live(&store, &id_hash).unwrap().is_some(), "{client}");
        let listed =
            store.index().unwrap().list(&SessionFilter::All, Page::first(MANY), NOW).unwrap();
        assert_eq!(listed.len(), 1, "{client}");
    }
}

#[test]
fn without_grace_the_old_id_is_dead_at_any_time() {
    let before_1970 = Timestamp::from_millis(-1000);
    let stores: [Box<dyn Store>; 2] =
        [Box::new(SqliteStore::in_memory().unwrap()), Box::new(MemoryStore::new())];
    for store in stores {
        let id_hash = new_id_hash();
        let to = new_id_hash();
        let new_session = new_session();
        let commit = |id_hash, action| {
            store.commit(&Commit::new(id_hash, action, Delta::new(), before_1970)).unwrap()
        };
        commit(&id_hash, Action::Create(new_session.clone()));
        commit(&id_hash, Action::Renew { to, grace_until: None });
        let found = store.load(&id_hash, before_1970).unwrap();
        assert!(matches!(found, Loaded::Unreadable(Unreadable::Replaced { .. })));
    }
}

#[test]
fn of_two_backups_to_one_name_one_is_made_and_the_other_refused() {
    let (folder, store) = sqlite();
    for n in 0..500 {
        create(&store, &setting("n", n)).unwrap();
    }
    let barrier = Barrier::new(2);
    let results: Vec<_> = std::thread::scope(|scope| {
        let backup = || {
            barrier.wait();
            store.file().backup(folder.path("copy.db")).map_err(|error| error.kind())
        };
        let threads = [scope.spawn(backup), scope.spawn(backup)];
        threads.map(|thread| thread.join().unwrap()).to_vec()
    });
    assert!(results.contains(&Ok(())) && results.contains(&Err(ErrorKind::Invalid)), "{results:?}");
    assert_eq!(SqliteStore::open(folder.path("copy.db")).unwrap().clear().unwrap(), 500);
    let left = fs::read_dir(folder.path("")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains("partial")).count(), 0);
}

#[test]
fn while_another_process_holds_the_lock_writes_are_busy() {
    let folder = Folder::new();
    let timeout = crate::common::dice::number("CLOAKROOM_BUSY_MILLISECONDS").unwrap_or(100);
    let timeout = Duration::from_millis(timeout);
    let store = SqliteStore::builder(folder.database()).busy_timeout(timeout).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let other = Connection::open(folder.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; CREATE TABLE others (a)").unwrap();
    for _ in 0..2 {
        let error = merge(&store, &id_hash, &setting("n", 2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
        assert!(!error.has_unknown_outcome());
        let record = live(&store, &id_hash).unwrap().unwrap();
        assert_eq!(value::<u32>(&record, "n"), Some(1));
    }
    let busy = SqliteStore::builder(folder.database()).table("new").busy_timeout(timeout).open();
    assert_eq!(busy.unwrap_err().kind(), ErrorKind::Busy);
    other.execute_batch("COMMIT").unwrap();
    assert!(matches!(
        merge(&store, &id_hash, &setting("n", 2)).unwrap(),
        CommitAnswer::Done { .. }
    ));
}

#[test]
fn a_held_lock_is_reported_as_that_of_a_connection() {
    let timeout = Duration::from_millis(50);
    let cause = "database is locked: another connection holds the lock, of another program or of";
    for hold in [
        "PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE host (a)",
        "BEGIN EXCLUSIVE; CREATE TABLE host (a)",
        "PRAGMA journal_mode = WAL; PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE host (a)",
    ] {
        let folder = Folder::new();
        let host = Connection::open(folder.database()).unwrap();
        host.execute_batch(hold).unwrap();
        let error =
            SqliteStore::builder(folder.database()).busy_timeout(timeout).open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{hold}: {error}");
        assert!(error.to_string().contains(cause), "{hold}: {error}");
    }
    // Within a transaction of the application.
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).busy_timeout(timeout).open().unwrap();
    let host = Connection::open(folder.database()).unwrap();
    host.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = create(&store, &setting("n", 1)).unwrap_err();
    assert!(error.to_string().contains(cause), "{error}");
}

#[test]
fn all_writers_that_wait_for_a_held_lock_get_busy() {
    let folder = Folder::new();
    let timeout = Duration::from_millis(100);
    let store = SqliteStore::builder(folder.database()).busy_timeout(timeout).open().unwrap();
    let id_hash = create(&store, &Delta::new()).unwrap();
    let other = Connection::open(folder.database()).unwrap();
    let all_at_once = || {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..16)
                .map(|n| {
                    let store = &store;
                    let id_hash = &id_hash;
                    scope.spawn(move || merge(store, id_hash, &setting(&format!("n{n}"), n)))
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        })
    };
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for result in all_at_once() {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.has_unknown_outcome()), (ErrorKind::Busy, false));
    }
    other.execute_batch("COMMIT").unwrap();
    for result in all_at_once() {
        result.unwrap();
    }
    assert_eq!(live(&store, &id_hash).unwrap().unwrap().data.len(), 16);
}

#[test]
fn a_full_database_keeps_its_content_and_continues_later() {
    let folder = Folder::new();
    let build = SqliteStore::builder(folder.database()).max_file_size(200_000);
    let store = build.open().unwrap();
    let note = "x".repeat(2000);
    let mut id_hashes = vec![];
    let sign_in = || signed_in(&store, &setting("n", &note));
    let error = loop {
        match sign_in() {
            Ok(id_hash) => id_hashes.push(id_hash),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert!(id_hashes.len() > 20);
    for id_hash in &id_hashes {
        assert!(live(&store, id_hash).unwrap().is_some(), "nothing stored is lost");
    }
    for id_hash in id_hashes.drain(..10) {
        assert!(matches!(end(&store, &id_hash).unwrap(), CommitAnswer::Ended(_)));
    }
    sign_in().unwrap();
}

#[test]
fn a_file_full_of_users_begins_no_anonymous_session() {
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).max_file_size(400_000).open().unwrap();
    let note = setting("n", "x".repeat(2000));
    let visitor = create(&store, &note).unwrap();
    let users: Vec<_> = (0..).map_while(|_| signed_in(&store, &note).ok()).collect();
    assert!(users.len() > 40, "{}", users.len());
    assert!(live(&store, &visitor).unwrap().is_none(), "evicted for a user");
    let error = create(&store, &note).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert!(error.to_string().contains("for sign-ins"), "{error}");
    for id_hash in users {
        assert!(live(&store, &id_hash).unwrap().is_some());
    }
}

#[test]
fn a_visitor_in_an_almost_full_file_keeps_the_session() {
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).max_file_size(400_000).open().unwrap();
    let first = create(&store, &setting("n", "")).unwrap();
    let note = "x".repeat(2000);
    for n in 0..500 {
        // The one that writes is not evicted for its own change, though it ends first.
        let changed = merge(&store, &first, &setting("n", format!("{n}{note}"))).unwrap();
        assert!(matches!(changed, CommitAnswer::Done { .. }), "{n}: {changed:?}");
        store.touch(&[(first, Touch::at(NOW + Duration::from_secs(n)))], NOW).unwrap();
        create(&store, &setting("n", &note)).unwrap();
    }
    let stats = store.index().unwrap().stats(NOW).unwrap();
    assert!((20..150).contains(&stats.anonymous()), "{stats:?}");
    assert!(fs::metadata(folder.database()).unwrap().len() <= 400_000);
}

#[test]
fn a_flood_that_ends_after_many_users_is_evicted() {
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).max_file_size(500_000).open().unwrap();
    // More than one commit examines.
    let users: Vec<_> = (0..600).map(|_| signed_in(&store, &Delta::new()).unwrap()).collect();
    for n in 0..3000 {
        create(&store, &setting("n", "")).unwrap();
        if n % 100 == 0 {
            signed_in(&store, &Delta::new()).unwrap();
        }
    }
    let stats = store.index().unwrap().stats(NOW).unwrap();
    assert!((200..1200).contains(&stats.anonymous()), "{stats:?}");
    for id_hash in users {
        assert!(live(&store, &id_hash).unwrap().is_some());
    }
}

/// Signs a new user in.
fn signed_in(store: &SqliteStore, delta: &Delta) -> cloakroom::Result<SessionIdHash> {
    let to = new_id_hash();
    let user = UserKey::new("ada").unwrap();
    let action = Action::SignIn { to, user, new_session: new_session(), join_salt: None };
    store.commit(&Commit::new(&new_id_hash(), action, delta.clone(), NOW))?;
    Ok(to)
}

#[test]
fn one_who_fails_in_a_group_does_not_fail_the_others() {
    let (_folder, store) = sqlite();
    let taken = create(&store, &Delta::new()).unwrap();
    on_threads(8, || {
        for _ in 0..100 {
            let new_session = new_session();
            let delta = Delta::new();
            let again =
                Commit::new(&taken, Action::Create(new_session.clone()), delta.clone(), NOW);
            let error = store.commit(&again).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            let id_hash = create(&store, &setting("n", 1)).unwrap();
            assert!(live(&store, &id_hash).unwrap().is_some());
        }
    });
    assert_eq!(store.index().unwrap().stats(NOW).unwrap().live, 801);
}

#[test]
fn no_byte_of_an_id_is_in_the_files() {
    let (folder, store) = sqlite();
    let id = SessionId::generate().unwrap();
    let renewed = SessionId::generate().unwrap();
    let id_hash = id.hash(Realm::default().tag());
    let to = renewed.hash(Realm::default().tag());
    let new_session = new_session();
    store
        .commit(&Commit::new(&id_hash, Action::Create(new_session), setting("n", 1), NOW))
        .unwrap();
    let renew = Action::Renew { to, grace_until: None };
    store.commit(&Commit::new(&id_hash, renew, Delta::new(), NOW)).unwrap();
    let mut bytes = fs::read(folder.database()).unwrap();
    bytes.extend(fs::read(folder.path("app.db-wal")).unwrap());
    let contains = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(contains(to.as_bytes()), "the documented hash is what is stored");
    for id in [&id, &renewed] {
        let text = id.reveal();
        assert!(!contains(text.as_bytes()));
        // Any 32 bytes are an id: the decoded text, found through an id of the same bytes.
        assert!(!contains(&decoded(&text)));
    }
    // The id hash in the database cannot be presented as a cookie.
    let stolen = SessionId::parse(&encoded(to.as_bytes())).unwrap();
    let loaded = store.load(&stolen.hash(Realm::default().tag()), NOW).unwrap();
    assert!(matches!(loaded, Loaded::Unreadable(Unreadable::NotFound { .. })));
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn decoded(text: &str) -> Vec<u8> {
    let mut bits = 0_u32;
    let mut have = 0;
    let mut bytes = vec![];
    for c in text.bytes() {
        let six = ALPHABET.iter().position(|a| *a == c).unwrap();
        bits = (bits << 6) | u32::try_from(six).unwrap();
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    bytes
}

fn encoded(bytes: &[u8]) -> String {
    let mut bits = 0_u32;
    let mut have = 0;
    let mut text = String::new();
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        have += 8;
        while have >= 6 {
            have -= 6;
            text.push(ALPHABET[(bits >> have) as usize & 63] as char);
        }
        bits &= (1 << have) - 1;
    }
    text.push(ALPHABET[(bits << (6 - have)) as usize & 63] as char);
    text
}

#[test]
fn a_backup_taken_under_load_is_whole() {
    let (folder, store) = sqlite();
    let id_hashes: Vec<_> = (0..2000).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    let stop = AtomicBool::new(false);
    let copy = folder.path("copy.db");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    merge(&store, &id_hashes[n % id_hashes.len()], &setting("m", n)).unwrap();
                }
            });
        }
        let copied = store.file().backup(&copy);
        stop.store(true, Ordering::Relaxed);
        copied.unwrap();
    });
    assert_integrity(&copy);
    let restored = SqliteStore::open(&copy).unwrap();
    for id_hash in &id_hashes {
        assert!(live(&restored, id_hash).unwrap().is_some());
    }
    let refused = store.file().backup(&copy).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::Invalid, "never overwrites");
    let nowhere = store.file().backup(folder.path("missing/copy.db")).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Unavailable);
    let memory = SqliteStore::in_memory().unwrap();
    let id_hash = create(&memory, &setting("n", 1)).unwrap();
    memory.file().backup(folder.path("memory.db")).unwrap();
    let restored = SqliteStore::open(folder.path("memory.db")).unwrap();
    assert!(live(&restored, &id_hash).unwrap().is_some());
}

#[test]
fn a_session_without_any_limit_in_time_never_ends() {
    let store = SqliteStore::in_memory().unwrap();
    let id_hash = new_id_hash();
    let endless = Lifetime::absolute(Duration::MAX).limits_from(NOW);
    let new_session = cloakroom::backend::NewSession::new(endless).unwrap();
    store.commit(&Commit::new(&id_hash, Action::Create(new_session), Delta::new(), NOW)).unwrap();
    let in_ages = NOW + Duration::from_secs(3_000_000_000);
    assert!(matches!(store.load(&id_hash, in_ages).unwrap(), Loaded::Live(_)));
    assert_eq!(store.sweep(in_ages, MANY).unwrap().removed, 0);
}
