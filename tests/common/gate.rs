//! A place where a thread of the tested code waits until the test lets it go on.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::client::PATIENCE;

/// The call's side of a gate, at which it waits.
#[derive(Debug)]
pub struct Gate {
    reached: Sender<()>,
    opened: Receiver<()>,
}

/// The test's side of a gate. Dropping it opens the gate too.
#[derive(Debug)]
#[must_use]
pub struct GateControl {
    reached: Receiver<()>,
    open: Sender<()>,
}

impl Gate {
    pub fn new() -> (Gate, GateControl) {
        let (is_reached, reached) = channel();
        let (open, opened) = channel();
        (Gate { reached: is_reached, opened }, GateControl { reached, open })
    }

    pub fn pass(self) {
        let _ = self.reached.send(());
        let _ = self.opened.recv();
    }
}

impl GateControl {
    /// Returns when a call waits at the gate.
    #[track_caller]
    pub fn wait_until_reached(&self) {
        assert!(self.is_reached_within(PATIENCE), "no call reaches the gate");
    }

    pub fn is_reached_within(&self, time: Duration) -> bool {
        self.reached.recv_timeout(time).is_ok()
    }

    pub fn open(self) {
        let _ = self.open.send(());
    }
}
