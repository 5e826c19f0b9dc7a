//! The command `stats`: counts of sessions, and sizes.

use std::io::Write;
use std::time::Duration;

use cloakroom::SqliteStore;
use cloakroom::clock::{Clock, SystemClock, Timestamp};
use cloakroom::manager;
use cloakroom::stores::sqlite::{DataSizes, DatabaseInfo};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value as Json, json};

use crate::CliContext;
use crate::arguments::StatsArgs;
use crate::error::CliResult;
use crate::output::{self, Style};
use crate::sessions::index;
use crate::signals::Interrupt;

/// The number of days with a separate line.
const DAYS: usize = 7;

pub(crate) fn stats(args: &StatsArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = context.admin()?.store_for_reading()?;
    let Some(seconds) = args.watch else {
        Report::new(&store, context, context.now, args.json)?.print(args.json, context, out)?;
        return Ok(());
    };
    let interrupt = Interrupt::listen()?;
    while !interrupt.is_set() {
        let report = Report::new(&store, context, SystemClock.now(), args.json)?;
        if !args.json && context.style.is_terminal() {
            // Clears the screen and moves the cursor to its top.
            write!(out, "\u{1b}[2J\u{1b}[H")?;
        }
        report.print(args.json, context, out)?;
        out.flush()?;
        interrupt.wait(Duration::from_secs(u64::from(seconds)));
    }
    Ok(())
}

struct Report {
    at: Timestamp,
    table: String,
    info: Option<DatabaseInfo>,
    sessions: manager::Stats,
    sizes: DataSizes,
    /// Live sessions by the day of their creation, and those of the days before.
    days: Vec<(String, u64)>,
    earlier: u64,
}

impl Report {
    fn new(
        store: &SqliteStore,
        context: &CliContext,
        now: Timestamp,
        utc: bool,
    ) -> CliResult<Self> {
        let admin = store.admin();
        let sessions = index(store)?.stats(now)?;
        let style: Style = if utc { context.style.in_utc() } else { context.style.clone() };
        let (names, moments): (Vec<_>, Vec<_>) = style.days(now, DAYS).into_iter().unzip();
        let counts = admin.count_created_since(&moments, now)?;
        let days: Vec<_> = names.into_iter().zip(counts).collect();
        let listed: u64 = days.iter().map(|(_, count)| count).sum();
        Ok(Report {
            at: now,
            table: store.table().to_owned(),
            info: store.path().map(|_| admin.info()).transpose()?,
            sessions,
            sizes: admin.sizes()?,
            days,
            // Another process may have ended some in between.
            earlier: sessions.live.saturating_sub(listed),
        })
    }

    fn print(&self, json: bool, context: &CliContext, out: &mut dyn Write) -> CliResult {
        if json {
            writeln!(out, "{}", output::json(&self.to_json()))?;
            return Ok(());
        }
        let style = &context.style;
        let mut line = |name: &str, value: String| writeln!(out, "{}", style.line(9, name, &value));
        if let Some(info) = &self.info {
            line("file", info.path.display().to_string())?;
        }
        let version = match self.info.as_ref().map(|info| &info.schema) {
            Some(Ok(version)) => format!(", schema version {version}"),
            _ => String::new(),
        };
        line("table", format!("{}{version}", self.table))?;
        let sessions = &self.sessions;
        let manager::Stats { live, expired, oldest, newest, .. } = *sessions;
        line("live", by_user(live, sessions.signed_in, sessions.anonymous()))?;
        let expired_by_user =
            by_user(expired, sessions.expired_signed_in, sessions.expired_anonymous());
        line("expired", format!("{expired_by_user}; to be swept"))?;
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            line("created", format!("from {} to {}", style.time(oldest), style.time(newest)))?;
        }
        if expired > 0 || self.sessions.live > 0 {
            let DataSizes { sampled, average, largest, .. } = self.sizes;
            let (average, most) = (HumanBytes(average), HumanBytes(largest));
            line("data", format!("{average} a session, {most} at most, by a sample of {sampled}"))?;
        }
        if let Some(info) = &self.info {
            let free = HumanBytes(info.free_pages.saturating_mul(info.page_size));
            let (bytes, log) = (HumanBytes(info.bytes), HumanBytes(info.log_bytes));
            line("size", format!("{bytes}, {free} of it free; log {log}"))?;
            line("journal", info.journal.clone())?;
        }
        for (at, (day, count)) in self.days.iter().enumerate() {
            let name = if at == 0 { "by day" } else { "" };
            line(name, format!("{day}  {:>9}", HumanCount(*count).to_string()))?;
        }
        if !self.days.is_empty() {
            line("", format!("before      {:>9}", HumanCount(self.earlier).to_string()))?;
        }
        Ok(())
    }

    fn to_json(&self) -> Json {
        let days: Vec<_> = self
            .days
            .iter()
            .map(|(day, sessions)| json!({ "day": day, "sessions": sessions }))
            .collect();
        json!({
            "at": output::json_time(self.at),
            "table": self.table,
            "live": self.sessions.live,
            "signed_in": self.sessions.signed_in,
            "anonymous": self.sessions.anonymous(),
            "expired": self.sessions.expired,
            "expired_signed_in": self.sessions.expired_signed_in,
            "oldest": self.sessions.oldest.map(output::json_time),
            "newest": self.sessions.newest.map(output::json_time),
            "created": { "days": days, "before": self.earlier },
            "data_bytes": {
                "sampled": self.sizes.sampled,
                "average": self.sizes.average,
                "largest": self.sizes.largest,
            },
            "file": self.info.as_ref().map(info_json),
        })
    }
}

/// Writes a number of sessions, and how many of them have a user.
fn by_user(all: u64, signed_in: u64, anonymous: u64) -> String {
    let [all, signed_in, anonymous] = [all, signed_in, anonymous].map(HumanCount);
    format!("{all}: {signed_in} signed in, {anonymous} anonymous")
}

fn info_json(info: &DatabaseInfo) -> Json {
    json!({
        "path": info.path.display().to_string(),
        "bytes": info.bytes,
        "log_bytes": info.log_bytes,
        "page_size": info.page_size,
        "pages": info.pages,
        "free_pages": info.free_pages,
        "journal": info.journal,
        "schema": info.schema.as_ref().ok(),
        "other_tables": info.other_tables,
    })
}
