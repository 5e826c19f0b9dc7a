//! Checks with two concurrent calls on one session, repeated many times. The results and the stored
//! session must agree with one of the two orders.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Action, Commit, CommitAnswer, Expected, LiveSession};
use crate::clock::Timestamp;
use crate::conformance::fixture::*;
use crate::conformance::{max_sessions, replaced_ids};
use crate::delta::Delta;
use crate::id::{SessionIdHash, UserKey};
use crate::lifetime::{AtMaximum, Lifetime};
use crate::list::SessionFilter;
use crate::sync::IgnorePoison;

const ROUNDS: u32 = 1000;

/// Merges; in half of the rounds as a request that has loaded the session.
fn merge(fixture: &Fixture, session: &Sample, delta: &Delta) -> Passed<CommitAnswer> {
    if session.id_hash.as_bytes().first().is_some_and(|byte| byte % 2 == 0) {
        fixture.merge_loaded(session, delta)
    } else {
        fixture.merge(&session.id_hash, delta)
    }
}

/// The start of two threads, at the same time or one of them slightly later.
struct Start {
    barrier: Barrier,
    awake: AtomicUsize,
}

impl Start {
    fn new() -> Self {
        Start { barrier: Barrier::new(2), awake: AtomicUsize::new(0) }
    }

    fn wait(&self, round: usize, thread: usize) {
        self.barrier.wait();
        // The barrier wakes one thread much later than the other, so both then spin until both
        // run.
        self.awake.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while self.awake.load(Ordering::SeqCst) < 2 * (round + 1) {
            spins += 1;
            if spins.is_multiple_of(1000) { thread::yield_now() } else { hint::spin_loop() }
        }
        // Without a delay the faster of two calls would always come first. Delays of up to 200 µs,
        // most of them short, make the calls overlap in fast and in slow stores.
        if round % 2 == thread {
            let most = 100_usize << (round / 2 % 12);
            let delay = PseudoRandom(round as u64).below(most) as u64;
            let go = Instant::now() + Duration::from_nanos(delay);
            while Instant::now() < go {
                hint::spin_loop();
            }
        }
    }
}

/// Prepares many sessions, then runs `a` and `b` concurrently on each, then judges the results.
fn race<A, B: Send>(
    fixture: &Fixture,
    a: impl Fn(&Sample) -> Passed<A>,
    b: impl Fn(&Sample) -> Passed<B> + Sync,
    judge: impl Fn(&Sample, A, B) -> Passed,
) -> Passed {
    race_on((0..ROUNDS).map(|_| fixture.session()), a, b, judge)
}

/// Runs a race as [`race`] does, on other subjects than sessions.
fn race_on<T: Sync, A, B: Send>(
    prepared: impl Iterator<Item = Passed<T>>,
    a: impl Fn(&T) -> Passed<A>,
    b: impl Fn(&T) -> Passed<B> + Sync,
    judge: impl Fn(&T, A, B) -> Passed,
) -> Passed {
    let rounds = prepared.collect::<Passed<Vec<T>>>()?;
    let start = Start::new();
    // A thread goes on after a failure until its last round, or the other one would wait for ever.
    let (of_a, of_b) = thread::scope(|scope| {
        let second = scope.spawn(|| {
            let run = |(round, fixture)| {
                start.wait(round, 1);
                caught(|| b(fixture))
            };
            rounds.iter().enumerate().map(run).collect::<Vec<_>>()
        });
        let run = |(round, fixture)| {
            start.wait(round, 0);
            caught(|| a(fixture))
        };
        let of_a: Vec<_> = rounds.iter().enumerate().map(run).collect();
        (of_a, second.join())
    });
    let of_b = of_b.map_err(|_| panicked())?;
    for ((fixture, a), b) in rounds.iter().zip(of_a).zip(of_b) {
        judge(fixture, a?, b?)?;
    }
    Ok(())
}

pub(super) fn two_merges_at_once_both_keep_their_change(fixture: &Fixture) -> Passed {
    race(
        fixture,
        |session| merge(fixture, session, &set("hat", 1)?),
        |session| merge(fixture, session, &set("scarf", 2)?),
        |session, hat, scarf| {
            done(hat, "one of two concurrent merges")?;
            done(scarf, "one of two concurrent merges")?;
            let record = fixture.live(&session.id_hash, "a merged session")?.record;
            let both = holds(&record, "hat", 1)? && holds(&record, "scarf", 2)?;
            ensure!(both, "of two concurrent merges on different names one was lost")?;
            let revision = session.record.revision + 2;
            ensure!(record.revision == revision, "two concurrent merges raised the revision by one")
        },
    )
}

pub(super) fn no_increment_is_lost(fixture: &Fixture) -> Passed {
    const THREADS: u32 = 32;
    const EACH: u32 = 100;
    let session = fixture.session()?;
    // As in a session, the first attempt does not wait, and retries take turns.
    let turn = Mutex::new(());
    let increment = || -> Passed {
        let mut record = fixture.live(&session.id_hash, "a counter")?.record;
        let mut guard = None;
        loop {
            let n = record.data.get("n").map_or(Ok(0), |n| n.decode::<u32>())?;
            let delta = set("n", n + 1)?;
            let merge = Commit::new(&session.id_hash, Action::Merge, delta, fixture.now);
            let expected = Expected::Revision(record.revision);
            let loaded = LiveSession { record: record.clone(), id_hash: session.id_hash };
            let merge = Commit { expected, loaded: Some(loaded.into()), ..merge };
            match fixture.store.commit(&merge)? {
                CommitAnswer::RevisionMismatch(LiveSession { record: stored, .. }) => {
                    record = stored
                }
                other => {
                    return answered_one_of(&other, &["Done", "RevisionMismatch"], "an increment");
                }
            }
            if guard.is_none() {
                guard = Some(turn.lock().ignore_poison());
            }
        }
    };
    thread::scope(|scope| {
        let count = || (0..EACH).try_for_each(|_| caught(increment));
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    })?;
    let record = fixture.live(&session.id_hash, "a counter")?.record;
    let wanted = THREADS * EACH;
    ensure!(holds(&record, "n", wanted)?, "of {wanted} concurrent increments some were lost")
}

/// Ends the session, and fails unless the store found it.
fn end(fixture: &Fixture, session: &Sample) -> Passed {
    answered(&fixture.end(&session.id_hash)?, "Ended", "an ending concurrent with a change")
}

/// Races a change with the end of the session. The change returns the id that the session has after
/// it.
fn change_and_end(
    fixture: &Fixture,
    (change, end): (&str, &str),
    make_change: impl Fn(&Sample) -> Passed<(SessionIdHash, CommitAnswer)>,
    make_end: impl Fn(&Sample) -> Passed + Sync,
) -> Passed {
    race(fixture, make_change, make_end, |session, (to, answer), ()| {
        let back = format!("{change} at the moment of {end} brought the session back");
        fixture.none_live(&[session.id_hash, to], &back)?;
        answered_one_of(&answer, &["Done", "NotFound"], &format!("{change} concurrent with {end}"))
    })
}

pub(super) fn a_merge_at_the_moment_of_an_ending_revives_nothing(fixture: &Fixture) -> Passed {
    change_and_end(
        fixture,
        ("a merge", "an ending"),
        |session| Ok((session.id_hash, merge(fixture, session, &set("coat", "red")?)?)),
        |session| end(fixture, session),
    )
}

pub(super) fn a_touch_at_the_moment_of_an_ending_revives_nothing(fixture: &Fixture) -> Passed {
    let later = fixture.later(SECOND);
    race(
        fixture,
        |session| later.touch(&session.id_hash),
        |session| end(&later, session),
        |session, (), ()| {
            let back = "a touch concurrent with an ending brought the session back";
            later.none_live(&[session.id_hash], back)
        },
    )
}

pub(super) fn a_renewal_at_the_moment_of_an_ending_revives_nothing(fixture: &Fixture) -> Passed {
    // An ending ends the session in either order, because a replaced id leads to it too.
    let renew = |session: &Sample| fixture.renew(&session.id_hash, None);
    change_and_end(fixture, ("a renewal", "an ending"), renew, |session| end(fixture, session))
}

pub(super) fn a_renewal_with_grace_at_the_moment_of_an_ending_revives_nothing(
    fixture: &Fixture,
) -> Passed {
    let renew = |session: &Sample| fixture.renew(&session.id_hash, Some(fixture.after(IDLE)));
    change_and_end(fixture, ("a renewal", "an ending"), renew, |session| end(fixture, session))
}

pub(super) fn a_sign_in_at_the_moment_of_an_ending_revives_nothing(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    race(
        fixture,
        |session| fixture.sign_in(&session.id_hash, &owner),
        |session| end(fixture, session),
        |session, (to, sign_in), ()| {
            let record = done(sign_in, "a sign-in concurrent with an ending")?.record;
            // An ending after the sign-in ends the session that signed in. A sign-in after the
            // ending finds no session and begins one, which stays.
            if record.public_id == session.public_id() {
                fixture.is_absent(&to, "a session ended after its sign-in")?;
            } else {
                let empty = record.data.is_empty();
                ensure!(empty, "a sign-in brought back the data of an ended session")?;
                let begun = Sample { id_hash: to, record };
                fixture.is_intact(&begun, "an ending concurrent with a sign-in")?;
            }
            let works = "after a concurrent sign-in and ending the old id still works";
            fixture.none_live(&[session.id_hash], works)
        },
    )
}

/// Races a call just before the deadline with a sweep at the deadline. `judge` gets the session,
/// whether it is live after both, the result, and the number of removed sessions.
fn call_and_sweep<A>(
    fixture: &Fixture,
    call: impl Fn(&Fixture, &Sample) -> Passed<A>,
    judge: impl Fn(A, bool, usize) -> Passed,
) -> Passed {
    // Every round has its own deadline, so that its sweep finds no session of another round.
    let begins = |round| fixture.later(SECOND * round);
    race_on(
        (0..ROUNDS).map(|round| Ok((begins(round).session_for(Lifetime::idle(IDLE))?, round))),
        |(session, round)| call(&begins(*round).later(IDLE - MILLI), session),
        |(_, round)| Ok(fixture.store.sweep(begins(*round).after(IDLE), ALL)?.removed),
        |(session, round), answer, swept| {
            let lives = begins(*round).later(IDLE).is_live(&session.id_hash)?;
            judge(answer, lives, swept)
        },
    )
}

pub(super) fn a_touch_at_the_moment_of_a_sweep_revives_nothing(fixture: &Fixture) -> Passed {
    call_and_sweep(
        fixture,
        |fixture, session| fixture.touch(&session.id_hash),
        |(), lives, swept| {
            ensure!(swept <= 1, "a sweep of at most one expired session removed {swept}")?;
            ensure!(!lives || swept == 0, "a touch concurrent with a sweep revived the session")
        },
    )
}

pub(super) fn a_merge_at_the_moment_of_a_sweep_is_kept_or_reported(fixture: &Fixture) -> Passed {
    call_and_sweep(
        fixture,
        |fixture, session| fixture.merge_and_touch(&session.id_hash, &set("coat", "red")?),
        |merge, lives, swept| {
            if let CommitAnswer::Done { .. } = merge {
                let kept = lives && swept == 0;
                return ensure!(kept, "a sweep removed a session whose deadline a merge had moved");
            }
            answered(&merge, "NotFound", "a merge concurrent with a sweep")?;
            ensure!(!lives, "a merge concurrent with a sweep revived the session")
        },
    )
}

pub(super) fn a_merge_at_the_moment_of_a_revocation_revives_nothing(fixture: &Fixture) -> Passed {
    change_and_end(
        fixture,
        ("a merge", "a revocation"),
        |session| Ok((session.id_hash, merge(fixture, session, &set("coat", "red")?)?)),
        |session| {
            let filter = SessionFilter::PublicId(&session.record.public_id);
            let revoked = fixture.index()?.revoke(&filter, None, fixture.now)?;
            names_ended(&revoked, &[session], "a revocation concurrent with a merge")
        },
    )
}

/// A flag that is set when this is dropped, even by a panic of the store.
struct SetOnDrop<'d>(&'d AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(super) fn a_list_by_public_id_during_a_sign_in_shows_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    // A list by the public id of an anonymous session scans all anonymous sessions.
    race_on(
        (0..ROUNDS / 10).map(|_| Ok((fixture.session()?, AtomicBool::new(false)))),
        |(session, is_done)| {
            let _done = SetOnDrop(is_done);
            fixture.sign_in(&session.id_hash, &owner)
        },
        |(session, is_done)| {
            // Lists repeatedly, so that one list overlaps the sign-in.
            loop {
                let was_done = is_done.load(Ordering::SeqCst);
                let listed = fixture.list(&SessionFilter::PublicId(&session.record.public_id))?;
                if listed.is_empty() || was_done {
                    return Ok(public_ids(&listed));
                }
            }
        },
        |(session, _), (_, answer), listed| {
            done(answer, "a sign-in concurrent with a list")?;
            ensure!(listed == [session.public_id()], "a list by public id missed a session")
        },
    )
}

pub(super) fn a_merge_at_the_moment_of_a_renewal_is_kept_or_reported(fixture: &Fixture) -> Passed {
    race(
        fixture,
        |session| merge(fixture, session, &set("coat", "red")?),
        |session| fixture.renew(&session.id_hash, None),
        |session, merge, (to, renewal)| {
            done(renewal, "a renewal concurrent with a merge")?;
            let record = fixture.live(&to, "a session renewed while merged")?.record;
            ensure!(record.public_id == session.public_id(), "a renewal lost the public id")?;
            // Either the change is in the renewed session, or the writer's result reports the loss.
            let wanted = if holds(&record, "coat", "red")? { "Done" } else { "Replaced" };
            answered(&merge, wanted, "a merge concurrent with a renewal")?;
            fixture.is_replaced(&session.id_hash, &to, "the replaced id of a renewal").map(drop)
        },
    )
}

fn two_renewals(fixture: &Fixture, grace_until: Option<Timestamp>) -> Passed {
    let renew = |session: &Sample| fixture.renew(&session.id_hash, grace_until);
    race(fixture, renew, renew, |session, (to_a, a), (to_b, b)| {
        let (winner, loser, answer) = match (&a, &b) {
            (CommitAnswer::Done { .. }, _) => (to_a, to_b, b),
            _ => (to_b, to_a, a),
        };
        let found = fixture.live(&winner, "a session renewed twice at once")?;
        ensure!(found.record.public_id == session.public_id(), "a renewal lost the public id")?;
        fixture.is_absent(&loser, "two concurrent renewals both gave the session a new id")?;
        let wanted = if grace_until.is_some() { "Unchanged" } else { "Replaced" };
        answered(&answer, wanted, "the later of two concurrent renewals")?;
        match answer {
            CommitAnswer::Unchanged(LiveSession { id_hash, .. }) => {
                ensure!(id_hash == winner, "a renewal did not return the current id")
            }
            _ => Ok(()),
        }
    })
}

pub(super) fn of_two_renewals_at_once_one_moves_the_session(fixture: &Fixture) -> Passed {
    two_renewals(fixture, None)
}

pub(super) fn of_two_renewals_with_grace_at_once_one_moves_the_session(
    fixture: &Fixture,
) -> Passed {
    two_renewals(fixture, Some(fixture.after(IDLE)))
}

pub(super) fn of_two_sign_ins_through_one_id_the_later_can_join(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let sign_in = |session: &Sample| replaced_ids::sign_in(fixture, &session.id_hash, &owner);
    race(fixture, sign_in, sign_in, |session, a, b| {
        let (first, later) = match (&a.answer, &b.answer) {
            (CommitAnswer::Done { .. }, _) => (a, b),
            _ => (b, a),
        };
        let record = done(first.answer, "one of two concurrent sign-ins")?.record;
        ensure!(record.public_id == session.public_id(), "a sign-in began another session")?;
        replaced_ids::joins(&later.answer, &first.salt)?;
        fixture.is_absent(&later.to, "two concurrent sign-ins both gave the session a new id")?;
        fixture.is_intact(&Sample { id_hash: first.to, record }, "two concurrent sign-ins")
    })
}

type SignInAnswer = (SessionIdHash, CommitAnswer);

fn two_sign_ins(
    fixture: &Fixture,
    at_maximum: AtMaximum,
    judge: impl Fn(&SignInAnswer, &SignInAnswer) -> Passed,
) -> Passed {
    let sign_in =
        |owner: &UserKey| max_sessions::sign_in(fixture, &id_hash()?, owner, (1, at_maximum));
    let owners = (0..ROUNDS).map(|round| user(&format!("user {round}")));
    race_on(owners, sign_in, sign_in, |owner, a, b| {
        let listed = fixture.list(&SessionFilter::User(owner))?.len();
        ensure!(
            listed == 1,
            "two concurrent sign-ins under a maximum of 1 left {listed} sessions"
        )?;
        judge(&a, &b)
    })
}

pub(super) fn of_two_sign_ins_at_once_the_maximum_refuses_one(fixture: &Fixture) -> Passed {
    two_sign_ins(fixture, AtMaximum::Refuse, |(_, a), (_, b)| {
        let a = name_of(a);
        let b = name_of(b);
        let one = [("Done", "SignInRefused"), ("SignInRefused", "Done")].contains(&(a, b));
        ensure!(one, "two concurrent sign-ins under a maximum of 1 returned {a} and {b}")
    })
}

pub(super) fn of_two_sign_ins_at_once_the_maximum_ends_one(fixture: &Fixture) -> Passed {
    for at_maximum in [AtMaximum::EndOldest, AtMaximum::EndOthers] {
        two_sign_ins(fixture, at_maximum, |(to_a, a), (to_b, b)| {
            let ends = |answer: &CommitAnswer, id_hash| -> Passed<bool> {
                let ids_to_invalidate =
                    done(answer.clone(), "a sign-in that may end others")?.ids_to_invalidate;
                Ok(ids_to_invalidate.contains(id_hash))
            };
            let a_ends_b = ends(a, to_b)?;
            let b_ends_a = ends(b, to_a)?;
            let one = a_ends_b != b_ends_a;
            ensure!(one, "of two concurrent sign-ins not exactly one ended the other")?;
            let ended = if a_ends_b { to_b } else { to_a };
            fixture.is_absent(ended, "a session that the maximum ended is not absent")?;
            let late = fixture.merge(ended, &nothing())?;
            answered(&late, "NotFound", "a merge after the maximum ended the session")
        })?;
        if let Some(index) = fixture.store.index() {
            index.revoke_everyone(None, fixture.now)?;
        }
    }
    Ok(())
}
