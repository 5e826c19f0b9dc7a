//! The commands on a PostgreSQL database.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Duration;
use std::{env, fs};

use cloakroom::backend::{Record, SessionIndex, Store, StoreIdentity};
use cloakroom::clock::Timestamp;
use cloakroom::id::{PublicId, Realm};
use cloakroom::list::{Page, SessionFilter, Summary};
use cloakroom::stores::copy::{CopyBatch, CopyMark, StoredPage};
use cloakroom::stores::postgres::tokio_postgres::Config;
use cloakroom::stores::postgres::tokio_postgres::config::SslMode;
use cloakroom::stores::postgres::{DatabaseServer, PostgresStoreBuilder};
use cloakroom::stores::sqlite::admin::{Admin, DataSizes, Progress, ProgressFn, ScanReport};
use cloakroom::{Error, PostgresStore, Result};
use indicatif::HumanBytes;
use serde_json::json;

use crate::CliContext;
use crate::arguments::{DoctorArgs, StoreOptions};
use crate::database::{Database, Location, Properties};
use crate::doctor::{self, Findings};
use crate::error::{CliError, CliResult};
use crate::signals::Interrupt;
use crate::{pgpass, server_checks};

/// A database, by the settings of its store.
#[derive(Debug)]
pub(crate) struct PostgresLocation(pub(crate) PostgresStoreBuilder);

/// An open store, and where it is.
struct OpenStore {
    store: PostgresStore,
    settings: PostgresStoreBuilder,
    name: String,
}

/// Returns the database of the URL, with a password from elsewhere if the URL has none.
pub(crate) fn location(url: &str, options: &StoreOptions) -> CliResult<Box<dyn Location>> {
    // A command reads and ends all sessions, over any network, and also behind a pooler.
    let mut settings = PostgresStore::builder(url)
        .connections(2)
        .connect_timeout(Duration::from_secs(10))
        .call_timeout(Duration::from_secs(60))
        .pooler(true);
    if let Some(schema) = &options.schema {
        settings = settings.schema(schema);
    }
    if let Some(table) = &options.table {
        settings = settings.table(table);
    }
    let config = url.parse::<Config>().ok();
    let encrypts = config.as_ref().is_none_or(|it| it.get_ssl_mode() != SslMode::Disable);
    if let Some(path) = options.root_certificates.as_ref().filter(|_| encrypts) {
        let pem = fs::read_to_string(path)
            .map_err(|error| CliError::usage(format!("cannot read {}: {error}", path.display())))?;
        settings = settings.root_certificates(pem);
    }
    let requires = config.as_ref().is_some_and(|it| it.get_ssl_mode() == SslMode::Require);
    if requires && options.root_certificates.is_none() {
        return Err(CliError::usage(
            "sslmode=require needs the certificates of --root-certificates (PGSSLROOTCERT)",
        ));
    }
    if let Some(config) = config
        && config.get_password().is_none()
        && let Some(password) = pgpass::password(&config, |name| env::var(name).ok())
    {
        settings = settings.password(password);
    }
    settings.validate().map_err(|error| CliError::usage(error.to_string()))?;
    Ok(Box::new(PostgresLocation(settings)))
}

impl PostgresLocation {
    fn open_with(&self, migrate: bool) -> CliResult<Box<dyn Database>> {
        let settings = &self.0;
        let store = settings.clone().migrate(migrate).open().map_err(CliError::Postgres)?;
        let server = settings.server().map_err(CliError::Postgres)?;
        let name = format!("table {}.{} in {server}", store.schema(), store.table());
        Ok(Box::new(OpenStore { store, settings: settings.clone(), name }))
    }

    fn inspect(&self) -> CliResult<DatabaseServer> {
        self.0.inspect().map_err(CliError::Postgres)
    }
}

impl Location for PostgresLocation {
    fn open(&self) -> CliResult<Box<dyn Database>> {
        self.open_with(false)
    }

    fn open_for_reading(&self) -> CliResult<Box<dyn Database>> {
        self.open_with(false)
    }

    fn setup(&self) -> CliResult<Box<dyn Database>> {
        self.open_with(true)
    }

    fn pending_migrations(&self) -> CliResult<Vec<(u32, &'static str)>> {
        let info = self.inspect()?;
        info.schema_version.map_err(CliError::Postgres)?;
        Ok(info.pending)
    }

    fn migrate(&self) -> CliResult {
        self.setup().map(drop)
    }

    fn examine(
        &self,
        findings: &mut Findings,
        args: &DoctorArgs,
        context: &CliContext,
        interrupt: &Interrupt,
    ) -> CliResult {
        let info = self.inspect()?;
        if server_checks::check(findings, &info) {
            let database = self.open()?;
            doctor::check_sessions(findings, &*database, args, context, interrupt)?;
        }
        Ok(())
    }

    fn file(&self) -> Option<&Admin> {
        None
    }
}

fn of_server<T>(result: Result<T>) -> CliResult<T> {
    result.map_err(CliError::Postgres)
}

impl Database for OpenStore {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn table(&self) -> &str {
        self.store.table()
    }

    fn properties(&self) -> CliResult<Properties> {
        let info = of_server(self.settings.inspect())?;
        Ok(Properties {
            place: vec![
                ("server", format!("{}, PostgreSQL {}", info.server, info.version)),
                ("schema", info.schema.clone()),
            ],
            size: vec![("size", format!("{}, with indexes", HumanBytes(info.bytes)))],
            schema: info.schema_version.as_ref().ok().copied(),
            other_tables: None,
            json: Some((
                "server",
                json!({
                    "name": info.server,
                    "version": info.version,
                    "schema": info.schema_version.as_ref().ok(),
                    "schema_name": info.schema,
                    "bytes": info.bytes,
                    "dead_rows": info.dead_rows,
                }),
            )),
        })
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        self.store.index()
    }

    fn failure(&self, error: Error) -> CliError {
        CliError::Postgres(error)
    }

    fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> CliResult<Vec<Summary>> {
        of_server(self.store.admin().list_expired(filter, page, now))
    }

    fn find(&self, public_id: &PublicId) -> CliResult<Option<(Summary, Result<Record>)>> {
        of_server(self.store.admin().find(public_id))
    }

    fn counts(&self, times: &[Timestamp], now: Timestamp) -> CliResult<(Vec<u64>, DataSizes)> {
        let counts = of_server(self.store.admin().counts(times, now))?;
        let mut sizes = DataSizes::default();
        sizes.sampled = counts.sessions;
        sizes.average = counts.average;
        sizes.largest = counts.largest;
        Ok((counts.created, sizes))
    }

    fn realms(&self) -> CliResult<Vec<Realm>> {
        of_server(self.store.admin().realms())
    }

    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> CliResult<u64> {
        of_server(self.store.admin().count_in_realm(realm, now))
    }

    fn scan(&self, mut progress: ProgressFn) -> CliResult<ControlFlow<(), ScanReport>> {
        const PAGE: usize = 500;
        const EXAMPLES: usize = 5;
        let mut report = ScanReport::default();
        let stats = <dyn Database>::stats(self, Timestamp::MAX)?;
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let page = self.export(from, PAGE)?;
            report.undecodable += page.undecodable.len() as u64;
            report.sessions += (page.sessions.len() + page.undecodable.len()) as u64;
            report.examples.extend(page.undecodable);
            report.examples.truncate(EXAMPLES);
            for stored in page.sessions {
                let record = stored.session.record;
                report.latest = report.latest.max(Some(record.seen.max(record.created)));
                *report.realms.entry(record.realm).or_default() += 1;
            }
            after = page.last;
            let total = (stats.live + stats.expired).max(report.sessions);
            if progress(progress_of(report.sessions, total)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(report))
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> CliResult<u64> {
        of_server(self.store.admin().revoke(filter, except, now))
    }

    fn sweep(
        &self,
        now: Timestamp,
        limit: u64,
        mut progress: ProgressFn,
    ) -> CliResult<ControlFlow<(), u64>> {
        const BATCH: usize = 1000;
        let ahead = of_server(self.settings.inspect())?.clock_ahead;
        if ahead > server_checks::MAX_CLOCK_SKEW_MILLIS {
            return Err(CliError::new(format!(
                "nothing was swept: the clock of this machine is {} s ahead of the server's, so \
                 that live sessions seem to have expired; correct the clocks (NTP)",
                ahead / 1000
            )));
        }
        let total = <dyn Database>::stats(self, now)?.expired.min(limit);
        let mut done = 0;
        loop {
            let left = usize::try_from(limit.saturating_sub(done)).unwrap_or(usize::MAX);
            let Some(batch) = NonZeroUsize::new(left.min(BATCH)) else { break };
            let removed = of_server(self.store.sweep(now, batch))?.removed;
            done += removed as u64;
            let cancelled = progress(progress_of(done, total)).is_break();
            if removed < batch.get() {
                break;
            }
            if cancelled {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(done))
    }

    fn clear(&self) -> CliResult<u64> {
        // Every deadline is later than this time, so every session counts.
        <dyn Database>::revoke_everyone(self, None, Timestamp::from_millis(i64::MIN))
    }

    fn drop_tables(&self) -> CliResult {
        of_server(self.store.admin().drop_tables())
    }

    fn export(&self, after: i64, limit: usize) -> CliResult<StoredPage> {
        of_server(self.store.admin().export(after, limit))
    }

    fn copy_mark(&self) -> CliResult<Option<CopyMark>> {
        of_server(self.store.admin().copy_mark())
    }

    fn begin_copy(&self, before: Option<&CopyMark>, source: StoreIdentity) -> CliResult<CopyMark> {
        of_server(self.store.admin().begin_copy(before, source))
    }

    fn import(&self, batch: &CopyBatch, before: &CopyMark) -> CliResult<CopyMark> {
        of_server(self.store.admin().import(batch, before))
    }
}

fn progress_of(done: u64, total: u64) -> Progress {
    let mut progress = Progress::default();
    progress.done = done;
    progress.total = total;
    progress
}
