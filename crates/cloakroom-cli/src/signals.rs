//! Cancels long work on the first SIGINT, SIGTERM or SIGHUP.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::stores::admin::ProgressFn;
use indicatif::ProgressBar;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{CliError, CliResult, FAILED};

/// A flag that the first signal sets.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Registers the handlers: the first signal sets the flag, the second ends the process.
    ///
    /// They stay registered after the command, because the previous handler cannot be restored
    /// without unsafe code. So a process registers once, however many commands it runs.
    pub(crate) fn listen() -> CliResult<Self> {
        static LISTENING: Mutex<Option<Interrupt>> = Mutex::new(None);
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        let interrupt = match listening.take() {
            Some(interrupt) => interrupt,
            None => Interrupt::register()?,
        };
        // A signal during the command before does not cancel this one.
        interrupt.0.store(false, Ordering::Relaxed);
        *listening = Some(interrupt.clone());
        Ok(interrupt)
    }

    fn register() -> CliResult<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)) {
            // In this order, so that the second signal finds the flag set by the first.
            flag::register_conditional_shutdown(signal, i32::from(FAILED), flag.clone())?;
            flag::register(signal, flag.clone())?;
        }
        Ok(Interrupt(flag))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for `duration`, or until the flag is set.
    pub(crate) fn wait(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Runs `work` with its progress in `bar`. If it was cancelled, fails with `state`, which says
    /// what it has left.
    pub(crate) fn run<T, E: Into<CliError>>(
        &self,
        bar: &ProgressBar,
        state: &str,
        work: impl FnOnce(ProgressFn) -> Result<ControlFlow<(), T>, E>,
    ) -> CliResult<T> {
        let done = work(self.watch(bar));
        bar.finish_and_clear();
        match done.map_err(Into::into)? {
            ControlFlow::Continue(answer) => Ok(answer),
            ControlFlow::Break(()) => Err(CliError::interrupted(state)),
        }
    }

    /// Shows progress in `bar`, and ends the work early once the flag is set.
    pub(crate) fn watch(&self, bar: &ProgressBar) -> ProgressFn {
        let bar = bar.clone();
        let interrupt = self.clone();
        Box::new(move |progress| {
            if progress.total > 0 {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            } else {
                bar.tick();
            }
            if interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

/// Returns whether the parent process (`nohup`, a script's `&`) has this signal ignored. Where the
/// operating system does not say, only SIGHUP counts as ignored, and keeps its default action.
fn is_ignored(signal: i32) -> bool {
    let ignored = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        Some(mask >> (signal - 1) & 1 == 1)
    });
    ignored.unwrap_or(signal == SIGHUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_registers_its_handlers_once() {
        let first = Interrupt::listen().unwrap();
        first.0.store(true, Ordering::Relaxed);
        let second = Interrupt::listen().unwrap();
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert!(!second.is_set(), "the signal was for the command before");
    }
}
