//! A cache that a test can hold, and take away.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cloakroom::backend::{Cache, CacheEntry, CacheLookup, FillLease};
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;
use cloakroom::{Error, ErrorKind, Result};

use super::faulty::{Gate, Gatekeeper};

/// A cache around another that waits at a fill or when it forgets, or is down.
#[derive(Debug)]
pub struct Gated {
    inner: Box<dyn Cache>,
    down: AtomicBool,
    calls: AtomicU64,
    fill: Mutex<Option<Gate>>,
    forget: Mutex<Option<Gate>>,
}

impl Gated {
    pub fn new(inner: impl Cache) -> Arc<Gated> {
        let (down, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        let (fill, forget) = Default::default();
        Arc::new(Gated { inner: Box::new(inner), down, calls, fill, forget })
    }

    pub fn hold_fill(&self) -> Gatekeeper {
        let (gate, keeper) = Gate::new();
        *self.fill.lock().unwrap() = Some(gate);
        keeper
    }

    pub fn hold_forget(&self) -> Gatekeeper {
        let (gate, keeper) = Gate::new();
        *self.forget.lock().unwrap() = Some(gate);
        keeper
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.down.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "play a cache that is down")),
            false => Ok(()),
        }
    }
}

fn wait_at(gate: &Mutex<Option<Gate>>) {
    let gate = gate.lock().unwrap().take();
    if let Some(gate) = gate {
        gate.pass();
    }
}

/// The same cache, for another process.
#[derive(Debug, Clone)]
pub struct Shared(pub Arc<Gated>);

impl Cache for Shared {
    fn shards(&self) -> NonZeroUsize {
        self.0.inner.shards()
    }

    fn shard_of(&self, id_hash: &SessionIdHash) -> usize {
        self.0.inner.shard_of(id_hash)
    }

    fn fetch(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<CacheLookup> {
        self.0.enter()?;
        self.0.inner.fetch(id_hash, now)
    }

    fn fill(
        &self,
        id_hash: &SessionIdHash,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        self.0.enter()?;
        wait_at(&self.0.fill);
        self.0.inner.fill(id_hash, lease, entry, until, now)
    }

    fn forget(&self, keys: &[SessionIdHash], now: Timestamp) -> Result<()> {
        self.0.enter()?;
        wait_at(&self.0.forget);
        self.0.inner.forget(keys, now)
    }

    fn forget_shard(&self, shard: usize, now: Timestamp) -> Result<()> {
        self.0.enter()?;
        wait_at(&self.0.forget);
        self.0.inner.forget_shard(shard, now)
    }
}
