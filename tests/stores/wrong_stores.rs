//! Stores with common faults fail the conformance checks of the right guarantees.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, EndedSession, LiveSession, Loaded, NewSession, Record,
    RemovalReport, SessionIndex, Store, StoreIdentity, StoreWrapper, Touch, TouchError, Unreadable,
};
use cloakroom::clock::Timestamp;
use cloakroom::conformance::{Failures, check};
use cloakroom::id::{PublicId, Realm, SessionIdHash, UserKey};
use cloakroom::list::{Page, SessionFilter, Stats, Summary};
use cloakroom::{Lifetime, MemoryStore, Result};

/// Makes a store a wrapper of a correct one, some of whose calls it overrides.
macro_rules! wraps_a_right_store {
    () => {
        type Wrapped = MemoryStore;

        fn wrapped(&self) -> &MemoryStore {
            &self.right
        }
    };
}

fn failures_of<S: Store + Default>() -> Failures {
    check(S::default).expect_err("a wrong store passed")
}

/// Demands that one of the failures says this, and that it names the right guarantee.
fn says(failures: &Failures, guarantee: &str, text: &str) {
    let found =
        failures.iter().any(|failure| failure.starts_with(guarantee) && failure.contains(text));
    assert!(found, "no failure of {guarantee} says \"{text}\":\n{failures}");
}

/// Stores what it is given, whether or not the session is still there.
#[derive(Debug, Default)]
struct Upsert {
    right: MemoryStore,
}

impl StoreWrapper for Upsert {
    wraps_a_right_store!();

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        match (self.right.commit(commit)?, &commit.action) {
            (CommitAnswer::Unreadable(Unreadable::NotFound { .. }), Action::Merge) => {
                let new_session = NewSession::new(Lifetime::default().limits_from(commit.now))?;
                let create = Action::Create(new_session);
                let delta = commit.delta.clone();
                self.right.commit(&Commit::new(&commit.id_hash, create, delta, commit.now))
            }
            (answer, _) => Ok(answer),
        }
    }
}

#[test]
fn a_store_that_upserts_breaks_no_resurrection() {
    let failures = failures_of::<Upsert>();
    let logout = "a merge after an ending (a logout in between) brought the session back";
    says(&failures, "no-resurrection:", logout);
    says(&failures, "no-resurrection:", "[nothing_brings_back_a_swept_session]");
    says(&failures, "no-resurrection:", "[nothing_brings_back_a_revoked_session]");
    let ended = "a merge at the moment of an ending brought the session back";
    says(&failures, "no-resurrection:", ended);
    says(&failures, "strict-ids:", "a merge under an unknown id returned Done, not NotFound");
}

/// Renews by deleting the session and beginning another one with its data.
#[derive(Debug, Default)]
struct DeleteThenCreate {
    right: MemoryStore,
}

impl StoreWrapper for DeleteThenCreate {
    wraps_a_right_store!();

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        let Action::Renew { to, .. } = commit.action else { return self.right.commit(commit) };
        let Loaded::Live(session) = self.right.load(&commit.id_hash, commit.now)? else {
            return self.right.commit(commit);
        };
        let new_session = NewSession::new(Lifetime::default().limits_from(commit.now))?;
        let end = Action::End;
        let delta = Delta::new();
        self.right.commit(&Commit::new(&commit.id_hash, end, delta, commit.now))?;
        let delta = copy(&session.record).then((*commit.delta).clone());
        self.right.commit(&Commit::new(&to, Action::Create(new_session), delta, commit.now))
    }
}

/// The delta that makes any data into the record's.
fn copy(record: &Record) -> Delta {
    let mut delta = Delta::new();
    delta.clear();
    for (name, value) in record.data.iter() {
        delta.set(name, value.into_owned());
    }
    delta
}

#[test]
fn a_store_that_renews_by_creation_breaks_atomic_renewal() {
    let failures = failures_of::<DeleteThenCreate>();
    let guarantee = "atomic-renewal:";
    says(&failures, guarantee, "a renewal lost the public id");
    says(&failures, guarantee, "moved the absolute deadline [");
    says(&failures, guarantee, "[a_replaced_id_finds_the_session_within_its_grace]");
    says(&failures, guarantee, "[a_taken_id_is_a_conflict_at_renewal]");
}

/// Merges into the session as the request has loaded it, whatever has changed since.
#[derive(Debug, Default)]
struct BasisUnchecked {
    right: MemoryStore,
}

impl StoreWrapper for BasisUnchecked {
    wraps_a_right_store!();

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        match commit.merge_into_loaded() {
            Some(merged) => {
                let delta = copy(&merged.record);
                self.right.commit(&Commit::new(&commit.id_hash, Action::Merge, delta, commit.now))
            }
            None => self.right.commit(commit),
        }
    }
}

#[test]
fn a_store_that_trusts_the_loaded_session_breaks_merge() {
    let failures = failures_of::<BasisUnchecked>();
    says(&failures, "merge:", "a merge lost what had changed since its request loaded the session");
    says(&failures, "merge:", "[two_merges_at_once_both_keep_their_change]");
}

/// Finds what the sweep has not removed yet.
#[derive(Debug, Default)]
struct NoExpiryAtRead {
    right: MemoryStore,
}

impl StoreWrapper for NoExpiryAtRead {
    wraps_a_right_store!();

    fn wrap_load(&self, id_hash: &SessionIdHash, _: Timestamp) -> Result<Loaded> {
        self.right.load(id_hash, Timestamp::default())
    }
}

#[test]
fn a_store_without_expiry_at_read_breaks_that_guarantee() {
    let failures = failures_of::<NoExpiryAtRead>();
    let guarantee = "expiry-at-read:";
    says(&failures, guarantee, "at its deadline an idle session is still live");
    says(&failures, guarantee, "an expired session that was not swept is not absent");
}

/// Stores no change of the idle limit.
#[derive(Debug, Default)]
struct FixedIdleLimit {
    right: MemoryStore,
}

impl StoreWrapper for FixedIdleLimit {
    wraps_a_right_store!();

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        let mut commit = commit.clone();
        if commit.delta.idle_limit().is_some() {
            commit.delta = Delta::new().into();
        }
        self.right.commit(&commit)
    }
}

#[test]
fn a_store_that_keeps_the_idle_limit_breaks_expiry_at_read() {
    let failures = failures_of::<FixedIdleLimit>();
    says(&failures, "expiry-at-read:", "a change of the idle limit returned Unchanged, not Done");
    says(&failures, "expiry-at-read:", "[a_shorter_idle_limit_is_listed_and_swept]");
}

/// Its `try_load` returns the record of the first load for ever.
#[derive(Debug, Default)]
struct StaleTryLoad {
    right: MemoryStore,
    known: Mutex<HashMap<SessionIdHash, Record>>,
}

impl StoreWrapper for StaleTryLoad {
    wraps_a_right_store!();

    fn wrap_try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        let mut known = self.known.lock().unwrap();
        if let Ok(Loaded::Live(LiveSession { record, .. })) = self.right.load(id_hash, now) {
            known.entry(*id_hash).or_insert(record);
        }
        let record = known.get(id_hash)?.clone();
        Some(Loaded::Live(LiveSession { record, id_hash: *id_hash }))
    }
}

#[test]
fn a_store_whose_try_load_is_outdated_breaks_guarantees() {
    let failures = failures_of::<StaleTryLoad>();
    let words = "try_load returns another result than load, which returns";
    says(&failures, "no-resurrection:", words);
    says(&failures, "expiry-at-read:", words);
}

/// Touches by writing back the session as it was read.
#[derive(Debug, Default)]
struct TouchWritesData {
    right: MemoryStore,
    read: Mutex<HashMap<SessionIdHash, Record>>,
}

impl TouchWritesData {
    fn read(&self) -> MutexGuard<'_, HashMap<SessionIdHash, Record>> {
        self.read.lock().unwrap()
    }
}

impl StoreWrapper for TouchWritesData {
    wraps_a_right_store!();

    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        let loaded = self.right.load(id_hash, now)?;
        if let Loaded::Live(LiveSession { record, .. }) = &loaded {
            self.read().insert(*id_hash, record.clone());
        }
        Ok(loaded)
    }

    fn wrap_touch(
        &self,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<(), TouchError> {
        for (id_hash, _) in batch {
            if let Some(record) = self.read().get(id_hash) {
                self.right.commit(&Commit::new(id_hash, Action::Merge, copy(record), now))?;
            }
        }
        self.right.touch(batch, now)
    }
}

#[test]
fn a_store_that_touches_by_writing_breaks_reads_do_not_write() {
    let failures = failures_of::<TouchWritesData>();
    let guarantee = "reads-do-not-write:";
    says(&failures, guarantee, "a touch undid the write of another request");
}

/// Takes every user for one whose name begins like the one asked for, and every store for one.
#[derive(Debug, Default)]
struct UsersByPrefix {
    right: MemoryStore,
}

impl StoreWrapper for UsersByPrefix {
    wraps_a_right_store!();

    fn wrap_index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }
}

impl UsersByPrefix {
    fn matching(&self, which: &SessionFilter<'_>, now: Timestamp) -> Result<Vec<Summary>> {
        let SessionFilter::User(user) = which else {
            return self.right.list(which, Page::first(NonZeroUsize::MAX), now);
        };
        let mut all = self.right.list(&SessionFilter::All, Page::first(NonZeroUsize::MAX), now)?;
        all.retain(|summary| {
            summary.user.as_ref().is_some_and(|other| other.as_str().starts_with(user.as_str()))
        });
        Ok(all)
    }
}

impl SessionIndex for UsersByPrefix {
    fn list(&self, which: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        let mut matching = self.matching(which, now)?;
        matching.retain(|summary| page.after.is_none_or(|after| summary.cursor < after));
        matching.truncate(page.limit.get());
        Ok(matching)
    }

    fn revoke(
        &self,
        which: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        let mut ended = Vec::new();
        for summary in self.matching(which, now)? {
            let which = SessionFilter::PublicId(&summary.public_id);
            ended.extend(self.right.revoke(&which, except, now)?);
        }
        Ok(ended)
    }

    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        self.right.rename_user(realm, from, to, now)
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.right.revoke_everyone(realm, now)
    }

    fn epoch(&self) -> Result<u64> {
        self.right.epoch()
    }

    /// The same in every store.
    fn identity(&self) -> Result<StoreIdentity> {
        Ok(StoreIdentity::from_bytes([7; 16]))
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.right.stats(now)
    }

    /// The newest first.
    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        let mut idle = self.right.idle_anonymous(realm, 0, NonZeroUsize::MAX)?;
        idle.drain(..usize::try_from(keep).unwrap_or(usize::MAX).min(idle.len()));
        idle.reverse();
        idle.truncate(limit.get());
        Ok(idle)
    }

    /// Ends what an id leads to, signed in or not.
    fn evict_anonymous(
        &self,
        id_hashes: &[SessionIdHash],
        now: Timestamp,
    ) -> Result<RemovalReport> {
        let mut removed = 0;
        for id_hash in id_hashes {
            let end = Commit::new(id_hash, Action::End, Delta::new(), now);
            removed += usize::from(matches!(self.right.commit(&end)?, CommitAnswer::Ended(_)));
        }
        Ok(RemovalReport::new(removed, Duration::ZERO))
    }
}

#[test]
fn a_store_that_evicts_the_newest_or_users_fails() {
    let failures = failures_of::<UsersByPrefix>();
    says(&failures, "safe-defaults:", "[the_longest_idle_are_listed_first]");
    says(&failures, "safe-defaults:", "an eviction of 2 anonymous sessions removed 5");
}

#[test]
fn a_store_that_matches_users_by_prefix_ends_the_wrong_sessions() {
    let failures = failures_of::<UsersByPrefix>();
    says(&failures, "users and revocation:", "the list of the user UserKey(\"u\") has");
    says(&failures, "users and revocation:", "[names_of_users_match_exactly]");
}

#[test]
fn a_store_that_shares_its_identity_breaks_cache_coherence() {
    let failures = failures_of::<UsersByPrefix>();
    says(&failures, "cache-coherence:", "two stores have one identity");
}

/// Renews, and remembers nothing of the id from before.
#[derive(Debug, Default)]
struct ForgetsReplacedIds {
    right: MemoryStore,
}

impl StoreWrapper for ForgetsReplacedIds {
    wraps_a_right_store!();

    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        Ok(match self.right.load(id_hash, now)? {
            Loaded::Unreadable(Unreadable::Replaced { .. }) => {
                Loaded::Unreadable(Unreadable::NOT_FOUND)
            }
            found => found,
        })
    }
}

#[test]
fn a_store_that_forgets_replaced_ids_breaks_atomic_renewal() {
    let failures = failures_of::<ForgetsReplacedIds>();
    let renewal = "the replaced id of a renewal is not Replaced: a load returns NotFound";
    says(&failures, "atomic-renewal:", renewal);
}

/// Remembers no CSRF secret of a replaced id.
#[derive(Debug, Default)]
struct ForgetsSecrets {
    right: MemoryStore,
}

impl StoreWrapper for ForgetsSecrets {
    wraps_a_right_store!();

    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        Ok(match self.right.load(id_hash, now)? {
            Loaded::Unreadable(Unreadable::Replaced { mut replaced, session }) => {
                replaced.csrf_secret = None;
                Loaded::Unreadable(Unreadable::Replaced { replaced, session })
            }
            found => found,
        })
    }
}

#[test]
fn a_store_that_forgets_csrf_secrets_breaks_atomic_renewal() {
    let failures = failures_of::<ForgetsSecrets>();
    let secret = "a replaced id is remembered with another CSRF secret";
    says(&failures, "atomic-renewal:", secret);
}

/// Panics where it should say no.
#[derive(Debug, Default)]
struct Panics {
    right: MemoryStore,
}

impl StoreWrapper for Panics {
    wraps_a_right_store!();

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        match self.right.commit(commit)? {
            CommitAnswer::Unreadable(Unreadable::NotFound { .. }) => panic!("no such row"),
            answer => Ok(answer),
        }
    }
}

#[test]
fn a_panic_is_a_failure_like_any_other_and_the_checks_go_on() {
    let failures = failures_of::<Panics>();
    says(&failures, "strict-ids:", "the store panicked: no such row [an_unknown_id_is_absent]");
    says(&failures, "no-resurrection:", "[nothing_brings_back_an_expired_session]");
}

/// Counts the time for which it waits, and more.
#[derive(Debug, Default)]
struct OverstatesItsHold {
    right: MemoryStore,
}

impl StoreWrapper for OverstatesItsHold {
    wraps_a_right_store!();

    fn wrap_sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        Ok(RemovalReport::new(self.right.sweep(now, limit)?.removed, Duration::MAX))
    }
}

#[test]
fn a_store_that_overstates_its_blocking_breaks_cleanup() {
    let failures = failures_of::<OverstatesItsHold>();
    says(&failures, "background-cleanup:", "reported that it blocked writers for");
}
