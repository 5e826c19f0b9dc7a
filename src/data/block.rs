//! The storage of [`Data`](super::Data): names and values in one allocation. Uses `json` for
//! escapes.

use std::sync::Arc;

use super::json;

/// Values by name, ordered by name, together with the JSON object that they form.
///
/// One allocation instead of several saves cache misses: a session that is one of many is not in
/// the processor's caches, and each further memory access costs about as much as hashing its id.
/// The layout is:
///
/// - one byte: the width of the numbers in bytes;
/// - the number of names, and the length of the JSON;
/// - for each name, four offsets: the start and end of the name, the start and end of its value;
/// - the JSON object;
/// - the unescaped text of those names that have escapes in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Block(Arc<[u8]>);

/// A name and its value, both UTF-8.
pub(super) type Entry<'e> = (&'e [u8], &'e [u8]);

/// The count of numbers before those of the names.
const HEADER_NUMBERS: usize = 2;
/// The count of numbers for each name.
const NUMBERS_PER_NAME: usize = 4;

/// The width of a number in bytes. Most blocks are small, so short numbers save memory.
#[derive(Clone, Copy)]
enum Width {
    Short = 2,
    Long = 8,
}

impl Block {
    /// Makes a block of names with their values, which are JSON. The names are sorted.
    pub(super) fn of<'e>(entries: impl Iterator<Item = Entry<'e>> + Clone) -> Self {
        let (mut names, mut json_len, mut escaped_len) = (0, "{}".len(), 0);
        for (name, value) in entries.clone() {
            let escapes = json::escapes(name);
            json_len += name.len() + escapes + value.len() + "\"\":,".len();
            escaped_len += if escapes > 0 { name.len() } else { 0 };
            names += 1;
        }
        if names == 0 {
            return Block::default();
        }
        // No comma follows the last entry.
        json_len -= ",".len();
        // If no name has escapes, the names are not searched again.
        let escapes = |name: &[u8]| if escaped_len > 0 { json::escapes(name) } else { 0 };
        let text_len = json_len + escaped_len;
        let width = if u16::try_from(text_len).is_ok() { Width::Short } else { Width::Long };
        let header_len = header_len(width, names);

        let mut bytes = Vec::with_capacity(header_len + text_len);
        bytes.push(width as u8);
        let mut push = |number: usize| match width {
            // A block with a larger number has long numbers.
            Width::Short => {
                bytes.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
            }
            Width::Long => bytes.extend_from_slice(&(number as u64).to_le_bytes()),
        };
        push(names);
        push(json_len);
        let (mut at, mut escaped_at) = ("{".len(), json_len);
        for (name, value) in entries.clone() {
            at += "\"".len();
            let escapes = escapes(name);
            let name_at = if escapes > 0 { escaped_at } else { at };
            escaped_at += if escapes > 0 { name.len() } else { 0 };
            let value_at = at + name.len() + escapes + "\":".len();
            at = value_at + value.len();
            [name_at, name_at + name.len(), value_at, at].into_iter().for_each(&mut push);
            at += ",".len();
        }
        bytes.push(b'{');
        for (index, (name, value)) in entries.clone().enumerate() {
            bytes.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
            match escapes(name) {
                0 => bytes.extend_from_slice(name),
                _ => json::push_escaped(&mut bytes, name),
            }
            bytes.extend_from_slice(b"\":");
            bytes.extend_from_slice(value);
        }
        bytes.push(b'}');
        if escaped_len > 0 {
            let escaped = entries.map(|(name, _)| name).filter(|name| escapes(name) > 0);
            escaped.for_each(|name| bytes.extend_from_slice(name));
        }
        Block(bytes.into())
    }

    /// Returns the JSON object.
    pub(super) fn json(&self) -> &str {
        match self.len() {
            0 => "{}",
            _ => text(self.slice(0, self.json_len())),
        }
    }

    pub(super) fn json_len(&self) -> usize {
        match self.len() {
            0 => "{}".len(),
            _ => self.number(1),
        }
    }

    /// Returns the size in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of names.
    pub(super) fn len(&self) -> usize {
        self.number(0)
    }

    /// Returns the value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let [start, end, value, value_end] = self.offsets(middle);
            // In UTF-8 the order of the bytes is the order of the characters.
            match self.slice(start, end).cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(text(self.slice(value, value_end))),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Iterates over names and values, ordered by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().map(|(name, value)| (text(name), text(value)))
    }

    /// Iterates over names and values as bytes, which skips the validation as UTF-8.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.len()).map(|index| {
            let [name, name_end, value, value_end] = self.offsets(index);
            (self.slice(name, name_end), self.slice(value, value_end))
        })
    }

    fn width(&self) -> Width {
        match self.0.first() {
            Some(&width) if width == Width::Long as u8 => Width::Long,
            _ => Width::Short,
        }
    }

    /// Returns the number at `index`; 0 in an empty block.
    fn number(&self, index: usize) -> usize {
        let width = self.width();
        let number = self.0.get(1 + index * width as usize..).unwrap_or_default();
        match width {
            Width::Short => {
                number.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes).into())
            }
            // The number was written from a `usize`.
            Width::Long => {
                number.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize)
            }
        }
    }

    /// Returns the offsets of the name at `index` and of its value.
    fn offsets(&self, index: usize) -> [usize; NUMBERS_PER_NAME] {
        std::array::from_fn(|part| self.number(HEADER_NUMBERS + index * NUMBERS_PER_NAME + part))
    }

    fn slice(&self, start: usize, end: usize) -> &[u8] {
        let header_len = header_len(self.width(), self.len());
        self.0.get(header_len + start..header_len + end).unwrap_or_default()
    }
}

/// Returns the size of the part before the text, in bytes.
fn header_len(width: Width, names: usize) -> usize {
    1 + (HEADER_NUMBERS + names * NUMBERS_PER_NAME) * width as usize
}

/// Returns bytes as text, which they were when they were written.
fn text(slice: &[u8]) -> &str {
    std::str::from_utf8(slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// Similar names, some with escapes, and values of which a few require long numbers.
    fn entries() -> impl Strategy<Value = BTreeMap<String, String>> {
        let name = "[ab\"\\\\\n\u{0}ü]{0,3}";
        let value = prop_oneof![
            9 => (0..1000_u32).prop_map(|n| n.to_string()),
            1 => (0..70_000_usize).prop_map(|len| format!("\"{}\"", "x".repeat(len))),
        ];
        prop::collection::btree_map(name, value, 0..6)
    }

    proptest! {
        #[test]
        fn a_block_returns_its_entries_and_their_json(entries in entries(), other in "[ab]{0,3}") {
            let all = entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let block = Block::of(all);
            prop_assert_eq!(block.len(), entries.len());
            prop_assert!(block.iter().eq(entries.iter().map(|(name, value)| (&**name, &**value))));
            for name in entries.keys().chain([&other]) {
                prop_assert_eq!(block.get(name), entries.get(name).map(|value| &**value));
            }
            prop_assert_eq!(block.json().len(), block.json_len());
            let read: BTreeMap<String, Box<RawValue>> = serde_json::from_str(block.json()).unwrap();
            prop_assert!(read.iter().map(|(name, value)| (name, value.get()))
                .eq(entries.iter().map(|(name, value)| (name, &**value))));
        }
    }

    #[test]
    fn numbers_are_long_when_the_text_exceeds_16_bits() {
        // {"a":…} and two quotes are eight bytes.
        for (len, width) in [(65_527, 2), (65_528, 8), (65_529, 8)] {
            let value = format!("\"{}\"", "x".repeat(len));
            let block = Block::of([(b"a".as_slice(), value.as_bytes())].into_iter());
            assert_eq!(block.0[0], width);
            assert_eq!(block.get("a"), Some(&*value));
        }
    }
}
