//! The session of one request: read lazily, changed in memory, committed at the end.

mod authentication;
mod changes;
mod commit;
mod context;
mod csrf_secret;
mod guess_detector;
mod last_used;
mod load;
mod recently_ended;
mod running_update;
mod sign_in;
mod update_queue;
mod values;

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError, TryLockError};

use crate::backend::LiveSession;
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::http::{HostText, RequestHead};
use crate::id::{PublicId, SessionId, SessionIdHash, UserKey};
use crate::record::{Client, Record};
use crate::sync::{Mutex, MutexGuard};
use changes::Changes;
use last_used::SessionNumber;
use load::{Absence, NOTHING, Replaced};
use recently_ended::Moment;
use running_update::Updating;

pub use authentication::{Authentication, RecentAuth};
pub use context::{BlockingHook, OnLoadFailure};
pub(crate) use context::{Context, FormerCookie, Presented, Settings, Transport, run_blocking};
pub(crate) use guess_detector::GuessDetector;
pub(crate) use recently_ended::RecentlyEnded;
pub(crate) use update_queue::UpdateQueues;

/// A request begins on this thread, for which no session is open. Until one is, calls of the
/// manager on this thread are those of no session.
#[allow(dead_code)] // only where threads change between requests half-way, and that is a feature
pub(crate) fn begin_request() {
    SessionNumber::forget_here();
}

/// The session of one request.
///
/// Nothing happens until it is used. The first read loads it; changes are collected and merged
/// into what is stored then, in one step, when the manager closes it: a request changes what it
/// changed and nothing else. Until something is written there is no session and no cookie.
///
/// Activity counts from the first use, however long the request takes after it. A request that only
/// writes is sure to keep its session alive from its first write on where the store has the session
/// in memory, else from when its changes are stored.
///
/// It can be shared by threads; it is not meant to outlive its request. Dropped without being
/// closed it stores nothing and ends nothing, of which an [event](Event::Dropped) tells.
pub struct Session {
    context: Arc<Context>,
    blocking_hook: Option<BlockingHook>,
    presented: Presented,
    /// When the request came, among the endings of this process, and by the clock.
    opened: Moment,
    opened_at: Timestamp,
    number: SessionNumber,
    /// The host, if a browser would drop a cookie sent to it and nobody was told yet.
    insecure_host: Option<HostText>,
    address: Option<IpAddr>,
    /// The browser fetches the page in advance.
    prefetch: bool,
    /// The client, if it is to be kept.
    client: Option<Client>,
    state: Mutex<State>,
    /// None before the first update: a session that is not used allocates nothing.
    updating: OnceLock<Updating>,
}

#[derive(Debug, Default)]
struct State {
    known: LoadState,
    changes: Changes,
    renew: bool,
    /// What the handler decided about the browser's keeping of a session that begins.
    persistent: Option<bool>,
    /// The key under which the session was found: one in its grace may have led to it.
    found_by: Option<SessionIdHash>,
    /// Sessions to end, because the handler said so.
    to_end: Vec<SessionIdHash>,
    /// Sessions to end, because a sign-in left them behind: it stands, whatever comes after it.
    left_behind: Vec<SessionIdHash>,
    destroyed: bool,
    /// One of them was ended.
    ended: bool,
    ignored: bool,
    /// What is committed is merged into a session that another request has just signed in to.
    joins: bool,
    /// An id that the client does not have yet.
    issued: Option<SessionId>,
    /// The id of the session that begins, or is signed in to, where a form secret follows from it.
    next_id: Option<SessionId>,
    /// The session was ended, or its id replaced, while this request wanted to change it.
    lost: bool,
    /// Changes were lost at any time in this request.
    discarded: bool,
    /// No session was found while deletions were in flight. Whether one of them has ended it is
    /// asked when something is to be stored.
    in_doubt: bool,
    /// The store failed, and the policy is to go on without a session.
    unreadable: Option<Error>,
    /// The response depends on the session.
    looked_at: bool,
    /// When the request first used its session.
    used: Option<Timestamp>,
    /// The endings of this process that are known not to be its own.
    endings_seen: Moment,
    /// Somebody was signed in to a session that this request has seen.
    saw_user: bool,
    /// The page was given a form token.
    gave_token: bool,
    closed: bool,
}

impl State {
    fn has_changes(&self) -> bool {
        self.renew || !self.changes.delta().is_empty()
    }

    /// There is no session from now on, because this request has ended it.
    fn start_over(&mut self) {
        self.forget();
        self.looked_at = true;
        self.destroyed = true;
        self.ignored = false;
        self.changes = Changes::default();
        self.renew = false;
        self.issued = None;
        self.next_id = None;
        self.lost = false;
        self.in_doubt = false;
        self.unreadable = None;
    }

    /// The changes are stored in this session.
    fn changed(&mut self, session: LiveSession) {
        self.known = LoadState::Live(session);
        self.changes = Changes::default();
    }

    /// No session is known from now on.
    fn forget(&mut self) {
        self.saw_user = self.has_seen_user();
        self.known = NOTHING;
    }

    fn has_seen_user(&self) -> bool {
        self.saw_user || self.known.live().is_some_and(|session| session.record.user.is_some())
    }

    /// Where the session was read as empty, nothing can be changed.
    fn check_readable(&self, operation: &'static str) -> Result<()> {
        match &self.unreadable {
            Some(error) => {
                Err(Error::with_source(ErrorKind::Unavailable, operation, error.clone()))
            }
            None => Ok(()),
        }
    }
}

/// What this request knows of its session.
#[derive(Debug, Default)]
#[allow(clippy::large_enum_variant)] // it is in place, once a request
enum LoadState {
    #[default]
    Unread,
    Live(LiveSession),
    None(Absence),
}

impl LoadState {
    fn live(&self) -> Option<&LiveSession> {
        match self {
            LoadState::Live(session) => Some(session),
            LoadState::Unread | LoadState::None(_) => None,
        }
    }

    fn public_id(&self) -> Option<PublicId> {
        self.live().map(|session| session.record.public_id)
    }

    fn data(&self) -> Option<&Data> {
        self.live().map(|session| &session.record.data)
    }
}

/// What became of a [`Session::sign_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum SignIn {
    /// The user is signed in.
    Done,
    /// The user has as many sessions as allowed, and nothing was changed.
    Refused,
}

/// What became of the changes at a [`Session::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum CommitOutcome {
    /// They are stored, or there were none.
    Stored,
    /// The session had ended, or had been renewed, before they could be stored.
    Discarded,
}

impl Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// What was not stored is lost. It is raised while a thread panics too: a panic that leaves out
/// [`close`](crate::SessionManager::close) leaves a sign-out undone, which no line of the panic's
/// own says.
impl Drop for Session {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let done = state.closed || state.ignored;
        if !done && (state.has_changes() || !state.to_end.is_empty() || state.issued.is_some()) {
            self.context.dropped(state.known.public_id().as_ref());
        }
    }
}

impl Session {
    /// No I/O; and without a cookie no allocation.
    pub(crate) fn new(
        context: Arc<Context>,
        blocking_hook: Option<BlockingHook>,
        head: &RequestHead<'_>,
    ) -> Self {
        let presented = context.settings.presented(head);
        let address = head.client_address(context.settings.proxies);
        if let Some(hash) = presented.malformed {
            context.events.raise(&Event::MalformedId { address });
            context.count_guess(address, hash);
        }
        if presented.too_many {
            context.events.raise(&Event::TooManyIds { address });
        }
        let client = context.settings.client(head, address);
        let insecure_host = context.insecure_host(head).map(HostText::new);
        let opened = context.recently_ended.now();
        let number = SessionNumber::new();
        number.use_here();
        // Nothing depends on it where no id was presented.
        let opened_at = match presented.is_empty() {
            true => Timestamp::MAX,
            false => context.now(),
        };
        Session {
            context,
            blocking_hook,
            presented,
            opened,
            opened_at,
            number,
            insecure_host,
            address,
            prefetch: head.prefetch,
            client,
            state: Mutex::new(State { endings_seen: opened, ..State::default() }),
            updating: OnceLock::new(),
        }
    }

    /// Whether it is a session of this manager for a request that presents the same ids.
    pub(crate) fn is_of(&self, context: &Arc<Context>, head: &RequestHead<'_>) -> bool {
        let presented = || context.settings.presented(head);
        Arc::ptr_eq(&self.context, context) && presented().keys().eq(self.presented.keys())
    }

    /// Whether the browser fetches the page in advance, and may never show it.
    pub(crate) fn is_prefetch(&self) -> bool {
        self.prefetch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of the application's own Serialize leaves the state as it was before the call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless this thread holds it already, in the midst of an update.
    fn lock(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(state)) => Ok(state.into_inner()),
            Err(TryLockError::WouldBlock) => {
                self.check_not_updating(operation)?;
                Ok(self.state())
            }
        }
    }

    /// Refuses what a closure of [`update`](Self::update) does with its own session.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] on the thread on which such a closure runs.
    pub(crate) fn check_not_updating(&self, operation: &'static str) -> Result<()> {
        match self.updating.get().is_some_and(Updating::is_on_this_thread) {
            true => {
                let why = "the closure of an update must not use its own session";
                Err(Error::with_source(ErrorKind::Invalid, operation, why))
            }
            false => Ok(()),
        }
    }

    /// Makes a call that may block.
    fn run_blocking<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        run_blocking(self.blocking_hook, call)
    }

    /// The state for a change, if changes are possible.
    fn writable(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock(operation)?;
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, operation));
        }
        self.follow_own_revocation(&mut state);
        state.check_readable(operation)?;
        state.looked_at = true;
        if state.used.is_none() {
            let now = self.context.now();
            state.used = Some(now);
            if matches!(state.known, LoadState::Unread) && !state.ignored {
                self.context.touch_unread(self.blocking_hook, &self.presented, now);
            }
        }
        Ok(state)
    }

    /// Who is signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn user(&self) -> Result<Option<UserKey>> {
        self.about(|record| record.user.clone()).map(Option::flatten)
    }

    /// When the user last signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn authenticated_at(&self) -> Result<Option<Timestamp>> {
        self.about(|record| record.authenticated).map(Option::flatten)
    }

    /// The public name of the session, for pages and logs; `None` if there is none yet.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn public_id(&self) -> Result<Option<PublicId>> {
        self.about(|record| record.public_id)
    }

    /// How strongly the user is authenticated, as the sign-in said; 0 if it did not, or if nobody is
    /// signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn auth_level(&self) -> Result<u16> {
        self.about(|record| record.auth_level).map(Option::unwrap_or_default)
    }

    /// Who is signed in, and the handle of their session.
    pub(crate) fn who(&self) -> Result<Option<(UserKey, PublicId)>> {
        let who = |record: &Record| record.user.clone().map(|user| (user, record.public_id));
        self.about(who).map(Option::flatten)
    }

    fn about<T>(&self, ask: impl FnOnce(&Record) -> T) -> Result<Option<T>> {
        let mut state = self.lock("look at a session")?;
        Ok(self.read(&mut state)?.live().map(|session| ask(&session.record)))
    }

    /// Whether the browser keeps the cookie of a session that begins with this request, or signs
    /// in with it, after it is closed: "remember me". Sessions under way keep what they have.
    /// Defaults to the manager's setting.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request. [`ErrorKind::Invalid`] after
    /// [`sign_in`](Self::sign_in), and after [`commit`](Self::commit) has begun a session: it comes
    /// too late to count then.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        const OPERATION: &str = "choose how long the cookie lives";
        let mut state = self.writable(OPERATION)?;
        if state.issued.is_some() {
            let why = "the session has begun or was signed in to already: choose before that";
            return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
        }
        state.persistent = Some(persistent);
        Ok(())
    }

    /// Gives the session a new id at the end of this request, with everything else as it is. The
    /// old id is dead then, but for the grace of the manager's settings. Without a session nothing
    /// happens, unless something is written; nor through an id that was renewed already, nor where
    /// the session has got a new id by this request, as by [`sign_in`](Self::sign_in).
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn renew(&self) -> Result<()> {
        let mut state = self.writable("renew the session")?;
        state.renew = state.issued.is_none();
        Ok(())
    }

    /// Ends the session for good, under every id that this request presented. From now on it is
    /// empty: a later write in this request begins a new, anonymous session.
    ///
    /// It is done at the end of the request, also when the handler fails or panics, or has asked to
    /// [`ignore`](Self::ignore) the session before. An id that another request has replaced in the
    /// last ten minutes, by a renewal or a sign-in, ends the session too. The response removes the
    /// cookie, whatever the id has led to.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn destroy(&self) -> Result<()> {
        const DESTROY: &str = "destroy the session";
        let mut state = self.lock(DESTROY)?;
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, DESTROY));
        }
        let current = state.known.live().map(|session| session.id_hash);
        state.to_end.extend(current);
        for id_hash in self.presented.keys() {
            if !state.to_end.contains(&id_hash) {
                state.to_end.push(id_hash);
            }
        }
        state.start_over();
        Ok(())
    }

    /// Goes on as after [`destroy`](Self::destroy) where this request has ended its session by a
    /// call of the manager.
    fn follow_own_revocation(&self, state: &mut State) {
        self.number.use_here();
        let now = self.context.recently_ended.now();
        let seen = std::mem::replace(&mut state.endings_seen, now);
        if seen == now || state.closed {
            return;
        }
        let current = state.known.live().map(|session| session.id_hash);
        let recently_ended = &self.context.recently_ended;
        let is_own =
            |id_hash: SessionIdHash| recently_ended.was_revoked_by(&id_hash, self.number, seen);
        if current.into_iter().chain(self.presented.keys()).any(is_own) {
            state.start_over();
            state.ended = true;
        }
    }

    /// Whether this request has changes that are not stored yet. A change to what is there already
    /// counts too, and so does an update whose closure asks.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self.lock("look at a session") {
            Ok(state) => !state.closed && state.has_changes(),
            Err(_) => true,
        }
    }

    /// Leaves the session as it was before this request, whatever was changed, and sends no
    /// cookie. What [`commit`](Self::commit) and [`sign_in`](Self::sign_in) did stands.
    ///
    /// An ignored request is no activity. Call this first: within ten minutes of the end of the idle
    /// limit, a session that was read before counts as used.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn ignore(&self) -> Result<()> {
        const IGNORE: &str = "ignore the session";
        let mut state = self.lock(IGNORE)?;
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, IGNORE));
        }
        state.ignored = true;
        Ok(())
    }
}
