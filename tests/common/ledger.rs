//! Records the operations that a store acknowledged to workers, and checks that it kept them.
//!
//! A worker says each change before it begins and after it was acknowledged. What was acknowledged
//! must stand; what was only begun may stand or not, but as a whole.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::str::FromStr;

use cloakroom::backend::{LiveSession, Lookup, Missing, ReplacedId, Store};
use cloakroom::id::SessionIdHash;

use crate::common::{NOW, hex, id_hash_of, value};

/// A change to one life of a session, or to several at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session begins with `n` = 0. Any process can sweep a brief one.
    Create { life: String, id_hash: SessionIdHash, brief: bool },
    /// `n` is set.
    Merge { life: String, n: u64 },
    /// `n` is set, and the user, or none.
    Bind { life: String, n: u64, user: Option<String> },
    /// Activity is recorded at this time.
    Touch { life: String, seen: i64 },
    /// The session gets a new key; the one before goes on for a while, or not.
    Renew { life: String, id_hash: SessionIdHash, grace: bool },
    /// The session gets a new key and a user, and the other lives of that user end. Where there is
    /// no session any more, one begins with this `n`.
    SignIn { life: String, id_hash: SessionIdHash, n: u64, user: String, ends: Vec<String> },
    /// These lives end.
    End { lives: Vec<String> },
    /// Expired sessions are removed, this one too.
    Sweep { life: String },
    /// Every session ends.
    Everyone,
}

impl Change {
    pub fn lives(&self) -> Vec<&String> {
        match self {
            Change::Create { life, .. }
            | Change::Merge { life, .. }
            | Change::Bind { life, .. }
            | Change::Touch { life, .. }
            | Change::Renew { life, .. }
            | Change::Sweep { life } => vec![life],
            Change::SignIn { life, ends, .. } => std::iter::once(life).chain(ends).collect(),
            Change::End { lives } => lives.iter().collect(),
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
            Change::Bind { .. }
            | Change::Renew { .. }
            | Change::SignIn { .. }
            | Change::End { .. }
            | Change::Everyone => true,
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create { life, id_hash, brief } => {
                write!(f, "create {life} {} {brief}", hex(id_hash))
            }
            Change::Merge { life, n } => write!(f, "merge {life} {n}"),
            Change::Bind { life, n, user } => {
                write!(f, "bind {life} {n} {}", user.as_deref().unwrap_or_default())
            }
            Change::Touch { life, seen } => write!(f, "touch {life} {seen}"),
            Change::Renew { life, id_hash, grace } => {
                write!(f, "renew {life} {} {grace}", hex(id_hash))
            }
            Change::SignIn { life, id_hash, n, user, ends } => {
                write!(f, "sign-in {life} {} {n} {user} {}", hex(id_hash), ends.join(" "))
            }
            Change::End { lives } => write!(f, "end {}", lives.join(" ")),
            Change::Sweep { life } => write!(f, "sweep {life}"),
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
            ["create", life, id_hash, brief] => Change::Create {
                life: life.to_owned(),
                id_hash: id_hash_of(id_hash),
                brief: brief.parse().map_err(drop)?,
            },
            ["merge", life, n] => {
                Change::Merge { life: life.to_owned(), n: n.parse().map_err(drop)? }
            }
            ["bind", life, n, ref user @ ..] => Change::Bind {
                life: life.to_owned(),
                n: n.parse().map_err(drop)?,
                user: user.first().map(|user| (*user).to_owned()),
            },
            ["touch", life, seen] => {
                Change::Touch { life: life.to_owned(), seen: seen.parse().map_err(drop)? }
            }
            ["renew", life, id_hash, grace] => Change::Renew {
                life: life.to_owned(),
                id_hash: id_hash_of(id_hash),
                grace: grace.parse().map_err(drop)?,
            },
            ["sign-in", life, id_hash, n, user, ref ends @ ..] => Change::SignIn {
                life: life.to_owned(),
                id_hash: id_hash_of(id_hash),
                n: n.parse().map_err(drop)?,
                user: user.to_owned(),
                ends: owned(ends),
            },
            ["end", ref lives @ ..] => Change::End { lives: owned(lives) },
            ["sweep", life] => Change::Sweep { life: life.to_owned() },
            ["everyone"] => Change::Everyone,
            _ => return Err(()),
        })
    }
}

/// A message of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The change comes next.
    Begins(Change),
    /// The change it began was acknowledged.
    Done,
    /// The change it began was answered with: there is no such session.
    Gone,
    /// The change it began failed; whether it was made is not known.
    Failed,
}

impl Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Begins(change) => write!(f, "begins {change}"),
            Said::Done => f.write_str("done"),
            Said::Gone => f.write_str("gone"),
            Said::Failed => f.write_str("failed"),
        }
    }
}

impl FromStr for Said {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "done" => Ok(Said::Done),
            "gone" => Ok(Said::Gone),
            "failed" => Ok(Said::Failed),
            _ => text.strip_prefix("begins ").ok_or(())?.parse().map(Said::Begins),
        }
    }
}

#[derive(Clone, Debug)]
struct Now {
    id_hash: SessionIdHash,
    n: u64,
    /// When it was last known to be seen, if that is known.
    seen: Option<i64>,
    user: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Life {
    /// `None` when it has ended.
    now: Option<Now>,
    /// The keys before the last renewals, the oldest first, and whether each had a grace, in which
    /// it finds the session too.
    replaced: VecDeque<(SessionIdHash, bool)>,
    /// Keys in their grace that a store need not remember: so many later ones were replaced. It
    /// may, where a sweep has made room.
    beyond: Vec<SessionIdHash>,
    /// Keys that must find nothing.
    ended: Vec<SessionIdHash>,
    /// Another process may have ended it.
    doubtful: bool,
    /// Any sweep may end it.
    brief: bool,
}

impl Life {
    fn end(&mut self) {
        self.ended.extend(self.replaced.drain(..).map(|(id_hash, _)| id_hash));
        self.ended.append(&mut self.beyond);
        self.ended.extend(self.now.take().map(|now| now.id_hash));
        self.doubtful = false;
    }

    /// The difference between it and the store, if there is one.
    fn wrong(&self, store: &dyn Store) -> Option<String> {
        let dead = self.replaced.iter().filter(|(_, grace)| !grace).map(|(id_hash, _)| id_hash);
        for id_hash in self.ended.iter().chain(dead) {
            match store.load(id_hash, NOW).unwrap() {
                Lookup::Missing(Missing::NotFound { .. })
                | Lookup::Missing(Missing::Replaced { .. }) => {}
                found => return Some(format!("an ended key finds {found:?}")),
            }
        }
        let now = self.now.as_ref()?;
        for (grace, _) in self.replaced.iter().filter(|(_, grace)| *grace) {
            match store.load(grace, NOW).unwrap() {
                Lookup::Live { session: LiveSession { id_hash, .. }, .. }
                    if id_hash == now.id_hash => {}
                found => return Some(format!("the grace of {now:?} finds {found:?}")),
            }
        }
        for id_hash in &self.beyond {
            match store.load(id_hash, NOW).unwrap() {
                Lookup::Live { session: LiveSession { id_hash, .. }, .. }
                    if id_hash == now.id_hash => {}
                Lookup::Missing(Missing::NotFound { .. }) => {}
                found => return Some(format!("a former grace of {now:?} finds {found:?}")),
            }
        }
        match store.load(&now.id_hash, NOW).unwrap() {
            Lookup::Live { session: LiveSession { record, id_hash }, .. } => {
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

type Lives = HashMap<String, Life>;

fn apply(change: &Change, lives: &mut Lives) {
    match change {
        Change::Create { life, id_hash, brief } => {
            let now = Now { id_hash: *id_hash, n: 0, seen: None, user: None };
            let begun = Life { now: Some(now), doubtful: *brief, brief: *brief, ..Life::default() };
            lives.insert(life.clone(), begun);
        }
        Change::Merge { life, n } => {
            if let Some(now) = &mut lives.entry(life.clone()).or_default().now {
                now.n = *n;
            }
        }
        Change::Bind { life, n, user } => {
            if let Some(now) = &mut lives.entry(life.clone()).or_default().now {
                (now.n, now.user) = (*n, user.clone());
            }
        }
        Change::Touch { life, seen } => {
            if let Some(now) = &mut lives.entry(life.clone()).or_default().now {
                now.seen = Some(*seen);
            }
        }
        Change::Renew { life, id_hash, grace } => {
            let life = lives.entry(life.clone()).or_default();
            if let Some(now) = &mut life.now {
                life.replaced.push_back((std::mem::replace(&mut now.id_hash, *id_hash), *grace));
                if life.replaced.len() > ReplacedId::MAX {
                    match life.replaced.pop_front() {
                        Some((id_hash, true)) => life.beyond.push(id_hash),
                        Some((id_hash, false)) => life.ended.push(id_hash),
                        None => {}
                    }
                }
            }
        }
        Change::SignIn { life, id_hash, n, user, ends } => {
            let life = lives.entry(life.clone()).or_default();
            life.end();
            life.now = Some(Now { id_hash: *id_hash, n: *n, seen: None, user: Some(user.clone()) });
            for other in ends {
                lives.entry(other.clone()).or_default().end();
            }
        }
        Change::End { lives: ended } => {
            for life in ended {
                lives.entry(life.clone()).or_default().end();
            }
        }
        Change::Sweep { life } => lives.entry(life.clone()).or_default().end(),
        Change::Everyone => {}
    }
}

/// A change that was begun and of which nothing was heard since.
#[derive(Clone, Debug)]
struct Open {
    change: Change,
    /// For [`Change::Everyone`]: the lives that it must end, because nothing else happened to them;
    /// true if nothing else can have ended them before either, so that all are there or none is.
    everyone: Vec<(String, bool)>,
    /// All sessions were being ended at the same time: which came first is unknown.
    overlapped: bool,
}

/// The acknowledged operations.
#[derive(Debug, Default)]
pub struct Ledger {
    lives: Lives,
    /// By worker.
    open: HashMap<String, Open>,
    /// Failed, so its outcome is unknown.
    unknown: Vec<Open>,
    /// Changes that were acknowledged, and how many of them were revocations.
    pub acknowledged: u64,
    pub revocations: u64,
}

impl Ledger {
    pub fn hear(&mut self, worker: &str, said: &Said) {
        let open = match said {
            Said::Begins(change) => return self.begin(worker, change),
            _ => self.open.remove(worker).expect("a change that was begun"),
        };
        match said {
            Said::Begins(_) => {}
            Said::Done => {
                self.acknowledged += 1;
                self.revocations += u64::from(open.change.is_revocation());
                apply(&open.change, &mut self.lives);
                for (life, _) in &open.everyone {
                    self.lives.get_mut(life).unwrap().end();
                }
                for life in open.change.lives() {
                    self.lives.get_mut(life).unwrap().doubtful |= open.overlapped;
                }
            }
            Said::Gone => {
                for life in open.change.lives() {
                    let life = self.lives.get_mut(life).unwrap();
                    let ended = life.doubtful || life.now.is_none();
                    assert!(ended, "{}: no process ended {life:?}", open.change);
                    life.end();
                }
            }
            Said::Failed => self.unknown.push(open),
        }
    }

    fn begin(&mut self, worker: &str, change: &Change) {
        // A revocation of everyone need not end sessions that others change at the same time.
        for open in self.open.values_mut().chain(&mut self.unknown) {
            open.everyone.retain(|(life, _)| !change.lives().contains(&life));
        }
        let mut everyone = vec![];
        let overlapped = self.open.values().any(|open| open.change == Change::Everyone);
        if *change == Change::Everyone {
            self.open.values_mut().for_each(|open| open.overlapped = true);
            let busy: Vec<&String> =
                self.open.values().flat_map(|open| open.change.lives()).collect();
            for (name, life) in self.lives.iter_mut().filter(|(_, life)| life.now.is_some()) {
                if !busy.contains(&name) {
                    everyone.push((name.clone(), !life.doubtful));
                }
                life.doubtful = true;
            }
        }
        let open = Open { change: change.clone(), everyone, overlapped };
        let before = self.open.insert(worker.to_owned(), open);
        assert!(before.is_none(), "{worker} began two changes: {before:?} and {change}");
    }

    /// The keys that a revocation has ended.
    pub fn ended(&self) -> impl Iterator<Item = &SessionIdHash> {
        self.lives.values().filter(|life| !life.brief).flat_map(|life| {
            let dead = life.replaced.iter().filter(|(_, grace)| !grace).map(|(id_hash, _)| id_hash);
            life.ended.iter().chain(dead)
        })
    }

    /// Looks whether the store keeps all of it, and takes from it what was not known. No process
    /// may be at work.
    pub fn check(&mut self, store: &dyn Store) {
        let open: Vec<Open> =
            self.open.drain().map(|(_, open)| open).chain(self.unknown.drain(..)).collect();
        for open in &open {
            self.settle_everyone(open, store);
        }
        for open in open {
            self.settle(&open.change, store);
        }
        for (name, life) in &mut self.lives {
            let Some(wrong) = life.wrong(store) else {
                life.doubtful = life.brief;
                continue;
            };
            assert!(life.doubtful, "{name}: {wrong}");
            life.end();
            assert_eq!(life.wrong(store), None, "{name}");
        }
    }

    fn settle_everyone(&self, open: &Open, store: &dyn Store) {
        let lives: Vec<_> = open
            .everyone
            .iter()
            .filter(|(_, only_by_this)| *only_by_this)
            .map(|(name, _)| (name, &self.lives[name]))
            .collect();
        let ended: Vec<_> =
            lives.iter().filter_map(|(name, life)| Some((name, life.wrong(store)?))).collect();
        assert!(
            ended.is_empty() || ended.len() == lives.len(),
            "everyone was ended in part: {ended:?} of {}",
            lives.len()
        );
    }

    /// True if the change was made; all lives must show the same.
    fn settle(&mut self, change: &Change, store: &dyn Store) {
        let mut after = Lives::new();
        for life in change.lives() {
            after.insert(life.clone(), self.lives.get(life).cloned().unwrap_or_default());
        }
        let before = after.clone();
        apply(change, &mut after);
        let wrong = |lives: &Lives| -> Vec<String> {
            lives.values().filter_map(|life| life.wrong(store)).collect()
        };
        let not_made = wrong(&with_new_id_hash(change, &before)).is_empty();
        let made = wrong(&after).is_empty();
        if made {
            self.lives.extend(after);
        } else if not_made {
            self.lives.extend(before);
        } else {
            let doubtful = before.values().any(|life| life.doubtful);
            assert!(
                doubtful,
                "{change} is half made: not before ({:?}), not after ({:?})",
                wrong(&before),
                wrong(&after)
            );
            for (name, before) in before {
                let after = after.remove(&name).unwrap();
                let life = if after.wrong(store).is_none() { after } else { before };
                self.lives.insert(name, Life { doubtful: true, ..life });
            }
        }
    }
}

/// The lives as they are while the change is not made: its new key finds nothing.
fn with_new_id_hash(change: &Change, before: &Lives) -> Lives {
    let mut lives = before.clone();
    if let Change::Create { life, id_hash, .. }
    | Change::Renew { life, id_hash, .. }
    | Change::SignIn { life, id_hash, .. } = change
        && let Some(life) = lives.get_mut(life)
    {
        life.ended.push(*id_hash);
    }
    lives
}
