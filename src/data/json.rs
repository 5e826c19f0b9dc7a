//! Names in JSON.

/// By how many bytes the name is longer in JSON, the quotes not counted.
pub(super) fn escapes(name: &[u8]) -> usize {
    name.iter().map(|byte| escape_len(*byte)).sum()
}

/// Writes what stands between the quotes.
pub(super) fn push_escaped(json: &mut Vec<u8>, name: &[u8]) {
    for &byte in name {
        match escape_len(byte) {
            0 => json.push(byte),
            1 => json.extend_from_slice(&[b'\\', byte]),
            _ => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
}

/// By how many bytes the escape of this byte is longer than the byte.
fn escape_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 1,
        byte if byte < 0x20 => 5,
        _ => 0,
    }
}
