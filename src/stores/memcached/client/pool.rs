//! The connections to one server: at most a fixed number, of which the idle ones are kept.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use crate::error::ErrorKind;
use crate::event::{Event, Events};
use crate::stores::memcached::client::address::Resolver;
use crate::stores::memcached::client::connection::Connection;
use crate::stores::memcached::client::protocol::{Batch, MetaReply};
use crate::stores::memcached::client::{
    CommandResult, ConnectionSettings, rest_until, unavailable,
};
use crate::sync::IgnorePoison;

#[derive(Debug)]
pub(super) struct Pool {
    /// The server as `host:port`.
    name: String,
    resolver: Resolver,
    settings: ConnectionSettings,
    events: Events,
    state: Mutex<PoolState>,
    /// How many times the address has changed. It changes while `state` is locked.
    address_changes: AtomicU64,
    /// Notified when a connection is no longer in use.
    returned: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    idle: Vec<Connection>,
    /// The number of connections in use.
    in_use: usize,
    /// The address of all connections; `None` until the name was resolved.
    address: Option<SocketAddr>,
}

/// The permission to use one connection.
struct Permit<'p>(&'p Pool);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.state().in_use -= 1;
        self.0.returned.notify_one();
    }
}

impl Pool {
    /// Resolves the name. If it has no address now, it is resolved when a connection is needed.
    ///
    /// # Errors
    /// The name has several addresses.
    pub(super) fn new(
        name: &str,
        settings: &ConnectionSettings,
        events: Events,
    ) -> CommandResult<Self> {
        let resolver = Resolver::new(name);
        let address = match resolver.resolve(settings.connect_timeout) {
            Ok(address) => Some(address),
            Err(failure) if failure.kind == ErrorKind::Unavailable => None,
            Err(failure) => return Err(failure),
        };
        Ok(Pool {
            name: name.to_owned(),
            resolver,
            settings: settings.clone(),
            events,
            state: Mutex::new(PoolState { address, ..PoolState::default() }),
            address_changes: AtomicU64::new(0),
            returned: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().ignore_poison()
    }

    /// Returns how many times the server's address has changed.
    pub(super) fn address_changes(&self) -> u64 {
        self.address_changes.load(Ordering::SeqCst)
    }

    /// Sends the commands of a batch and reads their replies, at most until `deadline`.
    pub(super) fn exchange(
        &self,
        batch: &Batch,
        deadline: Instant,
    ) -> CommandResult<Vec<CommandResult<MetaReply>>> {
        let _permit = self.permit(deadline)?;
        let (mut connection, address) = self.connection(deadline)?;
        let replies = connection.exchange(batch, deadline);
        if replies.reusable {
            let mut state = self.state();
            if state.address == Some(address) {
                state.idle.push(connection);
            }
        }
        Ok(replies.all)
    }

    /// Waits until fewer connections are in use than the settings allow.
    fn permit(&self, deadline: Instant) -> CommandResult<Permit<'_>> {
        let is_full = |state: &mut PoolState| state.in_use >= self.settings.connections;
        let timeout = rest_until(deadline, self.settings.io_timeout)?;
        let (mut state, waited) =
            self.returned.wait_timeout_while(self.state(), timeout, is_full).ignore_poison();
        if waited.timed_out() {
            let why = format!("all {} connections are in use", self.settings.connections);
            return Err(unavailable(why));
        }
        state.in_use += 1;
        Ok(Permit(self))
    }

    /// Returns an idle connection, or opens one.
    fn connection(&self, deadline: Instant) -> CommandResult<(Connection, SocketAddr)> {
        let address = loop {
            let mut state = self.state();
            let Some(address) = state.address else { break None };
            let Some(mut connection) = state.idle.pop() else { break Some(address) };
            drop(state);
            if connection.is_reusable() {
                return Ok((connection, address));
            }
        };
        self.connect(address, deadline)
    }

    /// Opens a connection to the known address. If that fails, resolves the name again, and uses
    /// the address that it has now.
    fn connect(
        &self,
        known: Option<SocketAddr>,
        deadline: Instant,
    ) -> CommandResult<(Connection, SocketAddr)> {
        let open = |address| {
            let connection = Connection::open(address, &self.settings, deadline)?;
            Ok((connection, address))
        };
        let resolve = || {
            let timeout = rest_until(deadline, self.settings.connect_timeout)?;
            self.resolver.resolve(timeout)
        };
        let now = match known.map(|known| (known, open(known))) {
            None => resolve()?,
            Some((_, Ok(opened))) => return Ok(opened),
            // If the name has no other address, the failure at the known one says more.
            Some((known, Err(failure))) => {
                resolve().ok().filter(|now| *now != known).ok_or(failure)?
            }
        };
        open(self.set_address(known, now))
    }

    /// Sets the address, unless another thread has set one meanwhile, and returns it.
    fn set_address(&self, before: Option<SocketAddr>, now: SocketAddr) -> SocketAddr {
        let mut state = self.state();
        if let Some(address) = state.address.filter(|address| Some(*address) != before) {
            return address;
        }
        state.address = Some(now);
        if let Some(before) = before {
            state.idle.clear();
            self.address_changes.fetch_add(1, Ordering::SeqCst);
            drop(state);
            let server = &*self.name;
            self.events.raise(&Event::MemcachedMoved { server, from: before, to: now });
        }
        now
    }
}
