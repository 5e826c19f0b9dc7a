//! A store, or a cache, whose calls pause a little by chance, before and after: what may happen
//! between two of them happens more often.

use std::num::NonZeroUsize;

use cloakroom::Result;
use cloakroom::backend::{
    Cache, CacheEntry, CacheLookup, Commit, Committed, FillLease, Lookup, Page, SessionFilter,
    SessionIndex, Store, StoreWrapper, SweepReport,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{PublicId, Realm, SessionIdHash};
use cloakroom::record::{Stats, Summary, Touch};

use super::pause::pause;

#[derive(Clone, Debug)]
pub struct Pausing<T>(pub T);

impl<T> Pausing<T> {
    fn around<R>(&self, call: impl FnOnce(&T) -> R) -> R {
        pause();
        let answer = call(&self.0);
        pause();
        answer
    }

    fn listing(&self) -> &dyn SessionIndex
    where
        T: Store,
    {
        self.0.index().expect("a store that lists")
    }
}

impl<S: Store> StoreWrapper for Pausing<S> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        &self.0
    }

    fn on_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.around(|store| store.load(id_hash, now))
    }

    fn on_commit(&self, commit: &Commit) -> Result<Committed> {
        self.around(|store| store.commit(commit))
    }

    fn on_touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.around(|store| store.touch(batch, now))
    }

    fn on_sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
        self.around(|store| store.sweep(now, limit))
    }

    fn on_index(&self) -> Option<&dyn SessionIndex> {
        self.0.index().map(|_| self as &dyn SessionIndex)
    }
}

impl<S: Store> SessionIndex for Pausing<S> {
    fn list(&self, which: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.around(|_| self.listing().list(which, page, now))
    }

    fn revoke(
        &self,
        which: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        self.around(|_| self.listing().revoke(which, except, now))
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.around(|_| self.listing().revoke_everyone(realm, now))
    }

    fn epoch(&self) -> Result<u64> {
        self.around(|_| self.listing().epoch())
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.around(|_| self.listing().stats(now))
    }
}

impl<C: Cache> Cache for Pausing<C> {
    fn fetch(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<CacheLookup> {
        self.around(|cache| cache.fetch(id_hash, now))
    }

    fn fill(
        &self,
        id_hash: &SessionIdHash,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        self.around(|cache| cache.fill(id_hash, lease, entry, until, now))
    }

    fn forget(&self, keys: &[SessionIdHash], now: Timestamp) -> Result<()> {
        self.around(|cache| cache.forget(keys, now))
    }

    fn shards(&self) -> NonZeroUsize {
        self.0.shards()
    }

    fn shard_of(&self, id_hash: &SessionIdHash) -> usize {
        self.0.shard_of(id_hash)
    }

    fn forget_shard(&self, shard: usize, now: Timestamp) -> Result<()> {
        self.around(|cache| cache.forget_shard(shard, now))
    }
}
