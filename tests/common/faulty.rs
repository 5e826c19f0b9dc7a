//! A store that counts its calls, and fails, panics or waits in those it is told to.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use cloakroom::backend::{
    Commit, Committed, Lookup, Maintenance, Store, StoreWrapper, SweepReport,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;
use cloakroom::record::Touch;
use cloakroom::{Error, ErrorKind, Result};

/// The calls of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Load,
    Commit,
    Touch,
    Sweep,
    /// The question for its upkeep.
    Maintenance,
}

impl Call {
    pub const ALL: [Call; 5] =
        [Call::Load, Call::Commit, Call::Touch, Call::Sweep, Call::Maintenance];
}

/// What a call does instead of its work, or before it.
#[derive(Debug)]
pub enum Fault {
    Fail(ErrorKind),
    Panic,
    /// Waits until the gate is opened, then works.
    Wait(Gate),
}

/// Where a call waits.
#[derive(Debug)]
pub struct Gate {
    reached: Sender<()>,
    opened: Receiver<()>,
}

/// Who opens a gate. Dropped it opens the gate too.
#[derive(Debug)]
pub struct Gatekeeper {
    reached: Receiver<()>,
    open: Sender<()>,
}

impl Gate {
    pub fn new() -> (Gate, Gatekeeper) {
        let (is_reached, reached) = channel();
        let (open, opened) = channel();
        (Gate { reached: is_reached, opened }, Gatekeeper { reached, open })
    }

    pub fn pass(self) {
        let _ = self.reached.send(());
        let _ = self.opened.recv();
    }
}

impl Gatekeeper {
    /// Returns when a call stands before the gate.
    pub fn wait_until_reached(&self) {
        self.reached.recv().unwrap();
    }

    pub fn open(self) {
        let _ = self.open.send(());
    }
}

#[derive(Debug, Default)]
struct Verb {
    calls: AtomicU64,
    /// For the next calls, in this order.
    faults: Mutex<VecDeque<Fault>>,
}

/// A store around another.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    verbs: [Verb; Call::ALL.len()],
    /// Where the next commit waits when it is done.
    commit_answer: Mutex<Option<Gate>>,
    /// So many sweeps say that they removed as many as they might, and held others up for so long.
    full_sweeps: Mutex<(u64, Duration)>,
    /// The sessions named in touches.
    touched: AtomicU64,
    /// How many sessions each sweep was allowed to remove.
    limits: Mutex<Vec<usize>>,
    /// Rung after each call.
    called: Condvar,
    bell: Mutex<()>,
}

impl<S: Store> Faulty<S> {
    pub fn new(inner: S) -> Self {
        Faulty {
            inner,
            verbs: Default::default(),
            commit_answer: Mutex::default(),
            full_sweeps: Mutex::new((0, Duration::ZERO)),
            touched: AtomicU64::new(0),
            limits: Mutex::new(Vec::new()),
            called: Condvar::new(),
            bell: Mutex::new(()),
        }
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How many calls of this kind were begun.
    pub fn calls(&self, call: Call) -> u64 {
        self.verbs[call as usize].calls.load(Ordering::SeqCst)
    }

    /// How many calls of any kind were begun, but for what a manager asks when it starts.
    pub fn all_calls(&self) -> u64 {
        Call::ALL
            .iter()
            .filter(|call| **call != Call::Maintenance)
            .map(|call| self.calls(*call))
            .sum()
    }

    /// How many sessions were named in touches that did not fail.
    pub fn touched(&self) -> u64 {
        self.touched.load(Ordering::SeqCst)
    }

    /// How many sessions each sweep was allowed to remove, from the first on.
    pub fn limits(&self) -> Vec<usize> {
        self.limits.lock().unwrap().clone()
    }

    /// Returns when so many calls of this kind were begun.
    pub fn wait_for(&self, call: Call, count: u64) {
        let mut bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
        while self.calls(call) < count {
            bell = self.called.wait(bell).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next `count` sweeps say that they removed as many as they might, and held others up for
    /// so long.
    pub fn sweep_fully(&self, count: u64, held: Duration) {
        *self.full_sweeps.lock().unwrap() = (count, held);
    }

    /// The next call of this kind for which nothing is planned yet does this.
    pub fn plan(&self, call: Call, fault: Fault) {
        self.verbs[call as usize].faults.lock().unwrap().push_back(fault);
    }

    /// The next `count` calls of this kind fail.
    pub fn fail(&self, call: Call, count: usize, kind: ErrorKind) {
        (0..count).for_each(|_| self.plan(call, Fault::Fail(kind)));
    }

    /// The next call of this kind waits.
    pub fn hold(&self, call: Call) -> Gatekeeper {
        let (gate, keeper) = Gate::new();
        self.plan(call, Fault::Wait(gate));
        keeper
    }

    /// The next commit waits when it is done, before its caller knows.
    pub fn hold_commit_answer(&self) -> Gatekeeper {
        let (gate, keeper) = Gate::new();
        *self.commit_answer.lock().unwrap() = Some(gate);
        keeper
    }

    fn enter(&self, call: Call) -> Result<()> {
        let verb = &self.verbs[call as usize];
        let fault = verb.faults.lock().unwrap().pop_front();
        {
            let _bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
            verb.calls.fetch_add(1, Ordering::SeqCst);
            self.called.notify_all();
        }
        match fault {
            None => {}
            Some(Fault::Fail(kind)) => {
                return Err(Error::with_source(kind, "play a faulty store", "as planned"));
            }
            Some(Fault::Panic) => panic!("as planned"),
            Some(Fault::Wait(gate)) => gate.pass(),
        }
        Ok(())
    }
}

impl<S: Store> StoreWrapper for Faulty<S> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        &self.inner
    }

    fn on_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.enter(Call::Load)?;
        self.inner.load(id_hash, now)
    }

    fn on_commit(&self, commit: &Commit) -> Result<Committed> {
        self.enter(Call::Commit)?;
        let answer = self.inner.commit(commit);
        let gate = self.commit_answer.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.pass();
        }
        answer
    }

    fn on_touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.enter(Call::Touch)?;
        self.touched.fetch_add(batch.len() as u64, Ordering::SeqCst);
        self.inner.touch(batch, now)
    }

    fn on_sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
        self.limits.lock().unwrap().push(limit.get());
        self.enter(Call::Sweep)?;
        let swept = self.inner.sweep(now, limit)?;
        let (count, held) = &mut *self.full_sweeps.lock().unwrap();
        if *count == 0 {
            return Ok(swept);
        }
        *count -= 1;
        Ok(SweepReport::new(limit.get(), *held))
    }

    fn on_maintenance(&self) -> Option<&dyn Maintenance> {
        // It cannot fail here; a plan for it would be a mistake of the test.
        self.enter(Call::Maintenance).unwrap();
        self.inner.maintenance()
    }
}
