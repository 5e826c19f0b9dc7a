//! The same random history on every store: each must answer the same.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom::backend::{
    Action, Capabilities, Commit, CommitAnswer, Delta, Expected, LiveSession, Loaded, Maintenance,
    MaxSessions, NewSession, Store, StoreWrapper, Touch, Unreadable, Value,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{JoinSalt, SessionIdHash, UserKey};
use cloakroom::lifetime::{AtMaximum, Lifetime};
use cloakroom::list::SessionFilter;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{MemoryStore, SqliteStore};

use crate::common::memcached::shared;
use crate::common::{Folder, cached_store};

struct Rng(u64);

impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// Two handles to one database, as two processes have: they take turns.
#[derive(Debug)]
struct Two<S>(S, S, AtomicUsize);

impl<S: Store> Two<S> {
    fn next(&self) -> &S {
        match self.2.fetch_add(1, Ordering::Relaxed) / 3 % 2 {
            0 => &self.0,
            _ => &self.1,
        }
    }
}

impl<S: Store> StoreWrapper for Two<S> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        self.next()
    }

    fn wrap_try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.next().try_load(id_hash, now)
    }

    fn wrap_maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    fn wrap_capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

/// Some stores still have an expired session that others have forgotten, and say which limit it had
/// reached.
fn answer_text(answer: &cloakroom::Result<CommitAnswer>) -> String {
    match answer {
        Ok(CommitAnswer::Unreadable(Unreadable::NotFound { .. })) => "not found".to_owned(),
        answer => format!("{answer:?}"),
    }
}

fn load(store: &dyn Store, id_hash: &SessionIdHash, now: Timestamp) -> String {
    match store.load(id_hash, now).unwrap() {
        Loaded::Unreadable(Unreadable::Replaced { replaced, session }) => {
            let LiveSession { record, id_hash } = session;
            let secret = replaced.csrf_secret.map(|secret| *secret.as_bytes());
            format!("{replaced:?} {secret:?} {record:?} {:?}", id_hash.as_bytes())
        }
        Loaded::Live(LiveSession { record, id_hash }) => {
            format!("{record:?} {:?}", id_hash.as_bytes())
        }
        Loaded::Unreadable(Unreadable::NotFound { .. }) => "not found".to_owned(),
        other => format!("{other:?}"),
    }
}

fn run(stores: &[(&str, Box<dyn Store>)], seed: u64, limits: bool) {
    let mut rng = Rng(seed * 2 + 1);
    let mut now = Timestamp::from_millis(1_700_000_000_000);
    let mut id_hashes: Vec<SessionIdHash> = Vec::new();
    let mut fresh = {
        let mut n = 0_u64;
        move || {
            n += 1;
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            bytes[8..16].copy_from_slice(&seed.to_be_bytes());
            bytes[16] = 77;
            bytes[17..21].copy_from_slice(&std::process::id().to_be_bytes());
            SessionIdHash::from_bytes(bytes)
        }
    };
    let users = ["ada", "bob"].map(|name| UserKey::new(name).unwrap());
    let mut log = Vec::new();
    for step in 0..200 {
        let jumps = [0, 0, 0, 1, 500, 5_000, 10_001, 61_000, 300_000, 600_001];
        now = now + Duration::from_millis(jumps[rng.next(10) as usize]);
        let recent = id_hashes.len().saturating_sub(14);
        let id_hash = match id_hashes.len() {
            0 => fresh(),
            len => id_hashes[recent + rng.next((len - recent) as u64) as usize],
        };
        let to = fresh();
        let lifetime = if rng.next(4) == 0 {
            Lifetime::idle(Duration::from_secs(400))
        } else {
            Lifetime::default()
        };
        let mut new_session = NewSession::new(lifetime.limits_from(now)).unwrap();
        new_session.auth_level = rng.next(3) as u16;
        let mut delta = Delta::new();
        match rng.next(5) {
            0 => {}
            1 => delta.clear(),
            2 => delta.set_idle_limit(Duration::from_secs(100 + rng.next(3) * 1000)),
            _ => delta.set("n", Value::encode(&rng.next(100)).unwrap()),
        }
        let user = &users[rng.next(2) as usize];
        let salt = (rng.next(3) > 0).then(|| JoinSalt::from_bytes(*to.as_bytes()));
        let grace = [None, None, Some(2_000), Some(60_000)][rng.next(4) as usize];
        let grace_until = grace.map(|millis| now + Duration::from_millis(millis));
        let (created, op);
        let action = match rng.next(12) {
            0 | 1 => {
                created = fresh();
                op = "create";
                Action::Create(new_session.clone())
            }
            2 | 3 => {
                (created, op) = (id_hash, "merge");
                Action::Merge
            }
            4..=7 => {
                (created, op) = (id_hash, "renew");
                Action::Renew { to, grace_until }
            }
            8..=10 => {
                (created, op) = (id_hash, "sign in");
                Action::SignIn {
                    to,
                    user: user.clone(),
                    new_session: new_session.clone(),
                    join_salt: salt,
                }
            }
            _ => {
                (created, op) = (id_hash, "end");
                Action::End
            }
        };
        if op == "sign in" {
            delta.set(
                "cloakroom.csrf",
                Value::encode(&URL_SAFE_NO_PAD.encode(to.as_bytes())).unwrap(),
            );
        }
        let mut commit = Commit::new(&created, action, delta.clone(), now);
        commit.opened_at = Timestamp::from_millis(now.as_millis() - rng.next(20_000) as i64);
        if rng.next(3) == 0 {
            commit.touch = Some(Touch::at(now));
        }
        if rng.next(5) == 0 {
            commit.expected = Expected::Revision(1 + rng.next(4));
        }
        if limits && rng.next(2) == 0 {
            let rules = [AtMaximum::Refuse, AtMaximum::EndOldest, AtMaximum::EndOthers];
            let limit = NonZeroU32::new(1 + rng.next(3) as u32).unwrap();
            commit.max_sessions = Some(MaxSessions::new(limit, rules[rng.next(3) as usize]));
        }
        log.push(format!(
            "{step}: {op} {:?} -> {:?} {user:?} {salt:?} {grace_until:?}",
            created, to
        ));
        let answers: Vec<String> =
            stores.iter().map(|(_, store)| answer_text(&store.commit(&commit))).collect();
        for ((name, _), answer) in stores.iter().zip(&answers) {
            assert_eq!(answer, &answers[0], "seed {seed}, {name}\n{}", log.join("\n"));
        }
        id_hashes.push(created);
        id_hashes.push(to);
        let recent = id_hashes.len().saturating_sub(30);
        for id_hash in &id_hashes[recent..] {
            let first = load(&*stores[0].1, id_hash, now);
            for (name, store) in &stores[1..] {
                let found = load(&**store, id_hash, now);
                assert_eq!(found, first, "seed {seed}, {name}, {id_hash:?}\n{}", log.join("\n"));
            }
        }
        if rng.next(6) == 0 {
            let touched: Vec<_> =
                id_hashes[recent..].iter().map(|id_hash| (*id_hash, Touch::at(now))).collect();
            for (_, store) in stores {
                store.touch(&touched, now).unwrap();
            }
        }
        if rng.next(50) == 0 && stores.iter().all(|(_, store)| store.index().is_some()) {
            for (_, store) in stores {
                store.index().unwrap().revoke(&SessionFilter::User(user), None, now).unwrap();
            }
        }
        if rng.next(40) == 0 {
            for (_, store) in stores {
                store.sweep(now, std::num::NonZeroUsize::new(1000).unwrap()).unwrap();
            }
        }
    }
}

#[test]
fn every_store_answers_a_random_history_alike() {
    for seed in 1..=crate::common::dice::number("CLOAKROOM_HISTORIES").unwrap_or(2) {
        let folders: Vec<_> = (0..5).map(|_| Folder::new()).collect();
        let sqlite = |index: usize| SqliteStore::open(folders[index].database()).unwrap();
        let memory: Box<dyn Store> = Box::new(MemoryStore::new());
        let mut stores: Vec<(&str, Box<dyn Store>)> = vec![
            ("memory", memory),
            ("SQLite", Box::new(sqlite(0))),
            ("memory before SQLite", Box::new(cached_store(MemoryCache::new(), sqlite(1)))),
            ("memcached before SQLite", Box::new(cached_store(shared().store(), sqlite(2)))),
        ];
        let cached = || cached_store(shared().builder_in("two").open().unwrap(), sqlite(4));
        stores.push(("two SQLite", Box::new(Two(sqlite(3), sqlite(3), AtomicUsize::new(0)))));
        stores.push(("two caches", Box::new(Two(cached(), cached(), AtomicUsize::new(0)))));
        let limits = seed % 2 == 0;
        if !limits {
            stores.push(("memcached", Box::new(shared().store())));
        }
        run(&stores, seed, limits);
    }
}
