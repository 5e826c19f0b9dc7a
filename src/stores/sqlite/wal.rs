//! The write-ahead log: how long it is, and making it start again from its beginning.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::error::Result;
use crate::event::{Event, Events};
use crate::stores::sqlite::error::while_doing;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// From here on the bell asks for upkeep.
const RING_BYTES: u64 = 16 << 20;

/// From here on a writer makes the log restart itself: upkeep does not keep up, or nobody does it.
/// Half of the promised 64 MiB, because another process can write on while a checkpoint begins.
const NET_BYTES: u64 = 32 << 20;

/// A restart that an old reader prevented is tried again after this time, or when the log has
/// grown by half: it costs every writer a wait.
const RETRY: Duration = Duration::from_secs(5);

/// Passive checkpoints go on until fewer pages than this are left for the last, exclusive pass.
const FEW_PAGES: u32 = 256;

/// Against writers who write faster than it copies, the exclusive pass comes after so many rounds.
const MOST_ROUNDS: usize = 16;

thread_local! {
    /// Pages in the log after this thread's last commit. SQLite calls the hook on the thread that
    /// commits, and the hook can have no state of its own.
    static PAGES: Cell<u32> = const { Cell::new(0) };
}

pub(super) struct Log {
    page_size: u64,
    /// Otherwise another program looks after it.
    ours: bool,
    events: Events,
    bell: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    rung: AtomicBool,
    /// The last restart was prevented: when, and how long the log was then.
    blocked: Mutex<Option<Blocked>>,
    /// The operator was told so.
    held: AtomicBool,
}

#[derive(Clone, Copy)]
struct Blocked {
    at: Instant,
    pages: u32,
}

impl Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("page_size", &self.page_size).finish_non_exhaustive()
    }
}

/// What a checkpoint answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    /// Something prevented it from being complete.
    pub(super) blocked: bool,
    /// Pages in the log; `None` when there is no write-ahead log.
    pages: Option<u32>,
    /// Pages of those that are in the database now.
    copied: u32,
}

impl Log {
    pub(super) fn new(page_size: u64, ours: bool, events: Events) -> Self {
        Log {
            page_size,
            ours,
            events,
            bell: Mutex::default(),
            rung: AtomicBool::new(false),
            blocked: Mutex::default(),
            held: AtomicBool::new(false),
        }
    }

    /// Has SQLite report the length of the log; this replaces its own automatic checkpoints.
    pub(super) fn watch(connection: &Connection) {
        fn note(_: &Wal, pages: std::ffi::c_int) -> rusqlite::Result<()> {
            PAGES.set(u32::try_from(pages).unwrap_or(0));
            Ok(())
        }
        connection.wal_hook(Some(note));
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    fn pages(&self, bytes: u64) -> u32 {
        u32::try_from(bytes / self.page_size.max(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn set_bell(&self, bell: Box<dyn Fn() + Send + Sync>) {
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell);
    }

    /// Before a commit on this thread, so that what is known of the log afterwards is of this one.
    pub(super) fn begin_commit() {
        PAGES.set(0);
    }

    /// After a commit on this thread: the pages in the log, if it wrote any.
    pub(super) fn frames() -> Option<u32> {
        Some(PAGES.get()).filter(|pages| *pages > 0)
    }

    /// After a commit on this thread: the pages in the log, if that is a reason to do something.
    pub(super) fn is_due(&self) -> Option<u32> {
        let pages = PAGES.take();
        (self.ours && pages >= self.pages(RING_BYTES) && self.may_restart(pages)).then_some(pages)
    }

    /// Copies what stands in the log now into the database beside the writers, where upkeep was
    /// asked for and has not begun. No restart follows, so what is written meanwhile can wait.
    pub(super) fn copy_if_rung(&self, connection: &Connection) -> Result<()> {
        match self.rung.swap(false, Ordering::Relaxed) {
            true => checkpoint(connection, "PASSIVE").map(drop),
            false => Ok(()),
        }
    }

    /// Asks for upkeep, or does the most urgent of it on the connection that writes.
    pub(super) fn look_after(&self, connection: &Connection, pages: u32) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            let bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ring) = &*bell {
                ring();
            }
        }
        if pages >= self.pages(NET_BYTES) {
            // The commits stand whatever becomes of the checkpoint.
            let _ = self.restart(connection);
        }
    }

    fn may_restart(&self, pages: u32) -> bool {
        let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        blocked.is_none_or(|before| before.at.elapsed() >= RETRY || pages / 3 >= before.pages / 2)
    }

    /// Copies the log into the database beside the writers, until little is left. Whether a
    /// restart is worth its while after that.
    pub(super) fn copy(&self, connection: &Connection) -> Result<bool> {
        self.rung.store(false, Ordering::Relaxed);
        let (mut pages_before, mut copied_before) = (0, 0);
        for _ in 0..MOST_ROUNDS {
            let Checkpoint { pages, copied, .. } = checkpoint(connection, "PASSIVE")?;
            // There is no log, or another process is at it, or has made it start again.
            let Some(pages) = pages.filter(|pages| *pages >= pages_before) else {
                return Ok(false);
            };
            if pages.saturating_sub(copied) <= FEW_PAGES {
                if pages <= FEW_PAGES {
                    // It has begun again without being made to, behind a reader who is gone.
                    self.note(pages, false);
                    return Ok(false);
                }
                return Ok(self.may_restart(pages));
            }
            // No way forward: an old reader needs what the log would overwrite in the database.
            if copied <= copied_before {
                self.note(pages, true);
                return Ok(false);
            }
            (pages_before, copied_before) = (pages, copied);
        }
        Ok(self.may_restart(pages_before))
    }

    /// Copies what is left while nobody writes, and waits shortly for readers of the log, so that
    /// the next commit starts it from its beginning.
    pub(super) fn restart(&self, connection: &Connection) -> Result<()> {
        fn ask_again(times: i32) -> bool {
            thread::sleep(Duration::from_micros(100));
            times < 250
        }
        let failed = || while_doing("wait for a checkpoint");
        connection.busy_handler(Some(ask_again)).map_err(failed())?;
        let result = checkpoint(connection, "RESTART");
        connection.busy_timeout(Duration::ZERO).map_err(failed())?;
        let checkpoint = result?;
        if let Some(pages) = checkpoint.pages {
            self.note(pages, checkpoint.blocked);
        }
        Ok(())
    }

    fn note(&self, pages: u32, blocked: bool) {
        let before = blocked.then(|| Blocked { at: Instant::now(), pages });
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = before;
        // Blocked on a short log is a busy moment; on a long one it is an old reader.
        let held = blocked && pages >= self.pages(RING_BYTES);
        if held != self.held.swap(held, Ordering::Relaxed) {
            self.events.raise(&match held {
                true => Event::CheckpointBlocked { pages },
                false => Event::CheckpointUnblocked,
            });
        }
    }
}

pub(super) fn checkpoint(connection: &Connection, mode: &str) -> Result<Checkpoint> {
    connection
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                Ok(Checkpoint {
                    blocked: row.get(0)?,
                    pages: u32::try_from(row.get::<_, i64>(1)?).ok(),
                    copied: u32::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                })
            })
        })
        .map_err(while_doing("copy the log into the database"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_that_was_prevented_is_not_tried_again_at_every_commit() {
        let log = Log::new(4096, true, Events::default());
        let rings = log.pages(RING_BYTES);
        PAGES.set(rings);
        assert_eq!(log.is_due(), Some(rings));
        log.note(rings, true);
        for pages in [rings, rings + 1, rings + rings / 3] {
            PAGES.set(pages);
            assert_eq!(log.is_due(), None, "{pages} of {rings}");
        }
        PAGES.set(rings * 2);
        assert_eq!(log.is_due(), Some(rings * 2), "it has grown");
        log.note(100, false);
        PAGES.set(rings);
        assert_eq!(log.is_due(), Some(rings), "the reader has gone");
    }
}
