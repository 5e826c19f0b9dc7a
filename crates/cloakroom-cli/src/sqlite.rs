//! The commands on a SQLite database.

use std::ops::ControlFlow;

use cloakroom::backend::{Record, SessionIndex, Store, StoreIdentity};
use cloakroom::clock::Timestamp;
use cloakroom::id::{PublicId, Realm};
use cloakroom::list::{Page, SessionFilter, Summary};
use cloakroom::stores::copy::{CopyBatch, CopyMark, StoredPage};
use cloakroom::stores::sqlite::admin::{Admin, DataSizes, DatabaseInfo, ProgressFn, ScanReport};
use cloakroom::{Error, Result, SqliteStore};
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use crate::CliContext;
use crate::arguments::DoctorArgs;
use crate::database::{Database, Location, Properties};
use crate::doctor::{self, Findings};
use crate::error::{CliError, CliResult};
use crate::processes;
use crate::signals::Interrupt;

impl Location for Admin {
    fn open(&self) -> CliResult<Box<dyn Database>> {
        refuse_conflict(self)?;
        Ok(Box::new(self.store()?))
    }

    fn open_for_reading(&self) -> CliResult<Box<dyn Database>> {
        refuse_conflict(self)?;
        Ok(Box::new(self.store_for_reading()?))
    }

    fn setup(&self) -> CliResult<Box<dyn Database>> {
        Ok(Box::new(Admin::setup(self)?))
    }

    fn pending_migrations(&self) -> CliResult<Vec<(u32, &'static str)>> {
        let pending = Admin::pending_migrations(self)?;
        Ok(pending.iter().map(|migration| (migration.version, migration.name)).collect())
    }

    fn migrate(&self) -> CliResult {
        refuse_conflict(self)?;
        Ok(Admin::migrate(self).map(drop)?)
    }

    fn examine(
        &self,
        findings: &mut Findings,
        args: &DoctorArgs,
        context: &CliContext,
        interrupt: &Interrupt,
    ) -> CliResult {
        doctor::examine_file(self, findings, args, context, interrupt)
    }

    fn file(&self) -> Option<&Admin> {
        Some(self)
    }
}

impl Database for SqliteStore {
    fn name(&self) -> String {
        match self.path() {
            Some(path) => format!("table {} in {}", self.table(), path.display()),
            None => format!("table {} in memory", self.table()),
        }
    }

    fn table(&self) -> &str {
        SqliteStore::table(self)
    }

    fn properties(&self) -> CliResult<Properties> {
        if self.path().is_none() {
            return Ok(Properties { json: Some(("file", Json::Null)), ..Properties::default() });
        }
        let info = self.admin().info()?;
        let free = HumanBytes(info.free_pages.saturating_mul(info.page_size));
        let bytes = HumanBytes(info.bytes);
        let log = HumanBytes(info.log_bytes);
        Ok(Properties {
            place: vec![("file", info.path.display().to_string())],
            size: vec![
                ("size", format!("{bytes}, {free} of it free; log {log}")),
                ("journal", info.journal.clone()),
            ],
            schema: info.schema.as_ref().ok().copied(),
            other_tables: Some(info.other_tables),
            json: Some(("file", info_json(&info))),
        })
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Store::index(self)
    }

    fn failure(&self, error: Error) -> CliError {
        CliError::Sqlite(error)
    }

    fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> CliResult<Vec<Summary>> {
        Ok(self.admin().list_expired(filter, page, now)?)
    }

    fn find(&self, public_id: &PublicId) -> CliResult<Option<(Summary, Result<Record>)>> {
        Ok(self.admin().find(public_id)?.map(|found| (found.summary, found.record)))
    }

    fn counts(&self, times: &[Timestamp], now: Timestamp) -> CliResult<(Vec<u64>, DataSizes)> {
        let admin = self.admin();
        Ok((admin.count_created_since(times, now)?, admin.sizes()?))
    }

    fn realms(&self) -> CliResult<Vec<Realm>> {
        Ok(self.admin().realms()?)
    }

    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> CliResult<u64> {
        Ok(self.admin().count_in_realm(realm, now)?)
    }

    fn scan(&self, progress: ProgressFn) -> CliResult<ControlFlow<(), ScanReport>> {
        Ok(self.admin().scan(progress)?)
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> CliResult<u64> {
        Ok(self.admin().revoke(filter, except, now)?)
    }

    fn sweep(
        &self,
        now: Timestamp,
        limit: u64,
        progress: ProgressFn,
    ) -> CliResult<ControlFlow<(), u64>> {
        Ok(self.admin().sweep_all(now, limit, progress)?)
    }

    fn clear(&self) -> CliResult<u64> {
        Ok(self.admin().clear()?)
    }

    fn drop_tables(&self) -> CliResult {
        Ok(self.admin().drop_tables()?)
    }

    fn export(&self, after: i64, limit: usize) -> CliResult<StoredPage> {
        Ok(self.admin().export(after, limit)?)
    }

    fn copy_mark(&self) -> CliResult<Option<CopyMark>> {
        Ok(self.admin().copy_mark()?)
    }

    fn begin_copy(&self, before: Option<&CopyMark>, source: StoreIdentity) -> CliResult<CopyMark> {
        Ok(self.admin().begin_copy(before, source)?)
    }

    fn import(&self, batch: &CopyBatch, before: &CopyMark) -> CliResult<CopyMark> {
        Ok(self.admin().import(batch, before)?)
    }
}

/// Rejects a file that is not what a running process uses. If it was deleted or replaced, a change
/// would be written into the log that its rescue needs, and a reader would mix the new file with
/// that log; by another name, a revocation would have no effect on the process.
pub(crate) fn refuse_conflict(admin: &Admin) -> CliResult {
    match admin.path().and_then(processes::conflict) {
        Some((found, remedy)) => Err(CliError::new(format!("{found}: {remedy}"))),
        None => Ok(()),
    }
}

fn info_json(info: &DatabaseInfo) -> Json {
    json!({
        "path": info.path.display().to_string(),
        "bytes": info.bytes,
        "log_bytes": info.log_bytes,
        "page_size": info.page_size,
        "pages": info.pages,
        "free_pages": info.free_pages,
        "journal": info.journal,
        "schema": info.schema.as_ref().ok(),
        "other_tables": info.other_tables,
    })
}
