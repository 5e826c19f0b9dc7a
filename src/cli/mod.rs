//! The operator's commands: as the program `cloakroom`, or within the application's own.
//!
//! `cloakroom help` lists them. An application whose deployment is one binary offers the same
//! commands itself, on the store that it serves from:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use cloakroom::cli::{self, Target};
//! use cloakroom::SqliteStore;
//!
//! fn main() -> ExitCode {
//!     // myapp sessions list --user ada
//!     if std::env::args_os().nth(1).is_some_and(|word| word == "sessions") {
//!         let target = Target::Builder(SqliteStore::builder("app.db"));
//!         return cli::run(std::env::args_os().skip(1), target);
//!     }
//!     // … the service
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! No command prints an id or a key, and none but `show --data` prints what is in a session.
//! Commands that end something for good ask first, and do it in one transaction: interrupted, they
//! leave nothing partial. Exit codes: 0 done, 1 failed, 2 usage, 3 not set up, 4 nothing matched.

mod arguments;
#[cfg(feature = "memcached")]
mod cache;
#[cfg(not(feature = "memcached"))]
#[path = "no_cache.rs"]
mod cache;
mod copies;
mod doctor;
mod failure;
mod interrupt;
mod machine;
mod output;
mod papers;
mod room;
mod sessions;
mod stats;
mod tables;
mod target;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::cli::arguments::Command;
use crate::cli::cache::InFront;
use crate::cli::failure::{Done, Failure};
use crate::cli::output::Style;
use crate::cli::target::Place;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::manager::Review;

pub use target::Target;

/// What every command is given beside its arguments.
struct Context {
    place: Place,
    now: Timestamp,
    style: Style,
    in_front: InFront,
    /// What the application's own configuration looks like, if it runs this.
    review: Option<Review>,
}

/// Runs one command and says how it went. `args` begin with the program's name, as those of
/// [`std::env::args_os`] do; output goes to standard output, questions, progress and errors to
/// standard error.
///
/// Commands that can take long listen for SIGINT, SIGTERM and SIGHUP, unless those are ignored. The
/// process goes on to listen when they are over: the first of these signals then does nothing, and
/// the second ends it, besides what the application itself does at each. Call this last, or handle
/// them.
///
/// The exit codes are 0 done, 1 failed, 2 usage, 3 not set up, 4 nothing matched.
pub fn run<I, A>(args: I, target: Target) -> ExitCode
where
    I: IntoIterator<Item = A>,
    A: Into<OsString> + Clone,
{
    run_all(args, target, None)
}

/// The same for an application that hands over what
/// [`SessionManager::review`](crate::SessionManager::review) says of its configuration: `doctor`
/// then judges the cookie and the limits as well.
pub fn run_reviewed<I, A>(args: I, target: Target, review: Review) -> ExitCode
where
    I: IntoIterator<Item = A>,
    A: Into<OsString> + Clone,
{
    run_all(args, target, Some(review))
}

fn run_all<I, A>(args: I, target: Target, review: Option<Review>) -> ExitCode
where
    I: IntoIterator<Item = A>,
    A: Into<OsString> + Clone,
{
    let (stdout, mut stderr) = (io::stdout(), io::stderr());
    let arguments = match arguments::parse(args, &target) {
        Ok(arguments) => arguments,
        Err(error) if error.exit_code() == 0 => {
            // Help, or the version, which was asked for.
            let _ = write!(stdout.lock(), "{}", error.render());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let words = arguments::in_one_line(&error);
            let _ = writeln!(stderr, "cloakroom: {}", output::one_line(&words));
            return ExitCode::from(failure::USAGE);
        }
    };
    let mut out = io::BufWriter::new(stdout.lock());
    let style = Style::new(arguments.utc, io::stdout().is_terminal());
    let done = Place::new(target, &arguments)
        .and_then(|place| {
            let (now, in_front) = (SystemClock.now(), arguments.in_front.clone());
            let context = Context { place, now, style, in_front, review };
            carry_out(&arguments.command, &context, &mut out)
        })
        .and_then(|done| out.flush().map(|()| done).map_err(Failure::from));
    match done {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Nothing(words)) => {
            let _ = writeln!(stderr, "cloakroom: {}", output::one_line(&words));
            ExitCode::from(failure::NOTHING_MATCHED)
        }
        // Whoever read this has read enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // What was found before it stays in front of it.
            let _ = out.flush();
            let _ = writeln!(stderr, "cloakroom: {}", output::one_line(&failure.to_string()));
            ExitCode::from(failure.code())
        }
    }
}

fn carry_out(command: &Command, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    match command {
        Command::Setup(args) => tables::setup(args, context, out),
        Command::Migrate(args) => tables::migrate(args, context, out),
        Command::Clear(args) => tables::clear(args, context, out),
        Command::Drop(args) => tables::drop_tables(args, context, out),
        Command::Stats(args) => stats::stats(args, context, out),
        Command::List(args) => sessions::list(args, context, out),
        Command::Show(args) => sessions::show(args, context, out),
        Command::Revoke(args) => sessions::revoke(args, context, out),
        Command::Sweep(args) => room::sweep(args, context, out),
        Command::Compact(args) => room::compact(args, context, out),
        Command::Backup(args) => copies::backup(args, context, out),
        Command::Restore(args) => copies::restore(args, context, out),
        Command::Doctor(args) => doctor::doctor(args, context, out),
        Command::Completions(args) => papers::completions(args, out),
        Command::Man(args) => papers::man(args, out),
    }
}
