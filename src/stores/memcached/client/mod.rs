//! The client of the memcached servers: commands, and the choice of the server for each id hash.
//!
//! Every key contains the nonce of its server, a random number that is stored in memcached itself.
//! When the nonce is replaced, as by `clear`, or is lost, or the server restarts, all earlier items
//! become unreachable for good.

mod address;
mod connection;
mod pool;
mod protocol;
mod server;

use std::borrow::Cow;
use std::fmt::{self, Debug, Display};
use std::time::{Duration, Instant};

use base64::display::Base64Display;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::id::SessionIdHash;
use crate::stores::memcached::builder::DEFAULT_NAMESPACE;
use crate::stores::memcached::client::protocol::{
    Batch, ItemReply, LeaseReply, MetaReply, WriteCondition,
};
use crate::stores::memcached::client::server::{
    MIN_BLOCKED_FOR, Server, missing_reply, next_reply,
};
use crate::stores::memcached::{MARGIN, rendezvous};

/// The maximum number of keys in one batch, which has the time of one call. If large items take
/// longer, the rest fails.
const BATCH: usize = 64;

/// How long a fill lease lasts, in seconds. After that, memcached grants a new one.
const LEASE_SECONDS: u32 = 10;

/// An upper bound of an item's size beyond its key and value, in bytes.
const OVERHEAD: usize = 256;

/// The kind of an item, which is a part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeySpace {
    Sessions,
    Entries,
}

impl KeySpace {
    fn letter(self) -> char {
        match self {
            KeySpace::Sessions => 's',
            KeySpace::Entries => 'c',
        }
    }
}

/// What the commands of one call have in common: the kind of their items, the operation that errors
/// name, and the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallContext {
    pub(super) space: KeySpace,
    pub(super) operation: &'static str,
    /// The time until which the call is tried again while other clients change the same items.
    retry_until: Instant,
    /// The time at which the call fails, whatever it waits for.
    deadline: Instant,
}

impl CallContext {
    /// Returns whether it is too late for another attempt.
    pub(super) fn is_late(self) -> bool {
        Instant::now() >= self.retry_until
    }
}

/// The connection settings.
#[derive(Clone, Debug)]
pub(super) struct ConnectionSettings {
    pub(super) servers: Vec<String>,
    pub(super) namespace: String,
    pub(super) connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) io_timeout: Duration,
    pub(super) item_limit: usize,
}

/// The version of an item, for conditional writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) nonce: u64,
    pub(super) cas: u64,
}

/// An item in the version that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemVersion {
    pub(super) id_hash: SessionIdHash,
    pub(super) version: Version,
}

type CommandResult<T> = std::result::Result<T, CommandFailure>;

/// Why a command has no result.
#[derive(Clone, Debug)]
struct CommandFailure {
    kind: ErrorKind,
    why: String,
    /// Whether the server still replies to the other commands of the batch.
    batch_continues: bool,
}

impl CommandFailure {
    fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        CommandFailure { kind, why: why.into(), batch_continues: false }
    }

    fn into_error(self, operation: impl Into<Cow<'static, str>>) -> Error {
        Error::with_source(self.kind, operation, self.why)
    }
}

fn unavailable(why: impl Into<String>) -> CommandFailure {
    CommandFailure::new(ErrorKind::Unavailable, why)
}

const TIMED_OUT: &str = "the server did not answer in time";

/// Returns the time until `deadline`, or `timeout` if that is less.
fn rest_until(deadline: Instant, timeout: Duration) -> CommandResult<Duration> {
    let rest = deadline.saturating_duration_since(Instant::now()).min(timeout);
    if rest.is_zero() { Err(unavailable(TIMED_OUT)) } else { Ok(rest) }
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) at: ItemVersion,
    pub(super) value: Vec<u8>,
}

/// The result of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Stored(Version),
    /// The item has another version.
    Changed,
    /// There is no item.
    Missing,
}

impl Written {
    pub(super) fn is_stored(self) -> bool {
        matches!(self, Written::Stored(_))
    }
}

/// The result of a read that takes a lease on a miss.
#[derive(Debug)]
pub(super) enum Leased {
    Item(Item),
    Granted(Version),
    /// Another client holds the lease.
    Busy,
}

/// A value to store in place of one version of an item.
pub(super) struct Replacement {
    pub(super) at: ItemVersion,
    pub(super) value: Vec<u8>,
    pub(super) ttl: Option<Duration>,
}

pub(super) struct ServerClient {
    servers: Vec<Server>,
    settings: ConnectionSettings,
}

impl Debug for ServerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerClient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl ServerClient {
    /// Resolves the names of the servers. Connections are opened on demand.
    pub(super) fn new(settings: ConnectionSettings, events: &Events) -> Result<Self> {
        let server = |name: &String| Server::find(name, &settings, events.clone());
        let servers = settings.servers.iter().map(server).collect::<Result<_>>()?;
        Ok(ServerClient { servers, settings })
    }

    /// Makes the context of a call that begins now.
    pub(super) fn context(&self, space: KeySpace, operation: &'static str) -> CallContext {
        let retry_until = Instant::now() + self.settings.io_timeout;
        let deadline = retry_until + self.settings.connect_timeout;
        CallContext { space, operation, retry_until, deadline }
    }

    pub(super) fn has_default_namespace(&self) -> bool {
        self.settings.namespace == DEFAULT_NAMESPACE
    }

    /// Returns the number of servers.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Returns the index of the server that holds `id_hash`.
    pub(super) fn server_index(&self, id_hash: &SessionIdHash) -> usize {
        let score =
            |(_, server): &(usize, &Server)| rendezvous::score(server.rendezvous_seed, id_hash);
        self.servers.iter().enumerate().max_by_key(score).map_or(0, |(index, _)| index)
    }

    fn server_at(&self, server_index: usize) -> Result<&Server> {
        let make_error = || {
            let why = "there is no such server";
            Error::with_source(ErrorKind::Invalid, "choose a memcached server", why)
        };
        self.servers.get(server_index).ok_or_else(make_error)
    }

    fn server(&self, id_hash: &SessionIdHash) -> Result<&Server> {
        self.server_at(self.server_index(id_hash))
    }

    fn key(&self, space: KeySpace, nonce: u64, id_hash: &SessionIdHash) -> impl Display {
        let namespace = &self.settings.namespace;
        let letter = space.letter();
        let id_hash = Base64Display::new(id_hash.as_bytes(), &URL_SAFE_NO_PAD);
        format!("{namespace}:{letter}:{nonce:016x}:{id_hash}")
    }

    /// Sends one command on the item of `id_hash`, under the current nonce.
    fn send_one_with_nonce(
        &self,
        context: CallContext,
        id_hash: &SessionIdHash,
        command: impl Fn(&mut Batch, &dyn Display),
    ) -> Result<(u64, MetaReply)> {
        let (nonce, mut replies) =
            self.server(id_hash)?.send_with_nonce(context, |nonce, batch| {
                command(batch, &self.key(context.space, nonce, id_hash));
            })?;
        Ok((nonce, next_reply(&mut replies, context.operation)?))
    }

    /// Reads the item of `id_hash`.
    pub(super) fn get(
        &self,
        context: CallContext,
        id_hash: &SessionIdHash,
    ) -> Result<Option<Item>> {
        let get = |batch: &mut Batch, key: &dyn Display| batch.get(key, None);
        let (nonce, reply) = self.send_one_with_nonce(context, id_hash, get)?;
        Ok(item(nonce, id_hash, reply))
    }

    /// Reads the items of many id hashes.
    pub(super) fn get_many<'h>(
        &self,
        context: CallContext,
        id_hashes: impl IntoIterator<Item = &'h SessionIdHash>,
    ) -> Vec<Result<Option<Item>>> {
        let send = |server: &Server, context: CallContext, chunk: &[&SessionIdHash]| {
            let (nonce, replies) = server.send_with_nonce(context, |nonce, batch| {
                for id_hash in chunk {
                    batch.get(self.key(context.space, nonce, id_hash), None);
                }
            })?;
            let replies = chunk.iter().zip(replies);
            Ok(replies.map(|(id_hash, reply)| Ok(item(nonce, id_hash, reply?))).collect())
        };
        self.in_batches(context, id_hashes, |id_hash| id_hash, send)
    }

    /// Reads the item of `id_hash`, or takes a fill lease if there is none.
    pub(super) fn get_or_lease(
        &self,
        context: CallContext,
        id_hash: &SessionIdHash,
    ) -> Result<Leased> {
        let get = |batch: &mut Batch, key: &dyn Display| batch.get(key, Some(LEASE_SECONDS));
        let (nonce, reply) = self.send_one_with_nonce(context, id_hash, get)?;
        Ok(match reply {
            MetaReply::Item(ItemReply { lease: Some(LeaseReply::Granted), cas, .. }) => {
                Leased::Granted(Version { nonce, cas })
            }
            reply => item(nonce, id_hash, reply).map_or(Leased::Busy, Leased::Item),
        })
    }

    /// Stores a value if there is no item; returns `None` if there is one.
    pub(super) fn add(
        &self,
        context: CallContext,
        id_hash: &SessionIdHash,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Option<Version>> {
        self.check_size(value, context.operation)?;
        let add = |batch: &mut Batch, key: &dyn Display| {
            batch.set(key, value, seconds(ttl), WriteCondition::Absent);
        };
        let (nonce, reply) = self.send_one_with_nonce(context, id_hash, add)?;
        Ok(match written(nonce, &reply) {
            Written::Stored(version) => Some(version),
            Written::Changed | Written::Missing => None,
        })
    }

    /// Returns whether the nonce of this version is the last one that this process has seen. Sends
    /// nothing.
    pub(super) fn nonce_is_current(&self, space: KeySpace, at: ItemVersion) -> bool {
        self.server(&at.id_hash).is_ok_and(|server| server.known_nonce(space) == at.version.nonce)
    }

    /// Executes [`replace`](Self::replace). If the nonce of the version is no longer current after
    /// it, the stored item is unreachable, and the result is [`Written::Missing`].
    pub(super) fn replace_with_nonce_check(
        &self,
        context: CallContext,
        new: &Replacement,
    ) -> Result<Written> {
        self.check_size(&new.value, context.operation)?;
        let server = self.server(&new.at.id_hash)?;
        let mut replies = server.send(context, |batch| {
            self.set(batch, context.space, new);
            server.add_nonce_read(context.space, batch);
        })?;
        let nonce = new.at.version.nonce;
        let written = written(nonce, &next_reply(&mut replies, context.operation)?);
        let is_reachable = server.nonce_is_confirmed(context, nonce, &mut replies)?;
        Ok(if is_reachable { written } else { Written::Missing })
    }

    /// Stores a value in place of one version of an item.
    pub(super) fn replace(&self, context: CallContext, new: &Replacement) -> Result<Written> {
        self.check_size(&new.value, context.operation)?;
        let set = |batch: &mut Batch| self.set(batch, context.space, new);
        let reply = self.server(&new.at.id_hash)?.send_one(context, set)?;
        Ok(written(new.at.version.nonce, &reply))
    }

    /// Executes [`replace`](Self::replace) for many items.
    pub(super) fn replace_many<'r>(
        &self,
        context: CallContext,
        replacements: impl IntoIterator<Item = &'r Replacement>,
    ) -> Vec<Result<Written>> {
        let send = |server: &Server, context: CallContext, chunk: &[&Replacement]| {
            // An item that is too large does not keep the others from being stored.
            let fits = |new: &&&Replacement| self.check_size(&new.value, context.operation).is_ok();
            let (_, mut replies) = server.send_with_nonce(context, |_, batch| {
                chunk.iter().filter(fits).for_each(|new| self.set(batch, context.space, new));
            })?;
            let reply = |new: &&Replacement| {
                self.check_size(&new.value, context.operation)?;
                Ok(written(new.at.version.nonce, &next_reply(&mut replies, context.operation)?))
            };
            Ok(chunk.iter().map(reply).collect())
        };
        self.in_batches(context, replacements, |new| &new.at.id_hash, send)
    }

    fn set(&self, batch: &mut Batch, space: KeySpace, new: &Replacement) {
        // The key under which this version was read. Under the key of another nonce the version
        // number would be meaningless.
        let Version { nonce, cas } = new.at.version;
        let key = self.key(space, nonce, &new.at.id_hash);
        batch.set(key, &new.value, seconds(new.ttl), WriteCondition::Version(cas));
    }

    /// Removes one version of an item. Returns true if the item had that version and was removed.
    pub(super) fn remove(&self, context: CallContext, at: ItemVersion) -> Result<bool> {
        let ItemVersion { id_hash, version } = at;
        let key = self.key(context.space, version.nonce, &id_hash);
        let delete = |batch: &mut Batch| batch.delete(key, WriteCondition::Version(version.cas));
        let reply = self.server(&id_hash)?.send_one(context, delete)?;
        Ok(matches!(reply, MetaReply::Done { .. }))
    }

    /// Removes the items of these id hashes in any version, and ends their fill leases.
    pub(super) fn remove_all(
        &self,
        context: CallContext,
        id_hashes: &[SessionIdHash],
    ) -> Result<()> {
        let send = |server: &Server, context: CallContext, chunk: &[&SessionIdHash]| {
            let (_, replies) = server.send_with_nonce(context, |nonce, batch| {
                for id_hash in chunk {
                    batch.delete(self.key(context.space, nonce, id_hash), WriteCondition::Always);
                }
            })?;
            Ok(replies.map(|reply| reply.map(drop)).collect())
        };
        // If a server fails, the other servers still receive theirs.
        self.in_batches(context, id_hashes, |id_hash| id_hash, send).into_iter().collect()
    }

    /// Groups many items by server, and sends each group in batches, each of which has the time of
    /// one call. The results are in the order of the items.
    fn in_batches<'a, T: 'a, R>(
        &self,
        CallContext { space, operation, .. }: CallContext,
        items: impl IntoIterator<Item = &'a T>,
        id_hash: impl Fn(&T) -> &SessionIdHash,
        send: impl Fn(&Server, CallContext, &[&'a T]) -> Result<Vec<Result<R>>>,
    ) -> Vec<Result<R>> {
        let with_server =
            |item: &'a T| (self.server_index(id_hash(item)), item, Err(missing_reply(operation)));
        let mut all: Vec<(usize, &T, Result<R>)> = items.into_iter().map(with_server).collect();
        for (index, server) in self.servers.iter().enumerate() {
            let mut group: Vec<_> = all.iter_mut().filter(|(of, ..)| *of == index).collect();
            // After a failure the other batches to this server are skipped: each would wait for a
            // timeout.
            let mut failure: Option<Error> = None;
            for chunk in group.chunks_mut(BATCH) {
                let batch: Vec<&T> = chunk.iter().map(|(_, item, _)| *item).collect();
                let sent = match &failure {
                    Some(error) => Err(error.clone()),
                    None => send(server, self.context(space, operation), &batch),
                };
                let batch_results = sent.unwrap_or_else(|error| {
                    failure = Some(error.clone());
                    batch.iter().map(|_| Err(error.clone())).collect()
                });
                for ((.., result), batch_result) in chunk.iter_mut().zip(batch_results) {
                    *result = batch_result;
                }
            }
        }
        all.into_iter().map(|(.., result)| result).collect()
    }

    /// Makes all items of this space on one server unreachable.
    pub(super) fn replace_nonce(&self, server_index: usize, context: CallContext) -> Result<()> {
        self.server_at(server_index)?.replace_nonce(context)
    }

    /// Makes all items of this space unreachable on all servers. At one time all servers are
    /// blocked, so no session is moved from one server to another that was cleared before.
    pub(super) fn clear(&self, space: KeySpace, operation: &'static str) -> Result<()> {
        let mut outcome = Ok(());
        let context = || self.context(space, operation);
        if self.servers.len() > 1 {
            let began = Instant::now();
            // If a server fails, the others are cleared all the same.
            self.servers
                .iter()
                .for_each(|server| keep_first_error(&mut outcome, server.block(context())));
            if began.elapsed() > MIN_BLOCKED_FOR {
                let why = "the servers answered too slowly to be cleared together";
                let late = Error::with_source(ErrorKind::Unavailable, operation, why);
                keep_first_error(&mut outcome, Err(late));
            }
        }
        for server in &self.servers {
            keep_first_error(&mut outcome, server.replace_nonce(context()));
        }
        outcome
    }

    /// Checks the size before a value is sent, because memcached drops the old value when it
    /// refuses a new one.
    fn check_size(&self, value: &[u8], operation: &'static str) -> Result<()> {
        let bytes = value.len() + OVERHEAD;
        let limit = self.settings.item_limit;
        if bytes <= limit {
            return Ok(());
        }
        let why = format!("the item would have {bytes} bytes, the limit is {limit}");
        Err(Error::with_source(ErrorKind::TooLarge, operation, why))
    }
}

fn keep_first_error(outcome: &mut Result<()>, next: Result<()>) {
    if outcome.is_ok() {
        *outcome = next;
    }
}

/// Returns the item of a read; `None` for a miss, also while another client holds the lease.
fn item(nonce: u64, id_hash: &SessionIdHash, reply: MetaReply) -> Option<Item> {
    match reply {
        MetaReply::Item(ItemReply { value, cas, lease: None }) => {
            let at = ItemVersion { id_hash: *id_hash, version: Version { nonce, cas } };
            Some(Item { at, value })
        }
        _ => None,
    }
}

fn written(nonce: u64, reply: &MetaReply) -> Written {
    match reply {
        MetaReply::Done { cas } => Written::Stored(Version { nonce, cas: cas.unwrap_or_default() }),
        MetaReply::Missing => Written::Missing,
        MetaReply::ConditionFailed | MetaReply::Item(_) => Written::Changed,
    }
}

/// Returns a time to live in whole seconds, at least one; 0 if the item never expires.
///
/// Above 30 days memcached takes the number for a time of the server's clock, as a signed number
/// of 32 bits: a wrong clock, and every time after January 2038, would end the session. Such items
/// stay until memcached needs their memory; the deadline inside the item ends the session.
fn seconds(ttl: Option<Duration>) -> u32 {
    const LONGEST: u64 = 30 * 24 * 60 * 60;
    match ttl.map(|ttl| ttl.as_secs().max(1)) {
        Some(seconds) if seconds <= LONGEST + MARGIN.as_secs() => {
            u32::try_from(seconds.min(LONGEST)).unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_sent_in_seconds_or_as_no_expiry() {
        const DAY: u64 = 86_400;
        for (ttl, sent) in [
            (None, 0),
            (Some(Duration::ZERO), 1),
            (Some(Duration::from_millis(2999)), 2),
            (Some(Duration::from_secs(30 * DAY)), 2_592_000),
            (Some(Duration::from_secs(30 * DAY + 60)), 2_592_000),
            (Some(Duration::from_secs(30 * DAY + 61)), 0),
            (Some(Duration::from_secs(12 * 365 * DAY)), 0),
            (Some(Duration::MAX), 0),
        ] {
            assert_eq!(seconds(ttl), sent, "{ttl:?}");
        }
    }
}
