//! The migrations of a store's tables, and what a database has recorded of them.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::stores::admin::PendingMigration;

/// The table with the history of migrations of all sessions tables beside it.
pub(super) const HISTORY: &str = "cloakroom_migrations";

/// What a migration does; for errors.
pub(super) const OPERATION: &str = "set up the tables";

/// The program that applies migrations, for their history.
pub(super) const APPLIED_BY: &str = concat!("cloakroom ", env!("CARGO_PKG_VERSION"));

pub(super) struct Migration {
    /// The schema version after the migration. The first one is 1.
    pub(super) version: u32,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

impl Migration {
    pub(super) fn checksum(&self) -> String {
        let mut hex = String::new();
        for byte in Sha256::digest(self.sql) {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

/// Returns the newest schema version of this program.
pub(super) fn newest(migrations: &[Migration]) -> u32 {
    migrations.last().map_or(0, |migration| migration.version)
}

/// Returns the migrations after `version`.
pub(super) fn pending(migrations: &[Migration], version: u32) -> Vec<PendingMigration> {
    let missing = migrations.iter().filter(|migration| migration.version > version);
    missing.map(|&Migration { version, name, .. }| PendingMigration { version, name }).collect()
}

/// Returns the last version of a history, which has the version and the checksum of each applied
/// migration in ascending order; 0 for an empty one.
///
/// Fails with [`ErrorKind::NewerSchema`] or [`ErrorKind::ForeignTable`] if this program does not
/// have these migrations.
pub(super) fn recorded_version(migrations: &[Migration], history: &[(i64, String)]) -> Result<u32> {
    let newest = newest(migrations);
    if let Some((version, _)) = history.last()
        && *version > i64::from(newest)
    {
        let why =
            format!("the table has schema version {version}, this version reads up to {newest}");
        return Err(Error::with_source(ErrorKind::NewerSchema, OPERATION, why));
    }
    let mut last = 0;
    for (version, checksum) in history {
        let known = migrations.iter().find(|known| i64::from(known.version) == *version);
        let Some(known) = known.filter(|known| known.checksum() == *checksum) else {
            let why = format!("its migration {version} differs from that of this version");
            return Err(Error::with_source(ErrorKind::ForeignTable, OPERATION, why));
        };
        last = known.version;
    }
    Ok(last)
}

/// Returns the error of a database that has this schema version although nothing may be migrated.
/// `table` names the table.
pub(super) fn not_set_up(migrations: &[Migration], version: u32, table: &str) -> Error {
    let why = match version {
        0 => format!("there is no table {table}, and migrating is off"),
        _ => format!(
            "schema version {version} was found and {} is needed; migrating is off",
            newest(migrations)
        ),
    };
    Error::with_source(ErrorKind::NotSetUp, OPERATION, why)
}
