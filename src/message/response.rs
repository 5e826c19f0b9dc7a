//! The response of a web framework.

/// A response of a web framework, with the operations that sessions need.
///
/// An adapter outside the framework's crate implements this for a type that contains the
/// framework's response.
pub trait Response {
    /// Returns the status code.
    fn status_code(&self) -> u16;

    /// Appends a header field, and keeps those of the same name.
    fn append_header(&mut self, name: &str, value: &str);

    /// Calls `merge` with the values of the header fields of this name, in order. Replaces these
    /// fields by one with the result, or keeps them if the result is `None`. Names are
    /// case-insensitive.
    ///
    /// The default appends a field, as if there were none of this name. It is for servers whose
    /// responses allow no other change: recipients combine fields of one name.
    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        if let Some(value) = merge(&[]) {
            self.append_header(name, &value);
        }
    }
}
