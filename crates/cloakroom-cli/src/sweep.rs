//! The command `sweep`: removes expired sessions in batches.

use std::io::Write;
use std::num::NonZeroU64;
use std::ops::ControlFlow;

use crate::CliContext;
use crate::error::{CliError, CliResult, REFERENCES};
use crate::output::sessions_text;
use crate::progress::bar;
use crate::signals::Interrupt;

pub(crate) fn sweep(
    limit: Option<NonZeroU64>,
    context: &CliContext,
    out: &mut dyn Write,
) -> CliResult {
    let limit = limit.map_or(u64::MAX, NonZeroU64::get);
    let interrupt = Interrupt::listen()?;
    let bar = bar("sweeping", "sessions");
    let ended = context.database()?.open()?.sweep_all(context.now, limit, interrupt.watch(&bar));
    // The bar counts also where it is hidden, and keeps what was swept before a failure.
    let swept = bar.position();
    bar.finish_and_clear();
    match ended {
        Ok(ControlFlow::Continue(ended)) => {
            writeln!(out, "swept {}", sessions_text(ended))?;
            if ended < limit { report_kept(context) } else { Ok(()) }
        }
        Ok(ControlFlow::Break(())) => {
            let swept = sessions_text(swept);
            Err(CliError::interrupted(format!("swept {swept} until then")))
        }
        Err(error) => {
            if swept > 0 {
                writeln!(out, "swept {}", sessions_text(swept))?;
            }
            Err(error.into())
        }
    }
}

/// Fails if expired sessions have remained because rows of other tables reference them.
fn report_kept(context: &CliContext) -> CliResult {
    let database = context.database()?;
    // Once more, because the sweep can have taken long.
    database.check_no_other_file_in_use()?;
    let tables = database.file_info()?.map_or(Vec::new(), |info| info.referencing_tables);
    if tables.is_empty() {
        return Ok(());
    }
    match database.open_for_reading()?.session_index().stats(context.now)?.expired {
        0 => Ok(()),
        kept => Err(CliError::new(format!(
            "{} ended and cannot be removed, since rows of {} reference them; {REFERENCES}",
            sessions_text(kept),
            tables.join(", ")
        ))),
    }
}
