//! A store or a cache that counts its calls and, as a test plans, fails, panics or waits in them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use cloakroom::backend::{Cache, RemovalReport, TouchError};
use cloakroom::{Error, ErrorKind, Result};

use super::gate::{Gate, GateControl};
pub use super::hooked::Call;
use super::hooked::{Hook, Hooked};

/// A store or a cache with plans for its calls.
pub type Faulty<T> = Hooked<T, Faults>;

/// A cache of any type, with plans.
pub type FaultyCache = Faulty<dyn Cache>;

/// A fault that replaces a call's work or precedes it.
#[derive(Debug)]
pub enum Fault {
    Fail(ErrorKind),
    Panic,
    /// Waits until the gate is opened, then works.
    Wait(Gate),
}

#[derive(Debug, Default)]
struct CallPlan {
    calls: AtomicU64,
    /// All calls fail with it.
    failing: Mutex<Option<ErrorKind>>,
    /// For the next calls, in this order.
    faults: Mutex<VecDeque<Fault>>,
}

/// The planned faults of each call, and the number of calls.
#[derive(Debug, Default)]
pub struct Faults {
    call_plans: [CallPlan; Call::COUNT],
    /// The gate at which the next commit waits when it is done.
    commit_answer: Mutex<Option<Gate>>,
    /// Commits and revocations are done and say that they failed.
    hides_success: AtomicBool,
    /// The number of sweeps that report their limit as removed, and the time that they report.
    full_sweeps: Mutex<(u64, Duration)>,
    /// The sessions named in touches.
    touched: AtomicU64,
    /// The limit of each sweep.
    limits: Mutex<Vec<usize>>,
    /// Notified after each call.
    called: Condvar,
    counting: Mutex<()>,
}

impl<T> Faulty<T> {
    pub fn new(inner: T) -> Self {
        Hooked::with(Faults::default(), Arc::new(inner))
    }
}

impl FaultyCache {
    pub fn cache(inner: impl Cache) -> Self {
        Hooked::with(Faults::default(), Arc::new(inner))
    }
}

impl<T: ?Sized> Faulty<T> {
    /// The number of calls of this kind that have begun.
    pub fn calls(&self, call: Call) -> u64 {
        self.hook.calls(call)
    }

    /// The number of loads, commits, touches and sweeps that have begun.
    pub fn all_calls(&self) -> u64 {
        [Call::Load, Call::Commit, Call::Touch, Call::Sweep]
            .map(|call| self.calls(call))
            .iter()
            .sum()
    }

    /// The number of fetches, fills and invalidations that have begun.
    pub fn cache_calls(&self) -> u64 {
        Call::CACHE.map(|call| self.calls(call)).iter().sum()
    }

    /// The number of sessions named in touches that did not fail.
    pub fn touched(&self) -> u64 {
        self.hook.touched.load(Ordering::SeqCst)
    }

    /// The number of sessions that each sweep was allowed to remove, from the first on.
    pub fn limits(&self) -> Vec<usize> {
        self.hook.limits.lock().unwrap().clone()
    }

    /// Returns when `count` calls of this kind have begun.
    pub fn wait_for(&self, call: Call, count: u64) {
        let mut counting = self.hook.counting.lock().unwrap_or_else(PoisonError::into_inner);
        while self.calls(call) < count {
            counting = self.hook.called.wait(counting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next `count` sweeps report that they removed as many sessions as they might, and that
    /// they blocked writers for this time.
    pub fn sweep_fully(&self, count: u64, held: Duration) {
        *self.hook.full_sweeps.lock().unwrap() = (count, held);
    }

    /// The next call of this kind for which nothing is planned yet does this.
    pub fn plan(&self, call: Call, fault: Fault) {
        self.hook.call_plans[call as usize].faults.lock().unwrap().push_back(fault);
    }

    /// The next `count` calls of this kind fail.
    pub fn fail(&self, call: Call, count: usize, kind: ErrorKind) {
        (0..count).for_each(|_| self.plan(call, Fault::Fail(kind)));
    }

    /// All calls of this kind fail from now on; with `None` they work again.
    pub fn set_failing(&self, call: Call, kind: impl Into<Option<ErrorKind>>) {
        *self.hook.call_plans[call as usize].failing.lock().unwrap() = kind.into();
    }

    /// Sets whether all calls of a cache fail.
    pub fn set_down(&self, down: bool) {
        for call in Call::CACHE {
            self.set_failing(call, down.then_some(ErrorKind::Unavailable));
        }
    }

    /// Sets whether commits and revocations that succeed return an error.
    pub fn set_hides_success(&self, hides: bool) {
        self.hook.hides_success.store(hides, Ordering::SeqCst);
    }

    /// The next call of this kind waits.
    pub fn hold(&self, call: Call) -> GateControl {
        let (gate, control) = Gate::new();
        self.plan(call, Fault::Wait(gate));
        control
    }

    /// The next commit waits when it is done, before its caller knows.
    pub fn hold_commit_answer(&self) -> GateControl {
        let (gate, control) = Gate::new();
        *self.hook.commit_answer.lock().unwrap() = Some(gate);
        control
    }
}

impl Faults {
    fn calls(&self, call: Call) -> u64 {
        self.call_plans[call as usize].calls.load(Ordering::SeqCst)
    }

    fn enter(&self, call: Call) -> Result<()> {
        let call_plan = &self.call_plans[call as usize];
        let failing = *call_plan.failing.lock().unwrap();
        let fault = match failing {
            Some(kind) => Some(Fault::Fail(kind)),
            None => call_plan.faults.lock().unwrap().pop_front(),
        };
        {
            let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
            call_plan.calls.fetch_add(1, Ordering::SeqCst);
            self.called.notify_all();
        }
        match fault {
            None => {}
            Some(Fault::Fail(kind)) => {
                return Err(Error::with_source(kind, "simulate a fault", "as planned"));
            }
            Some(Fault::Panic) => panic!("as planned"),
            Some(Fault::Wait(gate)) => gate.pass(),
        }
        Ok(())
    }
}

impl Hook for Faults {
    fn around<R>(&self, call: Call, work: impl FnOnce() -> Result<R>) -> Result<R> {
        self.enter(call)?;
        let answer = work();
        let gate = match call {
            Call::Commit => self.commit_answer.lock().unwrap().take(),
            _ => None,
        };
        if let Some(gate) = gate {
            gate.pass();
        }
        let changes =
            matches!(call, Call::Commit | Call::Revoke | Call::RenameUser | Call::RevokeEveryone);
        if changes && answer.is_ok() && self.hides_success.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "simulate a lost answer"));
        }
        answer
    }

    fn touch(
        &self,
        sessions: usize,
        work: impl FnOnce() -> Result<(), TouchError>,
    ) -> Result<(), TouchError> {
        self.around(Call::Touch, || {
            self.touched.fetch_add(sessions as u64, Ordering::SeqCst);
            Ok(work())
        })?
    }

    fn sweep(
        &self,
        limit: usize,
        work: impl FnOnce() -> Result<RemovalReport>,
    ) -> Result<RemovalReport> {
        self.limits.lock().unwrap().push(limit);
        let swept = self.around(Call::Sweep, work)?;
        let (count, held) = &mut *self.full_sweeps.lock().unwrap();
        if *count == 0 {
            return Ok(swept);
        }
        *count -= 1;
        Ok(RemovalReport::new(limit, *held))
    }
}
