//! Sessions in this process's memory: the store for an application's own tests, for programs
//! that may lose everything at a restart, and a cache in front of another store.

mod cache;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Handle, Realm, SessionKey, UserKey};
use crate::record::{Cursor, Record, Stats, Summary, Touch};
use crate::store::by_key::ByKey;
use crate::store::{
    Commit, Committed, Decision, Loaded, Page, Registry, Rekey, ReplacedId, ReplacedIdStatus,
    Store, Swept, Traits, Upkeep, Which,
};
use crate::sync::{instant, thread};

/// A volatile store that obeys every law but durability.
///
/// It holds at most a fixed number of sessions, 100,000 unless said otherwise; beginning one more
/// fails with [`ErrorKind::Full`] until the cleaner has removed ended ones. As a
/// [`Cache`](crate::store::Cache) it holds as many entries and drops the oldest half when full.
#[derive(Debug)]
pub struct MemoryStore {
    capacity: usize,
    sessions: RwLock<Sessions>,
    /// How many threads wait to write.
    waiting: AtomicUsize,
    epoch: AtomicU64,
    cache: cache::Entries,
}

#[derive(Debug, Default)]
struct Sessions {
    rows: ByKey<Row>,
    /// The replaced keys that are remembered, with the current ones of their sessions.
    replaced: ByKey<SessionKey>,
    users: HashMap<UserKey, BTreeSet<SessionKey>>,
    last_place: i64,
}

#[derive(Debug)]
struct Row {
    record: Record,
    /// The keys it had, the oldest first.
    replaced: Vec<ReplacedId>,
    /// Higher for sessions that began later.
    place: i64,
}

/// What a key leads to.
#[derive(Debug)]
enum Found<'s> {
    /// The live session under this current key.
    At(SessionKey, &'s Row),
    /// The key was replaced; the live session under this current key.
    Replaced(ReplacedId, SessionKey, &'s Row),
    /// The session under this current key, whose deadline has passed.
    Expired(SessionKey),
    Absent,
}

impl From<Found<'_>> for Loaded {
    fn from(found: Found<'_>) -> Self {
        match found {
            Found::At(key, row) => Loaded::Live { record: row.record.clone(), key },
            Found::Replaced(id, key, row) => {
                Loaded::Replaced { id, record: row.record.clone(), key }
            }
            Found::Expired(_) | Found::Absent => Loaded::Absent,
        }
    }
}

impl MemoryStore {
    /// The number of sessions that [`new`](Self::new) allows.
    pub const DEFAULT_CAPACITY: usize = 100_000;

    /// An empty store for 100,000 sessions.
    #[must_use]
    pub fn new() -> Self {
        MemoryStore::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// An empty store for at most `capacity` sessions.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        MemoryStore {
            capacity,
            sessions: RwLock::default(),
            waiting: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            cache: cache::Entries::new(capacity),
        }
    }

    // No code of the application runs under the lock, and none of ours that can panic half-way:
    // a poisoned lock guards sound data.
    fn read(&self) -> RwLockReadGuard<'_, Sessions> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Sessions> {
        match self.sessions.try_write() {
            Ok(sessions) => sessions,
            Err(TryLockError::Poisoned(sessions)) => sessions.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                sessions
            }
        }
    }

    /// The lock is not fair: a thread that takes it again and again would keep it from those that
    /// are woken for it.
    fn let_others_in(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl Sessions {
    /// Where the session is that `key` finds at `now`.
    fn find<'s>(&'s self, key: &SessionKey, now: Timestamp) -> Found<'s> {
        let at = |key: &SessionKey, row: &'s Row| match row.record.is_live(now) {
            true => Found::At(*key, row),
            false => Found::Expired(*key),
        };
        if let Some(row) = self.rows.get(key) {
            return at(key, row);
        }
        let Some(current) = self.replaced.get(key) else { return Found::Absent };
        let Some(row) = self.rows.get(current) else { return Found::Absent };
        let Some(id) = row.replaced.iter().find(|id| id.key == *key) else { return Found::Absent };
        match (id.status(now), row.record.is_live(now)) {
            (ReplacedIdStatus::Forgotten, _) => Found::Absent,
            (_, false) => Found::Expired(*current),
            (ReplacedIdStatus::InGrace, true) => Found::At(*current, row),
            (ReplacedIdStatus::Remembered, true) => Found::Replaced(*id, *current, row),
        }
    }

    fn is_taken(&self, key: &SessionKey) -> bool {
        self.rows.contains_key(key) || self.replaced.contains_key(key)
    }

    fn put(&mut self, key: SessionKey, row: Row) {
        if let Some(user) = &row.record.user {
            self.users.entry(user.clone()).or_default().insert(key);
        }
        for id in &row.replaced {
            self.replaced.insert(id.key, key);
        }
        self.rows.insert(key, row);
    }

    fn take(&mut self, key: &SessionKey) -> Option<Row> {
        let row = self.rows.remove(key)?;
        for id in &row.replaced {
            self.replaced.remove(&id.key);
        }
        if let Some(user) = &row.record.user
            && let Some(keys) = self.users.get_mut(user)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.users.remove(user);
            }
        }
        Some(row)
    }

    /// The rows of `which` that live at `now`, in no order.
    fn live<'s>(&'s self, which: &Which<'_>, now: Timestamp) -> Vec<(&'s SessionKey, &'s Row)> {
        let mut rows = self.select(which);
        rows.retain(|(_, row)| row.record.is_live(now));
        rows
    }

    /// The rows of `which`, expired ones too, in no order.
    fn select<'s>(&'s self, which: &Which<'_>) -> Vec<(&'s SessionKey, &'s Row)> {
        let wanted = |(_, row): &(&SessionKey, &Row)| which.includes(&row.record);
        let mut narrowest = which;
        while let Which::InRealm(_, inner) = narrowest {
            narrowest = inner;
        }
        match narrowest {
            Which::User(user) | Which::OfUser(user, _) => {
                let keys = self.users.get(*user).into_iter().flatten();
                keys.filter_map(|key| self.rows.get_key_value(key)).filter(wanted).collect()
            }
            _ => self.rows.iter().filter(wanted).collect(),
        }
    }

    /// The keys of these live sessions but `except`, from the one that signed in longest ago.
    fn by_sign_in(
        &self,
        which: &Which<'_>,
        except: Option<SessionKey>,
        now: Timestamp,
    ) -> Vec<SessionKey> {
        let mut others = self.live(which, now);
        others.retain(|(key, _)| Some(**key) != except);
        others.sort_by_key(|(_, row)| (row.record.authenticated, row.place));
        others.into_iter().map(|(key, _)| *key).collect()
    }

    fn commit(&mut self, commit: &Commit<'_>, capacity: usize) -> Result<Committed> {
        let found = self.find(commit.key, commit.now);
        let (key, expired) = match found {
            Found::At(key, _) | Found::Replaced(_, key, _) => (key, None),
            Found::Expired(key) => (*commit.key, Some(key)),
            Found::Absent => (*commit.key, None),
        };
        let loaded = found.into();
        if let Some(key) = expired
            && commit.removes_expired()
        {
            self.take(&key);
        }
        let decision = commit.decide(loaded)?;

        let moved_to = match &decision {
            Decision::Insert { key, .. } => Some(*key),
            Decision::Update { rekey: Some(rekey), .. } => Some(rekey.left.successor),
            _ => None,
        };
        if moved_to.is_some_and(|to| self.is_taken(&to)) {
            return Err(Error::new(ErrorKind::Conflict, "give a session its new key"));
        }
        let ended = match commit.admission() {
            Some((admit, user, realm)) if moved_to.is_some() => {
                let of_user = Which::User(user);
                let theirs = Which::InRealm(realm, &of_user);
                let found = self.select(&theirs).into_iter();
                let expired = found.filter(|(_, row)| !row.record.is_live(commit.now));
                let expired: Vec<_> = expired.map(|(key, _)| *key).collect();
                self.end(&expired);
                let others = self.by_sign_in(&theirs, Some(key), commit.now);
                match admit.judge(&others) {
                    Some(ended) => ended.to_vec(),
                    None => return Ok(Committed::Full),
                }
            }
            _ => Vec::new(),
        };
        match decision {
            Decision::Insert { key: to, record, replaces } => {
                let freed = ended.len() + usize::from(replaces.is_some());
                if self.rows.len().saturating_sub(freed) >= capacity {
                    return Err(Error::new(ErrorKind::Full, "begin a session in memory"));
                }
                self.end(&ended);
                let mut ended = ended;
                if replaces.is_some() {
                    self.take(&key);
                    ended.push(key);
                }
                self.last_place += 1;
                let place = self.last_place;
                let replaced = replaces.into_iter().collect();
                let row = Row { record: record.clone(), replaced, place };
                self.put(to, row);
                Ok(Committed::Done { record, key: to, ended })
            }
            Decision::Update { record, rekey } => {
                self.end(&ended);
                let mut ended = ended;
                let Some(old) = self.take(&key) else { return Ok(Committed::Gone) };
                let mut replaced = old.replaced;
                let to = match rekey {
                    Some(Rekey { left, presented }) => {
                        ended.push(key);
                        remember(&mut replaced, left, commit.now);
                        if let Some(presented) = presented {
                            remember(&mut replaced, presented, commit.now);
                        }
                        left.successor
                    }
                    None => key,
                };
                self.put(to, Row { record: record.clone(), replaced, place: old.place });
                Ok(Committed::Done { record, key: to, ended })
            }
            Decision::Touch { record } => {
                if let Some(row) = self.rows.get_mut(&key) {
                    row.record.seen = record.seen;
                }
                Ok(Committed::Unchanged { record, key })
            }
            Decision::Remove => {
                self.take(&key);
                Ok(Committed::Deleted { key })
            }
            Decision::Answer(answer) => Ok(answer),
        }
    }

    fn end(&mut self, keys: &[SessionKey]) {
        for key in keys {
            self.take(key);
        }
    }
}

/// Adds a replaced key to those that are remembered; the oldest are forgotten.
fn remember(replaced: &mut Vec<ReplacedId>, id: ReplacedId, now: Timestamp) {
    if id.ends_graces() {
        replaced.iter_mut().for_each(|id| *id = id.without_grace());
    }
    replaced.retain(|old| old.key != id.key && old.status(now) != ReplacedIdStatus::Forgotten);
    replaced.push(id);
    let excess = replaced.len().saturating_sub(ReplacedId::MAX);
    replaced.drain(..excess);
}

impl Store for MemoryStore {
    fn load(&self, key: &SessionKey, now: Timestamp) -> Result<Loaded> {
        Ok(self.read().find(key, now).into())
    }

    fn try_load(&self, key: &SessionKey, now: Timestamp) -> Option<Loaded> {
        self.load(key, now).ok()
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        let committed = self.write().commit(commit, self.capacity);
        self.let_others_in();
        committed
    }

    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        let mut sessions = self.write();
        for (key, touch) in batch {
            if let Found::At(current, _) = sessions.find(key, now)
                && let Some(row) = sessions.rows.get_mut(&current)
            {
                row.record.touch(*touch);
            }
        }
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<Swept> {
        // The search blocks no reader; what it found is checked again before it goes. Whoever
        // removed some of it meanwhile leaves room for another search.
        let mut swept = Swept::new(0, Duration::ZERO);
        loop {
            let room = limit.get() - swept.removed;
            let found: Vec<SessionKey> = {
                let sessions = self.read();
                let began = instant();
                let ended = sessions.rows.iter().filter(|(_, row)| !row.record.is_live(now));
                let found = ended.map(|(key, _)| *key).take(room).collect();
                swept.held += instant().saturating_duration_since(began);
                found
            };
            let mut sessions = self.write();
            let began = instant();
            for key in &found {
                if sessions.rows.get(key).is_some_and(|row| !row.record.is_live(now)) {
                    sessions.take(key);
                    swept.removed += 1;
                }
            }
            swept.held += instant().saturating_duration_since(began);
            if found.len() < room || swept.removed == limit.get() {
                return Ok(swept);
            }
        }
    }

    fn registry(&self) -> Option<&dyn Registry> {
        Some(self)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        None
    }

    fn traits(&self) -> Traits {
        Traits::new().with_lists(true)
    }
}

impl Registry for MemoryStore {
    fn list(&self, which: &Which<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        let sessions = self.read();
        let mut rows = sessions.live(which, now);
        if let Some(after) = page.after {
            rows.retain(|(_, row)| row.place < after.position());
        }
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.place));
        let page = rows.into_iter().take(page.limit.get());
        Ok(page.map(|(_, row)| Summary::of(&row.record, Cursor::new(row.place))).collect())
    }

    fn revoke(
        &self,
        which: &Which<'_>,
        except: Option<&Handle>,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>> {
        let mut sessions = self.write();
        let (mut live, mut expired) = (Vec::new(), Vec::new());
        for (key, row) in sessions.select(which) {
            match row.record.is_live(now) {
                _ if except == Some(&row.record.handle) => {}
                true => live.push(*key),
                false => expired.push(*key),
            }
        }
        sessions.end(&live);
        sessions.end(&expired);
        Ok(live)
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        let mut sessions = self.write();
        let live = match realm {
            Some(realm) => {
                let which = Which::InRealm(realm, &Which::All);
                let live = sessions.live(&which, now).len();
                let keys: Vec<_> = sessions.select(&which).iter().map(|(key, _)| **key).collect();
                sessions.end(&keys);
                live
            }
            None => {
                let live = sessions.live(&Which::All, now).len();
                let last_place = sessions.last_place;
                *sessions = Sessions { last_place, ..Sessions::default() };
                live
            }
        };
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(live as u64)
    }

    fn epoch(&self) -> Result<u64> {
        Ok(self.epoch.load(Ordering::SeqCst))
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        let sessions = self.read();
        let live = sessions.live(&Which::All, now);
        let created = || live.iter().map(|(_, row)| row.record.created);
        Ok(Stats {
            live: live.len() as u64,
            expired: (sessions.rows.len() - live.len()) as u64,
            signed_in: live.iter().filter(|(_, row)| row.record.user.is_some()).count() as u64,
            oldest: created().min(),
            newest: created().max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Delta;
    use crate::lifetime::Lifetime;
    use crate::record::Birth;
    use crate::store::Fate;

    #[test]
    fn a_full_store_begins_no_session_and_keeps_those_it_has() {
        let store = MemoryStore::with_capacity(1);
        let now = Timestamp::from_millis(0);
        let birth = Birth::new(Lifetime::default().starting(now)).unwrap();
        let (first, second) = (SessionKey::from_bytes([1; 32]), SessionKey::from_bytes([2; 32]));
        let create =
            |key| store.commit(&Commit::new(key, Fate::Create(&birth), &Delta::new(), now));
        create(&first).unwrap();
        assert_eq!(create(&second).unwrap_err().kind(), ErrorKind::Full);
        assert!(matches!(store.load(&first, now).unwrap(), Loaded::Live { .. }));
        let later = now + std::time::Duration::from_secs(86_400 * 30);
        assert_eq!(store.sweep(later, NonZeroUsize::MIN).unwrap().removed, 1);
        create(&second).unwrap();
    }
}
