//! Writing JSON objects from names and values that are JSON already.

/// Writes the object of these names and values.
pub(super) fn push_object<'e>(
    json: &mut Vec<u8>,
    entries: impl Iterator<Item = (&'e str, &'e str)>,
) {
    json.push(b'{');
    for (index, (name, value)) in entries.enumerate() {
        if index > 0 {
            json.push(b',');
        }
        push_string(json, name);
        json.push(b':');
        json.extend_from_slice(value.as_bytes());
    }
    json.push(b'}');
}

/// How many bytes that writes.
pub(super) fn object_len<'e>(entries: impl Iterator<Item = (&'e str, &'e str)>) -> usize {
    let entries: usize = entries.map(|(name, value)| string_len(name) + value.len() + 2).sum();
    // Every entry has a colon and a comma, but the last one has no comma; then the braces.
    2 + entries.saturating_sub(1)
}

fn push_string(json: &mut Vec<u8>, text: &str) {
    json.push(b'"');
    if has_escapes(text) {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => json.extend_from_slice(&[b'\\', byte]),
                byte if byte < 0x20 => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                byte => json.push(byte),
            }
        }
    } else {
        json.extend_from_slice(text.as_bytes());
    }
    json.push(b'"');
}

pub(super) fn string_len(text: &str) -> usize {
    text.len() + 2 + text.bytes().map(escape_len).sum::<usize>()
}

/// Whether JSON writes this text with escapes.
pub(super) fn has_escapes(text: &str) -> bool {
    text.bytes().any(|byte| escape_len(byte) > 0)
}

/// By how many bytes the escape of this byte is longer.
fn escape_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 1,
        byte if byte < 0x20 => 5,
        _ => 0,
    }
}
