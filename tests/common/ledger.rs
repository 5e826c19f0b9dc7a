//! Records the operations that a store acknowledged to workers, and checks that it kept them.
//!
//! A worker says each change before it begins and after it was acknowledged. What was acknowledged
//! must stand; what was only begun may stand or not, but as a whole.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::str::FromStr;

use cloakroom::backend::{LiveSession, Loaded, ReplacedId, Store, Unreadable};
use cloakroom::id::SessionIdHash;

use crate::common::{NOW, hex, id_hash_of, value};

/// A change to one session, or to several at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session begins with `n` = 0. Any process can sweep a brief one.
    Create { session: String, id_hash: SessionIdHash, brief: bool },
    /// `n` is set.
    Merge { session: String, n: u64 },
    /// Activity is recorded at this time.
    Touch { session: String, seen: i64 },
    /// The session gets a new id; the one before goes on for a while, or not.
    Renew { session: String, id_hash: SessionIdHash, grace: bool },
    /// The session gets a new id and a user, and the other sessions of that user end. Where there
    /// is no session any more, one begins with this `n`.
    SignIn { session: String, id_hash: SessionIdHash, n: u64, user: String, ends: Vec<String> },
    /// These sessions end.
    End { sessions: Vec<String> },
    /// Expired sessions are removed, this one too.
    Sweep { session: String },
    /// Every session ends.
    Everyone,
}

impl Change {
    pub fn sessions(&self) -> Vec<&String> {
        match self {
            Change::Create { session, .. }
            | Change::Merge { session, .. }
            | Change::Touch { session, .. }
            | Change::Renew { session, .. }
            | Change::Sweep { session } => vec![session],
            Change::SignIn { session, ends, .. } => std::iter::once(session).chain(ends).collect(),
            Change::End { sessions } => sessions.iter().collect(),
            Change::Everyone => vec![],
        }
    }

    /// True if it ends a session, an id, or a user's access.
    pub fn is_revocation(&self) -> bool {
        match self {
            // A swept session had expired before.
            Change::Create { .. }
            | Change::Merge { .. }
            | Change::Touch { .. }
            | Change::Sweep { .. } => false,
            Change::Renew { .. }
            | Change::SignIn { .. }
            | Change::End { .. }
            | Change::Everyone => true,
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create { session, id_hash, brief } => {
                write!(f, "create {session} {} {brief}", hex(id_hash))
            }
            Change::Merge { session, n } => write!(f, "merge {session} {n}"),
            Change::Touch { session, seen } => write!(f, "touch {session} {seen}"),
            Change::Renew { session, id_hash, grace } => {
                write!(f, "renew {session} {} {grace}", hex(id_hash))
            }
            Change::SignIn { session, id_hash, n, user, ends } => {
                write!(f, "sign-in {session} {} {n} {user} {}", hex(id_hash), ends.join(" "))
            }
            Change::End { sessions } => write!(f, "end {}", sessions.join(" ")),
            Change::Sweep { session } => write!(f, "sweep {session}"),
            Change::Everyone => f.write_str("everyone"),
        }
    }
}

impl FromStr for Change {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Ok(match words[..] {
            ["create", session, id_hash, brief] => Change::Create {
                session: session.to_owned(),
                id_hash: id_hash_of(id_hash),
                brief: brief.parse().map_err(drop)?,
            },
            ["merge", session, n] => {
                Change::Merge { session: session.to_owned(), n: n.parse().map_err(drop)? }
            }
            ["touch", session, seen] => {
                Change::Touch { session: session.to_owned(), seen: seen.parse().map_err(drop)? }
            }
            ["renew", session, id_hash, grace] => Change::Renew {
                session: session.to_owned(),
                id_hash: id_hash_of(id_hash),
                grace: grace.parse().map_err(drop)?,
            },
            ["sign-in", session, id_hash, n, user, ref ends @ ..] => Change::SignIn {
                session: session.to_owned(),
                id_hash: id_hash_of(id_hash),
                n: n.parse().map_err(drop)?,
                user: user.to_owned(),
                ends: owned(ends),
            },
            ["end", ref sessions @ ..] => Change::End { sessions: owned(sessions) },
            ["sweep", session] => Change::Sweep { session: session.to_owned() },
            ["everyone"] => Change::Everyone,
            _ => return Err(()),
        })
    }
}

/// A message of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerMessage {
    /// The change comes next.
    Begins(Change),
    /// The change it began was acknowledged.
    Done,
    /// The change it began was answered with: there is no such session.
    Gone,
    /// The change it began failed; whether it was made is not known.
    Failed,
}

impl Display for WorkerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerMessage::Begins(change) => write!(f, "begins {change}"),
            WorkerMessage::Done => f.write_str("done"),
            WorkerMessage::Gone => f.write_str("gone"),
            WorkerMessage::Failed => f.write_str("failed"),
        }
    }
}

impl FromStr for WorkerMessage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "done" => Ok(WorkerMessage::Done),
            "gone" => Ok(WorkerMessage::Gone),
            "failed" => Ok(WorkerMessage::Failed),
            _ => text.strip_prefix("begins ").ok_or(())?.parse().map(WorkerMessage::Begins),
        }
    }
}

#[derive(Clone, Debug)]
struct Expected {
    id_hash: SessionIdHash,
    n: u64,
    /// The time of its last activity, if that is known.
    seen: Option<i64>,
    user: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct TrackedSession {
    /// `None` when it has ended.
    now: Option<Expected>,
    /// The id hashes before the last renewals, the oldest first, and whether each is in its grace,
    /// in which it finds the session too. A renewal without grace ends the graces of all.
    replaced: VecDeque<(SessionIdHash, bool)>,
    /// Id hashes in their grace that a store need not remember, because enough later ones were replaced.
    /// It may, where a sweep has made room.
    evicted_graces: Vec<SessionIdHash>,
    /// Id hashes that must find nothing.
    ended: Vec<SessionIdHash>,
    /// Another process may have ended it.
    maybe_ended: bool,
    /// Any sweep may end it.
    brief: bool,
}

impl TrackedSession {
    fn end(&mut self) {
        self.ended.extend(self.replaced.drain(..).map(|(id_hash, _)| id_hash));
        self.ended.append(&mut self.evicted_graces);
        self.ended.extend(self.now.take().map(|now| now.id_hash));
        self.maybe_ended = false;
    }

    /// The difference between it and the store, if there is one.
    fn wrong(&self, store: &dyn Store) -> Option<String> {
        let dead = self.replaced.iter().filter(|(_, grace)| !grace).map(|(id_hash, _)| id_hash);
        for id_hash in self.ended.iter().chain(dead) {
            match store.load(id_hash, NOW).unwrap() {
                Loaded::Unreadable(Unreadable::NotFound { .. })
                | Loaded::Unreadable(Unreadable::Replaced { .. }) => {}
                found => return Some(format!("an ended id finds {found:?}")),
            }
        }
        let now = self.now.as_ref()?;
        for (grace, _) in self.replaced.iter().filter(|(_, grace)| *grace) {
            match store.load(grace, NOW).unwrap() {
                Loaded::Live(LiveSession { id_hash, .. }) if id_hash == now.id_hash => {}
                found => return Some(format!("the grace of {now:?} finds {found:?}")),
            }
        }
        for id_hash in &self.evicted_graces {
            match store.load(id_hash, NOW).unwrap() {
                Loaded::Live(LiveSession { id_hash, .. }) if id_hash == now.id_hash => {}
                Loaded::Unreadable(Unreadable::NotFound { .. }) => {}
                found => return Some(format!("a former grace of {now:?} finds {found:?}")),
            }
        }
        match store.load(&now.id_hash, NOW).unwrap() {
            Loaded::Live(LiveSession { record, id_hash }) => {
                let n = value::<u64>(&record, "n");
                let user = record.user.as_ref().map(|user| user.as_str().to_owned());
                let seen = record.seen.as_millis();
                let same = n == Some(now.n)
                    && user == now.user
                    && id_hash == now.id_hash
                    && now.seen.is_none_or(|promised| promised == seen);
                (!same).then(|| format!("{now:?} is n={n:?} user={user:?} seen={seen}"))
            }
            found => Some(format!("{now:?} finds {found:?}")),
        }
    }
}

type TrackedSessions = HashMap<String, TrackedSession>;

fn apply(change: &Change, sessions: &mut TrackedSessions) {
    match change {
        Change::Create { session, id_hash, brief } => {
            let now = Expected { id_hash: *id_hash, n: 0, seen: None, user: None };
            let begun = TrackedSession {
                now: Some(now),
                maybe_ended: *brief,
                brief: *brief,
                ..TrackedSession::default()
            };
            sessions.insert(session.clone(), begun);
        }
        Change::Merge { session, n } => {
            if let Some(now) = &mut sessions.entry(session.clone()).or_default().now {
                now.n = *n;
            }
        }
        Change::Touch { session, seen } => {
            if let Some(now) = &mut sessions.entry(session.clone()).or_default().now {
                now.seen = Some(*seen);
            }
        }
        Change::Renew { session, id_hash, grace } => {
            let session = sessions.entry(session.clone()).or_default();
            if let Some(now) = &mut session.now {
                if !grace {
                    session.replaced.iter_mut().for_each(|(_, grace)| *grace = false);
                    session.ended.append(&mut session.evicted_graces);
                }
                session.replaced.push_back((std::mem::replace(&mut now.id_hash, *id_hash), *grace));
                if session.replaced.len() > ReplacedId::MAX {
                    match session.replaced.pop_front() {
                        Some((id_hash, true)) => session.evicted_graces.push(id_hash),
                        Some((id_hash, false)) => session.ended.push(id_hash),
                        None => {}
                    }
                }
            }
        }
        Change::SignIn { session, id_hash, n, user, ends } => {
            let session = sessions.entry(session.clone()).or_default();
            session.end();
            session.now =
                Some(Expected { id_hash: *id_hash, n: *n, seen: None, user: Some(user.clone()) });
            for other in ends {
                sessions.entry(other.clone()).or_default().end();
            }
        }
        Change::End { sessions: ended } => {
            for session in ended {
                sessions.entry(session.clone()).or_default().end();
            }
        }
        Change::Sweep { session } => sessions.entry(session.clone()).or_default().end(),
        Change::Everyone => {}
    }
}

/// A change that was begun and of which nothing was heard since.
#[derive(Clone, Debug)]
struct Open {
    change: Change,
    /// For [`Change::Everyone`]: the sessions that it must end, because nothing else happened to
    /// them; true if nothing else can have ended them before either, so that all are there or none
    /// is.
    everyone: Vec<(String, bool)>,
    /// All sessions were being ended at the same time: which came first is unknown.
    overlapped: bool,
}

/// The acknowledged operations.
#[derive(Debug, Default)]
pub struct Ledger {
    sessions: TrackedSessions,
    /// By worker.
    open: HashMap<String, Open>,
    /// Failed, so its outcome is unknown.
    unknown: Vec<Open>,
    /// Changes that were acknowledged, and how many of them were revocations.
    pub acknowledged: u64,
    pub revocations: u64,
}

impl Ledger {
    pub fn record(&mut self, worker: &str, said: &WorkerMessage) {
        let open = match said {
            WorkerMessage::Begins(change) => return self.begin(worker, change),
            _ => self.open.remove(worker).expect("a change that was begun"),
        };
        match said {
            WorkerMessage::Begins(_) => {}
            WorkerMessage::Done => {
                self.acknowledged += 1;
                self.revocations += u64::from(open.change.is_revocation());
                apply(&open.change, &mut self.sessions);
                for (session, _) in &open.everyone {
                    self.sessions.get_mut(session).unwrap().end();
                }
                for session in open.change.sessions() {
                    self.sessions.get_mut(session).unwrap().maybe_ended |= open.overlapped;
                }
            }
            WorkerMessage::Gone => {
                for session in open.change.sessions() {
                    let session = self.sessions.get_mut(session).unwrap();
                    let ended = session.maybe_ended || session.now.is_none();
                    assert!(ended, "{}: no process ended {session:?}", open.change);
                    session.end();
                }
            }
            WorkerMessage::Failed => self.unknown.push(open),
        }
    }

    fn begin(&mut self, worker: &str, change: &Change) {
        // A revocation of everyone need not end sessions that others change at the same time.
        for open in self.open.values_mut().chain(&mut self.unknown) {
            open.everyone.retain(|(session, _)| !change.sessions().contains(&session));
        }
        let mut everyone = vec![];
        let overlapped = self.open.values().any(|open| open.change == Change::Everyone);
        if *change == Change::Everyone {
            self.open.values_mut().for_each(|open| open.overlapped = true);
            let busy: Vec<&String> =
                self.open.values().flat_map(|open| open.change.sessions()).collect();
            for (name, session) in
                self.sessions.iter_mut().filter(|(_, session)| session.now.is_some())
            {
                if !busy.contains(&name) {
                    everyone.push((name.clone(), !session.maybe_ended));
                }
                session.maybe_ended = true;
            }
        }
        let open = Open { change: change.clone(), everyone, overlapped };
        let before = self.open.insert(worker.to_owned(), open);
        assert!(before.is_none(), "{worker} began two changes: {before:?} and {change}");
    }

    /// The id hashes that a revocation has ended.
    pub fn ended(&self) -> impl Iterator<Item = &SessionIdHash> {
        self.sessions.values().filter(|session| !session.brief).flat_map(|session| {
            let dead =
                session.replaced.iter().filter(|(_, grace)| !grace).map(|(id_hash, _)| id_hash);
            session.ended.iter().chain(dead)
        })
    }

    /// Looks whether the store keeps all of it, and takes from it what was not known. No process
    /// may be at work.
    pub fn check(&mut self, store: &dyn Store) {
        let all_open: Vec<Open> =
            self.open.drain().map(|(_, open)| open).chain(self.unknown.drain(..)).collect();
        for open in &all_open {
            self.settle_everyone(open, store);
        }
        for open in all_open {
            self.settle(&open.change, store);
        }
        for (name, session) in &mut self.sessions {
            let Some(wrong) = session.wrong(store) else {
                session.maybe_ended = session.brief;
                continue;
            };
            assert!(session.maybe_ended, "{name}: {wrong}");
            session.end();
            assert_eq!(session.wrong(store), None, "{name}");
        }
    }

    fn settle_everyone(&self, open: &Open, store: &dyn Store) {
        let sessions: Vec<_> = open
            .everyone
            .iter()
            .filter(|(_, only_by_this)| *only_by_this)
            .map(|(name, _)| (name, &self.sessions[name]))
            .collect();
        let ended: Vec<_> = sessions
            .iter()
            .filter_map(|(name, session)| Some((name, session.wrong(store)?)))
            .collect();
        assert!(
            ended.is_empty() || ended.len() == sessions.len(),
            "everyone was ended in part: {ended:?} of {}",
            sessions.len()
        );
    }

    /// True if the change was made; all sessions must show the same.
    fn settle(&mut self, change: &Change, store: &dyn Store) {
        let mut after = TrackedSessions::new();
        for session in change.sessions() {
            after.insert(session.clone(), self.sessions.get(session).cloned().unwrap_or_default());
        }
        let before = after.clone();
        apply(change, &mut after);
        let wrong = |sessions: &TrackedSessions| -> Vec<String> {
            sessions.values().filter_map(|session| session.wrong(store)).collect()
        };
        let not_made = wrong(&with_new_id_hash(change, &before)).is_empty();
        let made = wrong(&after).is_empty();
        if made {
            self.sessions.extend(after);
        } else if not_made {
            self.sessions.extend(before);
        } else {
            let maybe_ended = before.values().any(|session| session.maybe_ended);
            assert!(
                maybe_ended,
                "{change} is half made: not before ({:?}), not after ({:?})",
                wrong(&before),
                wrong(&after)
            );
            for (name, before) in before {
                let after = after.remove(&name).unwrap();
                let session = if after.wrong(store).is_none() { after } else { before };
                self.sessions.insert(name, TrackedSession { maybe_ended: true, ..session });
            }
        }
    }
}

/// The sessions as they are while the change is not made: its new id finds nothing.
fn with_new_id_hash(change: &Change, before: &TrackedSessions) -> TrackedSessions {
    let mut sessions = before.clone();
    if let Change::Create { session, id_hash, .. }
    | Change::Renew { session, id_hash, .. }
    | Change::SignIn { session, id_hash, .. } = change
        && let Some(session) = sessions.get_mut(session)
    {
        session.ended.push(*id_hash);
    }
    sessions
}
