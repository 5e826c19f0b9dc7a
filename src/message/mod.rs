//! The parts of a request that sessions read, and the headers that they add to a response.
//!
//! These types do not depend on a framework or on the manager. The public module `adapter`
//! re-exports them for authors of adapters.

mod host;
mod outcome;
mod request_head;
mod response;
mod response_headers;
mod single;
mod small_list;

pub(crate) use host::{is_loopback, is_webkit};
pub use outcome::Outcome;
pub(crate) use request_head::MAX_PROXIES;
pub use request_head::RequestHead;
pub use response::Response;
pub use response_headers::{ResponseHeaders, SharedCaching};
pub(crate) use single::Single;
pub(crate) use small_list::SmallList;
