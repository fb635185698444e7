//! The configuration as text: `proxy.toml` and the environment, read with the place of every value.

pub mod diagnostics;
pub(in crate::config) mod document;
pub(in crate::config) mod mask;
pub(in crate::config) mod messages;
pub(in crate::config) mod overrides;
pub mod schema;
pub mod section;
pub mod units;
