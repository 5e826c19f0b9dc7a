//! The builder of a [`PostgresStore`]: settings, and opening.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::stores::postgres::connection::{CallTime, SqlSettings};
use crate::stores::postgres::migrate;
use crate::stores::postgres::pool::{ConnectionPool, PoolSettings};
use crate::stores::postgres::sql::{
    AdvisoryLocks, Statements, TableNames, validate_schema, validate_table,
};
use crate::stores::postgres::store::{PostgresInner, PostgresStore};
use crate::stores::postgres::tls::connector;

/// The settings of a [`PostgresStore`]. Start with [`PostgresStore::builder`]. `Debug` does not
/// show the password.
///
/// ```no_run
/// use cloakroom::PostgresStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::builder("postgres://app@db.example.org/app")
///     .password(std::env::var("APP_DATABASE_PASSWORD")?)
///     .root_certificates(std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")?)
///     .connections(8)
///     .open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresStoreBuilder {
    /// The parsed URL, or why it was not parsed.
    config: Result<Config>,
    schema: Option<String>,
    table: String,
    root_certificates: Option<String>,
    connections: u32,
    connect_timeout: Duration,
    call_timeout: Duration,
    statement_timeout: Option<Duration>,
    pooler: bool,
    migrate: bool,
    events: Events,
}

impl PostgresStore {
    /// Opens the database at `url` with the default settings, and creates the tables if they do not
    /// exist. The form of the URL is described at [`builder`](Self::builder). The connections are
    /// not encrypted: for a server on another machine use the builder, with
    /// [`root_certificates`](PostgresStoreBuilder::root_certificates).
    ///
    /// # Errors
    /// As [`PostgresStoreBuilder::open`].
    pub fn open(url: &str) -> Result<Self> {
        PostgresStore::builder(url).open()
    }

    /// Makes the default settings for the database at `url`:
    /// `postgres://user:password@host:port/database?parameter=value`, or the text `host=… user=…`
    /// of libpq. The parameters are those of [`tokio_postgres::Config`]; a Unix socket is
    /// `host=/var/run/postgresql`. Several hosts with `target_session_attrs=read-write` are tried
    /// in order.
    ///
    /// Connections are encrypted only with
    /// [`root_certificates`](PostgresStoreBuilder::root_certificates).
    pub fn builder(url: &str) -> PostgresStoreBuilder {
        let config = url.parse::<Config>().map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "use that URL of PostgreSQL", source)
        });
        PostgresStoreBuilder {
            config,
            schema: None,
            table: TableNames::DEFAULT_TABLE.to_owned(),
            root_certificates: None,
            connections: 16,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(5),
            statement_timeout: None,
            pooler: false,
            migrate: true,
            events: Events::default(),
        }
    }
}

impl PostgresStoreBuilder {
    /// Sets the schema of the tables: 1 to 63 bytes, with any characters. It is created if it does
    /// not exist. Defaults to the first schema of the connection's `search_path` that exists, which
    /// is `public` unless the database is configured otherwise.
    pub fn schema(self, name: impl Into<String>) -> Self {
        PostgresStoreBuilder { schema: Some(name.into()), ..self }
    }

    /// Sets the name of the sessions table: 1 to 46 ASCII letters, digits and underscores, not
    /// starting with a digit. It is quoted, so upper and lower case are different names. Stores
    /// with different tables can share a schema. Defaults to `cloakroom_sessions`.
    pub fn table(self, name: impl Into<String>) -> Self {
        PostgresStoreBuilder { table: name.into(), ..self }
    }

    /// Sets the password, for example from a secret of the deployment. Defaults to that in the URL.
    /// The store reads neither `PGPASSWORD` nor `~/.pgpass`.
    pub fn password(self, password: impl AsRef<[u8]>) -> Self {
        let with_password = |mut config: Config| {
            config.password(password);
            config
        };
        PostgresStoreBuilder { config: self.config.map(with_password), ..self }
    }

    /// Sets the root certificates, in PEM, and encrypts all connections. Needs the feature
    /// `postgres-rustls`. Defaults to none, without encryption.
    ///
    /// A server is accepted only if its certificate is signed by one of these and has the name or
    /// address in the URL. A Unix socket is therefore refused. Providers of databases publish their
    /// root certificates; Debian has the public ones in `/etc/ssl/certs/ca-certificates.crt`.
    pub fn root_certificates(self, pem: impl Into<String>) -> Self {
        PostgresStoreBuilder { root_certificates: Some(pem.into()), ..self }
    }

    /// Sets the maximum number of connections, opened on demand; 1 to 1,000. Defaults to 16. A
    /// connection is closed when it was idle for ten minutes. Calls above the maximum wait, at most
    /// for the [call timeout](Self::call_timeout). The sum over all processes must be less than the
    /// server's `max_connections`.
    pub fn connections(self, connections: u32) -> Self {
        PostgresStoreBuilder { connections, ..self }
    }

    /// Sets the timeout of connecting, the sign-in at the server included; 1 millisecond to 1 day.
    /// Defaults to 2 seconds.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        PostgresStoreBuilder { connect_timeout: timeout, ..self }
    }

    /// Sets how long a call may take in total, with waiting for a connection, connecting, and all
    /// statements; 10 milliseconds to 1 day. Defaults to 5 seconds. Calls that read or end all
    /// sessions, and migrations, may take twelve times as long.
    pub fn call_timeout(self, timeout: Duration) -> Self {
        PostgresStoreBuilder { call_timeout: timeout, ..self }
    }

    /// Sets how long the server works on one statement, with waiting for locks; at least 1
    /// millisecond, and less than the [call timeout](Self::call_timeout), so that the server gives
    /// up before the client does. Defaults to four fifths of the call timeout.
    pub fn statement_timeout(self, timeout: Duration) -> Self {
        PostgresStoreBuilder { statement_timeout: Some(timeout), ..self }
    }

    /// Sets whether the store connects through a pooler, such as PgBouncer in transaction mode.
    /// Defaults to false. With true, settings are sent with each transaction and statements are not
    /// prepared. The server then plans each statement anew, and a load takes several times as long.
    pub fn pooler(self, pooler: bool) -> Self {
        PostgresStoreBuilder { pooler, ..self }
    }

    /// Sets whether opening creates the tables and migrates older ones to this version. If false,
    /// opening changes nothing, and fails with [`ErrorKind::NotSetUp`] unless the tables have this
    /// version; the user then needs only the rights to read and change the tables. Defaults to
    /// true.
    pub fn migrate(self, migrate: bool) -> Self {
        PostgresStoreBuilder { migrate, ..self }
    }

    /// Sets the receiver of events. Defaults to the [`log`](https://docs.rs/log) crate.
    pub fn events(self, events: Events) -> Self {
        PostgresStoreBuilder { events, ..self }
    }

    /// Connects, and creates or migrates the tables. Many processes may do so at once.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`]: the URL or a setting is malformed or out of range, or the encoding
    ///   of the database is not UTF-8.
    /// - [`ErrorKind::Unavailable`]: the server cannot be reached, is starting or stopping, refuses
    ///   the user or the password, or has no such database.
    /// - [`ErrorKind::ReadOnly`]: the tables must be created or migrated, and the server is a
    ///   replica or the user lacks the right.
    /// - [`ErrorKind::ForeignTable`], [`ErrorKind::NewerSchema`]: the table belongs to another
    ///   program or to a newer version; nothing was changed.
    /// - [`ErrorKind::NotSetUp`]: with `migrate(false)`, the tables are missing or older.
    /// - [`ErrorKind::Busy`]: another migration took longer than the statement timeout, or the
    ///   server has too many connections.
    pub fn open(self) -> Result<PostgresStore> {
        let (pool, names) = self.connect()?;
        let server = self.server()?;
        let sql = Statements::new(&names);
        let locks = AdvisoryLocks::new(&names);
        if let Some(from) = migrate::set_up(&pool, &names, &sql, &locks, self.migrate)? {
            let to = migrate::newest();
            self.events.raise(&Event::Migrated { table: &self.table, from, to });
        }
        let store = format!("table {}.{} in PostgreSQL at {server}", names.schema, names.table);
        self.events.raise(&Event::StoreOpened { store: &store });
        let events = self.events;
        let clock_ahead = AtomicI64::new(0);
        let inner = PostgresInner { pool, names, server, sql, locks, events, clock_ahead };
        Ok(PostgresStore(Arc::new(inner)))
    }

    /// Returns the connections, and the names of the tables.
    pub(super) fn connect(&self) -> Result<(ConnectionPool, TableNames)> {
        self.validate()?;
        let pool = ConnectionPool::new(self.pool_settings(self.config.clone()?)?);
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => pool.call("connect to PostgreSQL", migrate::current_schema)?,
        };
        Ok((pool, TableNames::new(&schema, &self.table)?))
    }

    /// Returns the hosts and the database, without the user and the password.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the URL is malformed.
    pub fn server(&self) -> Result<String> {
        Ok(server_name(&self.config.clone()?))
    }

    fn pool_settings(&self, mut config: Config) -> Result<PoolSettings> {
        // By default the client would accept an unencrypted connection, or try an encrypted one.
        config.ssl_mode(match self.root_certificates {
            Some(_) => SslMode::Require,
            None => SslMode::Disable,
        });
        if config.get_application_name().is_none() {
            config.application_name("cloakroom");
        }
        Ok(PoolSettings {
            config,
            tls: connector(self.root_certificates.as_deref())?,
            sql: self.sql_settings(),
            connections: self.connections,
            connect_timeout: self.connect_timeout,
            call_timeout: self.call_timeout,
        })
    }

    fn sql_settings(&self) -> SqlSettings {
        let timeouts = |scope, time: CallTime| {
            let statement = (self.actual_statement_timeout() * time.factor()).as_millis();
            // A machine that stops within a transaction, as a suspended one does, must not keep
            // rows locked.
            let idle = (self.call_timeout * time.factor()).as_millis();
            format!(
                "SET {scope} statement_timeout = {statement}; \
                 SET {scope} idle_in_transaction_session_timeout = {idle}"
            )
        };
        // A change is acknowledged when it is on the server's disk. A stronger setting of the
        // server, such as `remote_apply`, stays. It is set in any case, so that a later change of
        // the server's settings does not weaken an open connection.
        let durable = |is_local| {
            let current = "current_setting('synchronous_commit')";
            format!(
                "SELECT set_config('synchronous_commit', \
                 CASE {current} WHEN 'off' THEN 'on' ELSE {current} END, {is_local})"
            )
        };
        // The guarantees need no stricter isolation than this; a database may have another default.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        let begin_with_settings =
            |time| format!("{begin}; {}; {}", timeouts("LOCAL", time), durable(true));
        let (on_connect, begin) = if self.pooler {
            (String::new(), begin_with_settings(CallTime::Normal))
        } else {
            let session = format!("{}; {}", timeouts("SESSION", CallTime::Normal), durable(false));
            (session, begin.to_owned())
        };
        let begin_bulk = begin_with_settings(CallTime::Bulk);
        SqlSettings { on_connect, begin, begin_bulk, is_pooled: self.pooler }
    }

    /// Returns the statement timeout, or its default.
    fn actual_statement_timeout(&self) -> Duration {
        self.statement_timeout.unwrap_or(self.call_timeout * 4 / 5)
    }

    /// Validates the settings without connecting.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a setting is out of range or malformed.
    pub fn validate(&self) -> Result<()> {
        let config = self.config.clone()?;
        connector(self.root_certificates.as_deref())?;
        validate_table(&self.table)?;
        self.schema.as_deref().map_or(Ok(()), validate_schema)?;
        let longest = Duration::from_secs(86_400);
        let milli = Duration::from_millis(1);
        let why = if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            "the URL names no host"
        } else if config.get_ssl_mode() == SslMode::Require && self.root_certificates.is_none() {
            "sslmode=require needs root certificates; set them in the builder"
        } else if !(1..=1000).contains(&self.connections) {
            "there are from 1 to 1,000 connections"
        } else if !(milli..=longest).contains(&self.connect_timeout)
            || !(milli * 10..=longest).contains(&self.call_timeout)
        {
            "a timeout is from one millisecond, that of a call from ten, to one day"
        } else if !(milli..self.call_timeout).contains(&self.actual_statement_timeout()) {
            "the statement timeout is from one millisecond to less than the call timeout"
        } else {
            return Ok(());
        };
        Err(Error::with_source(ErrorKind::Invalid, "open the store", why))
    }
}

/// Describes the server and the database, without the user and the password.
fn server_name(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[allow(unreachable_patterns, reason = "the other kind exists on Unix only")]
        _ => "a local socket".to_owned(),
    });
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    let hosts = if config.get_hosts().is_empty() {
        addresses.collect::<Vec<_>>().join(",")
    } else {
        hosts.collect::<Vec<_>>().join(",")
    };
    format!("{hosts}/{}", config.get_dbname().or(config.get_user()).unwrap_or_default())
}
