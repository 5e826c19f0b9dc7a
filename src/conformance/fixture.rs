//! What the checks are written with: a store, a time, and short words for the calls.

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::Serialize;

use crate::backend::{
    Action, Commit, Committed, LiveSession, Lookup, Missing, ReplacedId, SessionIndex, Store,
    SweepReport,
};
use crate::clock::Timestamp;
use crate::data::Value;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, panic_words};
use crate::id::{IdpSessionId, PublicId, Realm, SessionId, SessionIdHash, UserKey};
use crate::lifetime::Lifetime;
use crate::record::{NewSession, Record, Touch};
use crate::sync::instant;

/// What happened instead of what should have.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(format!("the store answered an error: {error:?}"))
    }
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// Runs `f`; a panic in it is a failure like any other.
pub(super) fn caught<T>(f: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    // Whatever a panic leaves half-done belongs to the store of this one check.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(Failure(format!("the store panicked: {}", panic_message(panic.as_ref()))))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic_words(panic).unwrap_or("it did not say why")
}

/// For a thread that ended although every call in it is [`caught`].
pub(super) fn panicked() -> Failure {
    Failure("a thread of the check panicked".into())
}

macro_rules! ensure {
    ($holds:expr, $($otherwise:tt)+) => {
        if !$holds {
            return Err($crate::conformance::fixture::Failure(format!($($otherwise)+)));
        }
    };
}
pub(super) use ensure;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MILLI: Duration = Duration::from_millis(1);
/// The limits of a session about which a check says nothing else. A touch is due after 90 s.
pub(super) const IDLE: Duration = Duration::from_secs(3600);
pub(super) const ABSOLUTE: Duration = Duration::from_secs(36_000);
pub(super) const TOUCH_DUE: Duration = Duration::from_secs(90);
pub(super) const ALL: NonZeroUsize = NonZeroUsize::MAX;

pub(super) fn lifetime() -> Lifetime {
    Lifetime::idle(IDLE).with_absolute(ABSOLUTE)
}

pub(super) fn id_hash() -> Outcome<SessionIdHash> {
    Ok(SessionId::generate()?.hash(Realm::default().tag()))
}

pub(super) fn user(name: &str) -> Outcome<UserKey> {
    Ok(UserKey::new(name)?)
}

pub(super) fn external(name: &str) -> Outcome<IdpSessionId> {
    Ok(IdpSessionId::new(name)?)
}

/// A delta that sets one name.
pub(super) fn set(name: &str, value: impl Serialize) -> Outcome<Delta> {
    let mut delta = Delta::new();
    delta.set(name, Value::encode(&value)?);
    Ok(delta)
}

pub(super) fn nothing() -> Delta {
    Delta::new()
}

/// Whether `name` has this value in the record.
pub(super) fn holds(record: &Record, name: &str, value: impl Serialize) -> Outcome<bool> {
    Ok(record.data.get(name) == Some(Value::encode(&value)?))
}

/// A sign-in to an id that does not follow from the presented one.
pub(super) fn sign_in_to(to: SessionIdHash, user: &UserKey, new_session: &NewSession) -> Action {
    Action::SignIn { to, user: user.clone(), new_session: new_session.clone(), join_salt: None }
}

/// An id and the record that the store answered when it put it there.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id_hash: SessionIdHash,
    pub(super) record: Record,
}

impl Session {
    pub(super) fn public_id(&self) -> PublicId {
        self.record.public_id
    }
}

/// What [`Committed::Done`] says.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) record: Record,
    pub(super) id_hash: SessionIdHash,
    pub(super) ended: Vec<SessionIdHash>,
}

/// The answer's name.
pub(super) fn said(answer: &Committed) -> &'static str {
    match answer {
        Committed::Done { .. } => "Done",
        Committed::Unchanged(_) => "Unchanged",
        Committed::Deleted(_) => "Deleted",
        Committed::RevisionMismatch(_) => "RevisionMismatch",
        Committed::Missing(missing) => why(missing),
        Committed::LimitReached => "LimitReached",
    }
}

fn is_same(one: &Lookup, other: &Lookup) -> bool {
    match (one, other) {
        (Lookup::Live { session, .. }, Lookup::Live { session: other, .. }) => session == other,
        (one, other) => found(one) == found(other),
    }
}

fn found(lookup: &Lookup) -> &'static str {
    match lookup {
        Lookup::Live { .. } => "Live",
        Lookup::Missing(missing) => why(missing),
    }
}

fn why(missing: &Missing) -> &'static str {
    match missing {
        Missing::Replaced { .. } => "Replaced",
        Missing::NotFound { .. } => "NotFound",
        Missing::Undecodable { .. } => "Undecodable",
    }
}

/// Demands that the answer to `what` has this name.
pub(super) fn answered(answer: &Committed, wanted: &str, what: &str) -> Outcome {
    ensure!(said(answer) == wanted, "{what} was answered {}, not {wanted}", said(answer));
    Ok(())
}

pub(super) fn done(answer: Committed, what: &str) -> Outcome<Done> {
    answered(&answer, "Done", what)?;
    match answer {
        Committed::Done { session: LiveSession { record, id_hash }, ended } => {
            Ok(Done { record, id_hash, ended })
        }
        _ => Err(Failure(format!("{what} was not done"))),
    }
}

/// An empty store and the time at which its story begins.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) store: Box<dyn Store>,
    pub(super) now: Timestamp,
}

impl Fixture {
    pub(super) fn index(&self) -> Outcome<&dyn SessionIndex> {
        self.store.index().ok_or_else(|| Failure("there is no session index".into()))
    }

    /// The time `duration` after the beginning.
    pub(super) fn after(&self, duration: Duration) -> Timestamp {
        self.now + duration
    }

    pub(super) fn new_session(&self) -> Outcome<NewSession> {
        Ok(NewSession::new(lifetime().starting(self.now))?)
    }

    /// A session that holds a blue coat.
    pub(super) fn session(&self) -> Outcome<Session> {
        self.session_from(self.now, &self.new_session()?)
    }

    pub(super) fn session_for(&self, lifetime: Lifetime) -> Outcome<Session> {
        self.session_from(self.now, &NewSession::new(lifetime.starting(self.now))?)
    }

    pub(super) fn session_from(
        &self,
        now: Timestamp,
        new_session: &NewSession,
    ) -> Outcome<Session> {
        let id_hash = id_hash()?;
        let answer =
            self.commit(&id_hash, Action::Create(new_session.clone()), &set("coat", "blue")?, now)?;
        let done = done(answer, "a create")?;
        ensure!(done.id_hash == id_hash, "a create was answered with another id than its own");
        self.read(&id_hash, now)?;
        Ok(Session { id_hash, record: done.record })
    }

    /// A session of this user, begun and signed in at `now`.
    pub(super) fn session_of(&self, user: &UserKey, now: Timestamp) -> Outcome<Session> {
        let (id_hash, answer) = self.sign_in(&id_hash()?, user, now)?;
        self.read(&id_hash, now)?;
        Ok(Session { id_hash, record: done(answer, "a sign-in without a session")?.record })
    }

    /// Commits without conditions. Whatever it takes to say more stands in the check.
    pub(super) fn commit(
        &self,
        id_hash: &SessionIdHash,
        action: Action,
        delta: &Delta,
        now: Timestamp,
    ) -> Outcome<Committed> {
        Ok(self.store.commit(&Commit::new(id_hash, action, delta.clone(), now))?)
    }

    pub(super) fn merge(
        &self,
        id_hash: &SessionIdHash,
        delta: &Delta,
        now: Timestamp,
    ) -> Outcome<Committed> {
        self.commit(id_hash, Action::Merge, delta, now)
    }

    pub(super) fn delete(&self, id_hash: &SessionIdHash, now: Timestamp) -> Outcome<Committed> {
        self.commit(id_hash, Action::Delete, &nothing(), now)
    }

    /// Renews to a new id, which comes back with the answer.
    pub(super) fn renew(
        &self,
        id_hash: &SessionIdHash,
        grace_until: Option<Timestamp>,
        now: Timestamp,
    ) -> Outcome<(SessionIdHash, Committed)> {
        let to = self::id_hash()?;
        let answer = self.commit(
            id_hash,
            Action::Renew { to, realm: Realm::default(), grace_until },
            &nothing(),
            now,
        )?;
        Ok((to, answer))
    }

    /// Renews what must be possible to renew.
    pub(super) fn renewed(
        &self,
        session: &Session,
        grace_until: Option<Timestamp>,
    ) -> Outcome<Session> {
        let (id_hash, answer) = self.renew(&session.id_hash, grace_until, self.now)?;
        Ok(Session { id_hash, record: done(answer, "a renewal")?.record })
    }

    /// Signs in to a new id that does not follow from the old one, which comes back with the
    /// answer.
    pub(super) fn sign_in(
        &self,
        id_hash: &SessionIdHash,
        user: &UserKey,
        now: Timestamp,
    ) -> Outcome<(SessionIdHash, Committed)> {
        let to = self::id_hash()?;
        let new_session = NewSession::new(lifetime().starting(now))?;
        let action = sign_in_to(to, user, &new_session);
        let answer = self.commit(id_hash, action, &nothing(), now)?;
        Ok((to, answer))
    }

    pub(super) fn touch(
        &self,
        id_hash: &SessionIdHash,
        seen: Timestamp,
        now: Timestamp,
    ) -> Outcome {
        Ok(self.store.touch(&[(*id_hash, Touch::at(seen))], now)?)
    }

    /// Sweeps what must have something to sweep. `None` for a store that leaves its ended
    /// sessions to a server that forgets them by itself: it removes none, and cannot list.
    pub(super) fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Outcome<Option<usize>> {
        let began = instant();
        let SweepReport { removed, held } = self.store.sweep(now, limit)?;
        let took = instant().saturating_duration_since(began);
        ensure!(held <= took, "a sweep of {took:?} said that it held others up for {held:?}");
        Ok(Some(removed).filter(|removed| *removed > 0 || self.store.capabilities().indexed))
    }

    pub(super) fn is_live(&self, id_hash: &SessionIdHash, now: Timestamp) -> Outcome<bool> {
        Ok(matches!(self.load(id_hash, now)?, Lookup::Live { .. }))
    }

    /// Has the store keep in memory what it keeps.
    fn read(&self, id_hash: &SessionIdHash, now: Timestamp) -> Outcome {
        self.store.load(id_hash, now)?;
        self.store.try_load(id_hash, now);
        Ok(())
    }

    /// Loads, and demands that what was known without waiting was no other answer.
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Outcome<Lookup> {
        let before = self.store.load(id_hash, now)?;
        let at_hand = self.store.try_load(id_hash, now);
        let after = self.store.load(id_hash, now)?;
        // Others may write meanwhile; a session never becomes what it was before.
        if let Some(at_hand) = at_hand.filter(|_| is_same(&before, &after)) {
            let loaded = found(&after);
            ensure!(
                is_same(&at_hand, &after),
                "try_load answers otherwise than load, which says {loaded}"
            );
        }
        Ok(after)
    }

    /// Loads what must live, under whatever id.
    pub(super) fn live(
        &self,
        id_hash: &SessionIdHash,
        now: Timestamp,
        what: &str,
    ) -> Outcome<Session> {
        match self.load(id_hash, now)? {
            Lookup::Live { session: LiveSession { record, id_hash }, .. } => {
                Ok(Session { id_hash, record })
            }
            other => Err(Failure(format!("{what} is not found: a load says {}", found(&other)))),
        }
    }

    /// Demands that the session is stored exactly as it is in `session`.
    pub(super) fn is_intact(&self, session: &Session, what: &str) -> Outcome {
        let stored = self.live(&session.id_hash, self.now, &format!("after {what} the session"))?;
        ensure!(stored.id_hash == session.id_hash, "{what} changed the id of the session");
        ensure!(stored.record == session.record, "{what} changed the session");
        Ok(())
    }

    pub(super) fn is_absent(&self, id_hash: &SessionIdHash, now: Timestamp, what: &str) -> Outcome {
        let loaded = self.load(id_hash, now)?;
        ensure!(
            matches!(loaded, Lookup::Missing(Missing::NotFound { .. })),
            "{what}: a load says {}",
            found(&loaded)
        );
        Ok(())
    }

    /// Demands that the id is remembered as one that the session had, and finds nothing.
    pub(super) fn is_replaced(
        &self,
        id_hash: &SessionIdHash,
        current: &SessionIdHash,
        now: Timestamp,
        what: &str,
    ) -> Outcome<ReplacedId> {
        match self.load(id_hash, now)? {
            Lookup::Missing(Missing::Replaced { id, session, .. }) => {
                let LiveSession { record, id_hash: led_to } = session;
                ensure!(id.id_hash == *id_hash, "{what} is remembered as another id");
                ensure!(led_to == *current, "{what} does not lead to the session's current id");
                let live = self.live(current, now, what)?.record;
                ensure!(live == record, "{what} does not lead to the session as it is");
                Ok(id)
            }
            other => Err(Failure(format!(
                "{what} is not answered Replaced: a load says {}",
                found(&other)
            ))),
        }
    }

    /// Demands that the commit fails with an error of this kind.
    pub(super) fn fails(&self, commit: &Commit, kind: ErrorKind, what: &str) -> Outcome {
        match self.store.commit(commit) {
            Err(error) if error.kind() == kind => Ok(()),
            Err(error) => Err(Failure(format!("{what} failed not as {kind:?} but: {error:?}"))),
            Ok(answer) => {
                Err(Failure(format!("{what} did not fail but was answered {}", said(&answer))))
            }
        }
    }
}

/// A generator of the same numbers in every run (SplitMix64): a failure can be repeated.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z >> 33).unwrap_or(0) % sides.max(1)
    }
}
