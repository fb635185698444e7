//! Reports to the operator: the log and the audit trail.

pub mod audit;
pub mod log;
pub mod throttle;
