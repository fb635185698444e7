//! Header fields on their way through the proxy, in both directions.

pub mod challenge;
pub mod cookies;
pub mod field_rules;
#[cfg(test)]
mod fixture;
pub mod forwarded;
pub mod framing;
pub mod headers;
pub mod json;
pub mod json_links;
pub mod links;
pub mod list;
pub mod loops;
pub mod trailers;
pub mod via;
