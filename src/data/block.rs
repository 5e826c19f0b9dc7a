//! Names and their values in one block of memory.

use std::sync::Arc;

use super::json;

/// Texts by name, in the order of the names, and the JSON object that they are.
///
/// A session that is one of many is in none of the processor's caches, and each place in memory
/// that has to be fetched costs as much as hashing its key. So there is one: a byte that says how
/// wide its numbers are; how many names there are, and how long the JSON is; of each name where it
/// begins and ends and where its value does; the JSON; and those names once more that have escapes
/// in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Block(Arc<[u8]>);

/// A name and its value, which are UTF-8.
pub(super) type Entry<'e> = (&'e [u8], &'e [u8]);

/// How many numbers stand in front of those of the names.
const HEAD: usize = 2;
/// How many numbers each name has.
const PLACE: usize = 4;

/// How many bytes a number takes: few, for the block is mostly that of a small session.
#[derive(Clone, Copy)]
enum Width {
    Short = 2,
    Long = 8,
}

impl Block {
    /// The block of these names with their values, which are JSON; the names are sorted.
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
        // No comma follows the last one.
        json_len -= ",".len();
        // Where no name has any, none is looked at again.
        let escapes = |name: &[u8]| if escaped_len > 0 { json::escapes(name) } else { 0 };
        let text_len = json_len + escaped_len;
        let width = if u16::try_from(text_len).is_ok() { Width::Short } else { Width::Long };
        let front = front(width, names);

        let mut bytes = Vec::with_capacity(front + text_len);
        bytes.push(width as u8);
        let mut push = |number: usize| match width {
            // What is too large for a short one is in no block that has short ones.
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

    /// The JSON object.
    pub(super) fn json(&self) -> &str {
        match self.len() {
            0 => "{}",
            _ => text(self.piece(0, self.json_len())),
        }
    }

    pub(super) fn json_len(&self) -> usize {
        match self.len() {
            0 => "{}".len(),
            _ => self.number(1),
        }
    }

    /// What it takes in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.number(0)
    }

    /// The value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let [start, end, value, value_end] = self.place(middle);
            // In UTF-8 the order of the bytes is that of the characters.
            match self.piece(start, end).cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(text(self.piece(value, value_end))),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Names and values, in the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().map(|(name, value)| (text(name), text(value)))
    }

    /// The same as bytes, which need not be looked at to be known as text.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.len()).map(|index| {
            let [name, name_end, value, value_end] = self.place(index);
            (self.piece(name, name_end), self.piece(value, value_end))
        })
    }

    fn width(&self) -> Width {
        match self.0.first() {
            Some(&width) if width == Width::Long as u8 => Width::Long,
            _ => Width::Short,
        }
    }

    /// The number at this place among all; 0 in an empty block.
    fn number(&self, index: usize) -> usize {
        let width = self.width();
        let number = self.0.get(1 + index * width as usize..).unwrap_or_default();
        match width {
            Width::Short => {
                number.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes).into())
            }
            // It was a length in memory.
            Width::Long => {
                number.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize)
            }
        }
    }

    /// Where this name begins and ends in the text, and where its value does.
    fn place(&self, index: usize) -> [usize; PLACE] {
        std::array::from_fn(|part| self.number(HEAD + index * PLACE + part))
    }

    fn piece(&self, start: usize, end: usize) -> &[u8] {
        let front = front(self.width(), self.len());
        self.0.get(front + start..front + end).unwrap_or_default()
    }
}

/// How many bytes stand before the text.
fn front(width: Width, names: usize) -> usize {
    1 + (HEAD + names * PLACE) * width as usize
}

/// It was text when it was put there.
fn text(piece: &[u8]) -> &str {
    std::str::from_utf8(piece).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// Names that are alike, some with escapes; values of which a few make numbers long.
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
        fn a_block_has_what_was_put_into_it_and_is_that_json(entries in entries(), other in "[ab]{0,3}") {
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
    fn numbers_are_long_from_the_first_text_that_needs_it() {
        // {"a":…} and two quotes are eight bytes.
        for (len, width) in [(65_527, 2), (65_528, 8), (65_529, 8)] {
            let value = format!("\"{}\"", "x".repeat(len));
            let block = Block::of([(b"a".as_slice(), value.as_bytes())].into_iter());
            assert_eq!(block.0[0], width);
            assert_eq!(block.get("a"), Some(&*value));
        }
    }
}
