//! A store whose calls wait or fail.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backend::{
    Commit, CommitAnswer, Loaded, RemovalReport, Store, StoreWrapper, TouchError,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Touch;
use crate::sync::IgnorePoison;

/// The calls of a store that a [`PausingStore`] can pause or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// [`Store::load`]
    Load,
    /// [`Store::commit`]
    Commit,
    /// [`Store::touch`]
    Touch,
    /// [`Store::sweep`]
    Sweep,
}

/// A store that wraps another one, and lets single calls wait or fail. Clones are the same store.
///
/// A request reads a session, and another one changes it before the first continues:
///
/// ```
/// use std::thread;
///
/// use cloakroom::adapter::RequestHead;
/// use cloakroom::testing::{Call, CookieJar, PausingStore, with_session};
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let store = PausingStore::new(MemoryStore::new());
/// let sessions = SessionManager::new(store.clone())?;
/// let cookie = with_session(&sessions, |session| session.set("theme", "light"))?;
/// let theme = |session: &cloakroom::Session| session.get::<String>("theme");
///
/// let pause = store.pause_after(Call::Load);
/// let reader = thread::spawn({
///     let (sessions, mut jar) = (sessions.clone(), CookieJar::of(&cookie));
///     move || jar.visit(&sessions, RequestHead::new(), theme)
/// });
/// assert!(pause.is_reached());
/// let mut jar = CookieJar::of(&cookie);
/// jar.visit(&sessions, RequestHead::new(), |session| session.set("theme", "dark"))?;
/// pause.end();
/// assert_eq!(reader.join().unwrap()?.as_deref(), Some("light"));
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Debug)]
pub struct PausingStore<S> {
    store: Arc<S>,
    plans: Arc<Mutex<Vec<(Call, Plan)>>>,
}

impl<S> Clone for PausingStore<S> {
    fn clone(&self) -> Self {
        PausingStore { store: self.store.clone(), plans: self.plans.clone() }
    }
}

#[derive(Debug)]
enum Plan {
    WaitBefore(PausedCall),
    WaitAfter(PausedCall),
    Fail(ErrorKind),
}

/// The store's side of a [`Pause`].
#[derive(Debug)]
struct PausedCall {
    reached: Sender<()>,
    end: Receiver<()>,
}

impl PausedCall {
    /// Waits until the pause is ended or dropped.
    fn wait(&self) {
        // The test may have dropped the pause.
        let _ = self.reached.send(());
        // The timeout keeps a test that does not end the pause from hanging, and a manager from
        // hanging when it is dropped.
        let _ = self.end.recv_timeout(MAX_PAUSE);
    }
}

/// A call that is paused, or will be: it waits until [`end`](Self::end) or until this is dropped,
/// at most 30 seconds.
#[derive(Debug)]
#[must_use]
pub struct Pause {
    reached: Receiver<()>,
    end: Sender<()>,
}

/// The maximum time of a pause, longer than a request takes to reach the store.
const MAX_PAUSE: Duration = Duration::from_secs(30);

impl Pause {
    /// Waits until the call is made, at most 30 seconds. Returns whether it was.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.reached.recv_timeout(MAX_PAUSE).is_ok()
    }

    /// Lets the call continue.
    pub fn end(self) {
        // The paused call may have timed out.
        let _ = self.end.send(());
    }
}

impl<S: Store> PausingStore<S> {
    /// Wraps `store`.
    pub fn new(store: S) -> Self {
        PausingStore { store: Arc::new(store), plans: Arc::default() }
    }

    /// Pauses the next `call`, before it reaches the wrapped store. Pauses and failures that were
    /// planned earlier apply to the calls before it.
    pub fn pause(&self, call: Call) -> Pause {
        self.plan_pause(call, Plan::WaitBefore)
    }

    /// Pauses the next `call` as [`pause`](Self::pause) does, but after it has the result of the
    /// wrapped store and before it returns.
    pub fn pause_after(&self, call: Call) -> Pause {
        self.plan_pause(call, Plan::WaitAfter)
    }

    /// Fails the next `call` with an error of `kind`, without the wrapped store. Pauses and
    /// failures that were planned earlier apply to the calls before it.
    ///
    /// ```
    /// use cloakroom::testing::{Call, PausingStore};
    /// use cloakroom::{ErrorKind, MemoryStore, SessionManager};
    ///
    /// let store = PausingStore::new(MemoryStore::new());
    /// let sessions = SessionManager::new(store.clone())?;
    /// store.fail(Call::Sweep, ErrorKind::Unavailable);
    /// assert_eq!(sessions.sweep_now().unwrap_err().kind(), ErrorKind::Unavailable);
    /// assert_eq!(sessions.sweep_now()?, 0);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn fail(&self, call: Call, kind: ErrorKind) {
        self.plan(call, Plan::Fail(kind));
    }

    fn plan(&self, call: Call, plan: Plan) {
        self.plans.lock().ignore_poison().push((call, plan));
    }

    fn plan_pause(&self, call: Call, plan: fn(PausedCall) -> Plan) -> Pause {
        let (reached_sender, reached) = channel();
        let (end, end_receiver) = channel();
        self.plan(call, plan(PausedCall { reached: reached_sender, end: end_receiver }));
        Pause { reached, end }
    }

    /// Runs a call by its plan, if there is one.
    fn run<T, E: From<Error>>(
        &self,
        call: Call,
        forward: impl FnOnce(&S) -> Result<T, E>,
    ) -> Result<T, E> {
        let plan = {
            let mut plans = self.plans.lock().ignore_poison();
            let next = plans.iter().position(|(planned, _)| *planned == call);
            next.map(|at| plans.remove(at).1)
        };
        match plan {
            None => forward(&self.store),
            Some(Plan::Fail(kind)) => {
                let why = "the test requested this failure";
                Err(Error::with_source(kind, "use the store", why).into())
            }
            Some(Plan::WaitBefore(call)) => {
                call.wait();
                forward(&self.store)
            }
            Some(Plan::WaitAfter(call)) => {
                let result = forward(&self.store);
                call.wait();
                result
            }
        }
    }
}

/// `try_load` of a wrapper returns `None`, so that every load can be paused or fail.
impl<S: Store> StoreWrapper for PausingStore<S> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        &self.store
    }

    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.run(Call::Load, |store| store.load(id_hash, now))
    }

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.run(Call::Commit, |store| store.commit(commit))
    }

    fn wrap_touch(
        &self,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<(), TouchError> {
        self.run(Call::Touch, |store| store.touch(batch, now))
    }

    fn wrap_sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        self.run(Call::Sweep, |store| store.sweep(now, limit))
    }
}
