//! Sessions, one by one: listing, showing, ending.

use std::io::Write;
use std::num::NonZeroUsize;

use serde_json::{Value as Json, json};

use crate::cli::Context;
use crate::cli::arguments::{List, Revoke, Show};
use crate::cli::failure::{Done, Failure};
use crate::cli::output::{self, Colour, Table, ask, json_time, one_line};
use crate::cli::tables::{live_sessions, sessions};
use crate::cli::target::Place;
use crate::error::Result as StoreResult;
use crate::id::{Handle, UserKey};
use crate::record::{Client, Summary};
use crate::store::sqlite::{Found, SqliteStore};
use crate::store::{Page, Registry, Store, Which};

/// Sessions that are read, and shown, at a time: so that a long list needs little memory and
/// holds no old state of the database.
const PAGE: usize = 5000;

fn registry(store: &SqliteStore) -> Result<&dyn Registry, Failure> {
    store.registry().ok_or_else(|| Failure::new("this store cannot list its sessions"))
}

pub(super) fn list(given: &List, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store_to_read()?;
    let registry = registry(&store)?;
    let which = given.user.as_ref().map_or(Which::All, Which::User);
    let next = |page: Page| -> StoreResult<Vec<Summary>> {
        match given.expired {
            true => store.list_ended(given.user.as_ref(), page, context.now),
            false => registry.list(&which, page, context.now),
        }
    };
    let mut shown = match given.json {
        true => Shown::Json { any: false },
        false => Shown::Table(context.style.table(&HEADER)),
    };
    let (mut left, mut last) = (given.limit.get(), None);
    let (mut any, mut more) = (false, false);
    loop {
        // One more than is shown tells whether there are more.
        let wanted = NonZeroUsize::MIN.saturating_add(left.min(PAGE));
        let mut page = next(Page { after: last, limit: wanted })?;
        let read = page.len();
        page.truncate(left.min(PAGE));
        shown.page(&page, context, out)?;
        any |= !page.is_empty();
        left -= page.len();
        last = page.last().map(|summary| summary.cursor);
        if read < wanted.get() {
            break;
        }
        if left == 0 {
            more = true;
            break;
        }
    }
    shown.end(more, out)?;
    match &given.user {
        Some(user) if !any => {
            let kind = if given.expired { "expired" } else { "live" };
            Ok(Done::Nothing(format!("user {user} has no {kind} session")))
        }
        None if !any && !given.json => {
            writeln!(out, "There are none.")?;
            Ok(Done::Well)
        }
        _ => Ok(Done::Well),
    }
}

const HEADER: [&str; 8] =
    ["HANDLE", "USER", "BEGUN", "SEEN", "DEADLINE", "ADDRESS", "BYTES", "AGENT"];

/// A list on its way out, page by page.
enum Shown {
    Json { any: bool },
    Table(Table),
}

impl Shown {
    fn page(
        &mut self,
        page: &[Summary],
        context: &Context,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        match self {
            Shown::Table(table) => {
                let rows: Vec<_> = page.iter().map(|summary| row(summary, context)).collect();
                write!(out, "{}", table.page(&rows))?;
            }
            Shown::Json { any } => {
                for summary in page {
                    let before = if *any { "," } else { "{\"sessions\":[" };
                    *any = true;
                    write!(out, "{before}{}", output::json(&summary_json(summary)))?;
                }
            }
        }
        Ok(())
    }

    fn end(self, more: bool, out: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Shown::Table(_) if more => writeln!(out, "There are more; --limit shows them.")?,
            Shown::Table(_) => {}
            Shown::Json { any } => {
                let before = if any { "" } else { "{\"sessions\":[" };
                writeln!(out, "{before}],\"more\":{more}}}")?;
            }
        }
        Ok(())
    }
}

fn row(summary: &Summary, context: &Context) -> Vec<String> {
    let style = &context.style;
    let client = summary.client.as_ref();
    let address = client.and_then(|client| client.address);
    let agent = client.and_then(|client| client.user_agent.as_deref()).unwrap_or("-");
    // Whole user agents are for `show`.
    let short: String = agent.chars().take(40).collect();
    vec![
        summary.handle.to_string(),
        summary.user.as_ref().map_or("-".to_owned(), ToString::to_string),
        style.time(summary.created),
        style.time(summary.seen),
        style.time(summary.deadline),
        address.map_or("-".to_owned(), |address| address.to_string()),
        summary.bytes.to_string(),
        short,
    ]
}

fn summary_json(summary: &Summary) -> Json {
    let client = summary.client.as_ref();
    json!({
        "handle": summary.handle.to_string(),
        "user": summary.user.as_ref().map(UserKey::as_str),
        "external_key": summary.external_key.as_ref().map(|key| key.as_str()),
        "auth_level": summary.auth_level,
        "created": json_time(summary.created),
        "authenticated": summary.authenticated.map(json_time),
        "seen": json_time(summary.seen),
        "deadline": json_time(summary.deadline),
        "persistent": summary.persistent,
        "address": client.and_then(|client| client.address).map(|address| address.to_string()),
        "user_agent": client.and_then(|client| client.user_agent.as_deref()),
        "bytes": summary.bytes,
    })
}

pub(super) fn show(given: &Show, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store_to_read()?;
    let Some(Found { summary, record, .. }) = store.find(&given.handle)? else {
        return Ok(nothing_of(&given.handle));
    };
    let expired = summary.deadline <= context.now;
    let undecodable = record.as_ref().err().map(ToString::to_string);
    let data = match (&record, given.data) {
        (Ok(record), true) => Some(record.data.as_json()),
        _ => None,
    };
    if given.json {
        let mut answer = summary_json(&summary);
        if let Json::Object(answer) = &mut answer {
            answer.insert("expired".to_owned(), json!(expired));
            let revision = record.as_ref().ok().map(|record| record.revision);
            answer.insert("revision".to_owned(), json!(revision));
            answer.insert("undecodable".to_owned(), json!(undecodable));
        }
        let answer = output::json(&answer);
        match answer.strip_suffix('}') {
            // The data stays as it is stored: not every number in it is one that we can read.
            Some(answer) if given.data => {
                let data = output::json_text(data.unwrap_or("null"), false);
                writeln!(out, "{answer},\"data\":{data}}}")?;
            }
            _ => writeln!(out, "{answer}")?,
        }
        return Ok(Done::Well);
    }
    let style = &context.style;
    let mut line = |name: &str, words: &str| {
        writeln!(out, "{} {}", style.paint(Colour::Bold, &format!("{name:<13}")), one_line(words))
    };
    line("handle", &summary.handle.to_string())?;
    line("user", summary.user.as_ref().map_or("-", UserKey::as_str))?;
    if let Some(key) = &summary.external_key {
        line("external key", key.as_str())?;
    }
    line("level", &summary.auth_level.to_string())?;
    line("begun", &style.time(summary.created))?;
    line("signed in", &summary.authenticated.map_or("-".to_owned(), |time| style.time(time)))?;
    line("seen", &style.time(summary.seen))?;
    let mark = if expired { " (expired)" } else { "" };
    line("deadline", &format!("{}{mark}", style.time(summary.deadline)))?;
    if let Some(Client { address, user_agent, .. }) = &summary.client {
        line("address", &address.map_or("-".to_owned(), |address| address.to_string()))?;
        line("agent", user_agent.as_deref().unwrap_or("-"))?;
    }
    line("remembered", if summary.persistent { "yes" } else { "no" })?;
    line("data", &format!("{} bytes", summary.bytes))?;
    if let Some(why) = undecodable {
        line("undecodable", &why)?;
    }
    if let Some(data) = data {
        writeln!(out, "{}", output::json_text(data, true))?;
    }
    Ok(Done::Well)
}

fn nothing_of(handle: &Handle) -> Done {
    Done::Nothing(format!("there is no session {handle}"))
}

pub(super) fn revoke(
    given: &Revoke,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let store = context.place.store()?;
    let registry = registry(&store)?;
    let now = context.now;
    if given.all {
        let name = Place::name(&store);
        let live = live_sessions(&store, context)?;
        ask(&format!("This ends {live} of {name}: everyone has to sign in again."), given.yes)?;
        context.in_front.check(now)?;
        let ended = registry.revoke_everyone(None, now)?;
        context.in_front.forget_everything(now)?;
        writeln!(out, "ended {}", sessions(ended))?;
        return Ok(Done::Well);
    }
    context.in_front.check(now)?;
    let (ended, nothing) = match (&given.user, &given.except, &given.handle) {
        (Some(user), Some(except), _) => {
            // With a slip in the handle nobody is signed out by mistake.
            let theirs = Which::OfUser(user, except);
            if registry.list(&theirs, Page::first(NonZeroUsize::MIN), now)?.is_empty() {
                let words = format!("user {user} has no live session {except}; nothing was ended");
                return Ok(Done::Nothing(words));
            }
            let ended = registry.revoke(&Which::User(user), Some(except), now)?;
            (ended, format!("user {user} has no other live session"))
        }
        (Some(user), None, _) => {
            let ended = registry.revoke(&Which::User(user), None, now)?;
            (ended, format!("user {user} has no live session"))
        }
        (None, _, Some(handle)) => {
            let ended = registry.revoke(&Which::Handle(handle), None, now)?;
            (ended, format!("there is no live session {handle}"))
        }
        (None, _, None) => return Err(Failure::usage("say which: a handle, --user or --all")),
    };
    if ended.is_empty() {
        return Ok(Done::Nothing(nothing));
    }
    context.in_front.forget(&ended, now)?;
    writeln!(out, "ended {}", sessions(u64::try_from(ended.len()).unwrap_or(u64::MAX)))?;
    Ok(Done::Well)
}
