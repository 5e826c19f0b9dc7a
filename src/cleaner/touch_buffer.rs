//! Touches between requests and the store: a bounded channel, on which no request waits, and the
//! buffer in which the cleaner's thread merges them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Touch;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, Sender, bounded};

/// The capacity of the channel. A request that finds it full writes its touch itself.
const CHANNEL: usize = 4096;

/// The maximum number of touches in one transaction. When the channel holds as many, they are
/// written without delay.
const BATCH: usize = 256;

/// The maximum number of touches that are kept for the next attempt while the store fails.
const KEPT: usize = 16 * BATCH;

/// How long touches wait for others. It is shorter than a fortieth of every idle limit for which
/// the cleaner writes touches, so that no session is touched twice in that time.
const WAIT: Duration = Duration::from_secs(1);

type IdTouch = (SessionIdHash, Touch);

/// The sending end of the channel, for requests.
#[derive(Clone, Debug)]
pub(super) struct TouchSender {
    channel: Sender<IdTouch>,
    notified: Arc<AtomicBool>,
}

/// The result of [`TouchSender::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The channel is full, and the touch was not sent.
    NoRoom,
    /// The touch is in the channel, and the thread was already woken.
    Queued,
    /// The touch is in the channel, and the thread must be woken.
    WakeThread,
}

/// The receiving end of the channel, with the touches that could not be written yet.
pub(super) struct TouchBuffer {
    channel: Receiver<IdTouch>,
    /// Whether the thread was woken since it last emptied the channel. Waking it costs a request
    /// several times as much as sending a touch.
    notified: Arc<AtomicBool>,
    pending: HashMap<SessionIdHash, Touch>,
    due: Option<Instant>,
}

pub(super) fn touch_channel() -> (TouchSender, TouchBuffer) {
    let (sender, receiver) = bounded(CHANNEL);
    let notified = Arc::new(AtomicBool::new(false));
    let buffer = TouchBuffer {
        channel: receiver,
        notified: notified.clone(),
        pending: HashMap::new(),
        due: None,
    };
    (TouchSender { channel: sender, notified }, buffer)
}

impl TouchSender {
    /// Sends a touch. Never waits.
    pub(super) fn send(&self, id_hash: SessionIdHash, touch: Touch) -> Sent {
        if self.channel.try_send((id_hash, touch)).is_err() {
            return Sent::NoRoom;
        }
        let is_first = !self.notified.swap(true, Ordering::AcqRel);
        let wakes = is_first || self.channel.len().is_multiple_of(BATCH);
        if wakes { Sent::WakeThread } else { Sent::Queued }
    }
}

impl TouchBuffer {
    /// Returns whether touches are to be written now. While the store `fails`, that is only when
    /// the wait has ended, however many touches are in the channel.
    pub(super) fn is_due(&mut self, now: Instant, fails: bool) -> bool {
        if self.due.is_none() && self.notified.load(Ordering::Acquire) {
            self.due = Some(now + WAIT);
        }
        let has_batch = self.channel.len() >= BATCH && !fails;
        has_batch || self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes, by `write`, the touches sent before this call and those of failed attempts.
    ///
    /// If the store fails, touches are kept for the next attempt, up to a bound. If only one
    /// session fails (a damaged row), the others of its batch are written one by one. `on_lost`
    /// receives the error of each touch or batch that is dropped.
    ///
    /// # Errors
    /// The error of the first batch that was not written; later batches are not tried then.
    pub(super) fn write(
        &mut self,
        now: Instant,
        mut write: impl FnMut(&[IdTouch]) -> Result<()>,
        mut on_lost: impl FnMut(&Error),
    ) -> Result<()> {
        self.due = None;
        // Before the channel is emptied: a request that sends a touch after that wakes the thread.
        self.notified.swap(false, Ordering::AcqRel);
        for (id_hash, touch) in self.channel.try_iter().take(CHANNEL) {
            let pending = self.pending.entry(id_hash).or_insert(touch);
            pending.seen = pending.seen.max(touch.seen);
        }
        let touches: Vec<_> = self.pending.drain().collect();
        let mut rest = touches.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(BATCH));
            match write(batch) {
                Ok(()) => {}
                Err(error) if concerns_one_session(&error) => {
                    for touch in batch {
                        if let Err(error) = write(std::slice::from_ref(touch)) {
                            on_lost(&error);
                        }
                    }
                }
                Err(error) => {
                    if rest.len() <= KEPT {
                        self.pending.extend(rest.iter().copied());
                        self.due = Some(now + WAIT);
                    } else {
                        on_lost(&error);
                    }
                    return Err(error);
                }
            }
            rest = later;
        }
        Ok(())
    }
}

/// Whether a batch failed because of one of its sessions rather than of the whole store.
fn concerns_one_session(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn id_hash(n: usize) -> SessionIdHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        SessionIdHash::from_bytes(bytes)
    }

    fn touch(second: i64) -> Touch {
        Touch::at(Timestamp::from_millis(second * 1000))
    }

    fn send(sender: &TouchSender, count: usize) {
        for n in 0..count {
            assert_ne!(sender.send(id_hash(n), touch(1)), Sent::NoRoom);
        }
    }

    fn fails(kind: ErrorKind) -> Result<()> {
        Err(Error::new(kind, "write a test's touches"))
    }

    fn none_lost(error: &Error) {
        panic!("{error}");
    }

    #[test]
    fn touches_are_due_a_second_after_the_first() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        assert!(!buffer.is_due(now, false));
        assert_eq!(sender.send(id_hash(1), touch(1)), Sent::WakeThread);
        assert_eq!(sender.send(id_hash(2), touch(1)), Sent::Queued);
        assert!(!buffer.is_due(now, false));
        assert_eq!(buffer.next_due(), Some(now + WAIT));
        assert!(buffer.is_due(now + WAIT, false));
        buffer.write(now + WAIT, |_| Ok(()), none_lost).unwrap();
        assert_eq!(buffer.next_due(), None);
        assert_eq!(sender.send(id_hash(1), touch(1)), Sent::WakeThread);
    }

    #[test]
    fn a_full_batch_is_due_at_once_unless_the_store_fails() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, BATCH - 1);
        assert!(!buffer.is_due(now, false));
        assert_eq!(sender.send(id_hash(BATCH), touch(1)), Sent::WakeThread);
        assert!(buffer.is_due(now, false));
        assert!(!buffer.is_due(now, true));
    }

    #[test]
    fn a_full_channel_takes_no_touch() {
        let (sender, _buffer) = touch_channel();
        send(&sender, CHANNEL);
        assert_eq!(sender.send(id_hash(0), touch(1)), Sent::NoRoom);
    }

    #[test]
    fn the_latest_touch_of_a_session_is_written() {
        let (sender, mut buffer) = touch_channel();
        for second in [2, 3, 1] {
            sender.send(id_hash(1), touch(second));
        }
        let mut written = Vec::new();
        let write = |batch: &[IdTouch]| {
            written.extend_from_slice(batch);
            Ok(())
        };
        buffer.write(Instant::now(), write, none_lost).unwrap();
        assert_eq!(written, [(id_hash(1), touch(3))]);
    }

    #[test]
    fn touches_survive_a_store_in_trouble_until_there_are_too_many() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, BATCH + 1);
        let mut calls = 0;
        let write = |_: &[IdTouch]| {
            calls += 1;
            if calls == 1 { Ok(()) } else { fails(ErrorKind::Busy) }
        };
        assert!(buffer.write(now, write, none_lost).is_err());
        assert_eq!(buffer.next_due(), Some(now + WAIT));
        let mut written = Vec::new();
        let write = |batch: &[IdTouch]| {
            written.push(batch.len());
            Ok(())
        };
        buffer.write(now, write, none_lost).unwrap();
        assert_eq!(written, [1], "the first batch was written before");

        for n in 0..2 * KEPT {
            if sender.send(id_hash(n), touch(1)) == Sent::NoRoom {
                assert!(buffer.write(now, |_| fails(ErrorKind::Busy), none_lost).is_err());
                sender.send(id_hash(n), touch(1));
            }
        }
        let mut lost = 0;
        let result = buffer.write(now, |_| fails(ErrorKind::Busy), |_| lost += 1);
        assert!(result.is_err());
        assert_eq!(lost, 1);
        buffer.write(now, |_| panic!("none is left"), none_lost).unwrap();
    }

    #[test]
    fn one_damaged_session_does_not_hold_up_the_others() {
        let (sender, mut buffer) = touch_channel();
        send(&sender, 3);
        let (mut written, mut lost) = (Vec::new(), Vec::new());
        let write = |batch: &[IdTouch]| {
            if batch.iter().any(|(session, _)| *session == id_hash(1)) {
                return fails(ErrorKind::Corrupt);
            }
            written.extend(batch.iter().map(|(session, _)| *session));
            Ok(())
        };
        buffer.write(Instant::now(), write, |error| lost.push(error.kind())).unwrap();
        written.sort_by_key(|session| *session.as_bytes());
        assert_eq!(written, [id_hash(0), id_hash(2)]);
        assert_eq!(lost, [ErrorKind::Corrupt]);
    }
}
