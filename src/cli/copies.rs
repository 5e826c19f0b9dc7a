//! Copies of the database, and back.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use indicatif::HumanBytes;

use crate::cli::Context;
use crate::cli::arguments::{Backup, Restore};
use crate::cli::failure::{Done, Failure};
use crate::cli::interrupt::{Interrupt, bar};
use crate::cli::output::{ask, one_line};
use crate::cli::tables::sessions;
use crate::error::ErrorKind;

pub(super) fn backup(
    given: &Backup,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let store = context.place.store()?;
    let interrupt = Interrupt::listen()?;
    let bar = bar("copying", "pages");
    bar.enable_steady_tick(Duration::from_millis(200));
    let copied = store.backup_checked(&given.file, interrupt.watch(&bar))?;
    bar.finish_and_clear();
    if copied.is_break() {
        return Err(Failure::interrupted("there is no copy"));
    }
    let bytes = fs::metadata(&given.file).map_or(0, |file| file.len());
    let file = one_line(&given.file.display().to_string());
    writeln!(out, "copied to {file}: {}, checked", HumanBytes(bytes))?;
    Ok(Done::Well)
}

pub(super) fn restore(
    given: &Restore,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let target = context.place.file()?;
    let from = given.file.display().to_string();
    let replaced = match target.facts() {
        Ok(facts) => {
            let others = match facts.other_tables {
                0 => String::new(),
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
    let ended = match given.keep {
        true => "its sessions live on, those that were revoked since it was made included.",
        false => "every session in it is ended, since some may have been revoked since then.",
    };
    ask(&format!("{replaced}{ended}"), given.yes)?;
    context.in_front.check(context.now)?;
    let interrupt = Interrupt::listen()?;
    let bar = bar("restoring", "pages");
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = target.restore(&given.file, given.keep, context.now, interrupt.watch(&bar))?;
    bar.finish_and_clear();
    match done {
        ControlFlow::Break(()) => Err(Failure::interrupted("nothing was changed")),
        ControlFlow::Continue(restored) => {
            context.in_front.forget_everything(context.now)?;
            let verb = if restored.kept { "kept" } else { "ended" };
            writeln!(out, "restored from {}; {verb} {}", one_line(&from), sessions(restored.live))?;
            Ok(Done::Well)
        }
    }
}
