//! Copies of the database, and back.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use indicatif::HumanBytes;

use crate::cli::Context;
use crate::cli::arguments::{Backup, Restore};
use crate::cli::failure::{Done, Failure, NOT_SET_UP};
use crate::cli::interrupt::{Interrupt, bar};
use crate::cli::output::{ask, one_line};
use crate::cli::tables::sessions;
use crate::error::{Error, ErrorKind};

pub(super) fn backup(
    args: &Backup,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let store = context.place.store_to_read()?;
    let interrupt = Interrupt::listen()?;
    let bar = bar("copying", "pages");
    bar.enable_steady_tick(Duration::from_millis(200));
    let copied = store.backup_checked(&args.file, interrupt.watch(&bar))?;
    bar.finish_and_clear();
    if copied.is_break() {
        return Err(Failure::interrupted("there is no copy"));
    }
    let bytes = fs::metadata(&args.file).map_or(0, |file| file.len());
    let file = one_line(&args.file.display().to_string());
    writeln!(out, "copied to {file}: {}, checked", HumanBytes(bytes))?;
    Ok(Done::Well)
}

pub(super) fn restore(
    args: &Restore,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let target = context.place.file()?;
    let from = args.file.display().to_string();
    let replaced = match target.facts() {
        Ok(facts) if facts.read_only => {
            let operation = format!("restore into {}", facts.path.display());
            return Err(Error::new(ErrorKind::ReadOnly, operation).into());
        }
        Ok(facts) => {
            let others = match facts.other_tables {
                0 => String::new(),
                1 => ", one table of others included".to_owned(),
                others => format!(", {others} tables of others included"),
            };
            format!("This puts {from} in the place of {}{others}; ", facts.path.display())
        }
        Err(error) if error.kind() == ErrorKind::NotSetUp => format!("This restores {from}; "),
        // What cannot be read may be just what is to be replaced.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            format!("This puts {from} in the place of a damaged database; ")
        }
        Err(error) => return Err(error.into()),
    };
    let ended = match args.keep {
        true => "its sessions live on, those that were revoked since it was made included.",
        false => "every session in it is ended, since some may have been revoked since then.",
    };
    ask(&format!("{replaced}{ended}"), args.yes)?;
    context.in_front.check(context.now)?;
    let interrupt = Interrupt::listen()?;
    let bar = bar("restoring", "pages");
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = target.restore(&args.file, args.keep, context.now, interrupt.watch(&bar));
    bar.finish_and_clear();
    match done.map_err(of_restoring)? {
        ControlFlow::Break(()) => Err(Failure::interrupted("nothing was changed")),
        ControlFlow::Continue(restored) => {
            context.in_front.forget_everything(context.now)?;
            let verb = if restored.kept { "kept" } else { "ended" };
            writeln!(out, "restored from {}; {verb} {}", one_line(&from), sessions(restored.live))?;
            Ok(Done::Well)
        }
    }
}

/// What is not set up is not the database, but what is to take its place.
fn of_restoring(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::NotSetUp => {
            let advice = "check --db and --table, and that this is the copy you mean";
            Failure::Words(NOT_SET_UP, format!("{error}; {advice}"))
        }
        _ => Failure::Store(error),
    }
}
