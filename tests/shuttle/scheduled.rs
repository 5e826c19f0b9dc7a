//! The crate's `sync` in the tests of schedules: shuttle chooses the next thread. Time passes where
//! a thread reads it, a little, and where a thread waits for it, by choice of shuttle.

#![allow(clippy::unwrap_used, reason = "a panic is how a schedule fails")]

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use shuttle::rand::Rng;

pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};

std::thread_local! {
    /// All threads of a schedule are one thread of the machine.
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The time of the machine, as far as the schedule has let it pass. To look at it takes time.
pub(crate) fn monotonic_now() -> Instant {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    pass(Duration::from_micros(200));
    *BEGINNING + PASSED.get()
}

/// No thread reads the time without a switch: the scheduler lets the others go on when this one
/// waits.
pub(crate) fn spin_until(_is_over: impl Fn() -> bool) {}

fn pass(time: Duration) {
    PASSED.set(PASSED.get() + time);
}

fn by_chance(one_in: u32) -> bool {
    shuttle::rand::thread_rng().gen_ratio(1, one_in)
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use shuttle::thread::*;

    /// A thread that sleeps lets others run.
    pub(crate) fn sleep(_time: Duration) {
        yield_now();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar(shuttle::sync::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'m, T>(
        &self,
        guard: MutexGuard<'m, T>,
    ) -> std::sync::LockResult<MutexGuard<'m, T>> {
        self.0.wait(guard)
    }

    /// Now and then the time is over before a notification: the lock is free for a moment,
    /// as it is in such a wait. Otherwise a thread has to notify, or the schedule ends.
    pub(crate) fn wait_timeout<'m, T>(
        &self,
        guard: MutexGuard<'m, T>,
        time: Duration,
    ) -> std::sync::LockResult<(MutexGuard<'m, T>, ())> {
        if by_chance(4) {
            pass(time);
            return Ok((guard, ()));
        }
        let notified = |guard| (guard, ());
        match self.0.wait(guard) {
            Ok(guard) => Ok(notified(guard)),
            Err(poisoned) => Err(std::sync::PoisonError::new(notified(poisoned.into_inner()))),
        }
    }
}

/// As much of crossbeam's bounded channel as the crate uses.
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Instant;

    use shuttle::sync::{Condvar, Mutex};

    use super::{by_chance, monotonic_now, pass, thread};

    struct Channel<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
        room: usize,
    }

    struct State<T> {
        waiting: VecDeque<T>,
        senders: usize,
        is_received: bool,
    }

    pub(crate) struct Sender<T>(Arc<Channel<T>>);
    pub(crate) struct Receiver<T>(Arc<Channel<T>>);

    pub(crate) struct Gone;

    pub(crate) enum TrySendError<T> {
        Full(T),
        Disconnected(T),
    }

    pub(crate) enum RecvTimeoutError {
        Timeout,
        Disconnected,
    }

    pub(crate) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { waiting: VecDeque::new(), senders: 1, is_received: true };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let channel = Arc::new(Channel { state, changed, room });
        (Sender(channel.clone()), Receiver(channel))
    }

    impl<T> std::fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Sender")
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().unwrap().senders += 1;
            Sender(self.0.clone())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if let Ok(mut state) = self.0.state.lock() {
                state.senders -= 1;
            }
            self.0.changed.notify_all();
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let waiting = match self.0.state.lock() {
                Ok(mut state) => {
                    state.is_received = false;
                    std::mem::take(&mut state.waiting)
                }
                Err(_) => return,
            };
            // The value that is dropped here may be a sender.
            drop(waiting);
            self.0.changed.notify_all();
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
            let mut state = self.0.state.lock().unwrap();
            if !state.is_received {
                return Err(TrySendError::Disconnected(message));
            }
            // Room for one message is for answers; of more, there may be none at any time.
            let is_full = state.waiting.len() >= self.0.room;
            if is_full || (self.0.room > 1 && by_chance(16)) {
                return Err(TrySendError::Full(message));
            }
            state.waiting.push_back(message);
            drop(state);
            self.0.changed.notify_all();
            Ok(())
        }

        pub(crate) fn send(&self, message: T) -> Result<(), Gone> {
            let mut state = self.0.state.lock().unwrap();
            while state.is_received && state.waiting.len() >= self.0.room {
                state = self.0.changed.wait(state).unwrap();
            }
            if !state.is_received {
                return Err(Gone);
            }
            state.waiting.push_back(message);
            drop(state);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        fn receive(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
            let mut state = self.0.state.lock().unwrap();
            loop {
                if let Some(message) = state.waiting.pop_front() {
                    drop(state);
                    self.0.changed.notify_all();
                    return Ok(message);
                }
                if state.senders == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                if let Some(deadline) = deadline
                    && (deadline <= monotonic_now() || by_chance(3))
                {
                    pass(deadline.saturating_duration_since(monotonic_now()));
                    drop(state);
                    thread::yield_now();
                    return Err(RecvTimeoutError::Timeout);
                }
                state = self.0.changed.wait(state).unwrap();
            }
        }

        pub(crate) fn recv(&self) -> Result<T, RecvTimeoutError> {
            self.receive(None)
        }

        pub(crate) fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
            self.receive(Some(deadline))
        }

        pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
            std::iter::from_fn(|| {
                let message = self.0.state.lock().unwrap().waiting.pop_front();
                self.0.changed.notify_all();
                message
            })
        }
    }
}
