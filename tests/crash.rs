//! Processes killed in mid-write: nothing acknowledged is missing, no ended session is back.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use cloakroom::SqliteStore;
use cloakroom::rusqlite::Connection;
use cloakroom::store::sqlite::Durability;
use cloakroom::store::{Committed, Loaded, Store, Upkeep};
use common::{
    Folder, Kept, NOW, child, create, delete, hex, key_of, live, merge, role, setting, value,
};

/// Says what is done, in one write: a reader of the pipe sees all of a line or nothing.
fn acknowledge(line: &str) {
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let durability = if role == "full" { Durability::Full } else { Durability::Normal };
    let path = std::env::var("DATABASE").unwrap();
    let store = SqliteStore::builder(path).durability(durability).open().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    // A life of a few changes, then an end that must be final.
                    let key = create(&store, &setting("n", 0)).unwrap();
                    for n in 1..8 {
                        let done = merge(&store, &key, &setting("n", n)).unwrap();
                        assert!(matches!(done, Committed::Done { .. }));
                        acknowledge(&format!("set {} {n}", hex(&key)));
                    }
                    if key.as_bytes()[0] < 128 {
                        delete(&store, &key).unwrap();
                        acknowledge(&format!("end {} 0", hex(&key)));
                    }
                }
            });
        }
        let upkeep: &dyn Upkeep = store.upkeep().unwrap();
        scope.spawn(move || {
            loop {
                upkeep.run().unwrap();
            }
        });
    });
}

fn kill_and_look(role: &str, rounds: usize) {
    let folder = Folder::new();
    let mut acknowledged: HashMap<String, Option<u64>> = HashMap::new();
    for round in 0..rounds {
        let mut process =
            child(role).env("DATABASE", folder.database()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut process = Kept(process);
        // Killed after a number of acknowledgements that differs from round to round; those that
        // were in the pipe by then count as well.
        let fatal = 1 + (round * 37) % 400;
        let mut seen = 0;
        for line in lines.lines() {
            let line = line.unwrap();
            let mut words = line.split(' ');
            let (what, key, n) = (words.next(), words.next(), words.next());
            match (what, key, n) {
                (Some("set"), Some(key), Some(n)) if key.len() == 64 => {
                    acknowledged.insert(key.to_owned(), Some(n.parse().unwrap()));
                }
                (Some("end"), Some(key), Some(_)) if key.len() == 64 => {
                    acknowledged.insert(key.to_owned(), None);
                }
                _ => continue,
            }
            seen += 1;
            if seen == fatal {
                process.0.kill().unwrap();
            }
        }
        assert!(seen >= fatal, "round {round}: the child ended by itself");

        let store = SqliteStore::open(folder.database()).unwrap();
        for (hex, state) in &acknowledged {
            match (state, store.load(&key_of(hex), NOW).unwrap()) {
                (None, Loaded::Absent) => {}
                (None, other) => panic!("round {round}: an ended session is back: {other:?}"),
                (Some(n), _) => {
                    let Some(record) = live(&store, &key_of(hex)).unwrap() else {
                        // The next step of such a life is its end: done, and not acknowledged.
                        assert!(
                            *n == 7 && key_of(hex).as_bytes()[0] < 128,
                            "round {round}: {n} lost"
                        );
                        continue;
                    };
                    let stored = value::<u64>(&record, "n").unwrap();
                    assert!((*n..=n + 1).contains(&stored), "round {round}: {stored}, not {n}");
                }
            }
        }
        // From here on what was not acknowledged is known.
        acknowledged.retain(|hex, state| match live(&store, &key_of(hex)).unwrap() {
            Some(record) => {
                *state = value(&record, "n");
                true
            }
            None => {
                *state = None;
                true
            }
        });
        let check = Connection::open(folder.database())
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
            .unwrap();
        assert_eq!(check, "ok", "round {round}");
    }
    let ends = acknowledged.values().filter(|state| state.is_none()).count();
    println!("{rounds} kills, {} sessions, {ends} of them ended", acknowledged.len());
    assert!(ends > rounds, "ends were among what was killed");
}

#[test]
fn fifty_kills_lose_nothing_acknowledged_and_revive_nothing() {
    kill_and_look("normal", 50);
}

#[test]
fn kills_under_full_durability_lose_nothing_either() {
    kill_and_look("full", 10);
}

#[test]
fn a_killed_writer_keeps_nobody_out() {
    let folder = Folder::new();
    let mut process =
        child("normal").env("DATABASE", folder.database()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut process = Kept(process);
    // The other process is known to be writing.
    while !lines.next().unwrap().unwrap().starts_with("set") {}
    let store = SqliteStore::builder(folder.database())
        .busy_timeout(Duration::from_secs(30))
        .open()
        .unwrap();
    let drain = std::thread::spawn(move || lines.map_while(Result::ok).count());
    for n in 0..100 {
        if n == 50 {
            process.0.kill().unwrap();
        }
        create(&store, &setting("n", n)).unwrap();
    }
    drain.join().unwrap();
}
