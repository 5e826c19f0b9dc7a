//! Executes operations on a real store, and translates its answers into numbers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, Expected, LiveSession, Loaded, MaxSessions, NewSession,
    Record, SessionIndex, Store, Touch, Unreadable, Value,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{IdpSessionId, JoinSalt, PublicId, SessionIdHash};
use cloakroom::lifetime::{self, Limits};
use cloakroom::list::{Page, SessionFilter};
use cloakroom::{Error, ErrorKind, Result, UserKey};

use super::common::NOW;
use super::operations::{
    Answer, AtMaximum, Call, Change, Filter, InitialFields, Millis, Number, Operation, Session,
    UserSession,
};

/// The limit of a sweep and of a page of a list: more sessions than any history has.
const MANY: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// The ids and times of one history. No two histories share an id or a moment, so that one store
/// can serve them in turn.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub history: u64,
}

thread_local! {
    /// Each session of a history as this thread read it last. A merge names it as loaded, however
    /// outdated it is by then.
    static LOADED: RefCell<(u64, HashMap<SessionIdHash, Arc<LiveSession>>)> = RefCell::default();
}

impl Names {
    fn remember(self, session: &LiveSession) {
        LOADED.with_borrow_mut(|(history, sessions)| {
            if *history != self.history {
                (*history, *sessions) = (self.history, HashMap::new());
            }
            sessions.insert(session.id_hash, Arc::new(session.clone()));
        });
    }

    fn remembered(self, id_hash: &SessionIdHash) -> Option<Arc<LiveSession>> {
        LOADED.with_borrow(|(history, sessions)| {
            sessions.get(id_hash).filter(|_| *history == self.history).cloned()
        })
    }

    /// The time at which the history begins: after all earlier histories.
    fn beginning(self) -> Timestamp {
        NOW + Duration::from_secs(10_000) * u32::try_from(self.history).unwrap()
    }

    fn time(self, moment: Millis) -> Timestamp {
        Timestamp::from_millis(self.beginning().as_millis() + moment)
    }

    fn moment(self, time: Timestamp) -> Millis {
        time.as_millis() - self.beginning().as_millis()
    }

    fn id_hash(self, number: Number) -> SessionIdHash {
        // Spread over all bytes, as hashes are: caches and servers choose a place by the first bytes.
        let word = (self.history << 8 | u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&word.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.history.to_be_bytes());
        bytes[31] = number;
        SessionIdHash::from_bytes(bytes)
    }

    fn public_id(self, number: Number) -> PublicId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.history.to_be_bytes());
        bytes[15] = number;
        PublicId::from_bytes(bytes)
    }

    fn id_number(self, id_hash: &SessionIdHash) -> Number {
        let number = id_hash.as_bytes()[31];
        assert_eq!(*id_hash, self.id_hash(number), "an id of another history");
        number
    }

    fn id_hashes(self, id_hashes: &[SessionIdHash]) -> Vec<Number> {
        let mut numbers: Vec<_> = id_hashes.iter().map(|id_hash| self.id_number(id_hash)).collect();
        numbers.sort_unstable();
        numbers
    }

    fn delta(self, changes: &[Change]) -> Delta {
        let mut delta = Delta::new();
        for change in changes {
            match change {
                Change::Set(name, value) => {
                    delta.set(&name.to_string(), Value::encode(value).unwrap());
                }
                Change::Remove(name) => delta.remove(&name.to_string()),
                Change::Clear => delta.clear(),
                Change::Confirm(at, level) => delta.confirm_authentication(self.time(*at), *level),
            }
        }
        delta
    }

    fn new_session(self, initial: &InitialFields) -> NewSession {
        let idle = initial.idle.map(|idle| Duration::from_millis(idle.unsigned_abs()));
        let limits = Limits::new(idle, initial.absolute.map(|absolute| self.time(absolute)));
        let mut new_session = NewSession::new(limits).unwrap();
        new_session.public_id = self.public_id(initial.public_id);
        new_session.auth_level = initial.level;
        new_session.idp_session_id = initial.idp_session_id.map(idp_session_id);
        new_session
    }

    fn session(self, record: &Record) -> Session {
        let Record { public_id, user, idp_session_id, limits, data, .. } = record;
        let number = public_id.as_bytes()[15];
        assert_eq!(*public_id, self.public_id(number), "a public id of another history");
        let idle = limits.idle.map(|idle| Millis::try_from(idle.as_millis()).unwrap());
        Session {
            public_id: number,
            user: user.as_ref().map(|user| user.as_str().parse().unwrap()),
            idp_session_id: idp_session_id.as_ref().map(|id| id.as_str().parse().unwrap()),
            level: record.auth_level,
            created: self.moment(record.created),
            authenticated: record.authenticated.map(|time| self.moment(time)),
            seen: self.moment(record.seen),
            idle,
            absolute: limits.absolute_deadline.map(|time| self.moment(time)),
            revision: record.revision,
            data: data
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.decode().unwrap()))
                .collect(),
        }
    }

    /// Executes the operation.
    pub fn call(self, store: &impl Store, operation: &Operation) -> Answer {
        self.try_call(store, operation).unwrap_or_else(|error| failed(&operation.call, &error))
    }

    fn try_call(self, store: &impl Store, operation: &Operation) -> Result<Answer> {
        let now = self.time(operation.now);
        Ok(match &operation.call {
            Call::Load { id_hash } => match store.load(&self.id_hash(*id_hash), now)? {
                Loaded::Live(session) => {
                    self.remember(&session);
                    Answer::Live {
                        session: self.session(&session.record),
                        id_hash: self.id_number(&session.id_hash),
                    }
                }
                Loaded::Unreadable(Unreadable::Replaced { session, .. }) => {
                    Answer::Replaced { id_hash: self.id_number(&session.id_hash) }
                }
                Loaded::Unreadable(Unreadable::NotFound { .. }) => Answer::NotFound,
                other => Answer::Failed(format!("{other:?}")),
            },
            Call::Create { id_hash, initial, changes } => {
                let (id_hash, new_session, delta) =
                    (self.id_hash(*id_hash), self.new_session(initial), self.delta(changes));
                let commit = Commit::new(&id_hash, Action::Create(new_session), delta, now);
                self.answer(store.commit(&commit)?)
            }
            Call::Merge { id_hash, changes, if_revision, seen } => {
                let (id_hash, delta) = (self.id_hash(*id_hash), self.delta(changes));
                let mut commit = Commit::new(&id_hash, Action::Merge, delta, now);
                commit.expected = if_revision.map_or(Expected::Anything, Expected::Revision);
                commit.loaded = self.remembered(&id_hash);
                commit.touch = seen.map(|seen| Touch::at(self.time(seen)));
                self.answer(store.commit(&commit)?)
            }
            Call::Renew { id_hash, to, grace_until, changes } => {
                let (id_hash, to, delta) =
                    (self.id_hash(*id_hash), self.id_hash(*to), self.delta(changes));
                let grace_until = grace_until.map(|until| self.time(until));
                let action = Action::Renew { to, grace_until };
                self.answer(store.commit(&Commit::new(&id_hash, action, delta, now))?)
            }
            Call::SignIn { id_hash, to, user, initial, changes, limit } => {
                let (id_hash, to, delta) =
                    (self.id_hash(*id_hash), self.id_hash(*to), self.delta(changes));
                let (user, new_session) = (name_of_user(*user), self.new_session(initial));
                let join_salt = Some(JoinSalt::from_bytes(*to.as_bytes()));
                let action = Action::SignIn { to, user, new_session, join_salt };
                let mut commit = Commit::new(&id_hash, action, delta, now);
                commit.max_sessions = limit.map(max_sessions);
                self.answer(store.commit(&commit)?)
            }
            Call::Delete { id_hash } => {
                let id_hash = self.id_hash(*id_hash);
                let delete = Commit::new(&id_hash, Action::End, Delta::new(), now);
                self.answer(store.commit(&delete)?)
            }
            Call::Touch { id_hash, seen } => {
                store.touch(&[(self.id_hash(*id_hash), Touch::at(self.time(*seen)))], now)?;
                Answer::Ok
            }
            Call::Sweep => Answer::Swept(store.sweep(now, MANY)?.removed),
            Call::List(filter) => {
                let list = self.with_filter(filter, |filter| {
                    index(store).list(filter, Page::first(MANY), now)
                })?;
                let listed = list.iter().map(|summary| UserSession {
                    public_id: summary.public_id.as_bytes()[15],
                    user: summary.user.as_ref().map(|user| user.as_str().parse().unwrap()),
                    seen: self.moment(summary.seen),
                });
                Answer::List(listed.collect())
            }
            Call::Revoke(filter) => {
                let ended =
                    self.with_filter(filter, |filter| index(store).revoke(filter, None, now))?;
                let id_hashes: Vec<_> = ended.iter().map(|ended| ended.id_hash).collect();
                Answer::Revoked(self.id_hashes(&id_hashes))
            }
            Call::RevokeEveryone => {
                Answer::RevokedEveryone(Some(index(store).revoke_everyone(None, now)?))
            }
            Call::Stats => {
                let stats = index(store).stats(now)?;
                let (live, expired, signed_in) = (stats.live, stats.expired, stats.signed_in);
                Answer::Counts { live, expired, signed_in }
            }
            Call::LoseAll => unreachable!("no store loses its content on demand"),
        })
    }

    fn with_filter<T>(self, filter: &Filter, then: impl FnOnce(&SessionFilter<'_>) -> T) -> T {
        match filter {
            Filter::All => then(&SessionFilter::All),
            Filter::User(user) => then(&SessionFilter::User(&name_of_user(*user))),
            Filter::PublicId(public_id) => {
                then(&SessionFilter::PublicId(&self.public_id(*public_id)))
            }
            Filter::OfUser(user, public_id) => then(&SessionFilter::PublicIdOfUser(
                &name_of_user(*user),
                &self.public_id(*public_id),
            )),
            Filter::IdpSession(id) => then(&SessionFilter::IdpSession(&idp_session_id(*id))),
        }
    }

    fn answer(self, answer: CommitAnswer) -> Answer {
        let session = |record: &Record| self.session(record);
        if let CommitAnswer::Done { session, .. }
        | CommitAnswer::Unchanged(session)
        | CommitAnswer::RevisionMismatch(session) = &answer
        {
            self.remember(session);
        }
        match &answer {
            CommitAnswer::Done { session: LiveSession { record, id_hash }, .. } => {
                let retired_ids: Vec<SessionIdHash> = answer.ids_to_invalidate().collect();
                let (id_hash, retired_ids) =
                    (self.id_number(id_hash), self.id_hashes(&retired_ids));
                Answer::Done { session: session(record), id_hash, retired_ids }
            }
            CommitAnswer::Unchanged(LiveSession { record, id_hash }) => {
                Answer::Unchanged { session: session(record), id_hash: self.id_number(id_hash) }
            }
            CommitAnswer::RevisionMismatch(LiveSession { record, id_hash }) => {
                Answer::Stale { session: session(record), id_hash: self.id_number(id_hash) }
            }
            CommitAnswer::Ended(ended) => {
                Answer::Deleted { id_hash: self.id_number(&ended.id_hash) }
            }
            CommitAnswer::CanJoin { salt } => {
                // Each sign-in here has the hash of its new id as its salt.
                let id_hash = SessionIdHash::from_bytes(*salt.as_bytes());
                Answer::Replaced { id_hash: self.id_number(&id_hash) }
            }
            CommitAnswer::Unreadable(Unreadable::Replaced {
                session: LiveSession { id_hash, .. },
                ..
            }) => Answer::Replaced { id_hash: self.id_number(id_hash) },
            CommitAnswer::Unreadable(Unreadable::NotFound { .. }) => Answer::NotFound,
            CommitAnswer::SignInRefused => Answer::Full,
            other => Answer::Failed(format!("{other:?}")),
        }
    }
}

fn index(store: &impl Store) -> &dyn SessionIndex {
    store.index().expect("a store that lists")
}

fn name_of_user(number: Number) -> UserKey {
    UserKey::new(number.to_string()).unwrap()
}

fn idp_session_id(number: Number) -> IdpSessionId {
    IdpSessionId::new(number.to_string()).unwrap()
}

fn max_sessions((limit, at_maximum): (u32, AtMaximum)) -> MaxSessions {
    let at_maximum = match at_maximum {
        AtMaximum::Refuse => lifetime::AtMaximum::Refuse,
        AtMaximum::EndOldest => lifetime::AtMaximum::EndOldest,
        AtMaximum::EndOthers => lifetime::AtMaximum::EndOthers,
    };
    MaxSessions::new(NonZeroU32::new(limit).unwrap(), at_maximum)
}

/// Translates an error. Only a server that is stopped, or too slow, makes an outcome unknown.
pub fn failed(call: &Call, error: &Error) -> Answer {
    let words = error.to_string();
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Busy
            if call.is_commit() && !error.has_unknown_outcome() =>
        {
            Answer::NothingDone(words)
        }
        ErrorKind::Unavailable | ErrorKind::Busy => Answer::Unknown(words),
        _ => Answer::Failed(words),
    }
}
