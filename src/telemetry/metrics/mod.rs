//! What workers count of requests, without a lock and without a label built on the way.
//!
//! - [`traffic`]: the series of each route, by worker;
//! - [`histogram`]: durations, in classic and native buckets;
//! - [`exposition`]: what a scrape gets.

pub mod callers;
pub mod exposition;
pub mod histogram;
pub mod pool_members;
pub mod traffic;
