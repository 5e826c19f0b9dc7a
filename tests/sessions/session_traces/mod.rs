//! Random sequences of calls on two racing requests, with failures of the store and panics.
//!
//! `tests/fixtures/session_traces.txt` has 203 of them as text, with the results, headers, events
//! and calls of the store: a difference is a change of behaviour. They contain every kind of line
//! that 20,000 sequences gave. `CLOAKROOM_TRACES_UPDATE=1` writes their texts anew, and `git diff`
//! shows what has changed. Further sequences are different in each run, and the invariants are
//! checked. `CLOAKROOM_TRACES=n` says how many; `CLOAKROOM_SEED=n` repeats a run.

mod invariants;
mod trace;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::adapter::{Adapter, Outcome, RequestHead, ResponseHeaders};
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Loaded, Store, StoreWrapper, Touch, TouchError,
};
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::event::{Event, Events, Sink};
use cloakroom::id::{PublicId, SessionIdHash};
use cloakroom::lifetime::AtMaximum;
use cloakroom::manager::OnLoadFailure;
use cloakroom::{
    CookieConfig, Error, ErrorKind, Flash, Lifetime, MemoryStore, Result, Session, SessionManager,
};
use invariants::Invariants;
use trace::{Trace, carries_id};

use crate::common::NOW;
use crate::common::app::user;
use crate::common::dice::{self, Dice};

type Shared<T> = Arc<Mutex<T>>;

/// A store that writes down and checks each call, fails in planned calls, and lets another request
/// run in the midst of one.
#[derive(Debug)]
struct Traced {
    inner: MemoryStore,
    trace: Shared<Trace>,
    invariants: Shared<Invariants>,
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
            self.write(|_| "in between:".into());
            interrupt.into_iter().for_each(|run| run());
            self.write(|_| "and then".into());
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

impl StoreWrapper for Traced {
    type Wrapped = MemoryStore;

    fn wrapped(&self) -> &MemoryStore {
        &self.inner
    }

    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        let loaded = self.call(true, || {
            let loaded = self.inner.load(id_hash, now);
            self.invariants.lock().unwrap().loaded(&loaded);
            loaded
        });
        self.write(|trace| format!("load {}: {}", trace.id_hash(id_hash), trace.loaded(&loaded)));
        loaded
    }

    fn wrap_try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.inner.try_load(id_hash, now)
    }

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.write(|trace| trace.commit(commit));
        self.invariants.lock().unwrap().commit(commit);
        // Ends and sign-ins block a request that finds no session until they are done. On this
        // thread it would wait for ever.
        let may_interrupt = !matches!(commit.action, Action::End | Action::SignIn { .. });
        let answer = self.call(may_interrupt, || {
            let answer = self.inner.commit(commit);
            self.invariants.lock().unwrap().committed(commit, &answer);
            answer
        });
        self.invariants.lock().unwrap().acknowledged(&answer);
        self.write(|trace| format!("  {}", trace.answer(&answer)));
        answer
    }

    fn wrap_touch(
        &self,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<(), TouchError> {
        let touched = self.call(true, || Ok(self.inner.touch(batch, now)?));
        for (id_hash, touch) in batch {
            let (seen, done) = (touch.seen.since(NOW).as_secs(), touched.is_ok());
            self.write(|trace| format!("touch {} {seen}: {done}", trace.id_hash(id_hash)));
        }
        Ok(touched?)
    }
}

/// Writes down and checks the events.
#[derive(Debug)]
struct TracedEvents(Shared<Trace>, Shared<Invariants>);

impl Sink for TracedEvents {
    fn record(&self, event: &Event<'_>) {
        let mut trace = self.0.lock().unwrap();
        let text = trace.event(event);
        trace.line(&format!("    {text}"));
        self.1.lock().unwrap().event(event);
    }
}

/// A visitor's browser, the site, and what was seen of both.
struct TracedSite {
    sessions: SessionManager,
    clock: ManualClock,
    trace: Shared<Trace>,
    invariants: Shared<Invariants>,
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
    Names,
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
    (Op::Names, 1),
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

impl Op {
    /// Whether the call may store changes of an open request.
    fn may_commit(self) -> bool {
        use Op::*;
        matches!(self, Token | SignIn | SignInAsAnother | UpdateNow | Commit | Close)
    }

    fn ends_sessions(self) -> bool {
        matches!(self, Op::Destroy | Op::RevokeAll | Op::RevokeOne | Op::RevokeOthers)
    }
}

impl TracedSite {
    fn new(dice: &mut Dice) -> TracedSite {
        let trace = Shared::<Trace>::default();
        let plan = Arc::new(PlannedFaults::default());
        let clock = ManualClock::new(NOW);
        let invariants = Shared::<Invariants>::default();
        let store = Traced {
            inner: MemoryStore::new(),
            trace: trace.clone(),
            invariants: invariants.clone(),
            plan: plan.clone(),
        };
        let mut builder = SessionManager::builder(store)
            .clock(clock.clone())
            .events(Events::new(TracedEvents(trace.clone(), invariants.clone())))
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
            let at_maximum =
                [AtMaximum::Refuse, AtMaximum::EndOldest, AtMaximum::EndOthers][dice.roll(3)];
            builder = builder.max_sessions_per_user(NonZeroU32::MIN, at_maximum);
        }
        if dice.chance(20) {
            builder = builder.no_store_when_signed_in(true).clear_site_data(true);
        }
        match dice.roll(10) {
            0 => builder = builder.header("X-Session"),
            1 => {
                let cookie = CookieConfig::new().name("__Host-sid");
                builder = builder.cookie(cookie).realm("old").former_cookie_name("old");
            }
            2 => builder = builder.max_bytes(300),
            _ => {}
        }
        TracedSite {
            sessions: builder.build().unwrap(),
            clock,
            trace,
            invariants,
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
        let ids: Vec<String> = {
            let mut trace = self.trace.lock().unwrap();
            presented.iter().map(|value| trace.cookie(value)).collect()
        };
        let prefetches = if is_prefetch { ", prefetches" } else { "" };
        self.write(&format!("{name} opens with [{}]{prefetches}", ids.join(", ")));
        self.invariants.lock().unwrap().open(name);
        Request { name, session: self.sessions.open(head), is_closed: AtomicBool::new(false) }
    }

    fn headers(&self, headers: &ResponseHeaders) -> String {
        let pairs = headers.id_fields.iter().map(|(_, value)| value.split(';').next().unwrap());
        let ids = pairs.filter(|pair| carries_id(pair)).map(str::to_owned);
        self.cookies.lock().unwrap().extend(ids);
        self.invariants.lock().unwrap().headers(headers);
        self.trace.lock().unwrap().headers(headers)
    }

    fn close(&self, request: &Request, outcome: Outcome) -> String {
        request.is_closed.store(true, Ordering::Relaxed);
        match self.sessions.close(&request.session, outcome) {
            Ok(headers) => self.headers(&headers),
            Err(error) => {
                let headers = Adapter::new(&self.sessions).headers_on_error(&request.session);
                format!("{}; {}", self.failed(&error), self.headers(&headers))
            }
        }
    }

    fn failed(&self, error: &Error) -> String {
        self.invariants.lock().unwrap().error(error);
        format!("{:?}", error.kind())
    }

    fn result<T: Debug>(&self, result: Result<T>) -> String {
        result.map_or_else(|error| self.failed(&error), |value| format!("{value:?}"))
    }

    /// Makes one call, and returns its result as it is written down.
    fn run(&self, request: &Request, op: Op, roll: usize) -> String {
        let (sessions, session) = (&self.sessions, &request.session);
        let name = ["a", "b", "c"][roll % 3];
        let number = roll as u64;
        match op {
            Op::Get => self.result(session.get::<u64>(name)),
            Op::Names => self.result(session.names()),
            Op::Set => self.result(session.set(name, number)),
            Op::Remove => self.result(session.remove(name)),
            Op::Take => self.result(session.take::<u64>(name)),
            Op::Clear => self.result(session.clear()),
            Op::Update => {
                let update = move |now: Option<u64>| now.unwrap_or(0).wrapping_mul(3) + number;
                self.result(session.update(name, update))
            }
            Op::UpdateToNaN => self.result(session.update(name, |_: Option<f64>| f64::NAN)),
            Op::UpdatePanics => {
                self.result(session.update(name, |_: Option<u64>| -> u64 { panic!("planned") }))
            }
            Op::UpdateWrongType => {
                self.result(session.update(name, |_: Option<String>| "text".to_owned()))
            }
            Op::UpdateNow => {
                let update = |now: Option<u64>| now.unwrap_or(0) / 2 + 1;
                self.result(session.update_now(name, update))
            }
            Op::Token => {
                let token = session.csrf_token();
                self.tokens.lock().unwrap().extend(token.as_ref().ok().cloned());
                self.result(token.map(drop))
            }
            Op::Verify => {
                let token = self.tokens.lock().unwrap().iter().rev().nth(roll % 3).cloned();
                self.result(session.verify_csrf(token.as_deref().unwrap_or("none")))
            }
            Op::Flash => self.result(session.flash("info", format!("{roll}"))),
            Op::Flashes => {
                let texts = |flashes: Vec<Flash>| flashes.into_iter().map(|flash| flash.text);
                self.result(session.flashes().map(|flashes| texts(flashes).collect::<Vec<_>>()))
            }
            Op::SignIn => self.result(session.sign_in(user("ada"))),
            Op::SignInAsAnother => self.result(session.sign_in(user("bob"))),
            Op::User => {
                self.result(session.user().map(|user| user.map(|it| it.as_str().to_owned())))
            }
            Op::PublicId => session.public_id().map_or_else(
                |error| self.failed(&error),
                |public_id| {
                    self.public_ids.lock().unwrap().extend(public_id);
                    self.trace.lock().unwrap().public_id(public_id.as_ref())
                },
            ),
            Op::RecentAuth => self.result(session.recent_auth(Duration::from_secs(300))),
            Op::SetPersistent => self.result(session.set_persistent(roll.is_multiple_of(2))),
            Op::Renew => self.result(session.renew()),
            Op::Destroy => self.result(session.destroy()),
            Op::Ignore => self.result(session.ignore()),
            Op::Commit => self.result(session.commit()),
            Op::IsChanged => session.is_changed().to_string(),
            Op::RevokeAll => self.result(sessions.revoke_for_user(&user("ada"), Some(session))),
            Op::RevokeOne => {
                let public_id = self.public_ids.lock().unwrap().last().copied();
                let revoke = |public_id| sessions.revoke(&user("ada"), &public_id, Some(session));
                public_id.map_or("no public id".into(), |public_id| self.result(revoke(public_id)))
            }
            Op::RevokeOthers => self.result(sessions.revoke_others(session)),
            Op::Close => {
                let outcomes = [Outcome::Completed, Outcome::ServerError, Outcome::Panicked];
                self.close(request, outcomes[roll % 3])
            }
        }
    }

    fn step(&self, request: &Request, op: Op, roll: usize) {
        let may_commit = op.may_commit() && !request.is_closed.load(Ordering::Relaxed);
        self.invariants.lock().unwrap().begin_call(request.name, may_commit, op.ends_sessions());
        let done = catch_unwind(AssertUnwindSafe(|| self.run(request, op, roll)));
        let done = done.unwrap_or_else(|_| "panic".into());
        self.invariants.lock().unwrap().end_call();
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

/// Runs one sequence, from its first request to what is left of it. Returns its text, and the
/// violations of invariants.
fn run_sequence(seed: u64) -> (String, Vec<String>) {
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
        for op in [Op::User, Op::Names, Op::Flashes, Op::Close] {
            site.step(&request, op, 0);
        }
    }
    let violations = std::mem::take(&mut site.invariants.lock().unwrap().violations);
    let text = std::mem::take(&mut site.trace.lock().unwrap().text);
    (text, violations)
}

/// Hides the planned panics of the sequences.
fn hide_planned_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"planned") {
            before(info);
        }
    }));
}

#[test]
fn sessions_do_what_they_did_when_recorded() {
    hide_planned_panics();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/session_traces.txt");
    let recorded = std::fs::read_to_string(&path).unwrap();
    let mut all = String::new();
    let mut first_difference = None;
    for sequence in recorded.split("sequence ").skip(1) {
        let (seed, before) = sequence.split_once('\n').unwrap();
        let (now, violations) = run_sequence(seed.parse().unwrap());
        assert!(violations.is_empty(), "sequence {seed}: {violations:#?}\n{now}");
        if before.trim_end() != now.trim_end() && first_difference.is_none() {
            first_difference = Some(format!("sequence {seed} was\n{before}\nand is\n{now}"));
        }
        all.push_str(&format!("sequence {seed}\n{now}\n"));
    }
    if std::env::var_os("CLOAKROOM_TRACES_UPDATE").is_some() {
        std::fs::write(&path, all).unwrap();
    } else if let Some(difference) = first_difference {
        panic!("{difference}");
    }
}

#[test]
fn random_sequences_break_no_invariant() {
    hide_planned_panics();
    let mut dice = Dice::new(dice::seed());
    for _ in 0..dice::number("CLOAKROOM_TRACES").unwrap_or(1_000) {
        let seed = dice.next();
        let (text, violations) = run_sequence(seed);
        assert!(violations.is_empty(), "sequence {seed}: {violations:#?}\n{text}");
    }
}
