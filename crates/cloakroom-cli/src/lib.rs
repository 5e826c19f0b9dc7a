//! The command line for cloakroom's session databases: as the program `cloakroom`, or within the
//! application's own.
//!
//! | for | commands |
//! |---|---|
//! | tables | `setup`, `migrate`, `clear`, `drop` |
//! | sessions | `stats`, `list`, `show`, `revoke`, `sweep`, `copy` |
//! | the database file | `backup`, `restore`, `compact` |
//! | problems | `doctor` |
//! | the shell | `completions`, `man` |
//!
//! `cloakroom help COMMAND` describes a command. An application that is deployed as one binary can
//! offer the commands itself, on its own database:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use cloakroom::SqliteStore;
//! use cloakroom_cli::Target;
//!
//! fn main() -> ExitCode {
//!     // myapp sessions list --user ada
//!     if std::env::args_os().nth(1).is_some_and(|arg| arg == "sessions") {
//!         let target = Target::SqliteBuilder(SqliteStore::builder("app.db"));
//!         return cloakroom_cli::run(std::env::args_os().skip(1), target);
//!     }
//!     // … the service
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! No command prints a session id or its hash, and only `show --data` prints a session's data.
//! `clear`, `drop`, `revoke --all`, `restore` and a full `compact` ask for confirmation. An
//! interrupted command leaves nothing partial.
//!
//! The exit codes are 0 done, 1 failed, 2 wrong arguments, 3 tables not set up, 4 nothing matched.
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `bundled` | yes | SQLite, compiled into the binary; without it the system's is linked |
//! | `postgres` | no | sessions in PostgreSQL |
//! | `postgres-rustls` | no | `postgres`, and encrypted connections to it |

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod arguments;
mod backup;
mod compact;
mod copy;
mod database;
mod doctor;
mod error;
mod generate;
mod host_checks;
mod output;
#[cfg(feature = "postgres")]
mod pgpass;
#[cfg(not(feature = "postgres"))]
#[path = "no_postgres.rs"]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres;
mod processes;
mod progress;
#[cfg(doctest)]
mod readme_doctests;
mod schema;
#[cfg(feature = "postgres")]
mod server_checks;
mod sessions;
mod signals;
mod stats;
mod sweep;
mod target;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use cloakroom::clock::{Clock, SystemClock, Timestamp};
use cloakroom::manager::Review;
use cloakroom::stores::sqlite::SqliteFile;

use crate::arguments::{Command, StoreOptions};
use crate::database::Database;
use crate::error::{CliError, CliResult};
use crate::output::Style;

pub use target::Target;

/// The input of a command besides its own arguments.
struct CliContext {
    /// The database; `None` if none was named, or for `copy`, which names two.
    database: Option<Database>,
    /// Whether [`database`](Self::database) has checked it.
    is_checked: Cell<bool>,
    options: StoreOptions,
    now: Timestamp,
    style: Style,
    /// The review of the application's configuration, if the application has passed one.
    review: Option<Review>,
}

impl CliContext {
    /// Returns the database, after a check that no process uses another file in its place.
    fn database(&self) -> CliResult<&Database> {
        let database = self.database_unchecked()?;
        if !self.is_checked.get() {
            database.check_no_other_file_in_use()?;
            self.is_checked.set(true);
        }
        Ok(database)
    }

    /// Returns the database for `doctor`, which reports what that check finds.
    fn database_unchecked(&self) -> CliResult<&Database> {
        let make_error = || {
            CliError::usage(
                "no database: give --db PATH or --store URL, or set CLOAKROOM_DB or \
                 CLOAKROOM_STORE",
            )
        };
        self.database.as_ref().ok_or_else(make_error)
    }

    /// Returns a handle for the operations on the file. `instead` says what to do on another
    /// database.
    fn file(&self, instead: &str) -> CliResult<&SqliteFile> {
        let make_error = || CliError::usage(format!("this command is for SQLite files; {instead}"));
        self.database()?.file().ok_or_else(make_error)
    }
}

/// Runs one command and returns its [exit code](crate). `args` begin with the program's name, as
/// those of [`std::env::args_os`] do. Output goes to standard output; questions, progress and
/// errors go to standard error.
///
/// Long commands install handlers for SIGINT, SIGTERM and SIGHUP, unless the process ignores these
/// signals. The handlers stay installed: after the command, the first signal does nothing and the
/// second ends the process. Handlers of the application run as well. Call this last, or handle the
/// signals.
pub fn run(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    target: Target,
) -> ExitCode {
    run_all(args, target, None)
}

/// Runs one command as [`run`] does, with the application's
/// [`SessionManager::review`](cloakroom::SessionManager::review): `doctor` then also checks the
/// cookie and the limits.
pub fn run_reviewed(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    target: Target,
    review: Review,
) -> ExitCode {
    run_all(args, target, Some(review))
}

fn run_all(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    target: Target,
    review: Option<Review>,
) -> ExitCode {
    let stdout = io::stdout();
    let mut stderr = io::stderr();
    let arguments = match arguments::parse(args, &target) {
        Ok(arguments) => arguments,
        Err(error) if error.exit_code() == 0 => {
            // `--help` or `--version`.
            let _ = write!(stdout.lock(), "{}", error.render());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let message = arguments::in_one_line(&error);
            let _ = writeln!(stderr, "cloakroom: {}", output::one_line(&message));
            return ExitCode::from(error::USAGE);
        }
    };
    let mut out = io::BufWriter::new(stdout.lock());
    let style = Style::new(arguments.utc, io::stdout().is_terminal());
    let done = Database::of(target, &arguments).and_then(|database| {
        let options = arguments.options;
        let is_checked = Cell::new(false);
        let now = SystemClock.now();
        let context = CliContext { database, is_checked, options, now, style, review };
        dispatch(&arguments.command, &context, &mut out)
            .map_err(|failure| failure.with_advice(context.database.as_ref()))
    });
    // The output before a failure comes before its message.
    let flushed = out.flush().map_err(CliError::from);
    let done = match done {
        Err(failure) if failure.code() != error::NOTHING_MATCHED => Err(failure),
        done => flushed.and(done),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader, such as `head`, has read enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(stderr, "cloakroom: {}", output::one_line(&failure.to_string()));
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(command: &Command, context: &CliContext, out: &mut dyn Write) -> CliResult {
    match command {
        Command::Setup { keep_journal } => schema::setup(*keep_journal, context, out),
        Command::Migrate { dry_run } => schema::migrate(*dry_run, context, out),
        Command::Clear(args) => schema::clear(args, context, out),
        Command::Drop(args) => schema::drop_all(args, context, out),
        Command::Stats(args) => stats::stats(args, context, out),
        Command::List(args) => sessions::list(args, context, out),
        Command::Show(args) => sessions::show(args, context, out),
        Command::Revoke(args) => sessions::revoke(args, context, out),
        Command::Sweep { limit } => sweep::sweep(*limit, context, out),
        Command::Compact(args) => compact::compact(args, context, out),
        Command::Backup { file } => backup::backup(file, context, out),
        Command::Restore(args) => backup::restore(args, context, out),
        Command::Copy(args) => copy::copy(args, context, out),
        Command::Doctor(args) => doctor::doctor(args, context, out),
        Command::Completions { shell } => generate::completions(*shell, out),
        Command::Man { command } => generate::man(command.as_deref(), out),
    }
}
