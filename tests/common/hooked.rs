//! A wrapper of a store or a cache that calls a hook around each call.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cloakroom::Result;
use cloakroom::backend::{
    Cache, CacheEntry, CacheKey, CacheLookup, Commit, CommitAnswer, EndedSession, FillLease,
    Loaded, Maintenance, RemovalReport, SessionIndex, Store, StoreIdentity, StoreWrapper, Touch,
    TouchError,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{PublicId, Realm, SessionIdHash, UserKey};
use cloakroom::list::{Page, SessionFilter, Stats, Summary};

/// The calls of a store, of its session index, and of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Load,
    Commit,
    Touch,
    Sweep,
    /// The question for the maintenance.
    Maintenance,
    List,
    Revoke,
    RenameUser,
    RevokeEveryone,
    Epoch,
    Stats,
    Fetch,
    Fill,
    /// Of ids, or of a shard.
    Invalidate,
}

impl Call {
    pub const COUNT: usize = Call::Invalidate as usize + 1;
    pub const CACHE: [Call; 3] = [Call::Fetch, Call::Fill, Call::Invalidate];
}

/// Code around the calls of a store or a cache.
pub trait Hook: Debug + Send + Sync + 'static {
    fn around<R>(&self, call: Call, work: impl FnOnce() -> Result<R>) -> Result<R>;

    /// A touch of `_sessions` sessions.
    fn touch(
        &self,
        _sessions: usize,
        work: impl FnOnce() -> Result<(), TouchError>,
    ) -> Result<(), TouchError> {
        self.around(Call::Touch, || Ok(work()))?
    }

    /// A sweep that may remove `_limit` sessions.
    fn sweep(
        &self,
        _limit: usize,
        work: impl FnOnce() -> Result<RemovalReport>,
    ) -> Result<RemovalReport> {
        self.around(Call::Sweep, work)
    }
}

/// A store or a cache with a hook. Clones share both.
#[derive(Debug)]
pub struct Hooked<T: ?Sized, H> {
    pub hook: Arc<H>,
    inner: Arc<T>,
}

impl<T: ?Sized, H> Clone for Hooked<T, H> {
    fn clone(&self) -> Self {
        Hooked { hook: self.hook.clone(), inner: self.inner.clone() }
    }
}

impl<T: ?Sized, H> Hooked<T, H> {
    pub fn with(hook: H, inner: Arc<T>) -> Self {
        Hooked { hook: Arc::new(hook), inner }
    }

    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl<S: Store + ?Sized, H: Hook> StoreWrapper for Hooked<S, H> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        &self.inner
    }

    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.hook.around(Call::Load, || self.inner.load(id_hash, now))
    }

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.hook.around(Call::Commit, || self.inner.commit(commit))
    }

    fn wrap_touch(
        &self,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<(), TouchError> {
        self.hook.touch(batch.len(), || self.inner.touch(batch, now))
    }

    fn wrap_sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        self.hook.sweep(limit.get(), || self.inner.sweep(now, limit))
    }

    fn wrap_index(&self) -> Option<&dyn SessionIndex> {
        self.inner.index().map(|_| self as &dyn SessionIndex)
    }

    fn wrap_maintenance(&self) -> Option<&dyn Maintenance> {
        // It cannot fail; a plan for it would be a mistake of the test.
        self.hook.around(Call::Maintenance, || Ok(())).unwrap();
        self.inner.maintenance()
    }
}

impl<S: Store + ?Sized, H> Hooked<S, H> {
    fn listing(&self) -> &dyn SessionIndex {
        self.inner.index().expect("a store that lists")
    }
}

impl<S: Store + ?Sized, H: Hook> SessionIndex for Hooked<S, H> {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.hook.around(Call::List, || self.listing().list(filter, page, now))
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        self.hook.around(Call::Revoke, || self.listing().revoke(filter, except, now))
    }

    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        self.hook.around(Call::RenameUser, || self.listing().rename_user(realm, from, to, now))
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.hook.around(Call::RevokeEveryone, || self.listing().revoke_everyone(realm, now))
    }

    fn epoch(&self) -> Result<u64> {
        self.hook.around(Call::Epoch, || self.listing().epoch())
    }

    fn identity(&self) -> Result<StoreIdentity> {
        self.hook.around(Call::Epoch, || self.listing().identity())
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.hook.around(Call::Stats, || self.listing().stats(now))
    }

    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        self.hook.around(Call::List, || self.listing().idle_anonymous(realm, keep, limit))
    }

    fn evict_anonymous(
        &self,
        id_hashes: &[SessionIdHash],
        now: Timestamp,
    ) -> Result<RemovalReport> {
        self.hook.around(Call::Sweep, || self.listing().evict_anonymous(id_hashes, now))
    }
}

impl<C: Cache + ?Sized, H: Hook> Cache for Hooked<C, H> {
    fn shards(&self) -> NonZeroUsize {
        self.inner.shards()
    }

    fn shard_of(&self, key: &CacheKey) -> usize {
        self.inner.shard_of(key)
    }

    fn fetch(&self, key: &CacheKey, now: Timestamp) -> Result<CacheLookup> {
        self.hook.around(Call::Fetch, || self.inner.fetch(key, now))
    }

    fn fill(
        &self,
        key: &CacheKey,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        self.hook.around(Call::Fill, || self.inner.fill(key, lease, entry, until, now))
    }

    fn invalidate(&self, keys: &[CacheKey], now: Timestamp) -> Result<()> {
        self.hook.around(Call::Invalidate, || self.inner.invalidate(keys, now))
    }

    fn invalidate_shard(&self, shard: usize, now: Timestamp) -> Result<()> {
        self.hook.around(Call::Invalidate, || self.inner.invalidate_shard(shard, now))
    }
}
