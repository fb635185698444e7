//! Which token a request carries, and what a 401 from the upstream means for it.

pub mod authorize;
pub mod rejection_hold;
