//! The data of a session: values by name, as JSON.

mod block;
mod json;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use block::Block;

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
    /// Encodes anything that serde can serialize. JSON has no number for NaN and the infinities:
    /// they become `null`. What is nested more than 127 deep encodes and does not decode again.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when JSON cannot express it, such as a map whose keys are not
    /// strings.
    pub fn encode(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        match serde_json::to_string(value) {
            Ok(text) => Ok(Value(Text::Own(text.into()))),
            Err(source) => {
                Err(Error::with_source(ErrorKind::WrongType, "encode a session value", source))
            }
        }
    }
}

impl Value<'_> {
    /// Decodes the value as a `T`.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when it is not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.as_json()).map_err(|source| {
            let wanted = std::any::type_name::<T>();
            let why = format!("it is no {wanted}: {}", without_data(&source));
            Error::with_source(ErrorKind::WrongType, "decode a session value", why)
        })
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
        data.map_err(|source| undecodable(without_data(&source)))
    }

    /// The data as a JSON object: its names sorted, its values as they were written.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.json()
    }

    /// The length of [`as_json`](Self::as_json) in bytes: what the size limit counts.
    #[must_use]
    pub fn json_len(&self) -> usize {
        self.0.json_len()
    }

    /// How many bytes it takes in memory, for whoever keeps sessions up to some number of them.
    /// Clones share them.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.0.size()
    }
}

/// What went wrong, in words that quote nothing of the data: errors go into logs.
pub(crate) fn without_data(error: &serde_json::Error) -> String {
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
