//! The operations of the threads of a history: chosen at random, and shrunk while the history
//! fails.

use super::chance::Chance;
use super::operations::{AtLimit, Begins, Call, Change, Moment, Number, Operation, Who};

/// The capabilities of a history's subject.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// It lists, revokes, and obeys limits per user.
    pub lists: bool,
    /// The number of threads that call it.
    pub threads: usize,
    /// The threads take so long that something can happen to a server meanwhile.
    pub slow: bool,
}

/// One operation to come.
#[derive(Clone, Debug)]
pub struct PlannedStep {
    pub operation: Operation,
    /// A merge on the condition that the session is as this thread saw it last.
    pub conditional: bool,
    /// A conditional merge that counts this name up from what was seen.
    pub counts_up: Option<Number>,
    /// So long it spins before.
    pub pause: u32,
}

#[derive(Clone, Debug)]
pub struct HistoryPlan {
    /// One after the other, before the threads begin.
    pub before: Vec<PlannedStep>,
    pub threads: Vec<Vec<PlannedStep>>,
    /// The threads wait for each other before every operation, not only before the first.
    pub in_rounds: bool,
}

/// The operations that a history mostly has: few kinds meet more often than many do.
#[derive(Clone, Copy, Debug)]
enum Theme {
    Data,
    Reading,
    Renewals,
    RecentlyEnded,
    Limits,
    Time,
    Anything,
}

struct Maker<'c> {
    chance: &'c mut Chance,
    abilities: Abilities,
    theme: Theme,
    /// Keys that were given to some session of the plan.
    ids: Vec<Number>,
    /// The number of ids that are in use before the threads begin.
    given_out: usize,
    next_id: Number,
    next_public_id: Number,
    /// The limit that times are chosen around.
    scale: Moment,
    times: &'static [Moment],
    /// One way to treat a limit in a history: an application has one.
    limit: Option<(u32, AtLimit)>,
}

/// Never the id of a session.
const NO_SESSION: Number = 0;

/// Percents of the scale at which operations happen.
const STILL: &[Moment] = &[0];
const AROUND: &[Moment] = &[0, 0, 0, 2, 3, 50, 99, 100, 101, 103, 150];

impl HistoryPlan {
    pub fn by(chance: &mut Chance, abilities: Abilities) -> HistoryPlan {
        let theme = match chance.below(if abilities.lists { 7 } else { 6 }) {
            0 => Theme::Data,
            1 => Theme::Reading,
            2 => Theme::Renewals,
            3 => Theme::RecentlyEnded,
            4 => Theme::Time,
            5 => Theme::Anything,
            _ => Theme::Limits,
        };
        let scale = chance.pick(&[1000, 1000, 40, 60_000, 600_000]);
        let times = match theme {
            Theme::Time => AROUND,
            Theme::Anything if chance.one_in(2) => AROUND,
            // A missed invalidation ends with the life of the entry.
            _ if abilities.slow && chance.one_in(2) => AROUND,
            _ => STILL,
        };
        let at_limit = chance.pick(&[AtLimit::Refuse, AtLimit::EndOldest, AtLimit::EndOthers]);
        let limit = 1 + u32::try_from(chance.below(2)).unwrap();
        let limited = abilities.lists && (matches!(theme, Theme::Limits) || chance.one_in(3));
        let limit = limited.then_some((limit, at_limit));
        let (ids, given_out, next_id, next_public_id) = (Vec::new(), 0, 0, 0);
        let mut maker = Maker {
            chance,
            abilities,
            theme,
            ids,
            given_out,
            next_id,
            next_public_id,
            scale,
            times,
            limit,
        };
        let before = maker.before();
        maker.given_out = maker.ids.len();
        let (fewest, most) = (3, 6);
        let threads = (0..abilities.threads).map(|_| {
            let length = fewest + maker.chance.below(most - fewest + 1);
            (0..length).map(|_| maker.step()).collect()
        });
        let threads = threads.collect();
        HistoryPlan { before, threads, in_rounds: maker.chance.one_in(2) }
    }

    pub fn operations(&self) -> usize {
        self.before.len() + self.threads.iter().map(Vec::len).sum::<usize>()
    }

    /// Smaller plans, the smallest first: without a thread, and without one operation.
    pub fn smaller(&self) -> Vec<HistoryPlan> {
        let mut plans = Vec::new();
        let mut with = |change: &dyn Fn(&mut HistoryPlan)| {
            let mut plan = self.clone();
            change(&mut plan);
            plans.push(plan);
        };
        for thread in 0..self.threads.len() {
            if !self.threads[thread].is_empty() {
                with(&|plan| plan.threads[thread].clear());
            }
        }
        for at in 0..self.before.len() {
            with(&|plan| drop(plan.before.remove(at)));
        }
        for thread in 0..self.threads.len() {
            for at in 0..self.threads[thread].len() {
                with(&|plan| drop(plan.threads[thread].remove(at)));
            }
        }
        plans
    }
}

impl Maker<'_> {
    fn new_id_hash(&mut self) -> Number {
        self.next_id += 1;
        self.ids.push(self.next_id);
        self.next_id
    }

    fn begins(&mut self) -> Begins {
        self.next_public_id += 1;
        let idle = (!self.chance.one_in(4)).then_some(self.scale);
        let absolute = self.chance.one_in(3).then_some(self.scale * 3 / 2);
        let absolute = if idle.is_none() { Some(self.scale) } else { absolute };
        let idp_session_id = self.chance.one_in(4).then_some(1);
        let level = if self.chance.one_in(3) { 2 } else { 0 };
        Begins { public_id: self.next_public_id, idp_session_id, level, idle, absolute }
    }

    fn before(&mut self) -> Vec<PlannedStep> {
        let mut steps = Vec::new();
        for _ in 0..1 + self.chance.below(2) {
            let (id_hash, begins) = (self.new_id_hash(), self.begins());
            let changes = self.changes();
            let call = match self.chance.one_in(3) {
                // Without a session a sign-in begins one.
                true => Call::SignIn {
                    id_hash: NO_SESSION,
                    to: id_hash,
                    user: 1,
                    begins,
                    changes,
                    limit: None,
                },
                false => Call::Create { id_hash, begins, changes },
            };
            steps.push(self.at(call, 0));
        }
        // Sometimes one is already on its second id.
        if self.chance.one_in(3) {
            let (id_hash, call) = (self.ids[0], self.chance.below(3));
            let to = self.new_id_hash();
            let begins = self.begins();
            let call = match call {
                0 => {
                    Call::SignIn { id_hash, to, user: 1, begins, changes: Vec::new(), limit: None }
                }
                n => {
                    let grace_until = (n == 1).then_some(self.scale);
                    Call::Renew { id_hash, to, grace_until, changes: Vec::new() }
                }
            };
            steps.push(self.at(call, 0));
        }
        steps
    }

    fn at(&mut self, call: Call, now: Moment) -> PlannedStep {
        let pause = self.chance.pick(match self.abilities.slow {
            true => &[0, 200, 20_000, 50_000, 100_000],
            false => &[0, 0, 20, 200, 2000],
        });
        let operation = Operation { call, now };
        PlannedStep { operation, conditional: false, counts_up: None, pause }
    }

    fn id_hash(&mut self) -> Number {
        // Mostly those that the history begins with, on which all threads meet.
        match self.chance.one_in(3) {
            true => self.chance.pick(&self.ids),
            false => self.ids[self.chance.below(self.ids.len().min(3))],
        }
    }

    /// This id, or one that a client can know. Memcached begins or moves a session in several
    /// steps. They are as good as one as long as its new id is unused before they are done; and no
    /// client knows it by then.
    fn key_given_out(&mut self, id_hash: Number) -> Number {
        match self.abilities.lists {
            true => id_hash,
            false => self.ids[self.chance.below(self.given_out)],
        }
    }

    fn user(&mut self) -> Number {
        self.chance.pick(&[1, 1, 1, 2])
    }

    fn who(&mut self) -> Who {
        let user = self.user();
        let public_id = Number::try_from(1 + self.chance.below(3)).unwrap();
        match self.chance.below(7) {
            0 => Who::All,
            1 | 2 => Who::User(user),
            3 | 4 => Who::PublicId(public_id),
            5 => Who::OfUser(user, public_id),
            _ => Who::IdpSession(1),
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        let number = |chance: &mut Chance, end| Number::try_from(chance.below(end)).unwrap();
        let mut changes = Vec::new();
        for _ in 0..1 + self.chance.below(2) {
            let (name, value) = (number(self.chance, 3), number(self.chance, 100));
            changes.push(match self.chance.below(12) {
                0..=7 => Change::Set(name, value),
                8 | 9 => Change::Remove(name),
                10 => Change::Clear,
                _ => Change::Confirm(self.now(), self.chance.pick(&[1, 2, 3])),
            });
        }
        changes
    }

    fn now(&mut self) -> Moment {
        self.scale * self.chance.pick(self.times) / 100
    }

    fn step(&mut self) -> PlannedStep {
        let now = self.now();
        // Out of a hundred: load, merge, counting up, renew, sign in, delete, touch, registry.
        let weights: [usize; 8] = match self.theme {
            Theme::Data => [25, 30, 30, 5, 0, 5, 5, 0],
            Theme::Reading => [50, 30, 0, 5, 0, 5, 5, 5],
            Theme::Renewals => [25, 10, 10, 40, 5, 5, 5, 0],
            Theme::RecentlyEnded => [30, 10, 5, 15, 10, 15, 5, 10],
            Theme::Limits => [20, 5, 0, 5, 45, 5, 0, 20],
            Theme::Time => [30, 15, 5, 15, 5, 5, 20, 5],
            Theme::Anything => [20, 15, 10, 15, 10, 10, 10, 10],
        };
        let mut at = self.chance.below(weights.iter().sum());
        let mut kind = 0;
        while at >= weights[kind] {
            at -= weights[kind];
            kind += 1;
        }
        let id_hash = self.id_hash();
        let mut conditional = false;
        let mut counts_up = None;
        let call = match kind {
            0 => Call::Load { id_hash },
            1 => {
                conditional = self.chance.one_in(3);
                let seen = self.chance.one_in(2).then_some(now);
                let empty = self.chance.one_in(4);
                let changes = if empty { Vec::new() } else { self.changes() };
                Call::Merge { id_hash, changes, if_revision: None, seen }
            }
            2 => {
                (conditional, counts_up) = (true, Some(0));
                Call::Merge { id_hash, changes: Vec::new(), if_revision: None, seen: Some(now) }
            }
            3 => {
                let grace = self.chance.one_in(2);
                let grace_until = grace.then(|| now + self.scale / self.chance.pick(&[1, 2]));
                let changes = if self.chance.one_in(2) { self.changes() } else { Vec::new() };
                Call::Renew { id_hash, to: self.new_id_hash(), grace_until, changes }
            }
            4 => {
                let id_hash = self.key_given_out(id_hash);
                let (user, mut begins, limit) = (self.user(), self.begins(), self.limit);
                // From the sign-in on.
                begins.absolute = begins.absolute.map(|absolute| now + absolute);
                let changes = if self.chance.one_in(3) { self.changes() } else { Vec::new() };
                Call::SignIn { id_hash, to: self.new_id_hash(), user, begins, changes, limit }
            }
            5 => Call::Delete { id_hash: self.key_given_out(id_hash) },
            6 if self.abilities.lists && self.chance.one_in(4) => Call::Sweep,
            6 => Call::Touch { id_hash, seen: now },
            _ => match self.chance.below(10) {
                0 => Call::RevokeEveryone,
                _ if !self.abilities.lists => Call::Load { id_hash },
                1..=3 => Call::List(self.who()),
                4 => Call::Stats,
                _ => Call::Revoke(self.who()),
            },
        };
        PlannedStep { conditional, counts_up, ..self.at(call, now) }
    }
}
