//! What a copy of all sessions moves from one SQL store to another, and how it is compared.
//!
//! The command `cloakroom copy` makes such copies. A program of your own reads pages by
//! [`Admin::export`](crate::stores::admin::Admin::export), and writes batches by
//! [`Admin::import`](crate::stores::admin::Admin::import). The target stores a [`CopyMark`], which
//! shows whether another program has changed it meanwhile.

// A run compares source and target in the order of their row numbers, which are copied too, and
// writes the differences. A stored cursor would not show what has changed behind it, and sessions
// that have ended since could return.
//
// A copy must not overwrite the sessions of a service that uses the target already. Before a run
// writes anything, it compares the mark with the sessions of the target. Each batch compares the
// stored mark with the one that it expects and changes it, in its own transaction, so a second copy
// at the same time fails. Between two runs an id can move to another session of the source, so a
// session of the target gives way to a copied one with the same row number, id, public id or
// replaced id.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::backend::{LiveSession, ReplacedBy, ReplacedId, StoreIdentity};
use crate::clock::Timestamp;
use crate::data::CsrfSecret;
use crate::error::Error;
use crate::id::{JoinSalt, PublicId, SessionIdHash};

/// A session as a store keeps it, which may have expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// Its place in the lists of its store, where newer sessions have higher numbers.
    pub position: i64,
    /// The record and the hash of the current id.
    pub session: LiveSession,
    /// The stored deadline, which decides. It can be earlier than the limits of the record say: the
    /// session was ended while another table keeps its row, or an operator has changed it.
    pub deadline: Timestamp,
    /// The replaced ids that the store remembers, in the order of their replacement.
    pub replaced: Vec<ReplacedId>,
}

impl StoredSession {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.position.to_be_bytes());
        hash.update(self.session.id_hash.as_bytes());
        hash.update(self.deadline.as_millis().to_be_bytes());
        for id in &self.replaced {
            hash.update(id.id_hash.as_bytes());
            hash.update(id.successor.as_bytes());
            hash.update(id.replaced_at.as_millis().to_be_bytes());
            let (kind, grace_until, salt) = match &id.by {
                ReplacedBy::Renewal { grace_until } => (0, *grace_until, None),
                ReplacedBy::SignIn { salt } => (1, None, salt.as_ref().map(JoinSalt::as_bytes)),
            };
            let grace_until = grace_until.map_or(i64::MIN, Timestamp::as_millis);
            let csrf_secret = id.csrf_secret.as_ref().map(CsrfSecret::as_bytes);
            hash.update([kind]);
            hash.update([id.had_user, salt.is_some(), csrf_secret.is_some()].map(u8::from));
            hash.update(grace_until.to_be_bytes());
            hash.update(salt.unwrap_or(&[0; 32]));
            hash.update(csrf_secret.unwrap_or(&[0; 32]));
        }
        // The last part, because its length varies.
        hash.update(self.session.record.to_json());
        hash.finalize().into()
    }
}

/// Consecutive sessions of a store, by their positions.
#[derive(Clone, Debug, Default)]
pub struct StoredPage {
    /// The sessions that decode.
    pub sessions: Vec<StoredSession>,
    /// The public ids of the sessions that do not decode, with their errors.
    pub undecodable: Vec<(PublicId, Error)>,
    /// The last position of the page; `None` if no session comes after it.
    pub last: Option<i64>,
}

/// Changes of a target: one transaction.
#[derive(Clone, Debug, Default)]
pub struct CopyBatch {
    /// Sessions to insert, in place of those with the same position, id, public id or replaced id.
    pub sessions: Vec<StoredSession>,
    /// The positions of sessions to remove, because the source has them no longer.
    pub ended: Vec<i64>,
}

/// The number of sessions, and the sum of their checksums in any order. Sums are equal if all
/// sessions and their replaced ids are equal, and with negligible probability otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySum {
    sessions: u64,
    sum: [u64; 4],
}

impl CopySum {
    /// Adds a session.
    pub fn add(&mut self, stored: &StoredSession) {
        self.sessions = self.sessions.wrapping_add(1);
        self.combine(stored, u64::wrapping_add);
    }

    /// Subtracts a session that was added.
    pub fn subtract(&mut self, stored: &StoredSession) {
        self.sessions = self.sessions.wrapping_sub(1);
        self.combine(stored, u64::wrapping_sub);
    }

    fn combine(&mut self, stored: &StoredSession, combine: fn(u64, u64) -> u64) {
        for (part, digest) in self.sum.iter_mut().zip(stored.digest().chunks(8)) {
            *part = combine(*part, digest.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
        }
    }

    /// Returns the number of sessions.
    #[must_use]
    pub const fn sessions(self) -> u64 {
        self.sessions
    }

    /// Returns the checksum as 64 hexadecimal digits.
    #[must_use]
    pub fn checksum(self) -> String {
        self.sum.iter().map(|part| format!("{part:016x}")).collect()
    }
}

/// The state of a copy, which its target keeps and changes with every batch: a target whose
/// sessions have another sum was changed by another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyMark {
    /// The identity of the source.
    pub source: StoreIdentity,
    /// The sum of the sessions in the target.
    pub sum: CopySum,
}

impl CopyMark {
    /// Makes the mark of an empty target.
    #[must_use]
    pub fn new(source: StoreIdentity) -> Self {
        CopyMark { source, sum: CopySum::default() }
    }

    /// The name under which the stores keep the mark.
    pub(crate) const NAME: &str = "copy";

    /// Parses the text that `Display` writes; `None` for another text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let source = u128::from_str_radix(words.next()?, 16).ok()?.to_be_bytes();
        let sessions = words.next()?.parse().ok()?;
        let digits = words.next()?;
        let mut sum = [0; 4];
        for (index, part) in sum.iter_mut().enumerate() {
            *part = u64::from_str_radix(digits.get(index * 16..index * 16 + 16)?, 16).ok()?;
        }
        let source = StoreIdentity::from_bytes(source);
        Some(CopyMark { source, sum: CopySum { sessions, sum } })
    }
}

/// Writes the mark as the stores keep it.
impl fmt::Display for CopyMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CopyMark { source: StoreIdentity(source), sum } = self;
        write!(f, "{:032x} {} {}", u128::from_be_bytes(*source), sum.sessions, sum.checksum())
    }
}

impl CopyBatch {
    /// Returns the hashes that its sessions need for themselves: of current and replaced ids.
    pub(crate) fn id_hashes(&self) -> impl Iterator<Item = &SessionIdHash> {
        self.sessions.iter().flat_map(|stored| {
            let replaced = stored.replaced.iter().map(|id| &id.id_hash);
            [&stored.session.id_hash].into_iter().chain(replaced)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_parsed_as_it_is_written() {
        let sum = CopySum { sessions: 3, sum: [0, 1, u64::MAX, 0x1234_5678_9abc_def0] };
        let mark = CopyMark { source: StoreIdentity::from_bytes([7; 16]), sum };
        assert_eq!(CopyMark::parse(&mark.to_string()), Some(mark));
        for other in ["", "7", "7 3", "7 3 12", "x 3 12"] {
            assert_eq!(CopyMark::parse(other), None, "{other}");
        }
    }
}
