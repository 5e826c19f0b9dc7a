//! A secret of the session, which its pages prove to know. It is made when it is first asked for,
//! stays through renewals, and is replaced at every sign-in. It follows from the id that the session
//! has then: a form can be sent again with that id, for as long as it is remembered as replaced.

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::backend::{Action, Committed, LiveSession, Missing};
use crate::data::{Data, Value};
use crate::delta::{Change, Delta};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SessionId, random};
use crate::session::changes::Changes;
use crate::session::{Absence, LoadState, Session, State};

/// The name under which it is stored.
pub(super) const NAME: &str = "cloakroom.csrf";

const OPERATION: &str = "make a CSRF token";

/// 256 random bits; stored as base64url without padding.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// One of which no id is known.
    fn generate() -> Result<Self> {
        Ok(Secret(random(OPERATION)?))
    }

    fn of_id(id: &SessionId) -> Self {
        Secret(id.form_secret())
    }

    /// `None` for anything that [`value`](Self::value) cannot have written.
    fn read(value: &Value<'_>) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(value.decode::<String>().ok()?).ok()?;
        Some(Secret(bytes.try_into().ok()?))
    }

    fn of(data: &Data) -> Option<Self> {
        data.get(NAME).and_then(|value| Secret::read(&value))
    }

    fn value(&self) -> Result<Value<'static>> {
        Value::encode(&URL_SAFE_NO_PAD.encode(self.0))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the same time for all bytes.
    pub(crate) fn is(&self, bytes: &[u8; 32]) -> bool {
        let pairs = self.0.iter().zip(bytes);
        // Seen by the optimizer as a whole, the loop could end at the first difference.
        pairs.fold(0, |different, (own, other)| black_box(different | (own ^ other))) == 0
    }
}

impl State {
    /// The secret as this request sees it.
    fn secret(&self) -> Option<Secret> {
        match self.changes.delta().change(NAME) {
            Change::Set(value) => Secret::read(value),
            Change::Removed => None,
            Change::Untouched => self.known.data().and_then(Secret::of),
        }
    }

    /// The secret of the session that begins, or is signed in to.
    pub(super) fn secret_of_next_id(&mut self) -> Result<Secret> {
        let id = self.next_id.take().map_or_else(SessionId::generate, Ok)?;
        Ok(Secret::of_id(self.next_id.insert(id)))
    }

    /// The changes, such that no secret from before is left when they are stored: not the one that
    /// is known, nor one that a parallel request is about to add.
    pub(super) fn with_new_secret(&self, new: &Secret) -> Result<Delta> {
        let mut delta = self.changes.delta().clone();
        let in_delta = matches!(delta.change(NAME), Change::Set(_));
        if in_delta || self.known.data().is_some_and(|data| data.get(NAME).is_some()) {
            delta.set(NAME, new.value()?);
        } else {
            delta.remove(NAME);
        }
        Ok(delta)
    }
}

impl Session {
    /// The session's secret, if it has one. Writes nothing.
    pub(crate) fn secret_if_any(&self) -> Result<Option<Secret>> {
        let mut state = self.lock("check a CSRF token")?;
        self.read(&mut state)?;
        Ok(state.secret().or_else(|| self.secret_of_replaced_id(&state).map(|(secret, _)| secret)))
    }

    /// Where the id presented was replaced: the secret that follows from that id, so that pages hold
    /// together for a client that goes on presenting it, with those that it was shown before; and
    /// whether the request was under way. Nothing is stored for it.
    fn secret_of_replaced_id(&self, state: &State) -> Option<(Secret, bool)> {
        let LoadState::None(Absence { replaced: Some(replaced), .. }) = &state.known else {
            return None;
        };
        let id = self.own_id(state, &replaced.id_hash)?;
        Some((Secret::of_id(&id), replaced.under_way))
    }

    /// A secret for the session that is there, or begins.
    fn new_secret(&self, state: &mut State) -> Result<Secret> {
        match state.known.live() {
            // Through an id in its grace, the current one is not known.
            Some(session) => self
                .own_id(state, &session.id_hash)
                .map_or_else(Secret::generate, |id| Ok(Secret::of_id(&id))),
            None => state.secret_of_next_id(),
        }
    }

    /// The session's secret. Where there is no session it is a change like any other.
    pub(crate) fn secret(&self) -> Result<Secret> {
        let mut state = self.lock(OPERATION)?;
        let state = &mut *state;
        self.read(state)?;
        state.gave_token = true;
        if let Some(secret) = state.secret() {
            return Ok(secret);
        }
        if let Some((secret, true)) = self.secret_of_replaced_id(state) {
            return Ok(secret);
        }
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, OPERATION));
        }
        state.check_readable(OPERATION)?;
        let is_there = state.known.live().is_some() && !state.ignored;
        let secret = match state.known.data() {
            Some(data) if is_there => match Secret::of(data) {
                Some(secret) => Some(secret),
                None => self.add_secret(state)?,
            },
            _ => None,
        };
        if secret.is_none() && (is_there || state.lost) {
            return match self.secret_of_replaced_id(state) {
                Some((secret, _)) => Ok(secret),
                // The session is gone, and no token of this request can hold.
                None => Secret::generate(),
            };
        }
        match (secret, state.changes.delta().change(NAME)) {
            (Some(secret), Change::Untouched) => Ok(secret),
            // It outlives a `clear` in the same request, because pages have been shown with it.
            (secret, _) => {
                let secret = secret.map_or_else(|| self.new_secret(state), Ok)?;
                let value = secret.value()?;
                state.changes.edit(|delta| delta.set(NAME, value.clone()));
                Ok(secret)
            }
        }
    }

    /// Gives a session that has none its secret, unless another request does so first, and gives
    /// whichever is stored then. It is done at once and by itself: as one of the changes at the end
    /// it would replace the secret of a page that was shown in the meantime. `None` if the session
    /// is not there any more.
    fn add_secret(&self, state: &mut State) -> Result<Option<Secret>> {
        let Some(LiveSession { record, id_hash }) = state.known.live() else { return Ok(None) };
        let (id_hash, public_id, revision) = (*id_hash, record.public_id, record.revision);
        let new = self.new_secret(state)?.value()?;
        let mut alone = Changes::default();
        let unless_there = move |now: Option<&Value<'_>>| {
            let kept = now.filter(|now| Secret::read(now).is_some()).unwrap_or(&new);
            Ok(Some(kept.clone().into_owned()))
        };
        alone.update(NAME, state.known.data(), Box::new(unless_there))?;
        let others = std::mem::replace(&mut state.changes, alone);
        let answer = self.commit_to(state, &id_hash, Action::Merge);
        state.changes = others;
        let mut absence = Absence::default();
        let stored = match answer {
            Ok(Committed::Done { session, .. } | Committed::Unchanged(session)) => {
                let secret = Secret::of(&session.record.data);
                state.known = LoadState::Live(session);
                secret.map(Some).ok_or_else(|| Error::new(ErrorKind::Unexpected, OPERATION))
            }
            Ok(Committed::Missing(missing)) => {
                match missing {
                    Missing::Replaced { id, session, .. } => {
                        absence.replaced = Some(self.replaced(&id, session.record.public_id));
                    }
                    Missing::Undecodable { public_id, error, .. } => {
                        self.undecodable(public_id.as_ref(), &error);
                    }
                    Missing::NotFound { .. } => {}
                }
                Ok(None)
            }
            Ok(_) => Err(Error::new(ErrorKind::Unexpected, OPERATION)),
            Err(error) => Err(error),
        };
        if let Ok(None) = stored {
            // It was ended, or its id replaced, by another request: this one is late.
            state.forget();
            state.known = LoadState::None(absence);
            if absence.replaced.is_some() && state.changes.delta().is_empty() {
                return Ok(None);
            }
            self.discard_changes(state, Some(&public_id));
        }
        // What was computed before was computed from that revision, and will be computed again.
        if let LoadState::Live(session) = &mut state.known
            && state.changes.depends_on_data()
        {
            session.record.revision = revision;
        }
        stored
    }
}
