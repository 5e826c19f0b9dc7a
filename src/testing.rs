//! Helpers for tests of applications: signed-in users, and a store whose calls wait or fail.
//!
//! With [`MemoryStore`](crate::MemoryStore) and [`ManualClock`](crate::clock::ManualClock) such
//! tests need no socket, no file and no sleep. Two requests that race:
//!
//! ```
//! use std::thread;
//!
//! use cloakroom::http::Outcome;
//! use cloakroom::testing::{Call, PausingStore, signed_in};
//! use cloakroom::{MemoryStore, SessionManager, UserKey};
//!
//! let store = PausingStore::new(MemoryStore::new());
//! let sessions = SessionManager::new(store.clone())?;
//! let cookie = signed_in(&sessions, UserKey::new("ada")?)?;
//!
//! // A request that writes stops before its commit …
//! let pause = store.pause(Call::Commit);
//! let writer = thread::spawn({
//!     let (sessions, cookie) = (sessions.clone(), cookie.clone());
//!     move || {
//!         let session = sessions.open(Some(cookie.as_str()));
//!         session.get::<u32>("cart")?;
//!         session.set("cart", 1)?;
//!         sessions.close(&session, Outcome::Completed)
//!     }
//! });
//! assert!(pause.is_reached());
//!
//! // … while another one signs out.
//! let session = sessions.open(Some(cookie.as_str()));
//! session.destroy()?;
//! sessions.close(&session, Outcome::Completed)?;
//!
//! pause.end();
//! assert!(writer.join().unwrap()?.discarded, "the writer was too late");
//! # Ok::<(), cloakroom::Error>(())
//! ```

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backend::{Commit, Committed, Lookup, Store, StoreWrapper, TouchError};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SessionIdHash, UserKey};
use crate::manager::SessionManager;
use crate::message::Outcome;
use crate::record::Touch;
use crate::session::{Session, SignIn};
use crate::sync::IgnorePoison;

/// Signs `user` in, and returns the value of the `Cookie` header that the user's browser then
/// sends, or of the header that carries the id instead.
///
/// # Errors
/// The store's errors; [`ErrorKind::Invalid`] if the user has the maximum number of sessions.
pub fn signed_in(sessions: &SessionManager, user: UserKey) -> Result<String> {
    with_session(sessions, |session| match session.sign_in(user)? {
        SignIn::Done => Ok(()),
        SignIn::Refused => {
            let why = "the user has the maximum number of sessions";
            Err(Error::with_source(ErrorKind::Invalid, "sign a test's user in", why))
        }
    })
}

/// Begins a session with the changes that `prepare` makes, and returns the value of the `Cookie`
/// header, or of the header that carries the id instead.
///
/// # Errors
/// Those of `prepare` and of the store; [`ErrorKind::Invalid`] if `prepare` began no session.
pub fn with_session(
    sessions: &SessionManager,
    prepare: impl FnOnce(&Session) -> Result<()>,
) -> Result<String> {
    let session = sessions.open(None);
    prepare(&session)?;
    let headers = sessions.close(&session, Outcome::Completed)?;
    let none = || {
        let why = "no value was set";
        Error::with_source(ErrorKind::Invalid, "begin a test's session", why)
    };
    let (name, value) = headers.id_fields.into_iter().next().ok_or_else(none)?;
    Ok(match &*name {
        "Set-Cookie" => value.split(';').next().unwrap_or_default().to_owned(),
        _ => value,
    })
}

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
}

/// A store that wraps another and lets single calls wait or fail. Clones are the same store.
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
    Wait { reached: Sender<()>, end: Receiver<()> },
    Fail(ErrorKind),
}

/// A paused call. It waits until this is ended or dropped, for at most 30 seconds.
#[derive(Debug)]
#[must_use]
pub struct Pause {
    reached: Receiver<()>,
    end: Sender<()>,
}

/// The maximum time of a pause, longer than a request takes to reach the store.
const MAX_PAUSE: Duration = Duration::from_secs(30);

impl Pause {
    /// Waits for the call; returns false if there is none within 30 seconds.
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

    /// Pauses the next such call for which no other pause or failure is planned.
    pub fn pause(&self, call: Call) -> Pause {
        let ((is_reached, reached), (end, ended)) = (channel(), channel());
        self.plan(call, Plan::Wait { reached: is_reached, end: ended });
        Pause { reached, end }
    }

    /// Fails the next such call for which no other pause or failure is planned.
    pub fn fail(&self, call: Call, kind: ErrorKind) {
        self.plan(call, Plan::Fail(kind));
    }

    fn plan(&self, call: Call, plan: Plan) {
        self.plans.lock().ignore_poison().push((call, plan));
    }

    fn enter(&self, call: Call) -> Result<()> {
        let plan = {
            let mut plans = self.plans.lock().ignore_poison();
            let next = plans.iter().position(|(planned, _)| *planned == call);
            next.map(|at| plans.remove(at).1)
        };
        match plan {
            None => Ok(()),
            Some(Plan::Fail(kind)) => {
                Err(Error::with_source(kind, "use the store", "the test requested this failure"))
            }
            Some(Plan::Wait { reached, end }) => {
                // The test may have dropped the pause.
                let _ = reached.send(());
                // The timeout keeps a test that does not end the pause from hanging, and a manager
                // from hanging when it is dropped.
                let _ = end.recv_timeout(MAX_PAUSE);
                Ok(())
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

    fn on_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.enter(Call::Load)?;
        self.store.load(id_hash, now)
    }

    fn on_commit(&self, commit: &Commit) -> Result<Committed> {
        self.enter(Call::Commit)?;
        self.store.commit(commit)
    }

    fn on_touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        self.enter(Call::Touch)?;
        self.store.touch(batch, now)
    }
}
