//! The CSRF secret of a session, which its tokens contain in masked form.
//!
//! It is made when a token is first requested, is kept by renewals, and is replaced by every
//! sign-in. It is derived from the session's id at that time, so a form can be sent again with a
//! replaced id for as long as the id is remembered.

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::backend::{Action, Loaded};
use crate::data::{CSRF_SECRET, Data, Value};
use crate::delta::{Change, Delta};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SessionId, random};
use crate::session::absence::Absence;
use crate::session::changes::Changes;
use crate::session::commit::{CommitPlan, DeltaPlan, live_or_unreadable};
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
    fn of(state: &State) -> Option<Self> {
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

    /// Returns a secret whose tokens cannot become valid, unless they are sent with the replaced id
    /// of this request. Stores nothing.
    fn of_absent_session(state: &State) -> Result<Self> {
        Secret::of_replaced_id(state).map_or_else(Secret::generate, Ok)
    }

    /// Adds the secret to the changes of the request.
    fn add_to(&self, changes: &mut Changes) -> Result<()> {
        let value = self.value()?;
        changes.edit(|delta| delta.set(CSRF_SECRET, value.clone()));
        Ok(())
    }

    /// Returns the delta of a sign-in after which no earlier secret is valid. If the request knows
    /// an earlier secret, the delta sets this one in its place. Otherwise the delta removes the
    /// secret that a concurrent request may be adding.
    pub(super) fn delta_of_sign_in(&self, delta: &Delta, data: Option<&Data>) -> Result<Delta> {
        let mut delta = delta.clone();
        let in_delta = matches!(delta.change(CSRF_SECRET), Change::Set(_));
        if in_delta || data.is_some_and(|data| data.get(CSRF_SECRET).is_some()) {
            delta.set(CSRF_SECRET, self.value()?);
        } else {
            delta.remove(CSRF_SECRET);
        }
        Ok(delta)
    }

    fn value(&self) -> Result<Value<'static>> {
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

    /// Makes a secret for the live session, or for the one that is created next, whose id it
    /// generates.
    fn new_secret(&self, load_state: &mut LoadState) -> Result<Secret> {
        let id = match load_state {
            LoadState::Absent(Absence { next_id, .. }) => {
                let id = next_id.take().map_or_else(SessionId::generate, Ok)?;
                Some(next_id.insert(id).clone())
            }
            // If the request presents an id within its grace, the current id is not known.
            _ => load_state
                .session()
                .and_then(|session| self.find_id(load_state.issued(), &session.id_hash)),
        };
        id.map_or_else(Secret::generate, |id| Ok(Secret::from_id(&id)))
    }

    /// Returns the secret for the tokens of this response. The first row that applies decides:
    ///
    /// | case | secret | stored |
    /// |---|---|---|
    /// | the session has a secret, or this request has made one | that one | already |
    /// | the request overlaps the replacement of its id | the one derived from that id | never |
    /// | the request is closed, its load failed, or it must not begin a session for another origin | none: an error | never |
    /// | the session is live, and not ignored | a new one, unless another request stores one first | immediately |
    /// | the session ended meanwhile, or changes of this request were discarded | the one derived from the replaced id, if there is one, else a random one, which never becomes valid | never |
    /// | there is no session yet, or it is ignored | a new one | with the changes of this request |
    ///
    /// After a [`clear`](Self::clear) in this request the session's secret is stored again with the
    /// changes, because earlier pages contain it.
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
        if matches!(state.load_state, LoadState::Live { .. }) && !state.is_ignored {
            let Some(secret) = self.store_secret_once(state)? else {
                return Secret::of_absent_session(state);
            };
            let is_cleared = state.changes.delta().change(CSRF_SECRET) != Change::Untouched;
            if is_cleared {
                secret.add_to(&mut state.changes)?;
            }
            return Ok(secret);
        }
        if state.load_state.has_discarded() {
            return Secret::of_absent_session(state);
        }
        let secret = self.new_secret(&mut state.load_state)?;
        secret.add_to(&mut state.changes)?;
        Ok(secret)
    }

    /// Returns the secret of the live session, and stores one if there is none and no other request
    /// stores one first. That is a separate commit: stored with the other changes at the end of the
    /// request, it would replace the secret of a page that was rendered in the meantime. Returns
    /// `None` if the session has ended.
    fn store_secret_once(&self, state: &mut State) -> Result<Option<Secret>> {
        let Some(session) = state.load_state.session() else { return Ok(None) };
        if let Some(secret) = Secret::from_data(&session.record.data) {
            return Ok(Some(secret));
        }
        let id_hash = session.id_hash;
        let new = self.new_secret(&mut state.load_state)?.value()?;
        let mut separate = Changes::default();
        let keep_stored = move |current: Option<&Value<'_>>| {
            let kept = current.filter(|it| Secret::from_value(it).is_some()).unwrap_or(&new);
            Ok(Some(kept.clone().into_owned()))
        };
        let data = state.load_state.data();
        let expected = state.load_state.expected();
        separate.update(CSRF_SECRET, data, expected, Box::new(keep_stored))?;
        let touch = state.touch;
        let plan =
            CommitPlan { id_hash, action: Action::Merge, touch, delta: DeltaPlan::AllChanges };
        let answer = self.commit_with_retries(&mut state.load_state, &mut separate, &plan)?;
        match live_or_unreadable(answer)? {
            Loaded::Live(session) => {
                let secret = Secret::from_data(&session.record.data);
                state.update_session(session);
                let unstored = || Error::new(ErrorKind::Unexpected, OPERATION);
                secret.map(Some).ok_or_else(unstored)
            }
            Loaded::Unreadable(unreadable) => {
                self.continue_after_loss(state, unreadable);
                Ok(None)
            }
        }
    }
}
