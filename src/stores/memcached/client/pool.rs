//! The connections to one server: at most a fixed number, of which the idle ones are kept.
//!
//! Uses `address` and `connection`. Called by `server` only.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::error::ErrorKind;
use crate::event::{Event, Events};
use crate::stores::memcached::client::address::resolve;
use crate::stores::memcached::client::connection::Connection;
use crate::stores::memcached::client::protocol::{Batch, MetaReply};
use crate::stores::memcached::client::{CommandResult, ConnectionSettings, unavailable};
use crate::sync::IgnorePoison;

#[derive(Debug)]
pub(super) struct Pool {
    /// The server as `host:port`.
    name: String,
    settings: ConnectionSettings,
    events: Events,
    state: Mutex<PoolState>,
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
    /// How many times the address has changed.
    moves: u64,
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
        let address = match resolve(name, settings.connect_timeout) {
            Ok(address) => Some(address),
            Err(failure) if failure.kind == ErrorKind::Unavailable => None,
            Err(failure) => return Err(failure),
        };
        Ok(Pool {
            name: name.to_owned(),
            settings: settings.clone(),
            events,
            state: Mutex::new(PoolState { address, ..PoolState::default() }),
            returned: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().ignore_poison()
    }

    /// Returns how many times the server's address has changed.
    pub(super) fn moves(&self) -> u64 {
        self.state().moves
    }

    /// Sends the commands of a batch and reads their replies.
    pub(super) fn exchange(&self, batch: &Batch) -> CommandResult<Vec<CommandResult<MetaReply>>> {
        let _permit = self.permit()?;
        let (mut connection, address) = self.connection()?;
        let replies = connection.exchange(batch);
        if replies.reusable {
            let mut state = self.state();
            if state.address == Some(address) {
                state.idle.push(connection);
            }
        }
        Ok(replies.all)
    }

    /// Waits until fewer connections are in use than the settings allow.
    fn permit(&self) -> CommandResult<Permit<'_>> {
        let is_full = |state: &mut PoolState| state.in_use >= self.settings.connections;
        let timeout = self.settings.io_timeout;
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
    fn connection(&self) -> CommandResult<(Connection, SocketAddr)> {
        let address = loop {
            let mut state = self.state();
            let Some(address) = state.address else { break None };
            let Some(mut connection) = state.idle.pop() else { break Some(address) };
            drop(state);
            if connection.is_reusable() {
                return Ok((connection, address));
            }
        };
        self.connect(address)
    }

    /// Opens a connection to the known address. If that fails, resolves the name again, and uses
    /// the address that it has now.
    fn connect(&self, known: Option<SocketAddr>) -> CommandResult<(Connection, SocketAddr)> {
        let open = |address| Connection::open(address, &self.settings).map(|c| (c, address));
        let failure = match known.map(open) {
            Some(Ok(opened)) => return Ok(opened),
            Some(Err(failure)) => Some(failure),
            None => None,
        };
        let now = match (resolve(&self.name, self.settings.connect_timeout), failure) {
            (Ok(now), Some(failure)) if known == Some(now) => return Err(failure),
            (Err(_), Some(failure)) | (Err(failure), None) => return Err(failure),
            (Ok(now), _) => now,
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
            state.moves += 1;
            drop(state);
            let server = &*self.name;
            self.events.raise(&Event::MemcachedMoved { server, from: before, to: now });
        }
        now
    }
}
