//! The write-ahead log: how long it is, and making it start again from its beginning.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::error::Result;
use crate::event::{Event, Events};
use crate::store::sqlite::failure::while_doing;

/// From here on the bell asks for upkeep.
const RING_BYTES: u64 = 16 << 20;

/// From here on a writer makes the log restart itself: upkeep does not keep up, or nobody does it.
/// Half of the promised 64 MiB, because another process can write on while a checkpoint begins.
const NET_BYTES: u64 = 32 << 20;

/// A restart that an old reader prevented is tried again when the log has grown by this much.
const RETRY_BYTES: u64 = 8 << 20;

/// Passive checkpoints go on until fewer pages than this are left for the last, exclusive pass.
const FEW_PAGES: u32 = 256;

thread_local! {
    /// Pages in the log after this thread's last commit. SQLite calls the hook on the thread that
    /// commits, and the hook can have no state of its own.
    static PAGES: Cell<u32> = const { Cell::new(0) };
}

pub(super) struct Log {
    page_size: u64,
    events: Events,
    bell: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    rung: AtomicBool,
    held: AtomicBool,
    /// Not before the log has this many pages is the next restart tried by a writer.
    next_restart: AtomicU32,
}

impl Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("page_size", &self.page_size).finish_non_exhaustive()
    }
}

/// What a checkpoint answers.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    /// Something prevented it from being complete.
    blocked: bool,
    /// Pages in the log; `None` when there is no write-ahead log.
    pages: Option<u32>,
    /// Pages of those that are in the database now.
    copied: u32,
}

impl Log {
    pub(super) fn new(page_size: u64, events: Events) -> Self {
        let log = Log {
            page_size,
            events,
            bell: Mutex::default(),
            rung: AtomicBool::new(false),
            held: AtomicBool::new(false),
            next_restart: AtomicU32::new(0),
        };
        log.next_restart.store(log.pages(NET_BYTES), Ordering::Relaxed);
        log
    }

    /// Has SQLite report the length of the log; this replaces its own automatic checkpoints.
    pub(super) fn watch(connection: &Connection) {
        fn note(_: &Wal, pages: std::ffi::c_int) -> rusqlite::Result<()> {
            PAGES.set(u32::try_from(pages).unwrap_or(0));
            Ok(())
        }
        connection.wal_hook(Some(note));
    }

    fn pages(&self, bytes: u64) -> u32 {
        u32::try_from(bytes / self.page_size.max(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn set_bell(&self, bell: Box<dyn Fn() + Send + Sync>) {
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell);
    }

    /// After a commit, on the connection that made it.
    pub(super) fn after_commit(&self, connection: &Connection) {
        let pages = PAGES.take();
        if pages >= self.pages(RING_BYTES) && !self.rung.swap(true, Ordering::Relaxed) {
            let bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ring) = &*bell {
                ring();
            }
        }
        if pages >= self.next_restart.load(Ordering::Relaxed) {
            // The commit stands whatever becomes of the checkpoint.
            let _ = self.restart(connection);
        }
    }

    /// Copies the log into the database beside the writers, until little is left. Whether there
    /// is anything worth a restart after that.
    pub(super) fn copy(&self, connection: &Connection) -> Result<bool> {
        self.rung.store(false, Ordering::Relaxed);
        let mut rounds = 0;
        loop {
            let checkpoint = checkpoint(connection, "PASSIVE")?;
            let Some(pages) = checkpoint.pages else { return Ok(false) };
            rounds += 1;
            if pages.saturating_sub(checkpoint.copied) <= FEW_PAGES || rounds == 16 {
                return Ok(pages > FEW_PAGES);
            }
        }
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
        let Some(pages) = checkpoint.pages else { return Ok(()) };
        let next = match checkpoint.blocked {
            true => pages.saturating_add(self.pages(RETRY_BYTES)).max(self.pages(NET_BYTES)),
            false => self.pages(NET_BYTES),
        };
        self.next_restart.store(next, Ordering::Relaxed);
        // Blocked on a short log is a busy moment; on a long one it is an old reader.
        let held = checkpoint.blocked && pages >= self.pages(NET_BYTES);
        if held != self.held.swap(held, Ordering::Relaxed) {
            self.events.raise(&match held {
                true => Event::LogHeld { pages },
                false => Event::LogReleased,
            });
        }
        Ok(())
    }
}

fn checkpoint(connection: &Connection, mode: &str) -> Result<Checkpoint> {
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
