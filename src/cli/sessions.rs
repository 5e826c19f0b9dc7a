//! Sessions, one by one: listing, showing, ending.

use std::io::Write;
use std::num::NonZeroUsize;

use serde_json::{Value as Json, json};

use crate::backend::{Page, SessionFilter, SessionIndex, Store};
use crate::cli::Context;
use crate::cli::arguments::{List, Revoke, Show};
use crate::cli::failure::{Done, Failure};
use crate::cli::output::{self, Colour, Table, ask, json_time, one_line};
use crate::cli::tables::{count_live, live_sessions, sessions, within};
use crate::cli::target::Place;
use crate::error::Result as StoreResult;
use crate::id::{PublicId, Realm, UserKey};
use crate::record::{Client, Summary};
use crate::stores::sqlite::{SessionDetails, SqliteStore};

/// Sessions that are read, and shown, at a time: so that a long list needs little memory and
/// holds no old state of the database.
const PAGE: usize = 5000;

fn index(store: &SqliteStore) -> Result<&dyn SessionIndex, Failure> {
    store.index().ok_or_else(|| Failure::new("this store cannot list its sessions"))
}

pub(super) fn list(args: &List, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store_to_read()?;
    let index = index(&store)?;
    let realm = args.realm.as_ref();
    let of_all = args.user.as_ref().map_or(SessionFilter::All, SessionFilter::User);
    let which = in_realm(realm, &of_all);
    let next = |page: Page| -> StoreResult<Vec<Summary>> {
        match args.expired {
            true => store.list_expired(&which, page, context.now),
            false => index.list(&which, page, context.now),
        }
    };
    let mut shown = match args.json {
        true => Shown::Json { any: false },
        false => {
            let shows_realm = realm.is_none();
            let header: &[&str] = if shows_realm { &HEADER } else { &HEADER_IN_REALM };
            Shown::Table { table: context.style.table(header), shows_realm }
        }
    };
    let (mut left, mut last) = (args.limit.get(), None);
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
    let kind = if args.expired { "expired" } else { "live" };
    match &args.user {
        _ if any => Ok(Done::Well),
        Some(user) => nothing_in(&format!("user {user} has no {kind} session"), realm, &store),
        None if realm.is_some() => {
            nothing_in(&format!("there is no {kind} session"), realm, &store)
        }
        None if !args.json => {
            writeln!(out, "There are none.")?;
            Ok(Done::Well)
        }
        _ => Ok(Done::Well),
    }
}

/// Those among `which` that are of the realm, if one was named.
fn in_realm<'a>(realm: Option<&'a Realm>, which: &'a SessionFilter<'a>) -> SessionFilter<'a> {
    realm.map_or(*which, |realm| SessionFilter::InRealm(realm, which))
}

/// Says that nothing is there, and which realms there are if the one that was named has nothing at
/// all: perhaps its name was mistyped.
fn nothing_in(words: &str, realm: Option<&Realm>, store: &SqliteStore) -> Result<Done, Failure> {
    const MOST: usize = 10;
    let Some(realm) = realm else { return Ok(Done::Nothing(words.to_owned())) };
    let words = format!("{words} {}", within(Some(realm)));
    let realms = store.realms()?;
    let mut names = realms.iter().map(Realm::as_str);
    let some = names.by_ref().take(MOST).collect::<Vec<_>>().join(", ");
    Ok(Done::Nothing(match names.count() {
        _ if realms.contains(realm) => words,
        _ if realms.is_empty() => format!("{words}; no realm has sessions"),
        0 => format!("{words}; the realms with sessions are {some}"),
        more => format!("{words}; the realms with sessions are {some} and {more} more"),
    }))
}

const HEADER: [&str; 9] =
    ["HANDLE", "USER", "REALM", "BEGUN", "SEEN", "DEADLINE", "ADDRESS", "BYTES", "AGENT"];

/// The same where all are of one realm.
const HEADER_IN_REALM: [&str; 8] =
    ["HANDLE", "USER", "BEGUN", "SEEN", "DEADLINE", "ADDRESS", "BYTES", "AGENT"];

/// A list on its way out, page by page.
enum Shown {
    Json { any: bool },
    Table { table: Table, shows_realm: bool },
}

impl Shown {
    fn page(
        &mut self,
        page: &[Summary],
        context: &Context,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        match self {
            Shown::Table { table, shows_realm } => {
                let row = |summary| row(summary, *shows_realm, context);
                let rows: Vec<_> = page.iter().map(row).collect();
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
            Shown::Table { .. } if more => writeln!(out, "There are more; --limit shows them.")?,
            Shown::Table { .. } => {}
            Shown::Json { any } => {
                let before = if any { "" } else { "{\"sessions\":[" };
                writeln!(out, "{before}],\"more\":{more}}}")?;
            }
        }
        Ok(())
    }
}

fn row(summary: &Summary, shows_realm: bool, context: &Context) -> Vec<String> {
    let style = &context.style;
    let client = summary.client.as_ref();
    let address = client.and_then(|client| client.address);
    let agent = client.and_then(|client| client.user_agent.as_deref()).unwrap_or("-");
    // Whole user agents are for `show`.
    let short: String = agent.chars().take(40).collect();
    let mut row = vec![
        summary.public_id.to_string(),
        summary.user.as_ref().map_or("-".to_owned(), ToString::to_string),
    ];
    if shows_realm {
        row.push(summary.realm.as_str().to_owned());
    }
    row.extend([
        style.time(summary.created),
        style.time(summary.seen),
        style.time(summary.deadline),
        address.map_or("-".to_owned(), |address| address.to_string()),
        summary.bytes.to_string(),
        short,
    ]);
    row
}

fn summary_json(summary: &Summary) -> Json {
    let client = summary.client.as_ref();
    json!({
        "handle": summary.public_id.to_string(),
        "user": summary.user.as_ref().map(UserKey::as_str),
        "realm": summary.realm.as_str(),
        "external_key": summary.idp_session_id.as_ref().map(|key| key.as_str()),
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

pub(super) fn show(args: &Show, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store_to_read()?;
    let Some(SessionDetails { summary, record, .. }) = store.find(&args.public_id)? else {
        return Ok(nothing_of(&args.public_id));
    };
    let expired = summary.deadline <= context.now;
    let undecodable = record.as_ref().err().map(ToString::to_string);
    let data = match (&record, args.data) {
        (Ok(record), true) => Some(record.data.as_json()),
        _ => None,
    };
    if args.json {
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
            Some(answer) if args.data => {
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
    line("handle", &summary.public_id.to_string())?;
    line("user", summary.user.as_ref().map_or("-", UserKey::as_str))?;
    line("realm", summary.realm.as_str())?;
    if let Some(key) = &summary.idp_session_id {
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

fn nothing_of(public_id: &PublicId) -> Done {
    Done::Nothing(format!("there is no session {public_id}"))
}

pub(super) fn revoke(
    args: &Revoke,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let store = context.place.store()?;
    let index = index(&store)?;
    let (now, realm) = (context.now, args.realm.as_ref());
    let within = within(realm);
    if args.all {
        let live = count_live(&store, context, realm)?;
        if realm.is_some() && live == Some(0) {
            return nothing_in("there is no live session", realm, &store);
        }
        let (live, name) = (live_sessions(live), Place::name(&store));
        let who = if realm.is_some() { "everyone there" } else { "everyone" };
        let about = format!("This ends {live} of {name}, {within}: {who} has to sign in again.");
        ask(&about, args.yes)?;
        context.in_front.check(now)?;
        let ended = index.revoke_everyone(realm, now)?;
        context.in_front.forget_everything(now)?;
        writeln!(out, "ended {} {}", sessions(ended), one_line(&within))?;
        return Ok(Done::Well);
    }
    context.in_front.check(now)?;
    let (which, nothing) = match (&args.user, &args.except, &args.public_id) {
        (Some(user), Some(except), _) => {
            // With a slip in the handle nobody is signed out by mistake.
            let theirs = SessionFilter::OfUser(user, except);
            let kept = Page::first(NonZeroUsize::MIN);
            if index.list(&in_realm(realm, &theirs), kept, now)?.is_empty() {
                let words =
                    format!("nothing was ended, since user {user} has no live session {except}");
                return nothing_in(&words, realm, &store);
            }
            (SessionFilter::User(user), format!("user {user} has no other live session"))
        }
        (Some(user), None, _) => {
            (SessionFilter::User(user), format!("user {user} has no live session"))
        }
        (None, _, Some(public_id)) => {
            (SessionFilter::PublicId(public_id), format!("there is no live session {public_id}"))
        }
        (None, _, None) => return Err(Failure::usage("say which: a handle, --user or --all")),
    };
    let ended = index.revoke(&in_realm(realm, &which), args.except.as_ref(), now)?;
    if ended.is_empty() {
        return nothing_in(&nothing, realm, &store);
    }
    context.in_front.forget(&ended, now)?;
    let ended = sessions(u64::try_from(ended.len()).unwrap_or(u64::MAX));
    match which {
        // One session is of one realm, whichever that is.
        SessionFilter::PublicId(_) => writeln!(out, "ended {ended}")?,
        _ => writeln!(out, "ended {ended} {}", one_line(&within))?,
    }
    Ok(Done::Well)
}
