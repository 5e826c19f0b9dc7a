//! The registry of the truth. What it ends, the cache forgets.

use std::time::Instant;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Handle, Realm, SessionKey};
use crate::record::{Stats, Summary};
use crate::store::cached::{CachedStore, is_uncertain};
use crate::store::{Cache, Page, Registry, Store, Which};
use crate::sync::instant;

impl<C: Cache, S: Store> CachedStore<C, S> {
    fn behind(&self, doing: &'static str) -> Result<&dyn Registry> {
        self.0.process.check()?;
        self.0.truth.registry().ok_or_else(|| Error::new(ErrorKind::Unsupported, doing))
    }

    /// What a failed revocation may have ended is not believed here any more.
    fn doubting<T>(&self, answer: Result<T>, now: Timestamp, began: Instant) -> Result<T> {
        if answer.as_ref().is_err_and(is_uncertain) {
            self.0.doubt(now, began);
        }
        answer
    }
}

#[deny(clippy::missing_trait_methods)]
impl<C: Cache, S: Store> Registry for CachedStore<C, S> {
    fn list(&self, which: &Which<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.behind("list sessions")?.list(which, page, now)
    }

    fn revoke(
        &self,
        which: &Which<'_>,
        except: Option<&Handle>,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>> {
        self.0.trust.begin(now);
        let (_changing, began) = (self.0.changing.begin(), instant());
        let answer = self.behind("revoke sessions")?.revoke(which, except, now);
        let keys = self.doubting(answer, now, began)?;
        self.tell_keys(keys.iter().copied(), now);
        Ok(keys)
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.0.trust.begin(now);
        let (_changing, began) = (self.0.changing.begin(), instant());
        let answer = self.behind("revoke everyone")?.revoke_everyone(realm, now);
        let revoked = self.doubting(answer, now, began)?;
        self.tell_everything(now);
        Ok(revoked)
    }

    fn epoch(&self) -> Result<u64> {
        self.behind("read the epoch")?.epoch()
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.behind("count sessions")?.stats(now)
    }
}
