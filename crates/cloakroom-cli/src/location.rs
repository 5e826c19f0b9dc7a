//! The place of a store: a SQLite file, or a PostgreSQL database.

use cloakroom::Error;
use cloakroom::stores::admin::{Admin, PendingMigration};
#[cfg(feature = "postgres")]
use cloakroom::stores::postgres::PostgresStoreBuilder;
use cloakroom::stores::sqlite::{DatabaseInfo, SqliteFile};
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use crate::CliContext;
use crate::arguments::DoctorArgs;
use crate::doctor::{self, Findings};
#[cfg(feature = "postgres")]
use crate::error::server_advice;
use crate::error::{CliError, CliResult, file_advice};
use crate::processes;
#[cfg(feature = "postgres")]
use crate::server_checks;
use crate::signals::Interrupt;

/// The place of a store, which may not exist or not be set up.
#[derive(Debug)]
pub(crate) enum Location {
    File(SqliteFile),
    #[cfg(feature = "postgres")]
    Server(Box<PostgresStoreBuilder>),
}

impl Location {
    /// Opens the store. Creates and migrates nothing.
    pub(crate) fn open(&self) -> CliResult<Box<dyn Admin>> {
        self.refuse_conflict()?;
        Ok(match self {
            Location::File(file) => Box::new(file.store()?),
            #[cfg(feature = "postgres")]
            Location::Server(settings) => Box::new(settings.clone().migrate(false).open()?),
        })
    }

    /// Opens the store for commands that only read, which also work where nothing can be written.
    pub(crate) fn open_for_reading(&self) -> CliResult<Box<dyn Admin>> {
        let Some(file) = self.file() else { return self.open() };
        self.refuse_conflict()?;
        Ok(Box::new(file.store_for_reading()?))
    }

    /// Creates what is missing, migrates what is older, and opens the store. `keep_journal` keeps
    /// the journal mode of a file.
    pub(crate) fn setup(&self, keep_journal: bool) -> CliResult<Box<dyn Admin>> {
        self.refuse_conflict()?;
        Ok(match self {
            Location::File(file) if keep_journal => Box::new(file.migrate()?),
            Location::File(file) => Box::new(file.setup()?),
            #[cfg(feature = "postgres")]
            Location::Server(settings) => Box::new(settings.clone().migrate(true).open()?),
        })
    }

    /// Returns the migrations that [`setup`](Self::setup) would apply.
    pub(crate) fn pending_migrations(&self) -> CliResult<Vec<PendingMigration>> {
        match self {
            Location::File(file) => Ok(file.pending_migrations()?),
            #[cfg(feature = "postgres")]
            Location::Server(settings) => {
                let info = settings.inspect()?;
                info.schema_version?;
                Ok(info.pending)
            }
        }
    }

    /// Adds what `doctor` finds.
    pub(crate) fn examine(
        &self,
        findings: &mut Findings<'_>,
        args: &DoctorArgs,
        context: &CliContext,
        interrupt: &Interrupt,
    ) -> CliResult {
        match self {
            Location::File(file) => {
                doctor::examine_file(file, findings, args, context, interrupt)?;
            }
            #[cfg(feature = "postgres")]
            Location::Server(settings) => {
                if server_checks::check(findings, &settings.inspect()?) {
                    doctor::check_sessions(findings, &*self.open()?, args, context, interrupt)?;
                }
            }
        }
        Ok(())
    }

    /// Returns what `stats` prints of the place.
    pub(crate) fn properties(&self) -> CliResult<Properties> {
        match self {
            Location::File(file) if file.path().is_none() => {
                Ok(Properties { json: ("file", Json::Null), ..Properties::default() })
            }
            Location::File(file) => Ok(Properties::of_file(&file.info()?)),
            #[cfg(feature = "postgres")]
            Location::Server(settings) => {
                let info = settings.inspect()?;
                Ok(Properties {
                    place: vec![
                        ("server", format!("{}, PostgreSQL {}", info.server, info.version)),
                        ("schema", info.schema.clone()),
                    ],
                    size: vec![("size", format!("{}, with indexes", HumanBytes(info.bytes)))],
                    schema: info.schema_version.as_ref().ok().copied(),
                    other_tables: None,
                    json: (
                        "server",
                        json!({
                            "name": info.server,
                            "version": info.version,
                            "schema": info.schema_version.as_ref().ok(),
                            "schema_name": info.schema,
                            "bytes": info.bytes,
                            "dead_rows": info.dead_rows,
                        }),
                    ),
                })
            }
        }
    }

    /// Returns the file, if the store is one.
    pub(crate) fn file(&self) -> Option<&SqliteFile> {
        match self {
            Location::File(file) => Some(file),
            #[cfg(feature = "postgres")]
            Location::Server(_) => None,
        }
    }

    /// Returns advice to the operator about an error of this store.
    pub(crate) fn advice(&self, error: &Error) -> Option<&'static str> {
        match self {
            Location::File(_) => file_advice(error),
            #[cfg(feature = "postgres")]
            Location::Server(_) => server_advice(error.kind()),
        }
    }

    /// Rejects a file that is not what a running process uses. If it was deleted or replaced, a
    /// change would be written into the log that its rescue needs, and a reader would mix the new
    /// file with that log; by another name, a revocation would have no effect on the process.
    pub(crate) fn refuse_conflict(&self) -> CliResult {
        match self.file().and_then(SqliteFile::path).and_then(processes::conflict) {
            Some((found, remedy)) => Err(CliError::new(format!("{found}: {remedy}"))),
            None => Ok(()),
        }
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
    pub(crate) json: (&'static str, Json),
}

impl Properties {
    fn of_file(info: &DatabaseInfo) -> Self {
        let free = HumanBytes(info.free_pages.saturating_mul(info.page_size));
        let bytes = HumanBytes(info.bytes);
        let log = HumanBytes(info.log_bytes);
        let schema = info.schema.as_ref().ok().copied();
        let path = info.path.display().to_string();
        Properties {
            json: (
                "file",
                json!({
                    "path": path,
                    "bytes": info.bytes,
                    "log_bytes": info.log_bytes,
                    "page_size": info.page_size,
                    "pages": info.pages,
                    "free_pages": info.free_pages,
                    "journal": info.journal,
                    "schema": schema,
                    "other_tables": info.other_tables,
                }),
            ),
            place: vec![("file", path)],
            size: vec![
                ("size", format!("{bytes}, {free} of it free; log {log}")),
                ("journal", info.journal.clone()),
            ],
            schema,
            other_tables: Some(info.other_tables),
        }
    }
}
