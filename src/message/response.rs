//! The response of a web framework.

/// A response of a web framework, as far as sessions read and change it.
///
/// Where the framework's type belongs to another crate than the adapter, implement this for a type
/// that contains it.
pub trait Response {
    /// The status code.
    fn status_code(&self) -> u16;

    /// Appends a header field, beside those of the same name.
    fn append_header(&mut self, name: &str, value: &str);

    /// Replaces the header fields of this name by one with the value that `merge` makes of theirs,
    /// in order; leaves them where that is `None`. Names are compared without regard to case.
    ///
    /// The default appends a field, as if there were none of this name: for servers whose responses
    /// cannot be changed otherwise. Recipients combine the two.
    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        if let Some(value) = merge(&[]) {
            self.append_header(name, &value);
        }
    }
}
