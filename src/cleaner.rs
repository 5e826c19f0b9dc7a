//! One thread behind every manager: it writes touches, sweeps ended sessions and lets the store
//! do its upkeep, fed through a channel on which no request waits.

use std::any::Any;
use std::collections::HashMap;
use std::mem;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Store, SweepReport};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result, panic_words};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::process::Process;
use crate::record::Touch;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crate::sync::instant;
use crate::sync::thread::{self, JoinHandle};

/// Messages that may wait.
const MESSAGES: usize = 64;

/// Touches that may wait; one that finds no room is written by its own request.
const ROOM: usize = 4096;

/// So many touches are written by one transaction, and at once when they have come together.
const TOUCHES: usize = 256;

/// Touches that are kept for another try while the store fails.
const TOUCHES_KEPT: usize = 16 * TOUCHES;

/// How long touches wait for others. Sooner than another fortieth of any idle limit that is not
/// too short for the cleaner.
const TOUCH_WAIT: Duration = Duration::from_secs(1);

/// How many sessions one transaction of a sweep may remove: as many as hold others up for no longer
/// than its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch(NonZeroUsize);

impl Batch {
    /// It begins with the most, and never has more.
    pub(crate) const LARGEST: Batch = Batch(NonZeroUsize::MIN.saturating_add(999));

    /// However long a batch holds others up, the next one has at least so many.
    const SMALLEST: usize = 50;

    /// A batch that held others up for longer is followed by smaller ones.
    const TIME: Duration = Duration::from_millis(10);

    pub(crate) fn limit(self) -> NonZeroUsize {
        self.0
    }

    /// The batch after this one, which held others up for so long.
    #[must_use]
    pub(crate) fn after(self, held: Duration) -> Self {
        let next = if held > Self::TIME { self.0.get() / 2 } else { self.0.get() * 2 };
        let next = NonZeroUsize::new(next.max(Self::SMALLEST)).unwrap_or(Self::LARGEST.0);
        Batch(next.min(Self::LARGEST.0))
    }
}

/// A clock that steps forward by more than this is not believed at once.
const STEP: Duration = Duration::from_secs(3600);

/// For so long no session is swept after such a step.
const PAUSE: Duration = Duration::from_secs(600);

const TOUCHING: &str = "record activity";

enum Message {
    /// Touches have been handed over.
    Touches,
    Maintenance,
    Sweep(Sender<Result<usize>>),
    Flush(Sender<Result<()>>),
    Stop,
}

/// The handle to the thread. Dropping it writes what is pending, stops the thread and waits for
/// that.
#[derive(Debug)]
pub(crate) struct Cleaner {
    /// The one that has the thread.
    process: Process,
    sender: Sender<Message>,
    touches: Sender<(SessionIdHash, Touch)>,
    /// Whether the thread was told of touches since it last took some. To wake it takes several
    /// times as long as to hand a touch over.
    told: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system gives no thread.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        events: Events,
        sweep_every: Duration,
    ) -> Result<Self> {
        let (sender, receiver) = bounded(MESSAGES);
        let (touches, handed_over) = bounded(ROOM);
        let told = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(maintenance) = store.maintenance() {
            let sender = sender.clone();
            // No room means that messages wait, and the upkeep follows the next sweep at the latest.
            maintenance.on_due(Box::new(move || drop(sender.try_send(Message::Maintenance))));
        }
        let work = Worker {
            step: ClockStep { time: clock.now(), instant: instant(), paused_until: None },
            store,
            clock,
            events,
            sweep_every,
            next_sweep: instant() + sweep_every,
            handed_over,
            told: told.clone(),
            touches: HashMap::new(),
            touches_due: None,
            batch: Batch::LARGEST,
            sweeping: None,
            failing: Vec::new(),
            stop: stop.clone(),
        };
        let thread = thread::Builder::new()
            .name("cloakroom-cleaner".to_owned())
            .spawn(move || work.run(&receiver))
            .map_err(|source| {
                Error::with_source(ErrorKind::Unavailable, "start the cleaner", source)
            })?;
        Ok(Cleaner {
            process: Process::current(),
            sender,
            touches,
            told,
            stop,
            thread: Some(thread),
        })
    }

    /// Hands a touch over without waiting; false if there is no room, or nobody to take it because
    /// this process was forked. It is written within a second.
    pub(crate) fn touch(&self, id_hash: SessionIdHash, touch: Touch) -> bool {
        if !self.process.is_current() || self.touches.try_send((id_hash, touch)).is_err() {
            return false;
        }
        let first = !self.told.swap(true, Ordering::AcqRel);
        if first || self.touches.len().is_multiple_of(TOUCHES) {
            // No room means that the thread has yet to look at others.
            let _ = self.sender.try_send(Message::Touches);
        }
        true
    }

    /// Removes every session that has ended, and says how many those were.
    pub(crate) fn sweep_now(&self) -> Result<usize> {
        self.ask(Message::Sweep, "sweep ended sessions")
    }

    /// Returns when every touch handed over before is written.
    pub(crate) fn flush(&self) -> Result<()> {
        self.ask(Message::Flush, "write the activity that is pending")
    }

    fn ask<T>(
        &self,
        message: fn(Sender<Result<T>>) -> Message,
        operation: &'static str,
    ) -> Result<T> {
        self.process.check()?;
        let stopped =
            || Error::with_source(ErrorKind::Unavailable, operation, "the cleaner has stopped");
        let (answer, answers) = bounded(1);
        self.sender.send(message(answer)).map_err(|_| stopped())?;
        answers.recv().map_err(|_| stopped())?
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.process.is_current() {
            // It is in the process from which this one was forked: nobody to wait for. And whoever
            // lets go of a channel's last end takes its lock.
            return mem::forget((thread, self.sender.clone(), self.touches.clone()));
        }
        self.stop.store(true, Ordering::Relaxed);
        // The thread empties the channel, or is gone and has closed it.
        let _ = self.sender.send(Message::Stop);
        // A session that outlives its manager can be dropped by an event sink, on the thread itself.
        if thread.thread().id() != thread::current().id() {
            // Its panics are caught where they happen; there is none to pass on.
            let _ = thread.join();
        }
    }
}

struct Worker {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    events: Events,
    sweep_every: Duration,
    next_sweep: Instant,
    handed_over: Receiver<(SessionIdHash, Touch)>,
    told: Arc<AtomicBool>,
    /// Those that could not be written, and those that are about to be.
    touches: HashMap<SessionIdHash, Touch>,
    touches_due: Option<Instant>,
    /// How many sessions the next transaction of a sweep may remove.
    batch: Batch,
    sweeping: Option<Sweep>,
    step: ClockStep,
    /// The work that failed when it was last tried: the change is told once, not the state.
    failing: Vec<&'static str>,
    stop: Arc<AtomicBool>,
}

/// A sweep under way, batch by batch.
struct Sweep {
    /// What had ended by then is removed: a step of the clock in mid-sweep changes nothing.
    now: Timestamp,
    removed: usize,
    next_batch: Instant,
    asked_by: Vec<Sender<Result<usize>>>,
}

/// Where the clock stood when it was last compared with the time that had really passed.
struct ClockStep {
    time: Timestamp,
    instant: Instant,
    paused_until: Option<Instant>,
}

impl ClockStep {
    /// By how much the clock has stepped forward since the last look.
    fn look(&mut self, time: Timestamp, instant: Instant) -> Duration {
        let passed = instant.saturating_duration_since(self.instant);
        let step = time.since(self.time).saturating_sub(passed);
        (self.time, self.instant) = (time, instant);
        if step > STEP {
            self.paused_until = Some(instant + PAUSE);
        }
        step
    }

    fn pauses(&self, instant: Instant) -> bool {
        self.paused_until.is_some_and(|until| instant < until)
    }
}

impl Worker {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            // Calls of the store have a guard of their own; this one is for the application's clock
            // and event sink. Whoever asked for something in such a turn is told it has stopped.
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(messages)));
            if let Ok(ControlFlow::Break(())) = turn {
                break;
            }
        }
        // Whoever asked before the end still gets what was asked for.
        for message in messages.try_iter() {
            match message {
                Message::Flush(answer) => drop(answer.send(self.write_touches())),
                Message::Touches | Message::Maintenance | Message::Sweep(_) | Message::Stop => {}
            }
        }
        let _ = self.write_touches();
    }

    fn turn(&mut self, messages: &Receiver<Message>) -> ControlFlow<()> {
        match messages.recv_deadline(self.next_deadline()) {
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                return ControlFlow::Break(());
            }
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
        }
        self.do_what_is_due();
        ControlFlow::Continue(())
    }

    fn next_deadline(&self) -> Instant {
        let sweep = self.sweeping.as_ref().map_or(self.next_sweep, |sweep| sweep.next_batch);
        self.touches_due.map_or(sweep, |touches| touches.min(sweep))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Maintenance => self.maintenance(),
            Message::Flush(answer) => drop(answer.send(self.write_touches())),
            Message::Sweep(answer) => self.begin_sweep(self.clock.now(), Some(answer)),
            // What is due is done after every message.
            Message::Touches | Message::Stop => {}
        }
    }

    fn do_what_is_due(&mut self) {
        let now = instant();
        // After a failure only the time counts: a store in trouble is not asked at every message.
        let many = self.handed_over.len() >= TOUCHES && !self.failing.contains(&TOUCHING);
        if self.touches_due.is_none() && self.told.load(Ordering::Acquire) {
            self.touches_due = Some(now + TOUCH_WAIT);
        }
        if many || self.touches_due.is_some_and(|due| due <= now) {
            // A failure was told as an event; the touches wait for the next time.
            let _ = self.write_touches();
        }
        if self.next_sweep <= now {
            self.next_sweep = now + self.sweep_every;
            let time = self.clock.now();
            let step = self.step.look(time, now);
            if step > STEP {
                self.events.raise(&Event::ClockStepped { by: step });
            }
            if !self.step.pauses(now) {
                self.begin_sweep(time, None);
            }
            self.maintenance();
        }
        if self.sweeping.as_ref().is_some_and(|sweep| sweep.next_batch <= now) {
            self.sweep_a_batch();
        }
    }

    /// Writes what was handed over before this call, and what could not be written earlier.
    fn write_touches(&mut self) -> Result<()> {
        self.touches_due = None;
        // Before they are taken: who hands one over after that tells of it again.
        self.told.swap(false, Ordering::AcqRel);
        for (id_hash, touch) in self.handed_over.try_iter().take(ROOM) {
            let pending = self.touches.entry(id_hash).or_insert(touch);
            pending.seen = pending.seen.max(touch.seen);
        }
        let mut touches: Vec<_> = self.touches.drain().collect();
        while !touches.is_empty() {
            let rest = touches.split_off(touches.len().min(TOUCHES));
            self.write_batch(touches, &rest)?;
            touches = rest;
        }
        Ok(())
    }

    /// Writes a batch, or keeps it for another try, and then the `rest` too.
    fn write_batch(
        &mut self,
        batch: Vec<(SessionIdHash, Touch)>,
        rest: &[(SessionIdHash, Touch)],
    ) -> Result<()> {
        let now = self.clock.now();
        let Err(error) = self.guard(TOUCHING, |store| store.touch(&batch, now)) else {
            return Ok(());
        };
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict) {
            // The store is in trouble, not one session: all wait for another try.
            return self.keep_touches([&batch, rest].concat(), error);
        }
        // One session that cannot be written must not hold up the others.
        for touch in batch {
            if let Err(error) = self.guard(TOUCHING, |store| store.touch(&[touch], now)) {
                self.events.raise(&Event::TouchFailed { error: &error });
            }
        }
        Ok(())
    }

    fn keep_touches(&mut self, batch: Vec<(SessionIdHash, Touch)>, error: Error) -> Result<()> {
        if batch.len() <= TOUCHES_KEPT {
            self.touches.extend(batch);
            self.touches_due = Some(instant() + TOUCH_WAIT);
        } else {
            self.events.raise(&Event::TouchFailed { error: &error });
        }
        Err(error)
    }

    fn begin_sweep(&mut self, now: Timestamp, asked_by: Option<Sender<Result<usize>>>) {
        let sweep = self.sweeping.get_or_insert_with(|| Sweep {
            now,
            removed: 0,
            next_batch: instant(),
            asked_by: Vec::new(),
        });
        sweep.now = now;
        sweep.asked_by.extend(asked_by);
    }

    fn sweep_a_batch(&mut self) {
        let Some(mut sweep) = self.sweeping.take() else { return };
        // A session is not swept for want of a touch that is on its way. Where touches fail, the
        // sweep goes on: at its deadline a session is dead to every read anyway.
        let _ = self.write_touches();
        let (now, limit) = (sweep.now, self.batch.limit());
        let began = instant();
        let swept = self.guard("sweep ended sessions", |s| s.sweep(now, limit));
        let ended = instant();
        match swept {
            Ok(SweepReport { removed, held }) => {
                sweep.removed = sweep.removed.saturating_add(removed);
                // A store can be mistaken, but nobody was held up for longer than the call took.
                let held = held.min(ended.saturating_duration_since(began));
                self.batch = self.batch.after(held);
                if removed >= limit.get() {
                    // For as long as it held the requests up, it leaves the store to them.
                    sweep.next_batch = ended + held;
                    self.sweeping = Some(sweep);
                    return;
                }
                if sweep.removed > 0 {
                    self.events.raise(&Event::Swept { sessions: sweep.removed });
                }
                for asked in sweep.asked_by {
                    let _ = asked.send(Ok(sweep.removed));
                }
            }
            Err(error) => {
                for asked in sweep.asked_by {
                    let _ = asked.send(Err(error.clone()));
                }
            }
        }
    }

    fn maintenance(&mut self) {
        // Its failure was told as an event; it is tried again after the next sweep.
        let _ = self.guard("do the store's upkeep", |store| match store.maintenance() {
            Some(maintenance) => maintenance.run(),
            None => Ok(()),
        });
    }

    /// Calls the store; an error or a panic becomes an event and the thread goes on.
    fn guard<T>(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(&dyn Store) -> Result<T>,
    ) -> Result<T> {
        let store = &*self.store;
        let result = catch_unwind(AssertUnwindSafe(|| call(store)))
            .unwrap_or_else(|panic| Err(panicked(operation, &*panic)));
        match &result {
            Err(error) => {
                // At the end of the program a busy store is no news.
                if self.failing.is_empty() && !self.stop.load(Ordering::Relaxed) {
                    self.events.raise(&Event::CleanerFailed { error });
                }
                if !self.failing.contains(&operation) {
                    self.failing.push(operation);
                }
            }
            Ok(_) if self.failing.contains(&operation) => {
                self.failing.retain(|failing| *failing != operation);
                if self.failing.is_empty() {
                    self.events.raise(&Event::CleanerRecovered);
                }
            }
            Ok(_) => {}
        }
        result
    }
}

fn panicked(operation: &'static str, panic: &(dyn Any + Send)) -> Error {
    let words = panic_words(panic).unwrap_or("it panicked");
    Error::with_source(ErrorKind::Unexpected, operation, words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_forward_of_more_than_an_hour_pauses_sweeps_for_ten_minutes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let mut step = ClockStep { time: at(0), instant: start, paused_until: None };
        assert_eq!(step.look(at(7200), after(7200)), Duration::ZERO, "time that really passed");
        assert!(!step.pauses(after(7200)));
        assert_eq!(step.look(at(7200 + 3600 + 60), after(7260)), Duration::from_secs(3600));
        assert!(!step.pauses(after(7260)), "an hour exactly is believed");
        assert_eq!(step.look(at(20_000), after(7320)), Duration::from_secs(20_000 - 10_860 - 60));
        assert!(step.pauses(after(7320)) && step.pauses(after(7919)));
        assert!(!step.pauses(after(7920)));
    }
}
