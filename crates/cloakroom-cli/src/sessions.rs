//! The commands `list`, `show` and `revoke`.

use std::io::Write;
use std::num::NonZeroUsize;

use cloakroom::id::{IdpSessionId, Realm, UserKey};
use cloakroom::list::{Client, Page, SessionFilter, Summary};
use cloakroom::stores::admin::{Admin, SessionDetails};
use serde_json::{Value as Json, json};

use crate::CliContext;
use crate::arguments::{ListArgs, RevokeArgs, ShowArgs};
use crate::database::count_live;
use crate::error::{CliError, CliResult};
use crate::output::{
    self, PagedTable, Style, ask, json_time, live_sessions_text, one_line, scope, sessions_text,
};

/// The number of sessions that are read and printed at a time, so that a long list needs little
/// memory and no long read transaction.
const PAGE: usize = 5000;

pub(crate) fn list(args: &ListArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = context.database()?.open_for_reading()?;
    let realm = args.realm.as_ref();
    let in_all = args.user.as_ref().map_or(SessionFilter::All, SessionFilter::User);
    let which = in_realm(realm, &in_all);
    let next = |page: Page| {
        if args.expired {
            store.list_expired(&which, page, context.now)
        } else {
            store.session_index().list(&which, page, context.now)
        }
    };
    let mut printer = if args.json {
        Printer::Json { any: false }
    } else {
        let is_shown = |(name, _): &Column| *name != REALM || realm.is_none();
        let columns: Vec<_> = COLUMNS.into_iter().filter(is_shown).collect();
        let header = columns.iter().map(|(name, _)| *name).collect();
        Printer::Table { table: context.style.table(header), columns }
    };
    let mut left = args.limit.get();
    let mut last = None;
    let more = loop {
        // One more than is printed, to know whether there are more.
        let wanted = NonZeroUsize::MIN.saturating_add(left.min(PAGE));
        let mut page = next(match last {
            None => Page::first(wanted),
            Some(last) => Page::after(wanted, last),
        })?;
        let read = page.len();
        page.truncate(left.min(PAGE));
        printer.page(&page, context, out)?;
        left -= page.len();
        last = page.last().map(|summary| summary.cursor);
        if read < wanted.get() || left == 0 {
            break read == wanted.get();
        }
    };
    printer.end(more, out)?;
    let printed = args.limit.get() - left;
    let kind = if args.expired { "expired" } else { "live" };
    let report_none = |message: String| nothing_in(&message, realm, &*store);
    match &args.user {
        _ if printed > 0 => Ok(()),
        Some(user) => report_none(no_session_of(user, kind, &*store, context)?),
        None if realm.is_some() => report_none(format!("there is no {kind} session")),
        None if !args.json => Ok(writeln!(out, "There are none.")?),
        _ => Ok(()),
    }
}

/// Returns `which`, limited to the realm if one was named.
fn in_realm<'a>(realm: Option<&'a Realm>, which: &'a SessionFilter<'a>) -> SessionFilter<'a> {
    realm.map_or(*which, |realm| SessionFilter::InRealm(realm, which))
}

/// Returns the message that a user has no such session. An operator may know users by another name
/// than the application's, so it shows the keys of some other users if this one has no session at
/// all.
fn no_session_of(
    user: &UserKey,
    kind: &str,
    store: &dyn Admin,
    context: &CliContext,
) -> CliResult<String> {
    const NEWEST: usize = 100;
    let message = format!("user {user} has no {kind} session");
    let index = store.session_index();
    let theirs = SessionFilter::User(user);
    let first = Page::first(NonZeroUsize::MIN);
    let newest = Page::first(NonZeroUsize::MIN.saturating_add(NEWEST - 1));
    if !index.list(&theirs, first, context.now)?.is_empty()
        || !store.list_expired(&theirs, first, context.now)?.is_empty()
    {
        return Ok(message);
    }
    let mut users = Vec::new();
    for summary in index.list(&SessionFilter::All, newest, context.now)? {
        users
            .extend(summary.user.map(|user| user.to_string()).filter(|user| !users.contains(user)));
    }
    users.truncate(3);
    Ok(if users.is_empty() {
        message
    } else {
        format!(
            "{message}; users are named as the application names them, here such as {}",
            users.join(", ")
        )
    })
}

/// Reports that nothing matched, and the realms that exist if the named one has no session at all,
/// since its name may be mistyped.
fn nothing_in(message: &str, realm: Option<&Realm>, store: &dyn Admin) -> CliResult {
    const MOST: usize = 10;
    let Some(realm) = realm else {
        return Err(CliError::nothing_matched(message.to_owned()));
    };
    let message = format!("{message} {}", scope(Some(realm)));
    let realms = store.realms()?;
    let mut names = realms.iter().map(Realm::as_str);
    let some = names.by_ref().take(MOST).collect::<Vec<_>>().join(", ");
    Err(CliError::nothing_matched(match names.count() {
        _ if realms.contains(realm) => message,
        _ if realms.is_empty() => format!("{message}; no realm has sessions"),
        0 => format!("{message}; the realms with sessions are {some}"),
        more => format!("{message}; the realms with sessions are {some} and {more} more"),
    }))
}

/// A column of a list: its name, and the text of its cell in the row of a session.
type Column = (&'static str, fn(&Summary, &Style) -> String);

const COLUMNS: [Column; 9] = [
    ("PUBLIC_ID", |session, _| session.public_id.to_string()),
    ("USER", |session, _| session.user.as_ref().map_or("-", UserKey::as_str).to_owned()),
    (REALM, |session, _| session.realm.as_str().to_owned()),
    ("CREATED", |session, style| style.time(session.created)),
    ("SEEN", |session, style| style.time(session.seen)),
    ("DEADLINE", |session, style| style.time(session.deadline)),
    ("ADDRESS", |session, _| {
        let address = session.client.as_ref().and_then(|client| client.address);
        address.map_or("-".to_owned(), |address| address.to_string())
    }),
    ("BYTES", |session, _| session.bytes.to_string()),
    ("AGENT", |session, _| {
        let agent = session.client.as_ref().and_then(|client| client.user_agent.as_deref());
        // `show` prints the whole user agent.
        agent.unwrap_or("-").chars().take(40).collect()
    }),
];

/// The column that is left out if all sessions are of one realm.
const REALM: &str = "REALM";

/// The output of a list, page by page.
enum Printer {
    Json { any: bool },
    Table { table: PagedTable, columns: Vec<Column> },
}

impl Printer {
    fn page(&mut self, page: &[Summary], context: &CliContext, out: &mut dyn Write) -> CliResult {
        match self {
            Printer::Table { table, columns } => {
                let row = |summary: &Summary| {
                    columns.iter().map(|(_, cell)| cell(summary, &context.style)).collect()
                };
                let rows: Vec<_> = page.iter().map(row).collect();
                write!(out, "{}", table.page(&rows))?;
            }
            Printer::Json { any } => {
                for summary in page {
                    let before = if *any { "," } else { "{\"sessions\":[" };
                    *any = true;
                    write!(out, "{before}{}", output::json(&summary_json(summary)))?;
                }
            }
        }
        Ok(())
    }

    fn end(self, more: bool, out: &mut dyn Write) -> CliResult {
        match self {
            Printer::Table { .. } if more => writeln!(out, "There are more; --limit shows them.")?,
            Printer::Table { .. } => {}
            Printer::Json { any } => {
                let before = if any { "" } else { "{\"sessions\":[" };
                writeln!(out, "{before}],\"more\":{more}}}")?;
            }
        }
        Ok(())
    }
}

fn summary_json(summary: &Summary) -> Json {
    let client = summary.client.as_ref();
    json!({
        "public_id": summary.public_id.to_string(),
        "user": summary.user.as_ref().map(UserKey::as_str),
        "realm": summary.realm.as_str(),
        "idp_session_id": summary.idp_session_id.as_ref().map(IdpSessionId::as_str),
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

pub(crate) fn show(args: &ShowArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let found = context.database()?.open_for_reading()?.find(&args.public_id)?;
    let Some(SessionDetails { summary, record, .. }) = found else {
        return Err(CliError::nothing_matched(format!("there is no session {}", args.public_id)));
    };
    let expired = summary.deadline <= context.now;
    let undecodable = record.as_ref().err().map(ToString::to_string);
    let data = match (&record, args.data) {
        (Ok(record), true) => Some(record.data.to_masked_json()),
        _ => None,
    };
    let data = data.as_deref();
    if args.json {
        let mut answer = summary_json(&summary);
        if let Json::Object(answer) = &mut answer {
            answer.insert("expired".to_owned(), json!(expired));
            let revision = record.as_ref().ok().map(|record| record.revision);
            answer.insert("revision".to_owned(), json!(revision));
            answer.insert("undecodable".to_owned(), json!(undecodable));
        }
        let mut answer = output::json(&answer);
        if args.data {
            // The data is printed as it is stored: JSON numbers can exceed every Rust type.
            let data = output::json_text(data.unwrap_or("null"));
            // The closing brace, which comes after the data.
            answer.pop();
            answer.push_str(&format!(",\"data\":{data}}}"));
        }
        return Ok(writeln!(out, "{answer}")?);
    }
    let style = &context.style;
    let mut line = |name: &str, value: &str| writeln!(out, "{}", style.line(13, name, value));
    line("public id", &summary.public_id.to_string())?;
    line("user", summary.user.as_ref().map_or("-", UserKey::as_str))?;
    line("realm", summary.realm.as_str())?;
    if let Some(id) = &summary.idp_session_id {
        line("idp session", id.as_str())?;
    }
    line("level", &summary.auth_level.to_string())?;
    line("created", &style.time(summary.created))?;
    line("signed in", &summary.authenticated.map_or("-".to_owned(), |time| style.time(time)))?;
    line("seen", &style.time(summary.seen))?;
    let mark = if expired { " (expired)" } else { "" };
    line("deadline", &format!("{}{mark}", style.time(summary.deadline)))?;
    if let Some(Client { address, user_agent, .. }) = &summary.client {
        line("address", &address.map_or("-".to_owned(), |address| address.to_string()))?;
        line("agent", user_agent.as_deref().unwrap_or("-"))?;
    }
    line("persistent", if summary.persistent { "yes" } else { "no" })?;
    line("data", &format!("{} bytes", summary.bytes))?;
    if let Some(why) = undecodable {
        line("undecodable", &why)?;
    }
    if let Some(data) = data {
        writeln!(out, "{}", output::json_text(data))?;
    }
    Ok(())
}

pub(crate) fn revoke(args: &RevokeArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = &*context.database()?.open()?;
    let now = context.now;
    let realm = args.realm.as_ref();
    let scope = scope(realm);
    if args.all {
        let live = count_live(store, realm, context.now)?;
        if realm.is_some() && live == Some(0) {
            return nothing_in("there is no live session", realm, store);
        }
        let live = live_sessions_text(live);
        let name = store.description();
        let who = if realm.is_some() { "its users" } else { "all users" };
        let about = format!("This ends {live} of {name}, {scope}: {who} have to sign in again.");
        ask(&about, args.yes)?;
        let ended = store.session_index().revoke_everyone(realm, now)?;
        return Ok(writeln!(out, "ended {} {}", sessions_text(ended), one_line(&scope))?);
    }
    let (which, nothing) = match (&args.user, &args.except, &args.public_id) {
        (Some(user), Some(except), _) => {
            // Checked first, so that a mistyped public id ends no session.
            let theirs = SessionFilter::PublicIdOfUser(user, except);
            let kept = Page::first(NonZeroUsize::MIN);
            if store.session_index().list(&in_realm(realm, &theirs), kept, now)?.is_empty() {
                let message =
                    format!("nothing was ended, since user {user} has no live session {except}");
                return nothing_in(&message, realm, store);
            }
            (SessionFilter::User(user), format!("user {user} has no other live session"))
        }
        (Some(user), None, _) => {
            (SessionFilter::User(user), no_session_of(user, "live", store, context)?)
        }
        (None, _, Some(public_id)) => {
            (SessionFilter::PublicId(public_id), format!("there is no live session {public_id}"))
        }
        (None, _, None) => return Err(CliError::usage("give a public id, --user or --all")),
    };
    let ended = store.revoke(&in_realm(realm, &which), args.except.as_ref(), now)?;
    if ended == 0 {
        return nothing_in(&nothing, realm, store);
    }
    let ended = sessions_text(ended);
    match which {
        // One session is of one realm, so that its name adds nothing.
        SessionFilter::PublicId(_) => writeln!(out, "ended {ended}")?,
        _ => writeln!(out, "ended {ended} {}", one_line(&scope))?,
    }
    Ok(())
}
