//! Stores around another store: each method forwards unless the wrapper replaces it.
//!
//! Implemented by stores that observe, delay or fail calls, such as `testing::PausingStore`.

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::backend::{
    Capabilities, Commit, CommitAnswer, Loaded, Maintenance, RemovalReport, SessionIndex, Store,
    TouchError,
};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::SessionIdHash;
use crate::record::Touch;

/// A [`Store`] around another one. It implements only the methods that it changes.
///
/// Each `wrap_` method replaces the [`Store`] method of that name. By default it forwards to the
/// wrapped store, except [`wrap_try_load`](Self::wrap_try_load), which returns `None`: forwarding
/// would bypass a [`wrap_load`](Self::wrap_load) that does more.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use cloakroom::backend::{Commit, CommitAnswer, StoreWrapper};
/// use cloakroom::{MemoryStore, Result, SessionManager};
///
/// /// Counts the commits.
/// #[derive(Debug, Default)]
/// struct Counting {
///     store: MemoryStore,
///     commits: AtomicU64,
/// }
///
/// impl StoreWrapper for Counting {
///     type Wrapped = MemoryStore;
///
///     fn wrapped(&self) -> &MemoryStore {
///         &self.store
///     }
///
///     fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
///         self.commits.fetch_add(1, Ordering::Relaxed);
///         self.store.commit(commit)
///     }
/// }
///
/// # use cloakroom::backend::Store;
/// let sessions = SessionManager::new(Counting::default())?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait StoreWrapper: Debug + Send + Sync + 'static {
    /// The type of the wrapped store.
    type Wrapped: Store + ?Sized;

    /// Returns the wrapped store.
    fn wrapped(&self) -> &Self::Wrapped;

    /// Replaces [`Store::load`].
    fn wrap_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.wrapped().load(id_hash, now)
    }

    /// Replaces [`Store::try_load`]. Returns `None` by default.
    fn wrap_try_load(&self, _id_hash: &SessionIdHash, _now: Timestamp) -> Option<Loaded> {
        None
    }

    /// Replaces [`Store::commit`].
    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.wrapped().commit(commit)
    }

    /// Replaces [`Store::touch`].
    fn wrap_touch(
        &self,
        batch: &[(SessionIdHash, Touch)],
        now: Timestamp,
    ) -> Result<(), TouchError> {
        self.wrapped().touch(batch, now)
    }

    /// Replaces [`Store::sweep`].
    fn wrap_sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        self.wrapped().sweep(now, limit)
    }

    /// Replaces [`Store::index`].
    fn wrap_index(&self) -> Option<&dyn SessionIndex> {
        self.wrapped().index()
    }

    /// Replaces [`Store::maintenance`].
    fn wrap_maintenance(&self) -> Option<&dyn Maintenance> {
        self.wrapped().maintenance()
    }

    /// Replaces [`Store::capabilities`].
    fn wrap_capabilities(&self) -> Capabilities {
        self.wrapped().capabilities()
    }
}

impl<W: StoreWrapper> Store for W {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.wrap_load(id_hash, now)
    }

    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.wrap_try_load(id_hash, now)
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.wrap_commit(commit)
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        self.wrap_touch(batch, now)
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        self.wrap_sweep(now, limit)
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        self.wrap_index()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.wrap_maintenance()
    }

    fn capabilities(&self) -> Capabilities {
        self.wrap_capabilities()
    }
}

impl<S: Store + ?Sized> StoreWrapper for Box<S> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        self
    }

    fn wrap_try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.wrapped().try_load(id_hash, now)
    }
}

impl<S: Store + ?Sized> StoreWrapper for Arc<S> {
    type Wrapped = S;

    fn wrapped(&self) -> &S {
        self
    }

    fn wrap_try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.wrapped().try_load(id_hash, now)
    }
}
