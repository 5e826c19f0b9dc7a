//! The commands `setup`, `migrate`, `clear` and `drop`.

use std::io::{self, Write};

use crate::CliContext;
use crate::arguments::ConfirmArgs;
use crate::database::count_live;
use crate::error::CliResult;
use crate::host_checks;
use crate::output::{ask, live_sessions_text, one_line, scope, sessions_text};

pub(crate) fn setup(keep_journal: bool, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let database = context.database()?;
    let is_set_up = database.pending_migrations().is_ok_and(|pending| pending.is_empty());
    if keep_journal {
        context.file("a database in PostgreSQL has no journal to keep")?;
    }
    let store = database.setup(keep_journal)?;
    let done = if is_set_up { "already set up" } else { "set up" };
    writeln!(out, "{done}: {}", one_line(&store.description()))?;
    if let Some(file) = database.file()
        && let Some(path) = file.path()
        && host_checks::is_root()
        && !is_set_up
    {
        let path = path.display();
        let owner = file.info()?.owner;
        let note = match owner.as_str() {
            "root" => "; `chown` it to the service's user, unless that is root",
            _ => ", as its folder does",
        };
        let note = one_line(&format!("{path} belongs to {owner}{note}"));
        writeln!(io::stderr(), "cloakroom: {note}")?;
    }
    Ok(())
}

pub(crate) fn migrate(dry_run: bool, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let database = context.database()?;
    // Refuses a missing file and a foreign table.
    let pending = database.pending_migrations()?;
    if pending.is_empty() {
        return Ok(writeln!(out, "nothing to do: the tables have this version's schema")?);
    }
    if !dry_run {
        database.setup(true)?;
    }
    let done = if dry_run { "would apply" } else { "applied" };
    for migration in pending {
        writeln!(out, "{done} migration {}, {}", migration.version, migration.name)?;
    }
    Ok(())
}

pub(crate) fn clear(args: &ConfirmArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = context.database()?.open()?;
    ask(
        &format!(
            "This ends {} of {}, {}: all users have to sign in again.",
            live_sessions_text(count_live(&*store, None, context.now)?),
            store.description(),
            scope(None),
        ),
        args.yes,
    )?;
    let ended = store.clear()?;
    Ok(writeln!(out, "ended {} {}, expired ones included", sessions_text(ended), scope(None))?)
}

pub(crate) fn drop_all(args: &ConfirmArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = context.database()?.open()?;
    let others = match context.database()?.file_info()?.map(|info| info.other_tables) {
        None => "Other tables stay.".to_owned(),
        Some(0) => "There are no other tables in it.".to_owned(),
        Some(1) => "The one other table in it stays.".to_owned(),
        Some(others) => format!("The {others} other tables in it stay."),
    };
    ask(
        &format!(
            "This removes {} with {}; a running service fails until `setup` is run. {others}",
            store.description(),
            live_sessions_text(count_live(&*store, None, context.now)?),
        ),
        args.yes,
    )?;
    store.drop_tables()?;
    Ok(writeln!(out, "removed {}", one_line(&store.description()))?)
}
