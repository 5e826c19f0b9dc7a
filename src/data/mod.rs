//! The data of a session: values by name, as JSON.
//!
//! Invariant: a value that [`Value::encode`] accepts can be decoded again.

mod csrf_secret;
mod encode;
mod finite;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

pub use csrf_secret::CsrfSecret;

/// The beginning of the names that only this crate uses.
pub(crate) const RESERVED_PREFIX: &str = "cloakroom.";

/// The name of the flash messages, which have a separate size limit.
pub(crate) const FLASHES: &str = "cloakroom.flash";

/// The name of the CSRF secret.
pub(crate) const CSRF_SECRET: &str = "cloakroom.csrf";

/// One value of a session, as JSON text. It owns the text or borrows it from the [`Data`] that
/// contains it. Cloning is cheap.
///
/// Two values are equal if their texts are equal. Encoding the same value twice results in equal
/// values for every type that serializes in a fixed order.
#[derive(Clone)]
pub struct Value<'d>(Text<'d>);

#[derive(Clone)]
enum Text<'d> {
    Borrowed(&'d str),
    Owned(Arc<str>),
}

impl Value<'static> {
    /// Encodes a value that serde can serialize.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] for a value that could not be decoded again: NaN and the
    /// infinities, which JSON cannot represent (RFC 8259, section 6), maps whose keys are not
    /// strings, numbers or booleans, and arrays and objects nested more than 127 deep.
    pub fn encode(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        encode::encode(value)
            .map(Value::owned)
            .map_err(|source| Error::with_source(ErrorKind::WrongType, ENCODE, source))
    }

    /// Makes the JSON array of these values.
    pub(crate) fn list<'v>(values: impl IntoIterator<Item = &'v Value<'v>>) -> Self {
        let mut text = String::from("[");
        for (index, value) in values.into_iter().enumerate() {
            text.push_str(if index > 0 { "," } else { "" });
            text.push_str(value.as_json());
        }
        text.push(']');
        Value::owned(text)
    }

    /// Encodes the value of `name`; an error contains the name.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(crate) fn encode_named(name: &str, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        encode::encode(value).map(Value::owned).map_err(|source| wrong_type(ENCODE, name, &source))
    }

    fn owned(json: String) -> Self {
        Value(Text::Owned(json.into()))
    }
}

const ENCODE: &str = "encode a session value";
const DECODE: &str = "decode a session value";

fn wrong_type(operation: &'static str, name: &str, why: &impl fmt::Display) -> Error {
    let why = format!("session value {name:?}: {why}");
    Error::with_source(ErrorKind::WrongType, operation, why)
}

impl Value<'_> {
    /// Decodes the value as a `T`.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when the value is not a `T`. The error contains nothing of the
    /// value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.as_json()).map_err(|source| {
            Error::with_source(ErrorKind::WrongType, DECODE, self.mismatch::<T>(&source))
        })
    }

    /// Decodes the value of `name`; an error contains the name.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(crate) fn decode_named<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(self.as_json())
            .map_err(|source| wrong_type(DECODE, name, &self.mismatch::<T>(&source)))
    }

    /// Returns the elements of this JSON array, the value of `name`; none for a null.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] for any other value.
    pub(crate) fn items(&self, name: &str) -> Result<Vec<Value<'_>>> {
        let items: Option<Vec<&RawValue>> =
            serde_json::from_str(self.as_json()).map_err(|source| {
                wrong_type(DECODE, name, &self.mismatch::<Vec<Value<'_>>>(&source))
            })?;
        let items = items.unwrap_or_default().into_iter();
        Ok(items.map(|item| Value(Text::Borrowed(item.get()))).collect())
    }

    /// Describes the expected and the found type, without the value, because errors are logged.
    fn mismatch<T>(&self, error: &serde_json::Error) -> String {
        let wanted = std::any::type_name::<T>();
        let found = match self.as_json().bytes().next() {
            Some(b'"') => "a string",
            Some(b'[') => "an array",
            Some(b'{') => "an object",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        };
        let line = error.line();
        let column = error.column();
        let is_inside = (line, column) > (1, 1) && matches!(found, "an array" | "an object");
        if is_inside {
            format!("expected {wanted}, found {found} that differs at line {line} column {column}")
        } else {
            format!("expected {wanted}, found {found}")
        }
    }

    /// Returns whether the value is JSON's `null`.
    pub(crate) fn is_null(&self) -> bool {
        self.as_json() == "null"
    }

    /// Returns the JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        match &self.0 {
            Text::Borrowed(text) => text,
            Text::Owned(text) => text,
        }
    }

    /// Returns the same value with an owned text, as [`Delta::set`](crate::delta::Delta::set) takes
    /// it.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        Value(Text::Owned(match self.0 {
            Text::Borrowed(text) => text.into(),
            Text::Owned(text) => text,
        }))
    }

    /// Borrows this value.
    pub(crate) fn borrowed(&self) -> Value<'_> {
        Value(Text::Borrowed(self.as_json()))
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Value<'_> {}

impl fmt::Debug for Value<'_> {
    /// Shows only the size, because logs must not contain session data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.as_json().len())
    }
}

/// The data of a session: values by name. Cloning is cheap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(Option<Arc<JsonObject>>);

/// A JSON object that is not empty, with its names sorted.
#[derive(PartialEq, Eq)]
struct JsonObject {
    json: String,
    /// Each name, without escapes, and where its value is in `json`.
    names: Vec<(Box<str>, Range<usize>)>,
}

impl JsonObject {
    fn value(&self, range: &Range<usize>) -> &str {
        self.json.get(range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Data {
    /// Makes the data of names and JSON values that are ordered by name.
    fn from_sorted(entries: &[(&str, &str)]) -> Self {
        let mut json = String::from("{");
        let mut names = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            json.push_str(if names.is_empty() { "" } else { "," });
            // A string always serializes.
            json.push_str(&serde_json::to_string(name).unwrap_or_default());
            json.push(':');
            let start = json.len();
            json.push_str(value);
            names.push(((*name).into(), start..json.len()));
        }
        json.push('}');
        Data((!names.is_empty()).then(|| Arc::new(JsonObject { json, names })))
    }

    /// Returns the value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        let object = self.0.as_deref()?;
        let index = object.names.binary_search_by(|(have, _)| (**have).cmp(name)).ok()?;
        let (_, range) = object.names.get(index)?;
        Some(Value(Text::Borrowed(object.value(range))))
    }

    /// Iterates over names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries().map(|(name, value)| (name, Value(Text::Borrowed(value))))
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let object = self.0.as_deref().into_iter();
        object.flat_map(|object| {
            object.names.iter().map(|(name, range)| (&**name, object.value(range)))
        })
    }

    /// Returns the data as a JSON object for operators, with `"(masked)"` in place of the CSRF
    /// secret, with which a reader could forge requests of the user. All other values are as they
    /// are stored; their control characters are not escaped.
    #[must_use]
    pub fn to_masked_json(&self) -> String {
        let masked =
            |(name, value)| (name, if name == CSRF_SECRET { "\"(masked)\"" } else { value });
        let entries: Vec<_> = self.entries().map(masked).collect();
        Data::from_sorted(&entries).as_json().to_owned()
    }

    /// Returns the number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |object| object.names.len())
    }

    /// Returns whether the data has no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the names that have a value in `changes`, and removes those that have none. Of the
    /// other names, those stay for which `keeps` returns true. `changes` is ordered by name.
    /// Returns false if the data is unchanged.
    pub(crate) fn change<'c>(
        &mut self,
        keeps: impl Fn(&str) -> bool,
        changes: impl Iterator<Item = (&'c str, Option<&'c str>)>,
    ) -> bool {
        let before = self.clone();
        let mut entries = Vec::with_capacity(self.len() + changes.size_hint().0);
        let mut unmerged = before.entries().filter(|(name, _)| keeps(name)).peekable();
        for (name, value) in changes {
            while let Some(unchanged) = unmerged.next_if(|(have, _)| *have < name) {
                entries.push(unchanged);
            }
            unmerged.next_if(|(have, _)| *have == name);
            entries.extend(value.map(|value| (name, value)));
        }
        entries.extend(unmerged);
        let changed = !entries.iter().copied().eq(before.entries());
        if changed {
            *self = Data::from_sorted(&entries);
        }
        changed
    }

    /// Decodes a JSON object. If a name occurs twice, the last value counts.
    ///
    /// # Errors
    /// [`ErrorKind::Undecodable`] for any other text.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let data = deserializer.deserialize_map(ObjectVisitor);
        let data = data.and_then(|data| deserializer.end().map(|()| data));
        data.map_err(|source| undecodable(describe_json_error(&source)))
    }

    /// Returns the data as a JSON object, with its names sorted and its values as they were
    /// written.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.as_ref().map_or("{}", |object| &object.json)
    }

    /// Returns the size that counts towards the limit of a session, in bytes: the length of
    /// [`as_json`](Self::as_json) without the CSRF secret, and without flash messages, which have a
    /// [separate limit](crate::Flash).
    #[must_use]
    pub fn json_len(&self) -> usize {
        let own = self.entries().filter(|(name, _)| [FLASHES, CSRF_SECRET].contains(name));
        let own = own.map(|(name, value)| "\"\":,".len() + name.len() + value.len());
        // Without other names there is one comma less.
        (self.as_json().len() - own.sum::<usize>()).max("{}".len())
    }

    /// Returns the size in memory, in bytes, for caches with a bound on their memory. Clones share
    /// that memory.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let Some(object) = &self.0 else { return 0 };
        let names: usize = object.names.iter().map(|(name, _)| name.len()).sum();
        size_of::<JsonObject>() + object.json.len() + names + size_of_val(&*object.names)
    }
}

/// Describes a JSON error by its kind and position, without the data, because errors are logged.
pub(crate) fn describe_json_error(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "the JSON has another structure",
        _ => "the text is not JSON",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

pub(crate) fn undecodable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::with_source(ErrorKind::Undecodable, "decode a stored session", source)
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of session values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let mut entries: Vec<(Cow<'de, str>, &'de str)> = Vec::with_capacity(8);
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &RawValue>()? {
            entries.push((name, value.get()));
        }
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            // The sort is stable, so of equal names the one that was read last stays.
            entries.reverse();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            entries.dedup_by(|(a, _), (b, _)| a == b);
        }
        let entries: Vec<(&str, &str)> =
            entries.iter().map(|(name, json)| (&**name, *json)).collect();
        Ok(Data::from_sorted(&entries))
    }
}

/// A name, borrowed if it has no escapes.
#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Generates similar names, some with escapes.
    fn entries() -> impl Strategy<Value = BTreeMap<String, String>> {
        let value = (0..70_000_usize).prop_map(|len| format!("\"{}\"", "x".repeat(len % 1000)));
        prop::collection::btree_map("[ab\"\\\\\n\u{0}ü]{0,3}", value, 0..6)
    }

    proptest! {
        #[test]
        fn data_returns_its_entries_and_their_json(entries in entries(), other in "[ab]{0,3}") {
            let all: Vec<_> = entries.iter().map(|(name, value)| (&**name, &**value)).collect();
            let data = Data::from_sorted(&all);
            prop_assert_eq!(data.len(), entries.len());
            prop_assert!(data.entries().eq(all.iter().copied()));
            for name in entries.keys().chain([&other]) {
                let found = data.get(name);
                prop_assert_eq!(
                    found.as_ref().map(Value::as_json),
                    entries.get(name).map(String::as_str)
                );
            }
            prop_assert_eq!(Data::from_json(data.as_json()).unwrap(), data.clone());
            let read: BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(data.as_json()).unwrap();
            prop_assert!(read.iter().map(|(name, value)| (name, value.get()))
                .eq(entries.iter().map(|(name, value)| (name, &**value))));
        }
    }

    #[test]
    fn json_len_is_the_length_of_as_json() {
        let mut data = Data::default();
        assert_eq!(data.as_json(), "{}");
        assert_eq!(data.json_len(), 2);
        for name in ["", "plain", "a \"b\" \\ c", "\u{1}\n", "ünïcode"] {
            let value = Value::encode(name).unwrap();
            assert!(data.change(|_| true, [(name, Some(value.as_json()))].into_iter()));
            assert_eq!(data.json_len(), data.as_json().len());
            assert_eq!(Data::from_json(data.as_json()).unwrap(), data);
        }
    }

    #[test]
    fn only_the_csrf_secret_is_masked_for_operators() {
        let data = |csrf| {
            let text =
                format!("{{\"a\":\"text\",\"cloakroom.csrf\":\"{csrf}\",\"cloakroom.flash\":[1]}}");
            Data::from_json(&text).unwrap()
        };
        let secret = data("c2VjcmV0");
        assert!(secret.get(CSRF_SECRET).is_some());
        assert_eq!(secret.to_masked_json(), data("(masked)").as_json());
        let without = Data::from_json("{\"csrf\":\"c2VjcmV0\"}").unwrap();
        assert_eq!(without.to_masked_json(), without.as_json());
        assert_eq!(Data::default().to_masked_json(), "{}");
    }

    #[test]
    fn json_len_does_not_count_flash_messages_and_secret() {
        let length = |text| Data::from_json(text).unwrap().json_len();
        assert_eq!(length("{\"cloakroom.flash\":[1,2]}"), "{}".len());
        assert_eq!(length("{\"cloakroom.csrf\":\"x\"}"), "{}".len());
        assert_eq!(length("{\"cloakroom.csrf\":\"x\",\"cloakroom.flash\":[1,2]}"), "{}".len());
        let with_others = "{\"a\":1,\"cloakroom.csrf\":\"x\",\"cloakroom.flash\":[],\"d\":2}";
        assert_eq!(length(with_others), "{\"a\":1,\"d\":2}".len());
        assert_eq!(length("{\"a\":1,\"cloakroom.flash\":[1,2]}"), "{\"a\":1}".len());
        assert_eq!(length("{\"a\":1,\"cloakroom.flash\":[],\"d\":2}"), "{\"a\":1,\"d\":2}".len());
    }

    #[test]
    fn the_last_value_of_a_repeated_name_counts() {
        let data = Data::from_json("{\"b\": 1, \"a\": 2, \"b\": 3}").unwrap();
        assert_eq!(data.as_json(), "{\"a\":2,\"b\":3}");
    }

    #[test]
    fn a_value_of_another_type_is_an_error() {
        let value = Value::encode("text").unwrap();
        assert_eq!(value.decode::<u32>().unwrap_err().kind(), ErrorKind::WrongType);
        assert!(!format!("{:?}", value.decode::<u32>().unwrap_err()).contains("text"));
        assert_eq!(value.decode::<String>().unwrap(), "text");
        let map = std::collections::BTreeMap::from([(vec![1], 1)]);
        assert_eq!(Value::encode(&map).unwrap_err().kind(), ErrorKind::WrongType);
    }

    #[test]
    fn text_that_is_no_json_object_is_undecodable() {
        for bad in ["", "[]", "{\"a\":1", "{\"a\":}", "{a:1}", "1", "{} x"] {
            assert_eq!(Data::from_json(bad).unwrap_err().kind(), ErrorKind::Undecodable, "{bad}");
        }
    }
}
