//! Renewals of a session's id: by the handler, by the age of the id, and from a former cookie.

use std::time::Duration;

use crate::backend::{LiveSession, ReplacedId};
use crate::clock::Timestamp;
use crate::cookie;
use crate::error::Result;
use crate::event::Event;
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::session::load::LoadState;
use crate::session::{Session, State};
use crate::settings::IdCarrier;

/// The grace of an id that is renewed by its age.
pub(crate) const AGE_RENEWAL_GRACE: Duration = Duration::from_secs(60);

/// The age at which an id is renewed if the session may outlive its cookie: half of the 400 days
/// for which browsers keep a cookie at most.
const COOKIE_RENEWAL_AGE: Duration = Duration::from_secs(200 * 86_400);

/// A renewal of the session's id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    /// How long the old id stays valid; zero for no grace.
    pub(super) grace: Duration,
}

impl Session {
    /// Gives the session a new id at the end of this request, and changes nothing else of it. The
    /// old id then finds the session only within the manager's
    /// [grace](crate::manager::SessionManagerBuilder::renewal_grace), which is zero by default. The
    /// guide says [what a request with the old id does](crate::guide::ids#what-an-old-id-does).
    ///
    /// Call it after a check of the password. Otherwise a thief who has the cookie can call it too,
    /// and so [shuts the user out](crate::guide::security#a-stolen-cookie).
    ///
    /// The renewal is carried out even if the handler returns an error afterwards, or answers with
    /// a 5xx status, because the old id may be stolen. After a panic it is not carried out.
    ///
    /// The call has no effect if there is no session and none is written, if the presented id has
    /// already been renewed, or if this request has already issued a new id, for example by
    /// [`sign_in`](Self::sign_in).
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// // A second factor was added to the account, after a check of the password. Ids from before
    /// // are of no use from now on.
    /// session.renew()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// Reads and stores nothing now, so it fails only [as all methods
    /// do](Self#errors-of-all-methods).
    pub fn renew(&self) -> Result<()> {
        let mut state = self.lock_for_change("renew the session")?;
        state.request_renewal();
        Ok(())
    }

    /// Returns the renewal in the commit of this request's changes: one that the handler has asked
    /// for, or that of an id under a former name of the cookie.
    pub(super) fn renewal_of_changes(
        &self,
        state: &State,
        id_hash: &SessionIdHash,
    ) -> Option<Renewal> {
        // A replaced id within its grace is not renewed, because the client was sent a newer one.
        let is_requested =
            state.changes.renew && self.find_id(state.load_state.issued(), id_hash).is_some();
        let grace = self.context.settings.renewal_grace;
        (is_requested || self.has_former_cookie(id_hash)).then_some(Renewal { grace })
    }

    /// Renews the id by its age: if it has reached the age of the setting, if its cookie may expire
    /// in the browser before the session ends, or if such a renewal has replaced the presented id
    /// and the client has lost the response. Overlapping requests still present the old id, so it
    /// has a grace, even if the manager gives none to renewals by the handler.
    pub(super) fn renew_old_id(&self, state: &mut State) {
        let Some(touch) = state.touch.filter(|_| !state.is_ignored) else { return };
        let LoadState::Live { session, found_by, .. } = &state.load_state else { return };
        let LiveSession { record, id_hash } = &**session;
        let settings = &self.context.settings;
        let in_cookie = matches!(self.context.id_settings.carrier, IdCarrier::Cookie(_));
        let may_outlive = in_cookie && may_outlive_cookie(record);
        let max_ages = [settings.renew_every, may_outlive.then_some(COOKIE_RENEWAL_AGE)];
        let opened_at = self.opened_at_or(touch.seen);
        if !max_ages.into_iter().flatten().any(|age| is_old(record, age, touch.seen))
            && !has_lost_id(session, found_by, settings.renewal_grace, opened_at)
        {
            return;
        }
        let id_hash = *id_hash;
        let public_id = record.public_id;
        // If the session has ended meanwhile, nothing of this request is lost. A request that only
        // reads must not fail because the renewal does; the next one tries again.
        let renewal = Renewal { grace: AGE_RENEWAL_GRACE };
        if let Err(error) = &self.merge_or_renew(state, &id_hash, Some(renewal)) {
            self.context.events.raise(&Event::RenewalFailed { public_id: &public_id, error });
        }
    }
}

/// Returns whether a browser may forget the session's cookie before the session ends.
fn may_outlive_cookie(record: &Record) -> bool {
    let outlives = |end: Timestamp| end.since(record.id_issued) > cookie::MAX_LIFETIME;
    record.persistent && record.limits.absolute_deadline.is_none_or(outlives)
}

/// Returns whether the current id has reached `max_age`.
fn is_old(record: &Record, max_age: Duration, now: Timestamp) -> bool {
    now.since(record.id_issued) >= max_age
}

/// Returns whether a request presents an old id within its grace because its client has lost the
/// response with the new one. The client counts as having lost it only some time after the last
/// change of the id: within [`ReplacedId::OVERLAPS_FOR`] the response may still arrive, and within
/// `renewal_grace` a handler may have replaced the id because a thief has it.
fn has_lost_id(
    session: &LiveSession,
    found_by: &SessionIdHash,
    renewal_grace: Duration,
    opened_at: Timestamp,
) -> bool {
    let presents_old_id = found_by != &session.id_hash;
    let since_change = opened_at.since(session.record.id_issued);
    presents_old_id && since_change > renewal_grace.max(ReplacedId::OVERLAPS_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    #[test]
    fn an_id_is_renewed_if_it_is_old_or_the_client_has_lost_it() {
        const MAX_AGE: Duration = Duration::from_secs(3600);
        const NO_GRACE: Duration = Duration::ZERO;
        const GRACE: Duration = Duration::from_secs(30);
        let current = SessionIdHash::from_bytes([1; 32]);
        let replaced = SessionIdHash::from_bytes([2; 32]);
        let issued = Timestamp::from_millis(1_700_000_000_000);
        let new_session = NewSession::new(Lifetime::default().limits_from(issued)).unwrap();
        let record = Record::create(&new_session, issued);
        for (found_by, grace, opened, seen, is_due) in [
            (current, NO_GRACE, 0, 3599, false),
            (current, NO_GRACE, 3600, 3600, true),
            (current, NO_GRACE, 3599, 3600, true),
            (current, GRACE, 3600, 3600, true),
            (replaced, NO_GRACE, 10, 10, false),
            (replaced, NO_GRACE, 10, 3600, true),
            (replaced, NO_GRACE, 11, 11, true),
            (replaced, GRACE, 11, 11, false),
            (replaced, GRACE, 30, 30, false),
            (replaced, GRACE, 31, 31, true),
            (replaced, GRACE, 3600, 3600, true),
        ] {
            let session = LiveSession { record: record.clone(), id_hash: current };
            let at = |seconds| issued + Duration::from_secs(seconds);
            let is_old = is_old(&record, MAX_AGE, at(seen));
            let has_lost_id = has_lost_id(&session, &found_by, grace, at(opened));
            let found = is_old || has_lost_id;
            assert_eq!(found, is_due, "{grace:?}, opened at {opened} s, seen at {seen} s");
        }
    }
}
