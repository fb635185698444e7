//! The requests that an API allows, shared out among the callers of one credential.
//!
//! Each budget has one [`ledger`], which a task of the main runtime owns ([`budget`]). Workers ask that task for permits by
//! messages ([`allowance`]) and never lock. [`learn`] reads what the API itself says about its limit.

pub mod allowance;
pub mod batch;
pub mod budget;
pub mod learn;
pub mod ledger;
pub mod line;
pub mod window;
