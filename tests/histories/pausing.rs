//! A store, or a cache, whose calls pause a little by chance, before and after: what may happen
//! between two of them happens more often.

use std::num::NonZeroUsize;

use cloakroom::Result;
use cloakroom::clock::Timestamp;
use cloakroom::id::{Handle, Realm, SessionKey};
use cloakroom::record::{Stats, Summary, Touch};
use cloakroom::store::{
    Cache, Commit, Committed, Entry, Fetched, Lease, Loaded, Page, Registry, Store, Swept, Traits,
    Upkeep, Which,
};

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

    fn listing(&self) -> &dyn Registry
    where
        T: Store,
    {
        self.0.registry().expect("a store that lists")
    }
}

impl<S: Store> Store for Pausing<S> {
    fn load(&self, key: &SessionKey, now: Timestamp) -> Result<Loaded> {
        self.around(|store| store.load(key, now))
    }

    fn try_load(&self, _: &SessionKey, _: Timestamp) -> Option<Loaded> {
        None
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        self.around(|store| store.commit(commit))
    }

    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        self.around(|store| store.touch(batch, now))
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<Swept> {
        self.around(|store| store.sweep(now, limit))
    }

    fn registry(&self) -> Option<&dyn Registry> {
        self.0.registry().map(|_| self as &dyn Registry)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        self.0.upkeep()
    }

    fn traits(&self) -> Traits {
        self.0.traits()
    }
}

impl<S: Store> Registry for Pausing<S> {
    fn list(&self, which: &Which<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.around(|_| self.listing().list(which, page, now))
    }

    fn revoke(
        &self,
        which: &Which<'_>,
        except: Option<&Handle>,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>> {
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
    fn fetch(&self, key: &SessionKey, now: Timestamp) -> Result<Fetched> {
        self.around(|cache| cache.fetch(key, now))
    }

    fn fill(
        &self,
        key: &SessionKey,
        lease: Lease,
        entry: &Entry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        self.around(|cache| cache.fill(key, lease, entry, until, now))
    }

    fn forget(&self, keys: &[SessionKey], now: Timestamp) -> Result<()> {
        self.around(|cache| cache.forget(keys, now))
    }

    fn shares(&self) -> NonZeroUsize {
        self.0.shares()
    }

    fn share_of(&self, key: &SessionKey) -> usize {
        self.0.share_of(key)
    }

    fn forget_share(&self, share: usize, now: Timestamp) -> Result<()> {
        self.around(|cache| cache.forget_share(share, now))
    }
}
