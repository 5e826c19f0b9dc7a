//! Named checks of the guarantees of a store that can be seen through its interface. [`check`] runs
//! all of them. None restarts, kills or fills the store: test yourself that its changes survive a
//! crash, and its errors when it is full or cannot be reached.
//!
//! The test of a store is one line. A failure names the guarantee that does not hold:
//!
//! ```
//! use cloakroom::MemoryStore;
//!
//! cloakroom::conformance::check(MemoryStore::new)?;
//! # Ok::<(), cloakroom::conformance::Failures>(())
//! ```
//!
//! The checks never sleep. They pass the current time to the store as an argument, and no such time
//! is earlier than the start of the run. Lists, revocations and the maximum per user are checked if
//! the store has an [index](crate::backend::Store::index).

// Each module has the checks of one guarantee, uses `fixture`, and is called by `check` only.
mod anonymous;
mod fixture;
mod index;
mod max_sessions;
mod merge;
mod no_resurrection;
mod persistence;
mod races;
mod renewal;
mod replaced_ids;
mod sign_in;
mod stress;
mod sweep;
mod time;
mod touch;

use std::error;
use std::fmt;
use std::sync::Arc;

use crate::backend::Store;
use crate::clock::{Clock, SystemClock};
use fixture::{Fixture, Passed, Violation, caught};

/// The check of a guarantee in one situation.
type Check = fn(&Fixture) -> Passed;

/// The checks of a guarantee, or of another subject, with their names.
struct Guarantee {
    name: &'static str,
    /// True for checks that run only on stores with a session index.
    needs_index: bool,
    checks: &'static [(&'static str, Check)],
}

/// `name: [module::check, …]`, with `if indexed` where the checks need a session index.
macro_rules! guarantees {
    ($($name:literal $(if $indexed:ident)?: [$($module:ident :: $check:ident),+ $(,)?])+) => {
        &[$(Guarantee {
            name: $name,
            needs_index: guarantees!(@ $($indexed)?),
            checks: &[$((stringify!($check), $module::$check)),+],
        }),+]
    };
    (@ indexed) => { true };
    (@) => { false };
}

const GUARANTEES: &[Guarantee] = guarantees! {
    "strict-ids": [persistence::an_unknown_id_is_absent]
    "lazy" if indexed: [persistence::loading_stores_nothing]
    "persistence": [
        persistence::a_session_is_loaded_as_it_was_created,
        persistence::every_name_and_value_survives,
        persistence::a_merge_is_loaded_as_it_was_answered,
        persistence::an_empty_session_exists,
        persistence::a_second_ending_is_no_error,
        persistence::maintenance_changes_no_session,
    ]
    "persistence" if indexed: [
        persistence::a_session_is_one_row_whatever_is_done_to_it,
    ]
    "typed-errors": [
        persistence::too_large_at_creation_stores_nothing,
        persistence::too_large_leaves_the_old_data_intact,
        persistence::the_limit_itself_is_not_too_large,
        persistence::a_session_over_a_lowered_limit_may_shrink,
    ]
    "merge": [
        merge::two_requests_on_different_names_both_keep_their_change,
        merge::on_the_same_name_the_later_commit_wins,
        merge::writing_the_stored_value_is_no_change,
        merge::a_clear_removes_what_it_does_not_set,
        merge::a_condition_on_the_revision_holds,
        merge::a_merge_into_the_session_as_loaded_is_stored,
        merge::a_merge_keeps_what_changed_since_the_load,
        merge::a_merge_keeps_activity_since_the_load,
        merge::the_revision_grows_by_one_with_each_change,
        merge::many_deltas_do_what_they_do_to_a_record,
        races::two_merges_at_once_both_keep_their_change,
        races::no_increment_is_lost,
    ]
    "no-resurrection": [
        no_resurrection::a_late_merge_stores_nothing,
        no_resurrection::a_merge_into_an_ended_session_as_loaded_stores_nothing,
        no_resurrection::nothing_brings_back_an_ended_session,
        no_resurrection::nothing_brings_back_a_session_ended_after_its_renewal,
        no_resurrection::nothing_brings_back_a_session_ended_through_its_grace,
        no_resurrection::nothing_brings_back_a_swept_session,
        no_resurrection::nothing_brings_back_an_expired_session,
        no_resurrection::nothing_late_brings_back_a_session_ended_at_its_deadline,
        races::a_merge_at_the_moment_of_an_ending_revives_nothing,
        races::a_touch_at_the_moment_of_an_ending_revives_nothing,
        races::a_renewal_at_the_moment_of_an_ending_revives_nothing,
        races::a_renewal_with_grace_at_the_moment_of_an_ending_revives_nothing,
        races::a_sign_in_at_the_moment_of_an_ending_revives_nothing,
        races::a_touch_at_the_moment_of_a_sweep_revives_nothing,
        stress::under_load_nothing_fails_and_nothing_comes_back,
    ]
    "no-resurrection" if indexed: [
        no_resurrection::nothing_late_brings_back_a_session_revoked_at_its_deadline,
        no_resurrection::nothing_late_brings_back_a_session_expired_at_a_sign_in,
        no_resurrection::nothing_brings_back_a_revoked_session,
        no_resurrection::nothing_brings_back_a_session_revoked_with_everyone,
        races::a_merge_at_the_moment_of_a_revocation_revives_nothing,
    ]
    "atomic-renewal": [
        renewal::a_renewal_changes_the_id_and_nothing_else,
        renewal::a_renewal_carries_its_change_along,
        renewal::a_renewal_does_not_move_the_absolute_deadline,
        renewal::a_renewed_id_is_answered_as_replaced,
        renewal::a_replaced_id_is_forgotten_after_ten_minutes,
        renewal::a_replaced_id_finds_the_session_within_its_grace,
        renewal::a_replaced_id_finds_no_session_at_the_end_of_its_grace,
        renewal::an_ending_through_the_grace_ends_the_session,
        renewal::a_renewal_through_the_grace_merges_and_renews_nothing,
        renewal::a_renewal_limits_the_graces_of_earlier_ids,
        renewal::a_renewal_without_grace_ends_the_graces_of_earlier_ids,
        replaced_ids::the_latest_replaced_ids_are_remembered,
        replaced_ids::each_replaced_id_keeps_its_csrf_secret,
        replaced_ids::an_ending_through_a_replaced_id_ends_the_session,
        replaced_ids::an_ending_through_a_forgotten_id_ends_nothing,
        replaced_ids::a_sign_in_joins_one_through_the_same_id,
        replaced_ids::a_late_sign_in_moves_the_session,
        replaced_ids::a_sign_in_joins_only_the_current_id,
        replaced_ids::a_sign_in_that_differs_does_not_join,
        replaced_ids::a_sign_in_joins_one_through_the_same_id_in_its_grace,
        replaced_ids::a_sign_in_through_a_renewed_id_moves_the_session,
        replaced_ids::another_user_takes_nothing_through_a_replaced_id,
        replaced_ids::another_users_sign_in_spares_one_signed_in_since,
        replaced_ids::ids_of_an_ended_session_stay_unknown_when_the_next_moves,
        replaced_ids::a_sign_in_by_a_replaced_id_at_another_revision_moves_nothing,
        replaced_ids::a_sign_in_ends_the_id_that_a_thief_renewed,
        renewal::a_merge_leaves_the_grace_as_it_is,
        renewal::a_renewal_at_another_revision_moves_nothing,
        renewal::a_taken_id_is_a_conflict_at_creation,
        renewal::a_taken_id_is_a_conflict_at_renewal,
        renewal::a_taken_id_is_a_conflict_at_sign_in,
        sign_in::a_sign_in_binds_the_user_and_restarts_both_clocks,
        sign_in::a_sign_in_without_a_session_begins_one,
        sign_in::a_sign_in_keeps_the_anonymous_session_and_its_data,
        sign_in::a_sign_in_again_is_the_same_session,
        sign_in::nothing_of_another_users_session_reaches_a_sign_in,
        sign_in::a_sign_in_ends_the_grace,
        sign_in::a_sign_in_through_the_grace_moves_the_session,
        sign_in::a_sign_in_at_another_revision_moves_nothing,
        races::a_merge_at_the_moment_of_a_renewal_is_kept_or_reported,
        races::of_two_renewals_at_once_one_moves_the_session,
        races::of_two_renewals_with_grace_at_once_one_moves_the_session,
        races::of_two_sign_ins_through_one_id_the_later_can_join,
    ]
    "atomic-renewal" if indexed: [
        renewal::a_revocation_ends_the_grace,
        max_sessions::a_refused_sign_in_changes_nothing,
        max_sessions::at_the_maximum_the_longest_signed_in_ends,
        max_sessions::at_the_maximum_all_others_end,
        max_sessions::below_the_maximum_nothing_ends,
        max_sessions::sessions_that_ended_do_not_count,
        max_sessions::signing_in_again_is_not_one_more,
        max_sessions::another_users_session_does_not_count,
        races::of_two_sign_ins_at_once_the_maximum_refuses_one,
        races::of_two_sign_ins_at_once_the_maximum_ends_one,
    ]
    "expiry-at-read": [
        time::an_idle_session_ends_at_its_deadline,
        time::an_absolute_limit_ends_a_busy_session,
        time::activity_does_not_move_an_absolute_limit,
        time::activity_moves_the_idle_deadline_to_the_absolute_one_at_most,
        time::a_changed_idle_limit_is_stored_and_counts_from_its_change,
        time::every_call_takes_an_expired_session_as_absent,
        time::a_touch_after_the_deadline_does_nothing,
        time::a_sign_in_over_an_expired_session_begins_a_new_one,
        time::a_session_without_an_end_lives_on,
    ]
    "expiry-at-read" if indexed: [
        time::expired_sessions_are_not_listed,
        time::a_shorter_idle_limit_is_listed_and_swept,
    ]
    "reads-do-not-write": [
        touch::a_touch_changes_neither_data_nor_revision,
        touch::a_touch_does_not_undo_what_was_written_since_the_read,
        touch::a_touch_never_moves_time_back,
        touch::a_batch_touches_those_that_live,
        touch::a_merge_with_a_touch_that_is_not_due_leaves_the_time,
        touch::a_merge_with_a_touch_that_is_due_moves_the_time,
        touch::an_unchanged_merge_records_a_due_touch_only,
    ]
    "background-cleanup": [
        sweep::a_sweep_removes_exactly_what_has_ended,
        sweep::a_sweep_removes_no_more_than_its_limit,
        sweep::a_sweep_names_the_sessions_of_users,
        sweep::a_sweep_leaves_the_ids_of_live_sessions,
        races::a_merge_at_the_moment_of_a_sweep_is_kept_or_reported,
    ]
    "users and revocation" if indexed: [
        index::the_newest_session_is_listed_first,
        index::pages_have_no_gaps_and_no_repeats,
        index::a_summary_matches_its_record,
        index::names_of_users_match_exactly,
        index::names_of_the_identity_provider_match_exactly,
        index::the_list_follows_the_user_of_a_session,
        index::the_list_has_one_entry_after_a_renewal,
        races::a_list_by_public_id_during_a_sign_in_shows_the_session,
        index::a_revocation_gives_the_ids_that_the_sessions_had,
        index::a_revocation_keeps_exactly_the_exception,
        index::a_revocation_keeps_the_exception_whatever_its_id,
        index::an_unknown_public_id_is_no_exception,
        index::a_public_id_of_another_user_is_not_revoked,
        index::a_rename_moves_exactly_the_sessions_of_a_user,
        index::revoking_everyone_ends_all_and_raises_the_epoch,
        index::the_stats_count_the_stored_sessions,
    ]
    "safe-defaults" if indexed: [
        anonymous::the_longest_idle_are_listed_first,
        anonymous::sessions_of_other_realms_and_of_users_are_not_listed,
        anonymous::an_eviction_ends_exactly_the_anonymous_ones,
        anonymous::nothing_brings_back_an_evicted_session,
    ]
    "cache-coherence" if indexed: [
        index::the_identity_of_a_store_stays,
        index::two_stores_have_two_identities,
    ]
};

/// Runs every check on a new, empty store from `make`, which shares nothing with the stores that
/// were made before. A failure does not stop the run.
///
/// # Errors
/// The checks that failed: a guarantee does not hold, the store returned an error, or it panicked.
pub fn check<S: Store>(make: impl Fn() -> S) -> Result<(), Failures> {
    run_all(&|| Arc::new(make()))
}

/// Returns the names of all checks, in the order in which they run.
pub fn checks() -> impl Iterator<Item = &'static str> {
    GUARANTEES.iter().flat_map(|guarantee| guarantee.checks).map(|(name, _)| *name)
}

fn run_all(make: &dyn Fn() -> Arc<dyn Store>) -> Result<(), Failures> {
    // A store that passes deadlines to a server needs them to be later than the server's clock.
    let now = SystemClock.now();
    let other = make();
    let mut failures = Vec::new();
    for guarantee in GUARANTEES {
        for (name, check) in guarantee.checks {
            let run = || {
                let fixture = Fixture { store: make(), other: other.clone(), now };
                if guarantee.needs_index && fixture.store.index().is_none() {
                    Ok(())
                } else {
                    check(&fixture)
                }
            };
            if let Err(Violation(what)) = caught(run) {
                failures.push(format!("{}: {what} [{name}]", guarantee.name));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failures(failures)) }
}

/// The checks that a store failed. Each has one sentence: the guarantee, the failure, and the name
/// of the check in brackets.
#[derive(Clone, PartialEq, Eq)]
pub struct Failures(Vec<String>);

impl Failures {
    /// Returns the sentences.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} checks failed", self.0.len(), checks().count())?;
        self.0.iter().try_for_each(|failure| write!(f, "\n- {failure}"))
    }
}

impl fmt::Debug for Failures {
    /// Prints the same text as `Display`, because `unwrap` and a failing `main` print this one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Failures {}
