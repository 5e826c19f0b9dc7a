//! Sessions in the memory of one process: [`MemoryStore`]. Also [`MemoryCache`], a cache for a
//! [`CachedStore`](crate::stores::cached::CachedStore).

mod cache;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::backend::{
    Capabilities, Commit, CommitAnswer, Found, LiveSession, Loaded, Maintenance, RemovalReport,
    ReplacedId, SessionIndex, SessionWrite, Store, StoreIdentity, TouchError, UserMaximum,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::list::{Cursor, Page, SessionFilter, Stats, Summary};
use crate::record::{EndedSession, Record, Touch};
use crate::sync::{IgnorePoison, monotonic_now};

pub use cache::MemoryCache;

/// Sessions in the memory of one process, for tests and for programs that may lose all sessions at
/// a restart. It has every guarantee but durability.
///
/// ```
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let sessions = SessionManager::new(MemoryStore::with_capacity(10_000))?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// It holds a limited number of sessions, 100,000 by default. Anonymous sessions use at most nine
/// tenths of this capacity. If they exceed this, or if the store is full, it evicts the anonymous
/// sessions that were idle longest, up to a 64th of the capacity. A signed-in session is never
/// evicted: when signed-in sessions fill the store, creating a session fails with
/// [`ErrorKind::Full`] until a sweep has removed expired ones.
#[derive(Debug)]
pub struct MemoryStore {
    capacity: usize,
    sessions: RwLock<SessionTable>,
    epoch: AtomicU64,
    identity: StoreIdentity,
}

#[derive(Debug, Default)]
struct SessionTable {
    rows: HashMap<SessionIdHash, Row>,
    /// The current id of the session for each replaced id that a row remembers. Kept up to date by
    /// `insert` and `remove`.
    replaced: HashMap<SessionIdHash, SessionIdHash>,
    users: HashMap<UserKey, BTreeSet<SessionIdHash>>,
    /// The number of sessions without a user.
    anonymous: usize,
    last_number: i64,
}

type Rows<'s> = Vec<(&'s SessionIdHash, &'s Row)>;

#[derive(Debug)]
struct Row {
    record: Record,
    /// Its replaced ids, the oldest first.
    replaced: Vec<ReplacedId>,
    /// Its number, the cursor of lists. A later session has a higher one.
    number: i64,
}

/// Returns an identity for a new store. The standard library's random keys suffice, because it need
/// not be secret.
fn random_identity() -> StoreIdentity {
    let [one, other] = [(); 2].map(|()| RandomState::new().hash_one(()).to_be_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(one.into_iter().chain(other)).for_each(|(byte, random)| *byte = random);
    StoreIdentity::from_bytes(bytes)
}

impl MemoryStore {
    /// The maximum number of sessions in a store made by [`new`](Self::new).
    pub const DEFAULT_CAPACITY: usize = 100_000;

    /// Makes an empty store for 100,000 sessions.
    #[must_use]
    pub fn new() -> Self {
        MemoryStore::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Makes an empty store for at most `capacity` sessions.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        MemoryStore {
            capacity,
            sessions: RwLock::default(),
            epoch: AtomicU64::new(0),
            identity: random_identity(),
        }
    }

    // No application code runs under the lock, and no code of this crate that can panic halfway, so
    // the data behind a poisoned lock is consistent.
    fn read(&self) -> RwLockReadGuard<'_, SessionTable> {
        self.sessions.read().ignore_poison()
    }

    fn write(&self) -> RwLockWriteGuard<'_, SessionTable> {
        self.sessions.write().ignore_poison()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl SessionTable {
    /// Looks `id_hash` up at `now`. The key is the session's current id.
    fn find(&self, id_hash: &SessionIdHash, now: Timestamp) -> Found<SessionIdHash> {
        let key = *self.replaced.get(id_hash).unwrap_or(id_hash);
        let Some(row) = self.rows.get(&key) else { return Found::NotFound };
        let session = LiveSession { record: row.record.clone(), id_hash: key };
        let found = Found::of_session(session, key, now);
        match row.replaced.iter().find(|id| id.id_hash == *id_hash) {
            Some(id) => found.through_replaced_id(*id, now),
            None => found,
        }
    }

    fn insert(&mut self, id_hash: SessionIdHash, row: Row) {
        if let Some(user) = &row.record.user {
            self.users.entry(user.clone()).or_default().insert(id_hash);
        } else {
            self.anonymous += 1;
        }
        for id in &row.replaced {
            self.replaced.insert(id.id_hash, id_hash);
        }
        self.rows.insert(id_hash, row);
    }

    fn remove(&mut self, id_hash: &SessionIdHash) -> Option<Row> {
        let row = self.rows.remove(id_hash)?;
        for id in &row.replaced {
            self.replaced.remove(&id.id_hash);
        }
        let Some(user) = &row.record.user else {
            self.anonymous -= 1;
            return Some(row);
        };
        if let Some(id_hashes) = self.users.get_mut(user) {
            id_hashes.remove(id_hash);
            if id_hashes.is_empty() {
                self.users.remove(user);
            }
        }
        Some(row)
    }

    /// Returns the rows that match `filter`, expired ones included, in no order.
    fn select<'s>(&'s self, filter: &SessionFilter<'_>) -> Rows<'s> {
        let wanted = |(_, row): &(&SessionIdHash, &Row)| filter.includes(&row.record);
        let mut narrowest = filter;
        while let SessionFilter::InRealm(_, inner) = narrowest {
            narrowest = inner;
        }
        match narrowest {
            SessionFilter::User(user) | SessionFilter::PublicIdOfUser(user, _) => {
                let id_hashes = self.users.get(*user).into_iter().flatten();
                id_hashes
                    .filter_map(|id_hash| self.rows.get_key_value(id_hash))
                    .filter(wanted)
                    .collect()
            }
            _ => self.rows.iter().filter(wanted).collect(),
        }
    }

    fn commit(&mut self, commit: &Commit, capacity: usize) -> Result<CommitAnswer> {
        let make_error = || Error::new(ErrorKind::Unexpected, commit.action.operation());
        let mut decision = commit.decide(self.find(&commit.id_hash, commit.now))?;
        if let Some(id_hash) = decision.write.new_id() {
            self.check_free(id_hash)?;
        }
        if let Some(UserMaximum { user, realm, .. }) = &decision.user_maximum {
            let of_user = self.sessions_of_user(user, realm, commit.now);
            decision = decision.apply_maximum(of_user);
        }
        self.remove_all(&decision.expired);
        let ended: Vec<_> = decision.ended.iter().map(|(key, _)| *key).collect();
        let evicted = match &decision.write {
            SessionWrite::Insert { session, .. } => {
                self.sessions_to_evict(&session.record, ended.len(), capacity)?
            }
            _ => Vec::new(),
        };
        self.remove_all(&ended);
        self.remove_all(&evicted);
        match &decision.write {
            SessionWrite::Nothing(_) => {}
            SessionWrite::Insert { session, replaced } => {
                self.last_number += 1;
                let number = self.last_number;
                let replaced = Vec::from_iter(*replaced);
                let row = Row { record: session.record.clone(), replaced, number };
                self.insert(session.id_hash, row);
            }
            SessionWrite::Update { key, session } => {
                let row = self.remove(key).ok_or_else(make_error)?;
                self.insert(*key, Row { record: session.record.clone(), ..row });
            }
            SessionWrite::Move { key, session, id_change } => {
                let row = self.remove(key).ok_or_else(make_error)?;
                let record = session.record.clone();
                let replaced = id_change.remembered(row.replaced);
                self.insert(session.id_hash, Row { record, replaced, ..row });
            }
            SessionWrite::Touch { key, session } => {
                if let Some(row) = self.rows.get_mut(key) {
                    row.record.seen = session.record.seen;
                }
            }
        }
        Ok(decision.into_answer(evicted))
    }

    /// Returns the anonymous sessions that must be removed to make room for this new one, apart
    /// from the sessions that it ends: of all realms, because they share the capacity, those that
    /// were idle longest. It runs in the commit, because the capacity is never exceeded.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] if there is no room and no anonymous session.
    fn sessions_to_evict(
        &self,
        new: &Record,
        removed_count: usize,
        capacity: usize,
    ) -> Result<Vec<SessionIdHash>> {
        let is_full = self.rows.len().saturating_sub(removed_count) >= capacity;
        if !is_full && (new.user.is_some() || self.anonymous < capacity - capacity / 10) {
            return Ok(Vec::new());
        }
        let evicted = self.idle_longest(None, 0, (capacity / 64).max(1));
        if is_full && evicted.is_empty() {
            return Err(Error::new(ErrorKind::Full, "create a session in memory"));
        }
        Ok(evicted)
    }

    /// Fails with [`ErrorKind::Conflict`] unless `id_hash` can be the id of a new session.
    fn check_free(&self, id_hash: &SessionIdHash) -> Result<()> {
        if self.rows.contains_key(id_hash) || self.replaced.contains_key(id_hash) {
            return Err(Error::id_is_taken());
        }
        Ok(())
    }

    /// Returns the sessions of a user in a realm, in the order of their sign-ins.
    fn sessions_of_user(
        &self,
        user: &UserKey,
        realm: &Realm,
        now: Timestamp,
    ) -> Vec<(SessionIdHash, EndedSession)> {
        let of_user = SessionFilter::User(user);
        let mut rows = self.select(&SessionFilter::InRealm(realm, &of_user));
        rows.sort_by_key(|(_, row)| (row.record.authenticated, row.number));
        let to_ended = |(id_hash, row): (&SessionIdHash, &Row)| {
            let ended = if row.record.is_live(now) {
                EndedSession::of(*id_hash, &row.record)
            } else {
                EndedSession::expired(*id_hash, &row.record)
            };
            (*id_hash, ended)
        };
        rows.into_iter().map(to_ended).collect()
    }

    /// Removes the rows that match `filter`, except the one with the public id `except`. Returns
    /// those that were live.
    fn revoke(
        &mut self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Vec<EndedSession> {
        let mut rows = self.select(filter);
        rows.retain(|(_, row)| except != Some(&row.record.public_id));
        // Events name them in the order in which they were created.
        rows.sort_by_key(|(_, row)| row.number);
        let all: Vec<_> = rows.iter().map(|(id_hash, _)| **id_hash).collect();
        rows.retain(|(_, row)| row.record.is_live(now));
        let live = rows.into_iter().map(|(id_hash, row)| EndedSession::of(*id_hash, &row.record));
        let live = live.collect();
        self.remove_all(&all);
        live
    }

    /// Returns the ids of the anonymous sessions, of one realm or of all, except for the `keep`
    /// that were used last: at most `limit`, and those that were idle longest first.
    fn idle_longest(&self, realm: Option<&Realm>, keep: usize, limit: usize) -> Vec<SessionIdHash> {
        let is_included = |record: &Record| {
            record.user.is_none() && realm.is_none_or(|realm| record.realm == *realm)
        };
        let included = self.rows.iter().filter(|(_, row)| is_included(&row.record));
        let mut idle: Vec<_> =
            included.map(|(id_hash, row)| (row.record.seen, row.number, *id_hash)).collect();
        let count = idle.len().saturating_sub(keep).min(limit);
        if count < idle.len() {
            idle.select_nth_unstable(count);
            idle.truncate(count);
        }
        idle.sort_unstable();
        idle.into_iter().map(|(_, _, id_hash)| id_hash).collect()
    }

    fn remove_all(&mut self, id_hashes: &[SessionIdHash]) {
        for id_hash in id_hashes {
            self.remove(id_hash);
        }
    }
}

/// Splits rows into the live and the expired ones.
fn split_live_and_expired(rows: Rows<'_>, now: Timestamp) -> (Rows<'_>, Rows<'_>) {
    rows.into_iter().partition(|(_, row)| row.record.is_live(now))
}

fn ids_of(ended: &[EndedSession]) -> Vec<SessionIdHash> {
    ended.iter().map(|ended| ended.id_hash).collect()
}

impl Store for MemoryStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        Ok(self.read().find(id_hash, now).into())
    }

    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        let sessions = match self.sessions.try_read() {
            Ok(sessions) => sessions,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A commit that evicts sessions holds the lock while it reads all of them.
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(sessions.find(id_hash, now).into())
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.write().commit(commit, self.capacity)
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        let mut sessions = self.write();
        for (id_hash, touch) in batch {
            if let Found::Live { key, .. } = sessions.find(id_hash, now)
                && let Some(row) = sessions.rows.get_mut(&key)
            {
                row.record.touch(*touch);
            }
        }
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        let mut sessions = self.write();
        let began = monotonic_now();
        let all = sessions.rows.iter();
        let expired = all.filter(|(_, row)| !row.record.is_live(now)).take(limit.get());
        let expired: Vec<EndedSession> =
            expired.map(|(id_hash, row)| EndedSession::expired(*id_hash, &row.record)).collect();
        sessions.remove_all(&ids_of(&expired));
        Ok(RemovalReport::since(began, expired.len()).with_user_sessions(expired))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_bounds_anonymous(true)
    }
}

impl SessionIndex for MemoryStore {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        let sessions = self.read();
        let (mut rows, _expired) = split_live_and_expired(sessions.select(filter), now);
        if let Some(after) = page.after {
            rows.retain(|(_, row)| row.number < after.position());
        }
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.number));
        let page = rows.into_iter().take(page.limit.get());
        Ok(page.map(|(_, row)| Summary::of(&row.record, Cursor::new(row.number))).collect())
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        Ok(self.write().revoke(filter, except, now))
    }

    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        _now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        let mut sessions = self.write();
        let of_user = SessionFilter::User(from);
        let theirs = sessions.select(&SessionFilter::InRealm(realm, &of_user));
        let id_hashes: Vec<SessionIdHash> = theirs.iter().map(|(id_hash, _)| **id_hash).collect();
        for id_hash in &id_hashes {
            if let Some(mut row) = sessions.remove(id_hash) {
                row.record.user = Some(to.clone());
                row.record.revision += 1;
                sessions.insert(*id_hash, row);
            }
        }
        Ok(id_hashes)
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        let mut sessions = self.write();
        let all = SessionFilter::All;
        let filter = realm.map_or(all, |realm| SessionFilter::InRealm(realm, &all));
        let revoked = sessions.revoke(&filter, None, now);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(revoked.len() as u64)
    }

    fn epoch(&self) -> Result<u64> {
        Ok(self.epoch.load(Ordering::SeqCst))
    }

    fn identity(&self) -> Result<StoreIdentity> {
        Ok(self.identity)
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        let sessions = self.read();
        let (live, expired) = split_live_and_expired(sessions.select(&SessionFilter::All), now);
        let signed_in = |rows: &Rows<'_>| {
            rows.iter().filter(|(_, row)| row.record.user.is_some()).count() as u64
        };
        let created = || live.iter().map(|(_, row)| row.record.created);
        Ok(Stats {
            live: live.len() as u64,
            expired: expired.len() as u64,
            signed_in: signed_in(&live),
            expired_signed_in: signed_in(&expired),
            oldest: created().min(),
            newest: created().max(),
        })
    }

    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        Ok(self.read().idle_longest(Some(realm), keep, limit.get()))
    }

    fn evict_anonymous(&self, id_hashes: &[SessionIdHash], _: Timestamp) -> Result<RemovalReport> {
        let mut sessions = self.write();
        let began = monotonic_now();
        let before = sessions.rows.len();
        for id_hash in id_hashes {
            if sessions.rows.get(id_hash).is_some_and(|row| row.record.user.is_none()) {
                sessions.remove(id_hash);
            }
        }
        let removed = before - sessions.rows.len();
        Ok(RemovalReport::since(began, removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Action;
    use crate::delta::Delta;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    #[test]
    fn a_full_store_creates_no_session_and_keeps_those_it_has() {
        let store = MemoryStore::with_capacity(1);
        let now = Timestamp::from_millis(0);
        let first = id_hash(1);
        let second = id_hash(2);
        sign_in(&store, first, now).unwrap();
        assert_eq!(sign_in(&store, second, now).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(create(&store, second, now).unwrap_err().kind(), ErrorKind::Full);
        assert!(matches!(store.load(&first, now).unwrap(), Loaded::Live(_)));
        let later = now + std::time::Duration::from_secs(86_400 * 30);
        assert_eq!(store.sweep(later, NonZeroUsize::MIN).unwrap().removed, 1);
        create(&store, second, now).unwrap();
    }

    #[test]
    fn a_load_that_must_not_wait_gives_way_to_a_writer() {
        let store = MemoryStore::new();
        let now = Timestamp::from_millis(0);
        sign_in(&store, id_hash(1), now).unwrap();
        let writer = store.write();
        assert!(store.try_load(&id_hash(1), now).is_none());
        drop(writer);
        assert!(matches!(store.try_load(&id_hash(1), now), Some(Loaded::Live(_))));
    }

    #[test]
    fn anonymous_sessions_take_nine_tenths_and_leave_for_users() {
        let time = |second: u32| Timestamp::from_millis(i64::from(second) * 1000);
        let store = MemoryStore::with_capacity(20);
        let stats = |second| store.stats(time(second)).unwrap();
        for n in 0..18 {
            create(&store, id_hash(n), time(n)).unwrap();
        }
        store.touch(&[(id_hash(0), Touch::at(time(20)))], time(20)).unwrap();
        let answer = create(&store, id_hash(18), time(21)).unwrap();
        let evicts = |answer, ids: &[SessionIdHash]| match answer {
            CommitAnswer::Done { evicted, .. } => assert_eq!(evicted, ids),
            other => panic!("{other:?}"),
        };
        evicts(answer, &[id_hash(1)]);
        assert_eq!(stats(21).anonymous(), 18);
        for n in 100..102 {
            evicts(sign_in(&store, id_hash(n), time(21)).unwrap(), &[]);
        }
        for n in 102..118 {
            evicts(sign_in(&store, id_hash(n), time(21)).unwrap(), &[id_hash(n - 100)]);
        }
        assert_eq!((stats(21).anonymous(), stats(21).signed_in), (2, 18));
        assert!(matches!(store.load(&id_hash(0), time(21)).unwrap(), Loaded::Live(_)));
        // Beside users, anonymous sessions share the room that is left.
        evicts(create(&store, id_hash(50), time(22)).unwrap(), &[id_hash(0)]);
    }

    fn id_hash(n: u32) -> SessionIdHash {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        SessionIdHash::from_bytes(bytes)
    }

    fn create(store: &MemoryStore, id_hash: SessionIdHash, now: Timestamp) -> Result<CommitAnswer> {
        let new_session = NewSession::new(Lifetime::default().limits_from(now))?;
        store.commit(&Commit::new(&id_hash, Action::Create(new_session), Delta::new(), now))
    }

    fn sign_in(store: &MemoryStore, to: SessionIdHash, now: Timestamp) -> Result<CommitAnswer> {
        let user = UserKey::new("u")?;
        let new_session = NewSession::new(Lifetime::default().limits_from(now))?;
        let action = Action::SignIn { to, user, new_session, join_salt: None };
        store.commit(&Commit::new(&id_hash(u32::MAX), action, Delta::new(), now))
    }
}
