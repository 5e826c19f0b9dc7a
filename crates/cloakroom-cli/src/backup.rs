//! The commands `backup` and `restore`.

use std::fs;
use std::io::Write;
use std::path::Path;

use cloakroom::stores::sqlite::SqliteFile;
use cloakroom::{Error, ErrorKind};
use indicatif::HumanBytes;

use crate::CliContext;
use crate::arguments::RestoreArgs;
use crate::error::{CliError, CliResult, NOT_SET_UP};
use crate::output::{ask, one_line, sessions_text};
use crate::progress::bar;
use crate::signals::Interrupt;

pub(crate) fn backup(copy: &Path, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let file = context.file("`pg_dump` copies a PostgreSQL database")?;
    let store = file.store_for_reading()?;
    let interrupt = Interrupt::listen()?;
    interrupt.run(&bar("copying", "pages"), "there is no copy", |progress| {
        store.file().backup_checked(copy, progress)
    })?;
    let bytes = fs::metadata(copy).map_or(0, |file| file.len());
    let copy = one_line(&copy.display().to_string());
    Ok(writeln!(out, "copied to {copy}: {}, checked", HumanBytes(bytes))?)
}

pub(crate) fn restore(args: &RestoreArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let file = context.file("`pg_restore` restores a PostgreSQL database; then `clear` it")?;
    file.check_restore().map_err(restore_failure)?;
    let from = args.file.display().to_string();
    let replaced = match file.info() {
        Ok(info) => {
            let others = match info.other_tables {
                0 => String::new(),
                1 => ", including one other table".to_owned(),
                others => format!(", including {others} other tables"),
            };
            format!("This replaces {}{others} with {from}; ", info.path.display())
        }
        Err(error) if error.kind() == ErrorKind::NotSetUp => format!("This restores {from}; "),
        Err(error) => return Err(error.into()),
    };
    let effect = if args.keep {
        "its sessions stay live, including those revoked since it was made."
    } else {
        "every session in it is ended, since some may have been revoked since then."
    };
    ask(&format!("{replaced}{effect}"), args.yes)?;
    let interrupt = Interrupt::listen()?;
    let bar = bar("restoring", "pages");
    let restored = interrupt.run(&bar, "nothing was changed", |progress| {
        file.restore(&args.file, args.keep, context.now, progress).map_err(restore_failure)
    })?;
    let verb = if restored.ended { "ended" } else { "kept" };
    let sessions = sessions_text(restored.live);
    Ok(writeln!(out, "restored from {}; {verb} {sessions}", one_line(&from))?)
}

/// Returns the error of a restore. [`ErrorKind::NotSetUp`] concerns the copy here, which `setup`
/// would not help; [`ErrorKind::Corrupt`] has its own advice.
fn restore_failure(error: Error) -> CliError {
    match error.kind() {
        ErrorKind::Corrupt => CliError::new(error.to_string()),
        ErrorKind::NotSetUp if SqliteFile::open_failure(&error).is_none() => {
            let advice = "check --db and --table, and that this is the copy you mean";
            CliError::Message(NOT_SET_UP, format!("{error}; {advice}"))
        }
        _ => error.into(),
    }
}
