//! The JSON encoder of values. It refuses what could not be decoded again: floats that JSON cannot
//! represent, and values nested deeper than the decoder reads.
//!
//! Wraps the serializer of `serde_json`.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::Error as _;
use serde_json::ser::Formatter;

use crate::data::finite::Finite;

/// The maximum nesting of arrays and objects, which is the limit of the decoder of `serde_json`.
const MAX_DEPTH: usize = 127;

/// Returns the JSON text of `value`.
pub(super) fn encode(value: &(impl Serialize + ?Sized)) -> serde_json::Result<String> {
    let mut text = Vec::with_capacity(64);
    Finite(value)
        .serialize(&mut serde_json::Serializer::with_formatter(&mut text, DepthLimit(0)))?;
    String::from_utf8(text).map_err(serde_json::Error::custom)
}

/// A formatter that fails at more than [`MAX_DEPTH`] open levels, which it counts.
struct DepthLimit(usize);

impl DepthLimit {
    fn open(&mut self) -> io::Result<()> {
        self.0 += 1;
        if self.0 > MAX_DEPTH {
            return Err(io::Error::other(format!("it is nested more than {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn close(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

impl Formatter for DepthLimit {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open()?;
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close();
        writer.write_all(b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open()?;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close();
        writer.write_all(b"}")
    }

    /// Counts the levels of JSON that the application supplies as a `RawValue`.
    fn write_raw_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut in_string = false;
        let mut escaped = false;
        for byte in fragment.bytes() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = !in_string,
                b'[' | b'{' if !in_string => self.open()?,
                b']' | b'}' if !in_string => self.close(),
                _ => {}
            }
        }
        writer.write_all(fragment.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A value of every form in the data model of serde, with a float as its last part.
    #[derive(Serialize)]
    enum Form {
        Unit,
        New(f64),
        Tuple(u8, f64),
        Struct { a: u8, b: f32 },
    }

    #[derive(Serialize)]
    struct UnitStruct;

    #[derive(Serialize)]
    struct New(f64);

    #[derive(Serialize)]
    struct Tuple(char, f64);

    fn assert_same_as_serde_json(value: &impl Serialize) {
        assert_eq!(encode(value).unwrap(), serde_json::to_string(value).unwrap());
    }

    #[test]
    fn decodable_values_are_encoded_as_by_serde_json() {
        assert_same_as_serde_json(&(1_u8, -2_i8, 3_u16, -4_i16, 5_u32, -6_i32, u64::MAX, i64::MIN));
        assert_same_as_serde_json(&(u128::MAX, i128::MIN, 1.5_f32, -0.0_f64, true, 'ß', "\"\n\0"));
        assert_same_as_serde_json(&(Form::Unit, Form::New(1.0), Form::Tuple(1, 2.0)));
        assert_same_as_serde_json(&(
            UnitStruct,
            New(1.0),
            Tuple('a', 2.0),
            (),
            None::<u8>,
            Some(1),
        ));
        assert_same_as_serde_json(&Form::Struct { a: 1, b: 0.1 });
        assert_same_as_serde_json(&BTreeMap::from([(1, vec![1.0]), (2, vec![])]));
        assert_same_as_serde_json(&BTreeMap::from([("k", serde_json::json!({ "a": [1.5] }))]));
        assert_same_as_serde_json(&std::net::Ipv4Addr::LOCALHOST);
        assert_same_as_serde_json(&serde_json::value::RawValue::NULL);
        assert!(encode(&BTreeMap::from([(vec![1], 1)])).is_err());
    }

    #[test]
    fn floats_that_are_not_finite_are_refused_at_any_position() {
        let nan = f64::NAN;
        assert!(encode(&f32::INFINITY).is_err());
        assert!(encode(&[nan]).is_err());
        assert!(encode(&vec![nan]).is_err());
        assert!(encode(&Some(nan)).is_err());
        assert!(encode(&(1, nan)).is_err());
        assert!(encode(&New(nan)).is_err());
        assert!(encode(&Tuple('a', nan)).is_err());
        assert!(encode(&Form::New(nan)).is_err());
        assert!(encode(&Form::Tuple(1, nan)).is_err());
        assert!(encode(&Form::Struct { a: 1, b: f32::NAN }).is_err());
        assert!(encode(&BTreeMap::from([("k", nan)])).is_err());
        let error = encode(&f64::NEG_INFINITY).unwrap_err();
        assert_eq!(error.to_string(), "JSON has no number for -inf");
    }
}
