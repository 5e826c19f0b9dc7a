//! Measures cloakroom beside hand-written SQLite.
//!
//! Machines are shared and noisy, so only ratios count that were taken in one run: the two sides
//! take turns in short slices, each pair of neighbours gives one ratio, and the median of those is
//! printed.
//!
//! `cargo run --release --manifest-path bench/Cargo.toml -- limit [--quick] [--json FILE]`
//!
//! With `--features memcached` the memcached store is measured beside its client's own commands,
//! with `--features cli` a service beside the operator's.

mod limit;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "cli")]
mod operator;
mod raw;
mod report;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use report::Report;

const USAGE: &str = "usage: limit [--quick] [--json FILE] [--dir FOLDER] [--only NAME]

  limit      cloakroom and hand-written SQLite on the same rows
  --quick    fewer rows and shorter slices: under 45 seconds
  --json     also write the figures to FILE
  --dir      where the databases are put; a temporary folder by default
  --only     only the ratios whose name begins with NAME";

/// How the run is to be made.
struct Options {
    quick: bool,
    json: Option<PathBuf>,
    dir: Option<PathBuf>,
    only: Option<String>,
}

fn options(mut words: impl Iterator<Item = String>) -> Option<Options> {
    if words.next()? != "limit" {
        return None;
    }
    let mut options = Options { quick: false, json: None, dir: None, only: None };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = Some(words.next()?.into()),
            "--dir" => options.dir = Some(words.next()?.into()),
            "--only" => options.only = Some(words.next()?),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    #[cfg(feature = "cli")]
    if let Some(code) = operator::play() {
        return code;
    }
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut report = Report::new(options.only);
    if !report.is_only("memcached") && !report.is_only("operator") {
        limit::run(options.quick, options.dir.as_deref(), &mut report);
    }
    #[cfg(feature = "memcached")]
    memcached::run(options.quick, &mut report);
    #[cfg(feature = "cli")]
    operator::run(options.quick, options.dir.as_deref(), &mut report);
    if let Some(path) = options.json
        && let Err(error) = std::fs::write(&path, report.json())
    {
        eprintln!("cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
