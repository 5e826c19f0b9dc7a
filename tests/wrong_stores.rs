//! The checks are worth something: stores with the usual faults fail them, by the right law.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cloakroom::backend::{
    Action, Capabilities, Commit, Committed, Loaded, Maintenance, Page, SessionFilter,
    SessionIndex, Store, SweepReport,
};
use cloakroom::clock::Timestamp;
use cloakroom::conformance::{Failures, check};
use cloakroom::delta::Delta;
use cloakroom::id::{PublicId, Realm, SessionIdHash};
use cloakroom::record::{NewSession, Record, Stats, Summary, Touch};
use cloakroom::{Lifetime, MemoryStore, Result};

/// A right store, of which a fault replaces some calls.
#[derive(Debug, Default)]
struct Wrong<F> {
    right: MemoryStore,
    fault: F,
}

trait Fault: std::fmt::Debug + Default + Send + Sync + Sized + 'static {
    fn load(&self, right: &MemoryStore, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        right.load(id_hash, now)
    }

    fn try_load(&self, _: &MemoryStore, _: &SessionIdHash, _: Timestamp) -> Option<Loaded> {
        None
    }

    fn commit(&self, right: &MemoryStore, commit: &Commit<'_>) -> Result<Committed> {
        right.commit(commit)
    }

    fn touch(
        &self,
        right: &MemoryStore,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<()> {
        right.touch(batch, now)
    }

    fn sweep(
        &self,
        right: &MemoryStore,
        now: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<SweepReport> {
        right.sweep(now, limit)
    }

    fn index(wrong: &Wrong<Self>) -> &dyn SessionIndex {
        &wrong.right
    }
}

impl<F: Fault> Store for Wrong<F> {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.fault.load(&self.right, id_hash, now)
    }

    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.fault.try_load(&self.right, id_hash, now)
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        self.fault.commit(&self.right, commit)
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.fault.touch(&self.right, batch, now)
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
        self.fault.sweep(&self.right, now, limit)
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(F::index(self))
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.right.maintenance()
    }

    fn capabilities(&self) -> Capabilities {
        self.right.capabilities()
    }
}

fn failures_of<F: Fault>() -> Failures {
    check(Wrong::<F>::default).expect_err("a wrong store passed")
}

/// Demands that one of the failures says this, and that the law before it is the right one.
fn says(failures: &Failures, law: &str, text: &str) {
    let found = failures.iter().any(|failure| failure.starts_with(law) && failure.contains(text));
    assert!(found, "no failure of {law} says \"{text}\":\n{failures}");
}

/// Stores what it is given, whether or not the session is still there.
#[derive(Debug, Default)]
struct Upsert;

impl Fault for Upsert {
    fn commit(&self, right: &MemoryStore, commit: &Commit<'_>) -> Result<Committed> {
        match (right.commit(commit)?, commit.action) {
            (Committed::NotFound, Action::Merge) => {
                let new_session = NewSession::new(Lifetime::default().starting(commit.now))?;
                right.commit(&Commit::new(
                    commit.id_hash,
                    Action::Create(&new_session),
                    commit.delta,
                    commit.now,
                ))
            }
            (answer, _) => Ok(answer),
        }
    }
}

#[test]
fn a_store_that_inserts_what_it_cannot_update_breaks_law_5() {
    let failures = failures_of::<Upsert>();
    let logout = "a merge after a delete (a logout in between) brought the session back";
    says(&failures, "law 5, gone is final:", logout);
    says(&failures, "law 5", "[nothing_brings_back_a_swept_session]");
    says(&failures, "law 5", "[nothing_brings_back_a_revoked_session]");
    says(&failures, "law 5", "a merge at the moment of a delete brought the session back");
    says(&failures, "law 1, lazy:", "a merge under an unknown key was answered Done, not Gone");
}

/// Renews by deleting the session and beginning another one with its data.
#[derive(Debug, Default)]
struct DeleteThenCreate;

impl Fault for DeleteThenCreate {
    fn commit(&self, right: &MemoryStore, commit: &Commit<'_>) -> Result<Committed> {
        let Action::Renew { to, .. } = commit.action else { return right.commit(commit) };
        let Loaded::Live { record, .. } = right.load(commit.id_hash, commit.now)? else {
            return right.commit(commit);
        };
        let new_session = NewSession::new(Lifetime::default().starting(commit.now))?;
        let delta = copy(&record).then(commit.delta.clone());
        right.commit(&Commit::new(commit.id_hash, Action::Delete, &delta, commit.now))?;
        right.commit(&Commit::new(to, Action::Create(&new_session), &delta, commit.now))
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
fn a_store_that_renews_by_beginning_another_session_breaks_law_6() {
    let failures = failures_of::<DeleteThenCreate>();
    let law = "law 6, renewal is one step:";
    says(&failures, law, "a renewal lost the handle");
    says(&failures, law, "moved the absolute deadline [");
    says(&failures, law, "[the_key_from_before_works_until_the_end_of_the_grace]");
    says(&failures, law, "[a_taken_key_is_a_conflict_at_renewal]");
}

/// Finds what the sweep has not removed yet.
#[derive(Debug, Default)]
struct NoExpiryAtRead;

impl Fault for NoExpiryAtRead {
    fn load(&self, right: &MemoryStore, id_hash: &SessionIdHash, _: Timestamp) -> Result<Loaded> {
        right.load(id_hash, Timestamp::default())
    }
}

#[test]
fn a_store_that_leaves_expiry_to_the_sweep_breaks_law_7() {
    let failures = failures_of::<NoExpiryAtRead>();
    let law = "law 7, time is checked at read:";
    says(&failures, law, "at its deadline an idle session is still live");
    says(&failures, law, "an expired session that was not swept is not absent");
}

/// Knows without waiting what it has once read.
#[derive(Debug, Default)]
struct BelievesItsMemory(Mutex<HashMap<SessionIdHash, Record>>);

impl Fault for BelievesItsMemory {
    fn try_load(
        &self,
        right: &MemoryStore,
        id_hash: &SessionIdHash,
        now: Timestamp,
    ) -> Option<Loaded> {
        let mut known = self.0.lock().unwrap();
        if let Ok(Loaded::Live { record, .. }) = right.load(id_hash, now) {
            known.entry(*id_hash).or_insert(record);
        }
        known.get(id_hash).map(|record| Loaded::Live { record: record.clone(), id_hash: *id_hash })
    }
}

#[test]
fn a_store_that_answers_at_once_what_was_true_once_breaks_the_laws() {
    let failures = failures_of::<BelievesItsMemory>();
    let words = "try_load answers otherwise than load, which says";
    says(&failures, "law 5, gone is final:", words);
    says(&failures, "law 7, time is checked at read:", words);
}

/// Touches by writing back the session as it was read.
#[derive(Debug, Default)]
struct TouchWritesData {
    read: Mutex<HashMap<SessionIdHash, Record>>,
}

impl TouchWritesData {
    fn read(&self) -> MutexGuard<'_, HashMap<SessionIdHash, Record>> {
        self.read.lock().unwrap()
    }
}

impl Fault for TouchWritesData {
    fn load(&self, right: &MemoryStore, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        let loaded = right.load(id_hash, now)?;
        if let Loaded::Live { record, .. } = &loaded {
            self.read().insert(*id_hash, record.clone());
        }
        Ok(loaded)
    }

    fn touch(
        &self,
        right: &MemoryStore,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<()> {
        for (id_hash, _) in batch {
            if let Some(record) = self.read().get(id_hash) {
                right.commit(&Commit::new(id_hash, Action::Merge, &copy(record), now))?;
            }
        }
        right.touch(batch, now)
    }
}

#[test]
fn a_store_that_touches_by_writing_the_session_breaks_law_8() {
    let failures = failures_of::<TouchWritesData>();
    let law = "law 8, reading is not writing:";
    says(&failures, law, "a touch undid the write of another request");
}

/// Takes every user for one whose name begins like the one asked for.
#[derive(Debug, Default)]
struct UsersByPrefix;

impl Fault for UsersByPrefix {
    fn index(wrong: &Wrong<Self>) -> &dyn SessionIndex {
        wrong
    }
}

impl Wrong<UsersByPrefix> {
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

impl SessionIndex for Wrong<UsersByPrefix> {
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
    ) -> Result<Vec<SessionIdHash>> {
        let mut keys = Vec::new();
        for summary in self.matching(which, now)? {
            keys.extend(self.right.revoke(
                &SessionFilter::PublicId(&summary.public_id),
                except,
                now,
            )?);
        }
        Ok(keys)
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.right.revoke_everyone(realm, now)
    }

    fn epoch(&self) -> Result<u64> {
        self.right.epoch()
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.right.stats(now)
    }
}

#[test]
fn a_store_that_matches_users_by_prefix_ends_the_wrong_sessions() {
    let failures = failures_of::<UsersByPrefix>();
    says(&failures, "users and revocation:", "the list of the user UserKey(\"u\") has");
    says(&failures, "users and revocation:", "[names_of_users_match_exactly]");
}

/// Renews, and remembers nothing of the key from before.
#[derive(Debug, Default)]
struct ForgetsReplacedKeys;

impl Fault for ForgetsReplacedKeys {
    fn load(&self, right: &MemoryStore, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        Ok(match right.load(id_hash, now)? {
            Loaded::Replaced { .. } => Loaded::NotFound,
            found => found,
        })
    }
}

#[test]
fn a_store_that_forgets_replaced_keys_breaks_law_6() {
    let failures = failures_of::<ForgetsReplacedKeys>();
    says(
        &failures,
        "law 6, renewal is one step:",
        "the key from before a renewal is not answered Replaced: a load says Absent",
    );
}

/// Panics where it should say no.
#[derive(Debug, Default)]
struct Panics;

impl Fault for Panics {
    fn commit(&self, right: &MemoryStore, commit: &Commit<'_>) -> Result<Committed> {
        match right.commit(commit)? {
            Committed::NotFound => panic!("no such row"),
            answer => Ok(answer),
        }
    }
}

#[test]
fn a_panic_is_a_failure_like_any_other_and_the_checks_go_on() {
    let failures = failures_of::<Panics>();
    says(&failures, "law 1, lazy:", "the store panicked: no such row [an_unknown_key_is_absent]");
    says(&failures, "law 5", "[nothing_brings_back_an_expired_session]");
}

/// Counts the time for which it waits, and more.
#[derive(Debug, Default)]
struct OverstatesItsHold;

impl Fault for OverstatesItsHold {
    fn sweep(
        &self,
        right: &MemoryStore,
        now: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<SweepReport> {
        Ok(SweepReport::new(right.sweep(now, limit)?.removed, Duration::MAX))
    }
}

#[test]
fn a_store_that_says_it_held_others_up_for_longer_than_it_took_breaks_law_13() {
    let failures = failures_of::<OverstatesItsHold>();
    says(&failures, "law 13, the cleaner is polite:", "said that it held others up for");
}
