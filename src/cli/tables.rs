//! Setting up, migrating, emptying and removing the tables.

use std::io::Write;

use crate::backend::Store;
use crate::cli::Context;
use crate::cli::arguments::{Migrate, Setup, Sure};
use crate::cli::failure::{Done, Failure};
use crate::cli::output::{ask, one_line};
use crate::cli::target::Place;
use crate::error::ErrorKind;
use crate::id::Realm;
use crate::stores::sqlite::SqliteStore;

pub(super) fn setup(args: &Setup, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let nothing_to_do = context.place.is_set_up();
    let store = context.place.set_up(args.keep_journal)?;
    let done = if nothing_to_do { "already set up" } else { "set up" };
    writeln!(out, "{done}: {}", one_line(&Place::name(&store)))?;
    Ok(Done::Well)
}

pub(super) fn migrate(
    args: &Migrate,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    // Here a missing file is refused, and what is not ours.
    let pending = context.place.file()?.pending()?;
    if pending.is_empty() {
        writeln!(out, "nothing to do: the tables are of this version")?;
        return Ok(Done::Well);
    }
    if !args.dry_run {
        context.place.set_up(true)?;
    }
    let done = if args.dry_run { "would apply" } else { "applied" };
    for migration in pending {
        writeln!(out, "{done} migration {}, {}", migration.version, migration.name)?;
    }
    Ok(Done::Well)
}

pub(super) fn clear(args: &Sure, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store()?;
    ask(
        &format!(
            "This ends {} of {}, {}: everyone has to sign in again.",
            live_sessions(count_live(&store, context, None)?),
            Place::name(&store),
            within(None),
        ),
        args.yes,
    )?;
    context.in_front.check(context.now)?;
    let ended = store.clear()?;
    context.in_front.forget_everything(context.now)?;
    writeln!(out, "ended {} {}, expired ones included", sessions(ended), within(None))?;
    Ok(Done::Well)
}

pub(super) fn drop_tables(
    args: &Sure,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let store = context.place.store()?;
    let others = match store.facts()?.map_or(0, |facts| facts.other_tables) {
        0 => "There are no other tables in it.".to_owned(),
        1 => "The one other table in it stays.".to_owned(),
        others => format!("The {others} other tables in it stay."),
    };
    ask(
        &format!(
            "This removes {} with {}; a running service fails until `setup` is run. {others}",
            Place::name(&store),
            live_sessions(count_live(&store, context, None)?),
        ),
        args.yes,
    )?;
    context.in_front.check(context.now)?;
    store.drop_tables()?;
    context.in_front.forget_everything(context.now)?;
    writeln!(out, "removed {}", one_line(&Place::name(&store)))?;
    Ok(Done::Well)
}

/// For questions: a table that is too damaged to be counted can be emptied all the same.
pub(super) fn count_live(
    store: &SqliteStore,
    context: &Context,
    realm: Option<&Realm>,
) -> Result<Option<u64>, Failure> {
    let Some(index) = store.index() else { return Ok(None) };
    let live = match realm {
        Some(realm) => store.count_in_realm(realm, context.now),
        None => index.stats(context.now).map(|stats| stats.live),
    };
    match live {
        Ok(live) => Ok(Some(live)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// So many as [`count_live`] says.
pub(super) fn live_sessions(live: Option<u64>) -> String {
    match live {
        None => "all sessions".to_owned(),
        Some(1) => "1 live session".to_owned(),
        Some(live) => format!("{} live sessions", indicatif::HumanCount(live)),
    }
}

/// Whose sessions a command is about.
pub(super) fn within(realm: Option<&Realm>) -> String {
    match realm {
        Some(realm) => format!("in realm {}", realm.as_str()),
        None => "in all realms".to_owned(),
    }
}

pub(super) fn sessions(count: u64) -> String {
    match count {
        1 => "1 session".to_owned(),
        _ => format!("{} sessions", indicatif::HumanCount(count)),
    }
}
