//! Authorization of requests: the token that a request carries, and the consequences of its rejection.

pub mod authorize;
pub mod rejection_hold;
pub mod verdict;
