//! The helpers of the checks: a store with the time of its calls, short forms of the calls, and
//! assertions that fail with a sentence. The checks import all of them.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::backend::{
    Action, Commit, CommitAnswer, Expected, LiveSession, Loaded, RemovalReport, ReplacedId,
    SessionIndex, Store, Unreadable,
};
use crate::clock::Timestamp;
use crate::data::Value;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, panic_message};
use crate::id::{IdpSessionId, PublicId, Realm, SessionId, SessionIdHash, UserKey};
use crate::lifetime::Lifetime;
use crate::list::{Page, SessionFilter, Summary};
use crate::record::{EndedSession, NewSession, Record, Touch};
use crate::sync::monotonic_now;

/// The sentence of a failed check.
#[derive(Debug)]
pub(super) struct Violation(pub(super) String);

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Violation(format!("the store returned an error: {error:?}"))
    }
}

pub(super) type Passed<T = ()> = Result<T, Violation>;

/// Runs `f` and turns a panic into a failure.
pub(super) fn caught<T>(f: impl FnOnce() -> Passed<T>) -> Passed<T> {
    // Each check has its own store, so a panic in one check does not affect another.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let message = panic_message(panic.as_ref()).unwrap_or("without a message");
        Err(Violation(format!("the store panicked: {message}")))
    })
}

/// Returns the failure of a thread that panicked outside [`caught`].
pub(super) fn panicked() -> Violation {
    Violation("a thread of the check panicked".into())
}

/// Fails with the sentence unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($otherwise:tt)+) => {
        if $holds {
            Ok(())
        } else {
            Err($crate::conformance::fixture::Violation(format!($($otherwise)+)))
        }
    };
}
pub(super) use ensure;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MILLI: Duration = Duration::from_millis(1);
/// The default limits of a session in the checks. With them a touch is due after 90 s.
pub(super) const IDLE: Duration = Duration::from_secs(3600);
pub(super) const ABSOLUTE: Duration = Duration::from_secs(36_000);
pub(super) const TOUCH_DUE: Duration = Duration::from_secs(90);
pub(super) const ALL: NonZeroUsize = NonZeroUsize::MAX;

pub(super) fn lifetime() -> Lifetime {
    Lifetime::idle(IDLE).with_absolute(ABSOLUTE)
}

pub(super) fn id_hash() -> Passed<SessionIdHash> {
    Ok(SessionId::generate()?.hash(Realm::default().tag()))
}

pub(super) fn user(name: &str) -> Passed<UserKey> {
    Ok(UserKey::new(name)?)
}

pub(super) fn idp_session_id(name: &str) -> Passed<IdpSessionId> {
    Ok(IdpSessionId::new(name)?)
}

/// Returns a delta that sets one name.
pub(super) fn set(name: &str, value: impl Serialize) -> Passed<Delta> {
    let mut delta = Delta::new();
    delta.set(name, Value::encode(&value)?);
    Ok(delta)
}

pub(super) fn nothing() -> Delta {
    Delta::new()
}

/// Returns whether `name` has this value in the record.
pub(super) fn holds(record: &Record, name: &str, value: impl Serialize) -> Passed<bool> {
    Ok(record.data.get(name) == Some(Value::encode(&value)?))
}

/// Returns a sign-in whose new id is not derived from the presented id, so that no other sign-in
/// can join it.
pub(super) fn sign_in_to(to: SessionIdHash, user: &UserKey, new_session: &NewSession) -> Action {
    Action::SignIn { to, user: user.clone(), new_session: new_session.clone(), join_salt: None }
}

pub(super) fn renew_to(to: SessionIdHash, grace_until: Option<Timestamp>) -> Action {
    Action::Renew { to, grace_until }
}

pub(super) fn same_record(record: &Record, expected: &Record, what: &str) -> Passed {
    ensure!(record == expected, "{what} returned {record:?}, not {expected:?}")
}

/// An id hash, and the record that the store returned when it stored the session.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) id_hash: SessionIdHash,
    pub(super) record: Record,
}

impl Sample {
    pub(super) fn public_id(&self) -> PublicId {
        self.record.public_id
    }

    pub(super) fn to_live(&self) -> Arc<LiveSession> {
        Arc::new(LiveSession { record: self.record.clone(), id_hash: self.id_hash })
    }

    pub(super) fn to_ended(&self) -> EndedSession {
        EndedSession::of(self.id_hash, &self.record)
    }
}

/// The content of [`CommitAnswer::Done`].
#[derive(Debug)]
pub(super) struct Done {
    pub(super) record: Record,
    pub(super) id_hash: SessionIdHash,
    pub(super) ids_to_invalidate: Vec<SessionIdHash>,
    pub(super) previous_id: Option<SessionIdHash>,
    pub(super) ended: Vec<EndedSession>,
}

/// Returns the name of the result.
pub(super) fn name_of(answer: &CommitAnswer) -> &'static str {
    match answer {
        CommitAnswer::Done { .. } => "Done",
        CommitAnswer::Unchanged(_) => "Unchanged",
        CommitAnswer::Ended(_) => "Ended",
        CommitAnswer::RevisionMismatch(_) => "RevisionMismatch",
        CommitAnswer::CanJoin { .. } => "CanJoin",
        CommitAnswer::Unreadable(unreadable) => why(unreadable),
        CommitAnswer::SignInRefused => "SignInRefused",
    }
}

fn is_same(one: &Loaded, other: &Loaded) -> bool {
    match (one, other) {
        (Loaded::Live(session), Loaded::Live(other)) => session == other,
        (one, other) => found(one) == found(other),
    }
}

fn found(loaded: &Loaded) -> &'static str {
    match loaded {
        Loaded::Live(_) => "Live",
        Loaded::Unreadable(unreadable) => why(unreadable),
    }
}

fn why(unreadable: &Unreadable) -> &'static str {
    match unreadable {
        Unreadable::Replaced { .. } => "Replaced",
        Unreadable::NotFound { .. } => "NotFound",
        Unreadable::Undecodable { .. } => "Undecodable",
    }
}

pub(super) fn public_ids(summaries: &[Summary]) -> Vec<PublicId> {
    summaries.iter().map(|summary| summary.public_id).collect()
}

/// Returns whether both have the same id hashes, in any order.
pub(super) fn same_ids(some: &[SessionIdHash], others: &[SessionIdHash]) -> bool {
    some.len() == others.len()
        && some.iter().collect::<HashSet<_>>() == others.iter().collect::<HashSet<_>>()
}

/// Fails unless `what` named exactly these sessions as ended.
pub(super) fn names_ended(ended: &[EndedSession], wanted: &[&Sample], what: &str) -> Passed {
    let is_named = |sample: &&Sample| ended.contains(&sample.to_ended());
    let exact = ended.len() == wanted.len() && wanted.iter().all(is_named);
    ensure!(exact, "{what} named {ended:?} as ended, not {wanted:?}")
}

/// Fails unless the result of `what` has one of these names.
pub(super) fn answered_one_of(answer: &CommitAnswer, wanted: &[&str], what: &str) -> Passed {
    let name = name_of(answer);
    ensure!(wanted.contains(&name), "{what} returned {name}, not {}", wanted.join(" or "))
}

/// Fails unless the result of `what` has this name.
pub(super) fn answered(answer: &CommitAnswer, wanted: &str, what: &str) -> Passed {
    answered_one_of(answer, &[wanted], what)
}

pub(super) fn done(answer: CommitAnswer, what: &str) -> Passed<Done> {
    answered(&answer, "Done", what)?;
    let ids_to_invalidate = answer.ids_to_invalidate().collect();
    match answer {
        CommitAnswer::Done {
            session: LiveSession { record, id_hash }, previous_id, ended, ..
        } => Ok(Done { record, id_hash, ids_to_invalidate, previous_id, ended }),
        _ => Err(Violation(format!("{what} was not done"))),
    }
}

/// Fails unless the result has this name and carries the session as it is stored.
pub(super) fn returned(answer: &CommitAnswer, wanted: &str, stored: &Sample, what: &str) -> Passed {
    answered(answer, wanted, what)?;
    match answer {
        CommitAnswer::Unchanged(session) | CommitAnswer::RevisionMismatch(session) => {
            let same = session.id_hash == stored.id_hash && session.record == stored.record;
            ensure!(same, "{what} returned another session than the stored one")
        }
        _ => Ok(()),
    }
}

/// Fails unless the commit gave this session the id `to` and ended its former id.
pub(super) fn moved(
    answer: CommitAnswer,
    session: &Sample,
    to: &SessionIdHash,
    what: &str,
) -> Passed<Sample> {
    let Done { record, id_hash, ids_to_invalidate, previous_id, .. } = done(answer, what)?;
    ensure!(id_hash == *to, "{what} gave the session no new id")?;
    ensure!(record.public_id == session.public_id(), "{what} lost the public id")?;
    ensure!(previous_id == Some(session.id_hash), "{what} did not name the id that it replaced")?;
    ensure!(ids_to_invalidate == [session.id_hash], "{what} ended a session")?;
    Ok(Sample { id_hash, record })
}

/// Fails unless the commit began a session that has nothing of `other`.
pub(super) fn begun(answer: CommitAnswer, other: &Sample, what: &str) -> Passed<Done> {
    let done = done(answer, what)?;
    ensure!(done.record.public_id != other.public_id(), "{what} took another session's public id")?;
    ensure!(done.record.data.is_empty(), "{what} took another session's data")?;
    Ok(done)
}

/// A store that is empty at first, and the time of the calls: the start of the check, unless
/// [`at`](Self::at) sets another.
#[derive(Clone, Debug)]
pub(super) struct Fixture {
    pub(super) store: Arc<dyn Store>,
    /// A store that was made separately.
    pub(super) other: Arc<dyn Store>,
    pub(super) now: Timestamp,
}

impl Fixture {
    pub(super) fn index(&self) -> Passed<&dyn SessionIndex> {
        self.store.index().ok_or_else(|| Violation("there is no session index".into()))
    }

    /// Returns the time `duration` after that of the calls.
    pub(super) fn after(&self, duration: Duration) -> Timestamp {
        self.now + duration
    }

    /// Returns the same store, whose calls are made at `now`.
    pub(super) fn at(&self, now: Timestamp) -> Fixture {
        Fixture { now, ..self.clone() }
    }

    /// Returns the same store, whose calls are made `duration` later.
    pub(super) fn later(&self, duration: Duration) -> Fixture {
        self.at(self.after(duration))
    }

    pub(super) fn new_session(&self) -> Passed<NewSession> {
        Ok(NewSession::new(lifetime().limits_from(self.now))?)
    }

    /// Creates an anonymous session with the data `coat: "blue"`.
    pub(super) fn session(&self) -> Passed<Sample> {
        self.session_from(&self.new_session()?)
    }

    pub(super) fn session_for(&self, lifetime: Lifetime) -> Passed<Sample> {
        self.session_from(&NewSession::new(lifetime.limits_from(self.now))?)
    }

    pub(super) fn session_from(&self, new_session: &NewSession) -> Passed<Sample> {
        let id_hash = id_hash()?;
        let create = Action::Create(new_session.clone());
        let done = done(self.commit(&id_hash, create, &set("coat", "blue")?)?, "a create")?;
        ensure!(done.id_hash == id_hash, "a create returned another id")?;
        self.read(&id_hash)?;
        Ok(Sample { id_hash, record: done.record })
    }

    /// Creates a session by a sign-in of this user.
    pub(super) fn session_of(&self, user: &UserKey) -> Passed<Sample> {
        let (id_hash, answer) = self.sign_in(&id_hash()?, user)?;
        self.read(&id_hash)?;
        Ok(Sample { id_hash, record: done(answer, "a sign-in without a session")?.record })
    }

    /// Commits with default options. A check that needs others builds its own [`Commit`].
    pub(super) fn commit(
        &self,
        id_hash: &SessionIdHash,
        action: Action,
        delta: &Delta,
    ) -> Passed<CommitAnswer> {
        Ok(self.store.commit(&Commit::new(id_hash, action, delta.clone(), self.now))?)
    }

    pub(super) fn merge(&self, id_hash: &SessionIdHash, delta: &Delta) -> Passed<CommitAnswer> {
        self.commit(id_hash, Action::Merge, delta)
    }

    /// Merges as a request that has loaded the session: `loaded` may be outdated.
    pub(super) fn merge_loaded(&self, loaded: &Sample, delta: &Delta) -> Passed<CommitAnswer> {
        let merge = Commit::new(&loaded.id_hash, Action::Merge, delta.clone(), self.now);
        Ok(self.store.commit(&Commit { loaded: Some(loaded.to_live()), ..merge })?)
    }

    /// Merges the delta and records activity at the time of the call.
    pub(super) fn merge_and_touch(
        &self,
        id_hash: &SessionIdHash,
        delta: &Delta,
    ) -> Passed<CommitAnswer> {
        let merge = Commit::new(id_hash, Action::Merge, delta.clone(), self.now);
        Ok(self.store.commit(&Commit { touch: Some(Touch::at(self.now)), ..merge })?)
    }

    pub(super) fn end(&self, id_hash: &SessionIdHash) -> Passed<CommitAnswer> {
        self.commit(id_hash, Action::End, &nothing())
    }

    /// Ends the session `current` by `id_hash`, and fails if the store does not.
    pub(super) fn ends(
        &self,
        id_hash: &SessionIdHash,
        current: &SessionIdHash,
        what: &str,
    ) -> Passed {
        match self.end(id_hash)? {
            CommitAnswer::Ended(ended) => {
                ensure!(ended.id_hash == *current, "{what} does not return the current id")
            }
            other => answered(&other, "Ended", what),
        }
    }

    /// Renews to a new id. Returns its hash and the result.
    pub(super) fn renew(
        &self,
        id_hash: &SessionIdHash,
        grace_until: Option<Timestamp>,
    ) -> Passed<(SessionIdHash, CommitAnswer)> {
        let to = self::id_hash()?;
        Ok((to, self.commit(id_hash, renew_to(to, grace_until), &nothing())?))
    }

    /// Renews the session, and fails if the store does not.
    pub(super) fn renewed(
        &self,
        session: &Sample,
        grace_until: Option<Timestamp>,
    ) -> Passed<Sample> {
        let (to, answer) = self.renew(&session.id_hash, grace_until)?;
        moved(answer, session, &to, "a renewal")
    }

    /// Signs in to a new id that is not derived from the old one. Returns its hash and the result.
    pub(super) fn sign_in(
        &self,
        id_hash: &SessionIdHash,
        user: &UserKey,
    ) -> Passed<(SessionIdHash, CommitAnswer)> {
        let to = self::id_hash()?;
        let action = sign_in_to(to, user, &self.new_session()?);
        Ok((to, self.commit(id_hash, action, &nothing())?))
    }

    /// Records activity at the time of the call.
    pub(super) fn touch(&self, id_hash: &SessionIdHash) -> Passed {
        self.touch_at(id_hash, self.now)
    }

    pub(super) fn touch_at(&self, id_hash: &SessionIdHash, seen: Timestamp) -> Passed {
        Ok(self.store.touch(&[(*id_hash, Touch::at(seen))], self.now).map_err(Error::from)?)
    }

    /// Sweeps a store that has expired sessions, and returns how many were removed. Returns `None`
    /// for a store without an index that removed none, because its server expires them by itself.
    pub(super) fn sweep(&self, limit: NonZeroUsize) -> Passed<Option<usize>> {
        let began = monotonic_now();
        let RemovalReport { removed, blocked_for, .. } = self.store.sweep(self.now, limit)?;
        let took = monotonic_now().saturating_duration_since(began);
        ensure!(
            blocked_for <= took,
            "a sweep of {took:?} reported that it blocked writers for {blocked_for:?}"
        )?;
        Ok(Some(removed).filter(|removed| *removed > 0 || self.store.index().is_some()))
    }

    pub(super) fn list(&self, filter: &SessionFilter<'_>) -> Passed<Vec<Summary>> {
        Ok(self.index()?.list(filter, Page::first(ALL), self.now)?)
    }

    pub(super) fn is_live(&self, id_hash: &SessionIdHash) -> Passed<bool> {
        Ok(matches!(self.load(id_hash)?, Loaded::Live(_)))
    }

    /// Fails with this sentence if a load finds a session by one of these ids.
    pub(super) fn none_live(&self, id_hashes: &[SessionIdHash], otherwise: &str) -> Passed {
        id_hashes.iter().try_for_each(|id_hash| ensure!(!self.is_live(id_hash)?, "{otherwise}"))
    }

    /// Loads the session, so that a store with a cache caches it.
    fn read(&self, id_hash: &SessionIdHash) -> Passed {
        self.store.load(id_hash, self.now)?;
        self.store.try_load(id_hash, self.now);
        Ok(())
    }

    /// Loads, and fails if `try_load` returns another result.
    pub(super) fn load(&self, id_hash: &SessionIdHash) -> Passed<Loaded> {
        let before = self.store.load(id_hash, self.now)?;
        let immediate = self.store.try_load(id_hash, self.now);
        let after = self.store.load(id_hash, self.now)?;
        // Other threads may write between the loads. Two equal results mean that none did, because
        // a session never returns to an earlier state.
        if let Some(immediate) = immediate.filter(|_| is_same(&before, &after)) {
            let same = is_same(&immediate, &after);
            let loaded = found(&after);
            ensure!(same, "try_load returns another result than load, which returns {loaded}")?;
        }
        Ok(after)
    }

    /// Loads the session, and fails unless it is live. Its current id hash may be another one.
    pub(super) fn live(&self, id_hash: &SessionIdHash, what: &str) -> Passed<Sample> {
        match self.load(id_hash)? {
            Loaded::Live(LiveSession { record, id_hash }) => Ok(Sample { id_hash, record }),
            other => {
                Err(Violation(format!("{what} is not found: a load returns {}", found(&other))))
            }
        }
    }

    /// Fails unless the stored session equals `session`.
    pub(super) fn is_intact(&self, session: &Sample, what: &str) -> Passed {
        let stored = self.live(&session.id_hash, &format!("after {what} the session"))?;
        ensure!(stored.id_hash == session.id_hash, "{what} changed the id of the session")?;
        ensure!(stored.record == session.record, "{what} changed the session")
    }

    pub(super) fn is_absent(&self, id_hash: &SessionIdHash, what: &str) -> Passed {
        let loaded = self.load(id_hash)?;
        let loaded = found(&loaded);
        ensure!(loaded == "NotFound", "{what}: a load returns {loaded}")
    }

    /// Fails unless the store remembers the id as a replaced id of the session `current`.
    pub(super) fn is_replaced(
        &self,
        id_hash: &SessionIdHash,
        current: &SessionIdHash,
        what: &str,
    ) -> Passed<ReplacedId> {
        match self.load(id_hash)? {
            Loaded::Unreadable(Unreadable::Replaced { replaced, session }) => {
                let LiveSession { record, id_hash: led_to } = session;
                ensure!(replaced.id_hash == *id_hash, "{what} is remembered as another id")?;
                ensure!(led_to == *current, "{what} does not lead to the session's current id")?;
                let live = self.live(current, what)?.record;
                ensure!(live == record, "{what} does not lead to the session as it is stored")?;
                Ok(replaced)
            }
            other => {
                Err(Violation(format!("{what} is not Replaced: a load returns {}", found(&other))))
            }
        }
    }

    /// Commits at a revision that is not stored, and fails unless that leaves `current` as it is.
    pub(super) fn is_revision_mismatch(
        &self,
        from: &SessionIdHash,
        to: &SessionIdHash,
        action: Action,
        current: &Sample,
    ) -> Passed {
        let what = "a commit at a revision that is not stored";
        for expected in [Expected::NoSession, Expected::Revision(7)] {
            let commit = Commit::new(from, action.clone(), nothing(), self.now);
            let answer = self.store.commit(&Commit { expected, ..commit })?;
            returned(&answer, "RevisionMismatch", current, what)?;
            self.is_absent(to, &format!("{what} stored something"))?;
        }
        self.is_intact(current, what)
    }

    /// Fails unless the commit returns an error of this kind.
    pub(super) fn fails(&self, commit: &Commit, kind: ErrorKind, what: &str) -> Passed {
        match self.store.commit(commit) {
            Err(error) if error.kind() == kind => Ok(()),
            Err(error) => {
                Err(Violation(format!("{what} failed with another error than {kind:?}: {error:?}")))
            }
            Ok(answer) => {
                Err(Violation(format!("{what} did not fail but returned {}", name_of(&answer))))
            }
        }
    }
}

/// A pseudo-random generator (SplitMix64) with the same numbers in every run, so that failures can
/// be reproduced.
#[derive(Debug)]
pub(super) struct PseudoRandom(pub(super) u64);

impl PseudoRandom {
    /// Returns a number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z >> 33).unwrap_or(0) % bound.max(1)
    }
}
