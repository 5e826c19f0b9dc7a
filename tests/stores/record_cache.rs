//! Hot sessions: what is kept in memory is what the database has, after any write.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use crate::common::dice::Dice;
use crate::common::{Folder, NOW, create, live, merge, new_id_hash, new_session, setting, value};
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, LiveSession, Loaded, MaxSessions, NewSession, Store,
    Touch, Unreadable,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{IdpSessionId, PublicId, Realm, SessionIdHash};
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::SessionFilter;
use cloakroom::stores::admin::{Admin, ProgressFn};
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::stores::sqlite::{CompactMode, SqliteFile};
use cloakroom::{Error, Lifetime, SqliteStore, UserKey};

fn watch() -> ProgressFn {
    Box::new(|_| ControlFlow::Continue(()))
}

/// The result of a load as text, for comparisons.
fn said(store: &SqliteStore, id_hash: &SessionIdHash, now: Timestamp) -> String {
    match store.load(id_hash, now).unwrap() {
        Loaded::Live(LiveSession { record, id_hash }) => {
            format!("{record:?} {} {:?}", record.data.as_json(), id_hash.as_bytes())
        }
        Loaded::Unreadable(Unreadable::Undecodable { public_id, .. }) => {
            format!("undecodable {public_id:?}")
        }
        other => format!("{other:?}"),
    }
}

/// Stores on one file, as several processes would have them, and what was ever in it.
struct Several {
    folder: Folder,
    stores: Vec<SqliteStore>,
    /// Keeps nothing.
    plain: SqliteStore,
    id_hashes: Vec<SessionIdHash>,
    public_ids: Vec<PublicId>,
    dice: Dice,
    now: Timestamp,
}

impl Several {
    fn new(dice: Dice) -> Self {
        let folder = Folder::in_memory();
        let open =
            |bytes| SqliteStore::builder(folder.database()).cache_bytes(bytes).open().unwrap();
        // One has room for a few sessions only.
        let stores = vec![open(64 << 20), open(64 << 20), open(10_000)];
        let plain = open(0);
        Several { folder, stores, plain, id_hashes: vec![], public_ids: vec![], dice, now: NOW }
    }

    fn any_id_hash(&mut self) -> SessionIdHash {
        match self.id_hashes.len() {
            0 => new_id_hash(),
            many => self.id_hashes[self.dice.roll(many)],
        }
    }

    fn fresh_id_hash(&mut self) -> SessionIdHash {
        self.id_hashes.push(new_id_hash());
        self.id_hashes[self.id_hashes.len() - 1]
    }

    fn user(&mut self) -> UserKey {
        UserKey::new(format!("user {}", self.dice.roll(3))).unwrap()
    }

    fn new_session(&mut self) -> NewSession {
        let minutes = Duration::from_secs(60 * (1 + self.dice.roll(60) as u64));
        let mut new_session =
            NewSession::new(Lifetime::idle(minutes).limits_from(self.now)).unwrap();
        if self.dice.chance(30) {
            new_session.idp_session_id =
                Some(IdpSessionId::new(format!("{}", self.dice.roll(3))).unwrap());
        }
        self.public_ids.push(new_session.public_id);
        new_session
    }

    fn delta(&mut self) -> Delta {
        let mut delta = setting(["a", "b", "\"c\"\n"][self.dice.roll(3)], self.dice.roll(5));
        if self.dice.chance(5) {
            delta.clear();
        }
        if self.dice.chance(5) {
            delta.confirm_authentication(self.now, 2);
        }
        delta
    }

    /// Any operation on the file.
    fn step(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        let store = self.stores[self.dice.roll(self.stores.len())].clone();
        let store = if self.dice.chance(20) { self.plain.clone() } else { store };
        // Some requests carry an earlier time.
        let late = Duration::from_secs(if self.dice.chance(10) { 600 } else { 0 });
        let now = self.now - late;
        let id_hash = self.any_id_hash();
        let delta = self.delta();
        let new_session = self.new_session();
        let touch = self.dice.chance(30).then(|| Touch::at(now));
        let commit = |action| {
            let mut commit = Commit::new(&id_hash, action, delta.clone(), now);
            commit.touch = touch;
            commit
        };
        match self.dice.roll(40) {
            0..8 => {
                let id_hash = self.fresh_id_hash();
                store
                    .commit(&Commit::new(&id_hash, Action::Create(new_session), delta.clone(), now))
                    .map(drop)
            }
            8..18 => store.commit(&commit(Action::Merge)).map(drop),
            18..22 => {
                let to = self.fresh_id_hash();
                let grace_until = self.dice.chance(50).then(|| now + Duration::from_secs(600));
                store.commit(&commit(Action::Renew { to, grace_until })).map(drop)
            }
            22..26 => {
                let to = self.fresh_id_hash();
                let user = self.user();
                let limit = NonZeroU32::new(2).unwrap();
                let mut commit = commit(Action::SignIn { to, user, new_session, join_salt: None });
                commit.max_sessions =
                    self.dice.chance(50).then(|| MaxSessions::new(limit, AtMaximum::EndOldest));
                store.commit(&commit).map(drop)
            }
            26..28 => store.commit(&commit(Action::End)).map(drop),
            28..32 => {
                let batch: Vec<_> = (0..3).map(|_| (self.any_id_hash(), Touch::at(now))).collect();
                store.touch(&batch, now).map_err(Error::from)
            }
            32 => store.sweep(now, 3.try_into().unwrap()).map(drop),
            33 => {
                let public_id = self.public_ids[self.dice.roll(self.public_ids.len())];
                store
                    .index()
                    .unwrap()
                    .revoke(&SessionFilter::PublicId(&public_id), None, now)
                    .map(drop)
            }
            34 => {
                let user = self.user();
                store.index().unwrap().revoke(&SessionFilter::User(&user), None, now).map(drop)
            }
            35 => {
                let idp_session_id = IdpSessionId::new("1").unwrap();
                let which = SessionFilter::IdpSession(&idp_session_id);
                store.index().unwrap().revoke(&which, None, now).map(drop)
            }
            36 => match self.dice.roll(20) {
                0 => store.index().unwrap().revoke_everyone(None, now).map(drop),
                1 => store.clear().map(drop),
                2 => store.drop_tables().and_then(|()| store.file().setup().map(drop)),
                _ => Ok(()),
            },
            37 => {
                self.by_others();
                Ok(())
            }
            38 => store.maintenance().unwrap().run(),
            _ => {
                self.now = self.now + Duration::from_secs(60 * self.dice.roll(20) as u64);
                Ok(())
            }
        }
        .unwrap();
    }

    /// Changes the file as no store of ours does.
    fn by_others(&mut self) {
        let path = self.folder.database();
        let connection = Connection::open(&path).unwrap();
        let sql = match self.dice.roll(10) {
            0 => "UPDATE cloakroom_sessions SET data = '{\"by\":\"hand\"}' WHERE id % 2 = 0",
            1 => "DELETE FROM cloakroom_sessions WHERE id % 3 = 0",
            2 => "BEGIN; DELETE FROM cloakroom_sessions; ROLLBACK",
            3 => "UPDATE cloakroom_sessions SET format = 9 WHERE id % 5 = 0",
            4 => "VACUUM",
            5 => "UPDATE cloakroom_sessions SET deadline = deadline - 600000 WHERE id % 2 = 0",
            6 => {
                "CREATE TRIGGER IF NOT EXISTS one AFTER INSERT ON cloakroom_sessions BEGIN
                 DELETE FROM cloakroom_sessions WHERE id = NEW.id - 2; END"
            }
            7 => {
                "CREATE TRIGGER IF NOT EXISTS two AFTER DELETE ON cloakroom_sessions BEGIN
                 UPDATE cloakroom_sessions SET data = '{\"by\":\"two\"}' WHERE id = OLD.id + 1; END"
            }
            8 => "DROP TRIGGER IF EXISTS one; DROP TRIGGER IF EXISTS two",
            _ => {
                let copy = self.folder.fresh();
                self.plain.file().backup(&copy).unwrap();
                self.plain.clear().unwrap();
                // A copy with triggers is refused.
                let drop = "DROP TRIGGER IF EXISTS one; DROP TRIGGER IF EXISTS two";
                Connection::open(&copy).unwrap().execute_batch(drop).unwrap();
                let builder = SqliteStore::builder(&path);
                let _ = SqliteFile::new(builder.clone())
                    .restore(&copy, true, self.now, watch())
                    .unwrap();
                let _ = SqliteFile::new(builder).compact(CompactMode::Full, watch()).unwrap();
                return;
            }
        };
        connection.execute_batch(sql).unwrap();
    }

    fn check(&mut self, step: usize) {
        for _ in 0..self.id_hashes.len().min(20) {
            let id_hash = self.any_id_hash();
            let store = self.dice.roll(self.stores.len());
            let late = Duration::from_secs(60 * self.dice.roll(15) as u64);
            let now = self.now - late;
            let actual = said(&self.stores[store], &id_hash, now);
            assert_eq!(actual, said(&self.plain, &id_hash, now), "store {store} after step {step}");
        }
    }
}

#[test]
fn the_record_cache_equals_the_database_after_any_write() {
    let mut dice = Dice::new(crate::common::dice::seed());
    for _ in 0..crate::common::dice::number("CLOAKROOM_FUZZ").unwrap_or(12) {
        let mut several = Several::new(dice.fork());
        for step in 0..150 {
            several.step();
            several.check(step);
        }
    }
}

#[test]
fn readers_see_at_once_what_another_process_has_written() {
    let folder = Folder::in_memory();
    let open = || SqliteStore::open(folder.database()).unwrap();
    let here = open();
    let there = open();
    let id_hash = create(&here, &setting("n", 0)).unwrap();
    let before = Barrier::new(3);
    let after = Barrier::new(3);
    // Reported at the end: a panic here would keep the others waiting.
    let wrong = Mutex::new(Vec::new());
    let see = |turn: u64, expected: &[u64]| {
        let n = value::<u64>(&live(&here, &id_hash).unwrap().unwrap(), "n").unwrap();
        if !expected.contains(&n) {
            wrong.lock().unwrap().push((turn, n));
        }
    };
    let reader = || {
        for turn in 0..2000 {
            before.wait();
            see(turn, &[turn, turn + 1]);
            after.wait();
            see(turn, &[turn + 1]);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(reader);
        scope.spawn(reader);
        for turn in 0..2000 {
            before.wait();
            // By turns, so that the one commits after the other.
            let store = if turn % 3 == 0 { &here } else { &there };
            merge(store, &id_hash, &setting("n", turn + 1)).unwrap();
            after.wait();
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), [], "the turn, and what was seen in it");
}

#[test]
fn a_late_request_does_not_find_a_removed_expired_session() {
    let folder = Folder::in_memory();
    let store = SqliteStore::open(folder.database()).unwrap();
    let user = UserKey::new("user").unwrap();
    let sign_in = |now| {
        let none = new_id_hash();
        let to = new_id_hash();
        let new_session =
            NewSession::new(Lifetime::idle(Duration::from_secs(60)).limits_from(now)).unwrap();
        let delta = Delta::new();
        let limit = NonZeroU32::MIN;
        let action = Action::SignIn { to, user: user.clone(), new_session, join_salt: None };
        let mut commit = Commit::new(&none, action, delta, now);
        commit.max_sessions = Some(MaxSessions::new(limit, AtMaximum::Refuse));
        assert!(matches!(store.commit(&commit), Ok(CommitAnswer::Done { .. })));
        to
    };
    let first = sign_in(NOW);
    assert!(live(&store, &first).unwrap().is_some());
    sign_in(NOW + Duration::from_secs(61));
    assert!(matches!(store.load(&first, NOW), Ok(Loaded::Unreadable(Unreadable::NotFound { .. }))));
}

#[test]
fn sessions_that_all_end_at_once_are_not_found_any_more() {
    for way in 0..4 {
        let folder = Folder::in_memory();
        let store = SqliteStore::open(folder.database()).unwrap();
        let mut in_realm = new_session();
        in_realm.realm = Realm::new("other").unwrap();
        let commit = Commit::new(&new_id_hash(), Action::Create(in_realm), Delta::new(), NOW);
        store.commit(&commit).unwrap();
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        assert!(live(&store, &id_hash).unwrap().is_some());
        let index = store.index().unwrap();
        match way {
            0 => index.revoke_everyone(None, NOW).map(drop),
            1 => index.revoke_everyone(Some(&Realm::default()), NOW).map(drop),
            2 => store.clear().map(drop),
            _ => store.drop_tables(),
        }
        .unwrap();
        let found = store.load(&id_hash, NOW);
        assert!(!matches!(found, Ok(Loaded::Live(_))), "{way}: {found:?}");
    }
}

#[test]
fn changes_by_a_trigger_of_the_application_are_seen() {
    let folder = Folder::in_memory();
    let store = SqliteStore::open(folder.database()).unwrap();
    let others = Connection::open(folder.database()).unwrap();
    let trigger = "CREATE TRIGGER one AFTER INSERT ON cloakroom_sessions BEGIN
                   DELETE FROM cloakroom_sessions WHERE id <> NEW.id; END";
    others.execute_batch(trigger).unwrap();
    create(&store, &setting("n", 1)).unwrap();
    let first = create(&store, &setting("n", 1)).unwrap();
    assert!(live(&store, &first).unwrap().is_some());
    let second = create(&store, &setting("n", 2)).unwrap();
    assert!(live(&store, &first).unwrap().is_none());
    assert!(live(&store, &second).unwrap().is_some());
}

#[test]
fn a_deadline_that_an_operator_has_set_takes_effect() {
    let folder = Folder::in_memory();
    let store = SqliteStore::open(folder.database()).unwrap();
    let others = Connection::open(folder.database()).unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let minute = NOW + Duration::from_secs(60);
    let sql = "UPDATE cloakroom_sessions SET deadline = ?1";
    others.execute(sql, [minute.as_millis()]).unwrap();
    let is_live = |now| matches!(store.load(&id_hash, now), Ok(Loaded::Live(_)));
    assert!(is_live(NOW) && is_live(NOW) && !is_live(minute));
    // A change of the data leaves the deadline alone.
    merge(&store, &id_hash, &setting("n", 2)).unwrap();
    assert!(is_live(NOW) && is_live(NOW) && !is_live(minute));
}

#[test]
fn a_store_that_keeps_no_sessions_works_the_same() {
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).cache_bytes(0).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(matches!(merge(&store, &id_hash, &setting("n", 2)), Ok(CommitAnswer::Done { .. })));
    assert_eq!(value::<u64>(&live(&store, &id_hash).unwrap().unwrap(), "n"), Some(2));
    let late = new_session().limits.deadline(NOW);
    assert!(matches!(
        store.load(&id_hash, late),
        Ok(Loaded::Unreadable(Unreadable::NotFound { .. }))
    ));
}
