//! Bounds shared by all workers: counted slots, and admission of new connections.

pub mod admission;
pub mod budget;
pub mod slots;
