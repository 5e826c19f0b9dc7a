//! One server: its epochs and the commands sent to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memcache::exp::{
    Error as ClientError, Get, GetResult, Meta, MetaClient, Op, OpResult, Operation, Set, Ttl,
};

use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::process::Process;
use crate::stores::memcached::client::error::{failure, uninterrupted};
use crate::stores::memcached::client::{ConnectionSettings, Space, Target, got};
use crate::stores::memcached::rendezvous;

/// The maximum number of attempts for a batch, or for reading an epoch, while other clients raise
/// it.
const MAX_ATTEMPTS: usize = 8;

/// The value of the epoch's item while a space is blocked; it is not a valid epoch.
const BLOCKED: &str = "closed";

/// How long a space stays blocked, in seconds, if the process that blocked it ends.
const BLOCKED_FOR: u32 = 10;

/// The time for which a space certainly stays blocked: memcached counts in whole seconds and may
/// unblock it earlier than [`BLOCKED_FOR`].
pub(super) const SURELY_BLOCKED_FOR: Duration = Duration::from_secs(BLOCKED_FOR as u64 - 2);

/// The pause between two reads of a blocked epoch.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) type Answers = std::vec::IntoIter<Result<OpResult>>;

pub(super) struct Server {
    /// The process that owns the connections. A forked process would read this one's answers.
    process: Process,
    name: String,
    client: MetaClient,
    /// The contribution of its name to rendezvous scores.
    pub(super) weight: u64,
    epochs: [SpaceEpoch; 2],
    /// How long to wait for a blocked space.
    busy_timeout: Duration,
}

struct SpaceEpoch {
    /// The key of the item that holds it.
    item: String,
    /// The last known value; 0 if unknown.
    seen: AtomicU64,
}

impl Server {
    /// Resolves the server's name. Connections are opened on demand.
    pub(super) fn find(name: &str, settings: &ConnectionSettings) -> Result<Self> {
        let client = MetaClient::builder()
            .max_idle(settings.connections)
            .connect_timeout(Some(settings.connect_timeout))
            .io_timeout(Some(settings.io_timeout))
            .connect(name)
            .map_err(|source| failure(format!("find the memcached server {name}"), source))?;
        let epoch = |space: Space| SpaceEpoch {
            item: format!("{}:{}:epoch", settings.namespace, space.letter()),
            seen: AtomicU64::new(0),
        };
        Ok(Server {
            process: Process::current(),
            name: name.to_owned(),
            client,
            weight: rendezvous::weight(name),
            epochs: [epoch(Space::Sessions), epoch(Space::Entries)],
            busy_timeout: settings.io_timeout,
        })
    }

    fn epoch(&self, space: Space) -> &SpaceEpoch {
        let [sessions, entries] = &self.epochs;
        match space {
            Space::Sessions => sessions,
            Space::Entries => entries,
        }
    }

    /// The last known epoch; 0 if unknown.
    pub(super) fn seen(&self, space: Space) -> u64 {
        self.epoch(space).seen.load(Ordering::SeqCst)
    }

    fn remember_epoch(&self, space: Space, epoch: u64) {
        self.epoch(space).seen.store(epoch, Ordering::SeqCst);
    }

    pub(super) fn failure(&self, operation: &'static str, source: ClientError) -> Error {
        failure(format!("{operation} at {}", self.name), source)
    }

    /// Sends one operation without checking the epoch.
    pub(super) fn run<O: Operation>(
        &self,
        operation: &'static str,
        request: impl Fn() -> O,
    ) -> Result<O::Output> {
        self.process.check()?;
        uninterrupted(|| self.client.run(request()))
            .map_err(|source| self.failure(operation, source))
    }

    /// Sends several operations in one batch without checking the epoch.
    pub(super) fn run_all(
        &self,
        operation: &'static str,
        operations: impl Fn() -> Vec<Op>,
    ) -> Result<Answers> {
        self.process.check()?;
        let answers = uninterrupted(|| self.client.run_batch(operations()))
            .map_err(|source| self.failure(operation, source))?;
        let answer =
            |answer: Result<_, _>| answer.map_err(|source| self.failure(operation, source));
        Ok(answers.into_iter().map(answer).collect::<Vec<_>>().into_iter())
    }

    /// Sends operations on keys of the current epoch, together with a read of the epoch. If the
    /// epoch was outdated, the operations have affected only unreachable items, and are sent again.
    pub(super) fn exchange(
        &self,
        target: Target,
        operations: impl Fn(u64, &mut Vec<Op>),
    ) -> Result<(u64, Answers)> {
        for _ in 0..MAX_ATTEMPTS {
            let epoch = match self.seen(target.space) {
                0 => self.learn_epoch(target)?,
                epoch => epoch,
            };
            let mut answers = self.run_all(target.operation, || {
                let mut batch = vec![self.get_epoch(target.space).into()];
                operations(epoch, &mut batch);
                batch
            })?;
            if self.is_current(target, epoch, answers.next())? {
                return Ok((epoch, answers));
            }
        }
        Err(being_cleared(target.operation))
    }

    /// The operation that reads the epoch, to be sent in a batch with others.
    pub(super) fn get_epoch(&self, space: Space) -> Get {
        Get::new(&self.epoch(space).item)
    }

    /// Whether the answer to [`get_epoch`](Self::get_epoch) is `epoch`. If not, the epoch was lost
    /// or raised, and the next exchange reads it again.
    pub(super) fn is_current(
        &self,
        target: Target,
        epoch: u64,
        answer: Option<Result<OpResult>>,
    ) -> Result<bool> {
        let is_current = read_epoch(&got(answer, target.operation)?) == Some(epoch);
        if !is_current {
            self.remember_epoch(target.space, 0);
        }
        Ok(is_current)
    }

    /// Reads the epoch. A lost epoch is replaced by a new random number, because the old one could
    /// make cleared items reachable again.
    fn learn_epoch(&self, Target { space, operation }: Target) -> Result<u64> {
        let (began, mut attempts) = (Instant::now(), 0);
        loop {
            let found = self.run(operation, || self.get_epoch(space).meta(Meta::NONE.cas()))?;
            if found.item.cas == Some(0) {
                let why = "memcached was started without versions, by its option -C";
                return Err(Error::with_source(ErrorKind::Unsupported, operation, why));
            }
            if let Some(epoch) = read_epoch(&found) {
                self.remember_epoch(space, epoch);
                return Ok(epoch);
            }
            if found.value.as_deref() == Some(BLOCKED.as_bytes()) {
                if began.elapsed() >= self.busy_timeout {
                    return Err(being_cleared(operation));
                }
                thread::sleep(PAUSE);
                continue;
            }
            attempts += 1;
            if attempts > MAX_ATTEMPTS {
                return Err(being_cleared(operation));
            }
            let epoch = new_epoch()?;
            // If another client was faster, its epoch is read in the next round.
            self.run(operation, || {
                let set = self.set_epoch(space, &format!("{epoch:016x}"), Ttl::NEVER);
                match found.item.cas {
                    Some(cas) => set.compare_cas(cas),
                    None => set.add(),
                }
            })?;
        }
    }

    fn set_epoch(&self, space: Space, value: &str, ttl: Ttl) -> Set {
        Set::new(&self.epoch(space).item, value).ttl(ttl)
    }

    /// Makes all items of this space unreachable, and unblocks the space.
    pub(super) fn raise_epoch(&self, Target { space, operation }: Target) -> Result<()> {
        let epoch = new_epoch()?;
        self.run(operation, || self.set_epoch(space, &format!("{epoch:016x}"), Ttl::NEVER))?;
        self.remember_epoch(space, epoch);
        Ok(())
    }

    /// Makes all items of this space unreachable, and prevents new ones until the epoch is raised.
    pub(super) fn block(&self, Target { space, operation }: Target) -> Result<()> {
        self.run(operation, || self.set_epoch(space, BLOCKED, Ttl::secs(BLOCKED_FOR)))?;
        self.remember_epoch(space, 0);
        Ok(())
    }
}

fn being_cleared(operation: &'static str) -> Error {
    Error::with_source(ErrorKind::Busy, operation, "the store is being cleared")
}

fn read_epoch(found: &GetResult) -> Option<u64> {
    let text = std::str::from_utf8(found.value.as_deref()?).ok()?;
    let epoch = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    epoch.filter(|epoch| *epoch != 0)
}

fn new_epoch() -> Result<u64> {
    Ok(u64::from_be_bytes(id::random("draw an epoch for memcached")?).max(1))
}
