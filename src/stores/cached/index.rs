//! The session index of the backing store. Revocations invalidate the cache.
//!
//! Called by the manager, if the backing store has an index.

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::backend::{
    Cache, Page, RemovalReport, SessionFilter, SessionIndex, Store, StoreIdentity,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::record::{EndedSession, Stats, Summary};
use crate::stores::cached::{CachedStore, is_uncertain};
use crate::sync::instant;

impl<C: Cache, S: Store> CachedStore<C, S> {
    fn backing_index(&self, operation: &'static str) -> Result<&dyn SessionIndex> {
        self.0.process.check()?;
        self.0.backing.index().ok_or_else(|| Error::new(ErrorKind::Unsupported, operation))
    }

    /// Makes all entries read so far stale, if a revocation failed with an uncertain outcome.
    fn distrust_on_error<T>(&self, answer: Result<T>, now: Timestamp, began: Instant) -> Result<T> {
        if answer.as_ref().is_err_and(is_uncertain) {
            self.0.mark_entries_stale(now, began);
        }
        answer
    }
}

impl<C: Cache, S: Store> SessionIndex for CachedStore<C, S> {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.backing_index("list sessions")?.list(filter, page, now)
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        self.0.freshness.observe(now);
        let (_changing, began) = (self.0.in_flight.begin(), instant());
        let answer = self.backing_index("revoke sessions")?.revoke(filter, except, now);
        let ended = self.distrust_on_error(answer, now, began)?;
        self.invalidate_sessions(ended.iter().map(|ended| ended.id_hash), now);
        Ok(ended)
    }

    fn rename_user(
        &self,
        realm: &Realm,
        (from, to): (&UserKey, &UserKey),
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        self.0.freshness.observe(now);
        let (_changing, began) = (self.0.in_flight.begin(), instant());
        let answer = self.backing_index("rename a user")?.rename_user(realm, (from, to), now);
        let id_hashes = self.distrust_on_error(answer, now, began)?;
        self.invalidate_sessions(id_hashes.iter().copied(), now);
        Ok(id_hashes)
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.0.freshness.observe(now);
        let (_changing, began) = (self.0.in_flight.begin(), instant());
        let answer = self.backing_index("revoke everyone")?.revoke_everyone(realm, now);
        let revoked = self.distrust_on_error(answer, now, began)?;
        self.invalidate_all(now);
        Ok(revoked)
    }

    fn epoch(&self) -> Result<u64> {
        self.backing_index("read the epoch")?.epoch()
    }

    fn identity(&self) -> Result<StoreIdentity> {
        self.backing_index("read the identity of the store")?.identity()
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.backing_index("count sessions")?.stats(now)
    }

    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        self.backing_index("list idle sessions")?.idle_anonymous(realm, keep, limit)
    }

    fn end_anonymous(&self, id_hashes: &[SessionIdHash], now: Timestamp) -> Result<RemovalReport> {
        self.0.freshness.observe(now);
        let _changing = self.0.in_flight.begin();
        let ended = self.backing_index("evict anonymous sessions")?.end_anonymous(id_hashes, now);
        // Also after an error, whose outcome may be unknown.
        self.invalidate_sessions(id_hashes.iter().copied(), now);
        ended
    }
}
