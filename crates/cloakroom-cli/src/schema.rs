//! The commands `setup`, `migrate`, `clear` and `drop`.

use std::fs;
use std::io::{self, Write};

use cloakroom::stores::sqlite::Admin;

use crate::CliContext;
use crate::arguments::{ConfirmArgs, MigrateArgs, SetupArgs};
use crate::error::{CliError, CliResult};
use crate::host_checks;
use crate::output::{ask, count_of_sessions, one_line};
use crate::sessions::{count_live, live_sessions, scope};
use crate::target::name;

pub(crate) fn setup(args: &SetupArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let admin = context.admin()?;
    refuse_lost(admin)?;
    let is_set_up = admin.pending_migrations().is_ok_and(|pending| pending.is_empty());
    let store = if args.keep_journal { admin.migrate()? } else { admin.setup()? };
    let done = if is_set_up { "already set up" } else { "set up" };
    writeln!(out, "{done}: {}", one_line(&name(&store)))?;
    if let Some(path) = store.path()
        && host_checks::is_root()
        && !is_set_up
    {
        let (path, owner) = (path.display(), store.admin().info()?.owner);
        let note = match owner.as_str() {
            "root" => "; `chown` it to the service's user, unless that is root",
            _ => ", as its folder does",
        };
        let note = one_line(&format!("{path} belongs to {owner}{note}"));
        writeln!(io::stderr(), "cloakroom: {note}")?;
    }
    Ok(())
}

/// Refuses to create a database beside the log of a deleted one, which SQLite would remove.
fn refuse_lost(admin: &Admin) -> CliResult {
    let Some(path) = admin.path() else { return Ok(()) };
    let log = host_checks::beside(path, "-wal");
    let has_log = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    if fs::exists(path).unwrap_or(true) || !has_log {
        return Ok(());
    }
    Err(CliError::new(format!(
        "cannot set up {}: {} exists, the log of a deleted database: stop the service, move the \
         log and -shm away, and `restore` the last copy",
        path.display(),
        log.display()
    )))
}

pub(crate) fn migrate(args: &MigrateArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let admin = context.admin()?;
    // Refuses a missing file and a foreign table.
    let pending = admin.pending_migrations()?;
    if pending.is_empty() {
        return Ok(writeln!(out, "nothing to do: the tables have this version's schema")?);
    }
    if !args.dry_run {
        admin.migrate()?;
    }
    let done = if args.dry_run { "would apply" } else { "applied" };
    for migration in pending {
        writeln!(out, "{done} migration {}, {}", migration.version, migration.name)?;
    }
    Ok(())
}

pub(crate) fn clear(args: &ConfirmArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = context.admin()?.store()?;
    ask(
        &format!(
            "This ends {} of {}, {}: all users have to sign in again.",
            live_sessions(count_live(&store, context, None)?),
            name(&store),
            scope(None),
        ),
        args.yes,
    )?;
    let ended = store.admin().clear()?;
    Ok(writeln!(out, "ended {} {}, expired ones included", count_of_sessions(ended), scope(None))?)
}

pub(crate) fn drop_all(args: &ConfirmArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = context.admin()?.store()?;
    let other_tables = match store.path() {
        Some(_) => store.admin().info()?.other_tables,
        None => 0,
    };
    let others = match other_tables {
        0 => "There are no other tables in it.".to_owned(),
        1 => "The one other table in it stays.".to_owned(),
        others => format!("The {others} other tables in it stay."),
    };
    ask(
        &format!(
            "This removes {} with {}; a running service fails until `setup` is run. {others}",
            name(&store),
            live_sessions(count_live(&store, context, None)?),
        ),
        args.yes,
    )?;
    store.admin().drop_tables()?;
    Ok(writeln!(out, "removed {}", one_line(&name(&store)))?)
}
