//! Processes that are killed during writes: no acknowledged change is lost, and no ended session is
//! live.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::dice::Dice;
use crate::common::integrity::assert_integrity;
use crate::common::ledger::{Ledger, WorkerMessage};
use crate::common::workload::Worker;
use crate::common::{Folder, HOUR, KillOnDrop, NOW, child, create, role, setting};
use cloakroom::adapter::Outcome;
use cloakroom::backend::{Loaded, Maintenance, Store, Unreadable};
use cloakroom::clock::{Clock, Timestamp};
use cloakroom::id::{Realm, SessionId};
use cloakroom::stores::sqlite::Durability;
use cloakroom::{Lifetime, SessionManager, SqliteStore};

const WORKERS: usize = 6;

/// The number of kills after which a new file is begun, to keep the checks of the ledger short.
const KILLS_PER_FILE: u64 = 20;

/// Sends a message to the parent in one write, so that the parent reads all of a line or nothing.
fn report(worker: &str, message: &WorkerMessage) {
    std::io::stdout().write_all(format!("\nreport {worker} {message}\n").as_bytes()).unwrap();
}

fn open(folder: &Folder, durability: Durability) -> SqliteStore {
    SqliteStore::builder(folder.database())
        .durability(durability)
        .busy_timeout(Duration::from_secs(60))
        .open()
        .unwrap()
}

fn durability_of(role: &str) -> Durability {
    match role.starts_with("full") {
        true => Durability::Full,
        false => Durability::Normal,
    }
}

#[test]
fn child_process() {
    let Some(role) = role() else { return };
    if role == "visitors" {
        return visit_for_ever();
    }
    let store = SqliteStore::builder(std::env::var("DATABASE").unwrap())
        .durability(durability_of(&role))
        .busy_timeout(Duration::from_secs(60))
        .open()
        .unwrap();
    let name = std::env::var("NAME").unwrap();
    let mut dice = Dice::new(std::env::var("SEED").unwrap().parse().unwrap());
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let mut worker = Worker::new(format!("{name}w{number}"), &store, dice.fork(), &report);
            // The messages of two processes have no order, and this needs one.
            worker.ends_everyone = number == 0 && role.ends_with("alone");
            scope.spawn(move || {
                loop {
                    worker.step().unwrap();
                }
            });
        }
        let maintenance: &dyn Maintenance = store.maintenance().unwrap();
        scope.spawn(move || {
            loop {
                maintenance.run().unwrap();
            }
        });
    });
}

/// A child process that writes, and the messages of its workers.
struct WorkerProcess {
    process: KillOnDrop,
    messages: Receiver<(String, WorkerMessage)>,
    reader: JoinHandle<()>,
}

impl WorkerProcess {
    fn start(role: &str, folder: &Folder, name: &str, seed: u64) -> Self {
        let mut command = child(module_path!(), role);
        command.env("DATABASE", folder.database()).env("NAME", name).env("SEED", seed.to_string());
        let mut process = KillOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let (sender, messages) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in lines {
                let line = line.unwrap();
                let Some(line) = line.strip_prefix("report ") else { continue };
                let (worker, message) = line.split_once(' ').unwrap();
                sender.send((worker.to_owned(), message.parse().unwrap())).unwrap();
            }
        });
        WorkerProcess { process, messages, reader }
    }

    /// Kills the process at a random moment, and records all its messages.
    fn kill(mut self, dice: &mut Dice, ledger: &mut Ledger) {
        // Some are killed while they open the file or recover from the previous kill.
        let lines = if dice.chance(20) { 0 } else { 1 + dice.roll(1500) };
        for (worker, message) in self.messages.iter().take(lines) {
            ledger.record(&worker, &message);
        }
        let longest = if lines == 0 { 40_000 } else { 2_000 };
        let end = Instant::now() + Duration::from_micros(dice.roll(longest) as u64);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        self.process.0.kill().unwrap();
        let status = self.process.0.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the child ended by itself: {status}");
        for (worker, message) in self.messages {
            ledger.record(&worker, &message);
        }
        self.reader.join().unwrap();
    }
}

/// Kills processes of this role and checks the file. `percent` is the share of all kills of this
/// program.
fn kill_and_check(role: &str, processes: u64, percent: u64) {
    let mut dice = Dice::new(crate::common::dice::seed());
    let kills =
        (crate::common::dice::number("CLOAKROOM_KILLS").unwrap_or(60) * percent).div_ceil(100);
    let (mut killed, mut checks, mut acknowledged, mut revocations) = (0, 0, 0, 0);
    while killed < kills {
        let (folder, mut ledger) = (Folder::new(), Ledger::default());
        let enough = kills.min(killed + KILLS_PER_FILE);
        while killed < enough {
            let children: Vec<WorkerProcess> = (0..processes)
                .map(|n| {
                    WorkerProcess::start(role, &folder, &format!("k{}", killed + n), dice.next())
                })
                .collect();
            for child in children {
                child.kill(&mut dice, &mut ledger);
                killed += 1;
            }
            // Without a check, the next processes find the file as the kill has left it.
            if dice.chance(60) {
                checks += 1;
                check(&folder, durability_of(role), &mut ledger);
            }
        }
        check(&folder, durability_of(role), &mut ledger);
        acknowledged += ledger.acknowledged;
        revocations += ledger.revocations;
    }
    println!(
        "{role}, {processes} processes at a time: {killed} kills, {checks} checks, \
         {acknowledged} changes, {revocations} of them revocations"
    );
    assert!(revocations > killed, "too few revocations were in progress at the kills");
}

fn check(folder: &Folder, durability: Durability, ledger: &mut Ledger) {
    ledger.check(&open(folder, durability));
    assert_integrity(folder.database());
}

#[test]
fn kills_lose_nothing_acknowledged_and_revive_nothing() {
    kill_and_check("normal alone", 1, 50);
}

#[test]
fn kills_under_full_durability_lose_nothing_either() {
    kill_and_check("full alone", 1, 15);
}

#[test]
fn kills_of_two_processes_on_one_file_lose_nothing_of_either() {
    kill_and_check("normal", 2, 25);
}

#[test]
fn kills_of_two_processes_lose_nothing_under_full_durability() {
    kill_and_check("full", 2, 10);
}

#[test]
fn a_killed_writer_keeps_no_process_out() {
    let folder = Folder::new();
    let mut writer = WorkerProcess::start("normal", &folder, "w", 1);
    // Wait until the other process writes.
    while writer.messages.recv().unwrap().1 != WorkerMessage::Done {}
    let store = open(&folder, Durability::Normal);
    for n in 0..100 {
        if n == 50 {
            writer.process.0.kill().unwrap();
        }
        create(&store, &setting("n", n)).unwrap();
    }
    writer.reader.join().unwrap();
}

const IDLE: Duration = HOUR;

/// One visitor for each visit in the longest time for which activity may be lost: at any moment, a
/// kill loses the most for one of them.
const VISITORS: usize = 20;

/// A clock that runs [`PACE`](Fast::PACE) times as fast as real time.
#[derive(Clone, Copy, Debug)]
struct Fast(Instant);

impl Fast {
    const PACE: u32 = 30;
}

impl Clock for Fast {
    fn now(&self) -> Timestamp {
        NOW + self.0.elapsed() * Fast::PACE
    }
}

/// Visits sessions that only read, and prints the time of each round of visits.
fn visit_for_ever() {
    let store = SqliteStore::open(std::env::var("DATABASE").unwrap()).unwrap();
    let clock = Fast(Instant::now());
    let sessions =
        SessionManager::builder(store).clock(clock).lifetime(Lifetime::idle(IDLE)).build().unwrap();
    let mut cookies = vec![];
    loop {
        let before = clock.now();
        // They begin one after the other, so that their touches are due at different times.
        if cookies.len() < VISITORS {
            let session = sessions.open(None);
            session.set("n", 1).unwrap();
            let headers = sessions.close(&session, Outcome::Completed).unwrap();
            let cookie = &headers.id_fields[0].1;
            let cookie = cookie.split(';').next().unwrap().to_owned();
            println!("\nbegun {cookie}");
            cookies.push(cookie);
        }
        for cookie in &cookies {
            let session = sessions.open(Some(cookie.as_str()));
            assert_eq!(session.get::<u32>("n").unwrap(), Some(1));
            sessions.close(&session, Outcome::Completed).unwrap();
        }
        println!("\nvisited {}", before.as_millis());
        // With more visits, the number of touches would make the cleaner write them early.
        std::thread::park_timeout(Duration::from_secs(10) / Fast::PACE);
    }
}

#[test]
fn a_kill_ends_no_session_more_than_a_twentieth_early() {
    let folder = Folder::new();
    let mut command = child(module_path!(), "visitors");
    command.env("DATABASE", folder.database()).stdout(Stdio::piped());
    let mut process = KillOnDrop(command.spawn().unwrap());
    let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let (mut ids, mut visited, mut killed) = (vec![], NOW, false);
    for line in lines {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("begun", cookie)) => {
                let (_, id) = cookie.split_once('=').unwrap();
                ids.push(SessionId::parse(id).unwrap());
            }
            Some(("visited", at)) => visited = Timestamp::from_millis(at.parse().unwrap()),
            _ => {}
        }
        // By then, activity that is not recorded would end a session too early.
        if !killed && visited.since(NOW) > IDLE / 12 {
            process.0.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed && ids.len() == VISITORS, "{} sessions", ids.len());
    let store = open(&folder, Durability::Normal);
    let twentieth_early = visited + (IDLE - IDLE / 20 - Duration::from_millis(1));
    for id in ids {
        let loaded = store.load(&id.hash(Realm::default().tag()), twentieth_early).unwrap();
        assert!(matches!(loaded, Loaded::Live(_)), "{loaded:?}");
        let loaded =
            store.load(&id.hash(Realm::default().tag()), visited + (IDLE + IDLE / 40)).unwrap();
        assert!(
            matches!(loaded, Loaded::Unreadable(Unreadable::NotFound { .. })),
            "never late: {loaded:?}"
        );
    }
}
