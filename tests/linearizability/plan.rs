//! The operations of the threads of a history: chosen at random, and shrunk while the history
//! fails.

use super::common::dice::Dice;
use super::operations::{
    AtMaximum, Call, Change, Filter, InitialFields, Millis, Number, Operation,
};

/// The capabilities of a history's subject.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// The store lists and revokes, and applies a maximum per user.
    pub lists: bool,
    /// The number of threads that call it.
    pub threads: usize,
    /// Operations pause so long that a server can be stopped meanwhile.
    pub slow: bool,
}

/// One operation to come.
#[derive(Clone, Debug)]
pub struct PlannedStep {
    pub operation: Operation,
    /// A merge on the condition that the session is as this thread saw it last.
    pub conditional: bool,
    /// A conditional merge that adds one to the value of this name that this thread saw last.
    pub increments: Option<Number>,
    /// The number of turns of a spin loop before it.
    pub pause: u32,
}

#[derive(Clone, Debug)]
pub struct HistoryPlan {
    /// One after the other, before the threads begin.
    pub setup: Vec<PlannedStep>,
    pub threads: Vec<Vec<PlannedStep>>,
    /// The threads wait for each other before every operation, not only before the first.
    pub in_rounds: bool,
}

/// The kinds of operations that a history mostly has. Few kinds conflict more often than many.
#[derive(Clone, Copy, Debug)]
enum Theme {
    Data,
    Reading,
    Renewals,
    RetiredIds,
    Limits,
    Time,
    Anything,
}

struct PlanBuilder<'c> {
    dice: &'c mut Dice,
    capabilities: Capabilities,
    theme: Theme,
    /// The ids that some session of the plan gets.
    ids: Vec<Number>,
    /// The number of ids that are in use before the threads begin.
    known_ids: usize,
    next_id: Number,
    next_public_id: Number,
    /// The limit that times are chosen around.
    scale: Millis,
    times: &'static [Millis],
    /// The maximum per user of the whole history, as an application has one.
    limit: Option<(u32, AtMaximum)>,
}

/// Never the id of a session.
const NO_SESSION: Number = 0;

/// The times of operations, in percent of the scale.
const AT_ONE_TIME: &[Millis] = &[0];
const AROUND_THE_LIMIT: &[Millis] = &[0, 0, 0, 2, 3, 50, 99, 100, 101, 103, 150];

impl HistoryPlan {
    pub fn random(dice: &mut Dice, capabilities: Capabilities) -> HistoryPlan {
        let theme = match dice.roll(if capabilities.lists { 7 } else { 6 }) {
            0 => Theme::Data,
            1 => Theme::Reading,
            2 => Theme::Renewals,
            3 => Theme::RetiredIds,
            4 => Theme::Time,
            5 => Theme::Anything,
            _ => Theme::Limits,
        };
        let scale = dice.pick(&[1000, 1000, 40, 60_000, 600_000]);
        let times = match theme {
            Theme::Time => AROUND_THE_LIMIT,
            Theme::Anything if dice.one_in(2) => AROUND_THE_LIMIT,
            // A missed invalidation ends with the life of the entry.
            _ if capabilities.slow && dice.one_in(2) => AROUND_THE_LIMIT,
            _ => AT_ONE_TIME,
        };
        let at_maximum =
            dice.pick(&[AtMaximum::Refuse, AtMaximum::EndOldest, AtMaximum::EndOthers]);
        let limit = 1 + u32::try_from(dice.roll(2)).unwrap();
        let limited = capabilities.lists && (matches!(theme, Theme::Limits) || dice.one_in(3));
        let limit = limited.then_some((limit, at_maximum));
        let (ids, known_ids, next_id, next_public_id) = (Vec::new(), 0, 0, 0);
        let mut builder = PlanBuilder {
            dice,
            capabilities,
            theme,
            ids,
            known_ids,
            next_id,
            next_public_id,
            scale,
            times,
            limit,
        };
        let setup = builder.setup();
        builder.known_ids = builder.ids.len();
        let (fewest, most) = (3, 6);
        let threads = (0..capabilities.threads).map(|_| {
            let length = fewest + builder.dice.roll(most - fewest + 1);
            (0..length).map(|_| builder.step()).collect()
        });
        let threads = threads.collect();
        HistoryPlan { setup, threads, in_rounds: builder.dice.one_in(2) }
    }

    pub fn operations(&self) -> usize {
        self.setup.len() + self.threads.iter().map(Vec::len).sum::<usize>()
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
        for at in 0..self.setup.len() {
            with(&|plan| drop(plan.setup.remove(at)));
        }
        for thread in 0..self.threads.len() {
            for at in 0..self.threads[thread].len() {
                with(&|plan| drop(plan.threads[thread].remove(at)));
            }
        }
        plans
    }
}

impl PlanBuilder<'_> {
    fn new_id_hash(&mut self) -> Number {
        self.next_id += 1;
        self.ids.push(self.next_id);
        self.next_id
    }

    fn initial(&mut self) -> InitialFields {
        self.next_public_id += 1;
        let idle = (!self.dice.one_in(4)).then_some(self.scale);
        let absolute = self.dice.one_in(3).then_some(self.scale * 3 / 2);
        let absolute = if idle.is_none() { Some(self.scale) } else { absolute };
        let idp_session_id = self.dice.one_in(4).then_some(1);
        let level = if self.dice.one_in(3) { 2 } else { 0 };
        InitialFields { public_id: self.next_public_id, idp_session_id, level, idle, absolute }
    }

    fn setup(&mut self) -> Vec<PlannedStep> {
        let mut steps = Vec::new();
        for _ in 0..1 + self.dice.roll(2) {
            let (id_hash, initial) = (self.new_id_hash(), self.initial());
            let changes = self.changes();
            let call = match self.dice.one_in(3) {
                // Without a session a sign-in begins one.
                true => Call::SignIn {
                    id_hash: NO_SESSION,
                    to: id_hash,
                    user: 1,
                    initial,
                    changes,
                    limit: None,
                },
                false => Call::Create { id_hash, initial, changes },
            };
            steps.push(self.at(call, 0));
        }
        // Sometimes a session already has its second id.
        if self.dice.one_in(3) {
            let (id_hash, call) = (self.ids[0], self.dice.roll(3));
            let to = self.new_id_hash();
            let initial = self.initial();
            let call = match call {
                0 => {
                    Call::SignIn { id_hash, to, user: 1, initial, changes: Vec::new(), limit: None }
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

    fn at(&mut self, call: Call, now: Millis) -> PlannedStep {
        let pause = self.dice.pick(match self.capabilities.slow {
            true => &[0, 200, 20_000, 50_000, 100_000],
            false => &[0, 0, 20, 200, 2000],
        });
        let operation = Operation { call, now };
        PlannedStep { operation, conditional: false, increments: None, pause }
    }

    fn id_hash(&mut self) -> Number {
        // Mostly those that the history begins with, on which all threads meet.
        match self.dice.one_in(3) {
            true => self.dice.pick(&self.ids),
            false => self.ids[self.dice.roll(self.ids.len().min(3))],
        }
    }

    /// This id; for memcached, one that a client can know. It begins or moves a session in several
    /// steps, which look like one as long as no request uses the new id before they are done. No
    /// client knows the id by then.
    fn known_id_hash(&mut self, id_hash: Number) -> Number {
        match self.capabilities.lists {
            true => id_hash,
            false => self.ids[self.dice.roll(self.known_ids)],
        }
    }

    fn user(&mut self) -> Number {
        self.dice.pick(&[1, 1, 1, 2])
    }

    fn filter(&mut self) -> Filter {
        let user = self.user();
        let public_id = Number::try_from(1 + self.dice.roll(3)).unwrap();
        match self.dice.roll(7) {
            0 => Filter::All,
            1 | 2 => Filter::User(user),
            3 | 4 => Filter::PublicId(public_id),
            5 => Filter::OfUser(user, public_id),
            _ => Filter::IdpSession(1),
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        let number = |dice: &mut Dice, end| Number::try_from(dice.roll(end)).unwrap();
        let mut changes = Vec::new();
        for _ in 0..1 + self.dice.roll(2) {
            let (name, value) = (number(self.dice, 3), number(self.dice, 100));
            changes.push(match self.dice.roll(12) {
                0..=7 => Change::Set(name, value),
                8 | 9 => Change::Remove(name),
                10 => Change::Clear,
                _ => Change::Confirm(self.now(), self.dice.pick(&[1, 2, 3])),
            });
        }
        changes
    }

    fn now(&mut self) -> Millis {
        self.scale * self.dice.pick(self.times) / 100
    }

    fn step(&mut self) -> PlannedStep {
        let now = self.now();
        // Out of a hundred: load, merge, counting up, renew, sign in, delete, touch, registry.
        let weights: [usize; 8] = match self.theme {
            Theme::Data => [25, 30, 30, 5, 0, 5, 5, 0],
            Theme::Reading => [50, 30, 0, 5, 0, 5, 5, 5],
            Theme::Renewals => [25, 10, 10, 40, 5, 5, 5, 0],
            Theme::RetiredIds => [30, 10, 5, 15, 10, 15, 5, 10],
            Theme::Limits => [20, 5, 0, 5, 45, 5, 0, 20],
            Theme::Time => [30, 15, 5, 15, 5, 5, 20, 5],
            Theme::Anything => [20, 15, 10, 15, 10, 10, 10, 10],
        };
        let mut at = self.dice.roll(weights.iter().sum());
        let mut kind = 0;
        while at >= weights[kind] {
            at -= weights[kind];
            kind += 1;
        }
        let id_hash = self.id_hash();
        let mut conditional = false;
        let mut increments = None;
        let call = match kind {
            0 => Call::Load { id_hash },
            1 => {
                conditional = self.dice.one_in(3);
                let seen = self.dice.one_in(2).then_some(now);
                let empty = self.dice.one_in(4);
                let changes = if empty { Vec::new() } else { self.changes() };
                Call::Merge { id_hash, changes, if_revision: None, seen }
            }
            2 => {
                (conditional, increments) = (true, Some(0));
                Call::Merge { id_hash, changes: Vec::new(), if_revision: None, seen: Some(now) }
            }
            3 => {
                let grace = self.dice.one_in(2);
                let grace_until = grace.then(|| now + self.scale / self.dice.pick(&[1, 2]));
                let changes = if self.dice.one_in(2) { self.changes() } else { Vec::new() };
                Call::Renew { id_hash, to: self.new_id_hash(), grace_until, changes }
            }
            4 => {
                let id_hash = self.known_id_hash(id_hash);
                let (user, mut initial, limit) = (self.user(), self.initial(), self.limit);
                // From the sign-in on.
                initial.absolute = initial.absolute.map(|absolute| now + absolute);
                let changes = if self.dice.one_in(3) { self.changes() } else { Vec::new() };
                Call::SignIn { id_hash, to: self.new_id_hash(), user, initial, changes, limit }
            }
            5 => Call::Delete { id_hash: self.known_id_hash(id_hash) },
            6 if self.capabilities.lists && self.dice.one_in(4) => Call::Sweep,
            6 => Call::Touch { id_hash, seen: now },
            _ => match self.dice.roll(10) {
                0 => Call::RevokeEveryone,
                _ if !self.capabilities.lists => Call::Load { id_hash },
                1..=3 => Call::List(self.filter()),
                4 => Call::Stats,
                _ => Call::Revoke(self.filter()),
            },
        };
        PlannedStep { conditional, increments, ..self.at(call, now) }
    }
}
