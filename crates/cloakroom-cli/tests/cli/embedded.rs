//! The commands within an application's program.

use std::process::Output;
use std::time::Duration;

use cloakroom::manager::Finding;
use cloakroom::{CookieConfig, CrossOrigin, Lifetime, MemoryStore, SessionManager, SqliteStore};
use cloakroom_cli::{Target, run_reviewed};

use crate::common::{Folder, child, role};
use crate::fixture::begin;

/// An application that takes its arguments from the environment, because the arguments of a test
/// program belong to the test harness.
pub(crate) fn play() {
    let Some(role) = role() else { return };
    let path = std::env::var("DATABASE").unwrap();
    let args = std::env::var("WORDS").unwrap();
    let args = args.split(' ');
    let code = match role.as_str() {
        "builder" => cloakroom_cli::run(
            args,
            Target::SqliteBuilder(SqliteStore::builder(path).table("session")),
        ),
        "store" => cloakroom_cli::run(args, Target::Sqlite(SqliteStore::open(path).unwrap())),
        "memory" => cloakroom_cli::run(args, Target::Sqlite(SqliteStore::in_memory().unwrap())),
        "insecure" => {
            let cookie = CookieConfig::insecure_http();
            let builder = SessionManager::builder(MemoryStore::new()).cookie(cookie);
            let endless = Lifetime::idle(Duration::from_secs(3600));
            let builder = builder.lifetime(endless).anonymous_lifetime(endless);
            let builder = builder.cross_origin(CrossOrigin::report_only());
            let review = builder.build().unwrap().review();
            let target = Target::Sqlite(SqliteStore::open(path).unwrap());
            run_reviewed(args, target, review)
        }
        "secure" => {
            let review = SessionManager::new(MemoryStore::new()).unwrap().review();
            let target = Target::Sqlite(SqliteStore::open(path).unwrap());
            run_reviewed(args, target, review)
        }
        // A requirement of the cookie has another name, and the limits have no finding.
        "unknown" => {
            let cookie = CookieConfig::insecure_http();
            let builder = SessionManager::builder(MemoryStore::new()).cookie(cookie);
            let mut review = builder.build().unwrap().review();
            review.findings.retain(|finding| !finding.requirement.starts_with("ASVS 7.3."));
            let is_secure = |it: &&mut Finding| it.requirement == "ASVS 3.3.1";
            review.findings.iter_mut().find(is_secure).unwrap().requirement = "cookie is secure";
            let target = Target::Sqlite(SqliteStore::open(path).unwrap());
            run_reviewed(args, target, review)
        }
        other => panic!("no role {other}"),
    };
    // Only the operating system can read the number of an `ExitCode`.
    let number = (0..=255_u8).find(|n| code == std::process::ExitCode::from(*n)).unwrap();
    std::process::exit(i32::from(number));
}

fn run(role: &str, folder: &Folder, words: &str) -> (i32, String) {
    let Output { status, stdout, stderr } = child("cli", role)
        .env("DATABASE", folder.database())
        .env("WORDS", words)
        .env_remove("CLOAKROOM_DB")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    (status.code().unwrap(), said.into_owned())
}

#[test]
fn an_application_runs_the_commands_with_its_settings() {
    let folder = Folder::new();
    assert_eq!(run("builder", &folder, "sessions stats").0, 3);
    assert!(!folder.database().exists(), "only setup makes the file");
    let (code, said) = run("builder", &folder, "sessions setup");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("set up: table session in "), "{said}");
    let store = SqliteStore::builder(folder.database()).table("session").open().unwrap();
    let public_id = begin(&store, Some("ada"), Duration::ZERO).public_id.to_string();
    let (code, said) = run("builder", &folder, "sessions list --user ada");
    assert!(code == 0 && said.contains(&public_id), "{said}");
    assert_eq!(run("builder", &folder, "sessions list --user bob").0, 4);
    let (code, said) = run("builder", &folder, "sessions lost");
    assert_eq!(code, 2, "{said}");
    // The help does not list options that the application does not have.
    let (code, said) = run("builder", &folder, "sessions --help");
    assert!(code == 0 && said.contains("Usage: sessions") && !said.contains("--db"), "{said}");
    assert_eq!(run("builder", &folder, "sessions stats --db other.db").0, 2);
}

#[test]
fn a_store_that_is_open_can_be_operated() {
    let folder = Folder::new();
    for words in ["s setup", "s stats --json", "s sweep", "s clear --yes", "s doctor --quick"] {
        let (code, said) = run("store", &folder, words);
        assert_eq!(code, 0, "{words}: {said}");
    }
    for (words, code) in
        [("s setup", 0), ("s stats", 0), ("s list", 0), ("s sweep", 0), ("s compact --yes", 1)]
    {
        let (ended, said) = run("memory", &folder, words);
        assert_eq!(ended, code, "in memory: {words}: {said}");
    }
}

#[test]
fn the_doctor_checks_what_a_review_says() {
    let folder = Folder::new();
    let (code, said) = run("secure", &folder, "s doctor --quick");
    assert_eq!(code, 0, "{said}");
    for check in ["cookie", "limits", "origins", "anonymous"] {
        assert!(said.contains(&format!("ok      {check:<12}")), "{check}: {said}");
    }
    let (code, said) = run("insecure", &folder, "s doctor --quick");
    assert_eq!(code, 1, "{said}");
    for problem in [
        "PROBLEM cookie       ASVS 3.3.1 is not met",
        "PROBLEM limits       ASVS 7.3.2 is not met",
        "PROBLEM origins      ASVS 3.5.1 is not met",
        "PROBLEM anonymous    anonymous is not met: they may live for ever",
    ] {
        assert!(said.contains(problem), "{problem}: {said}");
    }
}

#[test]
fn the_doctor_finds_a_requirement_of_any_name() {
    let (_, said) = run("unknown", &Folder::new(), "s doctor --quick");
    assert!(said.contains("PROBLEM cookie       cookie is secure is not met"), "{said}");
}

#[test]
fn the_doctor_says_ok_only_of_what_the_review_contains() {
    let (_, said) = run("unknown", &Folder::new(), "s doctor --quick");
    assert!(said.contains("ok      origins") && !said.contains("ok      limits"), "{said}");
}
