//! The data of a session: values by name, as JSON.

mod block;
mod encode;
mod json;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use block::Block;

/// The name of the flash messages, which have a limit of their own.
pub(crate) const FLASHES: &str = "cloakroom.flash";

/// One value of a session, as JSON text: its own, or a piece of the [`Data`] that it is in. Cloning
/// is cheap.
///
/// Equal means the same text: encoding the same value twice gives equal values for every type
/// that serializes in a fixed order.
#[derive(Clone)]
pub struct Value<'d>(Text<'d>);

#[derive(Clone)]
enum Text<'d> {
    Piece(&'d str),
    Own(Arc<str>),
}

impl Value<'static> {
    /// Encodes anything that serde can serialize.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] for what could not be read again: NaN and the infinities, which
    /// JSON has no numbers for (RFC 8259, section 6), maps whose keys are not strings, numbers or
    /// booleans, and arrays and objects nested more than 127 deep.
    pub fn encode(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        match encode::encode(value) {
            Ok(text) => Ok(Value(Text::Own(text.into()))),
            Err(source) => Err(Error::with_source(ErrorKind::WrongType, ENCODE, source)),
        }
    }

    /// The array of these values.
    pub(crate) fn list<'v>(values: impl IntoIterator<Item = &'v Value<'v>>) -> Self {
        let mut text = String::from("[");
        for (index, value) in values.into_iter().enumerate() {
            text.push_str(if index > 0 { "," } else { "" });
            text.push_str(value.as_json());
        }
        text.push(']');
        Value(Text::Own(text.into()))
    }

    /// The same for the value of `name`, which an error says.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(crate) fn encode_named(name: &str, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        match encode::encode(value) {
            Ok(text) => Ok(Value(Text::Own(text.into()))),
            Err(source) => Err(wrong_type(ENCODE, name, &source)),
        }
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
    /// [`ErrorKind::WrongType`] when it is not a `T`. The error quotes nothing of the value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let why = |source| self.mismatch::<T>(&source);
        serde_json::from_str(self.as_json())
            .map_err(|source| Error::with_source(ErrorKind::WrongType, DECODE, why(source)))
    }

    /// The same for the value of `name`, which an error says.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(crate) fn decode_named<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(self.as_json())
            .map_err(|source| wrong_type(DECODE, name, &self.mismatch::<T>(&source)))
    }

    /// The values of which this one, the value of `name`, is the array; none for a null.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] for anything else.
    pub(crate) fn items(&self, name: &str) -> Result<Vec<Value<'_>>> {
        let items: Option<Vec<&RawValue>> =
            serde_json::from_str(self.as_json()).map_err(|source| {
                wrong_type(DECODE, name, &self.mismatch::<Vec<Value<'_>>>(&source))
            })?;
        let items = items.unwrap_or_default().into_iter();
        Ok(items.map(|item| Value(Text::Piece(item.get()))).collect())
    }

    /// The type wanted and the type found, without the value: errors go into logs.
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
        let (line, column) = (error.line(), error.column());
        match line > 1 || column > 1 {
            // What is wrong with an array or an object stands somewhere inside of it.
            true if matches!(found, "an array" | "an object") => {
                format!(
                    "expected {wanted}, found {found} that differs at line {line} column {column}"
                )
            }
            _ => format!("expected {wanted}, found {found}"),
        }
    }

    /// Whether it is JSON's `null`.
    pub(crate) fn is_null(&self) -> bool {
        self.as_json() == "null"
    }

    /// The JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        match &self.0 {
            Text::Piece(text) => text,
            Text::Own(text) => text,
        }
    }

    /// The same value with a text of its own, as [`Delta::set`](crate::delta::Delta::set) takes it.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        Value(Text::Own(match self.0 {
            Text::Piece(text) => text.into(),
            Text::Own(text) => text,
        }))
    }

    /// The same value, borrowed from this one.
    pub(crate) fn borrowed(&self) -> Value<'_> {
        Value(Text::Piece(self.as_json()))
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Value<'_> {}

impl fmt::Debug for Value<'_> {
    /// Shows the size only: session data does not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.as_json().len())
    }
}

/// The data of a session: values by name. Cloning is cheap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(Block);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Data {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        self.0.get(name).map(|value| Value(Text::Piece(value)))
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.0.iter().map(|(name, value)| (name, Value(Text::Piece(value))))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the names that come with a value and removes those that come with none, in the order
    /// of the names; with `clear` all others are removed. False if the data is as it was.
    pub(crate) fn change<'c>(
        &mut self,
        clear: bool,
        changes: impl Iterator<Item = (&'c str, Option<&'c str>)>,
    ) -> bool {
        let mut entries = Vec::with_capacity(self.len() + changes.size_hint().0);
        let mut had = self.0.entries().peekable();
        for (name, value) in changes {
            let name = name.as_bytes();
            while let Some(other) = had.next_if(|(have, _)| *have < name) {
                entries.extend((!clear).then_some(other));
            }
            had.next_if(|(have, _)| *have == name);
            entries.extend(value.map(|value| (name, value.as_bytes())));
        }
        entries.extend(had.filter(|_| !clear));
        let changed = !entries.iter().copied().eq(self.0.entries());
        if changed {
            self.0 = Block::of(entries.iter().copied());
        }
        changed
    }

    /// Reads a JSON object. Of a name that comes twice, the last counts.
    ///
    /// # Errors
    /// [`ErrorKind::Undecodable`] for anything else.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let data = Entries.deserialize(&mut deserializer);
        let data = data.and_then(|data| deserializer.end().map(|()| data));
        data.map_err(|source| undecodable(error_position(&source)))
    }

    /// The data as a JSON object: its names sorted, its values as they were written.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.json()
    }

    /// What the size limit counts, in bytes: the length of [`as_json`](Self::as_json) without flash
    /// messages, which have a [limit of their own](crate::Flash).
    #[must_use]
    pub fn json_len(&self) -> usize {
        let flashes = match self.0.get(FLASHES) {
            Some(value) if self.len() == 1 => "\"\":".len() + FLASHES.len() + value.len(),
            Some(value) => "\"\":,".len() + FLASHES.len() + value.len(),
            None => 0,
        };
        self.0.json_len() - flashes
    }

    /// How many bytes it takes in memory, for whoever keeps sessions up to some number of them.
    /// Clones share them.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.0.size()
    }
}

/// What went wrong, in words that quote nothing of the data: errors go into logs.
pub(crate) fn error_position(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "the JSON is of another shape",
        _ => "the text is no JSON",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

pub(crate) fn undecodable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::with_source(ErrorKind::Undecodable, "decode a stored session", source)
}

struct Entries;

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries {
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
            // The sort is stable, so the last of equal names is the last to have come.
            entries.reverse();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            entries.dedup_by(|(a, _), (b, _)| a == b);
        }
        let entries = entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Ok(Data(Block::of(entries)))
    }
}

/// A name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counted_length_is_the_written_length() {
        let mut data = Data::default();
        assert_eq!(data.as_json(), "{}");
        assert_eq!(data.json_len(), 2);
        for name in ["", "plain", "a \"b\" \\ c", "\u{1}\n", "ünïcode"] {
            let value = Value::encode(name).unwrap();
            assert!(data.change(false, [(name, Some(value.as_json()))].into_iter()));
            assert_eq!(data.json_len(), data.as_json().len());
            assert_eq!(Data::from_json(data.as_json()).unwrap(), data);
        }
    }

    #[test]
    fn flash_messages_are_not_counted() {
        let length = |text| Data::from_json(text).unwrap().json_len();
        assert_eq!(length("{\"cloakroom.flash\":[1,2]}"), "{}".len());
        assert_eq!(length("{\"a\":1,\"cloakroom.flash\":[1,2]}"), "{\"a\":1}".len());
        assert_eq!(length("{\"a\":1,\"cloakroom.flash\":[],\"d\":2}"), "{\"a\":1,\"d\":2}".len());
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_counts() {
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
    fn what_is_not_a_json_object_is_undecodable() {
        for bad in ["", "[]", "{\"a\":1", "{\"a\":}", "{a:1}", "1", "{} x"] {
            assert_eq!(Data::from_json(bad).unwrap_err().kind(), ErrorKind::Undecodable, "{bad}");
        }
    }
}
