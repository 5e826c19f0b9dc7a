//! Workers that perform random operations on sessions and announce each in advance.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, LiveSession, MaxSessions, ReplacedId, Store, Touch,
    Unreadable,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{IdpSessionId, PublicId, SessionIdHash, UserKey};
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::SessionFilter;
use cloakroom::{Lifetime, Result};

use crate::common::dice::Dice;
use crate::common::ledger::{Change, WorkerMessage};
use crate::common::{HOUR, NOW, new_id_hash, new_session, setting};

/// The most sessions of one worker at a time.
const MOST: usize = 6;

const MANY: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// One worker: its sessions are its own, and no other worker changes or ends them, except those who
/// end everyone, and for sweeps of the brief ones.
pub struct Worker<'w> {
    name: String,
    store: &'w dyn Store,
    report: &'w (dyn Fn(&str, &WorkerMessage) + Sync),
    dice: Dice,
    sessions: Vec<Own>,
    begun: u64,
    /// Changes that failed: from then on the users are others, because a sign-in would end what
    /// such a change may have left.
    failed: u64,
    /// True if it sometimes ends all sessions.
    pub ends_everyone: bool,
}

struct Own {
    session: String,
    id_hash: SessionIdHash,
    /// The id hashes before that a store remembers, the oldest first, and whether each finds the
    /// session too.
    replaced: VecDeque<(SessionIdHash, bool)>,
    public_id: PublicId,
    n: u64,
    seen: i64,
    user: Option<UserKey>,
    idp_session_id: Option<IdpSessionId>,
}

/// The outcome of a change.
enum Answer {
    Done,
    Gone,
}

impl<'w> Worker<'w> {
    pub fn new(
        name: impl Into<String>,
        store: &'w dyn Store,
        dice: Dice,
        report: &'w (dyn Fn(&str, &WorkerMessage) + Sync),
    ) -> Self {
        let name = name.into();
        let sessions = vec![];
        Worker { name, store, report, dice, sessions, begun: 0, failed: 0, ends_everyone: false }
    }

    /// One change, acknowledged or failed. The sessions of a change that failed are left alone
    /// from then on.
    pub fn step(&mut self) -> Result<()> {
        let roll = self.dice.roll(100);
        if self.sessions.is_empty() || (roll < 15 && self.sessions.len() < MOST) {
            return self.create();
        }
        let index = self.dice.roll(self.sessions.len());
        match roll {
            0..46 => self.merge(index),
            46..54 => self.touch(index),
            54..66 => self.renew(index),
            66..82 => self.sign_in(index),
            82..95 => self.end(index),
            95..98 => self.brief(),
            _ if self.ends_everyone => self.everyone(),
            _ => self.merge(index),
        }
    }

    fn carry_out(
        &mut self,
        change: &Change,
        work: impl FnOnce(&mut Self) -> Result<Answer>,
    ) -> Result<()> {
        (self.report)(&self.name, &WorkerMessage::Begins(change.clone()));
        let result = work(self);
        let message = match &result {
            Ok(Answer::Done) => WorkerMessage::Done,
            Ok(Answer::Gone) => WorkerMessage::Gone,
            Err(_) => WorkerMessage::Failed,
        };
        (self.report)(&self.name, &message);
        self.failed += u64::from(message == WorkerMessage::Failed);
        if message != WorkerMessage::Done {
            self.sessions.retain(|own| !change.sessions().contains(&&own.session));
        }
        result.map(drop)
    }

    fn new_name(&mut self) -> String {
        self.begun += 1;
        format!("{}.{}", self.name, self.begun)
    }

    fn user(&mut self) -> UserKey {
        UserKey::new(format!("{}-{}-user-{}", self.name, self.failed, self.dice.roll(3))).unwrap()
    }

    /// Data that takes up to some pages, and `n`.
    fn data(&mut self, n: u64) -> Delta {
        let mut delta = setting("n", n);
        if self.dice.chance(20) {
            let length = self.dice.roll(6000);
            let filling: String = (0..length)
                .map(|_| char::from(b'a' + u8::try_from(self.dice.roll(26)).unwrap()))
                .collect();
            delta = delta.then(setting("filling", filling));
        }
        delta
    }

    fn create(&mut self) -> Result<()> {
        let session = self.new_name();
        let id_hash = new_id_hash();
        let new_session = new_session();
        let change = Change::Create { session: session.clone(), id_hash, brief: false };
        self.carry_out(&change, |worker| {
            let delta = worker.data(0);
            let create = Action::Create(new_session.clone());
            worker.store.commit(&Commit::new(&id_hash, create, delta, NOW))?;
            let public_id = new_session.public_id;
            let seen = NOW.as_millis();
            let replaced = VecDeque::new();
            let user = None;
            let idp_session_id = None;
            worker.sessions.push(Own {
                session,
                id_hash,
                replaced,
                public_id,
                n: 0,
                seen,
                user,
                idp_session_id,
            });
            Ok(Answer::Done)
        })
    }

    fn merge(&mut self, index: usize) -> Result<()> {
        let session = self.sessions[index].session.clone();
        let n = self.sessions[index].n + 1;
        self.carry_out(&Change::Merge { session, n }, |worker| {
            let delta = worker.data(n);
            let late = worker.dice.chance(30);
            let own = &mut worker.sessions[index];
            own.n = n;
            // Some by a client that does not have its new id yet, nor those before it perhaps.
            let graces: Vec<_> = own.replaced.iter().filter(|(_, grace)| *grace).collect();
            let id_hash = match late && !graces.is_empty() {
                true => graces[worker.dice.roll(graces.len())].0,
                false => own.id_hash,
            };
            let merged = worker.store.commit(&Commit::new(&id_hash, Action::Merge, delta, NOW))?;
            Ok(answer(&merged))
        })
    }

    fn touch(&mut self, index: usize) -> Result<()> {
        let session = self.sessions[index].session.clone();
        let seen = self.sessions[index].seen + 1000;
        self.carry_out(&Change::Touch { session, seen }, |worker| {
            let own = &mut worker.sessions[index];
            own.seen = seen;
            let touch = Touch::at(Timestamp::from_millis(seen));
            worker.store.touch(&[(own.id_hash, touch)], NOW)?;
            Ok(Answer::Done)
        })
    }

    fn renew(&mut self, index: usize) -> Result<()> {
        let session = self.sessions[index].session.clone();
        let to = new_id_hash();
        let grace = self.dice.chance(60);
        self.carry_out(&Change::Renew { session, id_hash: to, grace }, |worker| {
            let own = &mut worker.sessions[index];
            let grace_until = grace.then(|| NOW + HOUR);
            let action = Action::Renew { to, grace_until };
            let renewed =
                worker.store.commit(&Commit::new(&own.id_hash, action, Delta::new(), NOW))?;
            if !grace {
                own.replaced.iter_mut().for_each(|(_, grace)| *grace = false);
            }
            own.replaced.push_back((std::mem::replace(&mut own.id_hash, to), grace));
            if own.replaced.len() > ReplacedId::MAX {
                own.replaced.pop_front();
            }
            Ok(answer(&renewed))
        })
    }

    fn sign_in(&mut self, index: usize) -> Result<()> {
        let session = self.sessions[index].session.clone();
        let to = new_id_hash();
        let user = self.user();
        let ends: Vec<String> = self
            .sessions
            .iter()
            .filter(|own| own.session != session && own.user.as_ref() == Some(&user))
            .map(|own| own.session.clone())
            .collect();
        let n = self.sessions[index].n;
        let name = user.as_str().to_owned();
        let change = Change::SignIn {
            session: session.clone(),
            id_hash: to,
            n,
            user: name,
            ends: ends.clone(),
        };
        self.carry_out(&change, |worker| {
            let own = &worker.sessions[index];
            let mut new_session = new_session();
            new_session.idp_session_id = Some(IdpSessionId::new(format!("{session}-{n}")).unwrap());
            // Where there is no session any more one begins, and has nothing but this.
            let delta = setting("n", n);
            let action = Action::SignIn { to, user: user.clone(), new_session, join_salt: None };
            let mut commit = Commit::new(&own.id_hash, action, delta, NOW);
            commit.max_sessions = Some(MaxSessions::new(NonZeroU32::MIN, AtMaximum::EndOthers));
            match worker.store.commit(&commit)? {
                CommitAnswer::Done { session: LiveSession { record, .. }, .. } => {
                    let own = &mut worker.sessions[index];
                    (own.id_hash, own.replaced) = (to, VecDeque::new());
                    (own.public_id, own.user) = (record.public_id, record.user);
                    (own.idp_session_id, own.seen) =
                        (record.idp_session_id, record.seen.as_millis());
                    worker.sessions.retain(|own| !ends.contains(&own.session));
                    Ok(Answer::Done)
                }
                other => panic!("a sign-in is answered {other:?}"),
            }
        })
    }

    fn end(&mut self, index: usize) -> Result<()> {
        let own = &self.sessions[index];
        let id_hash = own.id_hash;
        let public_id = own.public_id;
        let user = own.user.clone();
        let idp_session_id = own.idp_session_id.clone();
        let how = self.dice.roll(if user.is_some() { 5 } else { 2 });
        let sessions: Vec<String> = match (how, &user) {
            (4, Some(user)) => {
                let theirs = self.sessions.iter().filter(|own| own.user.as_ref() == Some(user));
                theirs.map(|own| own.session.clone()).collect()
            }
            _ => vec![self.sessions[index].session.clone()],
        };
        self.carry_out(&Change::End { sessions: sessions.clone() }, |worker| {
            let which = match (how, &user, &idp_session_id) {
                (1, ..) => SessionFilter::PublicId(&public_id),
                (2, Some(user), _) => SessionFilter::PublicIdOfUser(user, &public_id),
                (3, _, Some(idp_session_id)) => SessionFilter::IdpSession(idp_session_id),
                (4, Some(user), _) => SessionFilter::User(user),
                _ => {
                    let delete = Delta::new();
                    let delete = Commit::new(&id_hash, Action::End, delete, NOW);
                    let ended = worker.store.commit(&delete)?;
                    worker.sessions.retain(|own| !sessions.contains(&own.session));
                    return Ok(answer(&ended));
                }
            };
            let revoked = worker.store.index().unwrap().revoke(&which, None, NOW)?;
            worker.sessions.retain(|own| !sessions.contains(&own.session));
            Ok(if revoked.is_empty() { Answer::Gone } else { Answer::Done })
        })
    }

    /// A session that is over within a second, and a sweep an hour later.
    fn brief(&mut self) -> Result<()> {
        let session = self.new_name();
        let id_hash = new_id_hash();
        let mut new_session = new_session();
        new_session.limits = Lifetime::absolute(Duration::from_secs(1)).limits_from(NOW);
        let change = Change::Create { session: session.clone(), id_hash, brief: true };
        self.carry_out(&change, |worker| {
            let delta = setting("n", 0);
            let create = Action::Create(new_session.clone());
            worker.store.commit(&Commit::new(&id_hash, create, delta, NOW))?;
            Ok(Answer::Done)
        })?;
        self.carry_out(&Change::Sweep { session }, |worker| {
            worker.store.sweep(NOW + HOUR, MANY).map(|_| Answer::Done)
        })
    }

    fn everyone(&mut self) -> Result<()> {
        self.carry_out(&Change::Everyone, |worker| {
            let index = worker.store.index().unwrap();
            index.revoke_everyone(None, NOW).map(|_| Answer::Done)
        })?;
        self.sessions.clear();
        Ok(())
    }
}

fn answer(answer: &CommitAnswer) -> Answer {
    match answer {
        CommitAnswer::Done { .. } | CommitAnswer::Ended(_) => Answer::Done,
        CommitAnswer::Unreadable(Unreadable::NotFound { .. }) => Answer::Gone,
        other => panic!("a change is answered {other:?}"),
    }
}
