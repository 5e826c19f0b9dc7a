//! Escapes of names in JSON strings. Called by [`block`](super::block) only.

/// Returns the number of bytes that escapes add to a name.
pub(super) fn escapes(name: &[u8]) -> usize {
    name.iter().map(|byte| escape_len(*byte)).sum()
}

/// Writes a name with escapes, without the quotes.
pub(super) fn push_escaped(json: &mut Vec<u8>, name: &[u8]) {
    for &byte in name {
        match escape_len(byte) {
            0 => json.push(byte),
            1 => json.extend_from_slice(&[b'\\', byte]),
            _ => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
}

/// Returns the number of bytes that the escape of `byte` adds.
fn escape_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 1,
        byte if byte < 0x20 => 5,
        _ => 0,
    }
}
