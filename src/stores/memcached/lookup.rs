//! Lookups. They complete moves of sessions to new ids that other requests did not finish.

use crate::backend::{Found, LiveSession, ReplacedId};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::stores::memcached::client::{ItemVersion, Replacement, Written};
use crate::stores::memcached::value::{ItemState, Redirect};
use crate::stores::memcached::{MemcachedInner, StoreCall, ttl, ttl_of};

/// The maximum number of items read for one id: one for each replaced id of its session, and some
/// twice because the session was moved meanwhile.
const MAX_READS: usize = ReplacedId::MAX + 8;

/// The redirects followed from a requested id to its session.
struct RedirectPath {
    requested: SessionIdHash,
    /// The id to read next.
    at: SessionIdHash,
    /// What is remembered of the requested id; `None` while it is not known to be replaced.
    replaced: Option<ReplacedId>,
    /// The number of redirects since then.
    redirects: usize,
}

impl RedirectPath {
    /// Follows the redirect at the current id. Returns false if the requested id finds no session.
    fn follow(&mut self, redirect: &Redirect) -> bool {
        if redirect.presented == Some(self.requested) {
            // A sign-in through the requested id has replaced the id `at`. It counts as the last
            // replacement of the requested id too, whose own redirect may be of an earlier one.
            // The redirect has the secret of `at`; the lookup began with the requested id's own.
            let csrf_secret = self.replaced.and_then(|replaced| replaced.csrf_secret);
            let id = redirect.replaced_id(self.requested);
            self.replaced = Some(ReplacedId { csrf_secret, ..id });
            self.redirects = 0;
        } else {
            let ends_here = redirect.finds_no_session()
                || redirect.to_new_session && self.replaced.is_some()
                || self.redirects == ReplacedId::MAX;
            if ends_here {
                return false;
            }
            let id = redirect.replaced_id(self.at);
            let first = self.replaced.get_or_insert(id);
            *first = first.limited_by(&id);
        }
        self.at = redirect.to;
        self.redirects += 1;
        true
    }
}

impl MemcachedInner {
    /// Looks `id_hash` up. Completes the moves that it meets.
    pub(super) fn find(
        &self,
        id_hash: &SessionIdHash,
        call: StoreCall,
    ) -> Result<Found<ItemVersion>> {
        let mut path =
            RedirectPath { requested: *id_hash, at: *id_hash, replaced: None, redirects: 0 };
        for _ in 0..MAX_READS {
            let Some(item) = self.client.get(call.context, &path.at)? else {
                return Ok(Found::NotFound);
            };
            match self.decode(&item) {
                Ok(None) => return Ok(Found::NotFound),
                Ok(Some(ItemState::Live(record))) => {
                    let session = LiveSession { record, id_hash: path.at };
                    let found = Found::of_session(session, item.at, call.now);
                    return Ok(match path.replaced {
                        Some(id) => found.through_replaced_id(id, call.now),
                        None => found,
                    });
                }
                Ok(Some(ItemState::Redirected(redirect))) => {
                    if !path.follow(&redirect) {
                        return Ok(Found::NotFound);
                    }
                }
                Ok(Some(ItemState::Moved(redirect, record))) => {
                    self.complete_move(item.at, &redirect, record, call)?;
                }
                Ok(Some(ItemState::Reserved(from))) => {
                    if !self.is_moving(&from, &path.at, call)? {
                        return Ok(Found::NotFound);
                    }
                }
                Err(error) => {
                    let ItemVersion { id_hash, .. } = item.at;
                    return Ok(Found::Undecodable {
                        id_hash,
                        public_id: None,
                        error,
                        key: item.at,
                    });
                }
            }
        }
        Err(Error::with_source(ErrorKind::Busy, call.context.operation, "its id keeps changing"))
    }

    /// Completes a move from `old` to `redirect.to`; for any request that finds a
    /// [`Moved`](ItemState::Moved) item. Stores the session under the new id, then the redirect.
    ///
    /// It replaces the [`Reserved`](ItemState::Reserved) item in the version that was read and
    /// never adds one. So a session that has ended under its new id meanwhile stays ended.
    pub(super) fn complete_move(
        &self,
        old: ItemVersion,
        redirect: &Redirect,
        record: Record,
        call: StoreCall,
    ) -> Result<()> {
        if let Some(item) = self.client.get(call.context, &redirect.to)?
            && let Ok(Some(ItemState::Reserved(from))) = self.decode(&item)
            && from == old.id_hash
        {
            self.store_live(item.at, record, call)?;
        }
        self.store_redirect(old, redirect, call)
    }

    /// Stores a live session in place of this version of an item.
    pub(super) fn store_live(
        &self,
        at: ItemVersion,
        record: Record,
        call: StoreCall,
    ) -> Result<Written> {
        self.client.replace(call.context, &live(at, record, call.now))
    }

    /// Stores a redirect in place of this version of an item.
    pub(super) fn store_redirect(
        &self,
        old: ItemVersion,
        redirect: &Redirect,
        call: StoreCall,
    ) -> Result<()> {
        let ttl = ttl(redirect.replaced_id(old.id_hash).forget_at(), call.now);
        let value = ItemState::Redirected(*redirect).encode(&old.id_hash);
        let new = Replacement { at: old, value, ttl };
        // If another request was faster, it has stored the same.
        self.client.replace(call.context, &new).map(drop)
    }

    /// Replaces the redirect of an id that was replaced before and has been presented at a sign-in.
    /// Then the id is remembered for ten minutes after this sign-in, and a lookup skips the ids
    /// between: with more and more sign-ins through one id, it would otherwise need more than
    /// [`MAX_READS`] items. If this fails, the previous redirect stays. A redirect to a new session
    /// keeps that flag, so that older ids still do not find the session.
    pub(super) fn replace_redirect(
        &self,
        id_hash: &SessionIdHash,
        redirect: Redirect,
        call: StoreCall,
    ) {
        if let Ok(Some(item)) = self.client.get(call.context, id_hash)
            && let Ok(Some(ItemState::Redirected(before))) = self.decode(&item)
        {
            let redirect = Redirect {
                to_new_session: redirect.to_new_session || before.to_new_session,
                ..redirect
            };
            let _ = self.store_redirect(item.at, &redirect, call);
        }
    }

    /// Returns whether the session of `from` is being moved to `to`. If so, completes the move.
    fn is_moving(&self, from: &SessionIdHash, to: &SessionIdHash, call: StoreCall) -> Result<bool> {
        let Some(item) = self.client.get(call.context, from)? else {
            return Ok(false);
        };
        match self.decode(&item) {
            Ok(Some(ItemState::Moved(redirect, record))) if redirect.to == *to => {
                self.complete_move(item.at, &redirect, record, call)?;
                Ok(true)
            }
            // The move was completed between the two reads.
            Ok(Some(ItemState::Redirected(redirect))) => Ok(redirect.to == *to),
            _ => Ok(false),
        }
    }
}

/// Returns what stores a live session in place of this version of an item.
pub(super) fn live(at: ItemVersion, record: Record, now: Timestamp) -> Replacement {
    let ttl = ttl_of(&record, now);
    Replacement { at, value: ItemState::Live(record).encode(&at.id_hash), ttl }
}
