//! The session of one request: loaded at the first read, changed in memory, committed at the end.

// Owns `Session` and its state; its submodules implement the operations, in the order of a request:
// `presented`, `load`, `values` with `changes`, `close`, `commit`. Uses stores only through the
// `Context`.

mod absence;
mod authentication;
mod changes;
mod close;
mod commit;
mod cross_origin;
mod csrf_secret;
mod ending;
mod identity;
mod lifetime;
mod load;
mod presented;
mod renewal;
mod running_update;
mod sign_in;
mod touch;
mod values;

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::Arc;

use crate::backend::LiveSession;
use crate::clock::Timestamp;
use crate::context::{BlockingCalls, Context, RetiredTick};
use crate::cross_origin::OriginDecision;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RejectingBrowsers};
use crate::id::RealmTag;
use crate::lifetime::EndReason;
use crate::message::RequestHead;
use crate::record::{Client, Touch};
use crate::sync::{IgnorePoison, Mutex, MutexGuard};
use absence::Absence;
use changes::Changes;
use ending::Ending;
use load::LoadState;
use presented::Presented;
use running_update::RunningUpdate;

pub use authentication::{Authentication, RecentAuth};
pub use commit::CommitOutcome;
pub(crate) use renewal::AGE_RENEWAL_GRACE;
pub use sign_in::SignIn;

/// The operation in the errors of methods that return a fact about the session.
const READ: &str = "read the session";

/// The session of one request.
///
/// An adapter in [`web`](crate::web) opens it before the handler and closes it afterwards. A
/// session does no I/O until it is used: the first read loads it. Changes are collected in memory.
/// The close merges them into the stored session in one step, and values that this request has not
/// changed stay as they are.
///
/// A visitor without a session gets one, and its cookie, only if the request sets a value, adds a
/// message, signs a user in or makes a CSRF token.
///
/// Threads can share a session. It should not outlive its request: if it is dropped without being
/// closed, its changes and its [`destroy`](Self::destroy) are lost, and an
/// [event](Event::SessionNotClosed) is raised. A session that was only read may be dropped.
///
/// | task | methods |
/// |---|---|
/// | read values | [`get`](Self::get) decodes one, [`contains`](Self::contains) tests for one, [`names`](Self::names) lists the names |
/// | change values | [`set`](Self::set) and [`remove`](Self::remove) do not read the session; [`update`](Self::update) computes a value from the stored one, [`update_now`](Self::update_now) also stores it at once; [`take`](Self::take) reads and removes one, [`clear`](Self::clear) removes all |
/// | users | [`sign_in`](Self::sign_in) or [`sign_in_with`](Self::sign_in_with) after the check of the password; [`user`](Self::user) returns the user |
/// | sensitive pages | [`recent_auth`](Self::recent_auth) asks whether the password was checked lately, [`confirm_authentication`](Self::confirm_authentication) records a further check; [`authenticated_at`](Self::authenticated_at) and [`auth_level`](Self::auth_level) return its time and level |
/// | the end of a session | [`destroy`](Self::destroy) signs out; [`deadline`](Self::deadline) says when it ends, [`end_reason`](Self::end_reason) why it has; [`set_idle_limit`](Self::set_idle_limit) and [`set_persistent`](Self::set_persistent) choose how long it and its cookie live |
/// | ids | [`renew`](Self::renew) replaces the secret id; [`public_id`](Self::public_id) is a name for pages and logs |
/// | forms | [`csrf_field`](Self::csrf_field) and [`csrf_token`](Self::csrf_token) make a token, [`verify_csrf`](Self::verify_csrf) checks it; [`allow_cross_origin`](Self::allow_cross_origin) is for exempt paths |
/// | messages | [`flash`](Self::flash) adds one for the next page, [`flashes`](Self::flashes) takes them, [`keep_flashes`](Self::keep_flashes) keeps them for one more page |
/// | this request | [`commit`](Self::commit) stores its changes now, [`ignore`](Self::ignore) discards them, [`is_changed`](Self::is_changed) returns whether there are any; [`client_address`](Self::client_address) is its client |
///
/// A handler gets the session of its request, here on any server:
///
/// ```
/// use cloakroom::{Result, Session};
///
/// fn greeting(session: &Session) -> Result<String> {
///     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
///     Ok(match session.user()? {
///         Some(user) => format!("user {user}, visit {visits}"),
///         None => format!("visit {visits}"),
///     })
/// }
/// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
/// # let session = sessions.open(None);
/// # assert_eq!(greeting(&session)?, "visit 1");
/// # assert_eq!(session.sign_in(cloakroom::UserKey::new("7")?)?, cloakroom::SignIn::Done);
/// # assert_eq!(greeting(&session)?, "user 7, visit 2");
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// An adapter opens and closes it. These calls show how two requests of one browser overlap:
///
/// ```
/// use cloakroom::adapter::Outcome;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let first = sessions.open(None); // the request has no `Cookie` field
/// first.set("theme", "dark")?;
/// let headers = sessions.close(&first, Outcome::Completed)?; // stores the session
/// let cookie = headers.iter().find_map(|(name, value)| {
///     (name == "Set-Cookie").then(|| value.split(';').next()).flatten()
/// });
///
/// let (one, other) = (sessions.open(cookie), sessions.open(cookie));
/// one.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
/// other.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
/// sessions.close(&one, Outcome::Completed)?;
/// sessions.close(&other, Outcome::Completed)?; // runs its closure again, on 1
///
/// let last = sessions.open(cookie);
/// assert_eq!(last.get("visits")?, Some(2));
/// assert_eq!(last.get("theme")?, Some("dark".to_owned()));
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// # Errors of all methods
/// The methods that return a `Result` have these errors in common. Each method lists its others.
///
/// | kind | when | which methods |
/// |---|---|---|
/// | [`CrossOrigin`](ErrorKind::CrossOrigin) | the request was [refused](crate::CrossOrigin) | all |
/// | [`Invalid`](ErrorKind::Invalid) | the call is made in the closure of an [`update`](Self::update) of this session | all |
/// | the [store's errors](ErrorKind#the-stores-errors) | the first read of the session fails | those that read it |
/// | [`Closed`](ErrorKind::Closed) | the request has ended | those that change something |
/// | [`CrossOrigin`](ErrorKind::CrossOrigin) | on an exempt path: a page of another origin sent the request, it has no id, and [`allow_cross_origin`](Self::allow_cross_origin) was not called | those that change something |
/// | [`Unavailable`](ErrorKind::Unavailable) | the session could not be read, and the request [continues without it][anonymous] | those that change something, but not [`destroy`](Self::destroy) |
///
/// [anonymous]: crate::manager::OnLoadFailure::TreatAsAnonymous
///
/// # Activity
/// A request that reads or changes its session is activity: the idle limit restarts at the first
/// use of the session in the request, not at the request's end. So in a slow handler, read the
/// session first.
///
/// Activity is stored at most once per fortieth of the idle limit, and within a second or so of the
/// first read. The guide says [what is no activity](crate::guide::lifetime#activity), and when
/// activity is lost.
pub struct Session {
    context: Arc<Context>,
    blocking: BlockingCalls,
    presented: Presented,
    /// The time at which the request was opened, by the logical clock of the retired ids.
    opened_tick: RetiredTick,
    /// The time at which the request was opened. `None` if it presents no id: only the times of
    /// replaced ids are compared with it.
    opened_at: Option<Timestamp>,
    /// The browsers that reject the cookie of the response, if one of them sent this request.
    rejecting_browsers: Option<RejectingBrowsers>,
    address: Option<IpAddr>,
    /// The decision of the cross-origin check.
    origin_check: OriginDecision,
    /// Whether the browser prefetches the page.
    is_prefetch: bool,
    /// The client, if the settings say that sessions record it.
    client: Option<Client>,
    state: Mutex<State>,
    running_update: RunningUpdate,
}

/// The state of a session in its request.
#[derive(Debug, Default)]
struct State {
    /// What the presented ids find.
    load_state: LoadState,
    /// The changes that are not stored; none after the close.
    changes: Changes,
    /// The choice made with [`set_persistent`](Session::set_persistent).
    persistent: Option<bool>,
    ending: Ending,
    /// Why the presented session has ended, if that is known.
    end_reason: Option<EndReason>,
    /// Set by `ignore`, cleared by `destroy`. The close drops the changes; a sign-in stores them.
    is_ignored: bool,
    /// A request to an exempt path may create a session.
    cross_origin_allowed: bool,
    is_closed: bool,
    response: ResponseFacts,
    /// The time of the first use of the session. `None` before that, in a prefetch, and after an
    /// `ignore` before the first read.
    touch: Option<Touch>,
}

/// What the response must say beside the id. Set once, never cleared.
#[derive(Debug, Default)]
struct ResponseFacts {
    /// The response depends on the session.
    varies: bool,
    /// Changes were discarded.
    reports_discard: bool,
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
    fn set_load_state(&mut self, load_state: LoadState) {
        let session = load_state.session();
        self.response.saw_user |= session.is_some_and(|session| session.record.user.is_some());
        self.load_state = load_state;
    }

    /// Records the live session as a commit of this request has stored it.
    fn update_session(&mut self, stored: LiveSession) {
        self.response.saw_user |= stored.record.user.is_some();
        if let LoadState::Live { session, .. } = &mut self.load_state {
            *session = Arc::new(stored);
        }
    }

    /// Discards what the request has changed or will change, but nothing that is already done.
    fn ignore(&mut self) {
        self.is_ignored = true;
        if let Some(before_destroy) = self.ending.cancel_destroy() {
            self.load_state = before_destroy;
        }
        // If the session was loaded, the cleaner has its touch already. One that a change has
        // recorded before a load is still here, and is dropped.
        if let LoadState::Unread = self.load_state {
            self.touch = None;
        }
    }

    /// Returns whether the close stores changes, if the request completes.
    fn has_changes_to_store(&self) -> bool {
        !self.is_ignored && !self.changes.is_empty()
    }

    /// Requests a new id, unless this request has issued one already.
    fn request_renewal(&mut self) {
        self.changes.renew = self.load_state.issued().is_none();
    }

    /// Continues without a session, because the request ends its own or has ended it.
    fn continue_after_own_end(&mut self) {
        self.set_load_state(LoadState::Absent(Absence::default()));
        self.changes = Changes::default();
        // An earlier `ignore` concerned the session that is gone. The sign-out must be carried out,
        // and what the request writes from now on, such as a message, begins another session.
        self.is_ignored = false;
        self.response.varies = true;
    }

    /// Fails if the load failed and the request is treated as anonymous: such a request must not
    /// change its session.
    fn refuse_after_failed_load(&self, operation: &'static str) -> Result<()> {
        let LoadState::LoadFailed(error) = &self.load_state else { return Ok(()) };
        let error = Error::with_source(ErrorKind::Unavailable, operation, error.clone());
        Err(error.with_nothing_done())
    }
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
        let loses_changes = state.has_changes_to_store();
        let loses_sign_out = state.ending.is_unfinished();
        if !state.is_closed
            && (loses_changes || loses_sign_out || state.load_state.issued().is_some())
            // In a fork, this is the copy of a session that the parent may still close.
            && self.context.process.is_current()
        {
            let public_id = state.load_state.public_id();
            let public_id = public_id.as_ref();
            self.context.events.raise(&Event::SessionNotClosed { public_id });
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
        let presented = Presented::of(&context.id_settings, head);
        let address = head.client_address(context.settings.proxies);
        context.warn_if_proxied(head);
        if let Some(hash) = presented.malformed_hash {
            context.events.raise(&Event::MalformedId { address });
            context.count_guess(address, hash);
        }
        if presented.too_many {
            context.events.raise(&Event::TooManyIds { address });
        }
        let client = context.settings.client(head, address);
        let rejecting_browsers = context.rejecting_browsers(head);
        let opened_tick = context.retired_ids.now();
        let opened_at = (!presented.is_empty()).then(|| context.now());
        Session {
            context,
            blocking,
            presented,
            opened_tick,
            opened_at,
            rejecting_browsers,
            address,
            origin_check,
            is_prefetch: head.prefetch,
            client,
            state: Mutex::default(),
            running_update: RunningUpdate::default(),
        }
    }

    /// Returns whether this is a session of the same manager for a request with the same ids.
    #[allow(dead_code, reason = "the adapter for rouille, which is a feature, is the only caller")]
    pub(crate) fn is_of(&self, context: &Arc<Context>, head: &RequestHead<'_>) -> bool {
        let realm = self.realm_tag();
        let has_same_ids = || {
            let presented = Presented::of(&context.id_settings, head);
            presented.id_hashes(realm).eq(self.presented.id_hashes(realm))
        };
        Arc::ptr_eq(&self.context, context) && has_same_ids()
    }

    /// Returns the time at which the request was opened; `now` if it presents no id, or if the
    /// clock was set back meanwhile.
    fn opened_at_or(&self, now: Timestamp) -> Timestamp {
        self.opened_at.map_or(now, |opened_at| opened_at.min(now))
    }

    /// Returns the realm of the ids that this session reads and issues.
    fn realm_tag(&self) -> RealmTag {
        self.context.id_settings.realm_tag
    }

    /// Returns whether the browser prefetches the page, and may never show it.
    pub(crate) fn is_prefetch(&self) -> bool {
        self.is_prefetch
    }
}

// The ways to lock the state. Each calls the one above it and adds what its comment says.
impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the application's `Serialize` leaves the state as it was before the call.
        self.state.lock().ignore_poison()
    }

    /// Fails if the request was refused, and in the closure of an update of this session.
    fn lock_for_use(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        if self.origin_check.is_refusal() {
            return Err(Error::new(ErrorKind::CrossOrigin, operation));
        }
        if self.running_update.is_on_this_thread() {
            let why = "the closure of an update must not use its own session";
            return Err(Error::with_source(ErrorKind::Invalid, operation, why));
        }
        Ok(self.lock())
    }

    /// Fails after the close.
    fn lock_unclosed(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        let state = self.lock_for_use(operation)?;
        if state.is_closed {
            return Err(Error::new(ErrorKind::Closed, operation));
        }
        Ok(state)
    }

    /// Fails after a failed load, and by [`check_cross_origin`](Self::check_cross_origin). Records
    /// that the request uses the session, and when it has used it first.
    fn lock_for_change(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock_unclosed(operation)?;
        state.refuse_after_failed_load(operation)?;
        self.check_cross_origin(&state, operation)?;
        state.response.varies = true;
        self.record_use(&mut state, || self.context.now());
        Ok(state)
    }
}
