//! Room: sweeping what has expired, and giving back what is free.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use crate::cleaner::Batch;
use crate::cli::Context;
use crate::cli::arguments::{Compact, Sweep};
use crate::cli::failure::{Done, Failure};
use crate::cli::interrupt::{Interrupt, bar, spinner};
use crate::cli::output::ask;
use crate::cli::tables::sessions;
use crate::store::Store;
use crate::store::sqlite::Compacting;

pub(super) fn sweep(
    given: &Sweep,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let store = context.place.store()?;
    let interrupt = Interrupt::listen()?;
    let most = given.limit.map_or(u64::MAX, |limit| u64::try_from(limit.get()).unwrap_or(u64::MAX));
    let expired = match store.registry() {
        Some(registry) => registry.stats(context.now)?.expired,
        None => 0,
    };
    let bar = bar("sweeping", "sessions");
    bar.set_length(expired.min(most));
    let (mut batch, mut swept, mut all) = (Batch::LARGEST, 0, false);
    while swept < most && !all {
        if interrupt.is_asked() {
            return Err(Failure::interrupted(format!("swept {} until then", sessions(swept))));
        }
        // In batches as the cleaner's, and for as long as one took the file is left to others.
        let began = Instant::now();
        let left = usize::try_from(most - swept).unwrap_or(usize::MAX);
        let limit = batch.limit().min(left.try_into().unwrap_or(batch.limit()));
        let removed = store.sweep(context.now, limit)?;
        swept += u64::try_from(removed).unwrap_or(0);
        all = removed < limit.get();
        bar.set_position(swept);
        let took = began.elapsed();
        batch = batch.after(took);
        if !all {
            interrupt.wait(took);
        }
    }
    bar.finish_and_clear();
    if let Some(upkeep) = store.upkeep() {
        upkeep.run()?;
    }
    writeln!(out, "swept {}", sessions(swept))?;
    Ok(Done::Well)
}

pub(super) fn compact(
    given: &Compact,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    // Only of a database that holds our table.
    context.place.store()?;
    let file = context.place.file()?;
    let before = file.facts()?;
    let free = HumanBytes(before.free_pages.saturating_mul(before.page_size));
    let (path, bytes) = (before.path.display().to_string(), HumanBytes(before.bytes));
    let how = match before.incremental && !given.full {
        true => Compacting::Incremental,
        false => Compacting::Full,
    };
    let bar = match how {
        Compacting::Full => {
            let others = match before.other_tables {
                0 => "",
                _ => " Row numbers of other tables without an INTEGER PRIMARY KEY may change.",
            };
            let about = format!(
                "This writes {path} ({bytes}, {free} free) anew: nobody can write meanwhile, \
                 reads go on, and up to twice its size is needed on the disk.{others}"
            );
            ask(&about, given.yes)?;
            spinner("writing the file anew")
        }
        Compacting::Incremental => bar("giving back", "pages"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let interrupt = Interrupt::listen()?;
    let done = file.compact(how, interrupt.watch(&bar))?;
    bar.finish_and_clear();
    if done.is_break() {
        return Err(Failure::interrupted(match how {
            Compacting::Full => "the file is as it was",
            Compacting::Incremental => "what was given back until then is",
        }));
    }
    let after = file.facts()?;
    writeln!(out, "{bytes} before, {} now", HumanBytes(after.bytes))?;
    Ok(Done::Well)
}
