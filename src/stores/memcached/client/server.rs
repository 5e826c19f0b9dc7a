//! One server: its epochs and the commands sent to it.
//!
//! Uses `pool`. Called by the client only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::thread;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::id;
use crate::process::Process;
use crate::stores::memcached::client::pool::Pool;
use crate::stores::memcached::client::protocol::{Batch, ItemReply, MetaReply, WriteCondition};
use crate::stores::memcached::client::{CommandFailure, ConnectionSettings, Space, Target};
use crate::stores::memcached::rendezvous;

/// The maximum number of attempts for a batch, or for reading an epoch, while other clients raise
/// it.
const MAX_ATTEMPTS: usize = 8;

/// The number of tokens that are reserved for a batch, more than it has commands.
const TOKENS_PER_BATCH: u64 = 1 << 16;

/// The value of the epoch's item while a space is blocked; it is not a valid epoch.
const BLOCKED: &str = "closed";

/// How long a space stays blocked, in seconds, if the process that blocked it ends.
const BLOCKED_FOR: u32 = 10;

/// The time for which a space certainly stays blocked: memcached counts in whole seconds and may
/// unblock it earlier than [`BLOCKED_FOR`].
pub(super) const MIN_BLOCKED_FOR: Duration = Duration::from_secs(BLOCKED_FOR as u64 - 2);

/// The pause between two attempts to learn an epoch.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) type Answers = std::vec::IntoIter<Result<MetaReply>>;

pub(super) struct Server {
    /// The process that owns the connections. A forked process would read this one's answers.
    process: Process,
    name: String,
    pool: Pool,
    /// The first token of the next batch. Begins at random, so that no two processes use the same.
    next_token: AtomicU64,
    /// The contribution of its name to rendezvous scores.
    pub(super) weight: u64,
    epochs: [SpaceEpoch; 2],
}

struct SpaceEpoch {
    /// The key of the item that holds it.
    item: String,
    /// The last known value; 0 if unknown.
    seen: AtomicU64,
    /// How many changes of the server's address the epoch was raised for.
    raised_for: AtomicU64,
    /// Held while the epoch is raised for a new address.
    raising: Mutex<()>,
}

impl Server {
    /// Resolves the server's name. Connections are opened on demand.
    pub(super) fn find(name: &str, settings: &ConnectionSettings, events: Events) -> Result<Self> {
        let finding = || format!("find the memcached server {name}");
        let epoch = |space: Space| SpaceEpoch {
            item: format!("{}:{}:epoch", settings.namespace, space.letter()),
            seen: AtomicU64::new(0),
            raised_for: AtomicU64::new(0),
            raising: Mutex::default(),
        };
        let token = u64::from_be_bytes(id::random("draw a token for memcached")?);
        Ok(Server {
            process: Process::current(),
            name: name.to_owned(),
            pool: Pool::new(name, settings, events)
                .map_err(|failure| failure.into_error(finding()))?,
            next_token: AtomicU64::new(token),
            weight: rendezvous::weight(name),
            epochs: [epoch(Space::Sessions), epoch(Space::Entries)],
        })
    }

    fn epoch(&self, space: Space) -> &SpaceEpoch {
        let [sessions, entries] = &self.epochs;
        match space {
            Space::Sessions => sessions,
            Space::Entries => entries,
        }
    }

    /// Returns the last known epoch; 0 if unknown.
    pub(super) fn seen(&self, space: Space) -> u64 {
        self.epoch(space).seen.load(Ordering::SeqCst)
    }

    fn remember_epoch(&self, space: Space, epoch: u64) {
        self.epoch(space).seen.store(epoch, Ordering::SeqCst);
    }

    /// Sends commands in one batch without checking the epoch.
    pub(super) fn run_all(
        &self,
        target: Target,
        commands: impl FnOnce(&mut Batch),
    ) -> Result<Answers> {
        self.process.check()?;
        let mut batch = Batch::new(self.next_token.fetch_add(TOKENS_PER_BATCH, Ordering::Relaxed));
        commands(&mut batch);
        let error = |failure: CommandFailure| {
            failure.into_error(format!("{} at {}", target.operation, self.name))
        };
        let answers = self.pool.exchange(&batch, target.deadline).map_err(error)?;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.map_err(error)).collect();
        Ok(answers.into_iter())
    }

    /// Sends one command without checking the epoch.
    pub(super) fn run(
        &self,
        target: Target,
        command: impl FnOnce(&mut Batch),
    ) -> Result<MetaReply> {
        next_answer(&mut self.run_all(target, command)?, target.operation)
    }

    /// Sends commands on keys of the current epoch, together with a read of the epoch. If the epoch
    /// was outdated, the commands have affected only unreachable items, and are sent again.
    pub(super) fn exchange(
        &self,
        target: Target,
        commands: impl Fn(u64, &mut Batch),
    ) -> Result<(u64, Answers)> {
        self.process.check()?;
        for _ in 0..MAX_ATTEMPTS {
            let epoch = match self.seen(target.space) {
                0 => self.learn_epoch(target)?,
                epoch => epoch,
            };
            let mut answers = self.run_all(target, |batch| {
                self.get_epoch(target.space, batch);
                commands(epoch, batch);
            })?;
            if self.is_current(target, epoch, &mut answers)? {
                return Ok((epoch, answers));
            }
        }
        Err(being_cleared(target.operation))
    }

    /// Adds the command that reads the epoch.
    pub(super) fn get_epoch(&self, space: Space, batch: &mut Batch) {
        batch.get(&self.epoch(space).item, None);
    }

    /// Returns whether the next answer, which is to [`get_epoch`](Self::get_epoch), is `epoch`. If
    /// not, the epoch was lost or raised, and the next exchange reads it again.
    pub(super) fn is_current(
        &self,
        target: Target,
        epoch: u64,
        answers: &mut Answers,
    ) -> Result<bool> {
        let found = item_of(next_answer(answers, target.operation)?);
        // An address to which the name has just moved can have the same epoch, as a copy.
        let is_current = found.and_then(|found| read_epoch(&found.value)) == Some(epoch)
            && !self.has_moved(target.space);
        if !is_current {
            self.remember_epoch(target.space, 0);
        }
        Ok(is_current)
    }

    /// Reads the epoch. A lost epoch is replaced by a new random number, because the old one could
    /// make cleared items reachable again.
    fn learn_epoch(&self, target: Target) -> Result<u64> {
        let Target { space, operation, .. } = target;
        let mut attempts = 0;
        loop {
            self.end_items_at_a_new_address(target)?;
            let found = item_of(self.run(target, |batch| self.get_epoch(space, batch))?);
            let (value, cas) = found.map_or((None, None), |f| (Some(f.value), Some(f.cas)));
            if cas == Some(0) {
                let why = "memcached was started without versions, by its option -C";
                return Err(Error::with_source(ErrorKind::Unsupported, operation, why));
            }
            if self.has_moved(space) {
                // The read itself may have gone to the new address.
                pause(target)?;
                continue;
            }
            if let Some(epoch) = value.as_deref().and_then(read_epoch) {
                self.remember_epoch(space, epoch);
                return Ok(epoch);
            }
            if value.as_deref() == Some(BLOCKED.as_bytes()) {
                pause(target)?;
                continue;
            }
            attempts += 1;
            if attempts > MAX_ATTEMPTS {
                return Err(being_cleared(operation));
            }
            // If another client was faster, its epoch is read in the next round.
            let when = cas.map_or(WriteCondition::Absent, WriteCondition::Version);
            self.store_epoch(target, new_epoch()?, when)?;
        }
    }

    /// Makes the items at a new address of this server unreachable: they may be of a time before
    /// changes that were made at the old address. One thread does it, and the others wait.
    fn end_items_at_a_new_address(&self, target: Target) -> Result<()> {
        let epoch = self.epoch(target.space);
        while self.has_moved(target.space) {
            let _raising = match epoch.raising.try_lock() {
                Ok(raising) => raising,
                Err(TryLockError::Poisoned(raising)) => raising.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    pause(target)?;
                    continue;
                }
            };
            let moves = self.pool.moves();
            if epoch.raised_for.load(Ordering::SeqCst) != moves {
                self.replace_epoch(target)?;
                epoch.raised_for.store(moves, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Returns whether the address has changed since the items there were made unreachable.
    fn has_moved(&self, space: Space) -> bool {
        self.epoch(space).raised_for.load(Ordering::SeqCst) != self.pool.moves()
    }

    fn store_epoch(&self, target: Target, epoch: u64, when: WriteCondition) -> Result<MetaReply> {
        self.set_epoch_item(target, &format!("{epoch:016x}"), 0, when)
    }

    fn set_epoch_item(
        &self,
        target: Target,
        value: &str,
        seconds: u32,
        when: WriteCondition,
    ) -> Result<MetaReply> {
        let key = &self.epoch(target.space).item;
        self.run(target, |batch| batch.set(key, value.as_bytes(), seconds, when))
    }

    /// Makes all items of this space unreachable, and unblocks the space.
    pub(super) fn replace_epoch(&self, target: Target) -> Result<()> {
        let epoch = new_epoch()?;
        self.store_epoch(target, epoch, WriteCondition::Always)?;
        self.remember_epoch(target.space, epoch);
        Ok(())
    }

    /// Makes all items of this space unreachable, and prevents new ones until the epoch is raised.
    pub(super) fn block(&self, target: Target) -> Result<()> {
        self.set_epoch_item(target, BLOCKED, BLOCKED_FOR, WriteCondition::Always)?;
        self.remember_epoch(target.space, 0);
        Ok(())
    }
}

/// Returns the next answer.
pub(super) fn next_answer(answers: &mut Answers, operation: &'static str) -> Result<MetaReply> {
    answers.next().unwrap_or_else(|| Err(missing_answer(operation)))
}

pub(super) fn missing_answer(operation: &'static str) -> Error {
    Error::with_source(ErrorKind::Unavailable, operation, "an answer is missing")
}

/// Pauses before another attempt to learn the epoch, unless the call has waited for too long.
fn pause(target: Target) -> Result<()> {
    if target.is_late() {
        return Err(being_cleared(target.operation));
    }
    thread::sleep(PAUSE);
    Ok(())
}

fn item_of(reply: MetaReply) -> Option<ItemReply> {
    match reply {
        MetaReply::Item(item) => Some(item),
        _ => None,
    }
}

fn being_cleared(operation: &'static str) -> Error {
    Error::with_source(ErrorKind::Busy, operation, "the store is being cleared")
}

fn read_epoch(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let epoch = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    epoch.filter(|epoch| *epoch != 0)
}

fn new_epoch() -> Result<u64> {
    Ok(u64::from_be_bytes(id::random("draw an epoch for memcached")?).max(1))
}
