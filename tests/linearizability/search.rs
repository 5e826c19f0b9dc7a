//! Executes random plans, checks the histories, and reduces a failing one to a small one.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::common::dice::Dice;
use super::model::SessionModel;
use super::operations::{
    Answer, Call, Change, Millis, Number, Operation, RecordedOperation, Session, readable,
};
use super::plan::{Capabilities, HistoryPlan, PlannedStep};
use super::target::Names;
use crate::common::dice::number;

/// How long a failing plan is reduced.
const SHRINK_FOR: Duration = Duration::from_secs(60);

/// How often a smaller plan is executed before it counts as one that does not fail.
const MAX_RUNS: usize = 300;

/// Executes the operations of one thread.
pub type Caller<'s> = Box<dyn FnMut(&Operation) -> Answer + Send + 's>;

/// The store that histories are made on.
pub trait Subject: Sync {
    fn capabilities(&self) -> Capabilities;

    fn model(&self) -> SessionModel;

    /// The number of threads of a process; the first threads are in the first process.
    fn threads_per_process(&self) -> usize {
        self.capabilities().threads
    }

    /// True if operations may fail with an unknown outcome.
    fn may_fail(&self) -> bool {
        false
    }

    /// True if a sign-in does not lock an id that no session has. Whether it finds a session that
    /// gets this id meanwhile then has no order, and such histories are not checked.
    fn locks_found_sessions_only(&self) -> bool {
        false
    }

    /// A caller for each thread, on sessions that no history has touched before.
    fn begin(&self, names: Names) -> Vec<Caller<'_>>;

    /// Stops or disturbs servers while the threads work. Returns true if all sessions were lost.
    fn disturb(&self, _chance: &mut Dice) -> bool {
        false
    }
}

/// Checks this number of histories, or that of `CLOAKROOM_HISTORIES`.
///
/// The seeds of the histories follow each other. With `CLOAKROOM_SEED` and one history, the plan of
/// a failure is executed again.
pub fn search(name: &str, subject: &impl Subject, histories: u64) {
    let histories = number("CLOAKROOM_HISTORIES").unwrap_or(histories);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let seed = number("CLOAKROOM_SEED").unwrap_or(time);
    println!("{name}: {histories} histories from seed {seed}");
    let (began, mut operations, mut unknown, mut not_made) = (Instant::now(), 0, 0, 0);
    let runner = Runner { subject, next: AtomicU64::new(0) };
    for seed in seed..seed + histories {
        let plan = HistoryPlan::random(&mut Dice::new(seed), subject.capabilities());
        let history = runner.run(&plan, seed);
        operations += history.len();
        unknown += history.iter().filter(|recorded| recorded.has_unknown_outcome()).count();
        let is_not_made =
            |recorded: &&RecordedOperation| matches!(recorded.answer, Answer::NothingDone(_));
        not_made += history.iter().filter(is_not_made).count();
        if let Err(why) = check_history(subject, &history) {
            let (history, why) = runner.shrink(plan, seed, history, why);
            panic!(
                "{name}: CLOAKROOM_SEED={seed}\nThe smallest history that was found:\n{}\n{why}",
                readable(&history)
            );
        }
    }
    println!(
        "{name}: {histories} histories, {operations} operations, {unknown} of them of unknown \
         outcome, {not_made} not made, in {:.1?}: each has an order",
        began.elapsed()
    );
}

/// Checks that the history has an order; the error says why not.
fn check_history(subject: &impl Subject, history: &[RecordedOperation]) -> Result<(), String> {
    let is_bad = |recorded: &&RecordedOperation| match recorded.answer {
        Answer::Failed(_) => true,
        Answer::Unknown(_) | Answer::NothingDone(_) => !subject.may_fail(),
        _ => false,
    };
    if let Some(bad) = history.iter().find(is_bad) {
        return Err(format!("This must not fail: {bad:?}"));
    }
    let signs_in_early =
        || history.iter().any(|one| history.iter().any(|other| one.signs_in_early(other)));
    if subject.locks_found_sessions_only() && signs_in_early() {
        return Ok(());
    }
    subject.model().check_history(history)
}

struct Runner<'s, S> {
    subject: &'s S,
    /// The number of the next history.
    next: AtomicU64,
}

impl<S: Subject> Runner<'_, S> {
    fn run(&self, plan: &HistoryPlan, seed: u64) -> Vec<RecordedOperation> {
        let names = Names { history: self.next.fetch_add(1, Ordering::SeqCst) };
        let mut callers = self.subject.begin(names);
        let clock = Clock::default();
        let mut history = Vec::new();
        let process = |thread| thread / self.subject.threads_per_process();
        let mut first = Thread::new(0, 0, &clock, &mut callers[0]);
        plan.setup.iter().for_each(|step| first.execute(step));
        history.extend(first.recorded);

        let rounds = plan.threads.iter().map(Vec::len).max().unwrap_or(0);
        let busy = plan.threads.iter().filter(|steps| !steps.is_empty()).count();
        let barrier = Barrier::new(busy + 1);
        let waits = |round: usize| plan.in_rounds || round == 0;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (number, (steps, caller)) in plan.threads.iter().zip(&mut callers).enumerate() {
                if steps.is_empty() {
                    continue;
                }
                let (clock, barrier) = (&clock, &barrier);
                threads.push(scope.spawn(move || {
                    let mut thread = Thread::new(number, process(number), clock, caller);
                    for round in 0..rounds {
                        if waits(round) {
                            barrier.wait();
                        }
                        steps.get(round).into_iter().for_each(|step| thread.execute(step));
                    }
                    thread.recorded
                }));
            }
            if rounds > 0 {
                barrier.wait();
            }
            let start = clock.stamp();
            let lost = self.subject.disturb(&mut Dice::new(seed ^ 1));
            let end = clock.stamp();
            if lost {
                let operation = Operation { call: Call::LoseAll, now: 0 };
                let (thread, latest) = (plan.threads.len(), clock.at_least(0));
                let (answer, process) = (Answer::Ok, process(thread));
                let lost =
                    RecordedOperation { thread, process, operation, answer, start, end, latest };
                history.push(lost);
            }
            for round in 1..rounds {
                if waits(round) {
                    barrier.wait();
                }
            }
            for thread in threads {
                history.extend(thread.join().unwrap());
            }
        });
        history
    }

    /// Executes the plan until it fails, at most `MAX_RUNS` times.
    fn fails(
        &self,
        plan: &HistoryPlan,
        seed: u64,
        until: Instant,
    ) -> Option<(Vec<RecordedOperation>, String)> {
        for _ in 0..MAX_RUNS {
            if Instant::now() >= until {
                return None;
            }
            let history = self.run(plan, seed);
            if let Err(why) = check_history(self.subject, &history) {
                return Some((history, why));
            }
        }
        None
    }

    fn shrink(
        &self,
        mut plan: HistoryPlan,
        seed: u64,
        history: Vec<RecordedOperation>,
        why: String,
    ) -> (Vec<RecordedOperation>, String) {
        println!("seed {seed} fails with {} operations; reducing it", plan.operations());
        let until = Instant::now() + SHRINK_FOR;
        let mut found = (history, why);
        'smaller: loop {
            for smaller in plan.smaller() {
                if let Some(failure) = self.fails(&smaller, seed, until) {
                    (plan, found) = (smaller, failure);
                    continue 'smaller;
                }
            }
            return found;
        }
    }
}

/// The clock that all threads of a history share.
#[derive(Default)]
struct Clock {
    /// The number of beginnings and ends of operations.
    stamps: AtomicU64,
    /// The latest time that an operation was given.
    now: AtomicI64,
}

impl Clock {
    fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::SeqCst)
    }

    /// Returns this time, or the latest one that any thread has been given: time never goes back.
    fn at_least(&self, now: Millis) -> Millis {
        self.now.fetch_max(now, Ordering::SeqCst).max(now)
    }
}

struct Thread<'t, 'c> {
    number: usize,
    process: usize,
    clock: &'t Clock,
    caller: &'t mut Caller<'c>,
    recorded: Vec<RecordedOperation>,
    /// SessionModel as this thread saw them last.
    seen: HashMap<Number, Session>,
}

impl<'t, 'c> Thread<'t, 'c> {
    fn new(number: usize, process: usize, clock: &'t Clock, caller: &'t mut Caller<'c>) -> Self {
        Thread { number, process, clock, caller, recorded: Vec::new(), seen: HashMap::new() }
    }

    fn execute(&mut self, step: &PlannedStep) {
        (0..step.pause).for_each(|_| std::hint::spin_loop());
        let Operation { call, now } = &step.operation;
        let (Call::Merge { id_hash, changes, seen, .. }, true) = (call, step.conditional) else {
            return self.run_operation(&step.operation);
        };
        if !self.seen.contains_key(id_hash) {
            self.run_operation(&Operation { call: Call::Load { id_hash: *id_hash }, now: *now });
        }
        // After a conflict it is tried once more.
        for _ in 0..2 {
            let Some(session) = self.seen.get(id_hash) else { return };
            let incremented = step.increments.map(|name| {
                let before = session.data.get(&name).copied().unwrap_or(0);
                vec![Change::Set(name, before.wrapping_add(1))]
            });
            let (id_hash, changes) = (*id_hash, incremented.unwrap_or_else(|| changes.clone()));
            let if_revision = Some(session.revision);
            let call = Call::Merge { id_hash, changes, if_revision, seen: *seen };
            self.run_operation(&Operation { call, now: *now });
            let stale = self
                .recorded
                .last()
                .is_some_and(|last| matches!(last.answer, Answer::Stale { .. }));
            if !stale || step.increments.is_none() {
                return;
            }
        }
    }

    fn run_operation(&mut self, operation: &Operation) {
        let start = self.clock.stamp();
        let operation = operation.at(self.clock.at_least(operation.now));
        // Otherwise the other threads would wait for a panicked one for ever.
        let answer = catch_unwind(AssertUnwindSafe(|| (self.caller)(&operation)))
            .unwrap_or_else(|_| Answer::Failed("it panicked".to_owned()));
        let end = self.clock.stamp();
        if let Answer::Live { session, id_hash }
        | Answer::Done { session, id_hash, .. }
        | Answer::Unchanged { session, id_hash }
        | Answer::Stale { session, id_hash } = &answer
        {
            self.seen.insert(*id_hash, session.clone());
            self.seen.extend(operation.call.id_hash().map(|asked| (asked, session.clone())));
        }
        let (thread, process, latest) = (self.number, self.process, self.clock.at_least(0));
        self.recorded.push(RecordedOperation {
            thread,
            process,
            operation,
            answer,
            start,
            end,
            latest,
        });
    }
}
