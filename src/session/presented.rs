//! The ids that a request presents.
//!
//! Invariant: finding them does no I/O, and at most `MAX_IDS` distinct ids count.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::cookie::{CookieConfig, OVERWRITTEN};
use crate::id::{RealmTag, SessionId, SessionIdHash};
use crate::message::{RequestHead, SmallList};
use crate::session::Session;
use crate::settings::{IdCarrier, IdSettings};

/// An id that a request presents.
#[derive(Clone, Debug)]
pub(crate) struct PresentedId {
    pub(crate) id: SessionId,
    pub(crate) sealed_with_old_key: bool,
    /// The cookie has a former name.
    pub(crate) by_former_cookie: bool,
}

/// The ids that a request presents, within the bounds below.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented {
    /// The distinct ids in the order of the request, those of former names last.
    pub(crate) ids: SmallList<PresentedId, 4>,
    /// The hash of the first malformed id, if there was one.
    pub(crate) malformed_hash: Option<u64>,
    /// Whether the request exceeded a bound.
    pub(crate) too_many: bool,
}

impl Presented {
    /// The maximum number of distinct ids that are looked up, and of distinct values that are
    /// unsealed. A browser presents one; further ones may be planted by other hosts or paths.
    const MAX_IDS: usize = 16;

    /// The maximum number of cookies of the session cookie's name that are examined, well-formed or
    /// not. Cookies of other names do not count, so only a host that can plant one of this name can
    /// hide the id.
    const MAX_COOKIES: usize = 256;

    /// The number of bytes of a malformed id that are hashed.
    const MAX_HASHED: usize = 4096;

    /// Finds the ids of a request. Does no I/O, and allocates only if there are many.
    pub(crate) fn of(settings: &IdSettings, head: &RequestHead<'_>) -> Presented {
        let mut presented = Presented::default();
        match &settings.carrier {
            IdCarrier::Cookie(cookie) => {
                let former = settings.former_cookies.iter().map(|cookie| (cookie, true));
                for (cookie, by_former_cookie) in std::iter::once((cookie, false)).chain(former) {
                    let fields = head.cookies.iter().copied();
                    let fields = fields.filter(|field| field.contains(&cookie.name));
                    presented.look_in_cookies(cookie, by_former_cookie, fields);
                }
            }
            IdCarrier::Header(_) => {
                for text in head.ids.iter() {
                    let read = SessionId::parse(text).map(|id| PresentedId {
                        id,
                        sealed_with_old_key: false,
                        by_former_cookie: false,
                    });
                    presented.add(text, read);
                }
            }
        }
        presented
    }

    /// Searches the `Cookie` fields of a request for ids.
    fn look_in_cookies<'r>(
        &mut self,
        cookie: &CookieConfig,
        by_former_cookie: bool,
        fields: impl Iterator<Item = &'r str>,
    ) {
        let mut unsealed: SmallList<&str, 4> = SmallList::default();
        let values = fields.flat_map(|field| cookie.values(field));
        for (number, value) in values.enumerate() {
            if number == Self::MAX_COOKIES {
                self.too_many = true;
                break;
            }
            // Some clients keep an empty value after a removal.
            if value.is_empty() || value == OVERWRITTEN {
                continue;
            }
            if cookie.is_sealed() {
                if unsealed.iter().any(|earlier| *earlier == value) {
                    continue;
                }
                if unsealed.len() == Self::MAX_IDS {
                    self.too_many = true;
                    break;
                }
                unsealed.push(value);
            }
            let read = cookie.read(value);
            // Nothing would replace such a value, so each request would report it as malformed.
            if by_former_cookie && read.is_none() {
                continue;
            }
            self.add(
                value,
                read.map(|(id, sealed_with_old_key)| PresentedId {
                    id,
                    sealed_with_old_key,
                    by_former_cookie,
                }),
            );
            if self.too_many {
                break;
            }
        }
    }

    fn add(&mut self, text: &str, read: Option<PresentedId>) {
        match read {
            None => {
                self.malformed_hash.get_or_insert_with(|| {
                    let start = text.as_bytes().chunks(Self::MAX_HASHED).next();
                    BuildHasherDefault::<DefaultHasher>::default().hash_one((start, text.len()))
                });
            }
            Some(new) if self.ids.iter().any(|known| known.id == new.id) => {}
            Some(_) if self.ids.len() == Self::MAX_IDS => self.too_many = true,
            Some(read) => self.ids.push(read),
        }
    }

    /// Returns whether the request presented neither an id nor a malformed one.
    pub(crate) fn is_empty(&self) -> bool {
        self.malformed_hash.is_none() && self.ids.is_empty()
    }

    pub(crate) fn id_hashes(&self, realm: RealmTag) -> impl Iterator<Item = SessionIdHash> {
        self.ids.iter().map(move |presented| presented.id.hash(realm))
    }
}

impl Session {
    /// Returns the id of this hash, if it was presented or is the one that this request issued.
    pub(super) fn find_id(
        &self,
        issued: Option<&SessionId>,
        id_hash: &SessionIdHash,
    ) -> Option<SessionId> {
        let presented = self.presented.ids.iter().map(|presented| &presented.id);
        let mut ids = issued.into_iter().chain(presented);
        ids.find(|id| id.hash(self.realm_tag()) == *id_hash).cloned()
    }

    /// Returns whether the id of this hash was presented under a former name of the cookie.
    pub(super) fn has_former_cookie(&self, id_hash: &SessionIdHash) -> bool {
        let mut presented = self.presented.ids.iter();
        presented.any(|it| it.by_former_cookie && it.id.hash(self.realm_tag()) == *id_hash)
    }
}
