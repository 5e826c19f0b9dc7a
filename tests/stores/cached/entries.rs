//! The entries of the cache: their contents and their lifetime.

use std::ops::ControlFlow;
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, Expected, Loaded, MaxSessions, NewSession, Store, Touch,
    Unreadable,
};
use cloakroom::clock::ManualClock;
use cloakroom::id::SessionIdHash;
use cloakroom::lifetime::AtMaximum;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::stores::sqlite::SqliteFile;
use cloakroom::{ErrorKind, Lifetime, MemoryStore, SessionManager, SqliteStore};

use crate::cached::fixture::{
    CachedFixture, ENTRY_LIFE, SECOND, backing, key, renew, sign_in, stored_n,
};
use crate::common::app::{Browser, get};
use crate::common::faulty::{Call, FaultyCache};
use crate::common::memcached::{Memcached, shared};
use crate::common::{
    Folder, HOUR, NOW, cached_store, create, end, live, live_at, merge, new_id_hash, setting,
    settled, value,
};

#[test]
fn a_cached_session_costs_the_store_nothing_until_it_changes() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        merge(&fixture.store, &id_hash, &setting("n", 2)).unwrap();
        assert_eq!(stored_n(&fixture.store, &id_hash), Some(2));
        let other = fixture.another();
        let loads = fixture.loads();
        assert_eq!(stored_n(&fixture.store, &id_hash), Some(2));
        assert_eq!(stored_n(&other.store, &id_hash), Some(2), "another process has it too");
        assert_eq!(fixture.loads(), loads);
    });
}

#[test]
fn the_sessions_that_a_limit_ends_leave_the_cache() {
    CachedFixture::on_each_cache(|fixture| {
        let first = sign_in(&fixture.store, &new_id_hash(), None);
        assert!(live(&fixture.store, &first).unwrap().is_some());
        assert!(live(&fixture.store, &first).unwrap().is_some());
        let max_sessions = MaxSessions::new(1.try_into().unwrap(), AtMaximum::EndOldest);
        let second = sign_in(&fixture.store, &new_id_hash(), Some(max_sessions));
        assert!(live(&fixture.store, &first).unwrap().is_none());
        assert!(live(&fixture.store, &second).unwrap().is_some());
    });
}

#[test]
fn a_session_is_not_cached_under_an_id_in_its_grace() {
    CachedFixture::on_each_cache(|fixture| {
        let old = fixture.cached_session();
        let new = renew(&fixture.store, &old, Some(NOW + HOUR));
        for _ in 0..3 {
            assert_eq!(stored_n(&fixture.store, &old), Some(1));
        }
        // Through the grace the session itself is changed, and so is what is cached of it.
        assert_eq!(stored_n(&fixture.store, &new), Some(1));
        merge(&fixture.store, &old, &setting("n", 2)).unwrap();
        assert_eq!(stored_n(&fixture.store, &new), Some(2));
        assert_eq!(stored_n(&fixture.store, &old), Some(2));
        sign_in(&fixture.store, &new, None);
        assert_eq!(stored_n(&fixture.store, &old), None);
        assert_eq!(stored_n(&fixture.store, &new), None);
    });
}

#[test]
fn an_entry_that_the_cache_has_lost_is_read_from_the_store() {
    let server = Memcached::start();
    let fixture = CachedFixture::new(FaultyCache::cache(server.store()), backing());
    let id_hash = fixture.cached_session();
    assert_eq!(server.raw().ask("flush_all"), "OK");
    assert_eq!(stored_n(&fixture.store, &id_hash), Some(1));
    let loads = fixture.loads();
    assert_eq!(stored_n(&fixture.store, &id_hash), Some(1));
    assert_eq!(fixture.loads(), loads, "and is in the cache again");
}

#[test]
fn an_entry_expires_with_its_life_or_its_session() {
    let store = |lifetime: Lifetime| {
        let cache = shared().builder_in("lives").open().unwrap();
        let store = cached_store(cache, MemoryStore::new());
        let id_hash = new_id_hash();
        let delta = Delta::new();
        let new_session = cloakroom::backend::NewSession::new(lifetime.limits_from(NOW)).unwrap();
        store.commit(&Commit::new(&id_hash, Action::Create(new_session), delta, NOW)).unwrap();
        assert!(live(&store, &id_hash).unwrap().is_some());
        let mut raw = shared().raw();
        let name = raw.name("lives", 'c', key(&store, &id_hash).as_bytes());
        raw.seconds_left(&name)
    };
    let most = |lifetime, most| {
        let seconds = store(lifetime).unwrap();
        assert!((most - 5..=most).contains(&seconds), "{seconds} s of at most {most}");
    };
    most(Lifetime::default(), 60);
    most(Lifetime::idle(HOUR * 24 * 40), 60);
    most(Lifetime::idle(SECOND * 20), 20);
}

#[test]
fn an_entry_expires_after_its_life_despite_touches() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        // Directly in the backing store, so that nothing is invalidated.
        merge(&fixture.backing, &id_hash, &setting("n", 2)).unwrap();
        assert_eq!(
            stored_n(&fixture.store, &id_hash),
            Some(1),
            "stale, within the life of an entry"
        );
        let half = NOW + ENTRY_LIFE / 2;
        assert!(matches!(fixture.store.load(&id_hash, half).unwrap(), Loaded::Live(_)));
        fixture.backing.touch(&[(id_hash, Touch::at(half))], half).unwrap();
        let record =
            live_at(&fixture.store, &id_hash, NOW + ENTRY_LIFE).unwrap().expect("it lives");
        assert_eq!(value(&record, "n"), Some(2));
    });
}

#[test]
fn an_entry_that_appears_expired_is_read_from_the_store() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = new_id_hash();
        let delta = setting("n", 1);
        let new_session = Lifetime::idle(SECOND * 40).limits_from(NOW);
        let new_session = cloakroom::backend::NewSession::new(new_session).unwrap();
        fixture
            .store
            .commit(&Commit::new(&id_hash, Action::Create(new_session), delta, NOW))
            .unwrap();
        assert_eq!(stored_n(&fixture.store, &id_hash), Some(1));
        let later = NOW + SECOND * 30;
        fixture.backing.touch(&[(id_hash, Touch::at(later))], later).unwrap();
        let then = NOW + SECOND * 50;
        let record = live_at(&fixture.store, &id_hash, then).unwrap().expect("it ended early");
        assert_eq!(record.seen, later);
    });
}

#[test]
fn a_touch_that_is_due_is_written_once_and_not_by_every_hit() {
    CachedFixture::on_each_cache(|fixture| {
        let clock = ManualClock::new(NOW);
        let sessions = SessionManager::builder(fixture.store.clone()).clock(clock.clone());
        let sessions = sessions.lifetime(Lifetime::idle(HOUR)).build().unwrap();
        let browser =
            Browser::default().after_request(&sessions, |session| session.set("n", 1).unwrap());
        assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
        clock.advance(HOUR / 40);
        for _ in 0..20 {
            assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
            sessions.flush().unwrap();
        }
        assert_eq!(fixture.backing.touched(), 1);
        // The touch has caused one read of the store, and no more.
        let loads = fixture.loads();
        assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
        assert_eq!(fixture.loads(), loads);
    });
}

#[test]
fn a_touch_in_a_commit_without_changes_is_seen_at_once() {
    CachedFixture::on_each_cache(|fixture| {
        // Activity is due while the entry is still fresh.
        let id_hash = new_id_hash();
        let nothing = Delta::new();
        let later = NOW + ENTRY_LIFE / 2;
        let new_session =
            NewSession::new(Lifetime::idle(ENTRY_LIFE * 10).limits_from(NOW)).unwrap();
        let begin = Commit::new(&id_hash, Action::Create(new_session), nothing.clone(), NOW);
        fixture.store.commit(&begin).unwrap();
        assert!(live(&fixture.store, &id_hash).unwrap().is_some(), "this read fills the cache");
        let mut commit = Commit::new(&id_hash, Action::Merge, nothing, later);
        commit.touch = Some(Touch::at(later));
        assert!(matches!(fixture.store.commit(&commit).unwrap(), CommitAnswer::Unchanged(_)));
        let record = live_at(&fixture.store, &id_hash, later).unwrap().expect("it lives");
        assert_eq!(record.seen, later);
    });
}

#[test]
fn a_process_ignores_entries_from_before_its_start() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        // A process signs a user out and is killed before it invalidates the cache.
        end(&fixture.backing, &id_hash).unwrap();
        let restarted = CachedStore::new(fixture.cache.clone(), fixture.backing.clone());
        let begun = NOW + Duration::from_millis(1);
        for now in [begun, begun + SECOND * 2] {
            let loaded = restarted.load(&id_hash, now).unwrap();
            assert!(
                matches!(loaded, Loaded::Unreadable(Unreadable::NotFound { .. })),
                "{loaded:?}"
            );
        }
    });
}

#[test]
fn an_entry_older_than_the_store_is_invalidated() {
    CachedFixture::on_each_cache(|fixture| {
        let stale = |id_hash: &SessionIdHash| {
            let delta = setting("m", 1);
            let mut merge = Commit::new(id_hash, Action::Merge, delta, NOW);
            merge.expected = Expected::Revision(1);
            fixture.store.commit(&merge).unwrap()
        };
        let id_hash = fixture.cached_session();
        merge(&fixture.backing, &id_hash, &setting("n", 2)).unwrap();
        assert!(matches!(stale(&id_hash), CommitAnswer::RevisionMismatch(_)));
        assert_eq!(stored_n(&fixture.store, &id_hash), Some(2));
        end(&fixture.backing, &id_hash).unwrap();
        assert!(matches!(stale(&id_hash), CommitAnswer::Unreadable(Unreadable::NotFound { .. })));
        assert_eq!(stored_n(&fixture.store, &id_hash), None);
        let id_hash = fixture.cached_session();
        renew(&fixture.backing, &id_hash, None);
        assert!(matches!(stale(&id_hash), CommitAnswer::Unreadable(Unreadable::Replaced { .. })));
        assert_eq!(stored_n(&fixture.store, &id_hash), None);
    });
}

#[test]
fn garbage_and_newer_versions_in_the_cache_are_a_miss() {
    let cache = shared().builder_in("odd").open().unwrap();
    let store = cached_store(cache, MemoryStore::new());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert_eq!(stored_n(&store, &id_hash), Some(1));
    let mut raw = shared().raw();
    let name = raw.name("odd", 'c', key(&store, &id_hash).as_bytes());
    let newer = [b"\x01E", &key(&store, &id_hash).as_bytes()[..], b"12345678{}"].concat();
    for odd in
        [&b""[..], &newer, b"hello", b"\x01", b"\x01E123", b"\x01L{}", b"\x02E", b"\x01E12345678{}"]
    {
        raw.set(&name, odd);
        for _ in 0..3 {
            assert_eq!(stored_n(&store, &id_hash), Some(1), "{odd:?}");
        }
    }
    raw.set(&name, b"garbage");
    for _ in 0..3 {
        assert_eq!(stored_n(&store, &id_hash), Some(1));
    }
    assert_eq!(raw.get(&name).unwrap()[..2], *b"\x01E", "garbage gives way to an entry");
}

#[test]
fn a_process_that_starts_after_a_restore_waits_for_the_others() {
    let cache = FaultyCache::cache(MemoryCache::new());
    let folder = Folder::new();
    let builder = SqliteStore::builder(folder.database());
    let open = || CachedStore::new(cache.clone(), builder.clone().open().unwrap());
    let old = settled(open());
    let id_hash = create(&old, &setting("n", 1)).unwrap();
    assert_eq!(stored_n(&old, &id_hash), Some(1));
    let copy = folder.path("copy.db");
    old.backing().file().backup(&copy).unwrap();
    let watch = Box::new(|_| ControlFlow::Continue(()));
    assert!(
        SqliteFile::new(builder.clone()).restore(&copy, true, NOW, watch).unwrap().is_continue()
    );

    // The old process has not noticed it: what it invalidates is the entry from before.
    let later = |milliseconds| NOW + Duration::from_millis(milliseconds);
    let new = open();
    let is_live = |now| matches!(new.load(&id_hash, now).unwrap(), Loaded::Live(_));
    assert!(is_live(later(100)) && is_live(later(200)));
    end(&old, &id_hash).unwrap();
    for milliseconds in [300, 2100, 2200] {
        assert!(!is_live(later(milliseconds)), "after {milliseconds} ms");
    }
}

#[test]
fn a_version_that_cannot_be_read_ends_the_use_of_the_cache() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        fixture.backing.set_failing(Call::Epoch, ErrorKind::Unavailable);
        let is_hit = |now| {
            let loads = fixture.loads();
            assert!(live_at(&fixture.store, &id_hash, now).unwrap().is_some());
            fixture.loads() == loads
        };
        assert!(is_hit(NOW + SECOND * 59));
        // Another process fills in a newer entry.
        fixture.backing.set_failing(Call::Epoch, None);
        let other = fixture.another();
        merge(&other.store, &id_hash, &setting("n", 2)).unwrap();
        assert!(live_at(&other.store, &id_hash, NOW + SECOND * 59).unwrap().is_some());
        fixture.backing.set_failing(Call::Epoch, ErrorKind::Unavailable);
        for seconds in [60, 61, 90] {
            assert!(!is_hit(NOW + SECOND * seconds), "after {seconds} seconds");
        }
        fixture.backing.set_failing(Call::Epoch, None);
        assert!(is_hit(NOW + SECOND * 91));
    });
}

#[test]
fn two_databases_behind_one_cache_share_no_session() {
    let server = Memcached::start();
    let folder = Folder::new();
    let staging = SqliteStore::open(folder.path("staging.db")).unwrap();
    let copy = folder.path("copy.db");
    let behind = |database| cached_store(server.builder_in("same").open().unwrap(), database);
    let staging = behind(staging);
    let production = behind(SqliteStore::in_memory().unwrap());
    let id_hash = create(&staging, &setting("n", 1)).unwrap();
    assert_eq!([stored_n(&staging, &id_hash), stored_n(&staging, &id_hash)], [Some(1), Some(1)]);
    assert_eq!(stored_n(&production, &id_hash), None, "a user of one is unknown to the other");

    // A restored copy has the same sessions, which go their own ways.
    staging.backing().file().backup(&copy).unwrap();
    let target = SqliteStore::builder(folder.path("restored.db"));
    let file = SqliteFile::new(target.clone());
    let watch = Box::new(|_| ControlFlow::Continue(()));
    assert!(file.restore(&copy, true, NOW, watch).unwrap().is_continue());
    let restored = behind(target.open().unwrap());
    assert_eq!(stored_n(&restored, &id_hash), Some(1));
    end(&restored, &id_hash).unwrap();
    assert_eq!(stored_n(&staging, &id_hash), Some(1));
    assert_eq!(stored_n(&restored, &id_hash), None, "it stays ended");
}
