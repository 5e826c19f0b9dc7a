//! The one module that knows the `memcache` crate: commands on the servers, and which server has
//! which key.
//!
//! Every key name holds its server's epoch, a random number that stands in memcached itself. What
//! is read, added or deleted is sent in one batch behind a read of the epoch, and sent again under
//! the right name if that has changed. A raised epoch, a lost one and a restarted server therefore
//! have one effect: what was stored before is out of reach for good.

mod failure;

use std::fmt::{self, Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memcache::exp::{
    Delete, Error as ClientError, Get, GetResult, GetStatus, Meta, MetaClient, MutationResult,
    MutationStatus, Op, OpResult, Set, Ttl,
};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Handle, SessionKey};
use crate::store::memcached::client::failure::{failure, uninterrupted};
use crate::store::memcached::share;

/// So often a batch is sent again because somebody raised the epoch meanwhile.
const TRIES: usize = 8;

/// Whoever took a lease and has not filled by then has failed; memcached gives another one.
const LEASE_SECONDS: u32 = 10;

/// What an item takes beside its key and value, generously.
const OVERHEAD: usize = 256;

/// What kind of values a key leads to. A store and a cache in one namespace do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Sessions,
    Entries,
}

impl Space {
    fn letter(self) -> char {
        match self {
            Space::Sessions => 's',
            Space::Entries => 'c',
        }
    }
}

/// How the servers are reached.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub(super) servers: Vec<String>,
    pub(super) namespace: String,
    pub(super) connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) io_timeout: Duration,
    pub(super) item_limit: usize,
}

/// One version of one item: what a conditional write is conditional on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) epoch: u64,
    pub(super) cas: u64,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) value: Vec<u8>,
    pub(super) stamp: Stamp,
}

/// What a conditional write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Stored(Stamp),
    /// The item is another version now.
    Changed,
    /// There is no such item.
    Missing,
}

/// What a read that asks for a lease found.
#[derive(Debug)]
pub(super) enum Leased {
    Item(Item),
    Granted(Stamp),
    /// Somebody else holds the lease.
    Busy,
}

/// A value that is to replace one version of an item.
pub(super) struct Replacement {
    pub(super) key: SessionKey,
    pub(super) stamp: Stamp,
    pub(super) value: Vec<u8>,
    pub(super) life: Option<Duration>,
}

struct Server {
    client: MetaClient,
    /// What its name weighs when a key chooses its server.
    weight: u64,
    /// The epochs of both spaces as they were last seen; 0 for not yet.
    epochs: [AtomicU64; 2],
}

impl Server {
    fn epoch(&self, space: Space) -> Option<&AtomicU64> {
        self.epochs.get(space as usize)
    }

    fn seen(&self, space: Space) -> u64 {
        self.epoch(space).map_or(0, |epoch| epoch.load(Ordering::SeqCst))
    }

    fn note(&self, space: Space, epoch: u64) {
        if let Some(seen) = self.epoch(space) {
            seen.store(epoch, Ordering::SeqCst);
        }
    }
}

pub(super) struct Client {
    servers: Vec<Server>,
    /// The names of the items that hold the epochs.
    epoch_of_sessions: String,
    epoch_of_entries: String,
    reach: Reach,
}

impl Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("reach", &self.reach).finish_non_exhaustive()
    }
}

type Answers = Vec<Result<OpResult, ClientError>>;

impl Client {
    /// Resolves the names of the servers. Connections are opened on demand.
    pub(super) fn new(reach: Reach) -> Result<Self> {
        let server = |name: &String| {
            let client = MetaClient::builder()
                .max_idle(reach.connections)
                .connect_timeout(Some(reach.connect_timeout))
                .io_timeout(Some(reach.io_timeout))
                .connect(name.as_str())
                .map_err(|source| failure(format!("find the memcached server {name}"), source))?;
            Ok(Server { client, weight: share::weight(name), epochs: Default::default() })
        };
        let servers = reach.servers.iter().map(server).collect::<Result<_>>()?;
        let name = |space: Space| format!("{}:{}:epoch", reach.namespace, space.letter());
        let (epoch_of_sessions, epoch_of_entries) = (name(Space::Sessions), name(Space::Entries));
        Ok(Client { servers, epoch_of_sessions, epoch_of_entries, reach })
    }

    fn server(&self, key: &SessionKey) -> Result<&Server> {
        let best = self.servers.iter().max_by_key(|server| share::score(server.weight, key));
        best.ok_or_else(|| Error::new(ErrorKind::Invalid, "choose a memcached server"))
    }

    fn name(&self, space: Space, epoch: u64, key: &SessionKey) -> String {
        let (namespace, letter) = (&self.reach.namespace, space.letter());
        let mut name = String::with_capacity(namespace.len() + 64);
        // Writing into a string cannot fail.
        let _ = write!(name, "{namespace}:{letter}:{epoch:016x}:");
        URL_SAFE_NO_PAD.encode_string(key.as_bytes(), &mut name);
        name
    }

    fn name_of_epoch(&self, space: Space) -> &str {
        match space {
            Space::Sessions => &self.epoch_of_sessions,
            Space::Entries => &self.epoch_of_entries,
        }
    }

    /// The item under `key`.
    pub(super) fn get(
        &self,
        space: Space,
        key: &SessionKey,
        doing: &'static str,
    ) -> Result<Option<Item>> {
        let server = self.server(key)?;
        let (epoch, answers) = self.exchange(server, space, doing, |epoch| {
            vec![Get::new(self.name(space, epoch, key)).meta(Meta::NONE.cas()).into()]
        })?;
        item(epoch, got(answers.into_iter().next(), doing)?)
    }

    /// The items under many keys, asked for in one round trip a server.
    pub(super) fn get_many(
        &self,
        space: Space,
        keys: &[SessionKey],
        doing: &'static str,
    ) -> Vec<Result<Option<Item>>> {
        let mut found: Vec<_> = keys.iter().map(|_| Ok(None)).collect();
        for (server, indices) in self.shares(keys) {
            let mine = || indices.iter().filter_map(|index| keys.get(*index));
            let answers = self.exchange(server, space, doing, |epoch| {
                let get = |key| Get::new(self.name(space, epoch, key)).meta(Meta::NONE.cas());
                mine().map(|key| get(key).into()).collect()
            });
            let (epoch, mut answers) = match answers {
                Ok((epoch, answers)) => (epoch, answers.into_iter()),
                Err(error) => {
                    for index in &indices {
                        put(&mut found, *index, Err(error.clone()));
                    }
                    continue;
                }
            };
            for index in &indices {
                let item = got(answers.next(), doing).and_then(|result| item(epoch, result));
                put(&mut found, *index, item);
            }
        }
        found
    }

    /// The item under `key`, or the right to fill in what is missing.
    pub(super) fn get_or_lease(
        &self,
        space: Space,
        key: &SessionKey,
        doing: &'static str,
    ) -> Result<Leased> {
        let server = self.server(key)?;
        let (epoch, answers) = self.exchange(server, space, doing, |epoch| {
            vec![Get::new(self.name(space, epoch, key)).lease_ttl(LEASE_SECONDS).into()]
        })?;
        let result = got(answers.into_iter().next(), doing)?;
        Ok(match result.item.cas {
            Some(cas) if result.won_lease() => Leased::Granted(Stamp { epoch, cas }),
            _ => item(epoch, result)?.map_or(Leased::Busy, Leased::Item),
        })
    }

    /// Stores a value where there is none; `None` if there is one.
    pub(super) fn add(
        &self,
        space: Space,
        key: &SessionKey,
        value: &[u8],
        life: Option<Duration>,
        doing: &'static str,
    ) -> Result<Option<Stamp>> {
        self.check_size(value, doing)?;
        let server = self.server(key)?;
        let (epoch, answers) = self.exchange(server, space, doing, |epoch| {
            let set = Set::new(self.name(space, epoch, key), value).ttl(ttl(life)).return_cas();
            vec![set.add().into()]
        })?;
        Ok(match written(epoch, mutated(answers.into_iter().next(), doing)?) {
            Written::Stored(stamp) => Some(stamp),
            Written::Changed | Written::Missing => None,
        })
    }

    /// Whether everything that this process knows of speaks for this version being within reach.
    pub(super) fn is_within_reach(&self, space: Space, key: &SessionKey, stamp: Stamp) -> bool {
        self.server(key).is_ok_and(|server| server.seen(space) == stamp.epoch)
    }

    /// [`replace`](Self::replace), and whether the epoch of the version was still the server's
    /// after it. If not, what was stored is out of reach.
    pub(super) fn replace_within_reach(
        &self,
        space: Space,
        new: &Replacement,
        doing: &'static str,
    ) -> Result<(Written, bool)> {
        let (server, set) = (self.server(&new.key)?, self.set(space, new, doing)?);
        let epoch = Get::new(self.name_of_epoch(space));
        let batch: Vec<Op> = vec![set.into(), epoch.into()];
        let answers = uninterrupted(|| server.client.run_batch(batch.clone()));
        let mut answers = answers.map_err(|source| failure(doing, source))?.into_iter();
        let written = written(new.stamp.epoch, mutated(answers.next(), doing)?);
        let current = read_epoch(&got(answers.next(), doing)?) == Some(new.stamp.epoch);
        if !current {
            server.note(space, 0);
        }
        Ok((written, current))
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Stores a value in place of one version of an item.
    pub(super) fn replace(
        &self,
        space: Space,
        new: &Replacement,
        doing: &'static str,
    ) -> Result<Written> {
        let (server, set) = (self.server(&new.key)?, self.set(space, new, doing)?);
        let answer = uninterrupted(|| server.client.run(set.clone()));
        answer
            .map(|result| written(new.stamp.epoch, result))
            .map_err(|source| failure(doing, source))
    }

    /// [`replace`](Self::replace) for many, in one round trip a server.
    pub(super) fn replace_many(
        &self,
        space: Space,
        all: &[Replacement],
        doing: &'static str,
    ) -> Vec<Result<Written>> {
        let keys: Vec<SessionKey> = all.iter().map(|new| new.key).collect();
        let mut done: Vec<_> = all.iter().map(|_| Ok(Written::Missing)).collect();
        for (server, indices) in self.shares(&keys) {
            let (mut sent, mut sets) = (Vec::new(), Vec::new());
            for index in indices {
                let Some(new) = all.get(index) else { continue };
                match self.set(space, new, doing) {
                    Ok(set) => {
                        sent.push((index, new.stamp.epoch));
                        sets.push(set);
                    }
                    Err(error) => put(&mut done, index, Err(error)),
                }
            }
            match uninterrupted(|| server.client.run_many(sets.clone())) {
                Ok(answers) => {
                    for ((index, epoch), answer) in sent.into_iter().zip(answers) {
                        let answer = answer.map(|result| written(epoch, result));
                        put(&mut done, index, answer.map_err(|source| failure(doing, source)));
                    }
                }
                Err(source) => {
                    let error = failure(doing, source);
                    for (index, _) in sent {
                        put(&mut done, index, Err(error.clone()));
                    }
                }
            }
        }
        done
    }

    fn set(&self, space: Space, new: &Replacement, doing: &'static str) -> Result<Set> {
        self.check_size(&new.value, doing)?;
        // The name under which this version was read: were the epoch another one by now, the
        // number of the version would mean nothing.
        let Stamp { epoch, cas } = new.stamp;
        Ok(Set::new(self.name(space, epoch, &new.key), &new.value)
            .ttl(ttl(new.life))
            .compare_cas(cas)
            .return_cas())
    }

    /// Removes one version of an item. True if it was that version, and is gone now.
    pub(super) fn remove(
        &self,
        space: Space,
        key: &SessionKey,
        stamp: Stamp,
        doing: &'static str,
    ) -> Result<bool> {
        let delete = Delete::new(self.name(space, stamp.epoch, key)).compare_cas(stamp.cas);
        let server = self.server(key)?;
        let answer = uninterrupted(|| server.client.run(delete.clone()));
        answer.map(|result| result.applied()).map_err(|source| failure(doing, source))
    }

    /// Removes the items under these keys, whatever they are, and ends the leases on them.
    pub(super) fn remove_all(
        &self,
        space: Space,
        keys: &[SessionKey],
        doing: &'static str,
    ) -> Result<()> {
        let mut outcome = Ok(());
        for (server, indices) in self.shares(keys) {
            let mine = || indices.iter().filter_map(|index| keys.get(*index));
            let answers = self.exchange(server, space, doing, |epoch| {
                mine().map(|key| Delete::new(self.name(space, epoch, key)).into()).collect()
            });
            let done = answers.and_then(|(_, answers)| {
                answers.into_iter().try_for_each(|answer| mutated(Some(answer), doing).map(drop))
            });
            // A server that is down keeps nothing from being told to the others.
            outcome = outcome.and(done);
        }
        outcome
    }

    /// Puts everything in this space out of reach, on all servers.
    pub(super) fn raise_epoch(&self, space: Space, doing: &'static str) -> Result<()> {
        let mut outcome = Ok(());
        for server in &self.servers {
            let epoch = new_epoch()?;
            let set = Set::new(self.name_of_epoch(space), format!("{epoch:016x}")).ttl(Ttl::NEVER);
            let done = uninterrupted(|| server.client.run(set.clone()))
                .map_err(|source| failure(doing, source));
            if done.is_ok() {
                server.note(space, epoch);
            }
            outcome = outcome.and(done.map(drop));
        }
        outcome
    }

    /// Sends operations on names under the server's epoch. What was sent under an epoch of the
    /// past has changed nothing that can be reached, and is sent again.
    fn exchange(
        &self,
        server: &Server,
        space: Space,
        doing: &'static str,
        operations: impl Fn(u64) -> Vec<Op>,
    ) -> Result<(u64, Answers)> {
        for _ in 0..TRIES {
            let epoch = match server.seen(space) {
                0 => self.learn_epoch(server, space, doing)?,
                epoch => epoch,
            };
            let mut batch: Vec<Op> = vec![Get::new(self.name_of_epoch(space)).into()];
            batch.extend(operations(epoch));
            let answers = uninterrupted(|| server.client.run_batch(batch.clone()))
                .map_err(|source| failure(doing, source))?;
            let mut answers = answers.into_iter();
            let current = got(answers.next(), doing)?;
            if read_epoch(&current) == Some(epoch) {
                return Ok((epoch, answers.collect()));
            }
            // Lost, or raised: what is there now is learned by the next round.
            server.note(space, 0);
        }
        Err(Error::with_source(ErrorKind::Busy, doing, "others keep clearing the store"))
    }

    /// Reads the epoch. One that was lost is replaced by a number that never was: were it the old
    /// one, it could bring back what was cleared.
    fn learn_epoch(&self, server: &Server, space: Space, doing: &'static str) -> Result<u64> {
        let name = self.name_of_epoch(space);
        let failed = |source| failure(doing, source);
        for _ in 0..TRIES {
            let found = uninterrupted(|| server.client.run(Get::new(name).meta(Meta::NONE.cas())));
            let found = found.map_err(failed)?;
            if let Some(epoch) = read_epoch(&found) {
                server.note(space, epoch);
                return Ok(epoch);
            }
            let epoch = new_epoch()?;
            let set = Set::new(name, format!("{epoch:016x}")).ttl(Ttl::NEVER);
            let set = match found.item.cas {
                Some(cas) => set.compare_cas(cas),
                None => set.add(),
            };
            // Whoever was faster has made the epoch for all.
            uninterrupted(|| server.client.run(set.clone())).map_err(failed)?;
        }
        Err(Error::with_source(ErrorKind::Busy, doing, "others keep clearing the store"))
    }

    /// The indices of the keys, by server.
    fn shares(&self, keys: &[SessionKey]) -> Vec<(&Server, Vec<usize>)> {
        let mut shares: Vec<(&Server, Vec<usize>)> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let Ok(server) = self.server(key) else { continue };
            match shares.iter_mut().find(|(other, _)| std::ptr::eq(*other, server)) {
                Some((_, indices)) => indices.push(index),
                None => shares.push((server, vec![index])),
            }
        }
        shares
    }

    /// Before a value is sent: memcached drops the old value when it refuses a new one.
    fn check_size(&self, value: &[u8], doing: &'static str) -> Result<()> {
        let (bytes, limit) = (value.len() + OVERHEAD, self.reach.item_limit);
        match bytes <= limit {
            true => Ok(()),
            false => Err(Error::with_source(
                ErrorKind::TooLarge,
                doing,
                format!("the item would have {bytes} bytes, the limit is {limit}"),
            )),
        }
    }
}

fn put<T>(all: &mut [T], index: usize, value: T) {
    if let Some(place) = all.get_mut(index) {
        *place = value;
    }
}

fn got(answer: Option<Result<OpResult, ClientError>>, doing: &'static str) -> Result<GetResult> {
    match answer {
        Some(Ok(OpResult::Get(result))) => Ok(result),
        Some(Err(source)) => Err(failure(doing, source)),
        _ => Err(Error::with_source(ErrorKind::Unavailable, doing, "an answer is missing")),
    }
}

fn mutated(
    answer: Option<Result<OpResult, ClientError>>,
    doing: &'static str,
) -> Result<MutationResult> {
    match answer {
        Some(Ok(OpResult::Mutation(result))) => Ok(result),
        Some(Err(source)) => Err(failure(doing, source)),
        _ => Err(Error::with_source(ErrorKind::Unavailable, doing, "an answer is missing")),
    }
}

/// The item of a read; none for a miss and for what somebody else is filling in.
fn item(epoch: u64, result: GetResult) -> Result<Option<Item>> {
    match (result.status, result.item.cas) {
        (GetStatus::Hit, Some(cas)) => {
            let value = result.value.unwrap_or_default();
            Ok(Some(Item { value, stamp: Stamp { epoch, cas } }))
        }
        _ => Ok(None),
    }
}

fn written(epoch: u64, result: MutationResult) -> Written {
    match result.status {
        MutationStatus::Applied => {
            Written::Stored(Stamp { epoch, cas: result.cas.unwrap_or_default() })
        }
        MutationStatus::NotFound => Written::Missing,
        _ => Written::Changed,
    }
}

fn read_epoch(found: &GetResult) -> Option<u64> {
    let text = std::str::from_utf8(found.value.as_deref()?).ok()?;
    let epoch = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    epoch.filter(|epoch| *epoch != 0)
}

fn new_epoch() -> Result<u64> {
    Ok(share::first_number(Handle::generate()?.as_bytes()).max(1))
}

/// Whole seconds for the server's own clock, at least one. Above 30 days the client sends the
/// moment itself; what lies beyond the protocol's last moment, in 2106, never ends there.
fn ttl(life: Option<Duration>) -> Ttl {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = life.map(|life| life.as_secs().max(1));
    match seconds.and_then(|seconds| u32::try_from(seconds).ok()) {
        Some(seconds) if unix + u64::from(seconds) < u64::from(u32::MAX) => Ttl::secs(seconds),
        _ => Ttl::NEVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_sent_in_seconds_and_never_as_zero() {
        assert_eq!(ttl(None), Ttl::NEVER);
        assert_eq!(ttl(Some(Duration::ZERO)), Ttl::secs(1));
        assert_eq!(ttl(Some(Duration::from_millis(2999))), Ttl::secs(2));
        assert_eq!(ttl(Some(Duration::from_secs(40 * 86_400))), Ttl::secs(40 * 86_400));
        assert_eq!(ttl(Some(Duration::from_secs(200 * 365 * 86_400))), Ttl::NEVER);
        assert_eq!(ttl(Some(Duration::MAX)), Ttl::NEVER);
    }
}
