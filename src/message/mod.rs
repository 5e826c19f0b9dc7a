//! What sessions read of a request and what they add to a response.
//!
//! Types of no framework and of no manager. The public module `http` shows them to the authors of
//! adapters.

mod few;
mod host;
mod outcome;
mod request_head;
mod response;
mod response_headers;

pub(crate) use few::Few;
pub(crate) use host::{is_loopback, is_webkit};
pub use outcome::Outcome;
pub(crate) use request_head::MAX_PROXIES;
pub use request_head::RequestHead;
pub use response::Response;
pub use response_headers::ResponseHeaders;
