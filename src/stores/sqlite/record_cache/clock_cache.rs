//! Sessions in memory, as many as a budget allows; who was not asked for goes first.

use crate::backend::key_map::IdHashMap;
use crate::clock::Timestamp;
use crate::id::{IdpSessionId, SessionIdHash, UserKey};
use crate::record::Record;

/// What a session takes besides its texts: its slot, its place in the index, and what the
/// allocator adds.
const OVERHEAD: usize = size_of::<Slot>() + 128;

/// Records by key. When the budget is used up, a hand goes round and takes out the first that
/// nobody has asked for since it came by (the "clock", or second chance, of page caches).
#[derive(Debug)]
pub(super) struct Slots {
    budget: usize,
    weight: usize,
    hand: usize,
    /// Of the sessions whose deadline had passed by then some were swept. Nobody knows which, so
    /// none of them is believed, not even by a clock that has been set back since.
    swept: Option<Timestamp>,
    /// Where to look next for one of those.
    broom: usize,
    places: IdHashMap<usize>,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    id_hash: SessionIdHash,
    session: Hot,
    weight: usize,
    asked_for: bool,
}

/// A session as its row is, and which row that is.
#[derive(Clone, Debug)]
pub(in crate::stores::sqlite) struct Hot {
    pub(in crate::stores::sqlite) id: i64,
    pub(in crate::stores::sqlite) record: Record,
}

impl Hot {
    /// Whether it may be among the sessions that were swept because their deadline had passed by
    /// then.
    pub(super) fn may_be_swept(&self, swept: Option<Timestamp>) -> bool {
        Some(self.record.deadline()) <= swept
    }
}

impl Slots {
    /// No sessions, of which all together may take about `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        Slots {
            budget,
            weight: 0,
            hand: 0,
            swept: None,
            broom: 0,
            places: IdHashMap::default(),
            slots: Vec::new(),
        }
    }

    /// Takes everything out, to be dropped where nobody waits for it.
    pub(super) fn empty(&mut self) -> Self {
        let budget = self.budget;
        std::mem::replace(self, Slots::new(budget))
    }

    pub(super) fn get(&mut self, id_hash: &SessionIdHash) -> Option<&Hot> {
        let slot = self.slots.get_mut(*self.places.get(id_hash)?)?;
        if slot.session.may_be_swept(self.swept) {
            return None;
        }
        slot.asked_for = true;
        Some(&slot.session)
    }

    /// Some of the sessions whose deadline had passed by `then` are no more.
    pub(super) fn sweep(&mut self, then: Option<Timestamp>) {
        self.swept = self.swept.max(then);
    }

    pub(super) fn put(&mut self, id_hash: SessionIdHash, session: Hot) {
        let weight = weight(&session.record);
        if weight > self.budget / 8 {
            // It would drive too many others out.
            return self.remove(&id_hash);
        }
        match self.places.get(&id_hash).and_then(|place| self.slots.get_mut(*place)) {
            Some(slot) => {
                self.weight = self.weight - slot.weight + weight;
                (slot.session, slot.weight) = (session, weight);
            }
            None => {
                self.weight += weight;
                self.places.insert(id_hash, self.slots.len());
                self.slots.push(Slot { id_hash, session, weight, asked_for: false });
                self.tidy();
            }
        }
        while self.weight > self.budget {
            self.make_room();
        }
    }

    /// Records when a session that is kept was last seen.
    pub(super) fn seen(&mut self, id_hash: &SessionIdHash, seen: Timestamp) {
        let slot = self.places.get(id_hash).and_then(|place| self.slots.get_mut(*place));
        if let Some(slot) = slot {
            slot.session.record.seen = seen;
        }
    }

    /// Lets go of what is not believed any more. Two places for each session that comes: so it takes
    /// no time at once, and they are gone after about as many others have come.
    fn tidy(&mut self) {
        for _ in 0..2 {
            match self.slots.get(self.broom) {
                Some(slot) if slot.session.may_be_swept(self.swept) => {
                    let id_hash = slot.id_hash;
                    self.remove(&id_hash);
                }
                Some(_) => self.broom += 1,
                None => self.broom = 0,
            }
        }
    }

    fn make_room(&mut self) {
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        match self.slots.get_mut(self.hand) {
            Some(slot) if slot.asked_for => {
                slot.asked_for = false;
                self.hand += 1;
            }
            Some(slot) => {
                let id_hash = slot.id_hash;
                self.remove(&id_hash);
            }
            None => self.weight = 0,
        }
    }

    pub(super) fn remove(&mut self, id_hash: &SessionIdHash) {
        let Some(place) = self.places.remove(id_hash) else { return };
        if place < self.slots.len() {
            let slot = self.slots.swap_remove(place);
            self.weight = self.weight.saturating_sub(slot.weight);
        }
        // The last one has moved to where this one was.
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.id_hash, place);
        }
    }
}

/// About what a record takes in memory, in bytes.
fn weight(record: &Record) -> usize {
    let user = record.user.as_ref().map_or(0, |user| UserKey::as_str(user).len());
    let external =
        record.idp_session_id.as_ref().map_or(0, |id_hash| IdpSessionId::as_str(id_hash).len());
    let agent = record.client.as_ref().and_then(|client| client.user_agent.as_ref());
    let agent = agent.map_or(0, |agent| agent.len());
    OVERHEAD + user + external + agent + record.data.memory_size()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::data::Data;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    fn id_hash(number: u8) -> SessionIdHash {
        SessionIdHash::from_bytes([number; 32])
    }

    fn session(id: i64, bytes: usize) -> Hot {
        let now = Timestamp::from_millis(0);
        let new_session = NewSession::new(Lifetime::default().starting(now)).unwrap();
        let mut record = Record::create(&new_session, now);
        record.data = Data::from_json(&format!("{{\"data\":\"{}\"}}", "x".repeat(bytes))).unwrap();
        Hot { id, record }
    }

    #[test]
    fn what_may_have_been_swept_is_not_found_and_goes_as_others_come() {
        let deadline = session(0, 10).record.deadline();
        let later = |id| {
            let mut session = session(id, 10);
            session.record.seen = session.record.seen + Duration::from_secs(60);
            session
        };
        let mut slots = Slots::new(1 << 20);
        for number in 0..20 {
            slots.put(id_hash(number), if number % 2 == 0 { session(1, 10) } else { later(1) });
        }
        slots.sweep(Some(deadline - Duration::from_millis(1)));
        assert!((0..20).all(|number| slots.get(&id_hash(number)).is_some()));
        slots.sweep(Some(deadline));
        slots.sweep(None);
        let found = (0..20).filter(|number| slots.get(&id_hash(*number)).is_some());
        assert!(found.eq((0..20).filter(|number| number % 2 == 1)));
        (20..40).for_each(|number| slots.put(id_hash(number), later(1)));
        assert_eq!(kept(&mut slots).len(), 30);
        assert_eq!(slots.weight, 30 * weight(&later(1).record));
        assert!(kept(&mut slots).iter().all(|number| slots.get(&id_hash(*number)).is_some()));
        slots.put(id_hash(0), later(2));
        assert_eq!(slots.get(&id_hash(0)).unwrap().id, 2, "it may begin anew");
        slots.empty();
        slots.put(id_hash(1), session(1, 10));
        assert!(slots.get(&id_hash(1)).is_some(), "what is empty knows of no sweep");
    }

    fn kept(slots: &mut Slots) -> Vec<u8> {
        (0..=u8::MAX).filter(|number| slots.places.contains_key(&id_hash(*number))).collect()
    }

    #[test]
    fn who_was_asked_for_stays_and_the_budget_is_kept() {
        let one = weight(&session(0, 1000).record);
        let mut slots = Slots::new(one * 10);
        for number in 0..10 {
            slots.put(id_hash(number), session(i64::from(number), 1000));
        }
        assert_eq!(kept(&mut slots), (0..10).collect::<Vec<_>>());
        for number in [1, 4, 9] {
            assert_eq!(slots.get(&id_hash(number)).unwrap().id, i64::from(number));
        }
        for number in 10..17 {
            slots.put(id_hash(number), session(i64::from(number), 1000));
            assert!(slots.weight <= slots.budget);
        }
        let kept = kept(&mut slots);
        assert_eq!(kept.len(), 10);
        assert!([1, 4, 9].iter().all(|number| kept.contains(number)), "{kept:?}");
    }

    #[test]
    fn what_is_replaced_removed_or_too_large_is_not_found_and_weighs_nothing() {
        let mut slots = Slots::new(1 << 20);
        for number in 0..20 {
            slots.put(id_hash(number), session(1, 100));
        }
        slots.put(id_hash(3), session(2, 5000));
        assert_eq!(slots.get(&id_hash(3)).unwrap().id, 2);
        slots.put(id_hash(3), session(3, 1 << 18));
        assert!(slots.get(&id_hash(3)).is_none());
        for number in (0..20).rev() {
            slots.remove(&id_hash(number));
            slots.remove(&id_hash(number));
            assert!(slots.get(&id_hash(number)).is_none());
            let rest: Vec<u8> = (0..number).filter(|n| *n != 3).collect();
            assert_eq!(kept(&mut slots), rest);
            assert!(rest.iter().all(|n| slots.get(&id_hash(*n)).is_some()));
        }
        assert_eq!(slots.weight, 0);
    }

    #[test]
    fn emptied_it_has_its_budget_still() {
        let mut slots = Slots::new(1 << 20);
        slots.put(id_hash(1), session(1, 100));
        assert_eq!(kept(&mut slots.empty()), [1]);
        assert!(kept(&mut slots).is_empty());
        slots.put(id_hash(2), session(1, 100));
        assert_eq!(kept(&mut slots), [2]);
    }
}
