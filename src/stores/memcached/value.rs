//! Encoding of values in memcached: a format byte, a kind byte, the id hash, and a body. The id
//! hash says whose value it is: under the key of another session it is not taken for that one's.

use crate::backend::{CacheEntry, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::data::CsrfSecret;
use crate::error::{Error, ErrorKind};
use crate::id::{JoinSalt, SessionIdHash};
use crate::record::Record;

/// The format that this version writes. Formats above it, up to [`LAST_FORMAT`], are those of newer
/// versions. Any other first byte marks a foreign value.
const FORMAT: u8 = 1;
const LAST_FORMAT: u8 = 31;

/// The state of a session's item.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
pub(super) enum ItemState {
    /// A live session.
    Live(Record),
    /// The item's id is reserved for the session with this current id. It becomes the session's id
    /// when the item of the current one is [`Moved`](ItemState::Moved).
    Reserved(SessionIdHash),
    /// The session was moved. Its record must still be stored under the new id.
    Moved(Redirect, Record),
    /// The session was moved, and its record is stored under the new id.
    Redirected(Redirect),
}

/// What is remembered of a replaced id, with its successor. The item is stored under the replaced
/// id itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) to: SessionIdHash,
    pub(super) replaced_at: Timestamp,
    pub(super) by: ReplacedBy,
    pub(super) had_user: bool,
    pub(super) csrf_secret: Option<CsrfSecret>,
    /// The successor is the id of a new session, as at the sign-in of another user. Older ids of
    /// the previous session do not find it.
    pub(super) to_new_session: bool,
    /// The id that the sign-in presented, if that is not the id of this item but an earlier one of
    /// the session. A sign-in through an older id B replaces the current id C. C's redirect names B
    /// here, so that a lookup that begins at B treats B as replaced by that sign-in.
    pub(super) presented: Option<SessionIdHash>,
}

impl Redirect {
    /// Makes the redirect from the id `replaced`.
    pub(super) fn of(replaced: &ReplacedId) -> Self {
        let ReplacedId { successor: to, replaced_at, by, had_user, csrf_secret, .. } = *replaced;
        let (to_new_session, presented) = (false, None);
        Redirect { to, replaced_at, by, had_user, csrf_secret, to_new_session, presented }
    }

    /// Makes the redirect from the id `previous`, which a sign-in through the earlier id
    /// `presented` has replaced, to the same session.
    pub(super) fn of_sign_in_through(presented: &ReplacedId, previous: &ReplacedId) -> Self {
        let csrf_secret = previous.csrf_secret;
        Redirect { presented: Some(presented.id_hash), csrf_secret, ..Redirect::of(presented) }
    }

    /// Makes the redirect from `id_hash` to a new session, created by a sign-in through the id
    /// `presented`.
    pub(super) fn to_new(presented: &ReplacedId, id_hash: SessionIdHash) -> Self {
        let other = (presented.id_hash != id_hash).then_some(presented.id_hash);
        Redirect { to_new_session: true, presented: other, ..Redirect::of(presented) }
    }

    /// Returns whether the id finds no session: only the presented id finds a new session.
    pub(super) fn finds_no_session(&self) -> bool {
        self.to_new_session && self.presented.is_some()
    }

    /// Returns the replaced id of a redirect that is stored under `id_hash`.
    pub(super) fn replaced_id(&self, id_hash: SessionIdHash) -> ReplacedId {
        let Redirect { to, replaced_at, mut by, had_user, csrf_secret, presented, .. } = *self;
        if let ReplacedBy::SignIn { salt } = &mut by
            && presented.is_some_and(|presented| presented != id_hash)
        {
            // The salt belongs to the presented id.
            *salt = None;
        }
        ReplacedId { id_hash, successor: to, replaced_at, by, had_user, csrf_secret }
    }
}

/// Why a value cannot be decoded to an [`ItemState`].
#[derive(Debug)]
pub(super) enum UnreadableValue {
    /// A value of this program that this version cannot decode, perhaps of a newer version.
    Undecodable(Error),
    /// A foreign value.
    Foreign(Error),
}

const READING: &str = "read a value from memcached";

impl UnreadableValue {
    fn foreign(why: &'static str) -> Self {
        UnreadableValue::Foreign(Error::with_source(ErrorKind::Undecodable, READING, why))
    }

    fn newer(format: u8) -> Self {
        let why = format!("its format is {format}, this version reads {FORMAT}");
        UnreadableValue::Undecodable(Error::with_source(ErrorKind::Undecodable, READING, why))
    }
}

impl ItemState {
    /// Encodes the state of the item of `id_hash`.
    pub(super) fn encode(&self, id_hash: &SessionIdHash) -> Vec<u8> {
        match self {
            ItemState::Live(record) => join(b'L', id_hash, &[record.to_json().as_bytes()]),
            ItemState::Reserved(from) => join(b'A', id_hash, &[from.as_bytes()]),
            ItemState::Moved(redirect, record) => {
                join(b'M', id_hash, &[&redirect.encode(), record.to_json().as_bytes()])
            }
            ItemState::Redirected(redirect) => join(b'F', id_hash, &[&redirect.encode()]),
        }
    }

    /// Decodes the value of the item of `id_hash`.
    pub(super) fn decode(
        value: &[u8],
        id_hash: &SessionIdHash,
    ) -> Result<ItemState, UnreadableValue> {
        let make_error = || UnreadableValue::foreign("it ends too early");
        match split(value, id_hash)? {
            (b'L', body) => record(body).map(ItemState::Live),
            (b'A', body) => {
                let from = body.try_into().map_err(|_| make_error())?;
                Ok(ItemState::Reserved(SessionIdHash::from_bytes(from)))
            }
            (b'M', body) => {
                let (redirect, body) = Redirect::decode(body).ok_or_else(make_error)?;
                Ok(ItemState::Moved(redirect, record(body)?))
            }
            (b'F', body) => match Redirect::decode(body).ok_or_else(make_error)? {
                (redirect, []) => Ok(ItemState::Redirected(redirect)),
                _ => Err(UnreadableValue::foreign("bytes follow its end")),
            },
            _ => Err(UnreadableValue::foreign("its kind is unknown")),
        }
    }
}

impl Redirect {
    /// Encodes the new id, the time, the kind of replacement, the flags, the end of the grace, the
    /// salt, the presented id and the CSRF secret, each of a fixed length.
    fn encode(&self) -> Vec<u8> {
        let (by, grace, salt) = match &self.by {
            ReplacedBy::Renewal { grace_until } => (b'R', *grace_until, None),
            ReplacedBy::SignIn { salt: None } => (b'I', None, None),
            ReplacedBy::SignIn { salt } => (b'J', None, salt.as_ref()),
        };
        let grace = grace.map_or(i64::MIN, Timestamp::as_millis);
        let flags = u8::from(self.had_user)
            | u8::from(self.to_new_session) << 1
            | u8::from(self.presented.is_some()) << 2
            | u8::from(self.csrf_secret.is_some()) << 3;
        [
            &self.to.as_bytes()[..],
            &self.replaced_at.as_millis().to_be_bytes(),
            &[by, flags],
            &grace.to_be_bytes(),
            salt.map_or(&[0; 32][..], |salt| salt.as_bytes()),
            self.presented.as_ref().map_or(&[0; 32][..], |id_hash| id_hash.as_bytes()),
            self.csrf_secret.as_ref().map_or(&[0; 32][..], |secret| secret.as_bytes()),
        ]
        .concat()
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (to, rest) = bytes.split_first_chunk::<32>()?;
        let (replaced_at, rest) = rest.split_first_chunk::<8>()?;
        let ([by, flags @ 0..=15], rest) = rest.split_first_chunk::<2>()? else { return None };
        let (grace, rest) = rest.split_first_chunk::<8>()?;
        let (salt, rest) = rest.split_first_chunk::<32>()?;
        let (presented, rest) = rest.split_first_chunk::<32>()?;
        let (csrf_secret, rest) = rest.split_first_chunk::<32>()?;
        let grace = i64::from_be_bytes(*grace);
        let by = match by {
            b'R' => ReplacedBy::Renewal {
                grace_until: (grace != i64::MIN).then_some(Timestamp::from_millis(grace)),
            },
            b'I' => ReplacedBy::SignIn { salt: None },
            b'J' => ReplacedBy::SignIn { salt: Some(JoinSalt::from_bytes(*salt)) },
            _ => return None,
        };
        let redirect = Redirect {
            to: SessionIdHash::from_bytes(*to),
            replaced_at: Timestamp::from_millis(i64::from_be_bytes(*replaced_at)),
            by,
            had_user: flags & 1 != 0,
            csrf_secret: (flags & 8 != 0).then_some(CsrfSecret::from_bytes(*csrf_secret)),
            to_new_session: flags & 2 != 0,
            presented: (flags & 4 != 0).then_some(SessionIdHash::from_bytes(*presented)),
        };
        Some((redirect, rest))
    }
}

/// Encodes the cache entry of `id_hash`, with the time at which the backing store was read.
pub(super) fn encode_entry(entry: &CacheEntry, id_hash: &SessionIdHash) -> Vec<u8> {
    let read = entry.read.as_millis().to_be_bytes();
    join(b'E', id_hash, &[&read, entry.record.to_json().as_bytes()])
}

pub(super) fn decode_entry(
    value: &[u8],
    id_hash: &SessionIdHash,
) -> Result<CacheEntry, UnreadableValue> {
    let (b'E', body) = split(value, id_hash)? else {
        return Err(UnreadableValue::foreign("its kind is unknown"));
    };
    let Some((read, body)) = body.split_first_chunk::<8>() else {
        return Err(UnreadableValue::foreign("it ends too early"));
    };
    Ok(CacheEntry::new(record(body)?, Timestamp::from_millis(i64::from_be_bytes(*read))))
}

/// Joins the parts of a value.
fn join(kind: u8, id_hash: &SessionIdHash, body: &[&[u8]]) -> Vec<u8> {
    [&[FORMAT, kind], &id_hash.as_bytes()[..], &body.concat()].concat()
}

/// Splits a value of this format and this id hash into kind and body.
fn split<'v>(value: &'v [u8], id_hash: &SessionIdHash) -> Result<(u8, &'v [u8]), UnreadableValue> {
    match value {
        [FORMAT, kind, rest @ ..] => match rest.strip_prefix(id_hash.as_bytes().as_slice()) {
            Some(body) => Ok((*kind, body)),
            None => Err(UnreadableValue::foreign("it belongs to another id")),
        },
        [format, ..] if (FORMAT + 1..=LAST_FORMAT).contains(format) => {
            Err(UnreadableValue::newer(*format))
        }
        _ => Err(UnreadableValue::foreign("its first byte is not that of a value of cloakroom")),
    }
}

fn record(body: &[u8]) -> Result<Record, UnreadableValue> {
    let text = std::str::from_utf8(body).map_err(|source| {
        UnreadableValue::Undecodable(Error::with_source(ErrorKind::Undecodable, READING, source))
    })?;
    Record::from_json(text).map_err(UnreadableValue::Undecodable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const KEY: SessionIdHash = SessionIdHash::from_bytes([7; 32]);

    fn a_record() -> Record {
        Record::create(&NewSession::new(Lifetime::default().limits_from(NOW)).unwrap(), NOW)
    }

    fn states() -> Vec<ItemState> {
        let by = ReplacedBy::Renewal { grace_until: None };
        let had_user = true;
        let csrf_secret = None;
        let to_new_session = false;
        let presented = None;
        let redirect = Redirect {
            to: KEY,
            replaced_at: NOW,
            by,
            had_user,
            csrf_secret,
            to_new_session,
            presented,
        };
        let by = ReplacedBy::Renewal { grace_until: Some(NOW + ReplacedId::REMEMBERED) };
        let csrf_secret = Some(CsrfSecret::from_bytes([3; 32]));
        let graced =
            Redirect { by, had_user: false, csrf_secret, to_new_session: true, ..redirect };
        let sign_in = |salt| Redirect { by: ReplacedBy::SignIn { salt }, ..redirect };
        vec![
            ItemState::Live(a_record()),
            ItemState::Reserved(KEY),
            ItemState::Moved(redirect, a_record()),
            ItemState::Moved(graced, a_record()),
            ItemState::Redirected(redirect),
            ItemState::Redirected(graced),
            ItemState::Redirected(sign_in(None)),
            ItemState::Moved(sign_in(Some(JoinSalt::from_bytes([9; 32]))), a_record()),
            ItemState::Redirected(Redirect { presented: Some(KEY), ..sign_in(None) }),
        ]
    }

    #[test]
    fn every_state_survives_its_encoding() {
        for state in states() {
            assert_eq!(ItemState::decode(&state.encode(&KEY), &KEY).unwrap(), state);
        }
        let entry = CacheEntry::new(a_record(), NOW);
        assert_eq!(decode_entry(&encode_entry(&entry, &KEY), &KEY).unwrap(), entry);
    }

    #[test]
    fn truncated_and_foreign_values_are_refused() {
        for state in states() {
            let value = state.encode(&KEY);
            for end in 0..value.len() {
                assert!(ItemState::decode(&value[..end], &KEY).is_err(), "{state:?} cut at {end}");
                assert!(decode_entry(&value[..end], &KEY).is_err());
            }
        }
        for foreign in [&b""[..], b"\0", b"\x01", b"\x01?", b"{}", b"hello", b"\xff\xff", b"\x01Lx"]
        {
            assert!(ItemState::decode(foreign, &KEY).is_err(), "{foreign:?}");
            assert!(decode_entry(foreign, &KEY).is_err(), "{foreign:?}");
        }
    }

    #[test]
    fn a_value_of_another_id_is_foreign() {
        let other = SessionIdHash::from_bytes([8; 32]);
        let is_foreign = |error| matches!(error, UnreadableValue::Foreign(_));
        for state in states() {
            assert!(is_foreign(ItemState::decode(&state.encode(&other), &KEY).unwrap_err()));
        }
        let entry = encode_entry(&CacheEntry::new(a_record(), NOW), &other);
        assert!(is_foreign(decode_entry(&entry, &KEY).unwrap_err()));
    }

    #[test]
    fn a_value_of_a_newer_format_is_not_foreign() {
        for value in [&b"\x02Lwhatever"[..], b"\x02", b"\x1f"] {
            assert!(
                matches!(ItemState::decode(value, &KEY), Err(UnreadableValue::Undecodable(_))),
                "{value:?}"
            );
            assert!(
                matches!(decode_entry(value, &KEY), Err(UnreadableValue::Undecodable(_))),
                "{value:?}"
            );
        }
        let newer = a_record().to_json().replace("\"format\":1", "\"format\":2");
        let value = [&b"\x01L"[..], KEY.as_bytes(), newer.as_bytes()].concat();
        assert!(matches!(ItemState::decode(&value, &KEY), Err(UnreadableValue::Undecodable(_))));
    }

    #[test]
    fn a_changed_value_is_refused_or_read_the_same_every_time() {
        let mut values: Vec<_> = states().iter().map(|state| state.encode(&KEY)).collect();
        values.push(encode_entry(&CacheEntry::new(a_record(), NOW), &KEY));
        let change = (any::<Index>(), 0_usize..9, prop::collection::vec(any::<u8>(), 0..9));
        let changes = (0..values.len(), prop::collection::vec(change, 0..5));
        let cases = std::env::var("CLOAKROOM_FUZZ").map_or(2000, |count| count.parse().unwrap());
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let run = TestRunner::new(config).run(&changes, |(value, changes)| {
            let mut value = values[value].clone();
            for (offset, removed, new) in changes {
                let offset = offset.index(value.len() + 1);
                value.splice(offset..(offset + removed).min(value.len()), new);
            }
            if let Ok(state) = ItemState::decode(&value, &KEY) {
                assert_eq!(ItemState::decode(&state.encode(&KEY), &KEY).unwrap(), state);
                if let ItemState::Moved(redirect, _) | ItemState::Redirected(redirect) = state {
                    // No time causes an overflow.
                    let id = redirect.replaced_id(KEY);
                    let _ = (id.forget_at(), id.is_in_grace(NOW), id.overlaps(NOW));
                }
            }
            if let Ok(entry) = decode_entry(&value, &KEY) {
                assert_eq!(decode_entry(&encode_entry(&entry, &KEY), &KEY).unwrap(), entry);
            }
            Ok(())
        });
        run.unwrap();
    }
}
