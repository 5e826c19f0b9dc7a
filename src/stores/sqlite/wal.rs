//! The size of the write-ahead log, and checkpoints.
//!
//! Invariant: the log stays below `MAX_LOG_BYTES`, unless an old reader prevents its restart, or
//! another program runs the checkpoints.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::mem;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::hooks;

use crate::error::Result;
use crate::event::{Event, Events};
use crate::stores::sqlite::error::{During, retry_while_busy};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{IgnorePoison, Mutex, monotonic_now, thread};

/// What a checkpoint does; for errors.
pub(super) const CHECKPOINT: &str = "copy the log into the database";

/// From this size on, a commit requests a checkpoint from maintenance.
const DUE_BYTES: u64 = 16 << 20;

/// The log stays smaller than this, unless an old reader prevents its restart: the invariant in
/// DESIGN.md, "Syncing".
pub const MAX_LOG_BYTES: u64 = 64 << 20;

/// From this size on, a writer restarts the log itself, because maintenance is too slow or not
/// running. After an attempt that a reader has blocked it waits: see `RETRY_AFTER`. Half of the
/// maximum, because other processes can write on until the restart.
/// docs/guarantees.md states it, with `DUE_BYTES`, under "Syncs".
pub const LOG_RESTART_BYTES: u64 = MAX_LOG_BYTES / 2;

/// A restart of the log that a reader has blocked is retried after this time, or when the log has
/// grown by half. Each attempt makes all writers wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Passive checkpoints are repeated until at most this many frames are left for the final,
/// exclusive one.
const MAX_FRAMES_LEFT: u32 = 256;

/// The maximum number of passive checkpoints before the exclusive one, in case writers are faster.
const MAX_PASSIVE_CHECKPOINTS: usize = 16;

thread_local! {
    /// The number of frames in the log after this thread's last commit. A thread-local, because the
    /// hook that sets it is a plain function, which SQLite calls on the committing thread.
    static FRAMES: Cell<u32> = const { Cell::new(0) };
}

pub(super) struct Wal {
    page_size: u64,
    /// If false, another program runs the checkpoints.
    runs_checkpoints: bool,
    events: Events,
    /// The callback of [`Maintenance::on_due`](crate::backend::Maintenance::on_due).
    on_due: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    is_requested: AtomicBool,
    /// The last checkpoint that a reader has blocked; `None` if the log has restarted since.
    last_blocked: Mutex<Option<BlockedCheckpoint>>,
}

/// A checkpoint that a reader has blocked, and the size of the log then.
#[derive(Clone, Copy)]
struct BlockedCheckpoint {
    attempted: Instant,
    frames: u32,
}

impl Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("page_size", &self.page_size).finish_non_exhaustive()
    }
}

/// The result of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    /// Whether a reader or writer has kept the checkpoint from doing all of its work.
    pub(super) is_incomplete: bool,
    /// The number of frames in the log; `None` without a write-ahead log.
    frames: Option<u32>,
    /// The number of these frames that have been copied into the database.
    copied: u32,
}

impl Wal {
    pub(super) fn new(page_size: u64, runs_checkpoints: bool, events: Events) -> Self {
        Wal {
            page_size,
            runs_checkpoints,
            events,
            on_due: Mutex::default(),
            is_requested: AtomicBool::new(false),
            last_blocked: Mutex::default(),
        }
    }

    /// Registers a hook that records the size of the log. It replaces SQLite's automatic
    /// checkpoints.
    pub(super) fn register_hook(connection: &Connection) {
        fn record_frames(_: &hooks::Wal, frames: std::ffi::c_int) -> rusqlite::Result<()> {
            FRAMES.set(u32::try_from(frames).unwrap_or(0));
            Ok(())
        }
        connection.wal_hook(Some(record_frames));
    }

    pub(super) fn runs_checkpoints(&self) -> bool {
        self.runs_checkpoints
    }

    /// Returns the number of frames that have this size. Each has one page.
    fn frames_in(&self, bytes: u64) -> u32 {
        u32::try_from(bytes / self.page_size.max(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn set_on_due(&self, callback: Box<dyn Fn() + Send + Sync>) {
        *self.on_due.lock().ignore_poison() = Some(callback);
    }

    /// Returns whether a commit after which the log has this number of frames should request a
    /// checkpoint: the log is large, and no reader has just blocked one.
    pub(super) fn should_checkpoint(&self, frames: u32) -> bool {
        self.runs_checkpoints && frames >= self.frames_in(DUE_BYTES) && !self.is_backing_off(frames)
    }

    /// For an operator's sweep: runs a passive checkpoint if one was requested and maintenance has
    /// not begun it. It copies the frames that the log has now; later ones are left to the next
    /// checkpoint.
    pub(super) fn checkpoint_if_requested(&self, connection: &Connection) -> Result<()> {
        if self.is_requested.swap(false, Ordering::Relaxed) {
            checkpoint(connection, "PASSIVE")?;
        }
        Ok(())
    }

    /// Requests a checkpoint from maintenance, unless one is requested already.
    pub(super) fn request_checkpoint(&self) {
        if !self.is_requested.swap(true, Ordering::Relaxed)
            && let Some(on_due) = &*self.on_due.lock().ignore_poison()
        {
            on_due();
        }
    }

    /// Restarts a log that is too large, on the write connection. Ignores a failure: the commits
    /// before it are valid.
    pub(super) fn restart_if_too_large(&self, connection: &Connection, frames: u32) {
        if frames >= self.frames_in(LOG_RESTART_BYTES) {
            let _ = self.restart(connection);
        }
    }

    /// Returns whether a reader has blocked a checkpoint, and the next attempt waits.
    fn is_backing_off(&self, frames: u32) -> bool {
        self.last_blocked.lock().ignore_poison().is_some_and(|last| {
            monotonic_now().saturating_duration_since(last.attempted) < RETRY_AFTER
                && frames < last.frames + last.frames / 2
        })
    }

    /// Runs passive checkpoints beside the writers until few frames are left. Returns whether a
    /// restart of the log is worthwhile then.
    pub(super) fn checkpoint_passive(&self, connection: &Connection) -> Result<bool> {
        self.is_requested.store(false, Ordering::Relaxed);
        let mut frames_before = 0;
        let mut copied_before = 0;
        for _ in 0..MAX_PASSIVE_CHECKPOINTS {
            let Checkpoint { frames, copied, .. } = checkpoint(connection, "PASSIVE")?;
            // There is no log, or another process runs a checkpoint or has restarted the log.
            let Some(frames) = frames.filter(|frames| *frames >= frames_before) else {
                return Ok(false);
            };
            if frames.saturating_sub(copied) <= MAX_FRAMES_LEFT {
                if frames <= MAX_FRAMES_LEFT {
                    // The log has restarted by itself, after a blocking reader finished.
                    self.record_result(frames, false);
                    return Ok(false);
                }
                return Ok(!self.is_backing_off(frames));
            }
            // No progress: a reader still needs the pages that a checkpoint would overwrite in the
            // database.
            if copied <= copied_before {
                self.record_result(frames, true);
                return Ok(false);
            }
            (frames_before, copied_before) = (frames, copied);
        }
        Ok(!self.is_backing_off(frames_before))
    }

    /// Runs a checkpoint that blocks writers and waits briefly for readers of the log, so that the
    /// next commit writes at its beginning.
    pub(super) fn restart(&self, connection: &Connection) -> Result<()> {
        fn retry(times: i32) -> bool {
            thread::sleep(Duration::from_micros(100));
            times < 250
        }
        connection.busy_handler(Some(retry)).during("wait for a checkpoint")?;
        let result = checkpoint(connection, "RESTART");
        connection.busy_timeout(Duration::ZERO).during("wait for a checkpoint")?;
        let checkpoint = result?;
        if let Some(frames) = checkpoint.frames {
            self.record_result(frames, checkpoint.is_incomplete);
        }
        Ok(())
    }

    fn record_result(&self, frames: u32, is_blocked: bool) {
        let new = is_blocked.then(|| BlockedCheckpoint { attempted: monotonic_now(), frames });
        let old = mem::replace(&mut *self.last_blocked.lock().ignore_poison(), new);
        // A blocked checkpoint of a short log is a short contention. A blocked checkpoint of a long
        // log means that a reader holds an old snapshot.
        let due = self.frames_in(DUE_BYTES);
        let is_reported =
            |blocked: Option<BlockedCheckpoint>| blocked.is_some_and(|it| it.frames >= due);
        if is_reported(new) != is_reported(old) {
            self.events.raise(&if is_reported(new) {
                Event::CheckpointBlocked { pages: frames }
            } else {
                Event::CheckpointUnblocked
            });
        }
    }
}

/// Commits, and returns the number of frames in the log then; `None` if the transaction wrote none.
pub(super) fn commit_counting_frames(
    connection: &Connection,
    deadline: Instant,
) -> rusqlite::Result<Option<u32>> {
    FRAMES.set(0);
    // With a write-ahead log nothing blocks a commit; with a rollback journal readers do.
    retry_while_busy(deadline, || connection.prepare_cached("COMMIT")?.execute([]))?;
    Ok(Some(FRAMES.get()).filter(|frames| *frames > 0))
}

pub(super) fn checkpoint(connection: &Connection, mode: &str) -> Result<Checkpoint> {
    connection
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                Ok(Checkpoint {
                    is_incomplete: row.get(0)?,
                    frames: u32::try_from(row.get::<_, i64>(1)?).ok(),
                    copied: u32::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                })
            })
        })
        .during(CHECKPOINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_restart_is_not_repeated_at_every_commit() {
        let wal = Wal::new(4096, true, Events::default());
        let due = wal.frames_in(DUE_BYTES);
        assert!(wal.should_checkpoint(due));
        wal.record_result(due, true);
        for frames in [due, due + 1, due + due / 3] {
            assert!(!wal.should_checkpoint(frames), "{frames} of {due}");
        }
        assert!(wal.should_checkpoint(due * 2), "it has grown");
        wal.record_result(100, false);
        assert!(wal.should_checkpoint(due), "the reader has gone");
    }
}
