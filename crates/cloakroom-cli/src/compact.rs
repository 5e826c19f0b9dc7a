//! The command `compact`.

use std::io::Write;

use cloakroom::stores::sqlite::{CompactMode, DatabaseInfo};
use indicatif::HumanBytes;

use crate::CliContext;
use crate::arguments::CompactArgs;
use crate::error::CliResult;
use crate::output::ask;
use crate::progress::{bar, spinner};
use crate::signals::Interrupt;

pub(crate) fn compact(args: &CompactArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let file = context.file("`VACUUM FULL` compacts a table in PostgreSQL")?;
    // Refuses a database without our table.
    context.database()?.open()?;
    let before = file.info()?;
    let free = HumanBytes(before.free_pages.saturating_mul(before.page_size));
    let path = before.path.display().to_string();
    let bytes = size(&before);
    let (mode, bar, state) = if args.full || !before.incremental {
        let others = match before.other_tables {
            0 => "",
            _ => " Row ids of other tables without an INTEGER PRIMARY KEY may change.",
        };
        let about = format!(
            "This rewrites {path} ({bytes}, {free} free): other writers wait until it is done \
             (their changes fail as busy after the service's busy timeout), reads go on, and up to \
             twice its size is needed on the disk.{others}"
        );
        ask(&about, args.yes)?;
        (CompactMode::Full, spinner("rewriting the file"), "the file is unchanged")
    } else {
        let state = "the pages released so far stay released";
        (CompactMode::Incremental, bar("releasing", "pages"), state)
    };
    let interrupt = Interrupt::listen()?;
    interrupt.run(&bar, state, |progress| file.compact(mode, progress))?;
    Ok(writeln!(out, "{bytes} before, {} now", size(&file.info()?))?)
}

/// Returns the size of the file, and of its log if it has one.
fn size(info: &DatabaseInfo) -> String {
    match info.log_bytes {
        0 => HumanBytes(info.bytes).to_string(),
        log => format!("{} and a log of {}", HumanBytes(info.bytes), HumanBytes(log)),
    }
}
