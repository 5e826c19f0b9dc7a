//! Lookups. They complete moves of sessions to new ids that other requests have left unfinished.

use crate::backend::{LiveSession, Lookup, Missing, ReplacedId, ReplacedIdStatus};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::stores::memcached::client::{Item, ItemVersion, Replacement, Written};
use crate::stores::memcached::value::{ItemState, Way};
use crate::stores::memcached::{MemcachedInner, StoreCall, life, life_of};

/// The maximum number of items read for one id: one for each replaced id of its session, and some
/// twice because the session moved meanwhile.
const STEPS: usize = ReplacedId::MAX + 8;

impl MemcachedInner {
    pub(super) fn find(
        &self,
        id_hash: &SessionIdHash,
        call: StoreCall,
    ) -> Result<Lookup<ItemVersion>> {
        // The id to read next, what is remembered of the requested id, and the number of later
        // replaced ids.
        let (mut at, mut replaced, mut later) = (*id_hash, None::<ReplacedId>, 0);
        let now = call.now;
        for _ in 0..STEPS {
            let Some(item) = self.client.get(call.target, &at)? else {
                return Ok(Lookup::not_found());
            };
            let version = ItemVersion { id_hash: at, stamp: item.stamp };
            match self.read(&item) {
                Ok(None) => return Ok(Lookup::not_found()),
                Err(error) => {
                    let undecodable = Missing::Undecodable { public_id: None, error, at: version };
                    return Ok(Lookup::Missing(undecodable));
                }
                Ok(Some(ItemState::Live(record))) => {
                    return Ok(live(version, record, replaced, now));
                }
                Ok(Some(ItemState::Left(way))) => {
                    if way.leads_nowhere || way.begins_session && replaced.is_some() {
                        return Ok(Lookup::not_found());
                    }
                    let id = way.replaced_id(at);
                    let first = replaced.get_or_insert(id);
                    if id.ends_graces() {
                        *first = first.without_grace();
                    }
                    if later == ReplacedId::MAX || first.status(now) == ReplacedIdStatus::Forgotten
                    {
                        return Ok(Lookup::not_found());
                    }
                    (at, later) = (way.to, later + 1);
                }
                Ok(Some(ItemState::Moved(way, record))) => {
                    self.arrive(version, &way, record, call)?;
                }
                Ok(Some(ItemState::Arriving(from))) => {
                    if !self.has_set_out(&from, &at, call)? {
                        return Ok(Lookup::not_found());
                    }
                }
            }
        }
        Err(Error::with_source(ErrorKind::Busy, call.target.operation, "the session keeps moving"))
    }

    /// Completes a move from `old` to `way.to`. Any request that finds a move unfinished calls
    /// this. The new id is current since the old item became [`Moved`](ItemState::Moved); this stores
    /// the session under the new id and marks the old item as [`Left`](ItemState::Left).
    ///
    /// It replaces the [`Arriving`](ItemState::Arriving) item in the version that was read and never
    /// adds one. So a session that has ended under its new id meanwhile stays ended.
    pub(super) fn arrive(
        &self,
        old: ItemVersion,
        way: &Way,
        record: Record,
        call: StoreCall,
    ) -> Result<()> {
        if let Some(item) = self.client.get(call.target, &way.to)?
            && let Ok(Some(ItemState::Arriving(from))) = self.read(&item)
            && from == old.id_hash
        {
            let at = ItemVersion { id_hash: way.to, stamp: item.stamp };
            self.settle(at, record, call)?;
        }
        self.leave(old, way, call)
    }

    /// Stores a live session in place of this version of an item.
    pub(super) fn settle(
        &self,
        at: ItemVersion,
        record: Record,
        call: StoreCall,
    ) -> Result<Written> {
        let life = life_of(&record, call.now);
        let new = Replacement { at, value: ItemState::Live(record).encode(), life };
        self.client.replace(call.target, &new)
    }

    pub(super) fn leave(&self, old: ItemVersion, way: &Way, call: StoreCall) -> Result<()> {
        let life = life(way.replaced_id(old.id_hash).forget_at(), call.now);
        let new = Replacement { at: old, value: ItemState::Left(*way).encode(), life };
        // If another request was faster, it has stored the same.
        self.client.replace(call.target, &new).map(drop)
    }

    /// Replaces what is remembered of an id that was replaced before. The session has moved
    /// already, so if this fails, the id leads to it as before. An item that begins a session keeps
    /// that flag, so that older ids still do not lead to the new session.
    pub(super) fn remember_anew(&self, id_hash: &SessionIdHash, way: Way, now: Timestamp) {
        let call = StoreCall::new(now, "store a replaced id");
        if let Ok(Some(item)) = self.client.get(call.target, id_hash)
            && let Ok(Some(ItemState::Left(before))) = self.read(&item)
        {
            let way = Way { begins_session: way.begins_session || before.begins_session, ..way };
            let place = ItemVersion { id_hash: *id_hash, stamp: item.stamp };
            let _ = self.leave(place, &way, call);
        }
    }

    /// Whether a session moves from `from` to `to`. If so, completes the move.
    fn has_set_out(
        &self,
        from: &SessionIdHash,
        to: &SessionIdHash,
        call: StoreCall,
    ) -> Result<bool> {
        let Some(item) = self.client.get(call.target, from)? else {
            return Ok(false);
        };
        let stamp = item.stamp;
        match self.read(&item) {
            Ok(Some(ItemState::Moved(way, record))) if way.to == *to => {
                self.arrive(ItemVersion { id_hash: *from, stamp }, &way, record, call)?;
                Ok(true)
            }
            // The move was completed between the two reads.
            Ok(Some(ItemState::Left(way))) => Ok(way.to == *to),
            _ => Ok(false),
        }
    }

    /// Whether an item holds a foreign value, which may be overwritten.
    pub(super) fn is_garbage(&self, item: &Item) -> bool {
        matches!(self.read(item), Ok(None))
    }
}

/// The lookup result for a session found at `at`, perhaps by a replaced id.
fn live(
    at: ItemVersion,
    record: Record,
    replaced: Option<ReplacedId>,
    now: Timestamp,
) -> Lookup<ItemVersion> {
    if !record.is_live(now) {
        return Lookup::Missing(Missing::NotFound { expired: Some(at) });
    }
    let session = LiveSession { record, id_hash: at.id_hash };
    match replaced.filter(|id| id.status(now) == ReplacedIdStatus::Remembered) {
        Some(id) => Lookup::Missing(Missing::Replaced { id, session, at }),
        None => Lookup::Live { session, at },
    }
}
