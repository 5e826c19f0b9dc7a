//! The data of a session: values by name, as JSON.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

/// A piece of text that others may have pieces of too: what is read from a store is copied once,
/// not once for each name and value.
#[derive(Clone)]
struct Text {
    all: Arc<str>,
    start: u32,
    /// [`TO_THE_END`] for all of the rest.
    len: u32,
}

const TO_THE_END: u32 = u32::MAX;

impl Text {
    /// The piece of `all` that `part` is; a copy if it is none.
    fn within(all: &Arc<str>, part: &str) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(all.as_ptr() as usize);
        match (u32::try_from(start), u32::try_from(part.len())) {
            (Ok(start), Ok(len)) if len != TO_THE_END => {
                let piece = Text { all: all.clone(), start, len };
                if piece.as_str() == part { piece } else { part.into() }
            }
            _ => part.into(),
        }
    }

    fn as_str(&self) -> &str {
        let start = self.start as usize;
        let piece = match self.len {
            TO_THE_END => self.all.get(start..),
            len => self.all.get(start..start.saturating_add(len as usize)),
        };
        piece.unwrap_or_default()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text { all: text.into(), start: 0, len: TO_THE_END }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// One value of a session, as JSON text.
///
/// Equal means the same text: encoding the same value twice gives equal values for every type
/// that serializes in a fixed order.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Text);

impl Value {
    /// Encodes anything that serde can serialize. JSON has no number for NaN and the infinities:
    /// they become `null`. What is nested more than 127 deep encodes and does not decode again.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when JSON cannot express it, such as a map whose keys are not
    /// strings.
    pub fn encode(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        match serde_json::to_string(value) {
            Ok(text) => Ok(Value(text.as_str().into())),
            Err(source) => {
                Err(Error::with_source(ErrorKind::WrongType, "encode a session value", source))
            }
        }
    }

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
        self.0.as_str()
    }
}

impl fmt::Debug for Value {
    /// Shows the size only: session data does not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.as_json().len())
    }
}

/// The data of a session: values by name. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data(Arc<Vec<(Text, Value)>>);

impl Data {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.find(name).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(have, _)| have.as_str().cmp(name))
    }

    /// Sets `name`; false if it had that value already.
    pub(crate) fn set(&mut self, name: &str, value: &Value) -> bool {
        match self.find(name) {
            Ok(at) if self.0.get(at).is_some_and(|(_, have)| have == value) => return false,
            Ok(at) => {
                if let Some((_, have)) = Arc::make_mut(&mut self.0).get_mut(at) {
                    *have = value.clone();
                }
            }
            Err(at) => Arc::make_mut(&mut self.0).insert(at, (name.into(), value.clone())),
        }
        true
    }

    /// Removes `name`; false if there was none.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        match self.find(name) {
            Ok(at) => {
                Arc::make_mut(&mut self.0).remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Reads a JSON object. Of a name that comes twice, the last counts.
    ///
    /// # Errors
    /// [`ErrorKind::Undecodable`] for anything else.
    pub fn from_json(text: &str) -> Result<Self> {
        let all: Arc<str> = text.into();
        let mut deserializer = serde_json::Deserializer::from_str(&all);
        let data = Entries(&all).deserialize(&mut deserializer);
        let data = data.and_then(|data| deserializer.end().map(|()| data));
        data.map_err(|source| undecodable(without_data(&source)))
    }

    /// The data as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(self.json_len());
        json.push('{');
        for (index, (name, value)) in self.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            push_json_string(&mut json, name);
            json.push(':');
            json.push_str(value.as_json());
        }
        json.push('}');
        json
    }

    /// The length of [`to_json`](Self::to_json) in bytes: what the size limit counts.
    #[must_use]
    pub fn json_len(&self) -> usize {
        let entries: usize = self
            .iter()
            .map(|(name, value)| json_string_len(name) + value.as_json().len() + 2)
            .sum();
        // Every entry has a colon and a comma, but the last one has no comma; then the braces.
        2 + entries.saturating_sub(1)
    }
}

fn push_json_string(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if (c as u32) < 0x20 => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
}

fn json_string_len(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' => 1,
            byte if byte < 0x20 => 5,
            _ => 0,
        })
        .sum();
    text.len() + escapes + 2
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

/// Reads data from this text.
struct Entries<'t>(&'t Arc<str>);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of session values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let mut entries: Vec<(Text, Value)> = Vec::with_capacity(8);
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &RawValue>()? {
            let name = Text::within(self.0, &name);
            entries.push((name, Value(Text::within(self.0, value.get()))));
        }
        if !entries.is_sorted_by(|(a, _), (b, _)| a.as_str() < b.as_str()) {
            // The sort is stable, so the last of equal names is the last to have come.
            entries.reverse();
            entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
            entries.dedup_by(|(a, _), (b, _)| a == b);
        }
        // It may be kept for long.
        entries.shrink_to_fit();
        Ok(Data(Arc::new(entries)))
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
        assert_eq!(data.to_json(), "{}");
        assert_eq!(data.json_len(), 2);
        for name in ["", "plain", "a \"b\" \\ c", "\u{1}\n", "ünïcode"] {
            data.set(name, &Value::encode(name).unwrap());
            assert_eq!(data.json_len(), data.to_json().len());
            assert_eq!(Data::from_json(&data.to_json()).unwrap(), data);
        }
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_counts() {
        let data = Data::from_json("{\"b\": 1, \"a\": 2, \"b\": 3}").unwrap();
        assert_eq!(data.to_json(), "{\"a\":2,\"b\":3}");
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
