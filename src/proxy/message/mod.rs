//! HTTP header fields on their way through the proxy, in both directions.

pub mod challenge;
pub mod forwarded;
pub mod headers;
pub mod location;
pub mod trailers;
pub mod via;
