//! A process that forks while a store is open, at any moment of what its threads do.

#[path = "../../common/mod.rs"]
mod common;
#[path = "../../common/integrity.rs"]
mod integrity;
#[allow(dead_code, reason = "the example starts memcached too")]
#[path = "../../../examples/several_machines/services.rs"]
mod services;

use std::io;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

use cloakroom::adapter::Outcome;
use cloakroom::backend::Store;
use cloakroom::stores::admin::Admin;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::stores::sqlite::SqliteFile;
use cloakroom::{
    Error, ErrorKind, MemoryStore, PostgresStore, Result, SessionManager, SqliteStore,
};
use common::{
    Folder, NOW, cached_store, child, create, live, merge, new_id_hash, role, setting, value,
};
use integrity::assert_integrity;

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: i32) -> !;
}

/// No test may use SQLite while another one forks: a process that opens a database in the fork
/// would wait for ever for one of SQLite's own locks.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `child` in a fork and returns its exit code, or `None` if it was killed because it took too
/// long. It does not print: a lock that another thread had on the output is never released there.
fn in_a_fork(child: impl FnOnce() -> std::result::Result<(), u8>) -> Option<u8> {
    // SAFETY: these are the C library's, with the types that it documents. Of the child only this
    // thread goes on; it allocates, for which the library prepares its locks, and ends by `_exit`,
    // without what the parent's end would do.
    unsafe {
        match fork() {
            0 => {
                alarm(30);
                let said = catch_unwind(AssertUnwindSafe(child)).unwrap_or(Err(255));
                _exit(said.map_or_else(i32::from, |()| 0));
            }
            process => {
                assert!(process > 0, "a fork is possible");
                let mut status = 0;
                assert_eq!(waitpid(process, &mut status, 0), process);
                // The low bits are the signal that ended it.
                (status & 0x7f == 0).then(|| u8::try_from(status >> 8 & 0xff).unwrap())
            }
        }
    }
}

fn refused<T>(result: Result<T>) -> bool {
    let is_it = |error: Error| {
        error.kind() == ErrorKind::Unavailable && format!("{error:?}").contains("fork")
    };
    result.is_err_and(is_it)
}

/// Or the number of the first that does not, from 1.
fn all_hold(steps: &[&dyn Fn() -> bool]) -> std::result::Result<(), u8> {
    match (1..).zip(steps).find(|(_, step)| !step()) {
        Some((number, _)) => Err(number),
        None => Ok(()),
    }
}

#[test]
fn a_forked_process_is_refused_and_does_no_damage() {
    let _alone = alone();
    let folder = Folder::new();
    let path = folder.database();
    let store = SqliteStore::open(&path).unwrap();
    let sessions = SessionManager::new(store.clone()).unwrap();
    let id_hash = create(&store, &setting("n", 0)).unwrap();
    let session = sessions.open(None);
    session.set("n", 1).unwrap();
    let headers = sessions.close(&session, Outcome::Completed).unwrap();
    let cookie = &headers.id_fields[0].1;
    let cookie = cookie.split(';').next().unwrap();
    let malformed = format!("{}=x", cookie.split('=').next().unwrap());
    let cached = cached_store(MemoryCache::new(), store.clone());
    for _ in 0..2 {
        assert!(live(&cached, &id_hash).unwrap().is_some());
    }
    let forgetful = SessionManager::new(MemoryStore::new()).unwrap();
    let memory = SqliteStore::in_memory().unwrap();
    let copy = path.with_extension("copy");
    store.file().backup(&copy).unwrap();

    while_others_write(&store, || {
        let read_before = sessions.open(Some(cookie));
        assert_eq!(read_before.get::<u32>("n").unwrap(), Some(1));
        in_a_fork(|| {
            let file = SqliteStore::builder(&path);
            let steps: [&dyn Fn() -> bool; 21] = [
                // There is nothing to store.
                &|| sessions.close(&read_before, Outcome::Completed).is_ok(),
                &|| refused(sessions.open(Some(cookie)).get::<u32>("n")),
                &|| {
                    let session = sessions.open(Some(cookie));
                    session.destroy().unwrap();
                    refused(sessions.close(&session, Outcome::Completed))
                },
                // No id, and no lock is taken to count who sends such things.
                &|| matches!(sessions.open(Some(malformed.as_str())).get::<u32>("n"), Ok(None)),
                &|| refused(sessions.revoke_everyone(None)),
                &|| refused(sessions.flush()),
                &|| refused(forgetful.open(Some(cookie)).get::<u32>("n")),
                &|| refused(live(&store, &id_hash)),
                &|| store.try_load(&id_hash, NOW).is_none(),
                &|| refused(merge(&store, &id_hash, &setting("n", 0))),
                &|| refused(live(&cached, &id_hash)),
                &|| refused(live(&memory, &id_hash)),
                &|| refused(store.index().unwrap().stats(NOW)),
                &|| refused(store.clear()),
                &|| refused(store.file().backup(path.with_extension("other"))),
                &|| refused(store.file().info()),
                &|| refused(store.connect()),
                &|| refused(SqliteStore::open(&path)),
                &|| refused(SqliteFile::new(file.clone()).info()),
                &|| {
                    let watch = Box::new(|_| ControlFlow::Continue(()));
                    refused(SqliteFile::new(file.clone()).restore(&copy, false, NOW, watch))
                },
                &|| refused(SessionManager::new(store.clone()).unwrap().revoke_everyone(None)),
            ];
            all_hold(&steps)
        })
    });
    assert_eq!(sessions.open(Some(cookie)).get::<u32>("n").unwrap(), Some(1));
    drop((sessions, store));
    assert_integrity(&path);
}

/// Forks at many moments of what other threads do with the locks of the manager.
#[test]
fn a_fork_waits_for_no_lock_of_the_manager() {
    let _alone = alone();
    let sessions = &SessionManager::new(MemoryStore::new()).unwrap();
    let begin = |n: u32| {
        let session = sessions.open(None);
        session.set("n", n).unwrap();
        let headers = sessions.close(&session, Outcome::Completed).unwrap();
        let session = sessions.open(headers.id_fields[0].1.split(';').next());
        session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
        session
    };
    let send_malformed = |n: u32| drop(sessions.open(Some(format!("__Host-id={n}").as_str())));
    let drop_with_a_change = |n: u32| sessions.open(None).set("n", n).unwrap();
    let update = |n: u32| drop(sessions.close(&begin(n), Outcome::Completed).unwrap());
    let updated_before = begin(0);
    let jobs: [&(dyn Fn(u32) + Sync); 3] = [&send_malformed, &drop_with_a_change, &update];
    let over = &AtomicBool::new(false);
    let began = &Barrier::new(2 * jobs.len() + 1);
    std::thread::scope(|scope| {
        for job in jobs.into_iter().chain(jobs) {
            scope.spawn(move || {
                began.wait();
                (0..).take_while(|_| !over.load(Ordering::Relaxed)).for_each(job);
            });
        }
        began.wait();
        let fork = |_| {
            in_a_fork(|| {
                let steps: [&dyn Fn() -> bool; 4] = [
                    &|| matches!(sessions.open(Some("__Host-id=x")).get::<u32>("n"), Ok(None)),
                    &|| sessions.open(None).set("n", 1).is_ok(),
                    &|| refused(sessions.close(&updated_before, Outcome::Completed)),
                    &|| refused(sessions.revoke_everyone(None)),
                ];
                all_hold(&steps)
            })
        };
        let failed = (0..100).map(fork).find(|exit| *exit != Some(0));
        over.store(true, Ordering::Relaxed);
        assert_eq!(failed, None);
    });
    sessions.close(&updated_before, Outcome::Completed).unwrap();
}

#[test]
fn a_fork_that_drops_the_last_handle_undoes_nothing() {
    let _alone = alone();
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let memory = SqliteStore::in_memory().unwrap();
    while_others_write(&store, || {
        in_a_fork(|| {
            // SAFETY: the process ends before the other owner could drop them.
            drop(unsafe { (std::ptr::read(&store), std::ptr::read(&memory)) });
            Ok(())
        })
    });
    drop(store);
    assert_integrity(folder.database());
}

/// Forks at many moments of what three threads write, and checks that nothing is lost.
fn while_others_write(store: &SqliteStore, fork: impl Fn() -> Option<u8>) {
    const THREADS: usize = 3;
    let ids: Vec<_> = (0..THREADS).map(|_| create(store, &setting("n", 0)).unwrap()).collect();
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let (over, written, began) = (&over, &written, &Barrier::new(THREADS + 1));
    std::thread::scope(|scope| {
        let write = |id_hash| {
            move || {
                began.wait();
                let mut last = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    merge(store, id_hash, &setting("n", last + 1)).unwrap();
                    last += 1;
                    let found = live(store, id_hash).unwrap().unwrap();
                    assert_eq!(value::<u32>(&found, "n"), Some(last));
                    written.fetch_add(1, Ordering::Relaxed);
                }
                last
            }
        };
        let writers: Vec<_> = ids.iter().map(|id_hash| scope.spawn(write(id_hash))).collect();
        began.wait();
        let mut word = Some(0);
        for round in 0..100 {
            // At a moment that is another one each time.
            let until = written.load(Ordering::Relaxed) + round % 7;
            while written.load(Ordering::Relaxed) < until
                && !writers.iter().any(|w| w.is_finished())
            {
                std::thread::yield_now();
            }
            word = fork();
            if word != Some(0) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        let last: Vec<u32> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        assert_eq!(word, Some(0), "what the fork said");
        for (id_hash, last) in ids.iter().zip(last) {
            let record = live(store, id_hash).unwrap().unwrap();
            assert_eq!(value::<u32>(&record, "n"), Some(last));
        }
    });
}

#[test]
fn the_last_handle_can_be_let_go_of_in_a_fork() {
    let _alone = alone();
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let mut ours = Some(SessionManager::new(store.clone()).unwrap());
    let mut theirs = Some(store);
    assert!(theirs.as_ref().unwrap().try_load(&id_hash, NOW).is_some(), "no query is needed");
    let word = in_a_fork(|| {
        let here = theirs.as_ref().unwrap();
        if !refused(live(here, &id_hash)) || here.try_load(&id_hash, NOW).is_some() {
            return Err(2);
        }
        // A cleaner's thread is not here to be waited for, and a connection not to be closed.
        drop(ours.take());
        drop(theirs.take());
        match refused(SqliteStore::open(folder.database())) {
            true => Ok(()),
            false => Err(1),
        }
    });
    assert_eq!(word, Some(0));
    let store = theirs.unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some());
    merge(&store, &id_hash, &setting("n", 2)).unwrap();
    drop((ours, store));
    let again = SqliteStore::open(folder.database()).unwrap();
    let record = live(&again, &id_hash).unwrap().unwrap();
    assert_eq!(value::<u32>(&record, "n"), Some(2));
}

/// In a process of its own: the threads of stores that other tests have closed may be about to end,
/// and a store opened in a fork would wait for locks that they had.
#[test]
fn a_process_may_fork_first_and_open_the_store_then() {
    let folder = Folder::new();
    let ended =
        child(module_path!(), "fork first").env("DATABASE", folder.database()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert_integrity(folder.database());
}

#[test]
fn child_process() {
    let Some(role) = role() else { return };
    assert_eq!(role, "fork first");
    let path = std::env::var("DATABASE").unwrap();
    for before in 0..3 {
        let word = in_a_fork(|| {
            let Ok(store) = SqliteStore::open(&path) else { return Err(1) };
            let Ok(sessions) = SessionManager::new(store.clone()) else { return Err(2) };
            let stats = store.index().unwrap().stats(NOW);
            if stats.unwrap().live != before || create(&store, &setting("n", 1)).is_err() {
                return Err(3);
            }
            if sessions.flush().is_err() {
                return Err(4);
            }
            drop((sessions, store));
            Ok(())
        });
        assert_eq!(word, Some(0));
    }
}

#[test]
fn a_forked_process_says_nothing_to_memcached() {
    let _alone = alone();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let address = server.local_addr().unwrap().to_string();
    let store = MemcachedStore::builder().servers([address]).open().unwrap();
    let word = in_a_fork(|| {
        let steps: [&dyn Fn() -> bool; 3] = [
            &|| refused(live(&store, &new_id_hash())),
            &|| refused(create(&store, &setting("n", 0))),
            &|| refused(store.clear()),
        ];
        all_hold(&steps)
    });
    assert_eq!(word, Some(0));
    assert_eq!(server.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_forked_process_leaves_the_connections_to_postgres_alone() {
    let _alone = alone();
    let server = services::Postgres::start(&["fsync=off"]).unwrap();
    let mut store = Some(PostgresStore::open(&server.url()).unwrap());
    let here = store.clone().unwrap();
    let id_hash = create(&here, &setting("n", 0)).unwrap();
    for n in 1..4 {
        let word = in_a_fork(|| {
            let steps: [&dyn Fn() -> bool; 4] = [
                &|| refused(live(&here, &id_hash)),
                &|| refused(merge(&here, &id_hash, &setting("n", 0))),
                &|| refused(here.index().unwrap().stats(NOW)),
                &|| refused(here.maintenance().unwrap().run()),
            ];
            all_hold(&steps)?;
            // SAFETY: the process ends before the other owner could drop it.
            drop(unsafe { std::ptr::read(&here) });
            drop(store.take());
            Ok(())
        });
        assert_eq!(word, Some(0), "what the fork said");
        merge(&here, &id_hash, &setting("n", n)).unwrap();
        let record = live(&here, &id_hash).unwrap().unwrap();
        assert_eq!(value::<u32>(&record, "n"), Some(n));
    }
}
