//! One server: its nonces and the commands sent to it.

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
use crate::stores::memcached::client::{CallContext, CommandFailure, ConnectionSettings, KeySpace};
use crate::stores::memcached::rendezvous;

/// The maximum number of attempts for a batch, or for reading a nonce, while other clients replace
/// it.
const MAX_ATTEMPTS: usize = 8;

/// The number of tokens that are reserved for a batch, more than it has commands.
const TOKENS_PER_BATCH: u64 = 1 << 16;

/// The value of the nonce's item while a space is blocked; it is not a valid nonce.
const BLOCKED: &str = "closed";

/// How long a space stays blocked, in seconds, if the process that blocked it ends.
const BLOCKED_FOR: u32 = 10;

/// The time for which a space certainly stays blocked: memcached counts in whole seconds and may
/// unblock it earlier than [`BLOCKED_FOR`].
pub(super) const MIN_BLOCKED_FOR: Duration = Duration::from_secs(BLOCKED_FOR as u64 - 2);

/// The pause between two attempts to learn a nonce.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) type Replies = std::vec::IntoIter<Result<MetaReply>>;

pub(super) struct Server {
    /// The process that owns the connections. A forked process would read this one's replies.
    process: Process,
    name: String,
    pool: Pool,
    /// The first token of the next batch. Begins at random, so that no two processes use the same.
    next_token: AtomicU64,
    /// What the server's name contributes to rendezvous scores.
    pub(super) rendezvous_seed: u64,
    nonces: [NonceState; 2],
}

struct NonceState {
    /// The key of the item that holds the nonce.
    item: String,
    /// The last known nonce; 0 if unknown.
    known: AtomicU64,
    /// The number of changes of the server's address after which the nonce was last replaced.
    handled_changes: AtomicU64,
    /// Held while the nonce is replaced because of a new address.
    replacing: Mutex<()>,
}

impl Server {
    /// Resolves the server's name. Connections are opened on demand.
    pub(super) fn find(name: &str, settings: &ConnectionSettings, events: Events) -> Result<Self> {
        let finding = || format!("find the memcached server {name}");
        let nonce = |space: KeySpace| NonceState {
            item: format!("{}:{}:nonce", settings.namespace, space.letter()),
            known: AtomicU64::new(0),
            handled_changes: AtomicU64::new(0),
            replacing: Mutex::default(),
        };
        let token = u64::from_be_bytes(id::random("draw a token for memcached")?);
        Ok(Server {
            process: Process::current(),
            name: name.to_owned(),
            pool: Pool::new(name, settings, events)
                .map_err(|failure| failure.into_error(finding()))?,
            next_token: AtomicU64::new(token),
            rendezvous_seed: rendezvous::server_seed(name),
            nonces: [nonce(KeySpace::Sessions), nonce(KeySpace::Entries)],
        })
    }

    fn nonce(&self, space: KeySpace) -> &NonceState {
        let [sessions, entries] = &self.nonces;
        match space {
            KeySpace::Sessions => sessions,
            KeySpace::Entries => entries,
        }
    }

    /// Returns the last known nonce; 0 if unknown.
    pub(super) fn known_nonce(&self, space: KeySpace) -> u64 {
        self.nonce(space).known.load(Ordering::SeqCst)
    }

    fn remember_nonce(&self, space: KeySpace, nonce: u64) {
        self.nonce(space).known.store(nonce, Ordering::SeqCst);
    }

    /// Sends commands in one batch without checking the nonce.
    pub(super) fn send(
        &self,
        context: CallContext,
        commands: impl FnOnce(&mut Batch),
    ) -> Result<Replies> {
        self.process.check()?;
        let mut batch = Batch::new(self.next_token.fetch_add(TOKENS_PER_BATCH, Ordering::Relaxed));
        commands(&mut batch);
        let error = |failure: CommandFailure| {
            failure.into_error(format!("{} at {}", context.operation, self.name))
        };
        let replies = self.pool.exchange(&batch, context.deadline).map_err(error)?;
        let replies: Vec<_> = replies.into_iter().map(|reply| reply.map_err(error)).collect();
        Ok(replies.into_iter())
    }

    /// Sends one command without checking the nonce.
    pub(super) fn send_one(
        &self,
        context: CallContext,
        command: impl FnOnce(&mut Batch),
    ) -> Result<MetaReply> {
        next_reply(&mut self.send(context, command)?, context.operation)
    }

    /// Sends commands on keys with the current nonce, together with a read of it. If the nonce
    /// was outdated, the commands have affected only unreachable items, and are sent again.
    pub(super) fn send_with_nonce(
        &self,
        context: CallContext,
        commands: impl Fn(u64, &mut Batch),
    ) -> Result<(u64, Replies)> {
        self.process.check()?;
        for _ in 0..MAX_ATTEMPTS {
            let nonce = match self.known_nonce(context.space) {
                0 => self.learn_nonce(context)?,
                nonce => nonce,
            };
            let mut replies = self.send(context, |batch| {
                self.add_nonce_read(context.space, batch);
                commands(nonce, batch);
            })?;
            if self.nonce_is_confirmed(context, nonce, &mut replies)? {
                return Ok((nonce, replies));
            }
        }
        Err(being_cleared(context.operation))
    }

    /// Adds the command that reads the nonce.
    pub(super) fn add_nonce_read(&self, space: KeySpace, batch: &mut Batch) {
        batch.get(&self.nonce(space).item, None);
    }

    /// Returns whether the next reply, which is to [`add_nonce_read`](Self::add_nonce_read), is
    /// `nonce`. If not, the nonce was lost or replaced, and the next batch reads it again.
    pub(super) fn nonce_is_confirmed(
        &self,
        context: CallContext,
        nonce: u64,
        replies: &mut Replies,
    ) -> Result<bool> {
        let found = item_of(next_reply(replies, context.operation)?);
        // The name may have got another address just now, whose server has a copy of the nonce.
        let is_current = found.and_then(|found| read_nonce(&found.value)) == Some(nonce)
            && !self.address_has_changed(context.space);
        if !is_current {
            self.remember_nonce(context.space, 0);
        }
        Ok(is_current)
    }

    /// Reads the nonce. A lost nonce is replaced by a new random number, because the old one could
    /// make cleared items reachable again.
    fn learn_nonce(&self, context: CallContext) -> Result<u64> {
        let CallContext { space, operation, .. } = context;
        let mut attempts = 0;
        loop {
            self.invalidate_new_address(context)?;
            let found = item_of(self.send_one(context, |batch| self.add_nonce_read(space, batch))?);
            let (value, cas) = found.map_or((None, None), |f| (Some(f.value), Some(f.cas)));
            if cas == Some(0) {
                let why = "memcached was started without versions, by its option -C";
                return Err(Error::with_source(ErrorKind::Unsupported, operation, why));
            }
            if self.address_has_changed(space) {
                // The read itself may have gone to the new address.
                pause(context)?;
                continue;
            }
            if let Some(nonce) = value.as_deref().and_then(read_nonce) {
                self.remember_nonce(space, nonce);
                return Ok(nonce);
            }
            if value.as_deref() == Some(BLOCKED.as_bytes()) {
                pause(context)?;
                continue;
            }
            attempts += 1;
            if attempts > MAX_ATTEMPTS {
                return Err(being_cleared(operation));
            }
            // If another client was faster, its nonce is read in the next round.
            let when = cas.map_or(WriteCondition::Absent, WriteCondition::Version);
            self.store_nonce(context, new_nonce()?, when)?;
        }
    }

    /// Makes the items at a new address of this server unreachable, because they may be older than
    /// changes that were made at the old address. One thread does it, and the others wait.
    fn invalidate_new_address(&self, context: CallContext) -> Result<()> {
        let nonce = self.nonce(context.space);
        while self.address_has_changed(context.space) {
            let _replacing = match nonce.replacing.try_lock() {
                Ok(replacing) => replacing,
                Err(TryLockError::Poisoned(replacing)) => replacing.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    pause(context)?;
                    continue;
                }
            };
            let changes = self.pool.address_changes();
            if nonce.handled_changes.load(Ordering::SeqCst) != changes {
                self.replace_nonce(context)?;
                nonce.handled_changes.store(changes, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Returns whether the address has changed since the items there were made unreachable.
    fn address_has_changed(&self, space: KeySpace) -> bool {
        self.nonce(space).handled_changes.load(Ordering::SeqCst) != self.pool.address_changes()
    }

    fn store_nonce(
        &self,
        context: CallContext,
        nonce: u64,
        when: WriteCondition,
    ) -> Result<MetaReply> {
        self.set_nonce_item(context, &format!("{nonce:016x}"), 0, when)
    }

    fn set_nonce_item(
        &self,
        context: CallContext,
        value: &str,
        seconds: u32,
        when: WriteCondition,
    ) -> Result<MetaReply> {
        let key = &self.nonce(context.space).item;
        self.send_one(context, |batch| batch.set(key, value.as_bytes(), seconds, when))
    }

    /// Makes all items of this space unreachable, and unblocks the space.
    pub(super) fn replace_nonce(&self, context: CallContext) -> Result<()> {
        let nonce = new_nonce()?;
        self.store_nonce(context, nonce, WriteCondition::Always)?;
        self.remember_nonce(context.space, nonce);
        Ok(())
    }

    /// Makes all items of this space unreachable, and prevents new ones until the nonce is
    /// replaced.
    pub(super) fn block(&self, context: CallContext) -> Result<()> {
        self.set_nonce_item(context, BLOCKED, BLOCKED_FOR, WriteCondition::Always)?;
        self.remember_nonce(context.space, 0);
        Ok(())
    }
}

/// Returns the next reply.
pub(super) fn next_reply(replies: &mut Replies, operation: &'static str) -> Result<MetaReply> {
    replies.next().unwrap_or_else(|| Err(missing_reply(operation)))
}

pub(super) fn missing_reply(operation: &'static str) -> Error {
    Error::with_source(ErrorKind::Unavailable, operation, "a reply is missing")
}

/// Pauses before another attempt to learn the nonce, unless the call has waited for too long.
fn pause(context: CallContext) -> Result<()> {
    if context.is_late() {
        return Err(being_cleared(context.operation));
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

fn read_nonce(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let nonce = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    nonce.filter(|nonce| *nonce != 0)
}

fn new_nonce() -> Result<u64> {
    Ok(u64::from_be_bytes(id::random("draw a nonce for memcached")?).max(1))
}
