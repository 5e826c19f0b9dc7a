//! SQL statements that write.

/// A statement that writes. Only [`WriteTx`](super::WriteTx) can read its text, so nothing else
/// executes it.
#[derive(Debug)]
pub(crate) struct WriteStatement(pub(super) String);

impl WriteStatement {
    pub(crate) fn new(sql: String) -> Self {
        WriteStatement(sql)
    }
}
