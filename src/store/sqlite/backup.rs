//! A copy of the live database.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::error::{Error, ErrorKind, Result};
use crate::store::sqlite::failure::while_doing;
use crate::store::sqlite::{builder, readers};

const DOING: &str = "back the database up";

/// Copies all of `source` as it is at this moment into a new file. Writers go on.
pub(super) fn copy(source: &Connection, to: &Path) -> Result<()> {
    if fs::exists(to).unwrap_or(true) {
        let why = format!("{} exists", to.display());
        return Err(Error::with_source(ErrorKind::Invalid, DOING, why));
    }
    // The name is taken only by a complete copy.
    let partial = partial(to);
    let copied = copy_all(source, &partial).and_then(|()| {
        fs::rename(&partial, to)
            .map_err(|source| Error::with_source(builder::kind_of_io(&source), DOING, source))
    });
    if copied.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&partial);
    }
    copied
}

fn partial(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn copy_all(source: &Connection, to: &Path) -> Result<()> {
    let failed = || while_doing(DOING);
    builder::create_private(to)
        .map_err(|source| Error::with_source(builder::kind_of_io(&source), DOING, source))?;
    let mut target = Connection::open_with_flags(to, readers::flags()).map_err(failed())?;
    // A read transaction of our own holds one snapshot: without it the copy would begin anew at
    // each commit of a writer, and under load never end.
    let snapshot = source.unchecked_transaction().map_err(failed())?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed())?;
    let backup = Backup::new(&snapshot, &mut target).map_err(failed())?;
    backup.run_to_completion(1024, Duration::ZERO, None).map_err(failed())?;
    drop(backup);
    target.close().map_err(|(_, source)| while_doing(DOING)(source))
}
