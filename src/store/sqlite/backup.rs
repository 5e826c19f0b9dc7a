//! A copy of the live database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Handle;
use crate::store::sqlite::failure::while_doing;
use crate::store::sqlite::{builder, readers};

const DOING: &str = "back the database up";

/// Copies all of `source` as it is at this moment into a new file. Writers go on.
pub(super) fn copy(source: &Connection, to: &Path) -> Result<()> {
    if fs::exists(to).unwrap_or(true) {
        return Err(exists(to));
    }
    // The name is taken only by a complete copy. Until then the copy has a name of its own, so
    // that two at once do not write into each other's.
    let partial = partial(to)?;
    let copied = copy_all(source, &partial).and_then(|()| publish(&partial, to));
    // After a link it is the second name; after a failure it is what is left.
    let _ = fs::remove_file(&partial);
    copied
}

fn exists(to: &Path) -> Error {
    Error::with_source(ErrorKind::Invalid, DOING, format!("{} exists", to.display()))
}

fn failed_io(source: io::Error) -> Error {
    Error::with_source(builder::kind_of_io(&source), DOING, source)
}

fn partial(to: &Path) -> Result<PathBuf> {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.partial", Handle::generate()?));
    Ok(name.into())
}

/// Gives the complete copy its name, unless that was taken meanwhile.
fn publish(partial: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(partial, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(to)),
        // Some file systems have no links.
        Err(_) => fs::rename(partial, to).map_err(failed_io),
    }
}

fn copy_all(source: &Connection, to: &Path) -> Result<()> {
    let failed = || while_doing(DOING);
    builder::create_new_private(to).map_err(failed_io)?;
    let mut target = readers::connect(to).map_err(failed())?;
    // A read transaction of our own holds one snapshot: without it the copy would begin anew at
    // each commit of a writer, and under load never end.
    let snapshot = source.unchecked_transaction().map_err(failed())?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed())?;
    let backup = Backup::new(&snapshot, &mut target).map_err(failed())?;
    backup.run_to_completion(1024, Duration::ZERO, None).map_err(failed())?;
    drop(backup);
    target.close().map_err(|(_, source)| while_doing(DOING)(source))
}
