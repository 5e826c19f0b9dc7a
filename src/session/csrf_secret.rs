//! The CSRF secret of a session, which its tokens contain in masked form.
//!
//! The commit that creates the session stores it, and every sign-in replaces it; a renewal and a
//! clear keep it. A replaced id remembers the secret that the session had while the id was current.
//! So a form that was loaded with the id can be sent with it for as long as the store remembers it.

use crate::data::{CSRF_SECRET, CsrfSecret};
use crate::delta::Change;
use crate::error::{Error, ErrorKind, Result};
use crate::session::{Session, State};

const OPERATION: &str = "make a CSRF token";

impl State {
    /// Returns the secret of the session, with the changes of this request applied.
    pub(super) fn csrf_secret(&self) -> Option<CsrfSecret> {
        match self.changes.delta().change(CSRF_SECRET) {
            Change::Set(value) => CsrfSecret::from_value(value),
            Change::Removed => None,
            Change::Untouched => self.load_state.data().and_then(CsrfSecret::from_data),
        }
    }
}

impl Session {
    /// Returns the secret of the session, or of the replaced id of this request, if there is one.
    /// Writes nothing.
    pub(crate) fn csrf_secret_if_any(&self) -> Result<Option<CsrfSecret>> {
        let mut state = self.lock_for_use("check a CSRF token")?;
        self.ensure_loaded(&mut state)?;
        let of_replaced_id = || state.load_state.replaced_id()?.csrf_secret;
        Ok(state.csrf_secret().or_else(of_replaced_id))
    }

    /// Returns the secret for the tokens of this response. The first row that applies decides:
    ///
    /// | case | secret | stored |
    /// |---|---|---|
    /// | the session has a secret, or this request has made one | that one | already, or with the changes of this request |
    /// | the request overlaps the replacement of its id | the one that the replaced id remembers; if none, a random one, which never becomes valid | never |
    /// | the request is closed, its load failed, or it must not begin a session for another origin | none: an error | never |
    /// | changes of this request were discarded | a random one, which never becomes valid | never |
    /// | there is no session yet, or another program has stored it without a valid secret | a random one | with the changes of this request |
    pub(crate) fn csrf_secret_or_new(&self) -> Result<CsrfSecret> {
        let mut state = self.lock_for_use(OPERATION)?;
        let state = &mut *state;
        self.ensure_loaded(state)?;
        state.response.has_token = true;
        if let Some(secret) = state.csrf_secret() {
            return Ok(secret);
        }
        if let Some(replaced) = state.load_state.replaced_id()
            && replaced.overlaps
        {
            return replaced.csrf_secret.map_or_else(CsrfSecret::generate, Ok);
        }
        if state.is_closed {
            return Err(Error::new(ErrorKind::Closed, OPERATION));
        }
        state.refuse_after_failed_load(OPERATION)?;
        self.check_cross_origin(state, OPERATION)?;
        let secret = CsrfSecret::generate()?;
        if !state.load_state.has_discarded() {
            let value = secret.to_value()?;
            state.changes.edit(|delta| delta.set(CSRF_SECRET, value.clone()));
        }
        Ok(secret)
    }
}
