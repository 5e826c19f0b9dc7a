//! The commands `setup`, `migrate`, `clear` and `drop`.

use std::io::{self, Write};

use crate::CliContext;
use crate::arguments::{ConfirmArgs, MigrateArgs, SetupArgs};
use crate::error::CliResult;
use crate::host_checks;
use crate::output::{ask, count_of_sessions, one_line};
use crate::sessions::{count_live, live_sessions, scope};
use crate::sqlite::refuse_conflict;

pub(crate) fn setup(args: &SetupArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let location = context.location()?;
    location.file().map_or(Ok(()), refuse_conflict)?;
    let is_set_up = location.pending_migrations().is_ok_and(|pending| pending.is_empty());
    if args.keep_journal {
        context.file("a database in PostgreSQL has no journal to keep")?.migrate()?;
    }
    let database = if args.keep_journal { location.open()? } else { location.setup()? };
    let done = if is_set_up { "already set up" } else { "set up" };
    writeln!(out, "{done}: {}", one_line(&database.name()))?;
    if let Some(admin) = location.file()
        && let Some(path) = admin.path()
        && host_checks::is_root()
        && !is_set_up
    {
        let path = path.display();
        let owner = admin.info()?.owner;
        let note = match owner.as_str() {
            "root" => "; `chown` it to the service's user, unless that is root",
            _ => ", as its folder does",
        };
        let note = one_line(&format!("{path} belongs to {owner}{note}"));
        writeln!(io::stderr(), "cloakroom: {note}")?;
    }
    Ok(())
}

pub(crate) fn migrate(args: &MigrateArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let location = context.location()?;
    // Refuses a missing file and a foreign table.
    let pending = location.pending_migrations()?;
    if pending.is_empty() {
        return Ok(writeln!(out, "nothing to do: the tables have this version's schema")?);
    }
    if !args.dry_run {
        location.migrate()?;
    }
    let done = if args.dry_run { "would apply" } else { "applied" };
    for (version, name) in pending {
        writeln!(out, "{done} migration {version}, {name}")?;
    }
    Ok(())
}

pub(crate) fn clear(args: &ConfirmArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let database = context.location()?.open()?;
    ask(
        &format!(
            "This ends {} of {}, {}: all users have to sign in again.",
            live_sessions(count_live(&*database, context, None)?),
            database.name(),
            scope(None),
        ),
        args.yes,
    )?;
    let ended = database.clear()?;
    Ok(writeln!(out, "ended {} {}, expired ones included", count_of_sessions(ended), scope(None))?)
}

pub(crate) fn drop_all(args: &ConfirmArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let database = context.location()?.open()?;
    let others = match database.properties()?.other_tables {
        None => "Other tables stay.".to_owned(),
        Some(0) => "There are no other tables in it.".to_owned(),
        Some(1) => "The one other table in it stays.".to_owned(),
        Some(others) => format!("The {others} other tables in it stay."),
    };
    ask(
        &format!(
            "This removes {} with {}; a running service fails until `setup` is run. {others}",
            database.name(),
            live_sessions(count_live(&*database, context, None)?),
        ),
        args.yes,
    )?;
    database.drop_tables()?;
    Ok(writeln!(out, "removed {}", one_line(&database.name()))?)
}
