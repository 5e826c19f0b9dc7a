//! The text of a sequence, line by line, with numbers in place of random values: `k0` is an id
//! hash, `h0` a public id, `c0` a cookie or header that carries an id.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;

use cloakroom::adapter::ResponseHeaders;
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, Expected, LiveSession, Loaded, Record, Unreadable,
};
use cloakroom::event::Event;
use cloakroom::id::{JoinSalt, PublicId, SessionIdHash};
use cloakroom::{Result, UserKey};

use crate::common::NOW;

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) text: String,
    id_hashes: HashMap<SessionIdHash, usize>,
    public_ids: HashMap<PublicId, usize>,
    cookies: HashMap<String, usize>,
    /// The salts of sign-ins, with the new ids.
    salted: Vec<(JoinSalt, SessionIdHash)>,
}

fn number<K: Hash + Eq>(seen: &mut HashMap<K, usize>, item: K) -> usize {
    let next = seen.len();
    *seen.entry(item).or_insert(next)
}

fn value_text(name: &str, value: &str) -> String {
    match name.strip_prefix("cloakroom.") {
        // A flash message has a random mark.
        Some("flash") => format!("{} flashes", value.matches("\"mark\"").count()),
        // A secret is random.
        Some(own) => own.to_owned(),
        None => format!("{name}={value}"),
    }
}

fn delta_text(delta: &Delta) -> String {
    let changes = delta.iter().map(|(name, value)| match value {
        Some(value) => value_text(name, value.as_json()),
        None => format!("no {}", name.trim_start_matches("cloakroom.")),
    });
    let changes = delta.is_clear().then(|| "clear".to_owned()).into_iter().chain(changes);
    format!("[{}]", changes.collect::<Vec<_>>().join(", "))
}

impl Trace {
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub(super) fn id_hash(&mut self, id_hash: &SessionIdHash) -> String {
        format!("k{}", number(&mut self.id_hashes, *id_hash))
    }

    pub(super) fn public_id(&mut self, public_id: Option<&PublicId>) -> String {
        public_id.map_or_else(|| "-".into(), |it| format!("h{}", number(&mut self.public_ids, *it)))
    }

    pub(super) fn cookie(&mut self, cookie: &str) -> String {
        format!("c{}", number(&mut self.cookies, cookie.to_owned()))
    }

    fn session(&mut self, LiveSession { record, id_hash }: &LiveSession) -> String {
        format!("{} {}", self.id_hash(id_hash), self.record(record))
    }

    fn record(&mut self, record: &Record) -> String {
        let values: Vec<String> =
            record.data.iter().map(|(name, value)| value_text(name, value.as_json())).collect();
        let mut text =
            format!("{} revision {}", self.public_id(Some(&record.public_id)), record.revision);
        if let (Some(user), Some(at)) = (&record.user, record.authenticated) {
            let _ = write!(text, " {} since {}", user.as_str(), at.since(NOW).as_secs());
        }
        let until_closed = if record.persistent { "" } else { " until the browser closes" };
        let seen = record.seen.since(NOW).as_secs();
        let _ = write!(text, " seen {seen}{until_closed} [{}]", values.join(", "));
        text
    }

    fn unreadable(&mut self, unreadable: &Unreadable) -> String {
        match unreadable {
            Unreadable::Replaced { replaced, session, .. } => {
                format!(
                    "{} was replaced by {}",
                    self.id_hash(&replaced.id_hash),
                    self.session(session)
                )
            }
            Unreadable::NotFound { .. } => "not found".into(),
            other => format!("{other:?}"),
        }
    }

    pub(super) fn loaded(&mut self, loaded: &Result<Loaded>) -> String {
        match loaded {
            Ok(Loaded::Live(session)) => self.session(session),
            Ok(Loaded::Unreadable(unreadable)) => self.unreadable(unreadable),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    pub(super) fn commit(&mut self, commit: &Commit) -> String {
        let cookie = |persistent| if persistent { "" } else { " until the browser closes" };
        let mut text = format!("commit {} ", self.id_hash(&commit.id_hash));
        match &commit.action {
            Action::Create(new_session) => {
                let _ = write!(text, "create{}", cookie(new_session.persistent));
            }
            Action::Merge => text.push_str("merge"),
            Action::Renew { to, grace_until } => {
                let _ = write!(text, "renew to {}", self.id_hash(to));
                if let Some(until) = grace_until {
                    let _ = write!(text, " grace until {}", until.since(NOW).as_secs());
                }
            }
            Action::SignIn { to, user, new_session, join_salt } => {
                self.salted.extend(join_salt.map(|salt| (salt, *to)));
                let (user, to) = (user.as_str(), self.id_hash(to));
                let joinable = if join_salt.is_some() { " joinable" } else { "" };
                let persistent = cookie(new_session.persistent);
                let _ = write!(text, "sign in {user} to {to}{persistent}{joinable}");
            }
            Action::End => text.push_str("end"),
            other => panic!("{other:?}"),
        }
        let _ = write!(text, " {}", delta_text(&commit.delta));
        match commit.expected {
            Expected::Revision(revision) => drop(write!(text, " if revision {revision}")),
            Expected::NoSession => text.push_str(" if no session"),
            _ => {}
        }
        if let Some(touch) = commit.touch {
            let _ = write!(text, " touch {}", touch.seen.since(NOW).as_secs());
        }
        if commit.max_sessions.is_some() {
            text.push_str(" limit");
        }
        text
    }

    pub(super) fn answer(&mut self, answer: &Result<CommitAnswer>) -> String {
        match answer {
            Ok(done @ CommitAnswer::Done { session, .. }) => {
                let mut retired: Vec<_> =
                    done.ids_to_invalidate().map(|id| self.id_hash(&id)).collect();
                retired.sort();
                let retires = if retired.is_empty() { "" } else { ", retires " };
                format!("done {}{retires}{}", self.session(session), retired.join(" "))
            }
            Ok(CommitAnswer::Unchanged(session)) => format!("unchanged {}", self.session(session)),
            Ok(CommitAnswer::Ended(ended)) => format!("ended {}", self.id_hash(&ended.id_hash)),
            Ok(CommitAnswer::RevisionMismatch(session)) => {
                format!("revision mismatch {}", self.session(session))
            }
            Ok(CommitAnswer::CanJoin { salt }) => {
                let salted = self.salted.iter().find(|(its_salt, _)| its_salt == salt);
                let to = salted.expect("the salt of a sign-in").1;
                format!("can join {}", self.id_hash(&to))
            }
            Ok(CommitAnswer::Unreadable(unreadable)) => self.unreadable(unreadable),
            Ok(CommitAnswer::SignInRefused) => "too many sessions".into(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    /// The label of the event, its session and what else tells it from others.
    pub(super) fn event(&mut self, event: &Event<'_>) -> String {
        let label = event.kind().as_str();
        let rest = match event {
            Event::Created { public_id }
            | Event::Renewed { public_id }
            | Event::ReplacedIdUsed { public_id, .. } => self.public_id(Some(public_id)),
            Event::ChangesDiscarded { public_id }
            | Event::SessionNotClosed { public_id }
            | Event::WrongType { public_id, .. } => self.public_id(*public_id),
            Event::SignedIn { public_id, user, .. } => {
                format!("{} {}", self.public_id(Some(public_id)), user.as_str())
            }
            Event::SignInRefused { user } => user.as_str().to_owned(),
            Event::Ended { public_id, user, reason, revoked_by, .. } => {
                let user = user.map_or("anonymous", UserKey::as_str);
                let by = revoked_by.map_or(String::new(), |user| format!(" by {}", user.as_str()));
                format!("{} {user} {reason:?}{by}", self.public_id(*public_id))
            }
            Event::Revoked { sessions, .. } => sessions.to_string(),
            Event::IdGuessing { count, .. } => count.to_string(),
            Event::TouchFailed { error, .. } | Event::TreatedAsAnonymous { error } => {
                format!("{:?}", error.kind())
            }
            _ => String::new(),
        };
        format!("event {label} {rest}").trim_end().to_owned()
    }

    /// The fields with an id or a removal, each with its `Max-Age`, and the other headers.
    pub(super) fn headers(&mut self, headers: &ResponseHeaders) -> String {
        let mut parts = Vec::new();
        for (name, value) in &headers.id_fields {
            let (pair, attributes) = value.split_once(';').unwrap_or((value, ""));
            let max_age = attributes.split("; ").find(|part| part.starts_with("Max-Age"));
            let pair = if carries_id(pair) { self.cookie(pair) } else { pair.to_owned() };
            parts.push(format!("{name}: {pair} {}", max_age.unwrap_or_default()));
        }
        let flags = [
            (headers.vary_on.is_some(), "vary"),
            (headers.discarded, "discarded"),
            (headers.no_store, "no-store"),
            (headers.clear_site_data, "clear-site-data"),
        ];
        parts
            .extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| (*flag).to_owned()));
        parts.join(", ")
    }
}

/// Whether this cookie pair, or this value of a header, carries an id.
pub(super) fn carries_id(pair: &str) -> bool {
    pair.len() > 40
}
