//! The command `copy`: moves all sessions from one store to another.
//!
//! It compares both stores in the order of positions, and changes the target where it differs. So a
//! run after a kill continues, and a run after the service has changed the source copies the
//! changes and removes what has ended. The target keeps a checksum of its sessions, which every
//! batch changes with them: if it does not fit, another program has changed the target. A session
//! that another program creates there stops the run before the next batch.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;

use cloakroom::Result;
use cloakroom::backend::StoreIdentity;
use cloakroom::clock::Timestamp;
use cloakroom::id::PublicId;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::admin::Admin;
use cloakroom::stores::copy::{CopyBatch, CopyMark, CopySum, StoredSession};
use indicatif::{HumanCount, ProgressBar};

use crate::CliContext;
use crate::arguments::{CopyArgs, StoreOptions};
use crate::database::Database;
use crate::error::{CliError, CliResult};
use crate::output::sessions_text;
use crate::progress::bar;
use crate::signals::Interrupt;

/// The number of sessions that are read, and changed in one transaction, at a time.
const PAGE: usize = 200;

/// What a run has done.
#[derive(Debug, Default)]
struct Copied {
    stored: u64,
    removed: u64,
    /// The sessions of the source that do not decode, and the public id of one of them.
    undecodable: u64,
    example: Option<PublicId>,
}

/// One of the two stores, with its database.
struct Side {
    database: Database,
    store: Box<dyn Admin>,
}

impl Side {
    fn open(
        database: Database,
        open: impl FnOnce(&Database) -> CliResult<Box<dyn Admin>>,
    ) -> CliResult<Self> {
        database.check_no_other_file_in_use()?;
        let store = open(&database).map_err(|failure| failure.with_advice(Some(&database)))?;
        Ok(Side { database, store })
    }

    /// Makes a call, whose error gets the advice for this store.
    fn call<T>(&self, call: impl FnOnce(&dyn Admin) -> Result<T>) -> CliResult<T> {
        call(&*self.store).map_err(|error| CliError::from(error).with_advice(Some(&self.database)))
    }
}

pub(crate) fn copy(args: &CopyArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let options = &context.options;
    let to_options = StoreOptions {
        table: args.to_table.clone().or_else(|| options.table.clone()),
        schema: args.to_schema.clone().or_else(|| options.schema.clone()),
        root_certificates: options.root_certificates.clone(),
    };
    let source = &Side::open(Database::named(&args.from, options)?, Database::open_for_reading)?;
    let target = &Side::open(Database::named(&args.to, &to_options)?, Database::open)?;
    let identity = source.call(|store| store.session_index().identity())?;
    if identity == target.call(|store| store.session_index().identity())? {
        return Err(CliError::usage("--from and --to are the same store"));
    }
    let interrupt = Interrupt::listen()?;
    // First of all: sessions at higher positions are those that another program creates meanwhile.
    let highest = highest_position(target)?;
    let mut mark = begin(source, identity, target, &interrupt)?;
    let copied = copy_changes(source, target, highest, &mut mark, &interrupt)?;
    let stored = sessions_text(copied.stored);
    let removed = HumanCount(copied.removed);
    writeln!(out, "copied {stored}, removed {removed} that had ended")?;
    if let Some(example) = copied.example {
        let count = sessions_text(copied.undecodable);
        writeln!(out, "not copied, because they do not decode: {count}, such as {example}")?;
    }
    let in_source = sum(source, "comparing", &interrupt)?.0;
    let in_target = sum(target, "comparing", &interrupt)?.0;
    if in_target != mark.sum {
        return Err(target_changed());
    }
    if in_source != in_target {
        return Err(CliError::new(
            "the source has changed meanwhile: stop the service that uses it, and run the same \
             command again",
        ));
    }
    let sessions = sessions_text(in_target.sessions());
    let checksum = in_target.checksum();
    Ok(writeln!(out, "source and target are equal: {sessions}, checksum {checksum}")?)
}

fn target_changed() -> CliError {
    CliError::new(
        "another program has changed the target meanwhile: stop the service that uses it, `clear` \
         the target, and run the command again",
    )
}

/// Returns the position of the newest session. Those of later ones are higher.
fn highest_position(side: &Side) -> CliResult<i64> {
    let newest = Page::first(NonZeroUsize::MIN);
    let always = Timestamp::from_millis(i64::MIN);
    let newest =
        side.call(|store| store.session_index().list(&SessionFilter::All, newest, always))?;
    Ok(newest.first().map_or(i64::MIN, |session| session.cursor.position()))
}

/// Returns the mark of the target, which must be empty or an unfinished copy of this source.
fn begin(
    source: &Side,
    identity: StoreIdentity,
    target: &Side,
    interrupt: &Interrupt,
) -> CliResult<CopyMark> {
    let (found, undecodable) = sum(target, "checking the target", interrupt)?;
    let mark = target.call(|store| store.copy_mark())?;
    if found.sessions() + undecodable == 0 {
        let nothing = CopyBatch::default();
        let new = CopyMark::new(identity);
        return target.call(|store| store.import(&nothing, mark.as_ref(), new));
    }
    let why = match mark {
        None => "it has sessions of its own",
        Some(mark) if mark.source != identity => "it is a copy of another store",
        Some(mark) if mark.sum != found || undecodable > 0 => {
            "it is a copy of that store, and another program has changed it since"
        }
        Some(mark) => return Ok(mark),
    };
    let from = source.store.description();
    let to = target.store.description();
    Err(CliError::new(format!(
        "cannot copy {from} to {to}: {why}; nothing was changed: choose another target, or `clear` \
         this one, which ends its sessions"
    )))
}

/// Changes the target where it differs from the source. `highest` is the highest position in it.
fn copy_changes(
    source: &Side,
    target: &Side,
    mut highest: i64,
    mark: &mut CopyMark,
    interrupt: &Interrupt,
) -> CliResult<Copied> {
    let bar = bar_for(source, "copying")?;
    let mut copied = Copied::default();
    let mut after = i64::MIN;
    loop {
        // A service that uses the target creates sessions. Its other changes show at the end.
        if highest_position(target)? > highest {
            return Err(target_changed());
        }
        let from = source.call(|store| store.export(after, PAGE))?;
        let to = target.call(|store| store.export(after, PAGE))?;
        // Both pages are complete up to here.
        let end = from.last.unwrap_or(i64::MAX).min(to.last.unwrap_or(i64::MAX));
        let of_page = |sessions: Vec<StoredSession>| -> BTreeMap<i64, StoredSession> {
            let sessions = sessions.into_iter().filter(|stored| stored.position <= end);
            sessions.map(|stored| (stored.position, stored)).collect()
        };
        if from.last.unwrap_or(i64::MAX) == end {
            copied.undecodable += from.undecodable.len() as u64;
            copied.example = copied.example.or(from.undecodable.first().map(|(id, _)| *id));
        }
        let wanted = of_page(from.sessions);
        let present = of_page(to.sessions);
        let ended = present.keys().filter(|position| !wanted.contains_key(position));
        let ended: Vec<_> = ended.copied().collect();
        bar.inc(wanted.len() as u64);
        let differs = |stored: &StoredSession| present.get(&stored.position) != Some(stored);
        let sessions: Vec<_> = wanted.into_values().filter(differs).collect();
        if !sessions.is_empty() || !ended.is_empty() {
            let batch = CopyBatch { sessions, ended };
            *mark = target.call(|store| store.import(&batch, Some(mark), *mark))?;
            let last = batch.sessions.last().map(|stored| stored.position);
            highest = highest.max(last.unwrap_or(i64::MIN));
            copied.stored += batch.sessions.len() as u64;
            copied.removed += batch.ended.len() as u64;
        }
        if end == i64::MAX {
            break;
        }
        if interrupt.is_set() {
            return Err(CliError::interrupted(format!(
                "the target has {}; run the same command again to continue",
                sessions_text(mark.sum.sessions())
            )));
        }
        after = end;
    }
    bar.finish_and_clear();
    Ok(copied)
}

/// Returns the sum of all sessions, and the number of those that do not decode.
fn sum(side: &Side, operation: &'static str, interrupt: &Interrupt) -> CliResult<(CopySum, u64)> {
    let bar = bar_for(side, operation)?;
    let mut sum = CopySum::default();
    let mut undecodable = 0;
    let mut after = Some(i64::MIN);
    while let Some(from) = after {
        let page = side.call(|store| store.export(from, PAGE))?;
        page.sessions.iter().for_each(|stored| sum.add(stored));
        undecodable += page.undecodable.len() as u64;
        bar.inc(page.sessions.len() as u64);
        after = page.last;
        if interrupt.is_set() {
            return Err(CliError::interrupted("run the same command again to continue"));
        }
    }
    bar.finish_and_clear();
    Ok((sum, undecodable))
}

/// Returns a progress bar for all sessions, expired ones included.
fn bar_for(side: &Side, operation: &'static str) -> CliResult<ProgressBar> {
    let stats = side.call(|store| store.session_index().stats(Timestamp::MAX))?;
    let bar = bar(operation, "sessions");
    bar.set_length(stats.live + stats.expired);
    Ok(bar)
}
