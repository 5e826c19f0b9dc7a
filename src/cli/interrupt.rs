//! Long work: a bar that shows it, and an end before its end when somebody presses Ctrl-C.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::failure::{FAILED, Failure};
use crate::stores::sqlite::ProgressFn;

/// Set by Ctrl-C, when the process is asked to end, or when its terminal is gone.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the first signal asks, and the second ends the process at once.
    ///
    /// It stays so when the command is over: what a signal did before cannot be had back without
    /// unsafe code. So a process listens once, however many commands it runs.
    pub(super) fn listen() -> Result<Self, Failure> {
        static LISTENING: Mutex<Option<Interrupt>> = Mutex::new(None);
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        let interrupt = match listening.take() {
            Some(interrupt) => interrupt,
            None => Interrupt::register()?,
        };
        // What asked the command before does not ask this one.
        interrupt.0.store(false, Ordering::Relaxed);
        *listening = Some(interrupt.clone());
        Ok(interrupt)
    }

    fn register() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)) {
            // In this order: the second signal finds the flag set by the first.
            flag::register_conditional_shutdown(signal, i32::from(FAILED), asked.clone())?;
            flag::register(signal, asked.clone())?;
        }
        Ok(Interrupt(asked))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for so long, or until it is asked.
    pub(super) fn wait(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.is_asked() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Shows progress in `bar` and ends the work when it is asked to.
    pub(super) fn watch(&self, bar: &ProgressBar) -> ProgressFn {
        let (bar, asked) = (bar.clone(), self.clone());
        Box::new(move |progress| {
            if progress.total > 0 {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            } else {
                bar.tick();
            }
            match asked.is_asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
    }
}

/// Whether whoever started this (`nohup`, a script's `&`) wants it to go on through that signal.
/// Where the operating system does not say, a lost terminal does what it does by itself.
fn is_ignored(signal: i32) -> bool {
    let ignored = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        Some(mask >> (signal - 1) & 1 == 1)
    });
    ignored.unwrap_or(signal == SIGHUP)
}

/// A bar on standard error, if that is a terminal. `unit` is what it counts.
pub(super) fn bar(operation: &'static str, unit: &str) -> ProgressBar {
    let template =
        format!("{operation} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
    let bar = ProgressBar::new(0).with_message(operation);
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// The same for work whose length is not known.
pub(super) fn spinner(operation: &'static str) -> ProgressBar {
    ProgressBar::new_spinner().with_message(operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_listens_once_however_many_commands_it_runs() {
        let first = Interrupt::listen().unwrap();
        first.0.store(true, Ordering::Relaxed);
        let second = Interrupt::listen().unwrap();
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert!(!second.is_asked(), "the signal was for the command before");
    }
}
