//! Runs plans by the thousand, checks what happened, and makes a failure small.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::chance::Chance;
use super::model::Sessions;
use super::operations::{
    Answer, Call, Change, Happened, Moment, Number, Operation, Session, readable,
};
use super::plan::{Abilities, HistoryPlan, PlannedStep};
use super::target::Names;
use crate::common::dice::number;

/// A failing plan is made smaller for so long.
const SHRINKING: Duration = Duration::from_secs(60);

/// So often a smaller plan may go well before it counts as one that does not fail.
const TRIES: usize = 300;

/// Carries out the operations of one thread.
pub type Caller<'s> = Box<dyn FnMut(&Operation) -> Answer + Send + 's>;

/// The subject of histories.
pub trait Subject: Sync {
    fn abilities(&self) -> Abilities;

    fn model(&self) -> Sessions;

    /// The number of threads of a process; the first threads are in the first process.
    fn threads_per_process(&self) -> usize {
        self.abilities().threads
    }

    /// True if operations may fail with an unknown outcome.
    fn may_fail(&self) -> bool {
        false
    }

    /// A caller for each thread, on sessions that no history has touched before.
    fn begin(&self, names: Names) -> Vec<Caller<'_>>;

    /// Does something to the servers while the threads are at work. True if all sessions were lost.
    fn disturb(&self, _chance: &mut Chance) -> bool {
        false
    }
}

/// Checks so many histories; `CLOAKROOM_HISTORIES` says another number.
///
/// The seed of each is that of the first and its number: `CLOAKROOM_SEED` and one history make
/// the same plan again.
pub fn search(name: &str, subject: &impl Subject, histories: u64) {
    let histories = number("CLOAKROOM_HISTORIES").unwrap_or(histories);
    let by_the_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let seed = number("CLOAKROOM_SEED").unwrap_or(by_the_clock);
    println!("{name}: {histories} histories from seed {seed}");
    let (began, mut operations, mut open) = (Instant::now(), 0, 0);
    let runner = Runner { subject, next: AtomicU64::new(0) };
    for seed in seed..seed + histories {
        let plan = HistoryPlan::by(&mut Chance::new(seed), subject.abilities());
        let history = runner.run(&plan, seed);
        operations += history.len();
        open += history.iter().filter(|happened| happened.is_open()).count();
        if let Err(why) = judge(subject, &history) {
            let (history, why) = runner.shrink(plan, seed, history, why);
            panic!(
                "{name}: CLOAKROOM_SEED={seed}\nThe smallest history that was found:\n{}\n{why}",
                readable(&history)
            );
        }
    }
    println!(
        "{name}: {histories} histories, {operations} operations, {open} of them of unknown \
         outcome, in {:.1?}: each has an order",
        began.elapsed()
    );
}

/// Checks that the history has an order; the error says why not.
fn judge(subject: &impl Subject, history: &[Happened]) -> Result<(), String> {
    let is_bad = |happened: &&Happened| match happened.answer {
        Answer::Failed(_) => true,
        Answer::Unknown(_) => !subject.may_fail(),
        _ => false,
    };
    if let Some(bad) = history.iter().find(is_bad) {
        return Err(format!("This should not fail: {bad:?}"));
    }
    subject.model().judge(history)
}

struct Runner<'s, S> {
    subject: &'s S,
    /// The number of the next history.
    next: AtomicU64,
}

impl<S: Subject> Runner<'_, S> {
    fn run(&self, plan: &HistoryPlan, seed: u64) -> Vec<Happened> {
        let names = Names { history: self.next.fetch_add(1, Ordering::SeqCst) };
        let mut callers = self.subject.begin(names);
        let clock = Clock::default();
        let mut history = Vec::new();
        let process = |thread| thread / self.subject.threads_per_process();
        let mut first = Thread::new(0, 0, &clock, &mut callers[0]);
        plan.before.iter().for_each(|step| first.take(step));
        history.extend(first.happened);

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
                        steps.get(round).into_iter().for_each(|step| thread.take(step));
                    }
                    thread.happened
                }));
            }
            if rounds > 0 {
                barrier.wait();
            }
            let start = clock.stamp();
            let lost = self.subject.disturb(&mut Chance::new(seed ^ 1));
            let end = clock.stamp();
            if lost {
                let operation = Operation { call: Call::Lose, now: 0 };
                let (thread, latest) = (plan.threads.len(), clock.at_least(0));
                let (answer, process) = (Answer::Ok, process(thread));
                let lost = Happened { thread, process, operation, answer, start, end, latest };
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

    /// Runs the plan until it fails, some times at most.
    fn fails(
        &self,
        plan: &HistoryPlan,
        seed: u64,
        until: Instant,
    ) -> Option<(Vec<Happened>, String)> {
        for _ in 0..TRIES {
            if Instant::now() >= until {
                return None;
            }
            let history = self.run(plan, seed);
            if let Err(why) = judge(self.subject, &history) {
                return Some((history, why));
            }
        }
        None
    }

    fn shrink(
        &self,
        mut plan: HistoryPlan,
        seed: u64,
        history: Vec<Happened>,
        why: String,
    ) -> (Vec<Happened>, String) {
        println!("seed {seed} fails with {} operations; making it smaller", plan.operations());
        let until = Instant::now() + SHRINKING;
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

    /// This time, or a later one if others are there already: time goes on while an operation is in
    /// flight, and never back.
    fn at_least(&self, now: Moment) -> Moment {
        self.now.fetch_max(now, Ordering::SeqCst).max(now)
    }
}

struct Thread<'t, 'c> {
    number: usize,
    process: usize,
    clock: &'t Clock,
    caller: &'t mut Caller<'c>,
    happened: Vec<Happened>,
    /// Sessions as this thread saw them last.
    seen: HashMap<Number, Session>,
}

impl<'t, 'c> Thread<'t, 'c> {
    fn new(number: usize, process: usize, clock: &'t Clock, caller: &'t mut Caller<'c>) -> Self {
        Thread { number, process, clock, caller, happened: Vec::new(), seen: HashMap::new() }
    }

    fn take(&mut self, step: &PlannedStep) {
        (0..step.pause).for_each(|_| std::hint::spin_loop());
        let Operation { call, now } = &step.operation;
        let (Call::Merge { id_hash, changes, seen, .. }, true) = (call, step.conditional) else {
            return self.carry_out(&step.operation);
        };
        if !self.seen.contains_key(id_hash) {
            self.carry_out(&Operation { call: Call::Load { id_hash: *id_hash }, now: *now });
        }
        // Overtaken once, it is tried once more.
        for _ in 0..2 {
            let Some(session) = self.seen.get(id_hash) else { return };
            let counted = step.counts_up.map(|name| {
                let before = session.data.get(&name).copied().unwrap_or(0);
                vec![Change::Set(name, before.wrapping_add(1))]
            });
            let (id_hash, changes) = (*id_hash, counted.unwrap_or_else(|| changes.clone()));
            let if_revision = Some(session.revision);
            let call = Call::Merge { id_hash, changes, if_revision, seen: *seen };
            self.carry_out(&Operation { call, now: *now });
            let stale = self
                .happened
                .last()
                .is_some_and(|last| matches!(last.answer, Answer::Stale { .. }));
            if !stale || step.counts_up.is_none() {
                return;
            }
        }
    }

    fn carry_out(&mut self, operation: &Operation) {
        let start = self.clock.stamp();
        let operation = operation.at(self.clock.at_least(operation.now));
        // No thread waits for ever for one that has panicked.
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
        self.happened.push(Happened { thread, process, operation, answer, start, end, latest });
    }
}
