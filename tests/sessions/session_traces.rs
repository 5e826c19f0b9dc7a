//! A record of behaviour: 20,000 sequences of calls on two racing requests, with failures of
//! the store and panics, give the same results, headers, events and calls of the store as when
//! `tests/fixtures/session_traces.txt` was written.
//!
//! A difference is a change of behaviour. `CLOAKROOM_TRACES=FILE` writes all traces to a file, to
//! be compared with those of another commit; `CLOAKROOM_TRACES_UPDATE=1` writes the fixture anew.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::NOW;
use crate::common::dice::Dice;
use cloakroom::adapter::{Adapter, Outcome, RequestHead, ResponseHeaders};
use cloakroom::backend::{
    Action, Commit, Committed, Delta, Expected, LiveSession, Loaded, Missing, Record, Store,
    StoreWrapper, Touch, TouchError,
};
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::csrf::CsrfCheck;
use cloakroom::event::{Event, Events, Sink};
use cloakroom::id::{PublicId, SessionIdHash};
use cloakroom::manager::AtLimit;
use cloakroom::session::{CommitOutcome, OnLoadFailure};
use cloakroom::{
    CookieConfig, Error, ErrorKind, Lifetime, MemoryStore, RecentAuth, Result, Session,
    SessionManager, SignIn, UserKey,
};
use sha2::{Digest, Sha256};

const SEQUENCES: u64 = 20_000;
const PER_LINE: u64 = 100;

/// The text of a trace, with numbers in place of random values.
#[derive(Debug, Default)]
struct Trace {
    text: String,
    id_hashes: HashMap<SessionIdHash, usize>,
    public_ids: HashMap<PublicId, usize>,
    cookies: HashMap<String, usize>,
}

fn number<K: std::hash::Hash + Eq>(seen: &mut HashMap<K, usize>, item: K) -> usize {
    let next = seen.len();
    *seen.entry(item).or_insert(next)
}

impl Trace {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn id_hash(&mut self, id_hash: &SessionIdHash) -> String {
        format!("k{}", number(&mut self.id_hashes, *id_hash))
    }

    fn public_id(&mut self, public_id: Option<&PublicId>) -> String {
        public_id.map_or_else(|| "-".into(), |it| format!("h{}", number(&mut self.public_ids, *it)))
    }

    fn record(&mut self, record: &Record) -> String {
        let public_id = self.public_id(Some(&record.public_id));
        let names: Vec<String> = record
            .data
            .iter()
            .map(|(name, value)| match name.starts_with("cloakroom.") {
                true => format!("{name}#{}", value.as_json().matches("\"mark\"").count()),
                false => format!("{name}={}", value.as_json()),
            })
            .collect();
        format!(
            "{public_id} r{} user {:?} seen {} auth {:?} level {} kept {} {names:?}",
            record.revision,
            record.user.as_ref().map(UserKey::as_str),
            record.seen.since(NOW).as_secs(),
            record.authenticated.map(|at| at.since(NOW).as_secs()),
            record.auth_level,
            record.persistent,
        )
    }
}

type Shared<T> = Arc<Mutex<T>>;

/// A store that writes down each call, fails in planned calls, and lets another request run
/// in the midst of one.
#[derive(Debug)]
struct Traced {
    inner: MemoryStore,
    trace: Shared<Trace>,
    plan: Arc<PlannedFaults>,
}

#[derive(Debug, Default)]
struct PlannedFaults {
    faults: Mutex<VecDeque<Fault>>,
    /// The interruption is due before the next call.
    interrupt: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Before(ErrorKind),
    After(ErrorKind),
}

thread_local! {
    static INTERRUPT: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
}

impl Traced {
    fn write(&self, line: impl FnOnce(&mut Trace) -> String) {
        let mut trace = self.trace.lock().unwrap();
        let line = line(&mut trace);
        trace.line(&format!("    {line}"));
    }

    fn call<T>(&self, may_interrupt: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if may_interrupt && self.plan.interrupt.swap(false, Ordering::Relaxed) {
            let interrupt = INTERRUPT.take();
            self.write(|_| "-- in between".into());
            interrupt.into_iter().for_each(|run| run());
            self.write(|_| "-- back".into());
        }
        let fault = self.plan.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let fails = |kind| Error::with_source(kind, "play a store", "as planned");
        match fault {
            Fault::None => work(),
            Fault::Before(kind) => Err(fails(kind)),
            Fault::After(kind) => work().and_then(|_| Err(fails(kind))),
        }
    }
}

fn delta_text(delta: &Delta) -> String {
    let changes: Vec<String> = delta
        .iter()
        .map(|(name, value)| match value {
            _ if name.starts_with("cloakroom.") => format!("{name}:{}", value.is_some()),
            Some(value) => format!("{name}={}", value.as_json()),
            None => format!("-{name}"),
        })
        .collect();
    // A delta once had a user; the recorded texts have the place.
    format!("clear {} user None {changes:?}", delta.is_clear())
}

fn loaded_text(trace: &mut Trace, loaded: &Result<Loaded>) -> String {
    match loaded {
        Ok(Loaded::Live(LiveSession { record, id_hash })) => {
            format!("live {} {}", trace.id_hash(id_hash), trace.record(record))
        }
        Ok(Loaded::Missing(Missing::Replaced { id, session })) => {
            let LiveSession { record, id_hash } = session;
            let (of, record) = (trace.id_hash(&id.id_hash), trace.record(record));
            format!("replaced {of} by {} {record}", trace.id_hash(id_hash))
        }
        Ok(Loaded::Missing(Missing::NotFound { .. })) => "absent".into(),
        Ok(_) => "other".into(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn commit_text(trace: &mut Trace, commit: &Commit) -> String {
    let action = match &commit.action {
        Action::Create(new_session) => format!("create kept {}", new_session.persistent),
        Action::Merge => "merge".into(),
        Action::Renew { to, grace_until, .. } => {
            let grace = grace_until.map(|until| until.since(NOW).as_secs());
            format!("renew to {} grace {grace:?}", trace.id_hash(to))
        }
        Action::SignIn { to, user, new_session, join_salt } => format!(
            "sign in {} to {} kept {} joins {}",
            user.as_str(),
            trace.id_hash(to),
            new_session.persistent,
            join_salt.is_some()
        ),
        Action::End => "delete".into(),
        _ => "other".into(),
    };
    format!(
        "commit {} {action}, {}, if {:?} touch {:?} limit {}",
        trace.id_hash(&commit.id_hash),
        delta_text(&commit.delta),
        match commit.expected {
            Expected::Revision(revision) => Some(revision),
            Expected::NoSession => Some(0),
            _ => None,
        },
        commit.touch.map(|touch| touch.seen.since(NOW).as_secs()),
        commit.session_limit.is_some(),
    )
}

fn committed_text(trace: &mut Trace, committed: &Result<Committed>) -> String {
    match committed {
        Ok(answer @ Committed::Done { session: LiveSession { record, id_hash }, .. }) => {
            let mut retired_ids: Vec<String> =
                answer.former_ids().map(|id_hash| trace.id_hash(&id_hash)).collect();
            retired_ids.sort();
            format!(
                "done {} {} ended {retired_ids:?}",
                trace.id_hash(id_hash),
                trace.record(record)
            )
        }
        Ok(Committed::Unchanged(LiveSession { record, id_hash })) => {
            format!("unchanged {} {}", trace.id_hash(id_hash), trace.record(record))
        }
        Ok(Committed::Ended(ended)) => format!("deleted {}", trace.id_hash(&ended.id_hash)),
        Ok(Committed::RevisionMismatch(LiveSession { record, id_hash })) => {
            format!("stale {} {}", trace.id_hash(id_hash), trace.record(record))
        }
        Ok(
            Committed::CanJoin { id, session }
            | Committed::Missing(Missing::Replaced { id, session }),
        ) => {
            let of = trace.id_hash(&id.id_hash);
            format!("replaced {of} by {}", trace.id_hash(&session.id_hash))
        }
        Ok(Committed::Missing(Missing::NotFound { .. })) => "gone".into(),
        Ok(Committed::LimitReached) => "full".into(),
        Ok(_) => "other".into(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

impl StoreWrapper for Traced {
    type Wrapped = MemoryStore;

    fn wrapped(&self) -> &MemoryStore {
        &self.inner
    }

    fn on_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        let loaded = self.call(true, || self.inner.load(id_hash, now));
        self.write(|trace| {
            format!("load {}: {}", trace.id_hash(id_hash), loaded_text(trace, &loaded))
        });
        loaded
    }

    fn on_try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.inner.try_load(id_hash, now)
    }

    fn on_commit(&self, commit: &Commit) -> Result<Committed> {
        self.write(|trace| commit_text(trace, commit));
        // A deletion blocks other requests until it is done.
        let may_interrupt = !matches!(commit.action, Action::End);
        let committed = self.call(may_interrupt, || self.inner.commit(commit));
        self.write(|trace| format!("  {}", committed_text(trace, &committed)));
        committed
    }

    fn on_touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        let touched = self.call(true, || Ok(self.inner.touch(batch, now)?));
        for (id_hash, touch) in batch {
            let (seen, done) = (touch.seen.since(NOW).as_secs(), touched.is_ok());
            self.write(|trace| format!("touch {} {seen}: {done}", trace.id_hash(id_hash)));
        }
        Ok(touched?)
    }
}

#[derive(Debug)]
struct TracedEvents(Shared<Trace>);

impl Sink for TracedEvents {
    fn record(&self, event: &Event<'_>) {
        let mut trace = self.0.lock().unwrap();
        let text = match event {
            Event::Created { public_id } => format!("created {}", trace.public_id(Some(public_id))),
            Event::Renewed { public_id } => format!("renewed {}", trace.public_id(Some(public_id))),
            Event::SignedIn { public_id, user, .. } => {
                format!("signed in {} {}", trace.public_id(Some(public_id)), user.as_str())
            }
            Event::SignInRefused { user } => format!("refused {}", user.as_str()),
            Event::Ended { public_id, user, reason, by, .. } => {
                let [user, by] = [user, by].map(|user| user.map(UserKey::as_str));
                format!("ended {} {user:?} {reason:?} by {by:?}", trace.public_id(*public_id))
            }
            Event::Revoked { sessions, .. } => format!("revoked {sessions}"),
            Event::ChangesDiscarded { public_id } => {
                format!("discarded {}", trace.public_id(*public_id))
            }
            Event::SessionNotClosed { public_id } => {
                format!("dropped {}", trace.public_id(*public_id))
            }
            Event::ReplacedIdUsed { public_id, .. } => {
                format!("replaced id {}", trace.public_id(Some(public_id)))
            }
            Event::MalformedId { .. } => "malformed".into(),
            Event::UnknownId { .. } => "unknown".into(),
            Event::IdGuessing { count, .. } => format!("guessing {count}"),
            Event::TouchFailed { error, .. } => format!("touch failed {:?}", error.kind()),
            Event::TreatedAsAnonymous { error } => format!("anonymous {:?}", error.kind()),
            Event::WrongType { public_id, .. } => {
                format!("wrong type {}", trace.public_id(*public_id))
            }
            _ => "other".into(),
        };
        trace.line(&format!("    ! {text}"));
    }
}

/// A visitor's browser, the site, and what was seen of both.
struct TracedSite {
    sessions: SessionManager,
    clock: ManualClock,
    trace: Shared<Trace>,
    plan: Arc<PlannedFaults>,
    /// All that were ever sent, the latest last.
    cookies: Mutex<Vec<String>>,
    tokens: Mutex<Vec<String>>,
    public_ids: Mutex<Vec<PublicId>>,
}

/// One of the two requests.
struct Request {
    name: char,
    session: Session,
    is_closed: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Get,
    Keys,
    Set,
    Remove,
    Take,
    Clear,
    Update,
    UpdateToNaN,
    UpdatePanics,
    UpdateWrongType,
    UpdateNow,
    Token,
    Verify,
    Flash,
    Flashes,
    SignIn,
    SignInAsAnother,
    User,
    PublicId,
    RecentAuth,
    SetPersistent,
    Renew,
    Destroy,
    Ignore,
    Commit,
    IsChanged,
    RevokeAll,
    RevokeOne,
    RevokeOthers,
    Close,
}

/// The relative frequencies of the operations.
const OPS: &[(Op, usize)] = &[
    (Op::Get, 6),
    (Op::Keys, 1),
    (Op::Set, 7),
    (Op::Remove, 2),
    (Op::Take, 2),
    (Op::Clear, 2),
    (Op::Update, 6),
    (Op::UpdateToNaN, 1),
    (Op::UpdatePanics, 1),
    (Op::UpdateWrongType, 1),
    (Op::UpdateNow, 3),
    (Op::Token, 5),
    (Op::Verify, 3),
    (Op::Flash, 3),
    (Op::Flashes, 3),
    (Op::SignIn, 6),
    (Op::SignInAsAnother, 3),
    (Op::User, 3),
    (Op::PublicId, 1),
    (Op::RecentAuth, 1),
    (Op::SetPersistent, 2),
    (Op::Renew, 5),
    (Op::Destroy, 5),
    (Op::Ignore, 2),
    (Op::Commit, 6),
    (Op::IsChanged, 2),
    (Op::RevokeAll, 1),
    (Op::RevokeOne, 1),
    (Op::RevokeOthers, 1),
    (Op::Close, 2),
];

fn any_op(dice: &mut Dice) -> Op {
    let mut at = dice.roll(OPS.iter().map(|(_, weight)| weight).sum());
    for (op, weight) in OPS {
        match at.checked_sub(*weight) {
            None => return *op,
            Some(left) => at = left,
        }
    }
    unreachable!()
}

fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

fn said<T>(result: Result<T>, text: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => text(value),
        Err(error) => format!("{:?}", error.kind()),
    }
}

impl TracedSite {
    fn new(dice: &mut Dice) -> TracedSite {
        let trace = Shared::<Trace>::default();
        let plan = Arc::new(PlannedFaults::default());
        let clock = ManualClock::new(NOW);
        let store = Traced { inner: MemoryStore::new(), trace: trace.clone(), plan: plan.clone() };
        let mut builder = SessionManager::builder(store)
            .clock(clock.clone())
            .events(Events::new(TracedEvents(trace.clone())))
            .anonymous_lifetime(Lifetime::default())
            .without_cleaner();
        if dice.chance(30) {
            builder = builder.renewal_grace(Duration::from_secs(10));
        }
        if dice.chance(20) {
            builder = builder.on_load_failure(OnLoadFailure::TreatAsAnonymous);
        }
        if dice.chance(20) {
            builder = builder.keep_on_server_error(true);
        }
        if dice.chance(20) {
            builder = builder.end_session_on_replaced_id(true);
        }
        if dice.chance(30) {
            let at_limit = [AtLimit::Refuse, AtLimit::EndOldest, AtLimit::EndOthers][dice.roll(3)];
            builder = builder.max_sessions_per_user(NonZeroU32::MIN, at_limit);
        }
        if dice.chance(20) {
            builder = builder.no_store_when_signed_in(true).clear_site_data(true);
        }
        match dice.roll(10) {
            0 => builder = builder.header("X-Session"),
            1 => {
                builder =
                    builder.cookie(CookieConfig::new().name("__Host-sid")).former_cookie_name("old")
            }
            2 => builder = builder.max_bytes(300),
            _ => {}
        }
        TracedSite {
            sessions: builder.build().unwrap(),
            clock,
            trace,
            plan,
            cookies: Mutex::default(),
            tokens: Mutex::default(),
            public_ids: Mutex::default(),
        }
    }

    fn write(&self, line: &str) {
        self.trace.lock().unwrap().line(line);
    }

    fn open(&self, name: char, dice: &mut Dice) -> Request {
        let cookies = self.cookies.lock().unwrap();
        let mut presented = Vec::new();
        if dice.chance(92) {
            presented.extend(cookies.last().cloned());
        }
        if dice.chance(15) && !cookies.is_empty() {
            presented.insert(0, cookies[dice.roll(cookies.len())].clone());
        }
        if dice.chance(4) {
            presented.push("__Host-id=garbage".into());
        }
        drop(cookies);
        let is_prefetch = dice.chance(5);
        let is_header = Adapter::new(&self.sessions).header_names().any(|name| name == "X-Session");
        let mut head = RequestHead::new();
        if is_prefetch {
            head = head.purpose("prefetch");
        }
        for value in &presented {
            head = if is_header { head.id(value) } else { head.cookie(value) };
        }
        let mut names = Vec::new();
        for value in &presented {
            names.push(number(&mut self.trace.lock().unwrap().cookies, value.clone()));
        }
        self.write(&format!("{name} opens with {names:?} prefetch {is_prefetch}"));
        Request { name, session: self.sessions.open(head), is_closed: AtomicBool::new(false) }
    }

    fn headers(&self, headers: &ResponseHeaders) -> String {
        let mut text = String::new();
        let mut cookies = self.cookies.lock().unwrap();
        for (name, value) in &headers.id_fields {
            let (pair, attributes) = value.split_once(';').unwrap_or((value, ""));
            let is_id = pair.len() > 40;
            if is_id {
                let seen = &mut self.trace.lock().unwrap().cookies;
                let _ = write!(text, "{name}: c{}{attributes}|", number(seen, pair.to_owned()));
                cookies.push(pair.to_owned());
            } else {
                let _ = write!(text, "{name}: {value}|");
            }
        }
        let _ = write!(
            text,
            "vary {:?} discarded {} no-store {} clear {}",
            headers.vary_on, headers.discarded, headers.no_store, headers.clear_site_data
        );
        text
    }

    fn close(&self, request: &Request, outcome: Outcome) -> String {
        request.is_closed.store(true, Ordering::Relaxed);
        match self.sessions.close(&request.session, outcome) {
            Ok(headers) => self.headers(&headers),
            Err(error) => {
                let headers = Adapter::new(&self.sessions).headers_on_error(&request.session);
                format!("{:?}, {}", error.kind(), self.headers(&headers))
            }
        }
    }

    /// One call, as it is written down.
    fn run(&self, request: &Request, op: Op, roll: usize) -> String {
        let session = &request.session;
        let name = ["a", "b", "c"][roll % 3];
        let any = |item: &dyn std::fmt::Debug| format!("{item:?}");
        match op {
            Op::Get => said(session.get::<u64>(name), |it| any(&it)),
            Op::Keys => said(session.keys(), |it| any(&it)),
            Op::Set => said(session.set(name, roll as u64), |it| any(&it)),
            Op::Remove => said(session.remove(name), |it| any(&it)),
            Op::Take => said(session.take::<u64>(name), |it| any(&it)),
            Op::Clear => said(session.clear(), |it| any(&it)),
            Op::Update => {
                let by = roll as u64;
                let update = move |now: Option<u64>| now.unwrap_or(0).wrapping_mul(3) + by;
                said(session.update(name, update), |it| any(&it))
            }
            Op::UpdateToNaN => said(session.update(name, |_: Option<f64>| f64::NAN), |it| any(&it)),
            Op::UpdatePanics => {
                said(session.update(name, |_: Option<u64>| -> u64 { panic!("planned") }), |it| {
                    any(&it)
                })
            }
            Op::UpdateWrongType => {
                said(session.update(name, |_: Option<String>| "text".to_owned()), |it| any(&it))
            }
            Op::UpdateNow => {
                let update = |now: Option<u64>| now.unwrap_or(0) / 2 + 1;
                said(session.update_now(name, update), |it| any(&it))
            }
            Op::Token => said(session.csrf_token(), |token| {
                self.tokens.lock().unwrap().push(token);
                "token".into()
            }),
            Op::Verify => {
                let token = self.tokens.lock().unwrap().iter().rev().nth(roll % 3).cloned();
                let token = token.as_deref().unwrap_or("none");
                said(session.verify_csrf(token), |it| any(&(it == CsrfCheck::Valid)))
            }
            Op::Flash => said(session.flash("info", format!("{roll}")), |it| any(&it)),
            Op::Flashes => said(session.flashes(), |flashes| {
                any(&flashes.iter().map(|flash| flash.text.clone()).collect::<Vec<_>>())
            }),
            Op::SignIn => said(session.sign_in(user("ada")), |it| any(&(it == SignIn::Done))),
            Op::SignInAsAnother => {
                said(session.sign_in(user("bob")), |it| any(&(it == SignIn::Done)))
            }
            Op::User => said(session.user(), |it| any(&it.as_ref().map(UserKey::as_str))),
            Op::PublicId => said(session.public_id(), |public_id| {
                self.public_ids.lock().unwrap().extend(public_id);
                self.trace.lock().unwrap().public_id(public_id.as_ref())
            }),
            Op::RecentAuth => {
                let age = Duration::from_secs(300);
                said(session.require_recent_auth(age), |it| any(&(it == RecentAuth::Recent)))
            }
            Op::SetPersistent => {
                said(session.set_persistent(roll.is_multiple_of(2)), |it| any(&it))
            }
            Op::Renew => said(session.renew(), |it| any(&it)),
            Op::Destroy => said(session.destroy(), |it| any(&it)),
            Op::Ignore => said(session.ignore(), |it| any(&it)),
            Op::Commit => said(session.commit(), |it| any(&(it == CommitOutcome::Stored))),
            Op::IsChanged => any(&session.is_changed()),
            Op::RevokeAll => {
                said(self.sessions.revoke_all(&user("ada"), Some(session)), |it| any(&it))
            }
            Op::RevokeOne => {
                let public_id = self.public_ids.lock().unwrap().last().copied();
                match public_id {
                    Some(public_id) => {
                        said(self.sessions.revoke(&user("ada"), &public_id, Some(session)), |it| {
                            any(&it)
                        })
                    }
                    None => "no handle".into(),
                }
            }
            Op::RevokeOthers => said(self.sessions.revoke_others(session), |it| any(&it)),
            Op::Close => {
                let outcome =
                    [Outcome::Completed, Outcome::ServerError, Outcome::Panicked][roll % 3];
                self.close(request, outcome)
            }
        }
    }

    fn step(&self, request: &Request, op: Op, roll: usize) {
        let done = catch_unwind(AssertUnwindSafe(|| self.run(request, op, roll)));
        let done = done.unwrap_or_else(|_| "panic".into());
        self.write(&format!("{} {op:?} {roll}: {done}", request.name));
    }
}

/// The faults of the store in the next calls.
fn faults(dice: &mut Dice) -> VecDeque<Fault> {
    let kinds = [ErrorKind::Busy, ErrorKind::Unavailable, ErrorKind::Full];
    let fault = |dice: &mut Dice| match dice.roll(4) {
        0 | 1 => Fault::None,
        2 => Fault::Before(kinds[dice.roll(3)]),
        _ => Fault::After(kinds[dice.roll(3)]),
    };
    (0..1 + dice.roll(3)).map(|_| fault(dice)).collect()
}

fn advance(site: &TracedSite, dice: &mut Dice) {
    let seconds = [1, 5, 11, 61, 601, 3_000, 40_000, 90_000][dice.roll(8)];
    site.clock.advance(Duration::from_secs(seconds));
    site.write(&format!("{seconds} s later"));
}

/// One sequence from its first request to what is left of it.
fn trace(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let site = Arc::new(TracedSite::new(&mut dice));
    for _ in 0..dice.roll(3) {
        let request = site.open('-', &mut dice);
        for _ in 0..1 + dice.roll(2) {
            let op = [Op::Set, Op::SignIn, Op::Token, Op::Renew, Op::Flash][dice.roll(5)];
            site.step(&request, op, dice.roll(100));
        }
        site.step(&request, Op::Close, 0);
        if dice.chance(30) {
            advance(&site, &mut dice);
        }
    }
    let requests: Arc<Vec<Request>> =
        Arc::new(['A', 'B'].iter().map(|name| site.open(*name, &mut dice)).collect());
    for _ in 0..4 + dice.roll(10) {
        if dice.chance(10) {
            advance(&site, &mut dice);
        }
        if dice.chance(12) {
            *site.plan.faults.lock().unwrap() = faults(&mut dice);
        }
        let at = dice.roll(2);
        let (op, roll) = (any_op(&mut dice), dice.roll(100));
        if dice.chance(25) {
            let (other, roll) = (any_op(&mut dice), dice.roll(100));
            let (site, requests) = (site.clone(), requests.clone());
            INTERRUPT.set(Some(Box::new(move || site.step(&requests[1 - at], other, roll))));
        }
        site.plan.interrupt.store(INTERRUPT.with_borrow(Option::is_some), Ordering::Relaxed);
        site.step(&requests[at], op, roll);
        site.plan.interrupt.store(false, Ordering::Relaxed);
        INTERRUPT.set(None);
    }
    let first = dice.roll(2);
    for at in [first, 1 - first] {
        if dice.chance(8) {
            *site.plan.faults.lock().unwrap() = faults(&mut dice);
        }
        // Some are dropped, and some are used after their end.
        if dice.chance(95) {
            site.step(&requests[at], Op::Close, [0, 0, 0, 1, 2][dice.roll(5)]);
        }
        if dice.chance(20) {
            site.step(&requests[at], any_op(&mut dice), dice.roll(100));
        }
    }
    drop(requests);
    site.plan.faults.lock().unwrap().clear();
    for _ in 0..2 {
        let request = site.open('z', &mut dice);
        for op in [Op::User, Op::Keys, Op::Flashes, Op::Close] {
            site.step(&request, op, 0);
        }
    }
    std::mem::take(&mut site.trace.lock().unwrap().text)
}

#[test]
fn sessions_do_what_they_did_when_recorded() {
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"planned") {
            eprintln!("{info}");
        }
    }));
    if let Some(seed) = crate::common::dice::number("CLOAKROOM_SEED") {
        println!("{}", trace(seed));
        return;
    }
    let mut all = std::env::var_os("CLOAKROOM_TRACES")
        .map(|path| std::io::BufWriter::new(std::fs::File::create(path).unwrap()));
    let mut lines = Vec::new();
    for line in 0..SEQUENCES / PER_LINE {
        let mut hash = Sha256::new();
        for seed in line * PER_LINE..(line + 1) * PER_LINE {
            let text = trace(seed);
            if let Some(file) = &mut all {
                std::io::Write::write_all(file, format!("== {seed}\n{text}").as_bytes()).unwrap();
            }
            hash.update(text.as_bytes());
        }
        let digest = hash.finalize();
        lines.push(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    drop(all);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/session_traces.txt");
    if std::env::var_os("CLOAKROOM_TRACES_UPDATE").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    let differ: Vec<usize> = recorded
        .lines()
        .zip(&lines)
        .enumerate()
        .filter_map(|(at, (then, now))| (then != now).then_some(at))
        .collect();
    assert_eq!(recorded.lines().count(), lines.len());
    assert!(
        differ.is_empty(),
        "the sequences from {} on differ, in {} of {} hundreds",
        differ[0] * usize::try_from(PER_LINE).unwrap(),
        differ.len(),
        lines.len()
    );
}
