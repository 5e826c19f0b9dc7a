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

/// The maximum number of touches in one transaction. When the channel holds as many, they are
/// written without delay.
const MAX_BATCH: usize = 256;

/// The maximum number of touches that are kept for another attempt while the store, or a server of
/// it, fails.
const MAX_FAILED: usize = 16 * MAX_BATCH;

/// How long the first touch of a batch waits for others. It is less than the shortest time between
/// two touches of a session: 1.5 seconds, a fortieth of an idle limit of one minute. Sessions with
/// a shorter limit do not use the cleaner.
const WAIT: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to write a touch. It begins with [`WAIT`] and doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

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
    notified: Arc<AtomicBool>,
    /// When the touches in the channel are to be written.
    due: Option<Instant>,
    /// The touches that could not be written; `None` if all were.
    retry: Option<Retry>,
}

/// Touches that could not be written, and their next attempt.
struct Retry {
    /// One for each session.
    touches: HashMap<SessionIdHash, Touch>,
    /// Why the last of them was not written.
    last_error: Error,
    at: Instant,
    /// How long they wait for that.
    pause: Duration,
    /// Whether the last attempt failed for the whole store.
    whole_store: bool,
}

pub(super) fn touch_channel() -> (TouchSender, TouchBuffer) {
    let (sender, receiver) = bounded(CHANNEL_CAPACITY);
    let notified = Arc::new(AtomicBool::new(false));
    let sender = TouchSender { channel: sender, notified: notified.clone() };
    let buffer = TouchBuffer { channel: receiver, notified, due: None, retry: None };
    (sender, buffer)
}

impl TouchSender {
    /// Sends a touch. Never waits.
    pub(super) fn send(&self, id_hash: SessionIdHash, touch: Touch) -> Sent {
        if self.channel.try_send((id_hash, touch)).is_err() {
            return Sent::ChannelFull;
        }
        let is_first = !self.notified.swap(true, Ordering::AcqRel);
        let wakes = is_first || self.channel.len().is_multiple_of(MAX_BATCH);
        if wakes { Sent::WakeThread } else { Sent::Queued }
    }
}

impl TouchBuffer {
    /// Begins the wait for more touches at the first one, and returns whether touches are to be
    /// written now. While the whole store fails, that is only when the wait has ended, however many
    /// touches are in the channel.
    pub(super) fn check_due(&mut self, now: Instant) -> bool {
        if self.due.is_none() && self.notified.load(Ordering::Acquire) {
            self.due = Some(now + WAIT);
        }
        let store_fails = self.retry.as_ref().is_some_and(|retry| retry.whole_store);
        let has_batch = self.channel.len() >= MAX_BATCH && !store_fails;
        has_batch || self.next_due().is_some_and(|due| due <= now)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        [self.due, self.retry.as_ref().map(|retry| retry.at)].into_iter().flatten().min()
    }

    /// Makes a [`write`](Self::write) from `now` on try the failed touches again.
    pub(super) fn end_pause(&mut self, now: Instant) {
        if let Some(retry) = &mut self.retry {
            retry.at = now;
        }
    }

    /// Writes, by `write`, the touches sent before this call, and the failed ones if their pause
    /// has ended.
    ///
    /// A touch that can succeed later is kept, up to a bound; later touches of its session wait
    /// with it. `on_lost` receives the number of touches that are dropped, and the error of one.
    ///
    /// # Errors
    /// A touch is kept for another attempt; the error of the last one.
    pub(super) fn write(
        &mut self,
        now: Instant,
        mut write: impl FnMut(&[IdTouch]) -> Result<(), TouchError>,
        mut on_lost: impl FnMut(usize, &Error),
    ) -> Result<()> {
        self.due = None;
        // Before the channel is emptied: a request that sends a touch after that wakes the thread.
        self.notified.swap(false, Ordering::AcqRel);
        let tried = self.retry.take_if(|retry| retry.at <= now);
        let earlier_pause = tried.as_ref().map_or(Duration::ZERO, |retry| retry.pause);
        let pause = (earlier_pause * 2).clamp(WAIT, LONGEST_PAUSE);
        let mut touches = tried.map(|retry| retry.touches).unwrap_or_default();
        for (id_hash, touch) in self.channel.try_iter().take(CHANNEL_CAPACITY) {
            let waiting = self.retry.as_mut().map(|retry| &mut retry.touches);
            let waiting = waiting.filter(|waiting| waiting.contains_key(&id_hash));
            let latest = waiting.unwrap_or(&mut touches).entry(id_hash).or_insert(touch);
            latest.seen = latest.seen.max(touch.seen);
        }
        let (mut lost, mut store_failed) = (None, None);
        let touches: Vec<IdTouch> = touches.into_iter().collect();
        for batch in touches.chunks(MAX_BATCH) {
            // If the whole store fails, the other batches are not tried.
            let result = match &store_failed {
                Some(error) => Err(TouchError::clone(error)),
                None => write(batch),
            };
            let Err(error) = result else { continue };
            if let TouchError::Store(_) = &error {
                store_failed = Some(error.clone());
            }
            for ((id_hash, touch), error) in error.failures(batch) {
                let kept = self.retry.as_ref().map_or(0, |retry| retry.touches.len());
                if is_retryable(&error) && kept < MAX_FAILED {
                    let retry = self.retry.get_or_insert_with(|| Retry {
                        touches: HashMap::new(),
                        last_error: error.clone(),
                        at: now + pause,
                        pause,
                        whole_store: false,
                    });
                    retry.touches.insert(id_hash, touch);
                    retry.last_error = error;
                } else {
                    lost = Some((lost.map_or(1, |(count, _)| count + 1), error));
                }
            }
        }
        if let Some(retry) = self.retry.as_mut().filter(|_| !touches.is_empty()) {
            retry.whole_store = store_failed.is_some();
        }
        if let Some((count, error)) = lost {
            on_lost(count, &error);
        }
        self.retry.as_ref().map_or(Ok(()), |retry| Err(retry.last_error.clone()))
    }
}

/// Returns whether another attempt can succeed. A damaged row stays damaged.
fn is_retryable(error: &Error) -> bool {
    use ErrorKind::{Conflict, Corrupt, TooLarge, Undecodable};
    !matches!(error.kind(), Corrupt | Conflict | TooLarge | Undecodable)
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
            assert_ne!(sender.send(id_hash(n), touch(1)), Sent::ChannelFull);
        }
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "write a test's touches")
    }

    fn fails(kind: ErrorKind) -> Result<(), TouchError> {
        Err(error(kind).into())
    }

    fn none_lost(count: usize, error: &Error) {
        panic!("{count}: {error}");
    }

    #[test]
    fn touches_are_due_a_second_after_the_first() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        assert!(!buffer.check_due(now));
        assert_eq!(sender.send(id_hash(1), touch(1)), Sent::WakeThread);
        assert_eq!(sender.send(id_hash(2), touch(1)), Sent::Queued);
        assert!(!buffer.check_due(now));
        assert_eq!(buffer.next_due(), Some(now + WAIT));
        assert!(buffer.check_due(now + WAIT));
        buffer.write(now + WAIT, |_| Ok(()), none_lost).unwrap();
        assert_eq!(buffer.next_due(), None);
        assert_eq!(sender.send(id_hash(1), touch(1)), Sent::WakeThread);
    }

    #[test]
    fn a_full_batch_is_due_at_once_unless_the_store_fails() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, MAX_BATCH - 1);
        assert!(!buffer.check_due(now));
        assert_eq!(sender.send(id_hash(MAX_BATCH), touch(1)), Sent::WakeThread);
        assert!(buffer.check_due(now));
        assert!(buffer.write(now, |_| fails(ErrorKind::Unavailable), none_lost).is_err());
        send(&sender, 2 * MAX_BATCH);
        assert!(!buffer.check_due(now));
        assert!(buffer.check_due(now + WAIT));
        let _ = buffer.write(now + WAIT, |_| Ok(()), none_lost);
        send(&sender, MAX_BATCH);
        assert!(buffer.check_due(now + WAIT), "it works again");
    }

    #[test]
    fn a_full_batch_is_due_at_once_while_one_session_fails() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        let dead = id_hash(0);
        let fails = |session: &SessionIdHash| (*session == dead).then_some(ErrorKind::Unavailable);
        send(&sender, 2);
        write_around(&mut buffer, now, fails);
        send(&sender, MAX_BATCH);
        assert!(buffer.check_due(now));
        assert_eq!(write_around(&mut buffer, now, fails).0.len(), MAX_BATCH - 1);
        assert!(!buffer.check_due(now), "the failed one waits");
    }

    #[test]
    fn a_full_channel_takes_no_touch() {
        let (sender, _buffer) = touch_channel();
        send(&sender, CHANNEL_CAPACITY);
        assert_eq!(sender.send(id_hash(0), touch(1)), Sent::ChannelFull);
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

    /// Writes to a store that fails for some sessions. Returns the sessions that were tried.
    fn write_around(
        buffer: &mut TouchBuffer,
        now: Instant,
        fails: impl Fn(&SessionIdHash) -> Option<ErrorKind>,
    ) -> (Vec<SessionIdHash>, usize) {
        let (mut tried, mut lost) = (Vec::new(), 0);
        let write = |batch: &[IdTouch]| {
            tried.extend(batch.iter().map(|(session, _)| *session));
            let failed = batch.iter().filter_map(|touch| Some((*touch, error(fails(&touch.0)?))));
            TouchError::check(failed.collect())
        };
        let _ = buffer.write(now, write, |count, _| lost += count);
        tried.sort_by_key(|session| *session.as_bytes());
        (tried, lost)
    }

    #[test]
    fn touches_survive_a_store_in_trouble_until_there_are_too_many() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, MAX_BATCH + 1);
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
        buffer.write(now + WAIT, write, none_lost).unwrap();
        assert_eq!(written, [1], "the first batch was written before");

        let mut lost = 0;
        for n in 0..2 * MAX_FAILED {
            if sender.send(id_hash(n), touch(1)) == Sent::ChannelFull {
                let failed =
                    buffer.write(now, |_| fails(ErrorKind::Busy), |count, _| lost += count);
                assert!(failed.is_err());
                sender.send(id_hash(n), touch(1));
            }
        }
        let failed = buffer.write(now, |_| fails(ErrorKind::Busy), |count, _| lost += count);
        assert!(failed.is_err());
        assert_eq!(lost, MAX_FAILED);
    }

    #[test]
    fn a_failing_server_does_not_hold_up_the_others() {
        let (sender, mut buffer) = touch_channel();
        let start = Instant::now();
        let (dead, healthy) = (id_hash(0), id_hash(1));
        let fails = |session: &SessionIdHash| (*session == dead).then_some(ErrorKind::Unavailable);
        send(&sender, 2);
        assert_eq!(write_around(&mut buffer, start, fails), (vec![dead, healthy], 0));
        // Later touches of the session wait with it; the pause doubles up to four seconds.
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..9 {
            send(&sender, 2);
            assert_eq!(write_around(&mut buffer, now, fails), (vec![healthy], 0));
            let due = buffer.next_due().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
            assert!(buffer.check_due(now));
            assert_eq!(write_around(&mut buffer, now, fails), (vec![dead], 0));
        }
        assert_eq!(pauses, [1, 2, 4, 4, 4, 4, 4, 4, 4]);
        // The server is back: the latest touch is written, and the pause is short again.
        sender.send(dead, touch(7));
        now = buffer.next_due().unwrap();
        let mut written = Vec::new();
        let write = |batch: &[IdTouch]| {
            written.extend_from_slice(batch);
            Ok(())
        };
        buffer.write(now, write, none_lost).unwrap();
        assert_eq!(written, [(dead, touch(7))]);
        assert_eq!(buffer.next_due(), None);
        send(&sender, 1);
        write_around(&mut buffer, now, fails);
        assert_eq!(buffer.next_due(), Some(now + WAIT));
    }

    #[test]
    fn a_flush_tries_the_failed_touches_at_once() {
        let (sender, mut buffer) = touch_channel();
        let now = Instant::now();
        send(&sender, 1);
        assert!(buffer.write(now, |_| fails(ErrorKind::Unavailable), none_lost).is_err());
        assert!(buffer.write(now, |_| panic!("not yet"), none_lost).is_err());
        buffer.end_pause(now);
        buffer.write(now, |_| Ok(()), none_lost).unwrap();
        buffer.write(now, |_| panic!("none is left"), none_lost).unwrap();
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
}
