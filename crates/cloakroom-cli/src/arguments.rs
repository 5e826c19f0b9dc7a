//! The commands, their arguments, and messages about wrong ones.

use std::ffi::OsString;
use std::iter::successors;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use cloakroom::id::{PublicId, Realm, UserKey};

use crate::target::Target;

/// Operates the database in which an application keeps its sessions with cloakroom, while it runs:
/// a SQLite file, or a PostgreSQL database.
#[derive(Debug, Parser)]
#[command(name = "cloakroom", version, after_help = AFTER, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The database file
    #[arg(long, env = "CLOAKROOM_DB", value_name = "PATH", global = true, hide_env_values = true)]
    pub(crate) db: Option<PathBuf>,
    /// The database: a file, or postgres://USER@HOST/DATABASE with the password in PGPASSWORD or
    /// ~/.pgpass
    #[arg(
        long,
        env = "CLOAKROOM_STORE",
        value_name = "STORE",
        global = true,
        hide_env_values = true
    )]
    pub(crate) store: Option<String>,
    #[command(flatten)]
    pub(crate) options: StoreOptions,
    /// Show times in UTC instead of the local time zone
    #[arg(long, global = true)]
    pub(crate) utc: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options of a database beside its name.
#[derive(Args, Debug)]
pub(crate) struct StoreOptions {
    /// The sessions table [default: cloakroom_sessions]
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) table: Option<String>,
    /// The schema of the tables in PostgreSQL [default: the first one of the search path]
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) schema: Option<String>,
    /// Encrypt connections to PostgreSQL, and trust the root certificates in this PEM file
    #[arg(long, env = "PGSSLROOTCERT", value_name = "FILE", global = true, hide_env_values = true)]
    pub(crate) root_certificates: Option<PathBuf>,
}

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not set up, 4 nothing matched.
With --json the output is for programs; its format is documented in docs/commands.md.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create file and tables, or the tables in PostgreSQL, or migrate them to this version
    Setup {
        /// Keep the file's journal mode instead of switching to a write-ahead log
        #[arg(long)]
        keep_journal: bool,
    },
    /// Migrate the tables of an existing database to this version
    Migrate {
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// End every session of all realms; the tables stay
    Clear(ConfirmArgs),
    /// Remove the tables with all sessions
    Drop(ConfirmArgs),
    /// Count the sessions of all realms, and show the size of the database
    Stats(StatsArgs),
    /// List sessions, the newest first
    List(ListArgs),
    /// Show one session
    Show(ShowArgs),
    /// End sessions now and permanently
    Revoke(RevokeArgs),
    /// Remove expired sessions of all realms
    Sweep {
        /// The maximum number of sessions
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroU64>,
    },
    /// Make a SQLite file smaller
    Compact(CompactArgs),
    /// Copy a SQLite database while it is in use
    Backup {
        /// The copy; the file must not exist
        file: PathBuf,
    },
    /// Replace a SQLite database with a copy, also while it is in use
    Restore(RestoreArgs),
    /// Copy the sessions into another store, with which their users stay signed in
    Copy(CopyArgs),
    /// Find problems and their remedies
    Doctor(DoctorArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// The command of the page, instead of the program
        command: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Repeat every SECONDS, 2 by default
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) watch: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only sessions of this user
    #[arg(long, value_parser = user)]
    pub(crate) user: Option<UserKey>,
    /// Only sessions of this realm, which is the name of the cookie by default; else of all realms
    #[arg(long, value_name = "NAME", value_parser = realm)]
    pub(crate) realm: Option<Realm>,
    /// Sessions that have expired and were not swept yet, instead of live ones
    #[arg(long)]
    pub(crate) expired: bool,
    /// The maximum number of sessions
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) limit: NonZeroUsize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The session's public id, as `list` shows it
    #[arg(value_parser = public_id)]
    pub(crate) public_id: PublicId,
    /// Print the session's data too; it may be personal
    #[arg(long)]
    pub(crate) data: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["public_id", "user", "all"]))]
pub(crate) struct RevokeArgs {
    /// The public id of the session to end, as `list` shows it
    #[arg(value_parser = public_id)]
    pub(crate) public_id: Option<PublicId>,
    /// End every session of this user
    #[arg(long, value_parser = user)]
    pub(crate) user: Option<UserKey>,
    /// Keep this one
    #[arg(long, value_name = "PUBLIC_ID", value_parser = public_id, requires = "user")]
    pub(crate) except: Option<PublicId>,
    /// End every session of all users; asks for confirmation
    #[arg(long)]
    pub(crate) all: bool,
    /// Only sessions of this realm, which is the name of the cookie by default; else of all realms
    #[arg(long, value_name = "NAME", value_parser = realm)]
    pub(crate) realm: Option<Realm>,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// Rewrite the whole file even where free pages can be released some at a time
    #[arg(long)]
    pub(crate) full: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The copy
    pub(crate) file: PathBuf,
    /// Keep the sessions of the copy live, including those revoked since it was made
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The store to read: a file, or a URL of PostgreSQL
    #[arg(long, value_name = "STORE")]
    pub(crate) from: String,
    /// The store to write; it is set up, and empty or an unfinished copy
    #[arg(long, value_name = "STORE")]
    pub(crate) to: String,
    /// The sessions table to write [default: that of --table]
    #[arg(long, value_name = "NAME")]
    pub(crate) to_table: Option<String>,
    /// The schema to write [default: that of --schema]
    #[arg(long, value_name = "NAME")]
    pub(crate) to_schema: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Neither compare indexes with tables nor read every session
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn user(text: &str) -> Result<UserKey, cloakroom::Error> {
    UserKey::new(text)
}

fn realm(text: &str) -> Result<Realm, cloakroom::Error> {
    Realm::new(text)
}

fn public_id(text: &str) -> Result<PublicId, &'static str> {
    text.parse().map_err(|_| "a public id is 32 hexadecimal digits, as `list` shows it")
}

/// The options that name the database. An application that has chosen it does not offer them.
const DATABASE_OPTIONS: [&str; 5] = ["db", "store", "table", "schema", "root_certificates"];

pub(crate) fn parse(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    target: &Target,
) -> Result<Arguments, clap::Error> {
    let mut command = Arguments::command();
    let is_chosen = !matches!(target, Target::Arguments);
    for name in DATABASE_OPTIONS.into_iter().filter(|_| is_chosen) {
        command = command.mut_arg(name, |arg| arg.hide(true));
    }
    let matches = command.try_get_matches_from_mut(args)?;
    let is_given = |name: &str| {
        let mut levels = successors(Some(&matches), |level| Some(level.subcommand()?.1));
        levels.any(|level| level.value_source(name) == Some(ValueSource::CommandLine))
    };
    if is_chosen && DATABASE_OPTIONS.into_iter().any(is_given) {
        let why = "--db, --store and --table cannot be given: this program has a database of its \
                   own\n";
        return Err(command.error(ErrorKind::UnknownArgument, why));
    }
    let mut arguments = Arguments::from_arg_matches(&matches)?;
    // An empty environment variable is one that is not set.
    arguments.store = arguments.store.filter(|name| !name.is_empty());
    let certificates = arguments.options.root_certificates;
    arguments.options.root_certificates = certificates.filter(|path| !path.as_os_str().is_empty());
    if arguments.db.is_some() && arguments.store.is_some() {
        // An argument comes before an environment variable.
        match (is_given("db"), is_given("store")) {
            (true, false) => arguments.store = None,
            (false, true) => arguments.db = None,
            _ => {
                let why = "give --db or --store (CLOAKROOM_DB or CLOAKROOM_STORE), not both\n";
                return Err(command.error(ErrorKind::ArgumentConflict, why));
            }
        }
    }
    Ok(arguments)
}

/// A parser's error as one line, with its suggestions.
pub(crate) fn in_one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command given; `help` lists them".to_owned();
    }
    let text = error.render().to_string();
    // Usage and a reference to the help follow the first empty line.
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let lines: Vec<_> = lines.map(|line| line.trim_start_matches("error: ")).collect();
    let mut message = lines.join(" ");
    for (kind, value) in error.context() {
        if kind == ContextKind::SuggestedSubcommand || kind == ContextKind::SuggestedArg {
            match value {
                ContextValue::String(name) => message.push_str(&format!("; perhaps `{name}`")),
                ContextValue::Strings(names) => {
                    message.push_str(&format!("; perhaps `{}`", names.join("` or `")));
                }
                _ => {}
            }
        }
    }
    message + "; see --help"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_with_nul_is_refused() {
        // No process can have such an argument, but an application can pass one.
        for args in [&["sessions", "list"][..], &["sessions", "revoke", "--all"]] {
            let args = args.iter().chain(&["--realm", "a\0b"]);
            let error = parse(args, &Target::Arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(in_one_line(&error).contains("it contains a NUL character"));
        }
    }
}
