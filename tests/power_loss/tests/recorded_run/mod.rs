//! A recorded run of a store, the states of its database, and the states that a power cut may leave.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use cloakroom::backend::{Loaded, Maintenance, Store, Unreadable};
use cloakroom::id::SessionIdHash;
use cloakroom::stores::sqlite::rusqlite::types::Value;
use cloakroom::stores::sqlite::rusqlite::{Connection, Result as SqlResult};
use cloakroom::stores::sqlite::{Durability, Journal};
use cloakroom::{ErrorKind, SqliteStore};
use cloakroom_power_loss::{Disk, Event, Files, Loss, Recording, install, put};

use crate::common::dice::Dice;
use crate::common::ledger::{Change, Ledger, WorkerMessage};
use crate::common::workload::Worker;
use crate::common::{Folder, NOW};

/// The number of changes in a run.
const STEPS: usize = 260;

/// The number of changes between two checkpoints.
const STEPS_PER_CHECKPOINT: usize = 10;

/// The changes that must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Changes that end something.
    Normal,
    /// Everything acknowledged.
    Full,
}

impl Promise {
    pub fn of(durability: Durability) -> Self {
        match durability {
            Durability::Full => Promise::Full,
            _ => Promise::Normal,
        }
    }
}

/// The content of our tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// By id hash: `n`, and when it was seen.
    rows: HashMap<SessionIdHash, (i64, i64)>,
    /// `None` without tables.
    epoch: Option<i64>,
    /// Of every column of every session and every replaced id.
    digest: u64,
}

impl State {
    fn read(connection: &Connection) -> SqlResult<State> {
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'cloakroom_sessions_meta'";
        if connection.query_row(tables, [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(State::default());
        }
        let epoch = "SELECT CAST(value AS INTEGER) FROM cloakroom_sessions_meta";
        let epoch: i64 = connection.query_row(epoch, [], |row| row.get(0))?;
        let mut state = State { epoch: Some(epoch), ..State::default() };
        let mut hasher = DefaultHasher::new();
        epoch.hash(&mut hasher);
        let all = "SELECT id_hash, coalesce(json_extract(data, '$.n'), 0), seen, * \
                   FROM cloakroom_sessions ORDER BY id";
        let mut statement = connection.prepare(all)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id_hash = SessionIdHash::from_bytes(row.get(0)?);
            state.rows.insert(id_hash, (row.get(1)?, row.get(2)?));
            for column in 3..columns {
                format!("{:?}", row.get::<_, Value>(column)?).hash(&mut hasher);
            }
        }
        let replaced = "SELECT * FROM cloakroom_sessions_replaced ORDER BY id";
        let mut statement = connection.prepare(replaced)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                format!("{:?}", row.get::<_, Value>(column)?).hash(&mut hasher);
            }
        }
        state.digest = hasher.finish();
        Ok(state)
    }
}

/// A change that was acknowledged.
#[derive(Debug)]
struct Acknowledged {
    /// The number of its event.
    at: usize,
    /// The first state that contains it.
    state: usize,
    is_revocation: bool,
}

/// A recording, with the states and acknowledgements in it.
pub struct RecordedRun {
    events: Vec<Event>,
    /// The states in their order, each with the number of the event that led to it.
    states: Vec<(usize, State)>,
    acknowledged: Vec<Acknowledged>,
}

/// The results of some power cuts.
#[derive(Debug, Default)]
pub struct CutResults {
    cuts: usize,
    /// Cuts that left an older state than the newest.
    pub lost: usize,
    acknowledged: usize,
    states: usize,
    pub wrong: Vec<String>,
}

impl CutResults {
    pub fn add(&mut self, other: &CutResults) {
        self.cuts += other.cuts;
        self.lost += other.lost;
        self.acknowledged += other.acknowledged;
        self.states += other.states;
        self.wrong.extend(other.wrong.iter().cloned());
    }
}

impl Display for CutResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CutResults { cuts, lost, acknowledged, states, wrong } = self;
        write!(
            f,
            "{cuts} cuts in {acknowledged} changes and {states} states: {lost} lost something, \
             {} broke a promise",
            wrong.len()
        )
    }
}

impl RecordedRun {
    /// Workers on stores that SQLite treats like stores of different processes.
    pub fn of_workers(
        durability: Durability,
        journal: Journal,
        stores: usize,
        threads: usize,
        dice: &mut Dice,
    ) -> RecordedRun {
        let alone = stores * threads == 1;
        RecordedRun::recorded(alone, |path, recording| {
            let build = || SqliteStore::builder(path).durability(durability).journal(journal);
            let stores: Vec<SqliteStore> = (0..stores).map(|_| build().open().unwrap()).collect();
            let report =
                |worker: &str, said: &WorkerMessage| recording.mark(format!("{worker} {said}"));
            let left = AtomicUsize::new(STEPS);
            let take =
                || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            std::thread::scope(|scope| {
                for (at, store) in stores.iter().enumerate() {
                    for number in 0..threads {
                        let name = format!("s{at}t{number}");
                        let mut worker = Worker::new(name, store, dice.fork(), &report);
                        worker.ends_everyone = at == 0 && number == 0;
                        let take = &take;
                        scope.spawn(move || {
                            while take().is_ok() {
                                worker.step().unwrap();
                            }
                        });
                    }
                }
                // Checkpoints and restarts of the log run beside the workers: one each few
                // changes, because each makes all earlier changes survive.
                let maintenance: &dyn Maintenance = stores[0].maintenance().unwrap();
                let mut due = STEPS;
                while let now @ 1.. = left.load(Ordering::SeqCst) {
                    if now <= due {
                        maintenance.run().unwrap();
                        due = now.saturating_sub(STEPS_PER_CHECKPOINT);
                    }
                    std::thread::yield_now();
                }
            });
        })
    }

    /// Work of one thread on the database at a path.
    pub fn of(work: impl Fn(&Path, &dyn Fn(&str))) -> RecordedRun {
        RecordedRun::recorded(true, |path, recording| work(path, &|line| recording.mark(line)))
    }

    fn recorded(alone: bool, work: impl FnOnce(&Path, &Recording)) -> RecordedRun {
        install();
        let folder = Folder::in_memory();
        let recording = Recording::of(&folder.path(""));
        work(&folder.database(), &recording);
        let mut run =
            RecordedRun { events: recording.finish(), states: vec![], acknowledged: vec![] };
        run.find_states();
        run.find_acknowledged(alone);
        run
    }

    /// Reads the database after every event that can be a commit, as if nothing was ever lost.
    fn find_states(&mut self) {
        let mut disk = Disk::default();
        let mut page_follows = None;
        for at in 0..self.events.len() {
            let look = match &self.events[at] {
                // The header of a frame with which a transaction ends, and then its page. A
                // checkpoint can write to the database between the two. The header alone is a
                // commit when an earlier use of the log has left the same page at this place.
                Event::Write { file, bytes, .. } => {
                    let is_page = page_follows.take_if(|log| log == file).is_some();
                    let is_header = bytes.len() == 24 && bytes[4..8] != [0; 4];
                    if is_header {
                        page_follows = Some(*file);
                    }
                    is_page || is_header
                }
                Event::Delete { .. } | Event::Truncate { .. } | Event::Mark(_) => true,
                Event::Create { .. } | Event::Sync { .. } | Event::SyncFolder { .. } => false,
            };
            if !look && at > 0 {
                continue;
            }
            disk.play(&self.events, at + 1);
            let image = Image::of(&disk.files(Loss::Nothing, &mut |_| 0));
            let state = image.state().expect("what was written can be read");
            if self.states.last().is_none_or(|(_, last)| *last != state) {
                self.states.push((at, state));
            }
        }
    }

    /// The newest state at this event.
    fn state_at(&self, at: usize) -> usize {
        self.states.partition_point(|(from, _)| *from <= at).saturating_sub(1)
    }

    fn find_acknowledged(&mut self, alone: bool) {
        let mut begun: HashMap<String, (usize, Change)> = HashMap::new();
        let mut id_hashes: HashMap<String, SessionIdHash> = HashMap::new();
        for (at, event) in self.events.iter().enumerate() {
            let Event::Mark(line) = event else { continue };
            let (worker, said) = heard(line);
            if let WorkerMessage::Begins(change) = said {
                begun.insert(worker, (at, change));
                continue;
            }
            let (began, change) = begun.remove(&worker).unwrap();
            if said != WorkerMessage::Done {
                continue;
            }
            let (first, last) = (self.state_at(began), self.state_at(at));
            let is_there = |state: &State| match &change {
                Change::Create { id_hash, .. }
                | Change::Renew { id_hash, .. }
                | Change::SignIn { id_hash, .. } => state.rows.contains_key(id_hash),
                Change::Merge { session, n } => state
                    .rows
                    .get(&id_hashes[session])
                    .is_some_and(|row| row.0 >= i64::try_from(*n).unwrap()),
                Change::Touch { session, seen } => {
                    state.rows.get(&id_hashes[session]).is_some_and(|row| row.1 >= *seen)
                }
                Change::End { sessions } => {
                    sessions.iter().all(|session| !state.rows.contains_key(&id_hashes[session]))
                }
                Change::Sweep { session } => !state.rows.contains_key(&id_hashes[session]),
                Change::Everyone => state.epoch > self.states[first].1.epoch,
            };
            // A change of a single writer is in the newest state. With several writers, another
            // change can have followed or undone it.
            let state = match alone {
                true => last,
                false => (first..=last).find(|at| is_there(&self.states[*at].1)).unwrap_or(first),
            };
            let is_revocation = change.is_revocation();
            self.acknowledged.push(Acknowledged { at, state, is_revocation });
            if let Change::Create { session, id_hash, .. }
            | Change::Renew { session, id_hash, .. }
            | Change::SignIn { session, id_hash, .. } = change
            {
                id_hashes.insert(session, id_hash);
            }
        }
    }

    /// Simulates this number of power cuts, and checks the databases that they leave.
    pub fn cut(
        &self,
        promise: Promise,
        cuts: usize,
        dice: &mut Dice,
        ignores_syncs: bool,
    ) -> CutResults {
        let mut places: Vec<usize> = (0..cuts)
            .map(|cut| match cut % 3 {
                0 => dice.roll(self.events.len() + 1),
                // Around a sync: before it has ended, and after.
                1 => self.some(dice, |event| matches!(event, Event::Sync { .. })),
                // Just acknowledged.
                _ => self.some(dice, |event| matches!(event, Event::Mark(_))),
            })
            .collect();
        places.sort_unstable();
        let cuts = places.into_iter().map(|place| {
            let percent = [5, 30, 60, 95][dice.roll(4)];
            let loss = match dice.roll(8) {
                0 => Loss::Nothing,
                1 | 2 => Loss::Everything,
                3 | 4 => Loss::Writes(percent),
                5 | 6 => Loss::Sectors(percent),
                _ => Loss::Garbage(percent),
            };
            (place, loss, dice.next())
        });
        self.check_cuts(promise, cuts, ignores_syncs)
    }

    /// Checks the database between every two operations, when nothing is lost.
    pub fn cut_everywhere(&self) -> CutResults {
        let cuts = (0..=self.events.len()).map(|place| (place, Loss::Nothing, 0));
        self.check_cuts(Promise::Full, cuts, false)
    }

    /// Checks cuts in the order of their places, each with its loss and the seed of what is lost.
    fn check_cuts(
        &self,
        promise: Promise,
        cuts: impl Iterator<Item = (usize, Loss, u64)>,
        ignores_syncs: bool,
    ) -> CutResults {
        let mut results = CutResults {
            acknowledged: self.acknowledged.len(),
            states: self.states.len(),
            ..CutResults::default()
        };
        let mut disk = Disk::default();
        disk.ignores_syncs = ignores_syncs;
        for (place, loss, seed) in cuts {
            disk.play(&self.events, place);
            let mut roll = Dice::new(seed);
            let image = Image::of(&disk.files(loss, &mut |sides| roll.roll(sides)));
            results.cuts += 1;
            match self.check_cut(promise, place, &image) {
                Ok(lost) => results.lost += usize::from(lost),
                Err(wrong) => {
                    let events = self.events.len();
                    results
                        .wrong
                        .push(format!("cut at {place} of {events}, {loss:?} {seed}: {wrong}"));
                }
            }
        }
        results
    }

    /// Returns the number of a random event of this kind, or the next number.
    fn some(&self, dice: &mut Dice, kind: impl Fn(&Event) -> bool) -> usize {
        let start = dice.roll(self.events.len());
        let found = (start..self.events.len()).chain(0..start).find(|at| kind(&self.events[*at]));
        found.unwrap_or(start) + dice.roll(2)
    }

    /// Checks that a cut before this event may leave this image. Returns whether a change was lost.
    fn check_cut(&self, promise: Promise, place: usize, image: &Image) -> Result<bool, String> {
        let mut ledger = Ledger::default();
        for event in &self.events[..place] {
            if let Event::Mark(line) = event {
                let (worker, said) = heard(line);
                ledger.record(&worker, &said);
            }
        }
        let found = image.reopened(&ledger)?;
        let newest = if place == 0 { 0 } else { self.state_at(place - 1) };
        let counts = |done: &&Acknowledged| {
            done.at < place && (promise == Promise::Full || done.is_revocation)
        };
        let oldest =
            self.acknowledged.iter().filter(counts).map(|done| done.state).max().unwrap_or(0);
        // Before the tables exist, the state is empty.
        let nothing = oldest == 0 && found == State::default();
        match (oldest..=newest).rev().find(|at| self.states[*at].1 == found) {
            Some(at) => Ok(at < newest),
            None if nothing => Ok(newest > 0),
            None => {
                let when = self.states.iter().position(|(_, state)| *state == found);
                Err(format!("state {when:?} is found, which is none of {oldest} to {newest}"))
            }
        }
    }
}

fn heard(line: &str) -> (String, WorkerMessage) {
    let (worker, said) = line.split_once(' ').unwrap();
    (worker.to_owned(), said.parse().unwrap())
}

/// The files that were found, in a folder of their own.
struct Image(Folder);

impl Image {
    fn of(files: &Files) -> Image {
        let folder = Folder::in_memory();
        put(files, &folder.path(""));
        Image(folder)
    }

    fn state(&self) -> SqlResult<State> {
        let path = self.0.database();
        if !path.exists() {
            return Ok(State::default());
        }
        State::read(&Connection::open(path)?)
    }

    /// Opens the store on it, checks that every id that was ended is dead, and that the file is
    /// sound; and gives the state.
    fn reopened(&self, ledger: &Ledger) -> Result<State, String> {
        let path = self.0.database();
        let text = |error: cloakroom::Error| format!("{error:?}");
        let state = match SqliteStore::builder(&path).migrate(false).open() {
            Err(error) if error.kind() == ErrorKind::NotSetUp => State::default(),
            Err(error) => return Err(text(error)),
            Ok(store) => {
                for id_hash in ledger.ended() {
                    match store.load(id_hash, NOW).map_err(text)? {
                        Loaded::Unreadable(Unreadable::NotFound { .. })
                        | Loaded::Unreadable(Unreadable::Replaced { .. }) => {}
                        other => return Err(format!("an ended id finds {other:?}")),
                    }
                }
                let connection = Connection::open(&path).unwrap();
                State::read(&connection).map_err(|error| error.to_string())?
            }
        };
        // It goes on from here.
        let store = SqliteStore::open(&path).map_err(text)?;
        crate::common::create(&store, &crate::common::setting("n", 1)).map_err(text)?;
        let check: SqlResult<String> =
            Connection::open(&path)
                .unwrap()
                .query_row("PRAGMA integrity_check", [], |row| row.get(0));
        match check {
            Ok(ok) if ok == "ok" => Ok(state),
            wrong => Err(format!("integrity_check: {wrong:?}")),
        }
    }
}
