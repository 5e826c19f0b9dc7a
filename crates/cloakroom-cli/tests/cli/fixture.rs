//! The helpers of the tests of the program.

#![allow(unreachable_pub, reason = "shared by the files beside this one")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::adapter::Outcome;
use cloakroom::backend::{Action, Commit, CommitAnswer, NewSession, Store};
use cloakroom::clock::{Clock, SystemClock, Timestamp};
use cloakroom::id::{PublicId, Realm, SessionId, SessionIdHash};
use cloakroom::list::Client;
use cloakroom::stores::sqlite::rusqlite::{Connection, params};
use cloakroom::{ErrorKind, Lifetime, Result, SessionManager, SignIn, SqliteStore, UserKey};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Folder, setting};

pub const DAY: Duration = Duration::from_secs(86_400);

pub fn now() -> Timestamp {
    SystemClock.now()
}

/// The program, without environment variables that would affect it.
pub fn program(folder: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.args(args).env("CLOAKROOM_DB", folder.database()).env("TZ", "UTC");
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().expect("an exit code, not a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub fn run(folder: &Folder, args: &[&str]) -> Ran {
    program(folder, args).output().unwrap().into()
}

/// Runs it, and fails unless it succeeds.
pub fn done(folder: &Folder, args: &[&str]) -> String {
    let ran = run(folder, args);
    assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// Runs it, and fails unless it ends with this exit code and one line with the reason.
pub fn fails(folder: &Folder, args: &[&str], code: i32) -> String {
    let ran = run(folder, args);
    assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
    assert!(ran.err.starts_with("cloakroom: "), "{args:?}: {}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{args:?}: {}", ran.err);
    ran.err
}

pub fn answered(folder: &Folder, args: &[&str], answer: &str) -> Ran {
    let mut child = start(program(folder, args).stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

pub fn json(folder: &Folder, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&done(folder, args)).unwrap()
}

pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends the signal of Ctrl-C.
pub fn interrupt(child: &Child) {
    signal(child, Signal::INT);
}

pub fn signal(child: &Child, signal: Signal) {
    // The process may already have ended.
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

pub fn open(folder: &Folder) -> SqliteStore {
    SqliteStore::open(folder.database()).unwrap()
}

/// A folder with an empty database.
pub fn set_up() -> Folder {
    with_store().0
}

/// The same, and its store.
pub fn with_store() -> (Folder, SqliteStore) {
    let folder = Folder::new();
    let store = open(&folder);
    (folder, store)
}

pub struct Begun {
    pub id: SessionId,
    pub id_hash: SessionIdHash,
    pub public_id: PublicId,
}

/// A session that began this long ago, with an idle limit of one day.
pub fn begin(store: &SqliteStore, user: Option<&str>, ago: Duration) -> Begun {
    begin_with(store, user, ago, "192.0.2.7", "Firefox on Linux")
}

pub fn begin_with(
    store: &SqliteStore,
    user: Option<&str>,
    ago: Duration,
    address: &str,
    agent: &str,
) -> Begun {
    let client = Client::new(Some(address.parse().unwrap()), Some(agent));
    begin_as(store, user, ago, client, Realm::default())
}

/// The same in a realm.
pub fn begin_in(store: &SqliteStore, realm: &str, user: Option<&str>, ago: Duration) -> Begun {
    begin_as(store, user, ago, Client::default(), Realm::new(realm).unwrap())
}

fn begin_as(
    store: &SqliteStore,
    user: Option<&str>,
    ago: Duration,
    client: Client,
    realm: Realm,
) -> Begun {
    let at = now() - ago;
    let mut new_session = NewSession::new(Lifetime::idle(DAY).limits_from(at)).unwrap();
    new_session.client = Some(client);
    new_session.realm = realm;
    let tag = new_session.realm.tag();
    let delta = setting("cart", "three secret coats");
    let id = SessionId::generate().unwrap();
    let id_hash = id.hash(tag);
    let user = user.map(|user| UserKey::new(user).unwrap());
    let action = match &user {
        None => Action::Create(new_session),
        Some(user) => {
            Action::SignIn { to: id_hash, user: user.clone(), new_session, join_salt: None }
        }
    };
    let at_first = SessionId::generate().unwrap().hash(tag);
    let from = if user.is_some() { &at_first } else { &id_hash };
    match store.commit(&Commit::new(from, action, delta, at)).unwrap() {
        CommitAnswer::Done { session, .. } => {
            Begun { id, id_hash: session.id_hash, public_id: session.record.public_id }
        }
        other => panic!("{other:?}"),
    }
}

/// Inserts many sessions quickly, all of them live or all of them long expired.
pub fn fill(folder: &Folder, sessions: u32, live: bool) {
    let connection = Connection::open(folder.database()).unwrap();
    let ago = if live { 60_000 } else { 3 * 86_400_000 };
    let seen = now().as_millis() - ago;
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO cloakroom_sessions
             (id_hash, public_id, realm, created, seen, id_issued, idle, deadline, persistent, revision,
             format, data)
             SELECT randomblob(32), randomblob(16), '__Host-id', ?2, ?2, ?2, 86400000, ?2 + 86400000, 1, 1, 1,
             '{\"n\":\"' || hex(randomblob(80)) || '\"}' FROM n",
            params![sessions, seen],
        )
        .unwrap();
    // Checkpoints the log of this work, so that no command of a test waits for it.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

/// The measurements of a service that writes without a pause.
#[derive(Debug)]
pub struct Seen {
    /// The number of successful requests, each with a committed change.
    pub requests: usize,
    /// The number of requests that failed because the store was busy for the whole busy timeout.
    pub busy: usize,
    /// The 99th percentile of their durations, and the longest.
    pub p99: Duration,
    pub longest: Duration,
    /// The number of times that the visitor's session had ended before the next request.
    pub ended: usize,
}

/// Runs `work` while a service writes to the database, and after it has begun to write. The service
/// has a visitor who is signed in as `visitor` and whose requests are counted in the session.
pub fn beside_a_service<T>(folder: &Folder, work: impl FnOnce() -> T) -> (T, Seen) {
    let sessions = SessionManager::builder(open(folder)).sweep_every(DAY).build().unwrap();
    let (over, begun) = (AtomicBool::new(false), Barrier::new(2));
    thread::scope(|scope| {
        let service = scope.spawn(|| {
            let (mut cookie, mut counted) = (None, 0);
            let (mut waits, mut busy, mut ended) = (Vec::new(), 0, 0);
            loop {
                // The last request runs after the work, to see its effect.
                let last = over.load(Ordering::Relaxed);
                let began = Instant::now();
                match visit(&sessions, cookie.as_deref()) {
                    Ok((new, count)) => {
                        cookie = new.or(cookie);
                        if count != counted + 1 {
                            assert_eq!(count, 1, "after {counted}");
                            ended += 1;
                        }
                        counted = count;
                        waits.push(began.elapsed());
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
                        busy += 1;
                    }
                }
                if waits.len() + busy == 10 {
                    begun.wait();
                }
                if last {
                    break;
                }
            }
            waits.sort();
            let p99 = waits[waits.len() * 99 / 100];
            let (requests, longest) = (waits.len(), *waits.last().unwrap());
            Seen { requests, busy, p99, longest, ended }
        });
        begun.wait();
        let answer = work();
        over.store(true, Ordering::Relaxed);
        (answer, service.join().unwrap())
    })
}

/// One request of the visitor: returns the new cookie, if there is one, and the number of the
/// request in its session.
pub fn visit(sessions: &SessionManager, cookie: Option<&str>) -> Result<(Option<String>, u64)> {
    let session = sessions.open(cookie);
    if session.user()?.is_none() {
        assert_eq!(session.sign_in(UserKey::new("visitor")?)?, SignIn::Done);
    }
    let count = session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    let headers = sessions.close(&session, Outcome::Completed)?;
    let set = headers.iter().find(|(name, _)| *name == "Set-Cookie");
    let cookie = set.map(|(_, value)| value.split(';').next().unwrap().to_owned());
    Ok((cookie, count))
}

/// Returns whether these tests can change owners; says so if not.
pub fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !is_root {
        eprintln!("skipped: it needs root, to change the owner of files");
    }
    is_root
}

pub fn number(path: &Path, sql: &str) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub fn count(folder: &Folder) -> i64 {
    number(&folder.database(), "SELECT count(*) FROM cloakroom_sessions")
}

pub fn is_intact(path: &Path) -> bool {
    number(path, "SELECT integrity_check = 'ok' FROM pragma_integrity_check") == 1
}

/// Overwrites one page of the database, of which the first is 1.
pub fn damage(folder: &Folder, page: i64) {
    let mut bytes = std::fs::read(folder.database()).unwrap();
    let end = usize::try_from(page).unwrap() * 4096;
    bytes[end - 4096..end].fill(0xff);
    std::fs::write(folder.database(), bytes).unwrap();
}

/// The names in the folder of the database.
pub fn names(folder: &Folder) -> Vec<String> {
    let names = std::fs::read_dir(folder.path("")).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The names there that do not belong to the database.
pub fn strangers(folder: &Folder) -> Vec<String> {
    let ours = |name: &String| ["app.db", "app.db-wal", "app.db-shm"].contains(&name.as_str());
    names(folder).into_iter().filter(|name| !ours(name)).collect()
}

/// The text with the parts replaced that differ between runs: the folder, public ids, times.
pub fn masked(folder: &Folder, text: &str) -> String {
    let folder = folder.path("").display().to_string();
    let text = text.replace(folder.trim_end_matches('/'), "FOLDER");
    let mut masked = String::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let shape = |length: usize, fits: fn(usize, u8) -> bool| {
            let bytes = rest.as_bytes();
            bytes.len() >= length && bytes[..length].iter().enumerate().all(|(n, b)| fits(n, *b))
        };
        if shape(32, |_, byte| byte.is_ascii_hexdigit()) {
            masked.push_str(&"H".repeat(32));
            rest = &rest[32..];
        } else if shape(19, |at, byte| match at {
            4 | 7 => byte == b'-',
            10 => byte == b' ',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        }) {
            masked.push_str("YYYY-MM-DD hh:mm:ss");
            rest = &rest[19..];
        } else if shape(10, |at, byte| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        }) {
            masked.push_str("YYYY-MM-DD");
            rest = &rest[10..];
        } else {
            masked.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    masked
}
