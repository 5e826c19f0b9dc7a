//! Where a session is. A step of a move that somebody has left undone is done here first.

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionKey;
use crate::record::Record;
use crate::store::memcached::client::{Item, Replacement, Space, Stamp, Written};
use crate::store::memcached::value::{State, Way};
use crate::store::memcached::{Inner, life, life_of};
use crate::store::{Loaded, ReplacedId, ReplacedIdStatus};

/// The most items that are looked at for one key: those that its session has left, and some twice
/// because it moved meanwhile.
const STEPS: usize = ReplacedId::MAX + 8;

/// What a key leads to.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) loaded: Loaded,
    /// The item that holds the session: live, undecodable, or past its deadline and so absent.
    pub(super) place: Option<Place>,
}

/// An item, in the version in which it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) key: SessionKey,
    pub(super) stamp: Stamp,
}

impl Found {
    fn nothing(loaded: Loaded) -> Self {
        Found { loaded, place: None }
    }
}

impl Inner {
    pub(super) fn find(
        &self,
        key: &SessionKey,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<Found> {
        // Where the session may be, what is remembered of the key asked for, and how many keys the
        // session has had since.
        let (mut at, mut replaced, mut later) = (*key, None::<ReplacedId>, 0);
        for _ in 0..STEPS {
            let Some(item) = self.client.get(Space::Sessions, &at, doing)? else {
                return Ok(Found::nothing(Loaded::Absent));
            };
            let place = Place { key: at, stamp: item.stamp };
            match self.read(&item) {
                Ok(None) => return Ok(Found::nothing(Loaded::Absent)),
                Err(error) => return Ok(undecodable(place, error)),
                Ok(Some(State::Live(record))) => return Ok(live(place, record, replaced, now)),
                Ok(Some(State::Left(way))) => {
                    if way.leads_nowhere || way.begins_session && replaced.is_some() {
                        return Ok(Found::nothing(Loaded::Absent));
                    }
                    let id = way.replaced_id(at);
                    let first = replaced.get_or_insert(id);
                    if id.ends_graces() {
                        *first = first.without_grace();
                    }
                    if later == ReplacedId::MAX || first.status(now) == ReplacedIdStatus::Forgotten
                    {
                        return Ok(Found::nothing(Loaded::Absent));
                    }
                    (at, later) = (way.to, later + 1);
                }
                Ok(Some(State::Moved(way, record))) => {
                    self.arrive(place, &way, record, now, doing)?;
                }
                Ok(Some(State::Arriving(from))) => {
                    if !self.has_set_out(&from, &at, now, doing)? {
                        return Ok(Found::nothing(Loaded::Absent));
                    }
                }
            }
        }
        Err(Error::with_source(ErrorKind::Busy, doing, "the session keeps moving"))
    }

    /// The last two steps of a move, by whoever comes along. The session lives from the moment at
    /// which its old key said [`Moved`](State::Moved); here it is put where it lives.
    ///
    /// Only what was [`Arriving`](State::Arriving) becomes live, and in that very version. Nobody
    /// adds it: a session that has been ended at its new key meanwhile stays ended, however late
    /// this comes.
    pub(super) fn arrive(
        &self,
        old: Place,
        way: &Way,
        record: Record,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<()> {
        if let Some(item) = self.client.get(Space::Sessions, &way.to, doing)?
            && let Ok(Some(State::Arriving(from))) = self.read(&item)
            && from == old.key
        {
            self.settle(way.to, item.stamp, record, now, doing)?;
        }
        self.leave(old, way, now, doing)
    }

    pub(super) fn settle(
        &self,
        to: SessionKey,
        arriving: Stamp,
        record: Record,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<Written> {
        let life = life_of(&record, now);
        let value = State::Live(record).encode();
        let new = Replacement { key: to, stamp: arriving, value, life };
        self.client.replace(Space::Sessions, &new, doing)
    }

    pub(super) fn leave(
        &self,
        old: Place,
        way: &Way,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<()> {
        let value = State::Left(*way).encode();
        let life = life(way.replaced_id(old.key).forget_at(), now);
        let new = Replacement { key: old.key, stamp: old.stamp, value, life };
        // Somebody who was faster has done the same.
        self.client.replace(Space::Sessions, &new, doing).map(drop)
    }

    /// Remembers a key that was left before in place of what its item says. That the session has
    /// moved is done by then: where this fails, the key leads there by the way that it led before.
    /// Where the session began there, the keys of the one before lead no further, as they did not.
    pub(super) fn remember_anew(&self, key: &SessionKey, way: Way, now: Timestamp) {
        const DOING: &str = "remember a replaced key";
        if let Ok(Some(item)) = self.client.get(Space::Sessions, key, DOING)
            && let Ok(Some(State::Left(before))) = self.read(&item)
        {
            let way = Way { begins_session: way.begins_session || before.begins_session, ..way };
            let place = Place { key: *key, stamp: item.stamp };
            let _ = self.leave(place, &way, now, DOING);
        }
    }

    /// Whether a session is on its way from `from` to `to`. If so, it has arrived when this
    /// returns.
    fn has_set_out(
        &self,
        from: &SessionKey,
        to: &SessionKey,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<bool> {
        let Some(item) = self.client.get(Space::Sessions, from, doing)? else { return Ok(false) };
        let stamp = item.stamp;
        match self.read(&item) {
            Ok(Some(State::Moved(way, record))) if way.to == *to => {
                self.arrive(Place { key: *from, stamp }, &way, record, now, doing)?;
                Ok(true)
            }
            // It arrived between the two looks.
            Ok(Some(State::Left(way))) => Ok(way.to == *to),
            _ => Ok(false),
        }
    }

    /// Whether an item is nothing of ours, so that something may be put in its place.
    pub(super) fn is_garbage(&self, item: &Item) -> bool {
        matches!(self.read(item), Ok(None))
    }
}

/// What is found where the session lives, by a key that was perhaps replaced.
fn live(place: Place, record: Record, replaced: Option<ReplacedId>, now: Timestamp) -> Found {
    let key = place.key;
    let remembered = |id: &ReplacedId| id.status(now) == ReplacedIdStatus::Remembered;
    let loaded = match replaced.filter(remembered) {
        _ if !record.is_live(now) => Loaded::Absent,
        Some(id) => Loaded::Replaced { id, record, key },
        None => Loaded::Live { record, key },
    };
    Found { loaded, place: Some(place) }
}

fn undecodable(place: Place, error: Error) -> Found {
    Found { loaded: Loaded::Undecodable { handle: None, error }, place: Some(place) }
}
