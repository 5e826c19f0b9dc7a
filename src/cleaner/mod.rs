//! The cleaner: one thread of each manager that writes touches, sweeps expired sessions, evicts
//! anonymous ones above their maximum and runs the store's maintenance. Requests reach it through a
//! channel and never wait for it.

mod clock_guard;
mod evictions;
mod sweep_schedule;
mod touch_buffer;

use std::mem;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{SessionIndex, Store};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result, panic_message};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::lifetime::EndReason;
use crate::process::Process;
use crate::record::{EndedSession, Touch};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crate::sync::monotonic_now;
use crate::sync::thread::{self, JoinHandle};
use clock_guard::ClockGuard;
pub(crate) use evictions::MaxAnonymous;
use evictions::{AnonymousCounter, EvictionCall, Evictions, MAX_LISTED};
use sweep_schedule::{Reply, SweepSchedule};
use touch_buffer::{SendResult, TouchBuffer, TouchSender, touch_channel};

/// The capacity of the channel of messages to the thread.
const CHANNEL_CAPACITY: usize = 64;

/// The operations of the thread. They fail and recover on their own.
const RECORD_ACTIVITY: &str = "record activity";
const SWEEP: &str = "sweep expired sessions";
const EVICT: &str = "evict anonymous sessions";
const MAINTAIN: &str = "maintain the store";

/// Called for each swept session of a user, with the limit that it had reached.
pub(crate) type OnExpired = Box<dyn Fn(&EndedSession, EndReason) + Send>;

enum Message {
    /// There are touches in their channel, or a check of the anonymous sessions is due.
    Wake,
    Maintenance,
    Sweep(Reply),
    Flush(Sender<Result<()>>),
    Stop,
}

/// The handle to the thread. Dropping it writes the pending touches, stops the thread and waits for
/// its end.
#[derive(Debug)]
pub(crate) struct Cleaner {
    /// The process that has the thread.
    process: Process,
    sender: Sender<Message>,
    touches: TouchSender,
    anonymous: Arc<AnonymousCounter>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system provides no thread.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        events: Events,
        sweep_every: Duration,
        max_anonymous: Option<MaxAnonymous>,
        on_expired: OnExpired,
    ) -> Result<Self> {
        let (sender, receiver) = bounded(CHANNEL_CAPACITY);
        let (touch_sender, touches) = touch_channel();
        let start = monotonic_now();
        let (anonymous, evictions) = Evictions::new(max_anonymous, start);
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(maintenance) = store.maintenance() {
            let sender = sender.clone();
            // If the channel is full, maintenance runs after the next sweep at the latest.
            maintenance.on_due(Box::new(move || drop(sender.try_send(Message::Maintenance))));
        }
        let worker = Worker {
            clock_guard: ClockGuard::new(clock.now(), start),
            caller: StoreCaller { store, events, failing: vec![], stop: stop.clone() },
            clock,
            touches,
            sweeps: SweepSchedule::new(sweep_every, start),
            evictions,
            on_expired,
        };
        let thread = thread::Builder::new()
            .name("cloakroom-cleaner".to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(|source| {
                Error::with_source(ErrorKind::Unavailable, "start the cleaner", source)
            })?;
        Ok(Cleaner {
            process: Process::current(),
            sender,
            touches: touch_sender,
            anonymous,
            stop,
            thread: Some(thread),
        })
    }

    /// Sends a touch to the thread, which writes it within a second. Never waits. Returns false if
    /// the channel is full, or if this process is a fork and the thread belongs to its parent.
    pub(crate) fn touch(&self, id_hash: SessionIdHash, touch: Touch) -> bool {
        if !self.process.is_current() {
            return false;
        }
        match self.touches.send(id_hash, touch) {
            SendResult::ChannelFull => return false,
            SendResult::Queued => {}
            SendResult::WakeThread => self.wake(),
        }
        true
    }

    fn wake(&self) {
        // If the channel is full, the thread is awake, and will look at everything that is due.
        drop(self.sender.try_send(Message::Wake));
    }

    /// Counts an anonymous session that has begun. Never waits.
    pub(crate) fn count_anonymous(&self) {
        if self.anonymous.count_one() {
            self.wake();
        }
    }

    /// Removes all expired sessions, and returns their number.
    pub(crate) fn sweep_now(&self) -> Result<usize> {
        self.ask(Message::Sweep, SWEEP)
    }

    /// Waits until all touches sent before are written.
    pub(crate) fn flush(&self) -> Result<()> {
        self.ask(Message::Flush, "write the activity that is pending")
    }

    fn ask<T>(
        &self,
        message: fn(Sender<Result<T>>) -> Message,
        operation: &'static str,
    ) -> Result<T> {
        self.process.check()?;
        let make_error =
            || Error::with_source(ErrorKind::Unavailable, operation, "the cleaner has stopped");
        let (answer, answers) = bounded(1);
        self.sender.send(message(answer)).map_err(|_| make_error())?;
        answers.recv().map_err(|_| make_error())?
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        // In a fork the thread runs in the parent process, and dropping the last end of a channel
        // takes its lock, which another thread may have held at the time of the fork.
        let leaked = || (self.thread.take(), self.sender.clone(), self.touches.clone());
        if self.process.leak_in_fork(leaked) {
            return;
        }
        let Some(thread) = self.thread.take() else { return };
        self.stop.store(true, Ordering::Relaxed);
        // The thread empties the channel, or has ended and closed it.
        let _ = self.sender.send(Message::Stop);
        // An event sink that owns a session may drop the last manager on the thread itself.
        if thread.thread().id() != thread::current().id() {
            // Panics are caught where they happen.
            let _ = thread.join();
        }
    }
}

struct Worker {
    caller: StoreCaller,
    clock: Arc<dyn Clock>,
    touches: TouchBuffer,
    sweeps: SweepSchedule,
    evictions: Evictions,
    clock_guard: ClockGuard,
    on_expired: OnExpired,
}

impl Worker {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            // A panic in a call of the store is caught there; here, one in the application's clock
            // or event sink. A caller that waits for an answer in such a round gets an error.
            let round = catch_unwind(AssertUnwindSafe(|| self.run_once(messages)));
            if let Ok(ControlFlow::Break(())) = round {
                break;
            }
        }
        // Executes the flushes that were requested before the end.
        for message in messages.try_iter() {
            if let Message::Flush(answer) = message {
                let _ = answer.send(self.write_touches());
            }
        }
        let _ = self.write_touches();
    }

    fn run_once(&mut self, messages: &Receiver<Message>) -> ControlFlow<()> {
        let others = [self.touches.next_due(), self.evictions.next_due()];
        let due = others.into_iter().flatten().fold(self.sweeps.next_due(), Instant::min);
        match messages.recv_deadline(due) {
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                return ControlFlow::Break(());
            }
            Ok(Message::Maintenance) => self.maintain(),
            Ok(Message::Flush(answer)) => drop(answer.send(self.write_touches())),
            Ok(Message::Sweep(reply)) => {
                self.sweeps.start(self.clock.now(), monotonic_now(), Some(reply));
            }
            Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
        }
        self.do_what_is_due(monotonic_now());
        ControlFlow::Continue(())
    }

    fn do_what_is_due(&mut self, instant: Instant) {
        if self.touches.is_due(instant) {
            // An event was raised for the failure; the touches wait for the next attempt.
            let _ = self.write_touches();
        }
        if self.sweeps.begin_interval_if_due(instant) {
            let time = self.clock.now();
            if let Some(step) = self.clock_guard.observe(time, instant) {
                self.caller.events.raise(&Event::ClockStepped { step });
            }
            if self.clock_guard.allows_sweeps(instant) {
                self.sweeps.start(time, instant, None);
            }
            self.maintain();
        }
        if let Some((as_of, batch_size)) = self.sweeps.due_call(instant) {
            self.sweep_a_batch(as_of, batch_size);
        }
        self.evict_a_batch();
    }

    fn write_touches(&mut self) -> Result<()> {
        let result = self.touches.write(monotonic_now(), |batch| {
            self.caller.attempt(RECORD_ACTIVITY, |store| store.touch(batch, self.clock.now()))
        });
        if let Some((sessions, error)) = result.lost {
            self.caller.events.raise(&Event::TouchFailed { sessions, error: &error });
        }
        self.caller.report_result(RECORD_ACTIVITY, result.retry.map_or(Ok(()), Err))
    }

    fn sweep_a_batch(&mut self, as_of: Timestamp, batch_size: NonZeroUsize) {
        // First the touches: a session must not be removed while its touch is pending. If they fail
        // the sweep continues, because every read treats the session as ended anyway.
        let _ = self.write_touches();
        let began_at = monotonic_now();
        let mut swept = self.caller.call(SWEEP, |store| store.sweep(as_of, batch_size));
        if let Ok(report) = &mut swept {
            for ended in mem::take(&mut report.user_sessions) {
                if let Some(limit) = ended.reached_limit {
                    (self.on_expired)(&ended, limit);
                }
            }
        }
        let Some(finished) = self.sweeps.batch_done(swept, began_at, monotonic_now()) else {
            return;
        };
        if let Ok(sessions @ 1..) = finished.removed {
            self.caller.events.raise(&Event::Swept { sessions });
        }
        finished.reply();
    }

    /// Lists the anonymous sessions above their maximum, or evicts a batch of those listed.
    fn evict_a_batch(&mut self) {
        let began_at = monotonic_now();
        let finished = match self.evictions.due_call(began_at) {
            None => return,
            Some(EvictionCall::List { realm, keep }) => {
                // Otherwise a session in use could seem idle.
                let _ = self.write_touches();
                let listed = self
                    .caller
                    .call(EVICT, |store| index_of(store)?.idle_anonymous(&realm, keep, MAX_LISTED));
                self.evictions.list_done(listed)
            }
            Some(EvictionCall::Evict(id_hashes)) => {
                let report = self.caller.call(EVICT, |store| {
                    index_of(store)?.evict_anonymous(&id_hashes, self.clock.now())
                });
                self.evictions.batch_done(report, began_at, monotonic_now())
            }
        };
        if let Some(evicted @ 1..) = finished {
            self.caller.events.raise(&Event::AnonymousEvicted { sessions: evicted as u64 });
        }
    }

    fn maintain(&mut self) {
        // An event was raised for a failure; the next attempt follows the next sweep.
        let _ = self.caller.call(MAINTAIN, |store| {
            store.maintenance().map_or(Ok(()), |maintenance| maintenance.run())
        });
    }
}

/// Returns the session index, which a store with a maximum of anonymous sessions has.
fn index_of(store: &dyn Store) -> Result<&dyn SessionIndex> {
    store.index().ok_or_else(|| Error::new(ErrorKind::Unsupported, EVICT))
}

/// Calls the store, and turns an error or a panic into an event, so that the thread continues.
struct StoreCaller {
    store: Arc<dyn Store>,
    events: Events,
    /// The operations whose last attempt failed.
    failing: Vec<&'static str>,
    stop: Arc<AtomicBool>,
}

impl StoreCaller {
    fn call<T>(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(&dyn Store) -> Result<T>,
    ) -> Result<T> {
        let result = self.attempt(operation, call);
        self.report_result(operation, result)
    }

    /// Calls the store once.
    fn attempt<T, E: From<Error>>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&dyn Store) -> Result<T, E>,
    ) -> Result<T, E> {
        catch_unwind(AssertUnwindSafe(|| call(&*self.store))).unwrap_or_else(|panic| {
            let message = panic_message(&*panic).unwrap_or("it panicked").to_owned();
            Err(Error::with_source(ErrorKind::Unexpected, operation, message).into())
        })
    }

    /// Takes the result of an operation and returns it. Raises an event when the first operation
    /// fails, and when the last one has recovered.
    fn report_result<T>(&mut self, operation: &'static str, result: Result<T>) -> Result<T> {
        let was_failing = !self.failing.is_empty();
        self.failing.retain(|failing| *failing != operation);
        match &result {
            Err(error) => {
                self.failing.push(operation);
                // Last, because the application's sink may panic. While the manager is dropped, a
                // busy store raises no event.
                if !was_failing && !self.stop.load(Ordering::Relaxed) {
                    self.events.raise(&Event::CleanerFailed { error });
                }
            }
            Ok(_) if was_failing && self.failing.is_empty() => {
                self.events.raise(&Event::CleanerRecovered);
            }
            Ok(_) => {}
        }
        result
    }
}
