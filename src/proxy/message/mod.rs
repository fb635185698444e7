//! Header fields on their way through the proxy, in both directions.

pub mod challenge;
pub mod field_rules;
#[cfg(test)]
mod fixture;
pub mod forwarded;
pub mod framing;
pub mod headers;
pub mod list;
pub mod location;
pub mod loops;
pub mod trailers;
pub mod via;
