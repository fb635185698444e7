//! The configuration as text: `proxy.toml` and the environment, read with the place of every value.

pub(in crate::config) mod choice;
pub(in crate::config) mod claim;
pub mod diagnostics;
pub(in crate::config) mod document;
pub mod file;
pub(in crate::config) mod format;
pub mod json_schema;
pub(in crate::config) mod key;
pub(in crate::config) mod mask;
pub(in crate::config) mod nearest;
pub(in crate::config) mod overrides;
pub(in crate::config) mod print;
pub mod problem;
pub(in crate::config) mod reader;
pub(in crate::config) mod schema;
pub(in crate::config) mod secret_source;
pub mod section;
pub(in crate::config) mod shape;
pub mod shipped;
pub(in crate::config) mod synonyms;
pub mod units;
