//! A cache in front of PostgreSQL, as several machines have it: what one machine ends or changes,
//! the others see at once, or within the life of an entry if no invalidation reaches them.

use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use cloakroom::ErrorKind;
use cloakroom::backend::{Action, Commit, Loaded, Store};
use cloakroom::conformance::check;
use cloakroom::id::SessionIdHash;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;

use super::given::{HASTY, OpenTransaction};
use crate::common::memcached;
use crate::common::postgres::{fresh_table, shared};
use crate::common::{
    KillOnDrop, NOW, cached_store, child, create, end, hex, id_hash_of, live, live_at, merge, role,
    setting, value,
};

const LIFE: Duration = Duration::from_secs(60);

#[test]
fn postgres_behind_memcached_conforms() {
    check(|| cached_store(memcached::shared().store(), shared().store())).unwrap();
}

/// Two machines on one table, each with a cache of its own: no invalidation reaches the other.
fn without_invalidations() -> [CachedStore<MemoryCache, impl Store + Clone>; 2] {
    let table = fresh_table();
    [(); 2].map(|()| cached_store(MemoryCache::new(), shared().builder_in(&table).open().unwrap()))
}

#[test]
fn without_invalidation_an_ending_is_seen_within_a_life() {
    let [here, there] = without_invalidations();
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    assert!(live_at(&there, &id_hash, NOW).unwrap().is_some());
    end(&here, &id_hash).unwrap();
    let is_live = |store, after| live_at(store, &id_hash, NOW + after).unwrap().is_some();
    assert!(!is_live(&here, Duration::ZERO));
    assert!(is_live(&there, LIFE - Duration::from_secs(1)), "its entry has a rest of its life");
    assert!(!is_live(&there, LIFE));
}

#[test]
fn a_merge_on_an_outdated_entry_loses_no_change() {
    let [here, there] = without_invalidations();
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    let outdated = there.load(&id_hash, NOW).unwrap();
    let Loaded::Live(session) = outdated else { panic!("it is live") };
    merge(&here, &id_hash, &setting("here", 1)).unwrap();
    let mut commit = Commit::new(&id_hash, Action::Merge, setting("there", 1), NOW);
    commit.loaded = Some(session.into());
    there.commit(&commit).unwrap();
    let record = live_at(&here, &id_hash, NOW + LIFE).unwrap().unwrap();
    for name in ["n", "here", "there"] {
        assert_eq!(value(&record, name), Some(1), "{name}");
    }
}

#[test]
fn a_busy_commit_that_did_nothing_keeps_the_cache() {
    let table = fresh_table();
    let hasty = shared().builder_in(&table).statement_timeout(HASTY).open().unwrap();
    let store = cached_store(MemoryCache::new(), hasty);
    let direct = shared().builder_in(&table).open().unwrap();
    let [locked, cached] = [(); 2].map(|()| create(&store, &setting("n", 1)).unwrap());
    let cached_number = || value(&live(&store, &cached).unwrap().unwrap(), "n");
    assert_eq!(cached_number(), Some(1));
    merge(&direct, &cached, &setting("n", 2)).unwrap();
    let _lock = OpenTransaction::on(shared(), &format!("SELECT 1 FROM {table} FOR UPDATE"));
    let error = end(&store, &locked).unwrap_err();
    assert_eq!((error.kind(), error.has_unknown_outcome()), (ErrorKind::Busy, false), "{error}");
    assert_eq!(cached_number(), Some(1), "from the cache");
}

#[test]
fn a_revocation_of_everyone_is_seen_within_a_second() {
    let [here, there] = without_invalidations();
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    assert!(live_at(&there, &id_hash, NOW).unwrap().is_some());
    here.index().unwrap().revoke_everyone(None, NOW).unwrap();
    assert!(live_at(&there, &id_hash, NOW + Duration::from_secs(1)).unwrap().is_none());
}

/// Loads the sessions that its input names, each at the time beside it.
#[test]
fn child_process() {
    let Some(table) = role() else { return };
    let url = std::env::var("URL").unwrap();
    let backing = cloakroom::PostgresStore::builder(&url).table(table).open().unwrap();
    let store = cached_store(MemoryCache::new(), backing);
    for line in stdin().lines() {
        let line = line.unwrap();
        let (id_hash, seconds) = line.split_once(' ').unwrap();
        let now = NOW + Duration::from_secs(seconds.parse().unwrap());
        let found = live_at(&store, &id_hash_of(id_hash), now).unwrap();
        let number: Option<i64> = found.and_then(|record| value(&record, "n"));
        println!("\nfound {}", number.map_or("nothing".to_owned(), |n| n.to_string()));
    }
}

/// Another process on the table, with a cache of its own.
struct OtherProcess {
    _process: KillOnDrop,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl OtherProcess {
    fn start(table: &str) -> Self {
        let mut command = child(module_path!(), table);
        command.env("URL", shared().url()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = KillOnDrop(command.spawn().unwrap());
        let input = process.0.stdin.take().unwrap();
        let output = BufReader::new(process.0.stdout.take().unwrap()).lines();
        OtherProcess { _process: process, input, output }
    }

    /// The number `n` that it finds in the session so long after [`NOW`]; `None` if the session
    /// has ended.
    fn number_after(&mut self, after: Duration, id_hash: &SessionIdHash) -> Option<i64> {
        writeln!(self.input, "{} {}", hex(id_hash), after.as_secs()).unwrap();
        let mut lines = self.output.by_ref().map(Result::unwrap);
        let found = lines.find_map(|line| Some(line.strip_prefix("found ")?.to_owned()));
        found.expect("it answers").parse().ok()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn another_process_sees_a_change_and_an_ending_within_a_life() {
    let table = fresh_table();
    let here = cached_store(MemoryCache::new(), shared().builder_in(&table).open().unwrap());
    let mut there = OtherProcess::start(&table);
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    assert_eq!(there.number_after(Duration::ZERO, &id_hash), Some(1));
    merge(&here, &id_hash, &setting("n", 2)).unwrap();
    let record = live_at(&here, &id_hash, NOW).unwrap().unwrap();
    assert_eq!(value(&record, "n"), Some(2), "the process that made it sees it at once");
    assert_eq!(there.number_after(LIFE - SECOND, &id_hash), Some(1));
    assert_eq!(there.number_after(LIFE, &id_hash), Some(2));
    end(&here, &id_hash).unwrap();
    assert_eq!(there.number_after(LIFE * 2 - SECOND, &id_hash), Some(2));
    assert_eq!(there.number_after(LIFE * 2, &id_hash), None);
}

#[test]
fn another_process_sees_a_revocation_of_everyone_in_a_second() {
    let table = fresh_table();
    let here = cached_store(MemoryCache::new(), shared().builder_in(&table).open().unwrap());
    let mut there = OtherProcess::start(&table);
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    assert_eq!(there.number_after(Duration::ZERO, &id_hash), Some(1));
    here.index().unwrap().revoke_everyone(None, NOW).unwrap();
    assert_eq!(there.number_after(SECOND, &id_hash), None);
}
