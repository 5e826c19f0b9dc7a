//! The session of one request: loaded at the first read, changed in memory, committed at the end.
//!
//! Owns [`Session`] and its state; its submodules implement the operations. Uses stores only
//! through the `Context`. Called by the manager and the adapters.

mod absence;
mod activity;
mod authentication;
mod blocking_hook;
mod changes;
mod close;
mod commit;
mod csrf_secret;
mod load;
mod presented;
mod running_update;
mod shared;
mod sign_in;
mod values;

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::backend::LiveSession;
use crate::clock::Timestamp;
use crate::cross_origin::OriginDecision;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RejectedBy};
use crate::id::{PublicId, RealmTag, SessionIdHash, UserKey};
use crate::lifetime::{EndReason, Limits};
use crate::message::RequestHead;
use crate::record::{Client, EndedSession, Record};
use crate::sync::{IgnorePoison, Mutex, MutexGuard};
use absence::Absence;
use changes::Changes;
use load::LoadState;
use presented::Presented;
use running_update::RunningUpdate;
use shared::RetiredCount;

pub use authentication::{Authentication, RecentAuth};
pub(crate) use blocking_hook::BlockingCalls;
pub use blocking_hook::BlockingHook;
pub(crate) use close::AGE_RENEWAL_GRACE;
pub use shared::OnLoadFailure;
pub(crate) use shared::{
    Context, EndTrail, FormerCookie, GuessDetector, RetiredIds, Settings, Transport,
};

/// The session of one request.
///
/// A session does no I/O until it is used. The first read loads it. Changes are collected in
/// memory; when the manager closes the session, they are merged into the stored session in one
/// step, and values that this request did not change stay as they are. Until the application
/// writes, nothing is stored and no cookie is sent.
///
/// The idle limit restarts at a request's first use of its session, not at the request's end. If a
/// handler works for long, read the session first: if the limit is near, this activity is recorded
/// immediately, so that the session does not expire during the work. A request that only writes
/// restarts the limit with its commit.
///
/// Threads can share a session. It should not outlive its request. If it is dropped without being
/// closed, its changes are lost, it ends no session, and an [event](Event::SessionNotClosed) is
/// raised.
///
/// | task | methods |
/// |---|---|
/// | read values | [`get`](Self::get), [`contains`](Self::contains), [`keys`](Self::keys) |
/// | change values | [`set`](Self::set), [`update`](Self::update), [`update_now`](Self::update_now), [`take`](Self::take), [`remove`](Self::remove), [`clear`](Self::clear) |
/// | users | [`sign_in`](Self::sign_in), [`sign_in_with`](Self::sign_in_with), [`user`](Self::user), [`require_recent_auth`](Self::require_recent_auth), [`confirm_authentication`](Self::confirm_authentication), [`authenticated_at`](Self::authenticated_at), [`auth_level`](Self::auth_level) |
/// | the end of a session | [`destroy`](Self::destroy), [`ended`](Self::ended), [`deadline`](Self::deadline), [`set_idle_limit`](Self::set_idle_limit), [`set_persistent`](Self::set_persistent) |
/// | ids | [`renew`](Self::renew), [`public_id`](Self::public_id) |
/// | forms and messages | [`csrf_field`](Self::csrf_field), [`csrf_token`](Self::csrf_token), [`verify_csrf`](Self::verify_csrf), [`flash`](Self::flash), [`flashes`](Self::flashes), [`keep_flashes`](Self::keep_flashes), [`allow_cross_site`](Self::allow_cross_site) |
/// | this request | [`commit`](Self::commit), [`ignore`](Self::ignore), [`is_changed`](Self::is_changed), [`client_address`](Self::client_address) |
///
/// ```
/// use cloakroom::{Session, SignIn, UserKey};
///
/// fn sign_in(session: &Session, user: &str) -> cloakroom::Result<&'static str> {
///     // The password was verified before.
///     Ok(match session.sign_in(UserKey::new(user)?)? {
///         SignIn::Refused => "too many sessions",
///         _ => "signed in",
///     })
/// }
///
/// fn page(session: &Session) -> cloakroom::Result<String> {
///     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
///     Ok(match session.user()? {
///         Some(user) => format!("{user}, visits: {visits}"),
///         None => format!("visits: {visits}"),
///     })
/// }
///
/// fn sign_out(session: &Session) -> cloakroom::Result<()> {
///     session.destroy()
/// }
/// ```
pub struct Session {
    context: Arc<Context>,
    blocking: BlockingCalls,
    presented: Presented,
    /// How many ids this process had retired when the request was opened.
    retired_at_open: RetiredCount,
    /// The time at which the request was opened.
    opened_at: Timestamp,
    /// The browsers that reject the cookie of the response, if one of them sent this request.
    cookie_rejected_by: Option<RejectedBy>,
    address: Option<IpAddr>,
    /// The decision of the cross-origin check.
    origin_check: OriginDecision,
    /// Whether the browser prefetches the page.
    is_prefetch: bool,
    /// The client, if the settings say that sessions record it.
    client: Option<Client>,
    state: Mutex<State>,
    /// Set by the first update, so that a session that is not used allocates nothing.
    running_update: OnceLock<RunningUpdate>,
}

#[derive(Debug, Default)]
struct State {
    /// What the presented ids find.
    load_state: LoadState,
    /// The changes that are not stored; none after the close.
    changes: Changes,
    /// The choice made with [`set_persistent`](Session::set_persistent).
    persistent: Option<bool>,
    ending: Ending,
    is_ignored: bool,
    /// A request to an exempt path may begin a session.
    cross_site_allowed: bool,
    is_closed: bool,
    response: ResponseFacts,
    /// The time of the first use of the session, which is its activity.
    first_use: Option<Timestamp>,
}

/// The sessions that the request ends, and how the presented one has ended.
#[derive(Debug, Default)]
struct Ending {
    /// Sessions that the handler destroyed; they end with the next commit or the request.
    to_destroy: Vec<SessionIdHash>,
    /// Other presented sessions, which end after a sign-in. `ignore` does not clear these, because
    /// it does not undo the sign-in.
    after_sign_in: Vec<SessionIdHash>,
    sign_out: SignOut,
    /// Why the presented session has ended, if that is known.
    reason: Option<EndReason>,
}

/// Whether the request signs out: the response then removes the cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum SignOut {
    #[default]
    NotRequested,
    Requested,
    /// A session has ended.
    Done,
}

/// What the response must say beside the id. A fact is never reset.
#[derive(Debug, Default)]
struct ResponseFacts {
    /// The response depends on the session.
    varies: bool,
    /// Changes were discarded.
    has_discarded_changes: bool,
    /// A user was signed in to a session that this request has read.
    saw_user: bool,
    /// The application has got a CSRF token for the response.
    has_token: bool,
    /// The application has got flash messages for the response.
    has_flash: bool,
    /// The response may read the session after the close.
    may_read_later: bool,
}

impl State {
    /// Continues without a session, because the request ends its own or has ended it.
    fn reset(&mut self, sign_out: SignOut) {
        self.set_absent(Absence::default());
        self.changes = Changes::default();
        self.ending.sign_out = self.ending.sign_out.max(sign_out);
        self.is_ignored = false;
        self.response.varies = true;
    }

    /// Records that there is no session any more.
    fn set_absent(&mut self, absence: Absence) {
        self.response.saw_user = self.has_seen_user();
        self.load_state = LoadState::Absent(absence);
    }

    fn has_seen_user(&self) -> bool {
        let session = self.load_state.session();
        self.response.saw_user || session.is_some_and(|session| session.record.user.is_some())
    }

    /// Fails if the load failed and the request is treated as anonymous: such a request must not
    /// change its session.
    fn check_readable(&self, operation: &'static str) -> Result<()> {
        match &self.load_state {
            LoadState::Unreadable(error) => {
                Err(Error::with_source(ErrorKind::Unavailable, operation, error.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// The result of [`Session::sign_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum SignIn {
    /// The user is signed in.
    Done,
    /// The user has as many sessions as allowed, and nothing was changed.
    Refused,
}

/// The result of [`Session::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum CommitOutcome {
    /// The changes are stored, or there were none.
    Stored,
    /// The session ended or was renewed before the changes could be stored.
    Discarded,
}

impl Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Raises an event if changes or a sign-out are lost, also while the thread panics: a panic that
/// prevents [`close`](crate::SessionManager::close) leaves a sign-out undone, and its own message
/// does not say so.
impl Drop for Session {
    fn drop(&mut self) {
        let state = self.state.get_mut().ignore_poison();
        let done = state.is_closed || state.is_ignored;
        if !done
            && (!state.changes.is_empty()
                || !state.ending.to_destroy.is_empty()
                || state.load_state.issued().is_some())
        {
            self.context.report_unclosed(state.load_state.public_id().as_ref());
        }
    }
}

impl Session {
    /// Creates the session of a request without I/O, and without an allocation if the request has
    /// no cookie.
    pub(crate) fn new(
        context: Arc<Context>,
        blocking: BlockingCalls,
        head: &RequestHead<'_>,
        origin_check: OriginDecision,
    ) -> Self {
        let presented = context.settings.presented(head);
        let address = head.client_address(context.settings.proxies);
        context.warn_if_proxied(head);
        if let Some(hash) = presented.malformed {
            context.events.raise(&Event::MalformedId { address });
            context.count_guess(address, hash);
        }
        if presented.too_many {
            context.events.raise(&Event::TooManyIds { address });
        }
        let client = context.settings.client(head, address);
        let cookie_rejected_by = context.cookie_rejected_by(head);
        let retired_at_open = context.retired_ids.count();
        // Without a presented id this time is not used, so the clock is not read.
        let opened_at = if presented.is_empty() { Timestamp::MAX } else { context.now() };
        Session {
            context,
            blocking,
            presented,
            retired_at_open,
            opened_at,
            cookie_rejected_by,
            address,
            origin_check,
            is_prefetch: head.prefetch,
            client,
            state: Mutex::default(),
            running_update: OnceLock::new(),
        }
    }

    /// Returns whether this is a session of the same manager for a request with the same ids.
    pub(crate) fn is_of(&self, context: &Arc<Context>, head: &RequestHead<'_>) -> bool {
        let presented = || context.settings.presented(head);
        Arc::ptr_eq(&self.context, context)
            && presented().id_hashes().eq(self.presented.id_hashes())
    }

    /// Returns whether the browser prefetches the page, and may never show it.
    pub(crate) fn is_prefetch(&self) -> bool {
        self.is_prefetch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in the application's `Serialize` leaves the state as it was before the call.
        self.state.lock().ignore_poison()
    }

    /// Locks the state. Fails inside the function of an update, because this thread holds the lock,
    /// and for a refused request.
    fn lock(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        if let OriginDecision::Refuse(_) = self.origin_check {
            return Err(Error::new(ErrorKind::CrossOrigin, operation));
        }
        self.check_not_updating(operation)?;
        Ok(self.state())
    }

    /// Refuses calls that a closure of [`update`](Self::update) makes on its own session.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] on the thread on which such a closure runs.
    pub(crate) fn check_not_updating(&self, operation: &'static str) -> Result<()> {
        if self.running_update.get().is_some_and(RunningUpdate::is_on_this_thread) {
            let why = "the closure of an update must not use its own session";
            return Err(Error::with_source(ErrorKind::Invalid, operation, why));
        }
        Ok(())
    }

    /// Returns the realm of the ids that this session issues.
    fn realm_tag(&self) -> RealmTag {
        self.context.settings.realm_tag
    }

    /// Locks the state. Fails after the end of the request.
    fn lock_open(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        let state = self.lock(operation)?;
        if state.is_closed {
            return Err(Error::new(ErrorKind::Closed, operation));
        }
        Ok(state)
    }

    /// Locks the state for a change. Fails if changes are not possible.
    fn writable(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock_open(operation)?;
        state.check_readable(operation)?;
        self.check_cross_site(&state, operation)?;
        state.response.varies = true;
        state.first_use.get_or_insert_with(|| self.context.now());
        Ok(state)
    }

    /// Refuses to begin or end a session in a request that the page of another site sent, as it can
    /// to an exempt path. Such a request comes without the cookie, and the response would replace
    /// or remove it.
    fn check_cross_site(&self, state: &State, operation: &'static str) -> Result<()> {
        let is_exempt = self.origin_check == OriginDecision::Exempt;
        if is_exempt && self.presented.is_empty() && !state.cross_site_allowed {
            let why = "another site sent the request, without the cookie that the browser may \
                       have: call allow_cross_site first, if the response may replace it";
            return Err(Error::with_source(ErrorKind::CrossOrigin, operation, why));
        }
        Ok(())
    }

    /// Lets a request to an [exempt](crate::CrossOrigin::exempt) path begin a session, or remove
    /// the cookie, although another site sent it. Call it once the request has proved where it
    /// comes from.
    ///
    /// A browser sends no `SameSite=Lax` cookie with a `POST` from another site. A session that the
    /// request begins replaces the one that the browser has, so any site could sign the user out.
    /// Without this call such a request can read; every change, [`sign_in`](Self::sign_in) and
    /// [`destroy`](Self::destroy) fail with [`ErrorKind::CrossOrigin`]. On other paths, and if the
    /// request presents an id, the call has no effect.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn allow_cross_site(&self) -> Result<()> {
        self.lock_open("allow a request of another site")?.cross_site_allowed = true;
        Ok(())
    }

    /// Returns the signed-in user.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn user(&self) -> Result<Option<UserKey>> {
        self.read_record(|record| record.user.clone()).map(Option::flatten)
    }

    /// Returns the time of the last sign-in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn authenticated_at(&self) -> Result<Option<Timestamp>> {
        self.read_record(|record| record.authenticated).map(Option::flatten)
    }

    /// Returns the public id of the session, for pages and logs; `None` if there is no session.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn public_id(&self) -> Result<Option<PublicId>> {
        self.read_record(|record| record.public_id)
    }

    /// Returns the authentication level that the sign-in recorded; 0 if it recorded none, or if no
    /// user is signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn auth_level(&self) -> Result<u16> {
        self.read_record(|record| record.auth_level).map(Option::unwrap_or_default)
    }

    /// Returns why the user's session behind the presented id has ended, for a page that says so;
    /// `None` if the id finds a live session, or if the request presented none.
    ///
    /// Show it on the page that first sees the ended session: once a request writes, a new session
    /// replaces the id, and the reason is lost. [`EndReason::Idle`] has the idle limit of that
    /// session, which [`set_idle_limit`](Self::set_idle_limit) may have changed.
    ///
    /// The reason is known while the expired session is stored, which is until the next sweep, and
    /// for at least an hour if this process has ended or swept the session, unless it has ended
    /// more than 10,000 others since. In other cases the result is `None` too: after a restart,
    /// after [`revoke_everyone`](crate::SessionManager::revoke_everyone), or if another process, or
    /// memcached itself, has removed the session.
    ///
    /// ```
    /// use cloakroom::{Session, lifetime::EndReason};
    ///
    /// fn notice(session: &Session) -> cloakroom::Result<Option<&'static str>> {
    ///     Ok(session.ended()?.map(|reason| match reason {
    ///         EndReason::Idle(_) => "You were signed out after a day without activity.",
    ///         EndReason::SignedOut => "You are signed out.",
    ///         _ => "Please sign in again.",
    ///     }))
    /// }
    /// ```
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn ended(&self) -> Result<Option<EndReason>> {
        let mut state = self.lock("look at a session")?;
        self.read(&mut state)?;
        Ok(state.ending.reason)
    }

    /// Returns the address of the client, if it is known. Behind a proxy this is the proxy's,
    /// unless [`behind_proxies`](crate::manager::SessionManagerBuilder::behind_proxies) is set.
    #[must_use]
    pub fn client_address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns the time at which the session ends if no further request uses it, for a page that
    /// warns of it; `None` if there is no session or no limit. The use by this request counts. A
    /// request that [ignores](Self::ignore) its session does not move it, nor does a prefetch.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn deadline(&self) -> Result<Option<Timestamp>> {
        let mut state = self.lock("look at a session")?;
        self.read(&mut state)?;
        let Some(LiveSession { record, .. }) = state.load_state.session() else { return Ok(None) };
        let new_idle = state.changes.delta().idle_limit().filter(|_| !state.is_ignored);
        let now = state.first_use.unwrap_or(record.seen);
        let touch = record.due_touch(self.activity(&state), new_idle, now);
        let limits = Limits::new(new_idle.or(record.limits.idle), record.limits.absolute);
        let seen = touch.map_or(record.seen, |touch| touch.seen.max(record.seen));
        let deadline = limits.deadline(seen);
        Ok(Some(deadline).filter(|deadline| *deadline != Timestamp::MAX))
    }

    /// Reports a session that this request has ended.
    fn report_end(&self, ended: &EndedSession, reason: EndReason) {
        self.context.end_trail.report(ended, reason, None, self.address);
    }

    /// Returns the signed-in user and the public id of the session.
    pub(crate) fn user_and_public_id(&self) -> Result<Option<(UserKey, PublicId)>> {
        let who = |record: &Record| record.user.clone().map(|user| (user, record.public_id));
        self.read_record(who).map(Option::flatten)
    }

    fn read_record<T>(&self, ask: impl FnOnce(&Record) -> T) -> Result<Option<T>> {
        let mut state = self.lock("look at a session")?;
        Ok(self.read(&mut state)?.session().map(|session| ask(&session.record)))
    }

    /// Chooses whether the browser keeps the session cookie when the browser is closed ("remember
    /// me"). With true the cookie carries `Max-Age` and `Expires`; with false it carries neither,
    /// and the browser deletes it when it is closed.
    ///
    /// The choice applies to a session that begins in this request, or that a user signs in to
    /// later in this request. Any other session keeps the choice that was made when it began.
    /// Defaults to the manager's [`persistent`](crate::manager::SessionManagerBuilder::persistent).
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request. [`ErrorKind::Invalid`] after
    /// [`sign_in`](Self::sign_in), and after [`commit`](Self::commit) has begun a session, because
    /// the choice would have no effect.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        const OPERATION: &str = "choose how long the cookie lives";
        let mut state = self.writable(OPERATION)?;
        if state.load_state.issued().is_some() {
            let why = "the session has begun or was signed in to already: choose before that";
            return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
        }
        state.persistent = Some(persistent);
        Ok(())
    }

    /// Changes the idle limit of this session: a shorter one at a public terminal, or a longer one
    /// for a user who asks for it. The limit is rounded down to milliseconds, and at most that of
    /// the session's [lifetime](crate::manager::SessionManagerBuilder::lifetime), unless
    /// [`max_idle_limit`](crate::manager::SessionManagerBuilder::max_idle_limit) allows more. The
    /// absolute limit stays and holds as well.
    ///
    /// The limit counts from this request, is stored with the other changes at its end, and holds
    /// for the whole session: through activity, renewals and restarts, until it is changed again or
    /// a user signs in. A [`sign_in`](Self::sign_in) restarts both limits with those of the
    /// manager; one that follows in the same request stores this limit, and fails if it is above
    /// the maximum for the user's session.
    ///
    /// For a sign-in, [`Authentication::idle_limit`] is better: it is stored in the same step. If
    /// this is called after the sign-in and the end of the request cannot be stored, the user is
    /// signed in with the limit of the manager.
    ///
    /// Without a session, the limit applies to one that this request begins. The call alone begins
    /// none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloakroom::Session;
    ///
    /// /// The user has chosen "sign me out after a break of five minutes".
    /// fn shorten(session: &Session) -> cloakroom::Result<()> {
    ///     session.set_idle_limit(Duration::from_secs(5 * 60))
    /// }
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # assert_eq!(session.sign_in(cloakroom::UserKey::new("ada")?)?, cloakroom::SignIn::Done);
    /// # shorten(&session)?;
    /// # let left = session.deadline()?.unwrap().since(session.authenticated_at()?.unwrap());
    /// # assert!(left <= Duration::from_secs(5 * 60 + 1));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] for a limit below one millisecond or above the maximum;
    /// - [`ErrorKind::Closed`] after the end of the request;
    /// - [`ErrorKind::Unavailable`] when the session could not be read and the request continues
    ///   without it;
    /// - the store's errors when this is the first read.
    pub fn set_idle_limit(&self, limit: Duration) -> Result<()> {
        const OPERATION: &str = "set the idle limit of a session";
        let mut state = self.writable(OPERATION)?;
        self.read(&mut state)?;
        state.check_readable(OPERATION)?;
        let settings = &self.context.settings;
        let record = state.load_state.session().map(|session| &session.record);
        let persistent = record.map_or(settings.persistent, |record| record.persistent);
        let lifetime = match record.is_some_and(|record| record.user.is_some()) {
            true => settings.signed_in_lifetime(persistent),
            false => settings.anonymous_lifetime(persistent),
        };
        let limit = settings.checked_idle_limit(limit, &lifetime, OPERATION)?;
        state.changes.edit(|delta| delta.set_idle_limit(limit));
        Ok(())
    }

    /// Gives the session a new id at the end of this request and changes nothing else of it. The
    /// old id then works only within the manager's grace, if there is one.
    ///
    /// The call has no effect if there is no session and none is written, if the presented id has
    /// already been renewed, or if this request has already issued a new id, for example by
    /// [`sign_in`](Self::sign_in).
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn renew(&self) -> Result<()> {
        let mut state = self.writable("renew the session")?;
        state.changes.renew = state.load_state.issued().is_none();
        Ok(())
    }

    /// Ends the session for good, and every other session whose id this request presented. From now
    /// on the session is empty: a later write in this request begins a new, anonymous session.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.destroy()?;
    /// session.flash("info", "You are signed out.")?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// The session ends at the end of the request, also if the handler fails or panics, or called
    /// [`ignore`](Self::ignore) before. If another request has replaced the presented id in the
    /// last ten minutes, by a renewal or a sign-in, the session ends too. The response removes the
    /// cookie even if the id found no session.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn destroy(&self) -> Result<()> {
        const OPERATION: &str = "destroy the session";
        let mut state = self.lock_open(OPERATION)?;
        self.check_cross_site(&state, OPERATION)?;
        let current = state.load_state.session().map(|session| session.id_hash);
        for id_hash in current.into_iter().chain(self.presented.id_hashes()) {
            if !state.ending.to_destroy.contains(&id_hash) {
                state.ending.to_destroy.push(id_hash);
            }
        }
        state.reset(SignOut::Requested);
        Ok(())
    }

    /// Returns whether this request has changes that are not stored yet. A write of the value that
    /// is already stored counts as a change. Inside the closure of an update the result is true.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self.lock("look at a session") {
            Ok(state) => !state.is_closed && !state.changes.is_empty(),
            Err(error) => error.kind() != ErrorKind::CrossOrigin,
        }
    }

    /// Discards the changes of this request, a [`destroy`](Self::destroy) and a
    /// [`renew`](Self::renew) included, and sends no cookie. It undoes no
    /// [`commit`](Self::commit) and no [`sign_in`](Self::sign_in) of this request, and the id that
    /// those issued is sent.
    ///
    /// An ignored request does not count as activity, so it does not extend the idle limit. Call
    /// this before the first use of the session: if the session would reach its idle limit within
    /// ten minutes (the maximum expected duration of a request), its first use records activity
    /// immediately, and a later `ignore` does not undo that.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn ignore(&self) -> Result<()> {
        self.lock_open("ignore the session")?.is_ignored = true;
        Ok(())
    }
}
