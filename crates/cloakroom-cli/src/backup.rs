//! The commands `backup` and `restore`.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;

use cloakroom::stores::sqlite::SqliteFile;
use cloakroom::{Error, ErrorKind};
use indicatif::HumanBytes;

use crate::CliContext;
use crate::arguments::{BackupArgs, RestoreArgs};
use crate::error::{CliError, CliResult, NOT_SET_UP};
use crate::output::{ask, count_of_sessions, one_line};
use crate::progress::bar;
use crate::signals::Interrupt;

pub(crate) fn backup(args: &BackupArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let file = context.file("`pg_dump` copies a PostgreSQL database")?;
    context.location()?.refuse_conflict()?;
    let store = file.store_for_reading()?;
    let interrupt = Interrupt::listen()?;
    let bar = bar("copying", "pages");
    let copied = store.file().backup_checked(&args.file, interrupt.watch(&bar))?;
    bar.finish_and_clear();
    if copied.is_break() {
        return Err(CliError::interrupted("there is no copy"));
    }
    let bytes = fs::metadata(&args.file).map_or(0, |file| file.len());
    let file = one_line(&args.file.display().to_string());
    Ok(writeln!(out, "copied to {file}: {}, checked", HumanBytes(bytes))?)
}

pub(crate) fn restore(args: &RestoreArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let file = context.file("`pg_restore` restores a PostgreSQL database; then `clear` it")?;
    context.location()?.refuse_conflict()?;
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
    let done = file.restore(&args.file, args.keep, context.now, interrupt.watch(&bar));
    bar.finish_and_clear();
    match done.map_err(restore_failure)? {
        ControlFlow::Break(()) => Err(CliError::interrupted("nothing was changed")),
        ControlFlow::Continue(restored) => {
            let verb = if restored.ended { "ended" } else { "kept" };
            writeln!(
                out,
                "restored from {}; {verb} {}",
                one_line(&from),
                count_of_sessions(restored.live)
            )?;
            Ok(())
        }
    }
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
