//! For the tests of applications: users who are signed in, and stores that wait or fail.
//!
//! Together with [`MemoryStore`](crate::MemoryStore) and [`ManualClock`](crate::clock::ManualClock)
//! they need no socket, no file, and no sleep. A request that overtakes another:
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
//! // A request that writes stops on its way into the store …
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
//! assert!(writer.join().unwrap()?.discarded, "the writer came too late, and learns it");
//! # Ok::<(), cloakroom::Error>(())
//! ```

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::{Commit, Committed, Lookup, Store, StoreWrapper};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::http::Outcome;
use crate::id::{SessionIdHash, UserKey};
use crate::manager::SessionManager;
use crate::record::Touch;
use crate::session::{Session, SignIn};

/// Signs `user` in, and gives the value of the `Cookie` header (or of the header that carries the
/// id, where that is not a cookie) that their browser sends from now on.
///
/// # Errors
/// The store's errors; [`ErrorKind::Invalid`] if the user has as many sessions as allowed.
pub fn signed_in(sessions: &SessionManager, user: UserKey) -> Result<String> {
    with_session(sessions, |session| match session.sign_in(user)? {
        SignIn::Done => Ok(()),
        SignIn::Refused => {
            let why = "the user has as many sessions as allowed";
            Err(Error::with_source(ErrorKind::Invalid, "sign a test's user in", why))
        }
    })
}

/// The same for a session that is as `prepare` makes it.
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
        let why = "nothing was written into it";
        Error::with_source(ErrorKind::Invalid, "begin a test's session", why)
    };
    let (name, value) = headers.id_fields.into_iter().next().ok_or_else(none)?;
    Ok(match &*name {
        "Set-Cookie" => value.split(';').next().unwrap_or_default().to_owned(),
        _ => value,
    })
}

/// The calls of a store that can be paused or made to fail.
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

/// A store in front of another whose calls wait, or fail, when a test says so. Clones are the
/// same store.
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

/// Where one call waits until this is ended, or dropped; for 30 seconds at most.
#[derive(Debug)]
#[must_use]
pub struct Pause {
    reached: Receiver<()>,
    end: Sender<()>,
}

/// Longer than any request takes to come to a store.
const PATIENCE: Duration = Duration::from_secs(30);

impl Pause {
    /// Waits for the call; false if none comes within 30 seconds.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.reached.recv_timeout(PATIENCE).is_ok()
    }

    /// Lets the call go on.
    pub fn end(self) {
        // Whoever has waited may have gone.
        let _ = self.end.send(());
    }
}

impl<S: Store> PausingStore<S> {
    /// In front of `store`.
    pub fn new(store: S) -> Self {
        PausingStore { store: Arc::new(store), plans: Arc::default() }
    }

    /// Lets the next such call wait for which nothing else is planned.
    pub fn pause(&self, call: Call) -> Pause {
        let ((is_reached, reached), (end, ended)) = (channel(), channel());
        self.plan(call, Plan::Wait { reached: is_reached, end: ended });
        Pause { reached, end }
    }

    /// Lets the next such call fail for which nothing else is planned.
    pub fn fail(&self, call: Call, kind: ErrorKind) {
        self.plan(call, Plan::Fail(kind));
    }

    fn plan(&self, call: Call, plan: Plan) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).push((call, plan));
    }

    fn enter(&self, call: Call) -> Result<()> {
        let plan = {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            let next = plans.iter().position(|(planned, _)| *planned == call);
            next.map(|at| plans.remove(at).1)
        };
        match plan {
            None => Ok(()),
            Some(Plan::Fail(kind)) => {
                Err(Error::with_source(kind, "use the store", "the test wants it so"))
            }
            Some(Plan::Wait { reached, end }) => {
                // Nobody may be watching.
                let _ = reached.send(());
                // A test that forgets to end it does not hang, nor does a manager that is dropped.
                let _ = end.recv_timeout(PATIENCE);
                Ok(())
            }
        }
    }
}

/// A call of the store that need not wait could not be made to wait or to fail: there is none.
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

    fn on_touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.enter(Call::Touch)?;
        self.store.touch(batch, now)
    }
}
