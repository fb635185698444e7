//! The documentation holds what it says: links, commands, configurations, codes and messages.

mod commands;
mod configurations;
mod fields;
mod layout;
pub(crate) mod markdown;
mod messages;
mod reference;
mod security;
