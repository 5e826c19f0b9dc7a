//! Operations carried out on a real store, and its answers in numbers.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use cloakroom::clock::Timestamp;
use cloakroom::data::Value;
use cloakroom::delta::Delta;
use cloakroom::id::{ExternalKey, Handle, JoinSalt, Realm, SessionKey};
use cloakroom::lifetime::Limits;
use cloakroom::record::{Birth, Record, Touch};
use cloakroom::store::{
    Admit, Commit, Committed, Fate, Loaded, Page, Registry, Store, Which, {self},
};
use cloakroom::{Error, ErrorKind, Result, UserKey};

use super::common::NOW;
use super::operations::{
    Answer, AtLimit, Begins, Call, Change, Listed, Moment, Number, Operation, Session, Who,
};

/// The most that a sweep removes or a list shows at once: more than any history has.
const MANY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// What the numbers of one history mean. No two histories share a key or a moment, so that one
/// store can serve them in turn.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub history: u64,
}

impl Names {
    /// The history begins at this time: after all those before it.
    fn beginning(self) -> Timestamp {
        NOW + Duration::from_secs(10_000) * u32::try_from(self.history).unwrap()
    }

    fn time(self, moment: Moment) -> Timestamp {
        Timestamp::from_millis(self.beginning().as_millis() + moment)
    }

    fn moment(self, time: Timestamp) -> Moment {
        time.as_millis() - self.beginning().as_millis()
    }

    fn key(self, number: Number) -> SessionKey {
        // Spread over all bytes, as hashes are: caches and servers choose places by them.
        let word = (self.history << 8 | u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&word.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.history.to_be_bytes());
        bytes[31] = number;
        SessionKey::from_bytes(bytes)
    }

    fn handle(self, number: Number) -> Handle {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.history.to_be_bytes());
        bytes[15] = number;
        Handle::from_bytes(bytes)
    }

    fn key_number(self, key: &SessionKey) -> Number {
        let number = key.as_bytes()[31];
        assert_eq!(*key, self.key(number), "a key of another history");
        number
    }

    fn keys(self, keys: &[SessionKey]) -> Vec<Number> {
        let mut numbers: Vec<_> = keys.iter().map(|key| self.key_number(key)).collect();
        numbers.sort_unstable();
        numbers
    }

    fn birth(self, begins: &Begins) -> Birth {
        let idle = begins.idle.map(|idle| Duration::from_millis(idle.unsigned_abs()));
        let limits = Limits::new(idle, begins.absolute.map(|absolute| self.time(absolute)));
        let mut birth = Birth::new(limits).unwrap();
        birth.handle = self.handle(begins.handle);
        birth.auth_level = begins.level;
        birth.external_key = begins.external.map(external);
        birth
    }

    fn session(self, record: &Record) -> Session {
        let Record { handle, user, external_key, limits, data, .. } = record;
        let number = handle.as_bytes()[15];
        assert_eq!(*handle, self.handle(number), "a handle of another history");
        let idle = limits.idle.map(|idle| Moment::try_from(idle.as_millis()).unwrap());
        Session {
            handle: number,
            user: user.as_ref().map(|user| user.as_str().parse().unwrap()),
            external: external_key.as_ref().map(|key| key.as_str().parse().unwrap()),
            level: record.auth_level,
            created: self.moment(record.created),
            authenticated: record.authenticated.map(|time| self.moment(time)),
            seen: self.moment(record.seen),
            idle,
            absolute: limits.absolute.map(|time| self.moment(time)),
            revision: record.revision,
            data: data
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.decode().unwrap()))
                .collect(),
        }
    }

    /// Carries the operation out.
    pub fn call(self, store: &impl Store, operation: &Operation) -> Answer {
        self.try_call(store, operation).unwrap_or_else(|error| failed(&error))
    }

    fn try_call(self, store: &impl Store, operation: &Operation) -> Result<Answer> {
        let now = self.time(operation.now);
        let nothing = Delta::new();
        Ok(match &operation.call {
            Call::Load { key } => match store.load(&self.key(*key), now)? {
                Loaded::Live { record, key } => {
                    Answer::Live { session: self.session(&record), key: self.key_number(&key) }
                }
                Loaded::Replaced { key, .. } => Answer::Replaced { key: self.key_number(&key) },
                Loaded::Absent => Answer::Absent,
                other => Answer::Failed(format!("{other:?}")),
            },
            Call::Create { key, begins, changes } => {
                let (key, birth, delta) = (self.key(*key), self.birth(begins), delta(changes));
                let commit = Commit::new(&key, Fate::Create(&birth), &delta, now);
                self.committed(store.commit(&commit)?)
            }
            Call::Merge { key, changes, if_revision, seen } => {
                let (key, delta) = (self.key(*key), delta(changes));
                let mut commit = Commit::new(&key, Fate::Merge, &delta, now);
                commit.if_revision = *if_revision;
                commit.touch = seen.map(|seen| Touch::at(self.time(seen)));
                self.committed(store.commit(&commit)?)
            }
            Call::Renew { key, to, grace_until, changes } => {
                let (key, to, delta) = (self.key(*key), self.key(*to), delta(changes));
                let grace_until = grace_until.map(|until| self.time(until));
                let fate = Fate::Renew { to: &to, realm: &Realm::default(), grace_until };
                self.committed(store.commit(&Commit::new(&key, fate, &delta, now))?)
            }
            Call::SignIn { key, to, user, begins, changes, limit } => {
                let (key, to, delta) = (self.key(*key), self.key(*to), delta(changes));
                let (user, birth) = (name_of_user(*user), self.birth(begins));
                let join_salt = Some(JoinSalt::from_bytes(*to.as_bytes()));
                let fate = Fate::SignIn { to: &to, user: &user, birth: &birth, join_salt };
                let mut commit = Commit::new(&key, fate, &delta, now);
                commit.admit = limit.map(admit);
                self.committed(store.commit(&commit)?)
            }
            Call::Delete { key } => {
                let key = self.key(*key);
                self.committed(store.commit(&Commit::new(&key, Fate::Delete, &nothing, now))?)
            }
            Call::Touch { key, seen } => {
                store.touch(&[(self.key(*key), Touch::at(self.time(*seen)))], now)?;
                Answer::Ok
            }
            Call::Sweep => Answer::Swept(store.sweep(now, MANY)?.removed),
            Call::List(who) => {
                let list =
                    self.which(who, |which| registry(store).list(which, Page::first(MANY), now))?;
                let listed = list.iter().map(|summary| Listed {
                    handle: summary.handle.as_bytes()[15],
                    user: summary.user.as_ref().map(|user| user.as_str().parse().unwrap()),
                    seen: self.moment(summary.seen),
                });
                Answer::List(listed.collect())
            }
            Call::Revoke(who) => {
                let keys = self.which(who, |which| registry(store).revoke(which, None, now))?;
                Answer::Revoked(self.keys(&keys))
            }
            Call::RevokeEveryone => {
                Answer::RevokedEveryone(Some(registry(store).revoke_everyone(None, now)?))
            }
            Call::Stats => {
                let stats = registry(store).stats(now)?;
                let (live, expired, signed_in) = (stats.live, stats.expired, stats.signed_in);
                Answer::Counts { live, expired, signed_in }
            }
            Call::Lose => unreachable!("no store is told to lose what it has"),
        })
    }

    fn which<T>(self, who: &Who, then: impl FnOnce(&Which<'_>) -> T) -> T {
        match who {
            Who::All => then(&Which::All),
            Who::User(user) => then(&Which::User(&name_of_user(*user))),
            Who::Handle(handle) => then(&Which::Handle(&self.handle(*handle))),
            Who::OfUser(user, handle) => {
                then(&Which::OfUser(&name_of_user(*user), &self.handle(*handle)))
            }
            Who::External(key) => then(&Which::External(&external(*key))),
        }
    }

    fn committed(self, committed: Committed) -> Answer {
        let session = |record: &Record| self.session(record);
        match &committed {
            Committed::Done { record, key, ended } => {
                let (key, ended) = (self.key_number(key), self.keys(ended));
                Answer::Done { session: session(record), key, ended }
            }
            Committed::Unchanged { record, key } => {
                Answer::Unchanged { session: session(record), key: self.key_number(key) }
            }
            Committed::Stale { record, key } => {
                Answer::Stale { session: session(record), key: self.key_number(key) }
            }
            Committed::Deleted { key } => Answer::Deleted { key: self.key_number(key) },
            Committed::Replaced { key, .. } => Answer::Replaced { key: self.key_number(key) },
            Committed::Gone => Answer::Absent,
            Committed::Full => Answer::Full,
            other => Answer::Failed(format!("{other:?}")),
        }
    }
}

fn registry(store: &impl Store) -> &dyn Registry {
    store.registry().expect("a store that lists")
}

fn name_of_user(number: Number) -> UserKey {
    UserKey::new(number.to_string()).unwrap()
}

fn external(number: Number) -> ExternalKey {
    ExternalKey::new(number.to_string()).unwrap()
}

fn admit((limit, at_limit): (u32, AtLimit)) -> Admit {
    let at_limit = match at_limit {
        AtLimit::Refuse => store::AtLimit::Refuse,
        AtLimit::EndOldest => store::AtLimit::EndOldest,
        AtLimit::EndOthers => store::AtLimit::EndOthers,
    };
    Admit::new(NonZeroU32::new(limit).unwrap(), at_limit)
}

fn delta(changes: &[Change]) -> Delta {
    let mut delta = Delta::new();
    for change in changes {
        match change {
            Change::Set(name, value) => {
                delta.set(&name.to_string(), Value::encode(value).unwrap());
            }
            Change::Remove(name) => delta.remove(&name.to_string()),
            Change::Clear => delta.clear(),
            Change::User(user) => delta.set_user(user.map(name_of_user)),
        }
    }
    delta
}

/// Only a server that is away, or too slow, leaves anything open here.
pub fn failed(error: &Error) -> Answer {
    let words = error.to_string();
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Busy => Answer::Unknown(words),
        _ => Answer::Failed(words),
    }
}
