//! The CSRF secret of a session, which its tokens contain in masked form.
//!
//! The commit that creates the session stores it, and every sign-in replaces it; a renewal and a
//! clear keep it. It is derived from the id that this commit issues, so a form can be sent again
//! with a replaced id for as long as the id is remembered.

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::data::{CSRF_SECRET, Data, Value};
use crate::delta::Change;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SessionId, random};
use crate::session::load::LoadState;
use crate::session::{Session, State};

const OPERATION: &str = "make a CSRF token";

/// 256 random bits; stored as base64url without padding.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// Generates a secret that is not derived from an id.
    fn generate() -> Result<Self> {
        Ok(Secret(random(OPERATION)?))
    }

    pub(super) fn from_id(id: &SessionId) -> Self {
        Secret(id.csrf_secret())
    }

    /// Decodes a stored secret; `None` for a value that [`value`](Self::value) never returns.
    fn from_value(value: &Value<'_>) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(value.decode::<String>().ok()?).ok()?;
        Some(Secret(bytes.try_into().ok()?))
    }

    fn from_data(data: &Data) -> Option<Self> {
        data.get(CSRF_SECRET).and_then(|value| Secret::from_value(&value))
    }

    /// Returns the secret of the session, with the changes of this request applied.
    pub(super) fn of(state: &State) -> Option<Self> {
        match state.changes.delta().change(CSRF_SECRET) {
            Change::Set(value) => Secret::from_value(value),
            Change::Removed => None,
            Change::Untouched => state.load_state.data().and_then(Secret::from_data),
        }
    }

    /// Derives the secret from the replaced id of this request, if there is one. The tokens of all
    /// pages that are requested with this id then agree. Stores nothing.
    fn of_replaced_id(state: &State) -> Option<Self> {
        state.load_state.replaced_id()?.id.as_ref().map(Secret::from_id)
    }

    pub(super) fn value(&self) -> Result<Value<'static>> {
        Value::encode(&URL_SAFE_NO_PAD.encode(self.0))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    pub(crate) fn matches(&self, bytes: &[u8; 32]) -> bool {
        let pairs = self.0.iter().zip(bytes);
        // Without `black_box` the optimizer could end the loop at the first difference.
        pairs.fold(0, |different, (own, other)| black_box(different | (own ^ other))) == 0
    }
}

impl Session {
    /// Returns the session's secret, if it has one. Writes nothing.
    pub(crate) fn secret_if_any(&self) -> Result<Option<Secret>> {
        let mut state = self.lock_for_use("check a CSRF token")?;
        self.ensure_loaded(&mut state)?;
        Ok(Secret::of(&state).or_else(|| Secret::of_replaced_id(&state)))
    }

    /// Returns the secret for the tokens of this response. The first row that applies decides:
    ///
    /// | case | secret | stored |
    /// |---|---|---|
    /// | the session has a secret, or this request has made one | that one | already, or with the changes of this request |
    /// | the request overlaps the replacement of its id | the one derived from that id | never |
    /// | the request is closed, its load failed, or it must not begin a session for another origin | none: an error | never |
    /// | changes of this request were discarded | the one derived from the replaced id, if there is one, else a random one, which never becomes valid | never |
    /// | there is no session yet, or another program has stored it without a valid secret | a new one | with the changes of this request |
    pub(crate) fn secret(&self) -> Result<Secret> {
        let mut state = self.lock_for_use(OPERATION)?;
        let state = &mut *state;
        self.ensure_loaded(state)?;
        state.response.has_token = true;
        if let Some(secret) = Secret::of(state) {
            return Ok(secret);
        }
        if state.load_state.replaced_id().is_some_and(|replaced| replaced.overlaps)
            && let Some(secret) = Secret::of_replaced_id(state)
        {
            return Ok(secret);
        }
        if state.is_closed {
            return Err(Error::new(ErrorKind::Closed, OPERATION));
        }
        state.refuse_after_failed_load(OPERATION)?;
        self.check_cross_origin(state, OPERATION)?;
        if state.load_state.has_discarded() {
            return Secret::of_replaced_id(state).map_or_else(Secret::generate, Ok);
        }
        let secret = self.new_secret(&mut state.load_state)?;
        let value = secret.value()?;
        state.changes.edit(|delta| delta.set(CSRF_SECRET, value.clone()));
        Ok(secret)
    }

    /// Makes a secret for the session that is created next, whose id it generates, or for the live
    /// session.
    fn new_secret(&self, load_state: &mut LoadState) -> Result<Secret> {
        let id = match load_state {
            LoadState::Absent(absence) => {
                Some(absence.next_id.insert(SessionId::generate()?).clone())
            }
            // If the request presents an id within its grace, the current id is not known.
            _ => load_state
                .session()
                .and_then(|session| self.find_id(load_state.issued(), &session.id_hash)),
        };
        id.map_or_else(Secret::generate, |id| Ok(Secret::from_id(&id)))
    }
}
