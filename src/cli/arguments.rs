//! What can be typed.

use std::error;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::cache::InFront;
use crate::cli::target::Target;
use crate::error::Error;
use crate::id::{PublicId, Realm, UserKey};

/// Looks after the sessions that an application keeps with cloakroom, while it runs.
#[derive(Debug, Parser)]
#[command(name = "cloakroom", version, after_help = AFTER, max_term_width = 100)]
pub(super) struct Arguments {
    /// The database file
    #[arg(long, env = "CLOAKROOM_DB", value_name = "PATH", global = true, hide_env_values = true)]
    pub(super) db: Option<PathBuf>,
    /// The sessions table [default: cloakroom_sessions]
    #[arg(long, value_name = "NAME", global = true)]
    pub(super) table: Option<String>,
    /// Show times in UTC instead of the local time zone
    #[arg(long, global = true)]
    pub(super) utc: bool,
    #[command(flatten)]
    pub(super) in_front: InFront,
    #[command(subcommand)]
    pub(super) command: Command,
}

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not set up, 4 nothing matched.
With --json, answers are for programs; their form is documented in docs/operating.md.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set up file and tables, or bring them to this version
    Setup(Setup),
    /// Bring the tables of an existing file to this version
    Migrate(Migrate),
    /// End every session of all realms; the tables stay
    Clear(Sure),
    /// Remove the tables with all sessions
    Drop(Sure),
    /// Count sessions, those of all realms together, and say how large the file is
    Stats(Stats),
    /// List sessions, the newest first
    List(List),
    /// Show one session
    Show(Show),
    /// End sessions now, for good
    Revoke(Revoke),
    /// Remove sessions of all realms that have expired
    Sweep(Sweep),
    /// Give room in the file back
    Compact(Compact),
    /// Copy the database while it is in use
    Backup(Backup),
    /// Put a copy in the place of the database, also while it is in use
    Restore(Restore),
    /// Look for what is wrong, and say what to do
    Doctor(Doctor),
    /// Print completions for a shell
    Completions(Completions),
    /// Print a manual page
    Man(Man),
}

#[derive(Debug, Args)]
pub(super) struct Setup {
    /// Leave the file's journal mode as it is, instead of switching to a write-ahead log
    #[arg(long)]
    pub(super) keep_journal: bool,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Sure {
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Count again every so many seconds, 2 if not given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(super) watch: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only sessions of this user
    #[arg(long, value_parser = user)]
    pub(super) user: Option<UserKey>,
    /// Only sessions of this realm, by default the name of the cookie; without it, of all realms
    #[arg(long, value_name = "NAME", value_parser = realm)]
    pub(super) realm: Option<Realm>,
    /// Sessions that have expired and were not swept yet
    #[arg(long)]
    pub(super) expired: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100")]
    pub(super) limit: NonZeroUsize,
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The session's handle, as `list` shows it
    #[arg(value_parser = public_id)]
    pub(super) public_id: PublicId,
    /// Print the session's data too; it may be personal
    #[arg(long)]
    pub(super) data: bool,
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["handle", "user", "all"]))]
pub(super) struct Revoke {
    /// The handle of the one to end, as `list` shows it
    #[arg(value_parser = public_id)]
    pub(super) public_id: Option<PublicId>,
    /// End every session of this user
    #[arg(long, value_parser = user)]
    pub(super) user: Option<UserKey>,
    /// But this one
    #[arg(long, value_name = "HANDLE", value_parser = public_id, requires = "user")]
    pub(super) except: Option<PublicId>,
    /// End every session of everyone; asks first
    #[arg(long)]
    pub(super) all: bool,
    /// Only those of this realm, by default the name of the cookie; without it, of all realms
    #[arg(long, value_name = "NAME", value_parser = realm)]
    pub(super) realm: Option<Realm>,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Sweep {
    /// At most so many
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct Compact {
    /// Write the whole file anew even where free pages can be given back some at a time
    #[arg(long)]
    pub(super) full: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The copy; the name must be free
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The copy
    pub(super) file: PathBuf,
    /// Let the sessions of the copy live on, those that were revoked since it was made included
    #[arg(long)]
    pub(super) keep: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Do not compare indexes with tables, nor read every session
    #[arg(long)]
    pub(super) quick: bool,
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// The command whose page it is, instead of the program's
    pub(super) command: Option<String>,
}

fn message(error: Error) -> String {
    let source = error::Error::source(&error).map(ToString::to_string);
    source.unwrap_or_else(|| error.to_string())
}

fn user(text: &str) -> Result<UserKey, String> {
    UserKey::new(text).map_err(message)
}

fn realm(text: &str) -> Result<Realm, String> {
    Realm::new(text).map_err(message)
}

fn public_id(text: &str) -> Result<PublicId, String> {
    text.parse().map_err(|_| "a handle is 32 hexadecimal digits, as `list` shows them".to_owned())
}

/// The commands, for a program that has its own idea of the database or none.
pub(super) fn command(target: &Target) -> clap::Command {
    let command = Arguments::command();
    match target {
        Target::Arguments => command,
        // The application says which database and table.
        _ => command.mut_arg("db", |arg| arg.hide(true)).mut_arg("table", |arg| arg.hide(true)),
    }
}

pub(super) fn parse<I, A>(args: I, target: &Target) -> Result<Arguments, clap::Error>
where
    I: IntoIterator<Item = A>,
    A: Into<OsString> + Clone,
{
    let mut command = command(target);
    let matches = command.try_get_matches_from_mut(args)?;
    let args = |name: &str| {
        let mut level = Some(&matches);
        std::iter::from_fn(|| {
            let here = level?;
            level = here.subcommand().map(|(_, below)| below);
            Some(here.value_source(name))
        })
        .any(|source| source == Some(ValueSource::CommandLine))
    };
    if !matches!(target, Target::Arguments) && (args("db") || args("table")) {
        let why = "--db and --table are not for this program: it knows its database\n";
        return Err(command.error(ErrorKind::UnknownArgument, why));
    }
    Arguments::from_arg_matches(&matches)
}

/// What is wrong, and where to read more.
pub(super) fn in_one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "say what to do; `help` lists the commands".to_owned();
    }
    let text = error.render().to_string();
    let mut wrong: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        // The usage and the way to the help come after the first empty line.
        if line.is_empty() {
            break;
        }
        wrong.push(line.trim_start_matches("error: "));
    }
    let mut said = wrong.join(" ");
    for (kind, value) in error.context() {
        if kind == ContextKind::SuggestedSubcommand || kind == ContextKind::SuggestedArg {
            match value {
                ContextValue::String(name) => said.push_str(&format!("; perhaps `{name}`")),
                ContextValue::Strings(names) => {
                    said.push_str(&format!("; perhaps `{}`", names.join("` or `")));
                }
                _ => {}
            }
        }
    }
    said + "; see --help"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_with_nul_is_refused_and_named() {
        // No process can be given one, but an application can pass it on.
        for args in [&["sessions", "list"][..], &["sessions", "revoke", "--all"]] {
            let args = args.iter().chain(&["--realm", "a\0b"]);
            let error = parse(args, &Target::Arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(in_one_line(&error).contains("it contains a NUL character"));
        }
    }
}
