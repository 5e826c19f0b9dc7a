//! A sequential model of sessions, written from the documentation and not from the code of the
//! crate that decides it.

use super::checker::{HistoryEntry, Model, check};
use super::operations::{
    Answer, AtMaximum, Call, Change, Filter, InitialFields, Millis, Number, Operation,
    RecordedOperation, Session, UserSession,
};

/// The time for which a replaced id hash is remembered, after the later of its replacement and the
/// end of its grace.
const REMEMBERED_FOR: Millis = 600_000;

/// The maximum number of remembered replaced id hashes of a session.
const MAX_REPLACED_IDS: usize = 8;

/// A request that came within this time after its id was replaced overlaps the replacement.
const OVERLAPS_FOR: Millis = 10_000;

/// A touch is due after this share of the idle limit.
const TOUCHES_PER_IDLE_LIMIT: Millis = 40;

/// The sessions of a store.
#[derive(Clone, Copy, Debug)]
pub struct SessionModel {
    /// Whether a session gets a new id in several steps, as in memcached. A renewal can then store
    /// the session under the new id, and answer that it has ended, because another request ended it
    /// before the last step. A sign-in on an expired session first removes that and then begins
    /// another; in between, a request whose time is before the deadline finds neither.
    pub moves_in_steps: bool,
    /// Whether a sweep first lists the expired sessions and then removes them. One that an operation
    /// with an earlier time renews in between is left to the next sweep.
    pub sweeps_in_two_steps: bool,
    pub reads: Reads,
}

impl SessionModel {
    /// Those of SQLite.
    pub const PLAIN: SessionModel =
        SessionModel { moves_in_steps: false, sweeps_in_two_steps: false, reads: Reads::Latest };
}

/// The states that a load may read.
#[derive(Clone, Copy, Debug)]
pub enum Reads {
    /// The stored one.
    Latest,
    /// Also what was stored before changes in flight of other processes: an operation may have seen
    /// those by then, and may even have ended a session at the new id that one of them has given
    /// it.
    LatestAcknowledged,
    /// Also what was stored, at the latest, so long before: another process could not invalidate
    /// the cache.
    Within(Millis),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelState {
    sessions: Store,
    /// Earlier states, the last at the end; only where a load may read them.
    past: Vec<Past>,
}

/// The state before a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Past {
    sessions: Store,
    changed_by: usize,
    changed_until: u64,
    /// The ids that the cache was made to invalidate by then; all if none are named.
    invalidated: Option<Vec<Number>>,
    /// The latest time that any operation had been given until then.
    latest: Millis,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    /// In the order in which they began.
    rows: Vec<Row>,
    /// After these stamps no session may have these ids: its renewal has answered that it ended.
    reported_ended: Vec<(Number, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    id_hash: Number,
    /// The latest ids it had, the oldest first.
    replaced: Vec<Replaced>,
    session: Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Replaced {
    id_hash: Number,
    to: Number,
    at: Millis,
    grace_until: Option<Millis>,
    by: By,
    had_user: bool,
}

impl Replaced {
    fn remembered_until(&self) -> Millis {
        self.at.max(self.grace_until.unwrap_or(self.at)) + REMEMBERED_FOR
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Renewal,
    /// Another sign-in that presents the same id can join it.
    SignIn,
    /// A sign-in that presented an id which had been replaced before: this is remembered of that id
    /// from now on. A sign-in of another user begins a new session.
    SignInAgain {
        new_session: bool,
    },
    /// The current id of that session, which the sign-in replaced without its being presented.
    SignInByReplacedId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Live(usize),
    Expired(usize),
    Replaced(usize, Replaced),
    Nothing,
}

impl Session {
    fn deadline(&self) -> Millis {
        let idle = self.idle.map_or(Millis::MAX, |idle| self.seen + idle);
        idle.min(self.absolute.unwrap_or(Millis::MAX))
    }

    fn is_live(&self, now: Millis) -> bool {
        now < self.deadline()
    }

    fn new(initial: &InitialFields, now: Millis) -> Session {
        Session {
            public_id: initial.public_id,
            user: None,
            idp_session_id: initial.idp_session_id,
            level: initial.level,
            created: now,
            authenticated: None,
            seen: now,
            idle: initial.idle,
            absolute: initial.absolute,
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
                Change::Confirm(at, level) if self.user.is_some() => {
                    (self.authenticated, self.level) = (Some(*at), *level);
                }
                Change::Confirm(..) => {}
            }
        }
        *self != before
    }

    fn sign_in(&mut self, user: Number, initial: &InitialFields, now: Millis) {
        (self.user, self.authenticated, self.level) = (Some(user), Some(now), initial.level);
        self.idp_session_id = initial.idp_session_id.or(self.idp_session_id);
    }

    fn touch_is_due(&self, seen: Millis) -> bool {
        let passed = |idle| seen - self.seen >= idle / TOUCHES_PER_IDLE_LIMIT;
        seen > self.seen && self.idle.is_some_and(passed)
    }

    fn matches(&self, filter: &Filter) -> bool {
        match filter {
            Filter::All => true,
            Filter::User(user) => self.user == Some(*user),
            Filter::PublicId(public_id) => self.public_id == *public_id,
            Filter::OfUser(user, public_id) => {
                self.user == Some(*user) && self.public_id == *public_id
            }
            Filter::IdpSession(id) => self.idp_session_id == Some(*id),
        }
    }
}

type Outcomes = Vec<(Store, Answer)>;

impl Store {
    /// Looks `id_hash` up.
    fn find(&self, id_hash: Number, now: Millis) -> Found {
        let at = |index: usize| match self.rows[index].session.is_live(now) {
            true => Found::Live(index),
            false => Found::Expired(index),
        };
        if let Some(index) = self.rows.iter().position(|row| row.id_hash == id_hash) {
            return at(index);
        }
        let was =
            |row: &Row| row.replaced.iter().find(|replaced| replaced.id_hash == id_hash).copied();
        let rows = self.rows.iter().enumerate();
        let Some((index, replaced)) = rows.filter_map(|(at, row)| Some((at, was(row)?))).next()
        else {
            return Found::Nothing;
        };
        let is_in_grace = replaced.grace_until.is_some_and(|until| now < until);
        match at(index) {
            found if is_in_grace => found,
            _ if now >= replaced.remembered_until() => Found::Nothing,
            Found::Live(at) => Found::Replaced(at, replaced),
            expired => expired,
        }
    }

    fn move_to(&mut self, at: usize, replaced_id: Replaced) {
        let row = &mut self.rows[at];
        row.id_hash = replaced_id.to;
        for replaced in &mut row.replaced {
            let Some(until) = replaced.grace_until else { continue };
            replaced.grace_until = replaced_id.grace_until.map(|limit| until.min(limit));
            if replaced.grace_until.is_none() {
                replaced.at = until.min(replaced_id.at).max(replaced.at);
            }
        }
        row.replaced.retain(|replaced| replaced.id_hash != replaced_id.id_hash);
        row.replaced.push(replaced_id);
        let excess = row.replaced.len().saturating_sub(MAX_REPLACED_IDS);
        row.replaced.drain(..excess);
    }

    fn end(&mut self, mut which: impl FnMut(&Row) -> bool) -> Vec<Number> {
        let ended = self.rows.iter().filter(|row| which(row)).map(|row| row.id_hash).collect();
        self.rows.retain(|row| !which(row));
        sorted(ended)
    }

    fn is_taken(&self, id_hash: Number) -> bool {
        let had = |row: &Row| row.replaced.iter().any(|replaced| replaced.id_hash == id_hash);
        self.rows.iter().any(|row| row.id_hash == id_hash || had(row))
    }

    /// An operation that ends sessions removes the expired ones too, without naming them: a write
    /// that has waited since before the deadline must not find them any more.
    fn without_expired(mut self, operation: &Operation) -> Store {
        let now = operation.now;
        let (id_hash, which) = match &operation.call {
            Call::Delete { id_hash } => (Some(*id_hash), None),
            Call::SignIn { id_hash, user, limit, .. } => {
                (Some(*id_hash), limit.map(|_| Filter::User(*user)))
            }
            Call::Revoke(filter) => (None, Some(*filter)),
            _ => return self,
        };
        let found = id_hash.map(|id_hash| self.find(id_hash, now));
        let found = match found {
            Some(Found::Expired(at)) => Some(self.rows[at].id_hash),
            _ => None,
        };
        let is_meant = |row: &Row| which.is_some_and(|filter| row.session.matches(&filter));
        self.end(|row| !row.session.is_live(now) && (Some(row.id_hash) == found || is_meant(row)));
        self
    }
}

fn sorted(mut numbers: Vec<Number>) -> Vec<Number> {
    numbers.sort_unstable();
    numbers
}

impl SessionModel {
    /// Everything that the operation may do and answer, as states and answers.
    fn outcomes(self, store: &Store, operation: &Operation) -> Outcomes {
        let now = operation.now;
        let each = |store: &Store, id_hash: Number, then: &dyn Fn(Store, Found) -> Outcomes| {
            let found = store.find(id_hash, now);
            let mut outcomes = then(store.clone(), found);
            // Until the new memory of the id is stored, it leads to a session that no longer exists.
            if let Found::Replaced(_, Replaced { by: By::SignInAgain { new_session: true }, .. }) =
                found
                && self.moves_in_steps
            {
                outcomes.extend(then(store.clone(), Found::Nothing));
            }
            outcomes
        };
        match &operation.call {
            Call::Load { id_hash } => each(store, *id_hash, &|store, found| {
                let answer = match found {
                    Found::Live(at) => {
                        let Row { id_hash, session, .. } = store.rows[at].clone();
                        Answer::Live { session, id_hash }
                    }
                    Found::Replaced(at, _) => Answer::Replaced { id_hash: store.rows[at].id_hash },
                    Found::Expired(_) | Found::Nothing => Answer::NotFound,
                };
                vec![(store, answer)]
            }),
            Call::Create { id_hash, initial, changes } => {
                let mut store = store.clone();
                if store.is_taken(*id_hash) {
                    return Vec::new();
                }
                let mut session = Session::new(initial, now);
                session.apply(changes);
                store.rows.push(Row {
                    id_hash: *id_hash,
                    replaced: Vec::new(),
                    session: session.clone(),
                });
                vec![(store, Answer::Done { session, id_hash: *id_hash, retired_ids: Vec::new() })]
            }
            Call::Merge { id_hash, changes, if_revision, seen } => {
                each(store, *id_hash, &|store, found| {
                    let change = MergeChange { changes, if_revision: *if_revision, seen: *seen };
                    vec![self.merge(store, found, &change, None)]
                })
            }
            Call::Renew { id_hash, to, grace_until, changes } => {
                each(store, *id_hash, &|store, found| {
                    let change = MergeChange { changes, if_revision: None, seen: None };
                    let (id_hash, to, grace_until) = (*id_hash, *to, *grace_until);
                    // The lookup determines whether it had a user.
                    let (by, had_user) = (By::Renewal, false);
                    let replaced_id = Replaced { id_hash, to, at: now, grace_until, by, had_user };
                    vec![self.merge(store, found, &change, Some(replaced_id))]
                })
            }
            Call::SignIn { id_hash, .. } => {
                each(store, *id_hash, &|store, found| self.sign_in(store, found, operation))
            }
            Call::Delete { id_hash } => each(store, *id_hash, &|mut store, found| {
                let answer = match found {
                    Found::Live(at) | Found::Replaced(at, _) => {
                        Answer::Deleted { id_hash: store.rows.remove(at).id_hash }
                    }
                    Found::Expired(_) | Found::Nothing => Answer::NotFound,
                };
                vec![(store, answer)]
            }),
            Call::Touch { id_hash, seen } => each(store, *id_hash, &|mut store, found| {
                if let Found::Live(at) = found {
                    let session = &mut store.rows[at].session;
                    session.seen = session.seen.max(*seen);
                }
                vec![(store, Answer::Ok)]
            }),
            Call::Sweep => {
                let mut stores = vec![(store.clone(), 0)];
                for row in store.rows.iter().filter(|row| !row.session.is_live(now)) {
                    let mut without = stores.clone();
                    for (store, swept) in &mut without {
                        *swept += store.end(|other| other.id_hash == row.id_hash).len();
                    }
                    match self.sweeps_in_two_steps {
                        true => stores.extend(without),
                        false => stores = without,
                    }
                }
                stores.into_iter().map(|(store, swept)| (store, Answer::Swept(swept))).collect()
            }
            Call::List(filter) => {
                let rows = store.rows.iter().rev().map(|row| &row.session);
                let rows = rows.filter(|session| session.is_live(now) && session.matches(filter));
                let list = rows.map(|session| {
                    let Session { public_id, user, seen, .. } = *session;
                    UserSession { public_id, user, seen }
                });
                vec![(store.clone(), Answer::List(list.collect()))]
            }
            Call::Revoke(filter) => {
                let mut store = store.clone();
                let revoked =
                    store.end(|row| row.session.is_live(now) && row.session.matches(filter));
                vec![(store, Answer::Revoked(revoked))]
            }
            Call::RevokeEveryone => {
                let live = store.rows.iter().filter(|row| row.session.is_live(now)).count();
                let empty = Store { rows: Vec::new(), ..store.clone() };
                vec![(empty, Answer::RevokedEveryone(Some(live as u64)))]
            }
            Call::Stats => {
                let (live, expired): (Vec<&Row>, Vec<&Row>) =
                    store.rows.iter().partition(|row| row.session.is_live(now));
                let signed_in = live.iter().filter(|row| row.session.user.is_some()).count() as u64;
                let (live, expired) = (live.len() as u64, expired.len() as u64);
                vec![(store.clone(), Answer::Counts { live, expired, signed_in })]
            }
            Call::LoseAll => vec![(Store::default(), Answer::Ok)],
        }
    }

    fn merge(
        self,
        mut store: Store,
        found: Found,
        change: &MergeChange<'_>,
        renewal: Option<Replaced>,
    ) -> (Store, Answer) {
        let at = match found {
            Found::Live(at) => at,
            Found::Replaced(at, _) => {
                let id_hash = store.rows[at].id_hash;
                return (store, Answer::Replaced { id_hash });
            }
            Found::Expired(_) | Found::Nothing => return (store, Answer::NotFound),
        };
        let row = &mut store.rows[at];
        if change.if_revision.is_some_and(|revision| revision != row.session.revision) {
            let Row { id_hash, session, .. } = row.clone();
            return (store, Answer::Stale { session, id_hash });
        }
        // Through an id within its grace nothing moves.
        let had_user = row.session.user.is_some();
        let renewal = renewal.filter(|replaced_id| replaced_id.id_hash == row.id_hash);
        let renewal = renewal.map(|replaced_id| Replaced { had_user, ..replaced_id });
        let changed = row.session.apply(change.changes);
        if let Some(seen) = change.seen.filter(|seen| row.session.touch_is_due(*seen)) {
            row.session.seen = seen;
        }
        let Some(replaced_id) = renewal else {
            row.session.revision += u64::from(changed);
            let Row { id_hash, session, .. } = row.clone();
            return (
                store,
                match changed {
                    true => Answer::Done { session, id_hash, retired_ids: Vec::new() },
                    false => Answer::Unchanged { session, id_hash },
                },
            );
        };
        row.session.revision += 1;
        let session = row.session.clone();
        store.move_to(at, replaced_id);
        (
            store,
            Answer::Done {
                session,
                id_hash: replaced_id.to,
                retired_ids: vec![replaced_id.id_hash],
            },
        )
    }

    fn sign_in(self, store: Store, found: Found, operation: &Operation) -> Outcomes {
        let Call::SignIn { user, initial, .. } = &operation.call else { return Vec::new() };
        let (from, replaced) = match found {
            Found::Live(at) => (Some(store.rows[at].clone()), None),
            Found::Replaced(at, replaced) => (Some(store.rows[at].clone()), Some(replaced)),
            _ => (None, None),
        };
        // Memcached stores the new memory of an id in a step of its own, which can fail: then the
        // former one remains.
        let may_be_as_before = self.moves_in_steps
            && replaced.is_some_and(|it| matches!(it.by, By::SignInAgain { .. }));
        let mut outcomes = Vec::new();
        if let (Some(row), Some(replaced)) = (&from, replaced)
            && row.session.user == Some(*user)
            && matches!(replaced.by, By::SignIn | By::SignInAgain { .. })
            && replaced.to == row.id_hash
            && operation.now <= replaced.at + OVERLAPS_FOR
            && claims_the_same(initial, &row.session)
        {
            let id_hash = row.id_hash;
            outcomes.push((store.clone(), Answer::Replaced { id_hash }));
            if !may_be_as_before {
                return outcomes;
            }
        }
        // A session that got another user only when the id was replaced is another client's.
        let is_others = |row: &Row| row.session.user.is_some() && row.session.user != Some(*user);
        let is_found = |had_user: bool| from.clone().filter(|row| !is_others(row) || had_user);
        let had_user = replaced.is_none_or(|replaced| replaced.had_user);
        outcomes.extend(self.sign_in_from(store.clone(), is_found(had_user), operation));
        if may_be_as_before {
            outcomes.extend(self.sign_in_from(store, is_found(!had_user), operation));
        }
        outcomes
    }

    fn sign_in_from(self, mut store: Store, from: Option<Row>, operation: &Operation) -> Outcomes {
        let Call::SignIn { id_hash: presented_id, to, user, initial, changes, limit } =
            &operation.call
        else {
            return Vec::new();
        };
        let now = operation.now;
        let is_others = |row: &Row| row.session.user.is_some() && row.session.user != Some(*user);
        let mut retired_ids = Vec::new();
        if let Some((limit, at_maximum)) = limit {
            let others = store.rows.iter().filter(|row| {
                let is_it = from.as_ref().is_some_and(|from| from.id_hash == row.id_hash);
                !is_it && row.session.is_live(now) && row.session.user == Some(*user)
            });
            let mut others: Vec<_> =
                others.map(|row| (row.session.authenticated, row.id_hash)).collect();
            // Stable: of those that signed in at one time, the one that began first is first.
            others.sort_by_key(|(authenticated, _)| *authenticated);
            let excess = (others.len() + 1).saturating_sub(*limit as usize);
            match at_maximum {
                _ if excess == 0 => {}
                AtMaximum::Refuse => return vec![(store, Answer::Full)],
                AtMaximum::EndOldest => others.truncate(excess),
                AtMaximum::EndOthers => {}
            }
            if excess > 0 {
                retired_ids = others.into_iter().map(|(_, id_hash)| id_hash).collect();
            }
            store.end(|row| retired_ids.contains(&row.id_hash));
        }
        let id_hash = *to;
        let Some(from) = from else {
            let mut session = Session::new(initial, now);
            session.apply(changes);
            session.sign_in(*user, initial, now);
            store.rows.push(Row { id_hash, replaced: Vec::new(), session: session.clone() });
            return vec![(
                store,
                Answer::Done { session, id_hash, retired_ids: sorted(retired_ids) },
            )];
        };
        retired_ids.push(from.id_hash);
        let had_user = from.session.user.is_some();
        let replaced_by = |id_hash: Number, by| Replaced {
            id_hash,
            to: *to,
            at: now,
            grace_until: None,
            by,
            had_user,
        };
        let (current, presented) = match from.id_hash == *presented_id {
            true => (replaced_by(from.id_hash, By::SignIn), None),
            false => {
                let current = replaced_by(from.id_hash, By::SignInByReplacedId);
                let by = By::SignInAgain { new_session: is_others(&from) };
                (current, Some(replaced_by(*presented_id, by)))
            }
        };
        let at =
            store.rows.iter().position(|row| row.id_hash == from.id_hash).expect("it is there");
        if is_others(&from) {
            store.rows.remove(at);
            let mut session = Session::new(initial, now);
            session.apply(changes);
            session.sign_in(*user, initial, now);
            let replaced = vec![presented.unwrap_or(current)];
            store.rows.push(Row { id_hash, replaced, session: session.clone() });
            return vec![(
                store,
                Answer::Done { session, id_hash, retired_ids: sorted(retired_ids) },
            )];
        }
        let session = &mut store.rows[at].session;
        session.apply(changes);
        session.sign_in(*user, initial, now);
        (session.idle, session.absolute) = (initial.idle, initial.absolute);
        session.seen = session.seen.max(now);
        session.revision += 1;
        let session = session.clone();
        store.move_to(at, current);
        if let Some(presented) = presented {
            store.move_to(at, presented);
        }
        vec![(store, Answer::Done { session, id_hash, retired_ids: sorted(retired_ids) })]
    }
}

/// A sign-in joins one that said the same of its user. Their idle limits may differ.
fn claims_the_same(initial: &InitialFields, session: &Session) -> bool {
    let end = |absolute: Option<Millis>| absolute.unwrap_or(Millis::MAX);
    initial.level == session.level
        && (initial.idp_session_id.is_none() || initial.idp_session_id == session.idp_session_id)
        && end(initial.absolute).saturating_add(OVERLAPS_FOR) >= end(session.absolute)
}

struct MergeChange<'c> {
    changes: &'c [Change],
    if_revision: Option<u64>,
    seen: Option<Millis>,
}

fn answers_match(given: &Answer, expected: &Answer) -> bool {
    match (given, expected) {
        // Not every store counts the sessions that it clears.
        (Answer::RevokedEveryone(None), Answer::RevokedEveryone(_)) => true,
        _ => given == expected,
    }
}

impl SessionModel {
    /// All answers that a load may give.
    fn found(&self, world: &ModelState, load: &RecordedOperation) -> Vec<Answer> {
        let answers = |store| {
            let outcomes = self.outcomes(store, &load.operation).into_iter();
            outcomes.map(|(_, answer)| answer).collect::<Vec<Answer>>()
        };
        let mut found = answers(&world.sessions);
        let id_hash = load.operation.call.id_hash().unwrap_or_default();
        let mut lacks_invalidation = false;
        for past in world.past.iter().rev() {
            // The cache has nothing under this id that is older than this invalidation.
            if past.invalidated.as_ref().is_none_or(|invalidated| invalidated.contains(&id_hash)) {
                let may_lack_invalidation = match self.reads {
                    Reads::Latest => false,
                    Reads::LatestAcknowledged => {
                        past.changed_until > load.start && past.changed_by != load.process
                    }
                    Reads::Within(life) => load.operation.now < past.latest + life,
                };
                if !may_lack_invalidation {
                    break;
                }
                lacks_invalidation = true;
            }
            let earlier = answers(&past.sessions).into_iter();
            found.extend(
                earlier
                    .filter(|answer| lacks_invalidation && matches!(answer, Answer::Live { .. })),
            );
        }
        found
    }

    /// The ids that the cache is made to invalidate; none if it is all of them.
    fn invalidated(recorded: &RecordedOperation) -> Option<Vec<Number>> {
        let asked = recorded.operation.call.id_hash().into_iter();
        Some(match &recorded.answer {
            Answer::Done { id_hash, retired_ids, .. } => {
                asked.chain([*id_hash]).chain(retired_ids.iter().copied()).collect()
            }
            Answer::Unchanged { id_hash, .. } | Answer::Deleted { id_hash } => {
                asked.chain([*id_hash]).collect()
            }
            Answer::Revoked(id_hashes) => id_hashes.clone(),
            Answer::RevokedEveryone(_) | Answer::Unknown(_) => return None,
            _ => asked.collect(),
        })
    }

    fn after(
        &self,
        world: &ModelState,
        sessions: Store,
        recorded: &RecordedOperation,
    ) -> ModelState {
        let mut past = world.past.clone();
        if sessions != world.sessions && !matches!(self.reads, Reads::Latest) {
            past.push(Past {
                sessions: world.sessions.clone(),
                changed_by: recorded.process,
                changed_until: recorded.end,
                invalidated: Self::invalidated(recorded),
                latest: recorded.latest,
            });
        }
        ModelState { sessions, past }
    }
}

impl Model for SessionModel {
    type State = ModelState;
    type Operation = RecordedOperation;
    type Answer = Answer;

    fn step(
        &self,
        world: &ModelState,
        recorded: &RecordedOperation,
        answer: Option<&Answer>,
    ) -> Vec<ModelState> {
        let mut after = self.step_from(world, recorded, answer);
        if self.moves_in_steps {
            let mut without_expired = world.clone();
            without_expired.sessions.end(|row| !row.session.is_live(recorded.latest));
            if without_expired != *world {
                after.extend(self.step_from(&without_expired, recorded, answer));
            }
        }
        // A store forgets replaced ids for good, and a delayed call may have an earlier time.
        let mut without_forgotten = world.clone();
        for row in &mut without_forgotten.sessions.rows {
            row.replaced.retain(|replaced| recorded.latest < replaced.remembered_until());
        }
        if without_forgotten != *world {
            after.extend(self.step_from(&without_forgotten, recorded, answer));
        }
        after.dedup();
        after
    }
}

impl SessionModel {
    fn step_from(
        &self,
        world: &ModelState,
        recorded: &RecordedOperation,
        answer: Option<&Answer>,
    ) -> Vec<ModelState> {
        let operation = &recorded.operation;
        let agrees = |expected: &Answer| answer.is_none_or(|given| answers_match(given, expected));
        let is_still_there = |(id_hash, end): &(Number, u64)| {
            *end < recorded.start && world.sessions.rows.iter().any(|row| row.id_hash == *id_hash)
        };
        if world.sessions.reported_ended.iter().any(is_still_there) {
            return Vec::new();
        }
        if let Call::Load { .. } = operation.call {
            let found = self.found(world, recorded).iter().any(agrees);
            return found.then(|| world.clone()).into_iter().collect();
        }
        let sessions = world.sessions.clone().without_expired(operation);
        if let Some(Answer::NothingDone(_)) = answer {
            // It may have removed expired sessions.
            return vec![world.clone(), self.after(world, sessions, recorded)];
        }
        let outcomes = self.outcomes(&sessions, operation).into_iter();
        let agreeing =
            outcomes.filter_map(|(mut store, expected)| match (&operation.call, &expected) {
                (Call::Renew { to, .. }, Answer::Done { id_hash, .. })
                    if self.moves_in_steps
                        && to == id_hash
                        && answer == Some(&Answer::NotFound) =>
                {
                    store.reported_ended.push((*to, recorded.end));
                    Some((store, expected))
                }
                _ => agrees(&expected).then_some((store, expected)),
            });
        // An operation that failed may have removed the expired sessions, and done nothing else.
        let removed_expired =
            Some(&sessions).filter(|sessions| answer.is_none() && **sessions != world.sessions);
        let after = agreeing.map(|(store, _)| store).chain(removed_expired.cloned());
        after.map(|store| self.after(world, store, recorded)).collect()
    }
}

impl SessionModel {
    /// Checks that the history has an order; the error shows the longest order of a part of it.
    pub fn check_history(&self, history: &[RecordedOperation]) -> Result<(), String> {
        let entries = history.iter().map(|recorded| HistoryEntry {
            operation: recorded,
            answer: (!recorded.has_unknown_outcome()).then_some(&recorded.answer),
            start: recorded.start,
            end: recorded.end,
        });
        let entries: Vec<_> = entries.collect();
        check(self, ModelState::default(), &entries).map_err(|none| {
            let order: Vec<u64> = none.furthest.iter().map(|at| history[*at].start).collect();
            format!("It has no order. The furthest begins {order:?} and leads to {:#?}", none.state)
        })
    }
}
