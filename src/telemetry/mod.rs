//! Reports to the operator: events and their readers, the log, and the history of each credential.

pub mod access;
pub mod audit;
pub mod event;
pub mod events;
pub mod files;
pub mod history;
mod json;
mod lines;
pub mod log;
pub mod metrics;
mod queue;
pub mod record;
pub mod refused;
pub mod spans;
pub mod throttle;
pub mod time;
pub mod trail;

pub use event::Event;
pub use events::{Events, Sink};
