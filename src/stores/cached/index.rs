//! The session index of the backing store. Revocations invalidate the cache.

use std::num::NonZeroUsize;

use crate::backend::{Cache, RemovalReport, SessionIndex, Store, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::list::{Page, SessionFilter, Stats, Summary};
use crate::record::EndedSession;
use crate::stores::cached::{CachedInner, CachedStore};
use crate::sync::monotonic_now;

impl<C: Cache, S: Store> CachedInner<C, S> {
    fn backing_index(&self, operation: &'static str) -> Result<&dyn SessionIndex> {
        self.process.check()?;
        self.backing.index().ok_or_else(|| Error::new(ErrorKind::Unsupported, operation))
    }

    /// Changes sessions of the backing store by `change`, and then the cache by `invalidate`. If
    /// the change fails, a part of it may have been made: makes all entries read so far stale.
    fn change_by_index<T>(
        &self,
        operation: &'static str,
        now: Timestamp,
        change: impl FnOnce(&dyn SessionIndex) -> Result<T>,
        invalidate: impl FnOnce(&T),
    ) -> Result<T> {
        self.begin_call(now)?;
        let _changing = self.in_flight.begin();
        let began = monotonic_now();
        let result = self.backing_index(operation).and_then(change);
        match &result {
            Ok(changed) => invalidate(changed),
            Err(_) => self.mark_entries_stale(now, began),
        }
        result
    }
}

impl<C: Cache, S: Store> SessionIndex for CachedStore<C, S> {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.0.backing_index("list sessions")?.list(filter, page, now)
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        self.0.change_by_index(
            "revoke sessions",
            now,
            |index| index.revoke(filter, except, now),
            |ended| self.0.invalidate_sessions(ended.iter().map(|ended| ended.id_hash), now),
        )
    }

    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        self.0.change_by_index(
            "rename a user",
            now,
            |index| index.rename_user(realm, from, to, now),
            |id_hashes| self.0.invalidate_sessions(id_hashes.iter().copied(), now),
        )
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.0.change_by_index(
            "revoke everyone",
            now,
            |index| index.revoke_everyone(realm, now),
            |_| self.0.invalidate_all(now),
        )
    }

    fn epoch(&self) -> Result<u64> {
        self.0.backing_index("read the epoch")?.epoch()
    }

    fn identity(&self) -> Result<StoreIdentity> {
        self.0.backing_index("read the identity of the store")?.identity()
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.0.backing_index("count sessions")?.stats(now)
    }

    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        self.0.backing_index("list idle sessions")?.idle_anonymous(realm, keep, limit)
    }

    fn evict_anonymous(
        &self,
        id_hashes: &[SessionIdHash],
        now: Timestamp,
    ) -> Result<RemovalReport> {
        self.0.begin_call(now)?;
        let _changing = self.0.in_flight.begin();
        let ended =
            self.0.backing_index("evict anonymous sessions")?.evict_anonymous(id_hashes, now);
        // Also after an error, whose outcome may be unknown.
        self.0.invalidate_sessions(id_hashes.iter().copied(), now);
        ended
    }
}
