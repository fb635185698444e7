//! `[pools.NAME]`: several credentials of one API that are used as one.

use std::sync::Arc;

use super::credential::Credential;

/// Several credentials that are used as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The name.
    pub name: String,
    /// The credentials: two or more.
    pub credentials: Vec<Arc<Credential>>,
}
