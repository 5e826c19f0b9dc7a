//! Room: sweeping what has expired, and giving back what is free.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Duration;

use indicatif::HumanBytes;

use crate::backend::{Store, SweepReport};
use crate::cleaner::Batch;
use crate::cli::Context;
use crate::cli::arguments::{Compact, Sweep};
use crate::cli::failure::{Done, Failure};
use crate::cli::interrupt::{Interrupt, bar, spinner};
use crate::cli::output::ask;
use crate::cli::tables::sessions;
use crate::clock::Timestamp;
use crate::stores::sqlite::{CompactMode, SqliteStore};

pub(super) fn sweep(args: &Sweep, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store()?;
    let interrupt = Interrupt::listen()?;
    let most = args.limit.map_or(u64::MAX, |limit| u64::try_from(limit.get()).unwrap_or(u64::MAX));
    let expired = match store.index() {
        Some(index) => index.stats(context.now)?.expired,
        None => 0,
    };
    let bar = bar("sweeping", "sessions");
    bar.set_length(expired.min(most));
    let mut swept = 0;
    let ended = sweep_all(&store, context.now, most, &interrupt, |removed| {
        swept += removed;
        bar.set_position(swept);
    });
    bar.finish_and_clear();
    match ended {
        Ok(ControlFlow::Continue(())) => writeln!(out, "swept {}", sessions(swept))?,
        Ok(ControlFlow::Break(())) => {
            return Err(Failure::interrupted(format!("swept {} until then", sessions(swept))));
        }
        Err(failure) => {
            // What was swept is swept, whatever failed after that.
            if swept > 0 {
                writeln!(out, "swept {}", sessions(swept))?;
            }
            return Err(failure);
        }
    }
    if let Some(maintenance) = store.maintenance() {
        maintenance.run()?;
    }
    Ok(Done::Well)
}

/// In batches as the cleaner's; for as long as one kept others from writing, the file is left to
/// them.
fn sweep_all(
    store: &SqliteStore,
    now: Timestamp,
    most: u64,
    interrupt: &Interrupt,
    mut swept: impl FnMut(u64),
) -> Result<ControlFlow<()>, Failure> {
    let (mut batch, mut left) = (Batch::LARGEST, most);
    while let Some(most) = usize::try_from(left).map_or(Some(NonZeroUsize::MAX), NonZeroUsize::new)
    {
        if interrupt.is_asked() {
            return Ok(ControlFlow::Break(()));
        }
        let limit = batch.limit().min(most);
        let SweepReport { removed, held } = store.sweep(now, limit)?;
        let all = removed < limit.get();
        let removed = u64::try_from(removed).unwrap_or(0);
        left = left.saturating_sub(removed);
        swept(removed);
        if all {
            break;
        }
        batch = batch.after(held);
        store.checkpoint_if_large()?;
        interrupt.wait(held);
    }
    Ok(ControlFlow::Continue(()))
}

pub(super) fn compact(
    args: &Compact,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    // Only of a database that holds our table.
    context.place.store()?;
    let file = context.place.file()?;
    let before = file.facts()?;
    let free = HumanBytes(before.free_pages.saturating_mul(before.page_size));
    let (path, bytes) = (before.path.display().to_string(), HumanBytes(before.bytes));
    let how = match before.incremental && !args.full {
        true => CompactMode::Incremental,
        false => CompactMode::Full,
    };
    let bar = match how {
        CompactMode::Full => {
            let others = match before.other_tables {
                0 => "",
                _ => " Row numbers of other tables without an INTEGER PRIMARY KEY may change.",
            };
            let about = format!(
                "This writes {path} ({bytes}, {free} free) anew: nobody else can write meanwhile \
                 (changes wait, and fail as busy after the service's busy timeout), reads go on, \
                 and up to twice its size is needed on the disk.{others}"
            );
            ask(&about, args.yes)?;
            spinner("writing the file anew")
        }
        CompactMode::Incremental => bar("giving back", "pages"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let interrupt = Interrupt::listen()?;
    let done = file.compact(how, interrupt.watch(&bar))?;
    bar.finish_and_clear();
    if done.is_break() {
        return Err(Failure::interrupted(match how {
            CompactMode::Full => "the file is as it was",
            CompactMode::Incremental => "what was given back until then is",
        }));
    }
    let after = file.facts()?;
    writeln!(out, "{bytes} before, {} now", HumanBytes(after.bytes))?;
    Ok(Done::Well)
}
