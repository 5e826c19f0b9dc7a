//! The response of a web framework.

/// A response of a web framework, as far as sessions read and change it.
///
/// An adapter outside the framework's crate implements this for a type that contains the
/// framework's response.
pub trait Response {
    /// Returns the status code.
    fn status_code(&self) -> u16;

    /// Appends a header field, and keeps those of the same name.
    fn append_header(&mut self, name: &str, value: &str);

    /// Calls `merge` with the values of the header fields of this name, in order, and replaces the
    /// fields by one with the result; keeps them if that is `None`. Names are case-insensitive.
    ///
    /// The default appends a field, as if there were none of this name. It is for servers whose
    /// responses allow no other change; recipients combine the fields.
    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        if let Some(value) = merge(&[]) {
            self.append_header(name, &value);
        }
    }
}
