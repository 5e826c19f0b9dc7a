//! What sessions are, one operation after the other: written from the documentation, and not by
//! the code of the crate that decides it.

use std::collections::BTreeSet;

use super::checker::{Entry, Model, check};
use super::operations::{
    Answer, AtLimit, Begins, Call, Change, Happened, Listed, Moment, Number, Operation, Session,
    Who,
};

/// For so long a key that was left is answered `Renewed`.
const REMEMBERED: Moment = 600_000;

/// A touch is due after this share of the idle limit.
const TOUCHES_PER_IDLE_LIMIT: Moment = 40;

/// The sessions of a store.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    /// As memcached does. Former keys lead one step far, however often the session has moved
    /// since: a key from before the last move but one may be answered as renewed, or as unknown.
    /// And a renewal that is done may find the session ended when it comes back to it; it says so.
    /// A sign-in over a session that has expired removes it first, and begins another then: in
    /// between a request that is late, by whose time it would live, finds neither.
    pub moves_in_steps: bool,
    /// It looks for ended sessions first and removes them then; one that is renewed in between, by
    /// somebody for whom it has not ended yet, is left to the next sweep.
    pub sweeps_in_two_steps: bool,
    pub reads: Reads,
}

impl Sessions {
    /// As SQLite keeps them.
    pub const PLAIN: Sessions =
        Sessions { moves_in_steps: false, sweeps_in_two_steps: false, reads: Reads::Latest };
}

/// What a load may find.
#[derive(Clone, Copy, Debug)]
pub enum Reads {
    /// What is stored.
    Latest,
    /// Also what was stored before changes of other processes that are still under way: somebody
    /// may have seen those by then, and may even have ended a session at the new key that one of
    /// them has given it.
    LatestAcknowledged,
    /// Also what was stored, at the latest, so long before: another process could not tell the
    /// cache.
    Within(Moment),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    sessions: Store,
    /// What was stored before, the last at the end; only where a load may find that.
    past: Vec<Past>,
}

/// What was stored before a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Past {
    sessions: Store,
    changed_by: usize,
    changed_until: u64,
    /// The keys that the cache was made to forget by then; all if none are named.
    told: Option<Vec<Number>>,
    /// The latest time that anybody was given until then.
    latest: Moment,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    /// In the order in which they began.
    rows: Vec<Row>,
    /// Keys that were left before the last move of their session.
    left_long_ago: BTreeSet<Number>,
    /// No session may be at these keys after these stamps: its renewal has said that it has ended.
    said_to_end: Vec<(Number, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    key: Number,
    former: Option<Former>,
    session: Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Former {
    key: Number,
    left: Moment,
    grace_until: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Live(usize),
    Expired(usize),
    Renewed,
    Absent,
}

impl Session {
    fn deadline(&self) -> Moment {
        let idle = self.idle.map_or(Moment::MAX, |idle| self.seen + idle);
        idle.min(self.absolute.unwrap_or(Moment::MAX))
    }

    fn lives(&self, now: Moment) -> bool {
        now < self.deadline()
    }

    fn born(begins: &Begins, now: Moment) -> Session {
        Session {
            handle: begins.handle,
            user: None,
            external: begins.external,
            level: begins.level,
            created: now,
            authenticated: None,
            seen: now,
            idle: begins.idle,
            absolute: begins.absolute,
            revision: 1,
            data: Default::default(),
        }
    }

    fn apply(&mut self, changes: &[Change]) -> bool {
        let before = self.clone();
        for change in changes {
            match change {
                Change::Set(name, value) => drop(self.data.insert(*name, *value)),
                Change::Remove(name) => drop(self.data.remove(name)),
                Change::Clear => self.data.clear(),
                Change::User(user) => {
                    (self.user, self.authenticated) = (*user, None);
                    (self.level, self.external) = (0, None);
                }
            }
        }
        *self != before
    }

    fn sign_in(&mut self, user: Number, begins: &Begins, now: Moment) {
        (self.user, self.authenticated, self.level) = (Some(user), Some(now), begins.level);
        self.external = begins.external.or(self.external);
    }

    fn touch_is_due(&self, seen: Moment) -> bool {
        let passed = |idle| seen - self.seen >= idle / TOUCHES_PER_IDLE_LIMIT;
        seen > self.seen && self.idle.is_some_and(passed)
    }

    fn is_of(&self, who: &Who) -> bool {
        match who {
            Who::All => true,
            Who::User(user) => self.user == Some(*user),
            Who::Handle(handle) => self.handle == *handle,
            Who::OfUser(user, handle) => self.user == Some(*user) && self.handle == *handle,
            Who::External(key) => self.external == Some(*key),
        }
    }
}

type Outcomes = Vec<(Store, Answer)>;

impl Store {
    /// What `key` finds: more than one thing where the store may answer either.
    fn find(&self, key: Number, now: Moment) -> Vec<Found> {
        let at = |index: usize| match self.rows[index].session.lives(now) {
            true => Found::Live(index),
            false => Found::Expired(index),
        };
        if let Some(index) = self.rows.iter().position(|row| row.key == key) {
            return vec![at(index)];
        }
        let left = |row: &Row| row.former.filter(|former| former.key == key);
        let former = self.rows.iter().position(|row| left(row).is_some());
        if let Some((index, former)) = former.and_then(|at| Some((at, left(&self.rows[at])?))) {
            let remembered = former.left.max(former.grace_until.unwrap_or(former.left));
            return vec![match at(index) {
                found if former.grace_until.is_some_and(|until| now < until) => found,
                Found::Live(_) if now < remembered + REMEMBERED => Found::Renewed,
                _ => Found::Absent,
            }];
        }
        match self.left_long_ago.contains(&key) {
            true => vec![Found::Absent, Found::Renewed],
            false => vec![Found::Absent],
        }
    }

    fn end(&mut self, mut which: impl FnMut(&Row) -> bool) -> Vec<Number> {
        let ended = self.rows.iter().filter(|row| which(row)).map(|row| row.key).collect();
        self.rows.retain(|row| !which(row));
        sorted(ended)
    }

    fn is_taken(&self, key: Number) -> bool {
        let is = |row: &Row| row.key == key || row.former.is_some_and(|former| former.key == key);
        self.rows.iter().any(is)
    }

    /// What ends sessions removes those that it finds expired, and names none of them: a write that
    /// has waited since before the deadline must not find them any more.
    fn without_expired(mut self, operation: &Operation) -> Store {
        let now = operation.now;
        let (key, which) = match &operation.call {
            Call::Delete { key } => (Some(*key), None),
            Call::SignIn { key, user, limit, .. } => (Some(*key), limit.map(|_| Who::User(*user))),
            Call::Revoke(who) => (None, Some(*who)),
            _ => return self,
        };
        let found = key.map(|key| self.find(key, now));
        let found = match found.as_deref() {
            Some([Found::Expired(at)]) => Some(self.rows[*at].key),
            _ => None,
        };
        let is_meant = |row: &Row| which.is_some_and(|who| row.session.is_of(&who));
        self.end(|row| !row.session.lives(now) && (Some(row.key) == found || is_meant(row)));
        self
    }
}

fn sorted(mut keys: Vec<Number>) -> Vec<Number> {
    keys.sort_unstable();
    keys
}

impl Sessions {
    /// Everything that the operation may do and answer.
    fn outcomes(self, store: &Store, operation: &Operation) -> Outcomes {
        let now = operation.now;
        let each = |store: &Store, key: Number, then: &dyn Fn(Store, Found) -> Outcomes| {
            let found = store.find(key, now).into_iter();
            found.flat_map(|found| then(store.clone(), found)).collect::<Outcomes>()
        };
        match &operation.call {
            Call::Load { key } => each(store, *key, &|store, found| {
                let answer = match found {
                    Found::Live(at) => {
                        let Row { key, session, .. } = store.rows[at].clone();
                        Answer::Live { session, key }
                    }
                    Found::Renewed => Answer::Renewed,
                    Found::Expired(_) | Found::Absent => Answer::Absent,
                };
                vec![(store, answer)]
            }),
            Call::Create { key, begins, changes } => {
                let mut store = store.clone();
                if store.is_taken(*key) {
                    return Vec::new();
                }
                let mut session = Session::born(begins, now);
                session.apply(changes);
                store.rows.push(Row { key: *key, former: None, session: session.clone() });
                vec![(store, Answer::Done { session, key: *key, ended: Vec::new() })]
            }
            Call::Merge { key, changes, if_revision, seen } => {
                each(store, *key, &|store, found| {
                    let change = Merged { changes, if_revision: *if_revision, seen: *seen };
                    vec![self.go_on(store, found, &change, None)]
                })
            }
            Call::Renew { key, to, grace_until, changes } => each(store, *key, &|store, found| {
                let change = Merged { changes, if_revision: None, seen: None };
                let former = Former { key: *key, left: now, grace_until: *grace_until };
                vec![self.go_on(store, found, &change, Some((*to, former)))]
            }),
            Call::SignIn { key, .. } => {
                each(store, *key, &|store, found| self.sign_in(store, found, operation))
            }
            Call::Delete { key } => each(store, *key, &|mut store, found| {
                let answer = match found {
                    Found::Live(at) => Answer::Deleted { key: store.rows.remove(at).key },
                    Found::Renewed => Answer::Renewed,
                    Found::Expired(_) | Found::Absent => Answer::Absent,
                };
                vec![(store, answer)]
            }),
            Call::Touch { key, seen } => each(store, *key, &|mut store, found| {
                if let Found::Live(at) = found {
                    let session = &mut store.rows[at].session;
                    session.seen = session.seen.max(*seen);
                }
                vec![(store, Answer::Ok)]
            }),
            Call::Sweep => {
                let mut stores = vec![(store.clone(), 0)];
                for row in store.rows.iter().filter(|row| !row.session.lives(now)) {
                    let mut without = stores.clone();
                    for (store, swept) in &mut without {
                        *swept += store.end(|other| other.key == row.key).len();
                    }
                    match self.sweeps_in_two_steps {
                        true => stores.extend(without),
                        false => stores = without,
                    }
                }
                stores.into_iter().map(|(store, swept)| (store, Answer::Swept(swept))).collect()
            }
            Call::List(who) => {
                let rows = store.rows.iter().rev().map(|row| &row.session);
                let rows = rows.filter(|session| session.lives(now) && session.is_of(who));
                let list = rows.map(|session| {
                    let Session { handle, user, seen, .. } = *session;
                    Listed { handle, user, seen }
                });
                vec![(store.clone(), Answer::List(list.collect()))]
            }
            Call::Revoke(who) => {
                let mut store = store.clone();
                let revoked = store.end(|row| row.session.lives(now) && row.session.is_of(who));
                vec![(store, Answer::Revoked(revoked))]
            }
            Call::RevokeEveryone => {
                let live = store.rows.iter().filter(|row| row.session.lives(now)).count();
                let nobody = Store { rows: Vec::new(), ..store.clone() };
                vec![(nobody, Answer::RevokedEveryone(Some(live as u64)))]
            }
            Call::Stats => {
                let (live, expired): (Vec<&Row>, Vec<&Row>) =
                    store.rows.iter().partition(|row| row.session.lives(now));
                let signed_in = live.iter().filter(|row| row.session.user.is_some()).count() as u64;
                let (live, expired) = (live.len() as u64, expired.len() as u64);
                vec![(store.clone(), Answer::Counts { live, expired, signed_in })]
            }
            Call::Lose => vec![(Store::default(), Answer::Ok)],
        }
    }

    fn go_on(
        self,
        mut store: Store,
        found: Found,
        change: &Merged<'_>,
        renewal: Option<(Number, Former)>,
    ) -> (Store, Answer) {
        let at = match found {
            Found::Live(at) => at,
            Found::Renewed => return (store, Answer::Renewed),
            Found::Expired(_) | Found::Absent => return (store, Answer::Absent),
        };
        let row = &mut store.rows[at];
        if change.if_revision.is_some_and(|revision| revision != row.session.revision) {
            let Row { key, session, .. } = row.clone();
            return (store, Answer::Stale { session, key });
        }
        // Through a key within its grace nothing moves.
        let renewal = renewal.filter(|(_, former)| former.key == row.key);
        let changed = row.session.apply(change.changes);
        if let Some(seen) = change.seen.filter(|seen| row.session.touch_is_due(*seen)) {
            row.session.seen = seen;
        }
        let Some((to, former)) = renewal else {
            row.session.revision += u64::from(changed);
            let Row { key, session, .. } = row.clone();
            return (
                store,
                match changed {
                    true => Answer::Done { session, key, ended: Vec::new() },
                    false => Answer::Unchanged { session, key },
                },
            );
        };
        row.session.revision += 1;
        let session = row.session.clone();
        self.move_to(&mut store, at, to, former);
        (store, Answer::Done { session, key: to, ended: vec![former.key] })
    }

    fn move_to(self, store: &mut Store, at: usize, to: Number, former: Former) {
        let row = &mut store.rows[at];
        row.key = to;
        let older = row.former.replace(former);
        self.forget(store, older);
    }

    /// Older keys are forgotten, or not.
    fn forget(self, store: &mut Store, older: Option<Former>) {
        if self.moves_in_steps {
            store.left_long_ago.extend(older.map(|former| former.key));
        }
    }

    fn sign_in(self, mut store: Store, found: Found, operation: &Operation) -> Outcomes {
        let Call::SignIn { to, user, begins, changes, limit, .. } = &operation.call else {
            return Vec::new();
        };
        let now = operation.now;
        let from = match found {
            Found::Live(at) => Some(store.rows[at].clone()),
            _ => None,
        };
        let mut ended = Vec::new();
        if let Some((limit, at_limit)) = limit {
            let others = store.rows.iter().filter(|row| {
                let is_it = from.as_ref().is_some_and(|from| from.key == row.key);
                !is_it && row.session.lives(now) && row.session.user == Some(*user)
            });
            let mut others: Vec<_> =
                others.map(|row| (row.session.authenticated, row.key)).collect();
            // Stable: of those that signed in at one time, the one that began first is first.
            others.sort_by_key(|(authenticated, _)| *authenticated);
            let excess = (others.len() + 1).saturating_sub(*limit as usize);
            match at_limit {
                _ if excess == 0 => {}
                AtLimit::Refuse => return vec![(store, Answer::Full)],
                AtLimit::EndOldest => others.truncate(excess),
                AtLimit::EndOthers => {}
            }
            if excess > 0 {
                ended = others.into_iter().map(|(_, key)| key).collect();
            }
            store.end(|row| ended.contains(&row.key));
        }
        let key = *to;
        let Some(from) = from else {
            let mut session = Session::born(begins, now);
            session.apply(changes);
            session.sign_in(*user, begins, now);
            store.rows.push(Row { key, former: None, session: session.clone() });
            return vec![(store, Answer::Done { session, key, ended: sorted(ended) })];
        };
        ended.push(from.key);
        let former = Former { key: from.key, left: now, grace_until: None };
        let at = store.rows.iter().position(|row| row.key == from.key).expect("it is there");
        if from.session.user.is_some_and(|owner| owner != *user) {
            let older = store.rows.remove(at).former;
            self.forget(&mut store, older);
            let mut session = Session::born(begins, now);
            session.apply(changes);
            session.sign_in(*user, begins, now);
            store.rows.push(Row { key, former: Some(former), session: session.clone() });
            return vec![(store, Answer::Done { session, key, ended: sorted(ended) })];
        }
        let session = &mut store.rows[at].session;
        session.apply(changes);
        session.sign_in(*user, begins, now);
        (session.idle, session.absolute) = (begins.idle, begins.absolute);
        session.seen = session.seen.max(now);
        session.revision += 1;
        let session = session.clone();
        self.move_to(&mut store, at, key, former);
        vec![(store, Answer::Done { session, key, ended: sorted(ended) })]
    }
}

struct Merged<'c> {
    changes: &'c [Change],
    if_revision: Option<u64>,
    seen: Option<Moment>,
}

fn agree(said: &Answer, expected: &Answer) -> bool {
    match (said, expected) {
        // Not every store counts whom it has cleared.
        (Answer::RevokedEveryone(None), Answer::RevokedEveryone(_)) => true,
        _ => said == expected,
    }
}

impl Sessions {
    /// Everything that a load may answer.
    fn found(&self, world: &World, load: &Happened) -> Vec<Answer> {
        let answers = |store| {
            let outcomes = self.outcomes(store, &load.operation).into_iter();
            outcomes.map(|(_, answer)| answer).collect::<Vec<Answer>>()
        };
        let mut found = answers(&world.sessions);
        let key = load.operation.call.key().unwrap_or_default();
        let mut is_untold = false;
        for past in world.past.iter().rev() {
            // Whatever the cache has under this key, it has from before it was told of this.
            if past.told.as_ref().is_none_or(|told| told.contains(&key)) {
                let may_be_untold = match self.reads {
                    Reads::Latest => false,
                    Reads::LatestAcknowledged => {
                        past.changed_until > load.start && past.changed_by != load.process
                    }
                    Reads::Within(life) => load.operation.now < past.latest + life,
                };
                if !may_be_untold {
                    break;
                }
                is_untold = true;
            }
            let earlier = answers(&past.sessions).into_iter();
            found.extend(
                earlier.filter(|answer| is_untold && matches!(answer, Answer::Live { .. })),
            );
        }
        found
    }

    /// The keys that the cache is made to forget; none if it is all of them.
    fn told(happened: &Happened) -> Option<Vec<Number>> {
        let asked = happened.operation.call.key().into_iter();
        Some(match &happened.answer {
            Answer::Done { key, ended, .. } => {
                asked.chain([*key]).chain(ended.iter().copied()).collect()
            }
            Answer::Unchanged { key, .. } | Answer::Deleted { key } => {
                asked.chain([*key]).collect()
            }
            Answer::Revoked(keys) => keys.clone(),
            Answer::RevokedEveryone(_) | Answer::Unknown(_) => return None,
            _ => asked.collect(),
        })
    }

    fn after(&self, world: &World, sessions: Store, happened: &Happened) -> World {
        let mut past = world.past.clone();
        if sessions != world.sessions && !matches!(self.reads, Reads::Latest) {
            past.push(Past {
                sessions: world.sessions.clone(),
                changed_by: happened.process,
                changed_until: happened.end,
                told: Self::told(happened),
                latest: happened.latest,
            });
        }
        World { sessions, past }
    }
}

impl Model for Sessions {
    type State = World;
    type Operation = Happened;
    type Answer = Answer;

    fn step(&self, world: &World, happened: &Happened, answer: Option<&Answer>) -> Vec<World> {
        let mut after = self.step_from(world, happened, answer);
        if self.moves_in_steps {
            let mut sooner = world.clone();
            sooner.sessions.end(|row| !row.session.lives(happened.latest));
            if sooner != *world {
                after.extend(self.step_from(&sooner, happened, answer));
            }
        }
        after.dedup();
        after
    }
}

impl Sessions {
    fn step_from(&self, world: &World, happened: &Happened, answer: Option<&Answer>) -> Vec<World> {
        let operation = &happened.operation;
        let agrees = |expected: &Answer| answer.is_none_or(|said| agree(said, expected));
        let lives_on = |(key, end): &(Number, u64)| {
            *end < happened.start && world.sessions.rows.iter().any(|row| row.key == *key)
        };
        if world.sessions.said_to_end.iter().any(lives_on) {
            return Vec::new();
        }
        if let Call::Load { .. } = operation.call {
            let found = self.found(world, happened).iter().any(agrees);
            return found.then(|| world.clone()).into_iter().collect();
        }
        let sessions = world.sessions.clone().without_expired(operation);
        let outcomes = self.outcomes(&sessions, operation).into_iter();
        let agreeing =
            outcomes.filter_map(|(mut store, expected)| match (&operation.call, &expected) {
                (Call::Renew { to, .. }, Answer::Done { key, .. })
                    if self.moves_in_steps && to == key && answer == Some(&Answer::Absent) =>
                {
                    store.said_to_end.push((*to, happened.end));
                    Some((store, expected))
                }
                _ => agrees(&expected).then_some((store, expected)),
            });
        // What has failed half-way has gone no further than that.
        let half_way = Some(&sessions).filter(|half| answer.is_none() && **half != world.sessions);
        let after = agreeing.map(|(store, _)| store).chain(half_way.cloned());
        after.map(|store| self.after(world, store, happened)).collect()
    }
}

impl Sessions {
    /// Whether what happened has an order; if not, how far any goes.
    pub fn judge(&self, history: &[Happened]) -> Result<(), String> {
        let entries = history.iter().map(|happened| Entry {
            operation: happened,
            answer: (!happened.is_open()).then_some(&happened.answer),
            start: happened.start,
            end: happened.end,
        });
        let entries: Vec<_> = entries.collect();
        check(self, World::default(), &entries).map_err(|none| {
            let order: Vec<u64> = none.furthest.iter().map(|at| history[*at].start).collect();
            format!("It has no order. The furthest begins {order:?} and leads to {:#?}", none.state)
        })
    }
}
