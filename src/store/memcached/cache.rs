//! Memcached as a cache.
//!
//! A miss takes memcached's own lease, and a fill replaces exactly the version that the lease made.
//! Forgetting removes the item and, with it, the lease: no tombstone is needed. A lease holds the
//! epoch too, because after a restart memcached numbers its versions from the beginning.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::event::Event;
use crate::id::SessionKey;
use crate::store::memcached::MemcachedStore;
use crate::store::memcached::client::{Leased, Replacement, Space, Stamp, Written};
use crate::store::memcached::value::{Unreadable, decode_entry, encode_entry};
use crate::store::{Cache, Entry, Fetched, Lease};

const FORGETTING: &str = "make memcached forget";

impl Stamp {
    fn lease(self) -> Lease {
        Lease::new(u128::from(self.epoch) << 64 | u128::from(self.cas))
    }

    fn of(lease: Lease) -> Self {
        let half = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or(0);
        Stamp { epoch: half(lease.number() >> 64), cas: half(lease.number()) }
    }
}

impl Cache for MemcachedStore {
    /// The servers.
    fn shares(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.0.client.servers()).unwrap_or(NonZeroUsize::MIN)
    }

    fn share_of(&self, key: &SessionKey) -> usize {
        self.0.client.place(key)
    }

    fn fetch(&self, key: &SessionKey, now: Timestamp) -> Result<Fetched> {
        const DOING: &str = "look a session up in memcached";
        let item = match self.0.client.get_or_lease(Space::Entries, key, DOING)? {
            Leased::Item(item) => item,
            Leased::Granted(stamp) => return Ok(Fetched::Miss(Some(stamp.lease()))),
            Leased::Busy => return Ok(Fetched::Miss(None)),
        };
        match decode_entry(&item.value) {
            Ok(entry) if entry.record.is_live(now) => return Ok(Fetched::Hit(entry)),
            // A newer version of the program may be working beside this one.
            Err(Unreadable::Undecodable(_)) => return Ok(Fetched::Miss(None)),
            Ok(_) => {}
            Err(Unreadable::Garbage(error)) => {
                self.0.events.raise(&Event::Garbage { error: &error });
            }
        }
        // The next one gets a lease.
        self.0.client.remove(Space::Entries, key, item.stamp, DOING)?;
        Ok(Fetched::Miss(None))
    }

    fn fill(
        &self,
        key: &SessionKey,
        lease: Lease,
        entry: &Entry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let life = until.min(entry.record.deadline()).since(now);
        let stamp = Stamp::of(lease);
        if life < Duration::from_secs(1)
            || !self.0.client.is_within_reach(Space::Entries, key, stamp)
        {
            return Ok(false);
        }
        let value = encode_entry(entry);
        let new = Replacement { key: *key, stamp, value, life: Some(life) };
        let written = self.0.client.replace(Space::Entries, &new, "fill memcached")?;
        Ok(matches!(written, Written::Stored(_)))
    }

    fn forget(&self, keys: &[SessionKey], _now: Timestamp) -> Result<()> {
        self.0.client.remove_all(Space::Entries, keys, FORGETTING)
    }

    fn forget_share(&self, share: usize, _now: Timestamp) -> Result<()> {
        self.0.client.raise_epoch(share, Space::Entries, FORGETTING)
    }
}
