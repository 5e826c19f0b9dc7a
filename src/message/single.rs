//! The value of a header field of which a request may have only one.

/// The value of a header field of which a request may have only one. A request with several is
/// refused: a proxy may read another of them than this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Single<'r> {
    #[default]
    Absent,
    Once(&'r str),
    Repeated,
}

impl<'r> Single<'r> {
    /// Adds a field, without the whitespace around its value.
    pub(crate) fn with(self, value: &'r str) -> Self {
        match self {
            Single::Absent => Single::Once(value.trim_matches([' ', '\t'])),
            Single::Once(_) | Single::Repeated => Single::Repeated,
        }
    }

    /// Returns the value, if there is exactly one.
    pub(crate) fn once(self) -> Option<&'r str> {
        match self {
            Single::Once(value) => Some(value),
            Single::Absent | Single::Repeated => None,
        }
    }
}
