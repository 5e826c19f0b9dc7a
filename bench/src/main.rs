//! Measures cloakroom: beside hand-written SQLite (`limit`), beside its peers (`peers`), as the
//! number of sessions grows (`scale`), and with many threads on one session (`contention`).
//! `secrets` compares response times; `chart` writes the tables and pictures.
//!
//! Machines are shared and noisy, so only ratios within one run count: the sides take turns in
//! short slices, each round gives one ratio, and the median of the ratios is printed.
//!
//! `cargo run --release --manifest-path bench/Cargo.toml -- limit [--quick] [--json FILE]`
//!
//! With `--features memcached`, `limit` measures the memcached store too, beside its client's own
//! commands. With `--features postgres`, the command `postgres` measures the PostgreSQL store, and
//! with `--features cli` the command `operator` a service beside the operator's commands.

mod chart;
mod contention;
mod limit;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "cli")]
mod operator;
mod ours;
mod peers;
#[cfg(feature = "postgres")]
mod postgres;
mod raw;
mod report;
mod scale;
mod secrets;
#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "the example starts memcached too")]
#[path = "../../examples/several_machines/services.rs"]
mod services;
mod timing;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use report::Report;

const USAGE: &str = "usage: COMMAND [--quick] [--json FILE] [--dir FOLDER] [--only NAME] [--check]

  limit      cloakroom and hand-written SQLite on the same rows
  contention one visitor, while 400 threads update another session
  operator   a service while operator's commands run; with `--features cli`
  peers      cloakroom and other session stores, each a program that is compiled first
  postgres   PostgreSQL and hand-written SQL on it; with `--features postgres`
  scale      from ten thousand to ten million sessions; needs some 8 GB of disk and 10 minutes
  secrets    whether response times reveal anything about ids and tokens
  chart      writes the pictures and tables in docs from the figures in bench/figures
  --quick    fewer rows and shorter slices: `limit` takes under 45 seconds
  --json     also write the figures to FILE
  --dir      the folder of the databases; a temporary folder by default
  --only     only the ratios whose name begins with NAME
  --check    `chart` writes nothing, and fails if a picture or a table is outdated";

/// The options of the command line.
struct Options {
    command: String,
    quick: bool,
    json: Option<PathBuf>,
    dir: Option<PathBuf>,
    only: Option<String>,
    check: bool,
}

/// Parses the command line. Returns `None` if it is malformed.
fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let command = args.next()?;
    let mut options =
        Options { command, quick: false, json: None, dir: None, only: None, check: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = Some(args.next()?.into()),
            "--dir" => options.dir = Some(args.next()?.into()),
            "--check" => options.check = true,
            "--only" => options.only = Some(args.next()?),
            _ => return None,
        }
    }
    Some(options)
}

/// Runs one command; returns false if none has this name.
fn run(options: &Options, report: &mut Report) -> bool {
    let (quick, dir) = (options.quick, options.dir.as_deref());
    match options.command.as_str() {
        "limit" => {
            if !report.is_only("memcached") {
                limit::run(quick, dir, report);
            }
            #[cfg(feature = "memcached")]
            memcached::run(quick, report);
        }
        "contention" => contention::run(quick, dir, report),
        #[cfg(feature = "cli")]
        "operator" => operator::run(quick, dir, report),
        "peers" => peers::run(quick, dir, report),
        #[cfg(feature = "postgres")]
        "postgres" => postgres::run(quick, report),
        "scale" => scale::run(quick, dir, report),
        "secrets" => secrets::run(quick, dir),
        "chart" => chart::run(options.check),
        _ => return false,
    }
    true
}

fn main() -> ExitCode {
    #[cfg(feature = "cli")]
    if let Some(code) = operator::run_command_line() {
        return code;
    }
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == scale::SERVE).is_some() {
        scale::serve(args);
        return ExitCode::SUCCESS;
    }
    let options = parse(args);
    let mut report = Report::new(options.as_ref().and_then(|options| options.only.clone()));
    let Some(options) = options.filter(|options| run(options, &mut report)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(others) = report.others() {
        println!("others used {others} % of the machine meanwhile");
    }
    if let Some(path) = options.json
        && let Err(error) = report.write(&path)
    {
        eprintln!("cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
