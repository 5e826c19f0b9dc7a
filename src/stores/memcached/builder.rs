//! The builder of a [`MemcachedStore`]: settings and opening.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::stores::memcached::client::{ConnectionSettings, ServerClient};
use crate::stores::memcached::{MemcachedInner, MemcachedStore};

/// The maximum length of a namespace. With nonce and id hash, a key stays below memcached's 250
/// bytes.
const LONGEST_NAMESPACE: usize = 100;

pub(super) const DEFAULT_NAMESPACE: &str = "cloakroom";

/// The settings of a [`MemcachedStore`]. Start with [`MemcachedStore::builder`].
///
/// ```no_run
/// use cloakroom::stores::memcached::MemcachedStore;
/// use std::time::Duration;
///
/// let store = MemcachedStore::builder()
///     .servers(["10.0.0.1:11211", "10.0.0.2:11211"])
///     .namespace("shop")
///     .io_timeout(Duration::from_millis(500))
///     .open()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct MemcachedStoreBuilder {
    settings: ConnectionSettings,
    events: Events,
}

impl MemcachedStoreBuilder {
    pub(super) fn new() -> Self {
        let timeout = Duration::from_millis(200);
        MemcachedStoreBuilder {
            settings: ConnectionSettings {
                servers: vec!["127.0.0.1:11211".to_owned()],
                namespace: DEFAULT_NAMESPACE.to_owned(),
                connections: 16,
                connect_timeout: timeout,
                io_timeout: timeout,
                item_limit: 1 << 20,
            },
            events: Events::default(),
        }
    }

    /// Sets the servers, each as `host:port` or `[IPv6 address]:port`. Defaults to
    /// `127.0.0.1:11211`. Connections use TCP without authentication or encryption.
    ///
    /// Every process must name the same servers by the same texts, in any order: the text decides
    /// which server holds which session. A host name must have one address, or one of IPv4 and one
    /// of IPv6, of which the IPv4 address is used.
    ///
    /// Stop the old server before you change the address of its name. A process keeps the address
    /// until a connection to it fails, and then looks the name up again. If the address has
    /// changed, the process ends all sessions at the new address, because they may be outdated, and
    /// raises [`MemcachedMoved`](crate::event::Event::MemcachedMoved). A process that starts later
    /// does not notice the change, and ends none.
    ///
    /// A server that is removed from the list and added again later still has its old sessions,
    /// ended ones among them. [`clear`] it before, through a store with that server alone.
    ///
    /// [`clear`]: MemcachedStore::clear
    pub fn servers<T: Into<String>>(mut self, servers: impl IntoIterator<Item = T>) -> Self {
        self.settings.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the prefix of all keys, which separates applications that share a server: 1 to 100
    /// ASCII letters, digits, `.`, `_` and `-`. Defaults to `cloakroom`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.namespace = namespace.into();
        self
    }

    /// Sets the maximum number of connections to each server; 1 to 1,000. Calls above it wait for a
    /// connection, at most for the [I/O timeout](Self::io_timeout). Defaults to 16.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = connections;
        self
    }

    /// Sets the timeout of connecting, and of looking up a server's name; 1 millisecond to 30
    /// seconds. Defaults to 200 milliseconds.
    ///
    /// A call of the store takes at most as long as this and the [I/O timeout](Self::io_timeout)
    /// together, however many commands it needs. A batch of touches or invalidations takes at most
    /// that for every server and every 64 items.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Sets the timeout of a command, and of the retries of a change that conflicts with concurrent
    /// changes; 1 millisecond to 30 seconds. Defaults to 200 milliseconds.
    pub fn io_timeout(mut self, timeout: Duration) -> Self {
        self.settings.io_timeout = timeout;
        self
    }

    /// Sets the maximum item size of the servers in bytes, as their option `-I` does; at least
    /// 1,024. Defaults to 1 MiB, which is memcached's default.
    ///
    /// A change that makes a session larger fails with [`ErrorKind::TooLarge`] and is not sent,
    /// because a server that refuses a new value drops the old one.
    pub fn item_limit(mut self, bytes: usize) -> Self {
        self.settings.item_limit = bytes;
        self
    }

    /// Sets the receiver of events. Defaults to the [`log`](https://docs.rs/log) crate.
    pub fn events(self, events: Events) -> Self {
        MemcachedStoreBuilder { events, ..self }
    }

    /// Validates the settings and resolves the server names. Opens no connection, and a name need
    /// not resolve yet, so an application may start before its memcached.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: a setting is out of range or malformed, or a server name has several
    /// addresses.
    pub fn open(self) -> Result<MemcachedStore> {
        self.validate()?;
        let client = ServerClient::new(self.settings.clone(), &self.events)?;
        let servers = self.settings.servers.join(", ");
        let store = format!("a client of memcached at {servers}, which connects at its first use");
        self.events.raise(&Event::StoreOpened { store: &store });
        Ok(MemcachedStore(Arc::new(MemcachedInner { client, events: self.events })))
    }

    fn validate(&self) -> Result<()> {
        let settings = &self.settings;
        let possible = Duration::from_millis(1)..=Duration::from_secs(30);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let repeated =
            |server| settings.servers.iter().filter(|other| *other == server).count() > 1;
        let no_address = settings.servers.iter().find(|server| !is_address(server));
        let why = if settings.servers.is_empty() {
            "there is no server"
        } else if let Some(server) = no_address {
            &format!("a server is given as host:port or [IPv6 address]:port, not as {server:?}")
        } else if settings.servers.iter().any(repeated) {
            "a server is given twice"
        } else if !(1..=LONGEST_NAMESPACE).contains(&settings.namespace.len())
            || !settings.namespace.bytes().all(plain)
        {
            "a namespace has 1 to 100 ASCII letters, digits, dots, underscores and hyphens"
        } else if !(1..=1000).contains(&settings.connections) {
            "there are from 1 to 1,000 connections"
        } else if ![settings.connect_timeout, settings.io_timeout]
            .iter()
            .all(|t| possible.contains(t))
        {
            "a timeout is from one millisecond to 30 seconds"
        } else if settings.item_limit < 1024 {
            "an item may have at least 1,024 bytes"
        } else {
            return Ok(());
        };
        Err(Error::with_source(ErrorKind::Invalid, "configure memcached", why.to_owned()))
    }
}

/// Returns whether `server` has the form `host:port`. Does not resolve the host.
fn is_address(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let named = !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']);
    (bracketed || named) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(builder: MemcachedStoreBuilder) -> ErrorKind {
        builder.open().unwrap_err().kind()
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let server = |text: &str| MemcachedStore::builder().servers([text]);
        for bad in ["", "localhost", ":11211", "localhost:", "localhost:0", "localhost:70000"] {
            let error = server(bad).open().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
            assert!(error.to_string().contains(&format!("not as {bad:?}")), "{error}");
        }
        for bad in ["::1:11211", "http://localhost:11211", "a b:1", "/run/memcached.sock"] {
            assert_eq!(kind(server(bad)), ErrorKind::Invalid, "{bad:?}");
        }
        let builder = MemcachedStore::builder;
        for namespace in ["", "a b", "a:b", "é", "a\r\nflush_all\r\n", &"x".repeat(101)] {
            assert_eq!(kind(builder().namespace(namespace)), ErrorKind::Invalid, "{namespace:?}");
        }
        for bad in [
            builder().servers(Vec::<String>::new()),
            builder().servers(["localhost:1", "localhost:1"]),
            builder().connections(0),
            builder().connections(1001),
            builder().connect_timeout(Duration::ZERO),
            builder().io_timeout(Duration::from_secs(31)),
            builder().item_limit(1023),
        ] {
            assert_eq!(kind(bad), ErrorKind::Invalid);
        }
    }

    #[test]
    fn opening_needs_no_server() {
        for good in ["127.0.0.1:1", "[::1]:11211", "localhost:11211"] {
            MemcachedStore::builder().servers([good]).open().unwrap();
        }
    }
}
