//! Bounds that all workers share: counted slots, and the admission of new connections.

pub mod admission;
pub mod slots;
