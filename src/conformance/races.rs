//! Checks with two concurrent calls on one session, repeated many times. The results and the stored
//! session must agree with one of the two orders.

use std::hint;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{
    Action, AtLimit, Commit, Committed, LiveSession, Missing, Page, SessionFilter,
};
use crate::clock::Timestamp;
use crate::conformance::fixture::{
    ALL, Dice, Fixture, IDLE, MILLI, Passed, SECOND, Sample, Violation, answered, caught, done,
    ensure, holds, id_hash, name_of, nothing, panicked, set, user,
};
use crate::conformance::{limits, replaced_ids};
use crate::id::{SessionIdHash, UserKey};
use crate::lifetime::Lifetime;
use crate::record::{NewSession, Touch};

const ROUNDS: u32 = 1000;

/// Starts two threads at the same time, or one of them a little later.
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
            let delay = Dice(round as u64).roll(most) as u64;
            let go = Instant::now() + Duration::from_nanos(delay);
            while Instant::now() < go {
                hint::spin_loop();
            }
        }
    }
}

/// Prepares every round, then runs `a` and `b` of each round concurrently, then judges the results.
fn race<T: Sync, A, B: Send>(
    prepare: impl Fn(u32) -> Passed<T>,
    a: impl Fn(&T) -> Passed<A>,
    b: impl Fn(&T) -> Passed<B> + Sync,
    judge: impl Fn(&T, A, B) -> Passed,
) -> Passed {
    race_for(ROUNDS, prepare, a, b, judge)
}

fn race_for<T: Sync, A, B: Send>(
    rounds: u32,
    prepare: impl Fn(u32) -> Passed<T>,
    a: impl Fn(&T) -> Passed<A>,
    b: impl Fn(&T) -> Passed<B> + Sync,
    judge: impl Fn(&T, A, B) -> Passed,
) -> Passed {
    let rounds = (0..rounds).map(prepare).collect::<Passed<Vec<T>>>()?;
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
        |_| fixture.session(),
        |session| fixture.merge(&session.id_hash, &set("hat", 1)?, fixture.now),
        |session| fixture.merge(&session.id_hash, &set("scarf", 2)?, fixture.now),
        |session, hat, scarf| {
            done(hat, "one of two concurrent merges")?;
            done(scarf, "one of two concurrent merges")?;
            let record = fixture.live(&session.id_hash, fixture.now, "a merged session")?.record;
            let both = holds(&record, "hat", 1)? && holds(&record, "scarf", 2)?;
            ensure!(both, "of two concurrent merges on different names one was lost");
            let revision = session.record.revision + 2;
            ensure!(
                record.revision == revision,
                "two concurrent merges raised the revision by one"
            );
            Ok(())
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
        let mut record = fixture.live(&session.id_hash, fixture.now, "a counter")?.record;
        let mut guard = None;
        loop {
            let n = record.data.get("n").map_or(Ok(0), |n| n.decode::<u32>())?;
            let delta = set("n", n + 1)?;
            let merge = Commit::new(&session.id_hash, Action::Merge, delta.clone(), fixture.now);
            let merge = Commit { if_revision: Some(record.revision), ..merge };
            match fixture.store.commit(&merge)? {
                Committed::Done { .. } => return Ok(()),
                Committed::RevisionMismatch(LiveSession { record: stored, .. }) => record = stored,
                other => return answered(&other, "Done or RevisionMismatch", "an increment"),
            }
            if guard.is_none() {
                guard = Some(turn.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
    };
    thread::scope(|scope| {
        let count = || (0..EACH).try_for_each(|_| caught(increment));
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    })?;
    let record = fixture.live(&session.id_hash, fixture.now, "a counter")?.record;
    let wanted = THREADS * EACH;
    ensure!(holds(&record, "n", wanted)?, "of {wanted} concurrent increments some were lost");
    Ok(())
}

pub(super) fn a_merge_at_the_moment_of_a_delete_revives_nothing(fixture: &Fixture) -> Passed {
    race(
        |_| fixture.session(),
        |session| fixture.merge(&session.id_hash, &set("coat", "red")?, fixture.now),
        |session| fixture.delete(&session.id_hash, fixture.now),
        |session, merge, delete| {
            answered(&delete, "Deleted", "a delete concurrent with a merge")?;
            let back = fixture.is_live(&session.id_hash, fixture.now)?;
            ensure!(!back, "a merge at the moment of a delete brought the session back");
            let is_expected = matches!(
                merge,
                Committed::Done { .. } | Committed::Missing(Missing::NotFound { .. })
            );
            ensure!(is_expected, "a merge concurrent with a delete returned {}", name_of(&merge));
            Ok(())
        },
    )
}

pub(super) fn a_touch_at_the_moment_of_a_delete_revives_nothing(fixture: &Fixture) -> Passed {
    let then = fixture.after(SECOND);
    race(
        |_| fixture.session(),
        |session| fixture.touch(&session.id_hash, then, then),
        |session| fixture.delete(&session.id_hash, then),
        |session, (), delete| {
            answered(&delete, "Deleted", "a delete concurrent with a touch")?;
            let back = fixture.is_live(&session.id_hash, then)?;
            ensure!(!back, "a touch concurrent with a delete brought the session back");
            Ok(())
        },
    )
}

fn renewal_and_delete(fixture: &Fixture, grace_until: Option<Timestamp>) -> Passed {
    race(
        |_| fixture.session(),
        |session| fixture.renew(&session.id_hash, grace_until, fixture.now),
        |session| fixture.delete(&session.id_hash, fixture.now),
        |session, (to, renewal), delete| {
            // A delete ends the session in either order, because a replaced id leads to it too.
            answered(&delete, "Deleted", "a delete concurrent with a renewal")?;
            let is_expected = matches!(
                renewal,
                Committed::Done { .. } | Committed::Missing(Missing::NotFound { .. })
            );
            ensure!(
                is_expected,
                "a renewal concurrent with a delete returned {}",
                name_of(&renewal)
            );
            for id_hash in [to, session.id_hash] {
                let lives = fixture.is_live(&id_hash, fixture.now)?;
                ensure!(!lives, "after a concurrent renewal and delete the session is live");
            }
            Ok(())
        },
    )
}

pub(super) fn a_renewal_at_the_moment_of_a_delete_revives_nothing(fixture: &Fixture) -> Passed {
    renewal_and_delete(fixture, None)
}

pub(super) fn a_renewal_with_grace_at_the_moment_of_a_delete_revives_nothing(
    fixture: &Fixture,
) -> Passed {
    renewal_and_delete(fixture, Some(fixture.after(IDLE)))
}

pub(super) fn a_sign_in_at_the_moment_of_a_delete_revives_nothing(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    race(
        |_| fixture.session(),
        |session| fixture.sign_in(&session.id_hash, &owner, fixture.now),
        |session| fixture.delete(&session.id_hash, fixture.now),
        |session, (to, sign_in), delete| {
            let record = done(sign_in, "a sign-in concurrent with a delete")?.record;
            let kept = record.public_id == session.public_id();
            answered(&delete, "Deleted", "a delete concurrent with a sign-in")?;
            ensure!(
                kept || record.data.is_empty(),
                "a sign-in brought back the data of a deleted session"
            );
            // A delete after the sign-in ends the session that signed in. A sign-in after the
            // delete finds no session and begins one, which stays.
            match kept {
                true => {
                    fixture.is_absent(&to, fixture.now, "a session deleted after its sign-in")?
                }
                false => {
                    let begun = Sample { id_hash: to, record };
                    fixture.is_intact(&begun, "a delete concurrent with a sign-in")?;
                }
            }
            let old = fixture.is_live(&session.id_hash, fixture.now)?;
            ensure!(!old, "after a concurrent sign-in and delete the old id still works");
            Ok(())
        },
    )
}

pub(super) fn a_touch_at_the_moment_of_a_sweep_revives_nothing(fixture: &Fixture) -> Passed {
    let begins = |round| fixture.after(SECOND * round);
    race(
        // Every round has its own deadline, so that its sweep finds no session of another round.
        |round| Ok((fixture.session_from(begins(round), &new_session_at(begins(round))?)?, round)),
        |(session, round)| {
            let last = begins(*round) + IDLE - MILLI;
            fixture.touch(&session.id_hash, last, last)
        },
        |(_, round)| Ok(fixture.store.sweep(begins(*round) + IDLE, ALL)?.removed),
        |(session, round), (), swept| {
            let lives = fixture.is_live(&session.id_hash, begins(*round) + IDLE)?;
            ensure!(swept <= 1, "a sweep of at most one expired session removed {swept}");
            ensure!(!lives || swept == 0, "a touch concurrent with a sweep revived the session");
            Ok(())
        },
    )
}

pub(super) fn a_merge_at_the_moment_of_a_sweep_is_kept_or_reported(fixture: &Fixture) -> Passed {
    let begins = |round| fixture.after(SECOND * round);
    race(
        |round| Ok((fixture.session_from(begins(round), &new_session_at(begins(round))?)?, round)),
        |(session, round)| {
            let last = begins(*round) + IDLE - MILLI;
            let delta = set("coat", "red")?;
            let merge = Commit::new(&session.id_hash, Action::Merge, delta, last);
            Ok(fixture.store.commit(&Commit { touch: Some(Touch::at(last)), ..merge })?)
        },
        |(_, round)| Ok(fixture.store.sweep(begins(*round) + IDLE, ALL)?.removed),
        |(session, round), merge, swept| {
            let lives = fixture.is_live(&session.id_hash, begins(*round) + IDLE)?;
            match &merge {
                Committed::Done { .. } => {
                    ensure!(
                        lives && swept == 0,
                        "a sweep removed a session whose deadline a merge had moved"
                    );
                }
                other => {
                    answered(other, "NotFound", "a merge concurrent with a sweep")?;
                    ensure!(!lives, "a merge concurrent with a sweep revived the session");
                }
            }
            Ok(())
        },
    )
}

fn new_session_at(now: Timestamp) -> Passed<NewSession> {
    Ok(NewSession::new(Lifetime::idle(IDLE).starting(now))?)
}

pub(super) fn a_merge_at_the_moment_of_a_revocation_revives_nothing(fixture: &Fixture) -> Passed {
    race(
        |_| fixture.session(),
        |session| fixture.merge(&session.id_hash, &set("coat", "red")?, fixture.now),
        |session| {
            Ok(fixture.index()?.revoke(
                &SessionFilter::PublicId(&session.public_id()),
                None,
                fixture.now,
            )?)
        },
        |session, merge, revoked| {
            ensure!(revoked == [session.id_hash], "a revocation concurrent with a merge missed it");
            let back = fixture.is_live(&session.id_hash, fixture.now)?;
            ensure!(!back, "a merge concurrent with a revocation brought the session back");
            let is_expected = matches!(
                merge,
                Committed::Done { .. } | Committed::Missing(Missing::NotFound { .. })
            );
            ensure!(
                is_expected,
                "a merge concurrent with a revocation returned {}",
                name_of(&merge)
            );
            Ok(())
        },
    )
}

/// Sets the flag when it is dropped, also by a panic of the store.
struct SetOnDrop<'d>(&'d AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(super) fn a_list_by_public_id_during_a_sign_in_shows_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    // A list by the public id of an anonymous session scans all anonymous sessions.
    race_for(
        ROUNDS / 10,
        |_| Ok((fixture.session()?, AtomicBool::new(false))),
        |(session, is_done)| {
            let _done = SetOnDrop(is_done);
            fixture.sign_in(&session.id_hash, &owner, fixture.now)
        },
        |(session, is_done)| {
            let (index, public_id) = (fixture.index()?, session.public_id());
            // Lists repeatedly, so that one list overlaps the sign-in.
            loop {
                let was_done = is_done.load(Ordering::SeqCst);
                let listed = index.list(
                    &SessionFilter::PublicId(&public_id),
                    Page::first(ALL),
                    fixture.now,
                )?;
                if listed.is_empty() || was_done {
                    return Ok(listed);
                }
            }
        },
        |(session, _), (_, answer), listed| {
            done(answer, "a sign-in concurrent with a list")?;
            let public_ids: Vec<_> = listed.iter().map(|summary| summary.public_id).collect();
            ensure!(public_ids == [session.public_id()], "a list by public id missed a session");
            Ok(())
        },
    )
}

pub(super) fn a_merge_at_the_moment_of_a_renewal_is_kept_or_reported(fixture: &Fixture) -> Passed {
    race(
        |_| fixture.session(),
        |session| fixture.merge(&session.id_hash, &set("coat", "red")?, fixture.now),
        |session| fixture.renew(&session.id_hash, None, fixture.now),
        |session, merge, (to, renewal)| {
            done(renewal, "a renewal concurrent with a merge")?;
            let record = fixture.live(&to, fixture.now, "a session renewed while merged")?.record;
            ensure!(record.public_id == session.public_id(), "a renewal lost the public id");
            let kept = holds(&record, "coat", "red")?;
            // Either the change is in the renewed session, or the writer's result reports the loss.
            let wanted = if kept { "Done" } else { "Replaced" };
            answered(&merge, wanted, "a merge concurrent with a renewal")?;
            fixture.is_replaced(
                &session.id_hash,
                &to,
                fixture.now,
                "the replaced id of a renewal",
            )?;
            Ok(())
        },
    )
}

fn two_renewals(fixture: &Fixture, grace_until: Option<Timestamp>) -> Passed {
    let renew = |session: &Sample| fixture.renew(&session.id_hash, grace_until, fixture.now);
    race(
        |_| fixture.session(),
        renew,
        renew,
        |session, (to_a, a), (to_b, b)| {
            let (winner, loser, answer) = match (&a, &b) {
                (Committed::Done { .. }, _) => (to_a, to_b, b),
                _ => (to_b, to_a, a),
            };
            let found = fixture.live(&winner, fixture.now, "a session renewed twice at once")?;
            ensure!(found.record.public_id == session.public_id(), "a renewal lost the public id");
            fixture.is_absent(
                &loser,
                fixture.now,
                "two concurrent renewals both gave the session a new id",
            )?;
            match answer {
                Committed::Missing(Missing::Replaced { .. }) if grace_until.is_none() => Ok(()),
                Committed::Unchanged(LiveSession { id_hash, .. })
                    if grace_until.is_some() && id_hash == winner =>
                {
                    Ok(())
                }
                other => answered(
                    &other,
                    if grace_until.is_some() {
                        "Unchanged with the current id"
                    } else {
                        "Replaced"
                    },
                    "the later of two concurrent renewals",
                ),
            }
        },
    )
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
    race(
        |_| fixture.session(),
        |session| {
            replaced_ids::sign_in(fixture, &session.id_hash, &owner, fixture.now, fixture.now)
        },
        |session| {
            replaced_ids::sign_in(fixture, &session.id_hash, &owner, fixture.now, fixture.now)
        },
        |session, a, b| {
            let (first, later) = match (&a.answer, &b.answer) {
                (Committed::Done { .. }, _) => (a, b),
                _ => (b, a),
            };
            let record = done(first.answer, "one of two concurrent sign-ins")?.record;
            ensure!(record.public_id == session.public_id(), "a sign-in began another session");
            replaced_ids::joins(&later.answer, &first.to, &first.salt)?;
            fixture.is_absent(
                &later.to,
                fixture.now,
                "two concurrent sign-ins both gave the session a new id",
            )?;
            fixture.is_intact(&Sample { id_hash: first.to, record }, "two concurrent sign-ins")
        },
    )
}

type SignInRace = (SessionIdHash, Committed);

fn two_sign_ins(
    fixture: &Fixture,
    at_limit: AtLimit,
    judge: impl Fn(&SignInRace, &SignInRace) -> Passed,
) -> Passed {
    let sign_in = |owner: &UserKey| {
        let limit = (NonZeroU32::MIN.get(), at_limit);
        limits::sign_in(fixture, &id_hash()?, owner, limit, fixture.now)
    };
    race(
        |round| user(&format!("user {round}")),
        sign_in,
        sign_in,
        |owner, a, b| {
            let listed = fixture
                .index()?
                .list(&SessionFilter::User(owner), Page::first(ALL), fixture.now)?
                .len();
            ensure!(
                listed == 1,
                "two concurrent sign-ins under a limit of 1 left {listed} sessions"
            );
            judge(&a, &b)
        },
    )
}

pub(super) fn of_two_sign_ins_at_once_the_limit_refuses_one(fixture: &Fixture) -> Passed {
    two_sign_ins(fixture, AtLimit::Refuse, |(_, a), (_, b)| {
        let one = matches!(
            (a, b),
            (Committed::Done { .. }, Committed::LimitReached)
                | (Committed::LimitReached, Committed::Done { .. })
        );
        let (a, b) = (name_of(a), name_of(b));
        ensure!(one, "two concurrent sign-ins under a limit of 1 returned {a} and {b}");
        Ok(())
    })
}

pub(super) fn of_two_sign_ins_at_once_the_limit_ends_one(fixture: &Fixture) -> Passed {
    for at_limit in [AtLimit::EndOldest, AtLimit::EndOthers] {
        two_sign_ins(fixture, at_limit, |(to_a, a), (to_b, b)| {
            let ends = |answer: &Committed, id_hash| match answer {
                Committed::Done { ended, .. } => Ok(ended.contains(id_hash)),
                other => Err(Violation(format!(
                    "a sign-in that may end others returned {}",
                    name_of(other)
                ))),
            };
            let (a_ends_b, b_ends_a) = (ends(a, to_b)?, ends(b, to_a)?);
            ensure!(
                a_ends_b != b_ends_a,
                "of two concurrent sign-ins not exactly one ended the other"
            );
            let ended = if a_ends_b { to_b } else { to_a };
            fixture.is_absent(
                ended,
                fixture.now,
                "a session that the limit ended is not absent",
            )?;
            fixture.merge(ended, &nothing(), fixture.now).and_then(|late| {
                answered(&late, "NotFound", "a merge after the limit ended the session")
            })
        })?;
        if let Some(index) = fixture.store.index() {
            index.revoke_everyone(None, fixture.now)?;
        }
    }
    Ok(())
}
