//! `sweep` and `compact`: beside a service that writes, and interrupted.

use std::thread;
use std::time::{Duration, Instant};

use cloakroom::backend::Store;
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::common::{Folder, create, setting};
use crate::fixture::{
    DAY, Seen, begin, beside_a_service, count, done, fill, interrupt, is_intact, number, open,
    program, run, set_up, start, with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_sweep_removes_only_expired_sessions() {
    let (folder, store) = with_store();
    begin(&store, None, MINUTE);
    fill(&folder, 3000, false);
    assert_eq!(done(&folder, &["sweep", "--limit", "1"]), "swept 1 session\n");
    assert_eq!(done(&folder, &["sweep", "--limit", "1500"]), "swept 1,500 sessions\n");
    assert_eq!(done(&folder, &["sweep"]), "swept 1,499 sessions\n");
    assert_eq!(done(&folder, &["sweep"]), "swept 0 sessions\n");
    assert_eq!(count(&folder), 1);
}

#[test]
fn a_sweep_names_the_table_that_keeps_sessions() {
    let folder = set_up();
    fill(&folder, 3, false);
    let keep = "CREATE TABLE visits (s INTEGER REFERENCES cloakroom_sessions);
                INSERT INTO visits SELECT id FROM cloakroom_sessions LIMIT 2";
    Connection::open(folder.database()).unwrap().execute_batch(keep).unwrap();
    let ran = run(&folder, &["sweep"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "swept 1 session\n"));
    let words = "2 sessions ended and cannot be removed, since rows of visits reference them; make";
    assert!(ran.err.contains(words), "{ran:?}");
    let release = "DELETE FROM visits";
    Connection::open(folder.database()).unwrap().execute_batch(release).unwrap();
    assert_eq!(done(&folder, &["sweep"]), "swept 2 sessions\n");
}

/// The number of expired sessions. For a backlog as after an outage, in a release build:
/// `CLOAKROOM_EXPIRED=500000 cargo test --release --test cli a_service -- --nocapture`.
fn expired() -> u32 {
    let given = std::env::var("CLOAKROOM_EXPIRED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(20_000)
}

fn waits(Seen { requests, p99, longest, .. }: &Seen) -> String {
    format!("{requests} requests, 99 of 100 within {p99:?}, all within {longest:?}")
}

#[test]
fn a_service_writes_while_a_sweep_runs() {
    let folder = set_up();
    fill(&folder, expired(), true);
    fill(&folder, expired(), false);
    let ((), before) = beside_a_service(&folder, || drop(done(&folder, &["stats"])));
    let began = Instant::now();
    let (swept, during) = beside_a_service(&folder, || done(&folder, &["sweep"]));
    println!("before: {}", waits(&before));
    println!("a sweep of {} in {:?}: {}", expired(), began.elapsed(), waits(&during));
    assert_eq!(swept.replace(',', ""), format!("swept {} sessions\n", expired()));
    assert_eq!((during.busy, during.ended), (0, 0), "{during:?}");
}

#[test]
fn a_service_reads_while_the_file_is_compacted() {
    let folder = set_up();
    fill(&folder, expired(), true);
    fill(&folder, expired(), false);
    done(&folder, &["sweep"]);
    let began = Instant::now();
    let compact = || run(&folder, &["compact", "--yes"]);
    let (ran, during) = beside_a_service(&folder, compact);
    println!("compacted in {:?}: {}", began.elapsed(), waits(&during));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(during.ended, 0, "{during:?}");
    assert!(is_intact(&folder.database()));
}

#[test]
fn an_interrupted_sweep_reports_its_progress() {
    let folder = set_up();
    for _ in 0..5 {
        fill(&folder, 60_000, false);
        let before = count(&folder);
        let child = start(&mut program(&folder, &["sweep"]));
        while count(&folder) == before {
            thread::yield_now();
        }
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        let swept = before - count(&folder);
        assert!(is_intact(&folder.database()));
        if output.status.code() == Some(1) {
            let said = String::from_utf8(output.stderr).unwrap().replace(',', "");
            let expected = format!("cloakroom: interrupted: swept {swept} sessions until then\n");
            assert_eq!(said, expected);
            return;
        }
        // It was faster than the signal.
        assert_eq!(output.status.code(), Some(0));
    }
    panic!("no sweep was interrupted");
}

#[test]
fn compacting_releases_the_space_of_swept_sessions() {
    let (folder, store) = with_store();
    begin(&store, None, MINUTE);
    fill(&folder, 20_000, false);
    done(&folder, &["sweep"]);
    let pages = || number(&folder.database(), "PRAGMA page_count");
    let before = pages();
    let ran = run(&folder, &["compact", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("other writers wait until it is done (their changes fail as busy"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("Row ids"), "{}", ran.err);
    assert!(ran.out.contains(" before, ") && ran.out.ends_with(" now\n"), "{}", ran.out);
    assert!(pages() * 10 < before, "{} pages of {before}", pages());
    assert_eq!(count(&folder), 1);
    assert!(is_intact(&folder.database()));
    // The question mentions the effect on other tables.
    let host = Connection::open(folder.database()).unwrap();
    host.execute_batch("CREATE TABLE host (a)").unwrap();
    assert!(run(&folder, &["compact", "--yes"]).err.contains("Row ids"));
}

#[test]
fn an_incremental_file_is_compacted_without_a_question() {
    let folder = Folder::new();
    let host = Connection::open(folder.database()).unwrap();
    host.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; CREATE TABLE host (a)").unwrap();
    let store = open(&folder);
    fill(&folder, 5000, false);
    done(&folder, &["sweep"]);
    assert!(number(&folder.database(), "PRAGMA freelist_count") > 100);
    done(&folder, &["compact"]);
    assert_eq!(number(&folder.database(), "PRAGMA freelist_count"), 0);
    create(&store, &setting("n", 1)).unwrap();
    let ran = run(&folder, &["compact", "--full"]);
    assert!(ran.code == 1 && ran.err.contains("nothing was changed"), "a full one asks");
    assert!(is_intact(&folder.database()));
}

#[test]
fn interrupted_compacting_changes_nothing() {
    let (folder, store) = with_store();
    fill(&folder, 60_000, true);
    fill(&folder, 60_000, false);
    done(&folder, &["sweep"]);
    store.maintenance().unwrap().run().unwrap();
    let pages = || number(&folder.database(), "PRAGMA page_count");
    let before = pages();
    let log = folder.path("app.db-wal");
    let length = || std::fs::metadata(&log).map_or(0, |file| file.len());
    let long = length() + (1 << 20);
    let child = start(&mut program(&folder, &["compact", "--yes"]));
    while length() < long && pages() == before {
        thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(is_intact(&folder.database()));
    assert_eq!(count(&folder), 60_000);
    let said = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(1) => {
            assert!(said.ends_with("cloakroom: interrupted: the file is unchanged\n"), "{said}");
            assert_eq!(pages(), before);
        }
        // It was faster than the signal.
        code => assert_eq!(code, Some(0), "{said}"),
    }
    begin(&store, None, 2 * DAY);
}

/// Runs the program on a terminal; `None` if `script` is not installed.
fn on_a_terminal(folder: &Folder, args: &str, no_color: bool) -> Option<String> {
    let line = format!("{} {args}", env!("CARGO_BIN_EXE_cloakroom"));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
    script.env("CLOAKROOM_DB", folder.database()).env("TERM", "xterm").env_remove("NO_COLOR");
    if no_color {
        script.env("NO_COLOR", "1");
    }
    let output = script.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_terminal_shows_progress_and_respects_no_color() {
    let folder = set_up();
    fill(&folder, 30_000, false);
    let Some(shown) = on_a_terminal(&folder, "sweep", false) else {
        println!("skipped: there is no program `script`");
        return;
    };
    assert!(shown.contains("sweeping [") && shown.contains("/30,000 sessions"), "{shown:?}");
    assert!(shown.contains("swept 30,000 sessions"), "{shown:?}");
    let coloured = on_a_terminal(&folder, "doctor", false).unwrap();
    assert!(coloured.contains("\u{1b}[32mok"), "{coloured:?}");
    let plain = on_a_terminal(&folder, "doctor", true).unwrap();
    assert!(plain.contains("ok      ") && !plain.contains("\u{1b}[32m"), "{plain:?}");
}
