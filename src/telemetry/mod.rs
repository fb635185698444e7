//! What an operator sees of the daemon's work.

pub mod audit;
pub mod log;
pub mod throttle;
