//! Touches between requests and the store: a bounded channel, on which no request waits, and the
//! buffer in which the cleaner's thread merges them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::TouchError;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Touch;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, Sender, bounded};

/// The capacity of the channel. A request that finds it full writes its touch itself.
const CHANNEL_CAPACITY: usize = 4096;

/// The maximum number of touches in one transaction.
const MAX_BATCH_SIZE: usize = 256;

/// The maximum number of touches that are kept for another attempt.
const MAX_KEPT_TOUCHES: usize = 16 * MAX_BATCH_SIZE;

/// How long the first touch waits for others, and failed touches for another attempt. It is less
/// than the shortest time between two touches of a session: 1.5 seconds, a fortieth of an idle
/// limit of one minute. Sessions with a shorter limit do not use the cleaner.
const WRITE_DELAY: Duration = Duration::from_secs(1);

type IdTouch = (SessionIdHash, Touch);

/// The sending end of the channel, for requests.
#[derive(Clone, Debug)]
pub(super) struct TouchSender {
    channel: Sender<IdTouch>,
    is_woken: Arc<AtomicBool>,
}

/// The result of [`TouchSender::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendResult {
    /// The channel is full, and the touch was not sent.
    ChannelFull,
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
    is_woken: Arc<AtomicBool>,
    /// When the next touches are to be written.
    due_at: Option<Instant>,
    /// The touches to write, one for each session. After a [`write`](Self::write), those that have
    /// failed or were not tried.
    pending: HashMap<SessionIdHash, Touch>,
}

/// The result of [`TouchBuffer::write`].
#[derive(Debug)]
#[must_use]
pub(super) struct WriteResult {
    /// The last error for which touches are kept for another attempt.
    pub(super) retry: Option<Error>,
    /// The number of touches that were given up, and the first reason.
    pub(super) lost: Option<(usize, Error)>,
}

pub(super) fn touch_channel() -> (TouchSender, TouchBuffer) {
    let (sender, receiver) = bounded(CHANNEL_CAPACITY);
    let is_woken = Arc::new(AtomicBool::new(false));
    let sender = TouchSender { channel: sender, is_woken: is_woken.clone() };
    let pending = HashMap::new();
    let buffer = TouchBuffer { channel: receiver, is_woken, due_at: None, pending };
    (sender, buffer)
}

impl TouchSender {
    /// Sends a touch. Never waits.
    pub(super) fn send(&self, id_hash: SessionIdHash, touch: Touch) -> SendResult {
        if self.channel.try_send((id_hash, touch)).is_err() {
            return SendResult::ChannelFull;
        }
        let was_woken = self.is_woken.swap(true, Ordering::AcqRel);
        if was_woken { SendResult::Queued } else { SendResult::WakeThread }
    }
}

impl TouchBuffer {
    /// Starts the wait for more touches if the first one was sent. Returns whether it is over, and
    /// the touches are to be written.
    pub(super) fn is_due(&mut self, instant: Instant) -> bool {
        if self.due_at.is_none() && self.is_woken.load(Ordering::Acquire) {
            self.due_at = Some(instant + WRITE_DELAY);
        }
        self.due_at.is_some_and(|due_at| due_at <= instant)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due_at
    }

    /// Writes, by `write`, the touches sent before this call, and those that have failed before. If
    /// the whole store fails, the batches after that are not tried.
    ///
    /// A touch that can succeed later is kept, up to a bound.
    pub(super) fn write(
        &mut self,
        instant: Instant,
        mut write: impl FnMut(&[IdTouch]) -> Result<(), TouchError>,
    ) -> WriteResult {
        // Before the channel is emptied: a request that sends a touch after that wakes the thread.
        // A swap, not an atomic store, because it must also acquire: it then sees the touches of
        // the requests that have read true.
        self.is_woken.swap(false, Ordering::AcqRel);
        for (id_hash, touch) in self.channel.try_iter().take(CHANNEL_CAPACITY) {
            let latest = self.pending.entry(id_hash).or_insert(touch);
            latest.seen = latest.seen.max(touch.seen);
        }
        let touches: Vec<IdTouch> = self.pending.drain().collect();
        let mut batches = touches.chunks(MAX_BATCH_SIZE);
        let mut retry = None;
        let mut lost = None;
        let mut give_up = |count, error: &Error| {
            lost.get_or_insert_with(|| (0, error.clone())).0 += count;
        };
        for batch in &mut batches {
            let Err(error) = write(batch) else { continue };
            let store_fails = matches!(error, TouchError::Store(_));
            for ((id_hash, touch), error) in error.failures(batch) {
                let is_kept = is_retryable(&error);
                if is_kept {
                    self.pending.insert(id_hash, touch);
                } else {
                    give_up(1, &error);
                }
                // If the store fails, the batches that were not tried are kept in any case.
                if is_kept || store_fails {
                    retry = Some(error);
                }
            }
            if store_fails {
                break;
            }
        }
        self.pending.extend(batches.flatten().copied());
        let surplus = self.pending.len().saturating_sub(MAX_KEPT_TOUCHES);
        if let Some(error) = retry.as_ref().filter(|_| surplus > 0) {
            give_up(surplus, error);
            self.pending = self.pending.drain().skip(surplus).collect();
        }
        self.due_at = (!self.pending.is_empty()).then_some(instant + WRITE_DELAY);
        WriteResult { retry: retry.filter(|_| self.due_at.is_some()), lost }
    }
}

/// Returns whether another attempt can succeed. A damaged row stays damaged; an unexpected error
/// can be a panic, or come from a trigger that the application drops.
fn is_retryable(error: &Error) -> bool {
    error.kind() == ErrorKind::Unexpected || !error.kind().may_concern_one_session()
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
            assert_ne!(sender.send(id_hash(n), touch(1)), SendResult::ChannelFull);
        }
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "write a test's touches")
    }

    fn fails(kind: ErrorKind) -> Result<(), TouchError> {
        Err(error(kind).into())
    }

    fn none_lost(result: WriteResult) -> Result<()> {
        assert!(result.lost.is_none(), "{:?}", result.lost);
        result.retry.map_or(Ok(()), Err)
    }

    /// Writes to a store that works. Returns what was written.
    fn write_all(buffer: &mut TouchBuffer, now: Instant) -> Vec<IdTouch> {
        let mut written = Vec::new();
        let write = |batch: &[IdTouch]| {
            written.extend_from_slice(batch);
            Ok(())
        };
        none_lost(buffer.write(now, write)).unwrap();
        written
    }

    #[test]
    fn touches_are_due_a_second_after_the_first() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        assert!(!buffer.is_due(now));
        assert_eq!(sender.send(id_hash(1), touch(1)), SendResult::WakeThread);
        assert_eq!(sender.send(id_hash(2), touch(1)), SendResult::Queued);
        assert!(!buffer.is_due(now));
        assert_eq!(buffer.next_due(), Some(now + WRITE_DELAY));
        assert!(buffer.is_due(now + WRITE_DELAY));
        none_lost(buffer.write(now + WRITE_DELAY, |_| Ok(()))).unwrap();
        assert_eq!(buffer.next_due(), None);
        assert_eq!(sender.send(id_hash(1), touch(1)), SendResult::WakeThread);
    }

    #[test]
    fn a_failing_store_is_called_once_a_second() {
        let (sender, mut buffer) = touch_channel();
        let mut now = Instant::now();
        for _ in 0..5 {
            send(&sender, 2 * MAX_BATCH_SIZE);
            let mut calls = 0;
            let write = |_: &[IdTouch]| {
                calls += 1;
                fails(ErrorKind::Unavailable)
            };
            assert!(none_lost(buffer.write(now, write)).is_err());
            assert_eq!(calls, 1, "the other batches are not tried");
            send(&sender, 2 * MAX_BATCH_SIZE);
            assert!(!buffer.is_due(now), "it waits, however many touches there are");
            now += WRITE_DELAY;
            assert!(buffer.is_due(now));
        }
        assert_eq!(write_all(&mut buffer, now).len(), 2 * MAX_BATCH_SIZE, "it works again");
        assert_eq!(buffer.next_due(), None);
    }

    #[test]
    fn a_full_channel_takes_no_touch() {
        let (sender, _buffer) = touch_channel();
        send(&sender, CHANNEL_CAPACITY);
        assert_eq!(sender.send(id_hash(0), touch(1)), SendResult::ChannelFull);
    }

    #[test]
    fn the_latest_touch_of_a_session_is_written() {
        let (sender, mut buffer) = touch_channel();
        for second in [2, 3, 1] {
            sender.send(id_hash(1), touch(second));
        }
        assert_eq!(write_all(&mut buffer, Instant::now()), [(id_hash(1), touch(3))]);
    }

    /// Writes to a store that fails for some sessions. Returns the sessions that were tried.
    fn write_around(
        buffer: &mut TouchBuffer,
        now: Instant,
        fails: impl Fn(&SessionIdHash) -> Option<ErrorKind>,
    ) -> (Vec<SessionIdHash>, usize) {
        let mut tried = Vec::new();
        let write = |batch: &[IdTouch]| {
            tried.extend(batch.iter().map(|(session, _)| *session));
            let failed = batch.iter().filter_map(|touch| Some((*touch, error(fails(&touch.0)?))));
            TouchError::check(failed.collect())
        };
        let lost = buffer.write(now, write).lost;
        tried.sort_by_key(|session| *session.as_bytes());
        (tried, lost.map_or(0, |(count, _)| count))
    }

    #[test]
    fn touches_survive_a_store_in_trouble_until_there_are_too_many() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, MAX_BATCH_SIZE + 1);
        let mut calls = 0;
        let write = |_: &[IdTouch]| {
            calls += 1;
            if calls == 1 { Ok(()) } else { fails(ErrorKind::Busy) }
        };
        assert!(none_lost(buffer.write(now, write)).is_err());
        assert_eq!(buffer.next_due(), Some(now + WRITE_DELAY));
        let written = write_all(&mut buffer, now + WRITE_DELAY);
        assert_eq!(written.len(), 1, "the first batch was written before");

        let mut lost = 0;
        for n in 0..2 * MAX_KEPT_TOUCHES {
            if sender.send(id_hash(n), touch(1)) == SendResult::ChannelFull {
                let result = buffer.write(now, |_| fails(ErrorKind::Busy));
                assert!(result.retry.is_some());
                lost += result.lost.map_or(0, |(count, _)| count);
                sender.send(id_hash(n), touch(1));
            }
        }
        let result = buffer.write(now, |_| fails(ErrorKind::Busy));
        assert!(result.retry.is_some());
        let (last_lost, error) = result.lost.unwrap();
        assert_eq!((lost + last_lost, error.kind()), (MAX_KEPT_TOUCHES, ErrorKind::Busy));
    }

    #[test]
    fn beside_a_lost_touch_the_surplus_does_not_name_the_error() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, MAX_KEPT_TOUCHES);
        assert!(none_lost(buffer.write(now, |_| fails(ErrorKind::Busy))).is_err());
        sender.send(id_hash(MAX_KEPT_TOUCHES), touch(1));
        sender.send(id_hash(MAX_KEPT_TOUCHES + 1), touch(1));
        let kind_for = |session: &SessionIdHash| {
            let is_damaged = *session == id_hash(MAX_KEPT_TOUCHES);
            if is_damaged { ErrorKind::Corrupt } else { ErrorKind::Busy }
        };
        let result = buffer.write(now, |batch| {
            let failed = batch.iter().map(|touch| (*touch, error(kind_for(&touch.0))));
            TouchError::check(failed.collect())
        });
        let (count, error) = result.lost.unwrap();
        assert_eq!((count, error.kind()), (2, ErrorKind::Corrupt));
        assert_eq!(result.retry.unwrap().kind(), ErrorKind::Busy);
    }

    #[test]
    fn a_failing_server_does_not_hold_up_the_others() {
        let (sender, mut buffer) = touch_channel();
        let start = Instant::now();
        let dead = id_hash(0);
        let healthy = id_hash(1);
        let fails = |session: &SessionIdHash| (*session == dead).then_some(ErrorKind::Unavailable);
        send(&sender, 2);
        assert_eq!(write_around(&mut buffer, start, fails), (vec![dead, healthy], 0));
        let mut now = start;
        for _ in 0..9 {
            assert!(!buffer.is_due(now), "the failed one waits");
            send(&sender, 2);
            assert_eq!(
                buffer.next_due(),
                Some(now + WRITE_DELAY),
                "the others wait as long as ever"
            );
            now += WRITE_DELAY;
            assert!(buffer.is_due(now));
            assert_eq!(write_around(&mut buffer, now, fails), (vec![dead, healthy], 0));
        }
        assert_eq!(write_around(&mut buffer, now, fails), (vec![dead], 0), "the other is written");
        // The server is back: the latest touch is written.
        sender.send(dead, touch(7));
        assert_eq!(write_all(&mut buffer, now), [(dead, touch(7))]);
        assert_eq!(buffer.next_due(), None);
        send(&sender, 1);
        write_around(&mut buffer, now, fails);
        assert_eq!(buffer.next_due(), Some(now + WRITE_DELAY));
    }

    #[test]
    fn a_flush_tries_the_failed_touches_at_once() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, 1);
        assert!(none_lost(buffer.write(now, |_| fails(ErrorKind::Unavailable))).is_err());
        assert!(!buffer.is_due(now), "not yet");
        none_lost(buffer.write(now, |_| Ok(()))).unwrap();
        none_lost(buffer.write(now, |_| panic!("none is left"))).unwrap();
    }

    #[test]
    fn a_damaged_session_is_given_up() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, 3);
        let damaged =
            |session: &SessionIdHash| (*session != id_hash(0)).then_some(ErrorKind::Corrupt);
        let all = vec![id_hash(0), id_hash(1), id_hash(2)];
        assert_eq!(write_around(&mut buffer, now, damaged), (all, 2));
        assert_eq!(buffer.next_due(), None);
    }

    #[test]
    fn a_batch_that_is_given_up_does_not_hold_up_the_next() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, MAX_BATCH_SIZE + 1);
        let WriteResult { retry, lost } = buffer.write(now, |_| fails(ErrorKind::Corrupt));
        let (count, error) = lost.unwrap();
        assert_eq!((count, error.kind()), (MAX_BATCH_SIZE, ErrorKind::Corrupt));
        assert_eq!(retry.unwrap().kind(), ErrorKind::Corrupt);
        assert!(buffer.is_due(now + WRITE_DELAY));
        assert_eq!(write_all(&mut buffer, now + WRITE_DELAY).len(), 1);
    }
}
