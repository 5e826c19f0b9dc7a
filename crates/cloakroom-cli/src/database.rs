//! What the commands need of a store, whichever kind it is.
//!
//! `sqlite` and `postgres` implement it; every command but those on a file uses it.

use std::ops::ControlFlow;

use cloakroom::backend::{Record, SessionIndex, StoreIdentity};
use cloakroom::clock::Timestamp;
use cloakroom::id::{PublicId, Realm};
use cloakroom::list::{Page, SessionFilter, Stats, Summary};
use cloakroom::stores::copy::{CopyBatch, CopyMark, StoredPage};
use cloakroom::stores::sqlite::admin::{Admin, DataSizes, ProgressFn, ScanReport};
use cloakroom::{Error, Result};
use serde_json::Value as Json;

use crate::CliContext;
use crate::arguments::DoctorArgs;
use crate::doctor::Findings;
use crate::error::{CliError, CliResult};
use crate::signals::Interrupt;

/// The place of a store, which may not exist or not be set up.
pub(crate) trait Location {
    /// Opens the store. Creates and migrates nothing.
    fn open(&self) -> CliResult<Box<dyn Database>>;

    /// Opens the store for commands that only read, which also work where nothing can be written.
    fn open_for_reading(&self) -> CliResult<Box<dyn Database>>;

    /// Creates what is missing, migrates what is older, and opens the store.
    fn setup(&self) -> CliResult<Box<dyn Database>>;

    /// Returns the versions and names of the migrations that [`migrate`](Self::migrate) would
    /// apply.
    fn pending_migrations(&self) -> CliResult<Vec<(u32, &'static str)>>;

    fn migrate(&self) -> CliResult;

    /// Adds what `doctor` finds.
    fn examine(
        &self,
        findings: &mut Findings,
        args: &DoctorArgs,
        context: &CliContext,
        interrupt: &Interrupt,
    ) -> CliResult;

    /// Returns the calls on the file, if the store is one.
    fn file(&self) -> Option<&Admin>;
}

/// An open store.
pub(crate) trait Database {
    /// Returns its name for questions and answers.
    fn name(&self) -> String;

    fn table(&self) -> &str;

    /// Returns what `stats` prints of its place.
    fn properties(&self) -> CliResult<Properties>;

    /// Returns the lists and revocations of the store, if it has them.
    fn index(&self) -> Option<&dyn SessionIndex>;

    /// Returns an error of the store as one of its kind.
    fn failure(&self, error: Error) -> CliError;

    fn list_expired(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> CliResult<Vec<Summary>>;

    fn find(&self, public_id: &PublicId) -> CliResult<Option<(Summary, Result<Record>)>>;

    /// Counts the live sessions that were created in the periods that begin at `times`, and
    /// measures the data.
    fn counts(&self, times: &[Timestamp], now: Timestamp) -> CliResult<(Vec<u64>, DataSizes)>;

    fn realms(&self) -> CliResult<Vec<Realm>>;

    fn count_in_realm(&self, realm: &Realm, now: Timestamp) -> CliResult<u64>;

    /// Reads and decodes all sessions.
    fn scan(&self, progress: ProgressFn) -> CliResult<ControlFlow<(), ScanReport>>;

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> CliResult<u64>;

    fn sweep(
        &self,
        now: Timestamp,
        limit: u64,
        progress: ProgressFn,
    ) -> CliResult<ControlFlow<(), u64>>;

    /// Ends all sessions, and returns their number, expired ones included.
    fn clear(&self) -> CliResult<u64>;

    fn drop_tables(&self) -> CliResult;

    fn export(&self, after: i64, limit: usize) -> CliResult<StoredPage>;

    fn copy_mark(&self) -> CliResult<Option<CopyMark>>;

    fn begin_copy(&self, before: Option<&CopyMark>, source: StoreIdentity) -> CliResult<CopyMark>;

    fn import(&self, batch: &CopyBatch, before: &CopyMark) -> CliResult<CopyMark>;
}

impl dyn Database + '_ {
    pub(crate) fn list(
        &self,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> CliResult<Vec<Summary>> {
        self.ask(|index| index.list(filter, page, now))
    }

    pub(crate) fn stats(&self, now: Timestamp) -> CliResult<Stats> {
        self.ask(|index| index.stats(now))
    }

    pub(crate) fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> CliResult<u64> {
        self.ask(|index| index.revoke_everyone(realm, now))
    }

    pub(crate) fn identity(&self) -> CliResult<StoreIdentity> {
        self.ask(|index| index.identity())
    }

    fn ask<T>(&self, call: impl FnOnce(&dyn SessionIndex) -> Result<T>) -> CliResult<T> {
        let make_error = || CliError::new("this store cannot list its sessions");
        call(self.index().ok_or_else(make_error)?).map_err(|error| self.failure(error))
    }
}

/// The properties of the place of a store.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    /// The lines before and after those on sessions.
    pub(crate) place: Vec<(&'static str, String)>,
    pub(crate) size: Vec<(&'static str, String)>,
    /// The schema version of the tables, if it is known.
    pub(crate) schema: Option<u32>,
    /// The number of other tables in a file.
    pub(crate) other_tables: Option<u64>,
    /// Its name and value in JSON.
    pub(crate) json: Option<(&'static str, Json)>,
}
