//! The entries of the cache: their contents and their lifetime.

use std::ops::ControlFlow;
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, Committed, Delta, Loaded, Missing, NewSession, SessionLimit, Store, Touch,
};
use cloakroom::clock::ManualClock;
use cloakroom::id::SessionIdHash;
use cloakroom::manager::AtLimit;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::stores::sqlite::Admin;
use cloakroom::{ErrorKind, Lifetime, MemoryStore, SessionManager, SqliteStore};

use crate::cached::stage::{LIFE, SECOND, Stage, backing, key, n, renew, sign_in};
use crate::common::app::{Browser, get};
use crate::common::faulty::{Call, FaultyCache};
use crate::common::memcached::{Memcached, shared};
use crate::common::{
    Folder, HOUR, NOW, cached_store, create, end, live, live_at, merge, new_id_hash, setting,
    settled, value,
};

#[test]
fn a_cached_session_costs_the_store_nothing_until_it_changes() {
    Stage::on_each_cache(|stage| {
        let id_hash = stage.cached();
        merge(&stage.store, &id_hash, &setting("n", 2)).unwrap();
        assert_eq!(n(&stage.store, &id_hash), Some(2));
        let (other, loads) = (stage.another(), stage.loads());
        assert_eq!(n(&stage.store, &id_hash), Some(2));
        assert_eq!(n(&other.store, &id_hash), Some(2), "another process has it too");
        assert_eq!(stage.loads(), loads);
    });
}

#[test]
fn the_sessions_that_a_limit_ends_leave_the_cache() {
    Stage::on_each_cache(|stage| {
        let first = sign_in(&stage.store, &new_id_hash(), None);
        assert!(live(&stage.store, &first).unwrap().is_some());
        assert!(live(&stage.store, &first).unwrap().is_some());
        let session_limit = SessionLimit::new(1.try_into().unwrap(), AtLimit::EndOldest);
        let second = sign_in(&stage.store, &new_id_hash(), Some(session_limit));
        assert!(live(&stage.store, &first).unwrap().is_none());
        assert!(live(&stage.store, &second).unwrap().is_some());
    });
}

#[test]
fn a_session_is_not_cached_under_an_id_in_its_grace() {
    Stage::on_each_cache(|stage| {
        let old = stage.cached();
        let new = renew(&stage.store, &old, Some(NOW + HOUR));
        for _ in 0..3 {
            assert_eq!(n(&stage.store, &old), Some(1));
        }
        // Through the grace the session itself is changed, and so is what is cached of it.
        assert_eq!(n(&stage.store, &new), Some(1));
        merge(&stage.store, &old, &setting("n", 2)).unwrap();
        assert_eq!(n(&stage.store, &new), Some(2));
        assert_eq!(n(&stage.store, &old), Some(2));
        sign_in(&stage.store, &new, None);
        assert_eq!(n(&stage.store, &old), None);
        assert_eq!(n(&stage.store, &new), None);
    });
}

#[test]
fn an_entry_that_the_cache_has_lost_is_read_from_the_store() {
    let server = Memcached::start();
    let stage = Stage::over(FaultyCache::cache(server.store()), backing());
    let id_hash = stage.cached();
    assert_eq!(server.raw().ask("flush_all"), "OK");
    assert_eq!(n(&stage.store, &id_hash), Some(1));
    let loads = stage.loads();
    assert_eq!(n(&stage.store, &id_hash), Some(1));
    assert_eq!(stage.loads(), loads, "and is in the cache again");
}

#[test]
fn an_entry_is_kept_no_longer_than_it_lives_or_its_session() {
    let store = |lifetime: Lifetime| {
        let cache = shared().builder_in("lives").open().unwrap();
        let store = cached_store(cache, MemoryStore::new());
        let (id_hash, delta) = (new_id_hash(), Delta::new());
        let new_session = cloakroom::backend::NewSession::new(lifetime.starting(NOW)).unwrap();
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
    Stage::on_each_cache(|stage| {
        let id_hash = stage.cached();
        // Past the cached store, so that nothing is invalidated.
        merge(&stage.backing, &id_hash, &setting("n", 2)).unwrap();
        assert_eq!(n(&stage.store, &id_hash), Some(1), "the one bound");
        let half = NOW + LIFE / 2;
        assert!(matches!(stage.store.load(&id_hash, half).unwrap(), Loaded::Live(_)));
        stage.backing.touch(&[(id_hash, Touch::at(half))], half).unwrap();
        let record = live_at(&stage.store, &id_hash, NOW + LIFE).unwrap().expect("it lives");
        assert_eq!(value(&record, "n"), Some(2));
    });
}

#[test]
fn a_session_that_looks_ended_in_the_cache_is_looked_up() {
    Stage::on_each_cache(|stage| {
        let (id_hash, delta) = (new_id_hash(), setting("n", 1));
        let new_session = Lifetime::idle(SECOND * 40).starting(NOW);
        let new_session = cloakroom::backend::NewSession::new(new_session).unwrap();
        stage
            .store
            .commit(&Commit::new(&id_hash, Action::Create(new_session), delta, NOW))
            .unwrap();
        assert_eq!(n(&stage.store, &id_hash), Some(1));
        let later = NOW + SECOND * 30;
        stage.backing.touch(&[(id_hash, Touch::at(later))], later).unwrap();
        let then = NOW + SECOND * 50;
        let record = live_at(&stage.store, &id_hash, then).unwrap().expect("it ended early");
        assert_eq!(record.seen, later);
    });
}

#[test]
fn a_touch_that_is_due_is_written_once_and_not_by_every_hit() {
    Stage::on_each_cache(|stage| {
        let clock = ManualClock::new(NOW);
        let sessions = SessionManager::builder(stage.store.clone()).clock(clock.clone());
        let sessions = sessions.lifetime(Lifetime::idle(HOUR)).build().unwrap();
        let browser = Browser::default().after(&sessions, |session| session.set("n", 1).unwrap());
        assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
        clock.advance(HOUR / 40);
        for _ in 0..20 {
            assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
            sessions.flush().unwrap();
        }
        assert_eq!(stage.backing.touched(), 1);
        // With it came one read, and no more than that.
        let loads = stage.loads();
        assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
        assert_eq!(stage.loads(), loads);
    });
}

#[test]
fn a_touch_that_comes_with_a_commit_of_nothing_is_seen_at_once() {
    Stage::on_each_cache(|stage| {
        // Activity is due while the entry is still fresh.
        let (id_hash, nothing, later) = (new_id_hash(), Delta::new(), NOW + LIFE / 2);
        let new_session = NewSession::new(Lifetime::idle(LIFE * 10).starting(NOW)).unwrap();
        let begin = Commit::new(&id_hash, Action::Create(new_session), nothing.clone(), NOW);
        stage.store.commit(&begin).unwrap();
        assert!(live(&stage.store, &id_hash).unwrap().is_some(), "it is in the cache from now on");
        let mut commit = Commit::new(&id_hash, Action::Merge, nothing, later);
        commit.touch = Some(Touch::at(later));
        assert!(matches!(stage.store.commit(&commit).unwrap(), Committed::Unchanged(_)));
        let record = live_at(&stage.store, &id_hash, later).unwrap().expect("it lives");
        assert_eq!(record.seen, later);
    });
}

#[test]
fn a_process_believes_nothing_that_was_read_before_it_began() {
    Stage::on_each_cache(|stage| {
        let id_hash = stage.cached();
        // It signs a user out, and dies before it can invalidate the cache.
        end(&stage.backing, &id_hash).unwrap();
        let restarted = CachedStore::new(stage.cache.clone(), stage.backing.clone());
        let begun = NOW + Duration::from_millis(1);
        for now in [begun, begun + SECOND * 2] {
            let loaded = restarted.load(&id_hash, now).unwrap();
            assert!(matches!(loaded, Loaded::Missing(Missing::NotFound { .. })), "{loaded:?}");
        }
    });
}

#[test]
fn an_entry_older_than_the_store_is_invalidated() {
    Stage::on_each_cache(|stage| {
        let stale = |id_hash: &SessionIdHash| {
            let delta = setting("m", 1);
            let mut merge = Commit::new(id_hash, Action::Merge, delta, NOW);
            merge.if_revision = Some(1);
            stage.store.commit(&merge).unwrap()
        };
        let id_hash = stage.cached();
        merge(&stage.backing, &id_hash, &setting("n", 2)).unwrap();
        assert!(matches!(stale(&id_hash), Committed::RevisionMismatch(_)));
        assert_eq!(n(&stage.store, &id_hash), Some(2));
        end(&stage.backing, &id_hash).unwrap();
        assert!(matches!(stale(&id_hash), Committed::Missing(Missing::NotFound { .. })));
        assert_eq!(n(&stage.store, &id_hash), None);
        let id_hash = stage.cached();
        renew(&stage.backing, &id_hash, None);
        assert!(matches!(stale(&id_hash), Committed::Missing(Missing::Replaced { .. })));
        assert_eq!(n(&stage.store, &id_hash), None);
    });
}

#[test]
fn garbage_and_newer_versions_in_the_cache_are_a_miss() {
    let cache = shared().builder_in("odd").open().unwrap();
    let store = cached_store(cache, MemoryStore::new());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert_eq!(n(&store, &id_hash), Some(1));
    let mut raw = shared().raw();
    let name = raw.name("odd", 'c', key(&store, &id_hash).as_bytes());
    let newer = [b"\x01E", &key(&store, &id_hash).as_bytes()[..], b"12345678{}"].concat();
    for odd in
        [&b""[..], &newer, b"hello", b"\x01", b"\x01E123", b"\x01L{}", b"\x02E", b"\x01E12345678{}"]
    {
        raw.set(&name, odd);
        for _ in 0..3 {
            assert_eq!(n(&store, &id_hash), Some(1), "{odd:?}");
        }
    }
    raw.set(&name, b"garbage");
    for _ in 0..3 {
        assert_eq!(n(&store, &id_hash), Some(1));
    }
    assert_eq!(raw.get(&name).unwrap()[..2], *b"\x01E", "garbage gives way to an entry");
}

#[test]
fn a_process_that_starts_after_a_restore_waits_for_the_others() {
    let (cache, folder) = (FaultyCache::cache(MemoryCache::new()), Folder::new());
    let builder = SqliteStore::builder(folder.database());
    let open = || CachedStore::new(cache.clone(), builder.clone().open().unwrap());
    let old = settled(open());
    let id_hash = create(&old, &setting("n", 1)).unwrap();
    assert_eq!(n(&old, &id_hash), Some(1));
    let copy = folder.path("copy.db");
    old.backing().admin().backup(&copy).unwrap();
    let watch = Box::new(|_| ControlFlow::Continue(()));
    assert!(Admin::new(builder.clone()).restore(&copy, true, NOW, watch).unwrap().is_continue());

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
    Stage::on_each_cache(|stage| {
        let id_hash = stage.cached();
        stage.backing.set_failing(Call::Epoch, ErrorKind::Unavailable);
        let is_hit = |now| {
            let loads = stage.loads();
            assert!(live_at(&stage.store, &id_hash, now).unwrap().is_some());
            stage.loads() == loads
        };
        assert!(is_hit(NOW + SECOND * 59));
        // Another process fills in a newer entry.
        stage.backing.set_failing(Call::Epoch, None);
        let other = stage.another();
        merge(&other.store, &id_hash, &setting("n", 2)).unwrap();
        assert!(live_at(&other.store, &id_hash, NOW + SECOND * 59).unwrap().is_some());
        stage.backing.set_failing(Call::Epoch, ErrorKind::Unavailable);
        for seconds in [60, 61, 90] {
            assert!(!is_hit(NOW + SECOND * seconds), "after {seconds} seconds");
        }
        stage.backing.set_failing(Call::Epoch, None);
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
    let (staging, production) = (behind(staging), behind(SqliteStore::in_memory().unwrap()));
    let id_hash = create(&staging, &setting("n", 1)).unwrap();
    assert_eq!([n(&staging, &id_hash), n(&staging, &id_hash)], [Some(1), Some(1)]);
    assert_eq!(n(&production, &id_hash), None, "a user of one is unknown to the other");

    // A restored copy has the same sessions, which go their own ways.
    staging.backing().admin().backup(&copy).unwrap();
    let target = SqliteStore::builder(folder.path("restored.db"));
    let admin = Admin::new(target.clone());
    let watch = Box::new(|_| ControlFlow::Continue(()));
    assert!(admin.restore(&copy, true, NOW, watch).unwrap().is_continue());
    let restored = behind(target.open().unwrap());
    assert_eq!(n(&restored, &id_hash), Some(1));
    end(&restored, &id_hash).unwrap();
    assert_eq!(n(&staging, &id_hash), Some(1));
    assert_eq!(n(&restored, &id_hash), None, "it stays ended");
}
